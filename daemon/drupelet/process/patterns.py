"""Patterns: which message a selective `receive` takes.

Decides what a pattern may be:

| pattern                          | takes                                                        |
|----------------------------------|--------------------------------------------------------------|
| None, `ANY`                      | every message                                                |
| a type: ``Down``, ``int``        | its instances (bool is no int here)                          |
| a tuple: ``("ok", ANY, int)``    | tuples of that length whose items fit                        |
| a list: ``["a", ANY]``           | lists of that length whose items fit                         |
| a dict: ``{"kind": "temp"}``     | dicts that have these keys, with values that fit             |
| types: ``int | str``             | what one of them takes                                       |
| a function                       | what it returns something true for: write a `match` in it    |
| anything else                    | what is equal, of the same type                              |

    def an_answer(message):
        match message:
            case ("ok", value): return True
            case ("error", reason): return True

    message = await receive(an_answer)

Rule: a pattern of data never runs the author's code, so a sender can try it at once; one with a
function (or a class that decides itself what its instances are) is tried in the receiver, where its
exception belongs.
Rejected: a string language for patterns; `match` on a peeked mailbox (it hides what was taken).
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from types import CoroutineType, UnionType
from typing import Final, cast

from drupelet.wire.ids import Pid, ProxyPid, Ref

Predicate = Callable[[object], object]


class _Any:
    """See `ANY`."""

    def __repr__(self) -> str:
        return "ANY"


ANY: Final = _Any()
"""In a pattern: every value."""

# what is compared, by code that is not the author's
_PLAIN: Final = frozenset(
    {type(None), bool, int, float, str, bytes, Pid, ProxyPid, Ref, uuid.UUID, datetime.datetime}
    | {_Any}
)


def runs_code(pattern: object) -> bool:
    """Whether `fits` may run the author's code for this pattern.

    Raises: `TypeError` for what looks like a type and takes nothing: ``list[int]``.
    """
    kind = pattern.__class__
    if kind is type or kind in _PLAIN:
        return False
    if kind is tuple or kind is list:
        return any([runs_code(each) for each in cast(list[object], pattern)])
    if kind is dict:
        return any([runs_code(each) for each in cast(dict[object, object], pattern).values()])
    if kind is UnionType:
        return any([runs_code(each) for each in cast(UnionType, pattern).__args__])
    _check_alias(pattern)
    return True


def _check_alias(pattern: object) -> None:
    """It could be called, and would make a list of any message."""
    if hasattr(pattern, "__origin__"):
        raise TypeError(
            f"{pattern!r} is no pattern: a type takes its instances, whatever they hold; write "
            "list, [int, int] for a list of two, or a function"
        )


def fits(pattern: object, message: object) -> bool:
    """Whether `pattern` takes `message`. Raises what a function in it does, and as `runs_code`."""
    if pattern is ANY:
        return True
    kind = pattern.__class__
    if kind is type:
        if pattern is int and message.__class__ is bool:
            return False
        return isinstance(message, pattern)  # type: ignore[arg-type]
    if kind is str or kind is int:
        return message.__class__ is kind and message == pattern
    if kind is tuple or kind is list:
        return (
            message.__class__ is kind
            and len(message) == len(pattern)  # type: ignore[arg-type]
            and all(map(fits, pattern, message))  # type: ignore[call-overload]
        )
    if kind is dict:
        return message.__class__ is dict and all(
            key in message and fits(wanted, message[key])
            for key, wanted in pattern.items()  # type: ignore[attr-defined]
        )
    if kind is UnionType:
        return any([fits(each, message) for each in cast(UnionType, pattern).__args__])
    if isinstance(pattern, type):
        return isinstance(message, pattern)
    if callable(pattern):
        _check_alias(pattern)
        taken = pattern(message)
        if taken.__class__ is CoroutineType:
            taken.close()
            raise TypeError(f"{pattern!r:.100} is async; a pattern is a plain function")
        return bool(taken)
    return message.__class__ is kind and message == pattern
