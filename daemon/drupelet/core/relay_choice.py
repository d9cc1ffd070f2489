"""Which relay a node uses, by which way, and how long it waits before.

    choice = RelayChoice(count of relays, random)
    attempt = choice.next(now)          # the relay's place, WEBSOCKET or LONG_POLL, seconds to wait
    choice.up(now)                      # it let us in
    choice.ended(how, now)              # it ended, or never was

Rules
- One relay at a time. It stays while it works; one that was up is tried once more before the next,
  since most ends are a restart, or a router's; not one that is silent: it may be frozen. After a
  failure the next is tried at once; when all have failed, after a delay that doubles, with jitter.
- Where a WebSocket does not pass (no upgrade), or was cut without a word CUTS_MAX times within
  CUT_S of its beginning, the long poll is used for POLL_S; then a WebSocket is tried again, each
  time for longer. A long poll that does not pass either tells that the relay is down.
- A relay that refuses us is asked again too, seldom: its owner may change his mind.

References: RFC 6202 (long polling); "full jitter" (core/backoff.py).
Rejected: the nearest relay (a measurement, for one round trip that nobody sees); all relays at once
(twice the traffic, and messages that come twice each time); back to the first (a second break for
no gain: relays are kept in step).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from drupelet.core.backoff import Backoff

FIRST_S: Final = 0.5
LONGEST_S: Final = 8.0  # without an answer: back within seconds after a restart
REFUSED_FIRST_S: Final = 4.0
REFUSED_LONGEST_S: Final = 60.0
STEADY_S: Final = 10.0  # up for so long: the relay works
CUT_S: Final = 60.0
CUTS_MAX: Final = 2
POLL_S: Final = 600.0
POLL_LONGEST_S: Final = 7_200.0


class By(enum.Enum):
    """A way. The value is for people."""

    WEBSOCKET = "websocket"
    LONG_POLL = "long poll"


class End(enum.Enum):
    """How an attempt ended."""

    GONE = "gone"  # not reached, silent, broken, or closed in order
    SILENT = "silent"  # it takes connections, or has ours, and says nothing
    NOT_PASSED = "not passed"  # the relay's host answers, but not with a WebSocket
    CUT = "cut"  # a WebSocket that ended without a word
    REFUSED = "refused"  # the relay's answer
    TURNED = "turned"  # a long poll, for a WebSocket


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What to try."""

    place: int  # of the relay, in the list
    by: By
    wait_s: float


@dataclass(slots=True)
class _Place:
    """What is known of one relay."""

    poll_s: float  # how long the next time by long poll is
    poll_until: float = 0.0
    cuts: int = 0


class RelayChoice:
    """The choices of one node among `count` relays. `random` gives floats in [0, 1)."""

    def __init__(
        self,
        count: int,
        random: Callable[[], float],
        *,
        first_s: float = FIRST_S,
        refused_first_s: float = REFUSED_FIRST_S,
    ) -> None:
        assert count > 0
        self._places = [_Place(poll_s=POLL_S) for _ in range(count)]
        self._at = 0
        self._wait_s = 0.0
        self._failed = 0  # in a row
        self._up_at: float | None = None
        self._gone = Backoff(first_s, LONGEST_S, random)
        self._refused = Backoff(refused_first_s, REFUSED_LONGEST_S, random)

    def next(self, now: float) -> Attempt:
        """What to try now, after `wait_s`."""
        place = self._places[self._at]
        by = By.LONG_POLL if place.poll_until > now + self._wait_s else By.WEBSOCKET
        return Attempt(place=self._at, by=by, wait_s=self._wait_s)

    def up(self, now: float) -> None:
        """The relay has let us in."""
        self._up_at = now

    def turn_at(self) -> float:
        """Until when a long poll is used."""
        return self._places[self._at].poll_until

    def ended(self, how: End, now: float, wait_s: float = 0.0) -> None:
        """The attempt, or what came of it, is over. `wait_s`: the relay asks for so much."""
        up_s = now - self._up_at if self._up_at is not None else -1.0
        self._up_at = None
        place = self._places[self._at]
        if up_s >= STEADY_S:
            self._failed = 0
            self._gone.reset()
            self._refused.reset()
        if how is End.TURNED:
            self._wait_s = 0.0
        elif now < place.poll_until and up_s < 0:  # the poll does not pass either: it is the relay
            place.poll_until = 0.0
            place.poll_s = max(place.poll_s / 2, POLL_S)
            self._fail(self._refused if how is End.REFUSED else self._gone)
        elif how is End.NOT_PASSED or (how is End.CUT and self._is_cut_off(place, up_s)):
            place.cuts = 0
            place.poll_until = now + place.poll_s
            place.poll_s = min(2 * place.poll_s, POLL_LONGEST_S)
            self._wait_s = 0.0
        elif how is End.CUT and 0 <= up_s < CUT_S:
            self._wait_s = self._gone.next_delay_s()
        elif up_s >= STEADY_S and how is not End.SILENT:
            self._wait_s = self._gone.next_delay_s()  # the same once more
        else:
            self._fail(self._refused if how is End.REFUSED else self._gone)
        self._wait_s = max(self._wait_s, wait_s)

    def _is_cut_off(self, place: _Place, up_s: float) -> bool:
        if up_s >= CUT_S:  # it passes, and did for long: it was a router, or the relay
            place.cuts = 0
            place.poll_s = POLL_S
        elif up_s >= 0:
            place.cuts += 1
        return place.cuts >= CUTS_MAX

    def _fail(self, backoff: Backoff) -> None:
        self._failed += 1
        self._at = (self._at + 1) % len(self._places)
        self._wait_s = backoff.next_delay_s() if self._failed % len(self._places) == 0 else 0.0
