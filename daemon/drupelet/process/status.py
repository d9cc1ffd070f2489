"""What may be seen of a process's state: `process_info`, `drupelet ps`, a crash report.

Decides what is shown and what is hidden. Shown is data only, cut short: numbers and texts as they
are, other objects as the name of their class, bytes as their length (they are keys as often as
not). A field or dictionary key whose name looks like a secret's is hidden, at any depth.

Reference: OTP's `gen_server:format_status/1`.
Rejected: repr of the whole state (a dataclass's repr shows its password).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Final

from drupelet.wire.ids import Pid, Ref

HIDDEN: Final = "(hidden)"
TEXT_CHARS_MAX: Final = 200
FIELDS_MAX: Final = 32  # of one object, list or dictionary
DEPTH_MAX: Final = 4

_SECRET: Final = re.compile(
    r"pass(word|wd|phrase|code)?(?![a-z])|secret|token|cookie|credential|private"
    r"|(^|_)(api)?keys?(_|$)|(?-i:[a-z]Keys?)(?![a-z])|(?<![a-z])psk|(?<![a-z])pin(?![a-z])",
    re.IGNORECASE,
)


def looks_secret(name: str) -> bool:
    """Whether a field of that name is hidden."""
    return _SECRET.search(name) is not None


def shown_fields(fields: Mapping[str, object]) -> dict[str, Any]:
    """Fields as data for people: short, and without secrets."""
    return _fields(fields, DEPTH_MAX)


def shown_state(state: object) -> object:
    """What a behaviour left in `Process.state`; it may have a ``format_status()`` of its own."""
    if state is None:
        return None
    try:
        formatted = state.format_status()  # type: ignore[attr-defined]
    except AttributeError:
        formatted = state
    except Exception as error:  # the author's
        return f"(format_status raised {type(error).__name__})"
    return _shown(formatted, DEPTH_MAX + 1)


def _fields(fields: Mapping[Any, object], depth: int) -> dict[str, Any]:
    shown = {}
    for name, value in list(fields.items())[:FIELDS_MAX]:
        text = str(name)[:TEXT_CHARS_MAX]
        shown[text] = HIDDEN if looks_secret(text) else _shown(value, depth)
    if len(fields) > FIELDS_MAX:
        shown["..."] = f"{len(fields) - FIELDS_MAX} more"
    return shown


def _shown(value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | float | Pid | Ref):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 63 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        return value if len(value) <= TEXT_CHARS_MAX else value[:TEXT_CHARS_MAX] + "..."
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if depth <= 0:
        return "..."
    if isinstance(value, Mapping):
        return _fields(value, depth - 1)
    if isinstance(value, list | tuple | set | frozenset):
        items = [_shown(each, depth - 1) for each in list(value)[:FIELDS_MAX]]
        if len(value) > FIELDS_MAX:
            items.append(f"{len(value) - FIELDS_MAX} more")
        return items
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [each.name for each in dataclasses.fields(value)]
        return _fields({name: getattr(value, name, None) for name in names}, depth - 1)
    return f"a {type(value).__qualname__}"
