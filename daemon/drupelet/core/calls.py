"""Calls: those that are open on one channel, and their deadlines.

Decides ids and what is overdue. This is the hot path of every call, so there are no effects and no
object per call: opening costs one dict store and one comparison, closing one dict pop.

Rules
- Ids go up by two from `first_ident` (the side that opened the channel uses even ids, frames.py),
  start again below 2**32 and skip 0 and ids in use.
- `next_timer` is a *lower bound* of all deadlines. Closing a call leaves it as it is; when it is
  reached, `expire` looks at the whole table once and finds the exact minimum. Two such scans are at
  least 10 ms apart, or 20 times what a scan takes, so scanning costs at most 5 % of a processor.
- Each call leaves the table exactly once: by `close`, `expire` or `drain`. One that was answered
  and of which something runs on may be put back (`keep`): its id stays taken, and nothing is due.

Ideas rejected: a heap of deadlines (1 us a call, and cancelled entries pile up); a timer wheel
(nearly all calls end long before their deadline; buckets cost a store and a deletion more).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from drupelet.errors import NoConnection
from drupelet.wire import limits

_IDENT_LIMIT: Final = 2**32  # an id is a u32 on the wire
SCAN_GAP_S: Final = 0.010  # a deadline is met within 10 ms: below what a caller in Python notices
_SCAN_GAP_PER_CALL_S: Final = 1e-6  # 20 times the 50 ns that a scan takes per call


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStatistics:
    """Counters of one `CallTable`."""

    open_count: int
    late_count: int
    expired_count: int
    refused_count: int


class CallTable:
    """The open calls of one channel, in one direction.

    `first_ident` is 1 or 2: its parity is ours. `calls_max` bounds the table.
    """

    __slots__ = (
        "_calls",
        "_calls_max",
        "_expired",
        "_first_ident",
        "_late",
        "_next_ident",
        "_next_scan",
        "_refused",
        "_soonest",
        "parity",
    )

    def __init__(self, first_ident: int, calls_max: int = limits.CALLS_PER_LINK_MAX) -> None:
        if first_ident not in (1, 2):
            raise ValueError(f"first_ident is 1 (odd ids) or 2 (even ids), not {first_ident}")
        self._calls: dict[int, tuple[object, float]] = {}
        self._calls_max = calls_max
        self._first_ident = first_ident
        self.parity = first_ident & 1  # of the ids that this side gives out
        self._next_ident = first_ident
        self._soonest = inf
        self._next_scan = -inf
        self._late = 0
        self._expired = 0
        self._refused = 0

    def __len__(self) -> int:
        return len(self._calls)

    def open(self, waiter: object, deadline: float) -> int:
        """Enter a call; `waiter` is whatever `close` shall give back. Returns its id.

        `deadline` is an instant of the driver's clock; inf means none.

        Raises: `NoConnection("overloaded")` when `calls_max` are open.
        """
        calls = self._calls
        ident = self._next_ident
        if len(calls) >= self._calls_max:
            self._refused += 1
            raise NoConnection("overloaded", maybe_ran=False)
        if ident >= _IDENT_LIMIT or ident in calls:
            ident = self._free_ident()
        self._next_ident = ident + 2
        calls[ident] = (waiter, deadline)
        if deadline < self._soonest:
            self._soonest = deadline
        return ident

    def close(self, ident: int) -> object | None:
        """A reply came, or the caller gave up. Returns the waiter.

        None: no such call, a late or duplicate reply; it is counted and to be ignored.
        """
        entry = self._calls.pop(ident, None)
        if entry is None:
            self._late += 1
            return None
        return entry[0]

    def keep(self, ident: int, waiter: object) -> None:
        """Put back what was just closed or expired, until it is closed again."""
        self._calls[ident] = (waiter, inf)

    def peek(self, ident: int) -> object | None:
        """The waiter of an open call, which stays open; None: no such call."""
        entry = self._calls.get(ident)
        return None if entry is None else entry[0]

    def next_timer(self) -> float:
        """When to call `expire` next; inf: never. May be earlier than any deadline, never later
        than the soonest by more than the gap between scans."""
        soonest = self._soonest
        return soonest if soonest > self._next_scan else self._next_scan

    def expire(self, now: float) -> list[tuple[int, object]]:
        """Take out the calls whose deadline is reached, as (id, waiter), oldest first."""
        if now < self.next_timer():
            return []
        calls = self._calls
        overdue = [(ident, entry[0]) for ident, entry in calls.items() if now >= entry[1]]
        for ident, _ in overdue:
            del calls[ident]
        self._expired += len(overdue)
        self._soonest = min((deadline for _, deadline in calls.values()), default=inf)
        self._next_scan = now + max(SCAN_GAP_S, len(calls) * _SCAN_GAP_PER_CALL_S)
        return overdue

    def drain(self) -> list[tuple[int, object]]:
        """Take out every call, as (id, waiter), oldest first: the channel is gone."""
        rest = [(ident, entry[0]) for ident, entry in self._calls.items()]
        self._calls.clear()
        self._soonest = inf
        return rest

    def statistics(self) -> CallStatistics:
        """A snapshot of the counters."""
        return CallStatistics(
            open_count=len(self._calls),
            late_count=self._late,
            expired_count=self._expired,
            refused_count=self._refused,
        )

    def _free_ident(self) -> int:
        ident = self._next_ident
        for _ in range(self._calls_max + 1):  # at most calls_max ids are in use
            if ident >= _IDENT_LIMIT:
                ident = self._first_ident
            if ident not in self._calls:
                return ident
            ident += 2
        raise AssertionError("no free call id, though the table is not full")
