"""TOML files as people write them: reading, lines, and what to say when they are wrong.

Decides how a file becomes text (size, encoding), on which line a key stands, and the wording of
what all TOML readers of ours (`config`, the mission files) refuse alike.

Rule: whatever the bytes, nothing but `ConfigError` comes out.

References: TOML 1.0.0 (toml.io). `tomllib` parses but gives no lines, hence `locate_all`.
Rejected: a third-party parser that keeps lines: a dependency for one number.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from drupelet.errors import ConfigError

CONFIG_BYTES_MAX: Final = 1024 * 1024  # a real file has 1 KiB; a log given by mistake stops here
LINE_CHARS_MAX: Final = 16_384  # tomllib is quadratic in the parts of one dotted key: 1 s at this
PROBLEMS_MAX: Final = 20  # shown at once; the rest are counted


class ConfigErrors(ConfigError):
    """Several problems at once; `str()` has one line for each, `problems` the errors themselves."""

    def __init__(self, problems: Iterable[ConfigError]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        super().__init__(
            first.what, mend=first.mend, file=first.file, line=first.line, key=first.key
        )
        lines = [str(problem) for problem in self.problems[:PROBLEMS_MAX]]
        if len(self.problems) > PROBLEMS_MAX:
            lines.append(f"... and {len(self.problems) - PROBLEMS_MAX} more")
        self.args = ("\n".join(lines),)


def raise_all(problems: list[ConfigError]) -> None:
    """Raise what was found: nothing, the one `ConfigError`, or `ConfigErrors`."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ConfigErrors(problems)


# -- lines of a TOML text

_PART: Final = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
_DOTTED: Final = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_HEADER: Final = re.compile(rf"[ \t]*(\[\[?)[ \t]*({_DOTTED})[ \t]*\]")
_PAIR: Final = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
_PART_RE: Final = re.compile(_PART)
_TOKEN: Final = re.compile(r'''"""|\'\'\'|"(?:\\.|[^"\\])*"?|'[^']*'?|\#|[\[\]{}]''')


def locate_all(text: str) -> dict[tuple[str, ...], int]:
    """The line, from 1, at which each table and key of a TOML text first stands.

    A table inside braces has the line of its key only. A text that is not TOML gives no error.
    """
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    closing, depth = "", 0
    for number, line in enumerate(text.split("\n"), start=1):
        start = 0
        if not closing and depth <= 0:
            if header := _HEADER.match(line):
                table = _parts(header[2])
                _enter(lines, (), table, number)
                continue
            if pair := _PAIR.match(line):
                _enter(lines, table, _parts(pair[1]), number)
                start = pair.end()
        closing, depth = _skip_value(line, start, closing, max(depth, 0))
    return lines


def _enter(
    lines: dict[tuple[str, ...], int], table: tuple[str, ...], path: tuple[str, ...], number: int
) -> None:
    for end in range(1, len(path) + 1):
        lines.setdefault(table + path[:end], number)


def _parts(dotted: str) -> tuple[str, ...]:
    parts = []
    for part in _PART_RE.findall(dotted)[:8]:  # nothing of ours lies deeper than 2
        if part.startswith('"'):
            try:
                parts.append(str(json.loads(part)))
            except ValueError:
                parts.append(part[1:-1])
        else:
            parts.append(part.strip("'"))
    return tuple(parts)


def _skip_value(line: str, start: int, closing: str, depth: int) -> tuple[str, int]:
    """Walk over values; returns the quotes that are still open and the open brackets."""
    while start < len(line):
        if closing:
            end = line.find(closing, start)
            if end < 0:
                return closing, depth
            start, closing = end + 3, ""
            continue
        token = _TOKEN.search(line, start)
        if token is None or token[0] == "#":
            break
        start = token.end()
        if token[0] in ('"""', "'''"):
            closing = token[0]
        elif token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
    return closing, depth


def locate(text: str, section: str, key: str = "") -> int:
    """The line of `key` in `[section]` ("" for the top), else of the section, else 1."""
    lines = locate_all(text)
    path = ((section,) if section else ()) + ((key,) if key else ())
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def suggest(word: str, known: Iterable[str]) -> str:
    """The mend for an unknown word: "did you mean ...", or what there is to choose from."""
    choices = list(known)
    near = difflib.get_close_matches(word[:64].lower(), choices, n=1, cutoff=0.6)
    if near:
        return f'did you mean "{near[0]}"?'
    if not choices:
        return "remove it"
    return "remove it or use one of: " + ", ".join(sorted(choices))


# -- reading


def read_text(path: Path) -> str:
    """The text of one TOML file. Raises: `ConfigError` for whatever keeps it from being one."""
    file = str(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigError("no such file", mend="check the path or create it", file=file) from None
    except IsADirectoryError:
        raise ConfigError("is a directory", mend="name a TOML file in it", file=file) from None
    except PermissionError:
        raise ConfigError(
            "may not be read by this user", mend="check its owner and mode", file=file
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise ConfigError(f"cannot be read: {error}", mend="check the file", file=file) from None
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError(
            f"is larger than {CONFIG_BYTES_MAX} bytes",
            mend="name the configuration, not another file",
            file=file,
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"byte {data[error.start]:#04x} is not UTF-8",
            mend="save the file as UTF-8",
            file=file,
            line=data.count(b"\n", 0, error.start) + 1,
        ) from None


_AT: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def parse_toml(text: str, file: str) -> dict[str, object]:
    """`tomllib.loads` that raises only `ConfigError`, with the line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > LINE_CHARS_MAX:
            raise ConfigError(
                f"the line has more than {LINE_CHARS_MAX} characters",
                mend="break it into several lines",
                file=file,
                line=number,
            )
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError("is nested too deep", mend="flatten it", file=file) from None
    except ValueError as error:  # TOMLDecodeError is one; so are numbers of 5,000 digits
        what = str(error)
        place, column = text.count("\n") + 1, ""
        if at := _AT.search(what):
            what = what[: at.start()]
            if at[1]:
                place, column = int(at[1]), f" at column {at[2]}"
        raise ConfigError(
            f"not valid TOML: {printable(what)}{column}",
            mend=_syntax_mend(what),
            file=file,
            line=place,
        ) from None


def _syntax_mend(what: str) -> str:
    if "overwrite" in what or "twice" in what or "mutate" in what:
        return "it is defined twice: keep one of them"
    if "Invalid value" in what:
        return 'put text in double quotes, as in name = "gandalf"'
    return 'write one key = value a line under a [section], text in "quotes"'


def printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:200])
