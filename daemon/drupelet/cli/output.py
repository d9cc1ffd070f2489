"""All that the command line prints: results on stdout, failures on stderr; nobody else prints.

- `--json`: exactly one JSON document on stdout, a failure too:
  ``{"error": {"kind", "message", ...}}``.
- Human output of a failure: what happened, then ``why:`` and ``mend:`` lines where there is one.
- A value is printed as JSON in both (`drupelet.cli.values`).

The `kind` of a failure is `errors.error_document`'s.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from drupelet import errors
from drupelet.cli import values
from drupelet.cli.grammar import UsageError
from drupelet.errors import (
    CallError,
    CodeMismatch,
    ConfigError,
    DrupeletError,
    NoConnection,
    NotPermitted,
    RateLimited,
    RemoteError,
    Timeout,
)

_SPANS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))
COLUMN_CHARS_MAX: Final = 60  # a table's column; a longer text is cut with an ellipsis
WRITE_CHARS_MAX: Final = 65_536  # PYTHONUNBUFFERED loses what a write(2) does not take whole

# What to do next, by NoConnection.reason and RemoteError.kind.
REASON_MENDS: Final = {
    "no_such_node": "`drupelet nodes` lists those that are known, `drupelet grants` those that "
    "granted something; `drupelet accept FILE` keeps what somebody gave you",
    "no_mapper": "start drupeletd on that host, or open its port 4369 to this one",
    "not_registered": "start that node; `drupelet names HOST` lists what runs there",
    "no_route": "check the cable, the Wi-Fi and the address",
    "port_closed": "start drupeletd on that host, or open its port in the firewall",
    "silent": "something else may listen on that port, or the node hangs: restart it",
    "bad_cookie": "copy /etc/drupelet/cookie from one node to the other",
    "version": "install the same version of drupelet on both",
    "not_a_member": "pair the nodes, or copy the cookie",
    "name_taken": "rename one of the two nodes",
    "wrong_node": "correct the address in [link] peers",
    "closed": "try again; `drupelet why NODE` if it stays so",
    "down": "`drupelet why NODE` finds the broken step",
    "overloaded": "send less at once, or wait: up to a minute, where tries from this "
    "address failed before",
    "stopping": "start the node again",
    "no_daemon": "start drupeletd on this machine, or `drupelet demo` for a trial",
}
KIND_MENDS: Final = {
    "undef": "`drupelet call NODE node info` shows what that node exports",
    "badarg": "compare the arguments with the function's signature; a text that reads as a number "
    "takes quotes: '\"12\"', and a list or a map: '{\"a\": 1}'",
    "mission_crashed": "its log has the reason; it is restarted",
    "mission_stuck": "try again: it starts anew; look for a loop without end, or one that waits",
    "mission_backoff": "wait, it starts again by itself; that node's log has the reason",
    "process_down": "`drupelet ps` lists the processes; who monitors one is told why it ended",
    "too_large": "send it in pieces",
    "file_wont_compile": "mend the line and ship it again; the old code serves",
    "superseded": "ship it again: that puts it on top",
    "not_durable": "make room on that node's disk",
    "damaged": "what it says, on this node, and restart it",
}
RAISED_MEND: Final = (
    "the function raised that: its node's log has the line; a GenServer starts anew, with a new "
    "state"
)


class Failed(DrupeletError):
    """A verb could not do its work; exit code 1."""

    def __init__(self, what: str, *, mend: str) -> None:
        super().__init__(what)
        self.mend = mend


def write(text: str) -> None:
    """Text to stdout, as it is."""
    for start in range(0, len(text), WRITE_CHARS_MAX):
        sys.stdout.write(text[start : start + WRITE_CHARS_MAX])


def line(text: str) -> None:
    """One line to stdout, at once."""
    write(f"{text}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """One line to stderr, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def document(value: object) -> None:
    """One value as one JSON document on a line."""
    line(values.dump(value))


