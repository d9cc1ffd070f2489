"""Messages are data: the copy that a local send makes.

Decides that a message to a neighbour is what a message to another node would be: the same types,
the same refusals (`NotSendable` in the sender), and no object shared that either side could change.
Immutable values are passed as they are; lists and dicts are copied; a tuple only when it must be.
Only how large a value is altogether, and text that is no UTF-8, are looked at where it leaves.

Rejected: dumps and loads (4 us for a small tuple against 0.6); passing references as Erlang's
processes may (they cannot change a term; we could).
"""

from __future__ import annotations

import uuid
from typing import Final, cast

from drupelet.errors import NotSendable
from drupelet.wire.codec import dumps
from drupelet.wire.ids import Pid, ProxyPid, Ref
from drupelet.wire.limits import VALUE_DEPTH_MAX
from drupelet.wire.notices import CLASSES, Notice, notice_fields, notice_from_fields

_ATOMS: Final = frozenset({str, bytes, bool, float, type(None), Pid, ProxyPid, Ref, uuid.UUID})
_NOTICES: Final = frozenset(CLASSES)
_TEXT_CHARS_MAX: Final = 1_000
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1


def copy_data(value: object) -> object:
    """`value`, or a copy where it could be changed. Raises: `NotSendable` naming the place."""
    kind = value.__class__
    if kind in _ATOMS or (kind is int and _INT_MIN <= value <= _INT_MAX):  # type: ignore[operator]
        return value
    try:
        return _copy(value, VALUE_DEPTH_MAX)
    except NotSendable:
        dumps(value)  # refuses the same, and knows the way to it
        raise


def _copy(value: object, depth: int) -> object:
    kind = value.__class__
    if kind in _ATOMS:
        return value
    if kind is int:
        if _INT_MIN <= value <= _INT_MAX:  # type: ignore[operator]
            return value
    elif kind is tuple:
        values = cast(tuple[object, ...], value)
        if not depth:
            raise NotSendable("too deep")
        for item in values:
            kind = item.__class__
            if kind not in _ATOMS and (
                kind is not int or not _INT_MIN <= item <= _INT_MAX  # type: ignore[operator]
            ):
                depth -= 1
                return tuple(
                    [item if item.__class__ in _ATOMS else _copy(item, depth) for item in values]
                )
        return value
    elif kind is list:
        if not depth:
            raise NotSendable("too deep")
        depth -= 1
        return [
            item if item.__class__ in _ATOMS else _copy(item, depth)
            for item in cast(list[object], value)
        ]
    elif kind is dict:
        if not depth:
            raise NotSendable("too deep")
        depth -= 1
        items = cast(dict[object, object], value)
        for key in items:
            if key.__class__ is not str:
                dumps(dict.fromkeys(items))  # the rules of other keys are the codec's
                break
        return {
            key: item if item.__class__ in _ATOMS else _copy(item, depth)
            for key, item in items.items()
        }
    elif kind in _NOTICES:
        return _copy_notice(cast(Notice, value), depth)
    elif kind is bytearray or kind is memoryview:
        return bytes(cast(bytearray, value))
    dumps(value)  # raises NotSendable, save for a datetime that is aware
    return value


def _copy_notice(notice: Notice, depth: int) -> Notice:
    """An author may have made it, of anything."""
    if not depth:
        raise NotSendable("too deep")
    try:
        fields = notice_fields(notice)
    except ValueError as error:
        raise NotSendable(str(error)) from None
    return notice_from_fields([_copy(each, depth - 1) for each in fields])


def data_or_text(value: object) -> object:
    """A copy; or, of what is not data, its text: an exit reason may be anything."""
    try:
        return copy_data(value)
    except NotSendable:
        try:
            return repr(value)[:_TEXT_CHARS_MAX]
        except Exception:  # anybody's __repr__
            return f"(a {type(value).__name__} that has no text)"
