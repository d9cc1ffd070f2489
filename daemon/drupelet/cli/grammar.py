"""The command line's grammar as data: verbs, their arguments and options; parsing and help from it.

Decides what a command line means; runs nothing and prints nothing. One table (`drupelet.cli.verbs`)
gives the parser, the help and the shell completion, so that they cannot disagree.

- The general options stand anywhere; ``--`` ends the options; ``-1`` and ``-0.5`` are arguments.
- `argparse` was rejected: importing it and building 15 subparsers costs 25 ms of the 150 that
  `drupelet status` may take, and it takes ``-1`` for an option.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_NUMBER: Final = re.compile(r"-(\d|\.\d)")
_USAGE_CHARS_MAX: Final = 93  # with "usage: " before it, a line


class UsageError(Exception):
    """The command line is wrong; exit code 2. `verb` is the one whose help has the answer."""

    def __init__(self, message: str, verb: str = "") -> None:
        super().__init__(message)
        self.verb = verb


class Argument(NamedTuple):
    """A positional argument. `repeated`: any number of them, the last in its verb."""

    name: str
    help: str
    required: bool = True
    repeated: bool = False
    choices: tuple[str, ...] = ()


class Option(NamedTuple):
    """An option; without a `value` name it is a flag."""

    name: str
    help: str
    value: str = ""
    short: str = ""


class Verb(NamedTuple):
    """One verb. `handler` is ``module:function`` under `drupelet.cli`, imported when it runs."""

    name: str
    purpose: str
    handler: str
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    examples: tuple[str, ...] = ()
    notes: str = ""
    json: bool = True  # whether --json has a meaning


class Request(NamedTuple):
    """A parsed command line. `options` has the names without dashes; a flag's value is ``""``."""

    verb: Verb
    arguments: tuple[str, ...]
    options: dict[str, str]
    socket: str | None = None
    json: bool = False
    debug: bool = False

    def argument(self, place: int) -> str:
        """The argument at `place`, or ``""`` when it was left out."""
        return self.arguments[place] if place < len(self.arguments) else ""

    def seconds(self, option: str, default_s: float) -> float:
        """An option as a positive number of seconds. Raises: `UsageError`."""
        text = self.options.get(option)
        if text is None:
            return default_s
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise UsageError(
                f"--{option} {text!r} is no positive number of seconds", self.verb.name
            )
        return value

    def integer(self, option: str, default: int, low: int, high: int) -> int:
        """An option as an integer from `low` to `high`. Raises: `UsageError`."""
        text = self.options.get(option)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or not low <= int(text[:9]) <= high:
            raise UsageError(
                f"--{option} {text!r} is no number from {low} to {high}", self.verb.name
            )
        return int(text)


GENERAL_OPTIONS: Final = (
    Option(
        "socket",
        "the node to ask: its socket, or its name (default: $DRUPELET_SOCKET or found)",
        "PATH",
    ),
    Option("json", "print one JSON document"),
    Option("debug", "show where an error was raised"),
    Option("help", "show this", short="h"),
    Option("version", "show the version", short="V"),
)


def parse(argv: list[str], verbs: dict[str, Verb]) -> Request:
    """The meaning of a command line (without the program's name).

    ``help``, ``help VERB`` and ``VERB --help`` give the verb ``help``. Raises: `UsageError`.
    """
    verb: Verb | None = None
    words: list[str] = []
    options: dict[str, str] = {}
    rest = list(reversed(argv))
    while rest:
        word = rest.pop()
        if word == "--":
            words += reversed(rest)
            break
        if word.startswith("-") and word != "-" and not _NUMBER.match(word):
            _parse_option(word, rest, verb, options)
        elif verb is None:
            verb = _find_verb(word, verbs)
        else:
            words.append(word)
    if verb is None and words:
        verb = _find_verb(words.pop(0), verbs)
    if "help" in options or verb is None:
        named = [verb.name] if verb is not None and verb.name != "help" else words
        chosen = "version" if "version" in options else "help"
        return Request(verbs[chosen], tuple(named), options, json="json" in options)
    _check_arguments(verb, words)
    if "json" in options and not verb.json:
        raise UsageError(f"--json has no meaning for {verb.name}", verb.name)
    return Request(
        verb, tuple(words), options, options.get("socket"), "json" in options, "debug" in options
    )


