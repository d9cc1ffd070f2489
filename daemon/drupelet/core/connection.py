"""Connection: is the other end of one link still there, and how far away is it?

Decides when to PING, when the peer counts as dead, and how a link ends in order.

Rules
- Any traffic proves life. A PING goes out only when nothing was received for `interval_s`; the
  driver answers a peer's PING with PONG itself.
- The peer is dead half an interval after the `missed_max`-th PING in a row that nothing answered:
  with 1 s and 4 after 4.5 s of silence, so that `NodeDown` comes within 5 s.
- If *our* timer fires late by half an interval, we were stopped (SIGSTOP, a suspended machine) or
  starved, and the peer's bytes may wait unread in the socket: we PING and look again one interval
  later. At most three times in a row, so that a machine that is always late still notices.
- Goodbye: `goodbye(reason)` sends GOODBYE once and waits at most GOODBYE_S for the peer's answer;
  a peer's GOODBYE is answered by closing at once.

References: OTP `net_kernel` ticks (four ticks per `net_ticktime`); here a tick is 1 s, not 15.
Ideas rejected: PING always (half of the traffic of an idle cluster for nothing); TCP keepalive (the
kernel answers for a stopped process); an accrual detector (a second number to explain, and the
links of a home network are alike).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from math import inf
from typing import Final

from drupelet.core.effects import ConnectionEffect, Dead, SendGoodbye, SendPing
from drupelet.wire import limits

GOODBYE_S: Final = 1.0  # how long an orderly close waits for the peer to agree
LATE_IN_A_ROW_MAX: Final = 3  # extra looks that a starved machine gets before it believes itself
PINGS_MAX: Final = 8  # tokens remembered; more are never under way before the peer counts as dead
_SMOOTHING: Final = 0.125  # weight of a new sample in round_trip_s, as in RFC 6298


class State(enum.Enum):
    """Where a link is in its life."""

    OPEN = "open"
    CLOSING = "closing"  # we said goodbye and wait for the peer to close
    CLOSED = "closed"  # `Dead` was given out; nothing follows


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStatistics:
    """What is known of one link. The round trip is None until the first PONG."""

    state: State
    round_trip_s: float | None
    round_trip_min_s: float | None
    ping_count: int
    late_count: int


class Connection:
    """Keepalive and orderly end of one link.

    `last_received` is public: a driver on the hot path sets it to `now` instead of calling
    `received`.
    """

    __slots__ = (
        "_closing_at",
        "_dead_span_s",
        "_effects",
        "_interval_s",
        "_late",
        "_late_in_a_row",
        "_pings",
        "_pings_sent",
        "_reason",
        "_round_trip_min_s",
        "_round_trip_s",
        "_state",
        "_timer",
        "last_received",
    )

    def __init__(
        self,
        now: float,
        interval_s: float = limits.KEEPALIVE_S,
        missed_max: int = limits.KEEPALIVE_MISSED_MAX,
    ) -> None:
        self._interval_s = interval_s
        self._dead_span_s = interval_s * (missed_max + 0.5)
        self._effects: list[ConnectionEffect] = []
        self._pings: dict[int, float] = {}  # token -> when sent
        self._pings_sent = 0
        self._state = State.OPEN
        self._reason = ""
        self._closing_at = inf
        self._late = 0
        self._late_in_a_row = 0
        self._round_trip_s: float | None = None
        self._round_trip_min_s: float | None = None
        self.last_received = now
        self._timer = now + interval_s

    @property
    def state(self) -> State:
        """The state of the link."""
        return self._state

    @property
    def reason(self) -> str:
        """Why the link ends or ended; "" while it is open."""
        return self._reason

    @property
    def round_trip_s(self) -> float | None:
        """Smoothed round trip in seconds, None until measured."""
        return self._round_trip_s

    def received(self, now: float) -> None:
        """Bytes came from the peer."""
        self.last_received = now

    def ping(self, now: float) -> int:
        """Measure now: gives out a `SendPing` and returns its token."""
        self._pings_sent += 1
        token = self._pings_sent
        if len(self._pings) >= PINGS_MAX:
            del self._pings[next(iter(self._pings))]
        self._pings[token] = now
        self._effects.append(SendPing(token))
        return token

    def pong(self, token: int, now: float) -> float | None:
        """The peer answered. Returns the round trip in seconds, None for a token not under way."""
        self.last_received = now
        sent = self._pings.pop(token, None)
        if sent is None:
            return None
        sample_s = now - sent
        if self._round_trip_s is None or self._round_trip_min_s is None:
            self._round_trip_s = self._round_trip_min_s = sample_s
        else:
            self._round_trip_s += _SMOOTHING * (sample_s - self._round_trip_s)
            self._round_trip_min_s = min(self._round_trip_min_s, sample_s)
        return sample_s

    def goodbye(self, reason: str, now: float) -> None:
        """End the link in order. A second call changes nothing."""
        if self._state is State.OPEN:
            self._state = State.CLOSING
            self._reason = reason
            self._closing_at = now + GOODBYE_S
            self._effects.append(SendGoodbye(reason))

    def goodbye_received(self, reason: str, now: float) -> None:
        """The peer ends the link in order, or agrees to our goodbye."""
        self.last_received = now
        if self._state is State.OPEN:
            self._reason = reason
        self._close()

    def closed(self, reason: str = "closed") -> None:
        """The transport ended by itself (end of file, reset)."""
        if self._state is State.OPEN:
            self._reason = reason
        self._close()

    def handle_timer(self, now: float) -> None:
        """Look at the clock; effects follow in `take_effects`."""
        if now < self.next_timer():
            return
        if self._state is State.CLOSING:
            self._close()
            return
        late = now - self._timer >= self._interval_s / 2
        dead_at = self.last_received + self._dead_span_s
        idle_since = self.last_received + self._interval_s
        if late and now >= idle_since and self._late_in_a_row < LATE_IN_A_ROW_MAX:
            self._late += 1
            self._late_in_a_row += 1
            self.ping(now)
            self._timer = now + self._interval_s
            return
        self._late_in_a_row = 0
        if now >= dead_at:
            self._reason = "down"
            self._close()
            return
        if now >= idle_since:
            self.ping(now)
            self._timer = min(now + self._interval_s, dead_at)
        else:
            self._timer = idle_since

    def next_timer(self) -> float:
        """When to call `handle_timer` next; inf: never."""
        if self._state is State.OPEN:
            return self._timer
        return self._closing_at if self._state is State.CLOSING else inf

    def take_effects(self) -> list[ConnectionEffect]:
        """What to do, in order; each is given out once."""
        effects = self._effects
        self._effects = []
        return effects

    def statistics(self) -> ConnectionStatistics:
        """A snapshot of the counters."""
        return ConnectionStatistics(
            state=self._state,
            round_trip_s=self._round_trip_s,
            round_trip_min_s=self._round_trip_min_s,
            ping_count=self._pings_sent,
            late_count=self._late,
        )

    def _close(self) -> None:
        if self._state is not State.CLOSED:
            self._state = State.CLOSED
            self._effects.append(Dead(self._reason))
