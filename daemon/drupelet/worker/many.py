"""Many calls of one function that came as one CALL frame (flag MANY, wire/frames.py).

Decides how they run: plain functions in turn, inline; asynchronous ones all at once; threaded ones
in turn in one thread. Each has its own outcome: the answer is ``[[value...], {index: error}]``.
When the call is cancelled, those that have not begun never do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from drupelet.errors import CallError, RemoteError, error_to_fields
from drupelet.wire.limits import MANY_CALLS_MAX
from drupelet.worker.arguments import complaint
from drupelet.worker.targets import IN_THREAD, INLINE, TASK, Target

AsError = Callable[[BaseException], CallError]


class Outcomes:
    """Values and errors by index."""

    __slots__ = ("_as_error", "_give_up", "_stopped", "_target", "errors", "values")

    def __init__(self, target: Target, count: int, as_error: AsError) -> None:
        self._target = target
        self._as_error = as_error
        self.values: list[object] = [None] * count
        self.errors: dict[int, list[object]] = {}
        self._stopped = False
        self._give_up: list[Callable[[], None]] = []  # the requests at a server

    def stop(self) -> None:
        """The call was cancelled."""
        self._stopped = True
        for give_up in self._give_up:
            give_up()

    def check(self, index: int, args: object) -> list[object] | None:
        """The arguments when they fit; else the error is noted."""
        target = self._target
        if isinstance(args, list) and target.arity_min <= len(args) <= target.arity_max:
            wrong = complaint(target.name, target.checks, args)
            if not wrong:
                return args
        else:
            what = f"{len(args)} given" if isinstance(args, list) else "not an array of arguments"
            wrong = f"{target.shown}: {what}"
        self.errors[index] = error_to_fields(RemoteError("badarg", wrong))
        return None

    def fail(self, index: int, error: BaseException) -> None:
        """The call raised."""
        self.errors[index] = error_to_fields(self._as_error(error))

    def run_in_turn(self, calls: list[object]) -> list[object]:
        """For functions that return their value; gives the answer."""
        for index, each in enumerate(calls):
            if self._stopped:
                break
            args = self.check(index, each)
            if args is None:
                continue
            try:
                value = self._target.function(*args)
            except (Exception, SystemExit) as error:  # the function's, told to its caller
                self.fail(index, error)
            else:
                self.values[index] = None if self._target.is_cast else value
        return self.answer()

    async def run_at_once(self, calls: list[object]) -> list[object]:
        """For asynchronous functions; gives the answer."""
        import trio  # only missions with such functions have it

        async def one(index: int, args: list[object]) -> None:
            try:
                value = await cast(Awaitable[object], self._target.function(*args))
            except (Exception, SystemExit) as error:  # the function's, told to its caller
                self.fail(index, error)
            else:
                self.values[index] = None if self._target.is_cast else value

        async with trio.open_nursery() as nursery:
            for index, each in enumerate(calls):
                args = self.check(index, each)
                if args is not None:
                    nursery.start_soon(one, index, args)
        return self.answer()

    async def run_in_server(self, calls: list[object]) -> list[object]:
        """For a GenServer, which gets them in their order; gives the answer."""
        slot = self._target.slot
        if slot is None:
            self._target.function()  # raises: it is not started
        else:
            fitting = [
                (index, args)
                for index, each in enumerate(calls)
                if (args := self.check(index, each)) is not None
            ]
            asked = [args for _, args in fitting]
            outcomes = await slot.ask_all(self._target.verb, asked, self._give_up)
            for (index, _), (value, error) in zip(fitting, outcomes, strict=True):
                if error is None:
                    self.values[index] = value
                else:
                    self.fail(index, error)
        return self.answer()

    def answer(self) -> list[object]:
        """The value of the one CALL."""
        return [self.values, self.errors]


def many_target(target: Target, calls: object, as_error: AsError) -> Target | None:
    """A target that runs all of `calls` when it is called with them; None for another shape."""
    if not isinstance(calls, list) or len(calls) > MANY_CALLS_MAX:
        return None
    outcomes = Outcomes(target, len(calls), as_error)
    run: Callable[..., object] = outcomes.run_in_turn
    if target.how == TASK:
        run = outcomes.run_in_server if target.server else outcomes.run_at_once
    combined = Target(target.name, run, owner=target.owner)
    combined.how = IN_THREAD if target.how == IN_THREAD else TASK if target.how == TASK else INLINE
    combined.stop = outcomes.stop
    return combined