def _find_verb(word: str, verbs: dict[str, Verb]) -> Verb:
    verb = verbs.get(word)
    if verb is not None:
        return verb
    import difflib  # 2 ms that only a mistake has to pay

    near = difflib.get_close_matches(word, verbs, n=2, cutoff=0.5)
    known = f"did you mean {' or '.join(near)}?" if near else f"the verbs are: {', '.join(verbs)}"
    raise UsageError(f"unknown verb {word!r}; {known}")


def _parse_option(word: str, rest: list[str], verb: Verb | None, options: dict[str, str]) -> None:
    name, equals, value = word.partition("=")
    for option in (*(verb.options if verb else ()), *GENERAL_OPTIONS):
        if name in (f"--{option.name}", f"-{option.short}" if option.short else ""):
            break
    else:
        where = f"for {verb.name}" if verb else "before the verb"
        hint = "; write -- before an argument that starts with a dash" if verb else ""
        raise UsageError(f"unknown option {name} {where}{hint}", verb.name if verb else "")
    if not option.value:
        if equals:
            raise UsageError(f"{name} takes no value", verb.name if verb else "")
    elif not equals:
        if not rest or rest[-1].startswith("--"):  # `--to $KEY --only temp`, and there is no KEY
            raise UsageError(
                f"{name} needs a value: {name} {option.value}", verb.name if verb else ""
            )
        value = rest.pop()
    options[option.name] = value


def _check_arguments(verb: Verb, words: list[str]) -> None:
    needed = [argument for argument in verb.arguments if argument.required]
    if len(words) < len(needed):
        missing = needed[len(words)]
        raise UsageError(f"{verb.name} needs {missing.name}: {missing.help}", verb.name)
    repeated = any(argument.repeated for argument in verb.arguments)
    if not repeated and len(words) > len(verb.arguments):
        extra = words[len(verb.arguments)]
        raise UsageError(f"{verb.name} does not know what to do with {extra!r}", verb.name)
    for argument, word in zip(verb.arguments, words, strict=False):
        if argument.choices and word not in argument.choices:
            raise UsageError(
                f"{argument.name} is one of {', '.join(argument.choices)}, not {word!r}", verb.name
            )


# -- help


def usage_line(verb: Verb) -> str:
    """``drupelet VERB ARG [ARG...] [options]``; options that need more than a line stand below."""
    parts = ["drupelet", verb.name]
    for argument in verb.arguments:
        name = f"{argument.name}..." if argument.repeated else argument.name
        parts.append(name if argument.required else f"[{name}]")
    options = [
        f"[--{option.name}{' ' + option.value if option.value else ''}]" for option in verb.options
    ]
    line = " ".join([*parts, *options])
    return line if len(line) <= _USAGE_CHARS_MAX else " ".join([*parts, "[OPTION...]"])


def verb_help(verb: Verb) -> str:
    """The whole help of one verb."""
    lines = [f"usage: {usage_line(verb)}", "", verb.purpose]
    if verb.notes:
        lines += ["", verb.notes]
    if verb.arguments:
        lines += ["", "arguments:", *_columns([(one.name, one.help) for one in verb.arguments])]
    lines += ["", "options:", *_columns([_option_row(one) for one in _options(verb)])]
    if verb.examples:
        lines += ["", "examples:", *(f"  {example}" for example in verb.examples)]
    return "\n".join(lines)


def general_help(verbs: dict[str, Verb]) -> str:
    """The help of the program."""
    rows = [(verb.name, verb.purpose) for verb in verbs.values()]
    return "\n".join(
        [
            "usage: drupelet [--socket PATH] [--json] VERB [ARGUMENT...]",
            "",
            "Ask and steer a cluster of Drupelet nodes; `drupelet demo` starts one here.",
            "",
            "verbs:",
            *_columns(rows),
            "",
            "options:",
            *_columns([_option_row(option) for option in GENERAL_OPTIONS]),
            "",
            "`drupelet VERB --help` has the arguments and examples of a verb.",
            "exit codes: 0 done, 1 failed, 2 usage, 3 not permitted, 4 rate limited,",
            "5 no connection, 6 timeout, 78 bad configuration",
        ]
    )


def _options(verb: Verb) -> tuple[Option, ...]:
    general = [one for one in GENERAL_OPTIONS if verb.json or one.name != "json"]
    return (*verb.options, *general)


def _option_row(option: Option) -> tuple[str, str]:
    short = f"-{option.short}, " if option.short else ""
    return f"{short}--{option.name}{' ' + option.value if option.value else ''}", option.help


def _columns(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(left) for left, _ in rows)
    return [f"  {left.ljust(width)}  {right}" for left, right in rows]
