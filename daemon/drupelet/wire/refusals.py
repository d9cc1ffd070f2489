"""Why a value cannot be sent, and where in it the trouble is: the words of `NotSendable`.

Decides no refusal itself: `codec.dumps` refuses on its quick path without saying why, then asks
here. So the quick path carries no place names, and this walk, as slow as it is thorough, runs
only when the caller has a bug to mend.

Rules: says what, where (``[0]["callback"]``) and what to do; never shows a value, only types,
keys and positions (arguments may be secrets); ends on cycles and on values that grow without end.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterable
from typing import Final

from drupelet.errors import NotSendable
from drupelet.wire import limits
from drupelet.wire.ids import Pid, ProxyPid, Ref
from drupelet.wire.notices import CLASSES, notice_fields

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1
_LEAVES: Final = frozenset(
    {int, float, bool, bytes, type(None), bytearray, memoryview, uuid.UUID, datetime.datetime}
    | {Pid, ProxyPid, Ref}
)
_BASES: Final = (int, float, str, bytes, tuple, list, dict, datetime.datetime, uuid.UUID)
_KEY_SHOWN_CHARS_MAX: Final = 40  # enough to find it


def too_many_items() -> NotSendable:
    return NotSendable(
        f"more than {limits.VALUE_ITEMS_MAX} items; send it in pieces, or packed as bytes"
    )


def explain(value: object) -> NotSendable:
    """What is wrong with a value that `codec.dumps` refused, and where."""
    found = _find(value, "", [], [limits.VALUE_ITEMS_MAX])
    return found or NotSendable(
        f"more than {limits.BODY_BYTES_MAX} bytes altogether; send it in pieces"
    )


def int_keys(value: dict[object, object]) -> int:
    """How many keys of a dict are integers."""
    return sum(type(key) is int for key in value)


def _find(value: object, path: str, inside: list[object], budget: list[int]) -> NotSendable | None:
    """The first thing in `value` that cannot be sent. `inside` holds the containers around it."""
    budget[0] -= 1
    if budget[0] < 0:
        return too_many_items()
    kind = type(value)
    if kind not in (dict, list, tuple) and kind not in CLASSES:
        return _find_in_leaf(value, path)
    if any(value is other for other in inside):
        what = f"this {kind.__name__} contains itself; send a copy without the cycle"
        return NotSendable(what, path)
    if len(inside) >= limits.VALUE_DEPTH_MAX:
        what = f"more than {limits.VALUE_DEPTH_MAX} containers deep; flatten the value"
        return NotSendable(what, path)
    inside.append(value)
    items: Iterable[tuple[object, object]] = ()
    if isinstance(value, dict):
        if int_keys(value) > limits.MAP_INT_KEYS_MAX:
            what = f"more than {limits.MAP_INT_KEYS_MAX} integer keys; send a list of pairs"
            return NotSendable(what, path)
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    elif isinstance(value, CLASSES):
        try:
            fields = notice_fields(value)
        except ValueError as error:
            return NotSendable(str(error), path)
        items = zip(value.__match_args__, fields[1:], strict=True)
    for key, item in items:
        found = _find_in_key(key, path) if kind is dict else None
        budget[0] -= kind is dict
        found = found or _find(item, f"{path}[{_shown(key)}]", inside, budget)
        if found:
            return found
    inside.pop()
    return None


def _shown(key: object) -> str:
    if type(key) is str:
        text = key if len(key) <= _KEY_SHOWN_CHARS_MAX else key[:_KEY_SHOWN_CHARS_MAX] + "..."
        return '"' + text.encode("unicode_escape").decode().replace('"', '\\"') + '"'
    if type(key) is int and INT_MIN <= key <= INT_MAX:
        return str(key)
    return f"a {type(key).__name__}"


def _find_in_key(key: object, path: str) -> NotSendable | None:
    place = f"{path} key {_shown(key)}".lstrip()
    if type(key) is not str and type(key) is not int:
        what = "keys of a dict are str or int, and exactly those; convert the key first"
        return NotSendable(what, place)
    return _find_in_leaf(key, place)


def _find_in_leaf(value: object, path: str) -> NotSendable | None:
    kind = type(value)
    if type(value) is int:
        if INT_MIN <= value <= INT_MAX:
            return None
        return NotSendable("an integer beyond 64 bits; send it as text or bytes", path)
    if type(value) is str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            what = (
                f"text with a lone surrogate at {error.start}; send it as bytes: "
                "text.encode('utf-8', 'surrogateescape')"
            )
            return NotSendable(what, path)
        return None
    if type(value) is datetime.datetime and value.utcoffset() is None:
        what = (
            "a datetime without a time zone; say which, such as datetime.now(timezone.utc) or "
            "value.astimezone()"
        )
        return NotSendable(what, path)
    if kind in _LEAVES:
        return None
    return NotSendable(_not_data(value), path)


def _not_data(value: object) -> str:
    name = type(value).__name__
    for base in _BASES:
        if isinstance(value, base):
            plain = base.__name__
            return f"{name}, a subclass, would arrive as a plain {plain}; send {plain}(...) of it"
    if isinstance(value, (set, frozenset)):
        return f"a {name} has no order; send a sorted list"
    if callable(value):
        return (
            f"a {name} is code, and only data travels; export the function in a mission and send "
            "its name"
        )
    article = "an" if name[:1].lower() in "aeiou" else "a"
    return (
        f"{article} {name} is not data; only None, bool, int, float, str, bytes, list, tuple, "
        "dict, datetime, UUID, Pid and Ref travel: send its fields in a dict"
    )
