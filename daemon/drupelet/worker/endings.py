"""Endings: what was cancelled in a worker and has not ended yet, and who waits for that.

Decides when the daemon is told that nothing of what it cancelled runs any more: it asks by a CALL
to SETTLE_TARGET, behind its CANCELs on the same channel, and is answered when the calls that it
names have ended for good, or, when it names none, all that was cancelled before. What others
cancelled, or what is cancelled later, does not hold the answer up.

How each kind of call ends
- a plain function is over by the time the next frame is read; in a call of many, all of them are;
- a coroutine ends at its next checkpoint, after its ``finally``; one that has not begun never does;
- a thread cannot be stopped: it ends when its function returns (a call of many: after the one that
  is under way), also where its call ended long before;
- a request that a GenServer has not begun is taken back; the verb under way is finished.

What a stranger's call started beside itself is cancelled with it (leases.py). What a member's
started is not its own any more.

Knows no trio: loops.py and servers.py tell. References: worker/session.py, services/settling.py.
Rejected: a copy of the set for each question that names none (32 KB each, and one to empty at each
ending).
"""

from __future__ import annotations

from collections.abc import Callable, Container
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
        self._of: dict[object, int] = {}  # of which call it is, where that counts
        self._waiting: dict[int, int] = {}  # question -> the last that it waits for
        self._named: dict[int, set[object]] = {}  # question -> what it waits for

    def __len__(self) -> int:
        return len(self._going)

    def cancelled(self, what: object, ident: int = 0) -> None:
        """It was told to end; `ended` follows. `ident`: the call that it belongs to."""
        if what in self._going:
            return
        self._count += 1
        self._going[what] = self._count
        if ident:
            self._of[what] = ident

    def ended(self, what: object) -> None:
        """It runs no more. Nothing happens for what was not cancelled."""
        if self._going.pop(what, None) is None:
            return
        self._of.pop(what, None)
        for ident, left in list(self._named.items()):
            left.discard(what)
            if not left:
                del self._named[ident]
                self._settled(ident)
        oldest = next(iter(self._going.values()), inf)
        for ident, last in list(self._waiting.items()):
            if last >= oldest:
                break
            del self._waiting[ident]
            self._settled(ident)

    def ask(self, ident: int, calls: Container[int] | None = None) -> bool:
        """The question `ident`: answered now or later. False: too many wait.

        `calls`: those that it is about; None: all.
        """
        left = set(self._going)
        if calls is not None:
            left = {what for what, call in self._of.items() if call in calls}
        if not left:
            self._settled(ident)
        elif len(self._waiting) + len(self._named) >= SETTLES_MAX:
            return False
        elif calls is None:
            self._waiting[ident] = self._count
        else:
            self._named[ident] = left
        return True

    def forget(self, ident: int) -> None:
        """Who asked gave up."""
        self._waiting.pop(ident, None)
        self._named.pop(ident, None)