def table(rows: list[dict[str, object]], columns: tuple[str, ...]) -> None:
    """Rows under headings. `columns` come first; a column that no row has is left out."""
    shown = [name for name in columns if any(row.get(name) not in (None, "") for row in rows)]
    cells = [[name.upper().removesuffix("_S") for name in shown]]
    cells += [[plain(row.get(name)) for name in shown] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row_cells in cells:
        padded = [cell.ljust(width) for cell, width in zip(row_cells, widths, strict=True)]
        line("  ".join(padded).rstrip())


def fields(record: dict[str, object]) -> None:
    """A record as ``name  value`` lines."""
    width = max((len(name) for name in record), default=0)
    for name, value in record.items():
        line(f"{name.ljust(width)}  {plain(value, None)}".rstrip())


def plain(value: object, chars_max: int | None = COLUMN_CHARS_MAX) -> str:
    """A value for a person: text without quotes, control characters replaced (a peer wrote it)."""
    if isinstance(value, str):
        text = value
    elif value is None:
        text = ""
    elif isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        text = ", ".join(str(one) for one in value)
    elif isinstance(value, float):
        text = f"{value:.1f}"
    else:
        text = values.dump(value)
    text = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    if chars_max is not None and len(text) > chars_max:
        return f"{text[: chars_max - 1]}…"
    return text


# -- failures


def span(span_s: float) -> str:
    """A time for a person: whole days, hours, minutes or seconds."""
    for seconds, noun in _SPANS:
        count = int(span_s // seconds)
        if count:
            return f"{count} {noun}{'s' if count > 1 else ''}"
    return "less than a second"


def failure(error: Exception, *, json: bool) -> int:
    """Print a failure that a person can do something about; its exit code."""
    if json:
        document({"error": error_document(error)})
    else:
        for text in explain(error):
            note(text)
    return exit_code(error)


def exit_code(error: Exception) -> int:
    """The exit code of a failure."""
    return errors.EXIT_USAGE if isinstance(error, UsageError) else errors.exit_code(error)


def error_document(error: Exception) -> dict[str, object]:
    """A failure as a JSON object: ``kind``, ``message``, its fields, ``mend`` if there is one."""
    match error:
        case CallError():
            found = errors.error_document(error)
        case ConfigError():
            found = {"kind": "ConfigError", "message": str(error), "file": error.file}
            found |= {"line": error.line, "key": error.key}
        case _:
            found = {"kind": type(error).__name__, "message": str(error)}
    hint = mend(error)
    if hint:
        found["mend"] = hint
    return found


def explain(error: Exception) -> list[str]:
    """A failure as lines for a person: what, why, mend."""
    match error:
        case RemoteError():
            twice = f": {error.kind}: " in error.message  # each line of it names its kind
            text = error.message if twice else str(error)
            lines = [f"drupelet: {plain(one, None)}" for one in text.splitlines() or [""]]
            if error.traceback_text:
                lines += ["why: the function raised on the other node:"]
                lines += [f"  {plain(one, None)}" for one in error.traceback_text.splitlines()]
        case _ if tried := getattr(error, "tried", None):
            lines = [f"drupelet: {errors.REASONS['no_daemon']}", "why: tried"]
            lines += [f"  {path}: {why}" for path, why in tried]
        case UsageError():
            lines = [f"drupelet: {error}"]
        case _:
            lines = [
                f"drupelet: {one}" for one in str(error).splitlines() or [type(error).__name__]
            ]
    hint = mend(error)
    if hint and hint not in lines[0]:
        lines.append(f"mend: {hint}")
    return lines


def mend(error: Exception) -> str:
    """What a person can do next; empty when we do not know."""
    match error:
        case RemoteError(kind="undef", message=text) if "did you mean" in text or "`" in text:
            return ""  # it has its mend
        case RemoteError(kind="badarg", message=text) if "`" in text:
            return ""  # it has its mend
        case RemoteError(kind="badarg", message=text) if "idempotency key was used" in text:
            return "a --key of its own for each thing to do; the same again for the same thing"
        case RemoteError() if error.kind[:1].isupper() and not error.traceback_text:
            return RAISED_MEND  # the name of an exception
        case RemoteError():
            return str(getattr(error, "mend", "")) or KIND_MENDS.get(error.kind, "")
        case Timeout():
            return "give it more time (--timeout 60, in Python timeout=60), or `drupelet why NODE`"
        case NoConnection():
            return str(getattr(error, "mend", "")) or REASON_MENDS.get(error.reason, "")
        case NotPermitted() if "bytes of arguments" in str(error):
            return "send less, or ask the node's owner for a grant with more --bytes"
        case NotPermitted():
            return "ask the node's owner for a grant, or check the spelling"
        case RateLimited():
            return "wait so long, or ask the mission's owner for a higher rate"
        case CodeMismatch():
            return "`drupelet nl MISSION` ships the code of this node to all; or install the same"
        case UsageError():
            return f"drupelet {error.verb} --help".replace("  ", " ")
    return str(getattr(error, "mend", ""))


def quiet_stdout() -> None:
    """After a broken pipe: let the interpreter's own last flush go nowhere and not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
