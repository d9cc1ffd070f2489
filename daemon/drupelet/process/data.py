"""Messages are data: the copy that a local send makes.

Decides that a message to a neighbour is what a message to another node would be: the same types,
the same refusals (`NotSendable` in the sender), and no object shared that either side could change.
Immutable values are passed as they are; lists and dicts are copied; a tuple only when it must be.

Rejected: dumps and loads (4 us for a small tuple against 0.6); passing references as Erlang's
processes may (they cannot change a term; we could).
"""

from __future__ import annotations

import datetime
import uuid
from typing import Final, cast

from drupelet.errors import NotSendable
from drupelet.wire.codec import dumps
from drupelet.wire.ids import Pid, Ref
from drupelet.wire.limits import VALUE_DEPTH_MAX
from drupelet.wire.notices import Down, Exit, Notice, Request, notice_fields

_ATOMS: Final = frozenset({str, bytes, bool, float, type(None), Pid, Ref, uuid.UUID})
_TEXT_CHARS_MAX: Final = 1_000
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1


def copy_data(value: object, depth: int = VALUE_DEPTH_MAX) -> object:
    """`value`, or a copy where it could be changed. Raises: `NotSendable` naming the place."""
    kind = value.__class__
    if kind in _ATOMS:
        return value
    if kind is int:
        if _INT_MIN <= value <= _INT_MAX:  # type: ignore[operator]
            return value
    elif not depth:
        pass
    elif kind is tuple:
        values = cast(tuple[object, ...], value)
        for item in values:
            if item.__class__ not in _ATOMS:
                depth -= 1
                return tuple([copy_data(item, depth) for item in values])
        return value
    elif kind is list:
        depth -= 1
        return [copy_data(item, depth) for item in cast(list[object], value)]
    elif kind is dict:
        depth -= 1
        items = cast(dict[object, object], value)
        if all(key.__class__ is str for key in items):
            return {key: copy_data(item, depth) for key, item in items.items()}
        if all(key.__class__ is str or key.__class__ is int for key in items):
            dumps(dict.fromkeys(items))  # the rules of integer keys are the codec's
            return {key: copy_data(item, depth) for key, item in items.items()}
    elif kind is Request:
        request = cast(Request, value)
        _check_fields(Request(request.caller, None))
        return Request(request.caller, copy_data(request.request, depth - 1))
    elif kind is Down:
        down = cast(Down, value)
        _check_fields(Down(down.ref, down.pid, None))
        return Down(down.ref, down.pid, copy_data(down.reason, depth - 1))
    elif kind is Exit:
        end = cast(Exit, value)
        _check_fields(Exit(end.pid, None))
        return Exit(end.pid, copy_data(end.reason, depth - 1))
    elif kind is bytearray or kind is memoryview:
        return bytes(cast(bytearray, value))
    elif kind is datetime.datetime:
        dumps(value)  # naive ones are refused there
        return value
    dumps(value)  # raises NotSendable with the place
    return value


def _check_fields(notice: Notice) -> None:
    """Raises: `NotSendable` for a notice that an author made of something else."""
    try:
        notice_fields(notice)
    except ValueError as error:
        raise NotSendable(str(error)) from None


def data_or_text(value: object) -> object:
    """A copy; or, of what is not data, its text: an exit reason may be anything."""
    try:
        return copy_data(value)
    except NotSendable:
        try:
            return repr(value)[:_TEXT_CHARS_MAX]
        except Exception:  # anybody's __repr__
            return f"(a {type(value).__name__} that has no text)"
