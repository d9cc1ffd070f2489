"""Patterns: which message a selective `receive` takes.

Decides what a pattern may be:

| pattern                          | takes                                                        |
|----------------------------------|--------------------------------------------------------------|
| None, `ANY`                      | every message                                                |
| a type: ``Down``, ``int``        | its instances (bool is no int here)                          |
| a tuple: ``("ok", ANY, int)``    | tuples of that length whose items fit                        |
| a list: ``["a", ANY]``           | lists of that length whose items fit                         |
| a dict: ``{"kind": "temp"}``     | dicts that have these keys, with values that fit             |
| a function                       | what it returns something true for: write a `match` in it    |
| anything else                    | what is equal, of the same type                              |

    def an_answer(message):
        match message:
            case ("ok", value): return True
            case ("error", reason): return True

    message = await receive(an_answer)

Rule: a pattern of data never runs the author's code, so a sender can try it at once; a function is
tried in the receiver, where its exception belongs.
Rejected: a string language for patterns; `match` on a peeked mailbox (it hides what was taken).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Predicate = Callable[[object], object]


class _Any:
    """See `ANY`."""

    def __repr__(self) -> str:
        return "ANY"


ANY: Final = _Any()
"""In a pattern: every value."""


def is_function(pattern: object) -> bool:
    """Whether `pattern` is the author's code, and no type."""
    return callable(pattern) and not isinstance(pattern, type)


def fits(pattern: object, message: object) -> bool:
    """Whether a pattern of data (or a function in it) takes `message`."""
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
    if isinstance(pattern, type):
        return isinstance(message, pattern)
    if callable(pattern):
        return bool(pattern(message))
    return message.__class__ is kind and message == pattern
