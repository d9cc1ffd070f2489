"""Network: paths between hosts, and the pipes on them, which carry things in order.

Decides when what was sent arrives. A `Pipe` is one direction of one connection: a TCP socket's, or
a Unix socket's between a runtime and its daemon. Its things arrive in order, each after its path's
latency, until it ends.

Rules
- A cut path stalls: nothing arrives, nothing is lost, and after `heal` what had stalled arrives, as
  TCP sends it again. Who hears nothing for so long that four pings went unanswered is told
  (`silent`), at an instant drawn from the span in which `core/connection.py` would notice.
- A pipe ends with everything under way (`close`), with part of it lost (`close(lose=...)`: a reset,
  a process that was killed) or without a sign (`go_dark`: the power went).
- Nothing here knows what it carries.

References: trio's clock, `process/timers.py`. Rejected: packets that are lost and overtake each
other (TCP hides that; `simulator/` has them for discovery); a trio task per pipe (25 us a thing).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from random import Random
from typing import Final

import trio

from drupelet.process.timers import Entry, Timers
from drupelet.wire.limits import KEEPALIVE_MISSED_MAX, KEEPALIVE_S

DEAD_S: Final = KEEPALIVE_S * (KEEPALIVE_MISSED_MAX + 0.5)  # of silence: core/connection.py


class End:
    """The last thing in a pipe."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Path:
    """One direction between two hosts."""

    __slots__ = ("cut_count", "is_cut", "jitter_s", "latency_s", "network", "pipes")

    def __init__(self, network: Network, latency_s: float, jitter_s: float) -> None:
        self.network = network
        self.latency_s = latency_s
        self.jitter_s = jitter_s
        self.is_cut = False
        self.cut_count = 0
        self.pipes: list[Pipe] = []

    def delay_s(self) -> float:
        """How long the next thing takes."""
        if self.jitter_s:
            return self.latency_s + self.jitter_s * self.network.random.random()
        return self.latency_s

    def cut(self) -> None:
        """Nothing arrives any more."""
        if self.is_cut:
            return
        self.is_cut = True
        self.cut_count += 1
        for pipe in self.pipes:
            pipe.stall()

    def heal(self) -> None:
        """What stalled arrives."""
        if not self.is_cut:
            return
        self.is_cut = False
        for pipe in self.pipes:
            pipe.go_on()


class Network:
    """What all paths share: the timers, and where chance comes from."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.timers = Timers()
        self.effects: Counter[str] = Counter()  # what faults did: things lost, stalled, cut short

    def path(self, latency_s: float, jitter_s: float = 0.0) -> Path:
        """A new path."""
        return Path(self, latency_s, jitter_s)

    def after(self, span_s: float, action: Callable[[], None]) -> Entry:
        """Do `action` after so many seconds of the simulated time."""
        return self.timers.add(trio.current_time() + span_s, action)


class Pipe:
    """One direction of one connection.

    `receive` gets each thing, `ended` the reason of the end; `silent` is called when nothing could
    arrive for too long.
    """

    __slots__ = (
        "_arrival",
        "_ended",
        "_entry",
        "_queue",
        "_receive",
        "_sent_at",
        "_silent",
        "is_closed",
        "is_dark",
        "path",
    )

    def __init__(
        self,
        path: Path,
        receive: Callable[[object], None],
        ended: Callable[[str], None],
        silent: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self.is_closed = False
        self.is_dark = False
        self._receive = receive
        self._ended = ended
        self._silent = silent
        self._queue: deque[tuple[float, object]] = deque()
        self._entry: Entry | None = None
        self._sent_at = -1.0
        self._arrival = 0.0
        path.pipes.append(self)

    def __len__(self) -> int:
        return len(self._queue)

    def send(self, thing: object) -> None:
        """Send it; after the end, nothing happens."""
        if self.is_closed:
            return
        now = trio.current_time()
        if now != self._sent_at:  # what is sent at one instant arrives at one instant
            self._sent_at = now
            self._arrival = max(self._arrival, now + self.path.delay_s())
        self._queue.append((self._arrival, thing))
        if self._entry is None and not self.path.is_cut:
            self._entry = self.path.network.timers.add(self._arrival, self._due)

    def close(self, reason: str = "closed", lose: Callable[[object], object] | None = None) -> None:
        """Send nothing more. `lose`: of what is under way, only a part arrives; it may cut a thing:
        it gets the first one that is lost and says what is left of it, or None."""
        if self.is_closed:
            return
        if lose is not None and self._queue:
            kept = self.path.network.random.randrange(len(self._queue) + 1)
            lost = list(self._queue)[kept:]
            for _ in lost:
                self._queue.pop()
            rest = lose(lost[0][1]) if lost else None
            self.path.network.effects["lost"] += len(lost)
            if rest is not None:
                self.path.network.effects["cut_short"] += 1
                self._queue.append((lost[0][0], rest))
        self.send(End(reason))
        self.is_closed = True

    def go_dark(self) -> None:
        """The sender lost its power: nothing more comes, not even an end."""
        self.is_closed = self.is_dark = True
        self.path.network.effects["lost"] += len(self._queue)
        self._queue.clear()
        self._watch()

    def drop(self) -> None:
        """Nobody reads it any more."""
        self.is_closed = True
        self._queue.clear()
        if self in self.path.pipes:
            self.path.pipes.remove(self)

    def stall(self) -> None:
        """Its path was cut."""
        self.path.network.effects["stalled"] += len(self._queue)
        if self._entry is not None:
            self.path.network.timers.cancel(self._entry)
            self._entry = None
        self._watch()

    def go_on(self) -> None:
        """Its path was mended."""
        if self._queue and self._entry is None:
            self._arrival = max(self._arrival, trio.current_time() + self.path.delay_s())
            self._entry = self.path.network.timers.add(self._arrival, self._due)

    def _watch(self) -> None:
        """The last sign of life came up to a ping's interval ago."""
        if self._silent is not None:
            count = self.path.cut_count
            span_s = DEAD_S - self.path.network.random.random() * KEEPALIVE_S
            self.path.network.after(span_s, lambda: self._still_silent(count))

    def _still_silent(self, count: int) -> None:
        is_silent = self.is_dark or (self.path.is_cut and self.path.cut_count == count)
        if is_silent and self in self.path.pipes and self._silent is not None:
            self._silent()

    def _due(self) -> None:
        self._entry = None
        if self.path.is_cut:
            return
        now = trio.current_time()
        while self._queue and self._queue[0][0] <= now:
            _, thing = self._queue.popleft()
            if isinstance(thing, End):
                self.drop()
                self._ended(thing.reason)
                return
            self._receive(thing)
        if self._queue and self._entry is None:
            self._entry = self.path.network.timers.add(self._queue[0][0], self._due)
