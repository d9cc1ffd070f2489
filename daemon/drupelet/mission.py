"""Missions: name the functions of a module that other nodes may call.

    # kitchen.py
    from drupelet import cast, mission

    @mission("kitchen")
    def boil(litres: float) -> str:
        return f"boiled {litres} l"

    @mission("kitchen")
    class Oven:
        def __init__(self) -> None:
            self.degrees = 20

        def heat(self, degrees: int) -> int:
            self.degrees = degrees
            return self.degrees

        @cast
        def cool(self) -> None:
            self.degrees = 20

    $ drupelet run kitchen.py
    $ drupelet call kitchen kitchen boil 1.5        # NODE MISSION FUNCTION [ARG...]
    "boiled 1.5 l"
    $ drupelet call kitchen kitchen Oven.heat 180
    180

A class that derives from GenServer is a process that its worker keeps alive; other classes are one
object. `at_start` marks a function that starts such processes itself.

What an argument may be stands in its annotation, and is checked before the function runs
(worker/arguments.py); `Range` and `Length` say what a type cannot.

Decides the marks and nothing else: a mark only leaves a note on the function or class, which stays
as it was and can be used and tested like any other. A worker process (`drupelet.worker`) reads the
notes. Marking alone exposes nothing: the operator lists the names in ``missions.d/NAME.toml`` too
(double opt-in; `drupelet run` is the single opt-in of development).

Rejected: a registry filled at import (a module imported for its helpers would expose functions),
marks by name prefix (too easy to do by accident).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final, NamedTuple, TypeVar

from drupelet.wire.limits import NAME_CHARS_MAX

INLINE: Final = "inline"
THREAD: Final = "thread"

# OTP's own callbacks: never callable from outside, whatever is listed.
CALLBACKS: Final = frozenset({"init", "handle_info", "handle_continue", "terminate"})

_MARKS: Final = "__drupelet_marks__"
_CAST: Final = "__drupelet_cast__"
_VERB: Final = "__drupelet_verb__"
_AT_START: Final = "__drupelet_at_start__"

_Marked = TypeVar("_Marked", bound=Callable[..., object])


class Mark(NamedTuple):
    """The note that `mission` leaves. A NamedTuple: mission modules import this file at start."""

    mission: str
    where: str
    prefix: bool = True
    once: bool = False


class Range:
    """Which numbers an argument may be, both ends included: ``Annotated[float, Range(0.1, 5)]``.

    Raises: `ValueError` when there is no such number, `TypeError` for ends that are no numbers.
    """

    __slots__ = ("high", "low")

    def __init__(self, low: float = -inf, high: float = inf) -> None:
        for end in (low, high):
            if type(end) not in (int, float):
                raise TypeError(f"Range goes from a number to a number, not {end!r}")
        if not low <= high:
            raise ValueError(f"Range({low!r}, {high!r}) is empty")
        self.low, self.high = low, high

    def __repr__(self) -> str:
        return f"Range({self.low!r}, {self.high!r})"


class Length:
    """How long a text, bytes, list or dict may be: ``Annotated[str, Length(1, 64)]``.

    Raises: `ValueError` when there is no such length, `TypeError` for ends that are no integers.
    """

    __slots__ = ("high", "low")

    def __init__(self, low: int, high: int) -> None:
        for end in (low, high):
            if type(end) is not int:
                raise TypeError(f"Length goes from an integer to an integer, not {end!r}")
        if not 0 <= low <= high:
            raise ValueError(f"Length({low!r}, {high!r}) is empty")
        self.low, self.high = low, high

    def __repr__(self) -> str:
        return f"Length({self.low!r}, {self.high!r})"


def mission(
    name: str, *, where: str = INLINE, prefix: bool = True, once: bool = False
) -> Callable[[_Marked], _Marked]:
    """Mark a function, or a class with its public methods, as belonging to the mission `name`.

    `where` says where a plain function runs: "inline" (in the mission's loop: it must not block or
    compute for long) or "thread" (for work that computes; the methods of one class still run one
    at a time). Async functions always run as tasks. With ``prefix=False`` the methods of a class
    are exported as ``heat`` instead of ``Oven.heat``. With ``once=True`` it is called only with an
    idempotency key, and runs once for each, also over power cuts; a call without one is refused.

    Raises: `ValueError` for a name or place that cannot be, `TypeError` for what cannot be marked.
    """
    check_name(name)
    if where not in (INLINE, THREAD):
        raise ValueError(f'where={where!r} is not known; use "{INLINE}" or "{THREAD}"')

    def mark(target: _Marked) -> _Marked:
        if not callable(target) or not hasattr(target, "__dict__"):
            raise TypeError(f"@mission marks a function or a class, not {target!r}")
        if not prefix and not isinstance(target, type):
            raise TypeError(f"prefix=False is for classes; {target!r} has no other name")
        others = tuple(old for old in marks_of(target) if old.mission != name)
        setattr(target, _MARKS, (*others, Mark(name, where, prefix, once)))
        return target

    return mark


def cast(method: _Marked) -> _Marked:
    """Mark a function or method as a cast: the caller does not wait for it and gets no value."""
    setattr(method, _CAST, True)
    return method


def verb(method: _Marked) -> _Marked:
    """Mark a method of a GenStatem or a GenEvent as what others may ask for; its body is `...`.

        @mission("door")
        class Door(GenStatem):
            @verb
            def enter(self, code: int) -> str: ...

            def locked(self, kind, content):           # a state gets ("call", ("enter", code))

    With `cast` instead nobody waits. Of a GenServer every public method is a verb.
    """
    setattr(method, _VERB, True)
    return method


def at_start(function: _Marked) -> _Marked:
    """Mark a function without arguments, plain or async, that runs before the mission's first call.

        @at_start
        async def start_store() -> Pid:
            return await Store.start_link(name="store")

    When it returns a process's pid, the worker's supervisor keeps that alive: it is linked, and the
    function runs again when the process ended otherwise than with "normal" or "shutdown".
    """
    setattr(function, _AT_START, True)
    return function


def marks_of(target: object) -> tuple[Mark, ...]:
    """The marks on this very function or class; a subclass does not inherit them."""
    marks = getattr(target, "__dict__", {}).get(_MARKS, ())
    return marks if isinstance(marks, tuple) else ()


def is_cast(target: object) -> bool:
    """Whether `cast` marked this function."""
    return getattr(target, _CAST, False) is True


def is_at_start(target: object) -> bool:
    """Whether `at_start` marked this very function."""
    return getattr(target, "__dict__", {}).get(_AT_START) is True


def check_name(name: str) -> None:
    """A mission's name is 1 to 63 ASCII letters, digits, ``-`` and ``_``. Raises: `ValueError`."""
    if not isinstance(name, str):
        raise ValueError(f'write the mission\'s name: @mission("kitchen"), not {name!r}')
    plain = name.replace("-", "").replace("_", "")
    if not (plain.isascii() and plain.isalnum()) or len(name) > NAME_CHARS_MAX:
        raise ValueError(
            f"{name[:80]!r} is no mission name; use 1 to {NAME_CHARS_MAX} letters, digits, - and _"
        )
