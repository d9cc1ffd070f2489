"""Endings: what was cancelled in a worker and has not ended yet, and who waits for that.

Decides when the daemon is told that nothing of what it cancelled runs any more: it asks by a CALL
to SETTLE_TARGET, behind its CANCELs on the same channel, and is answered when all that was
cancelled before has ended for good. What is cancelled later does not hold the answer up.

How each kind of call ends
- a plain function is over by the time the next frame is read; in a call of many, all of them are;
- a coroutine ends at its next checkpoint, after its ``finally``; one that has not begun never does;
- a thread cannot be stopped: it ends when its function returns (a call of many: after the one that
  is under way), also where its call ended long before;
- a request that a GenServer has not begun is taken back; the verb under way is finished.

What a function started beside itself (processes, threads and programs of its own, requests to other
processes) is not its own any more, and a cast has no call that could be cancelled.

Knows no trio: loops.py and servers.py tell. References: worker/session.py, services/settling.py.
Rejected: a copy of the set for each question (32 KB each, and one to empty at each ending).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from drupelet.wire.limits import SETTLES_MAX

SETTLE_TARGET: Final = b"/settle"  # an empty mission name: not in any whitelist


class Endings:
    """`settled(ident)` is called for each question when its time has come."""

    def __init__(self, settled: Callable[[int], None]) -> None:
        self._settled = settled
        self._count = 0
        self._going: dict[object, int] = {}  # in the order of cancelling: the first is the oldest
        self._waiting: dict[int, int] = {}  # question -> the last that it waits for

    def __len__(self) -> int:
        return len(self._going)

    def cancelled(self, what: object) -> None:
        """It was told to end; `ended` follows."""
        self._count += 1
        self._going[what] = self._count

    def ended(self, what: object) -> None:
        """It runs no more. Nothing happens for what was not cancelled."""
        if self._going.pop(what, None) is None or not self._waiting:
            return
        oldest = next(iter(self._going.values()), inf)
        for ident, last in list(self._waiting.items()):
            if last >= oldest:
                break
            del self._waiting[ident]
            self._settled(ident)

    def ask(self, ident: int) -> bool:
        """The question `ident`: answered now or later. False: too many wait."""
        if not self._going:
            self._settled(ident)
        elif len(self._waiting) >= SETTLES_MAX:
            return False
        else:
            self._waiting[ident] = self._count
        return True

    def forget(self, ident: int) -> None:
        """Who asked gave up."""
        self._waiting.pop(ident, None)
