"""Timers of a runtime: one heap, one task, nothing per receive.

Decides when what is due happens. An entry is a list ``[deadline, order, action]``; cancelling it
clears the action and leaves the entry where it is until it is due, or until such entries are the
larger half of the heap: a call with a timeout costs a push and, on average, half a pop.

Rules: equal deadlines in the order in which they were set; deadlines are stored and compared, never
recomputed; the task sleeps until the first deadline, and is woken only for an earlier one.

References: `heapq`, "Priority Queue Implementation Notes" (entries that are marked as removed).
Rejected: a cancel scope per receive (3 us and 600 bytes); a wheel (1 ms ticks while idle).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from math import inf
from typing import Final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

Entry = list[object]

_CLEARED_MIN: Final = 512  # fewer are not worth a rebuild


def check_seconds(seconds: object) -> float:
    """A number of seconds, perhaps infinite or below 0.

    Raises: `TypeError` for what is no number, `ValueError` for NaN or one beyond a float's range.
    """
    if not isinstance(seconds, (int, float)):
        raise TypeError(f"a time is a number of seconds, not {seconds!r:.100}")
    try:
        number = float(seconds)
    except OverflowError:
        raise ValueError("that many seconds never pass; math.inf waits for ever") from None
    if number != number:
        raise ValueError("NaN is no number of seconds")
    return number


class Timers:
    """The timers of one runtime."""

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._order = count()
        self._cleared = 0
        self._wakes_at = inf
        self._sleeper: Task | None = None

    def __len__(self) -> int:
        return len(self._heap) - self._cleared

    def add(self, deadline: float, action: Callable[[], None]) -> Entry:
        """Run `action` at `deadline` (trio's clock). It must not raise, nor wait."""
        entry: Entry = [deadline, next(self._order), action]
        heapq.heappush(self._heap, entry)
        if deadline < self._wakes_at:
            self._wakes_at = deadline
            if self._sleeper is not None:
                sleeper, self._sleeper = self._sleeper, None
                reschedule(sleeper)
        return entry

    def cancel(self, entry: Entry) -> bool:
        """It does not run any more; False when it ran, or was cancelled before."""
        if entry[2] is None:
            return False
        entry[2] = None
        self._cleared += 1
        if self._cleared > _CLEARED_MIN and self._cleared * 2 > len(self._heap):
            self._heap = [each for each in self._heap if each[2] is not None]
            heapq.heapify(self._heap)
            self._cleared = 0
        return True

    async def run(self) -> None:
        """Run what is due, for ever."""
        while True:
            await self._wait()
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:  # type: ignore[operator]
                entry = heapq.heappop(self._heap)
                action, entry[2] = entry[2], None
                if action is None:
                    self._cleared -= 1
                else:
                    action()  # type: ignore[operator]

    async def _wait(self) -> None:
        """Until the first entry is due, or an earlier one was added."""
        deadline: float = self._heap[0][0] if self._heap else inf  # type: ignore[assignment]
        self._wakes_at = deadline

        def abort(_: object) -> Abort:
            self._sleeper = None
            return Abort.SUCCEEDED

        with trio.CancelScope(deadline=deadline):
            self._sleeper = current_task()
            await wait_task_rescheduled(abort)
