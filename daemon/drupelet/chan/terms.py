"""Erlang terms in a file, as far as lib_chan's conf has them: text in, values with lines out.

Decides what is a term: atoms (also 'quoted'), "strings", integers, {tuples} and [lists]. A term may
go over several lines, the dot after it may be missing, % begins a comment.

An `Atom` is not a `str`, so that `password` and "password" stay apart; `to_data` makes both text,
as everywhere in Drupelet. A mistake is a `TermError` with its line: where the last good word
stands, if something is missing after it, since that is the line to look at. No word of the text
is in a message: it has passwords in it, with or without their quotes.

Reference: Erlang reference manual, "Data Types". Not taken: floats, binaries, maps, characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from drupelet.wire.limits import CHAN_CONF_DEPTH_MAX

INTEGER_DIGITS_MAX: Final = 18

_TOKEN: Final = re.compile(
    r"""
    (?P<space>[ \t\r\n\f\ufeff]+|%[^\n]*)
    |(?P<mark>[{}\[\],.])
    |(?P<atom>[a-z][A-Za-z0-9_@]*)
    |(?P<quoted>'(?:[^'\\\n]|\\[^\n])*')
    |(?P<string>"(?:[^"\\\n]|\\[^\n])*")
    |(?P<integer>-?[0-9]+(?![A-Za-z0-9_@]))
    """,
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(r"\\(.)")
_ESCAPES: Final = {'"': '"', "'": "'", "\\": "\\", "n": "\n", "t": "\t", "s": " "}
_CLOSERS: Final = {"{": "}", "[": "]"}


class TermError(Exception):
    """The text is no term. `line` counts from 1."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


@dataclass(frozen=True, slots=True)
class Atom:
    """An Erlang atom."""

    text: str


Term = Atom | str | int | tuple["Term", ...] | list["Term"]


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


def parse_terms(text: str) -> list[tuple[int, Term]]:
    """The terms of `text`, each with the line it begins on. Raises: `TermError`."""
    return _Parser(_tokens(text)).terms()


def to_data(term: Term) -> object:
    """A term as a value: an atom is its text."""
    if isinstance(term, Atom):
        return term.text
    if isinstance(term, tuple):
        return tuple(map(to_data, term))
    if isinstance(term, list):
        return [to_data(item) for item in term]
    return term


def _tokens(text: str) -> list[_Token]:
    tokens = []
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise TermError(line, _strange(text[position]))
        kind = match.lastgroup or ""
        if kind != "space":
            tokens.append(_Token(kind, match[0], line))
        line += match[0].count("\n")
        position = match.end()
    return tokens


def _strange(char: str) -> str:
    if char in "\"'":
        return f"a text that begins with {char} does not end on its line"
    if char.isupper() or char == "_":
        return "a word that begins with a capital letter is a variable; write it in quotes"
    return f"{char!r} begins no term"


class _Parser:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._place = 0

    def terms(self) -> list[tuple[int, Term]]:
        found: list[tuple[int, Term]] = []
        while self._place < len(self._tokens):
            line = self._tokens[self._place].line
            found.append((line, self._term(CHAN_CONF_DEPTH_MAX)))
            if self._next_is("."):
                self._place += 1
        return found

    def _next_is(self, mark: str) -> bool:
        if self._place >= len(self._tokens):
            return False
        token = self._tokens[self._place]
        return token.kind == "mark" and token.text == mark

    def _term(self, depth: int) -> Term:
        if self._place >= len(self._tokens):
            raise TermError(self._tokens[-1].line, "the file ends where something should follow")
        token = self._tokens[self._place]
        self._place += 1
        match token.kind:
            case "atom":
                return Atom(token.text)
            case "quoted":
                return Atom(_unescape(token))
            case "string":
                return _unescape(token)
            case "integer":
                if len(token.text.lstrip("-")) > INTEGER_DIGITS_MAX:
                    raise TermError(token.line, "an integer of too many digits")
                return int(token.text)
        closer = _CLOSERS.get(token.text)
        if closer is None:
            raise TermError(token.line, f"{token.text!r} where a term should stand")
        if not depth:
            raise TermError(token.line, f"more than {CHAN_CONF_DEPTH_MAX} brackets in each other")
        items = self._items(token, closer, depth - 1)
        return tuple(items) if closer == "}" else items

    def _items(self, opener: _Token, closer: str, depth: int) -> list[Term]:
        items: list[Term] = []
        if self._next_is(closer):
            self._place += 1
            return items
        while True:
            items.append(self._term(depth))
            if self._next_is(closer):
                self._place += 1
                return items
            if not self._next_is(","):
                last = self._tokens[self._place - 1]
                raise TermError(last.line, f"',' or {closer!r} is missing after {_shown(last)}")
            self._place += 1


def _shown(token: _Token) -> str:
    kinds = {"mark": token.text, "string": "a text", "integer": "a number"}
    return kinds.get(token.kind, "a word")


def _unescape(token: _Token) -> str:
    def one(match: re.Match[str]) -> str:
        char = _ESCAPES.get(match[1])
        if char is None:
            raise TermError(token.line, f"\\{match[1]} in a text; write \\\\ for a backslash")
        return char

    return _ESCAPE.sub(one, token.text[1:-1])
