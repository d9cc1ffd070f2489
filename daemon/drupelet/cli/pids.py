"""Pids, names and messages as people read and type them, the same in `ps`, `trace` and `shell`.

Decides their text, so that what one verb prints can be pasted into the other.

- A pid is written ``<gandalf.17.42>``: `str(pid)`, in logs, in JSON and at the prompt. A Unix shell
  takes the brackets for redirections, so where one types a pid they may be left out, and `ps` and
  `trace` print it without: ``gandalf.17.42``.
- A process to look at is a pid, ``NAME`` (registered on the local node) or ``NAME@NODE``. A text
  that ends in two numbers is a pid; a name such as ``a.1.2`` needs its ``@NODE``.
- A message is written as Python would, its pids and refs in their text form: a tuple and a list are
  two things to a pattern.

Rejected: a short form without the node's life (the number that changes with each start): a pid of
an earlier life would look like that of another process.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from drupelet.cli.output import plain
from drupelet.wire.ids import Pid, ProxyPid, Ref, check_name, check_plain_name
from drupelet.wire.notices import CLASSES

MESSAGE_CHARS_MAX: Final = 2_000  # of a message for a person; --json has all of it
_BARE: Final = re.compile(r"[^<>@]+(?:@[^<>@]+)?\.[0-9]+\.[0-9]+")  # a node is NAME or NAME@HOST
# In a line of Python: what is in quotes or after a "#" stays. Neither form of a pid is Python.
_IN_CODE: Final = re.compile(
    r"""("{3}[\s\S]*?"{3}|'{3}[\s\S]*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\#[^\n]*)"""
    r"""|<([\w@.-]+\.\d+\.\d+)>|(?<![\w.@])([A-Za-z_][\w@.-]*\.\d+\.\d+)(?![\w.])"""
)


def parse_pid(text: str) -> Pid:
    """A pid, with its brackets or without. Raises: `ValueError` that shows the form."""
    return Pid.from_text(f"<{text}>" if _BARE.fullmatch(text) else text)


def bare(pid: Pid) -> str:
    """A pid for a Unix shell: without the brackets."""
    return str(pid)[1:-1]


def parse_address(text: str) -> Pid | tuple[str, str]:
    """PID, NAME or NAME@NODE; the node of a bare NAME is "". Raises: `ValueError` that teaches."""
    if text.startswith("<") or _BARE.fullmatch(text):
        return parse_pid(text)
    name, at, node = text.partition("@")
    check_plain_name(name)
    if at:
        check_name(node)
    return name, node


def pids_in_code(source: str) -> str:
    """A line of Python in which pids, as they are printed, stand for themselves."""

    def replace(match: re.Match[str]) -> str:
        text = match[2] or match[3]
        return f'__pid__("{text}")' if text else match[0]

    return _IN_CODE.sub(replace, source)


def shown(value: object) -> str:
    """A value as Python would write it, with the text forms of pids and refs."""
    try:
        return _shown(value)
    except RecursionError:  # a list that holds itself, or nearly endless nesting
        return repr(value)


def shown_short(value: object) -> str:
    """As `shown`, on one line and not endless, without control characters: a peer wrote it."""
    return plain(shown(value), MESSAGE_CHARS_MAX)


def shown_address(address: object) -> str:
    """Who a message comes from or goes to."""
    match address:
        case Pid():
            return bare(address)
        case (str(name), str(node)):
            return plain(f"{name}@{node}")
        case None:
            return ""
    return plain(address if isinstance(address, str) else shown(address))


def _shown(value: object) -> str:
    kind = type(value)
    if kind in (Pid, ProxyPid, Ref):
        return str(value)
    if kind is list:
        return f"[{_joined(value)}]"
    if kind is tuple:
        return f"({_joined(value)}{',' if len(value) == 1 else ''})"  # type: ignore[arg-type]
    if kind is dict:
        pairs = (f"{_shown(key)}: {_shown(item)}" for key, item in value.items())  # type: ignore[attr-defined]
        return f"{{{', '.join(pairs)}}}"
    if kind in CLASSES:
        fields = ((one.name, getattr(value, one.name)) for one in dataclasses.fields(value))  # type: ignore[arg-type]
        return f"{kind.__name__}({', '.join(f'{name}={_shown(item)}' for name, item in fields)})"
    return repr(value)


def _joined(values: object) -> str:
    return ", ".join(map(_shown, values))  # type: ignore[call-overload]
