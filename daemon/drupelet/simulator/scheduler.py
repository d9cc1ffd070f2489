"""Scheduler: virtual time, and what happens when.

Decides the order of events: by time, then by the order in which they were scheduled, so that a run
depends on its seed alone.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Callable
from typing import Final

EVENTS_MAX: Final = 2_000_000  # of one run; a machine that wakes itself would never end
_TAIL_LINES: Final = 60  # of the trace, shown with a failure


class Scheduler:
    """The clock of one run. `now` is in seconds since its start."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._events = 0
        self._digest = hashlib.sha256()
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def at(self, instant: float, action: Callable[[], None]) -> None:
        """Do `action` at `instant`, at once if that is past."""
        self._sequence += 1
        heapq.heappush(self._queue, (max(instant, self.now), self._sequence, action))

    def after(self, span_s: float, action: Callable[[], None]) -> None:
        """Do `action` after `span_s`."""
        self.at(self.now + span_s, action)

    def run_until(self, end: float) -> None:
        """Let everything happen that is due up to `end`."""
        queue = self._queue
        while queue and queue[0][0] <= end:
            self.now, _, action = heapq.heappop(queue)
            self._events += 1
            if self._events > EVENTS_MAX:
                raise RuntimeError(f"more than {EVENTS_MAX} events by {self.now:.3f} s")
            action()
        self.now = end

    def trace(self, what: str) -> None:
        """Note an event; the hash of all notes tells whether two runs were the same."""
        line = f"{self.now!r} {what}"
        self._digest.update(line.encode())
        self.tail.append(line)

    @property
    def event_count(self) -> int:
        """Events so far."""
        return self._events

    def trace_hash(self) -> str:
        """16 hex digits over all notes."""
        return self._digest.hexdigest()[:16]
