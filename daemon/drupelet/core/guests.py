"""Guests: whose password counts now, and for whom there is room.

Decides by counting, for one chan server: connections whose password is not proved yet, those that
are open, and wrong passwords, each per address.

Rules
- The third wrong password (CHAN_TRIES_MAX) from an address within CHAN_BACKOFF_S of the one before
  makes it wait CHAN_BACKOFF_S: nothing from it is looked at, not even a right one. On loopback
  too: a chan's guests may all sit behind one proxy there, and the password is all there is.
- Wrong ones are forgotten CHAN_BACKOFF_S after the last; a right one clears nothing, or who has the
  password of one service could guess at another's for ever.
- A driver asks twice: at the door (nobody shakes hands with who has to wait) and when the proof is
  there, since many connections may have come in before the first wrong password was counted.
- At most UNAUTHENTICATED_MAX guests without a password, UNAUTHENTICATED_PER_ADDRESS_MAX from one
  address; CHAN_CONNECTIONS_MAX open, CHAN_CONNECTIONS_PER_ADDRESS_MAX to one address.
- The table of wrong passwords keeps PENALTY_ADDRESSES_MAX addresses; the oldest goes first. An
  address is what `admission.group_of` says: an IPv4 address or an IPv6 /64.

Ideas rejected: doubling the span as `admission` does (feature 65 says 60 s; three guesses a minute
are nothing to a password of six letters); one count for all addresses (one guesser would lock
everybody out).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from drupelet.core.admission import group_of
from drupelet.wire import limits


class Turned(enum.Enum):
    """Why a guest was turned away at the door."""

    WAIT = "wait"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestStatistics:
    """Counters of one `Guests`."""

    under_way: int
    open: int
    welcomed_count: int
    wrong_count: int
    turned_wait_count: int
    turned_full_count: int
    wrong_addresses: int


@dataclass(frozen=True, slots=True)
class _Wrong:
    tries: int
    forgotten_at: float


class Guests:
    """The doorkeeper of one chan server."""

    __slots__ = ("_open", "_turned", "_under_way", "_welcomed", "_wrong", "_wrong_count")

    def __init__(self) -> None:
        self._under_way: dict[str, int] = {}
        self._open: dict[str, int] = {}
        self._wrong: dict[str, _Wrong] = {}  # oldest first
        self._turned = dict.fromkeys(Turned, 0)
        self._welcomed = 0
        self._wrong_count = 0

    def knock(self, address: str, now: float) -> Turned | None:
        """Whether a connection from `address` may shake hands: None lets it.

        Each that may must be given to `leave` or `enter` once.
        """
        group, _ = group_of(address)
        turned = None
        if self.wait_s(address, now) > 0.0:
            turned = Turned.WAIT
        elif (
            self._under_way.get(group, 0) >= limits.UNAUTHENTICATED_PER_ADDRESS_MAX
            or sum(self._under_way.values()) >= limits.UNAUTHENTICATED_MAX
        ):
            turned = Turned.FULL
        if turned is not None:
            self._turned[turned] += 1
            return turned
        self._under_way[group] = self._under_way.get(group, 0) + 1
        return None

    def leave(self, address: str) -> None:
        """A connection that shook hands ended before its password was proved."""
        _take_one(self._under_way, group_of(address)[0])

    def wait_s(self, address: str, now: float) -> float:
        """For how long no password from `address` counts; 0: one counts now."""
        wrong = self._wrong.get(group_of(address)[0])
        if wrong is None or wrong.tries < limits.CHAN_TRIES_MAX:
            return 0.0
        return max(0.0, wrong.forgotten_at - now)

    def wrong(self, address: str, now: float) -> None:
        """A wrong password from `address`."""
        group, _ = group_of(address)
        old = self._wrong.pop(group, None)
        tries = 1 if old is None or now >= old.forgotten_at else old.tries + 1
        if len(self._wrong) >= limits.PENALTY_ADDRESSES_MAX:
            del self._wrong[next(iter(self._wrong))]
        self._wrong[group] = _Wrong(tries, now + limits.CHAN_BACKOFF_S)
        self._wrong_count += 1

    def enter(self, address: str) -> bool:
        """A right password: whether there is room. True: give it to `close` once; else `leave`."""
        group, _ = group_of(address)
        if (
            self._open.get(group, 0) >= limits.CHAN_CONNECTIONS_PER_ADDRESS_MAX
            or sum(self._open.values()) >= limits.CHAN_CONNECTIONS_MAX
        ):
            self._turned[Turned.FULL] += 1
            return False
        _take_one(self._under_way, group)
        self._open[group] = self._open.get(group, 0) + 1
        self._welcomed += 1
        return True

    def close(self, address: str) -> None:
        """A guest that had entered is gone."""
        _take_one(self._open, group_of(address)[0])

    def next_timer(self) -> float:
        """Never: the table is looked at when somebody comes."""
        return float("inf")

    def statistics(self) -> GuestStatistics:
        """A snapshot of the counters."""
        return GuestStatistics(
            under_way=sum(self._under_way.values()),
            open=sum(self._open.values()),
            welcomed_count=self._welcomed,
            wrong_count=self._wrong_count,
            turned_wait_count=self._turned[Turned.WAIT],
            turned_full_count=self._turned[Turned.FULL],
            wrong_addresses=len(self._wrong),
        )


def _take_one(counts: dict[str, int], group: str) -> None:
    count = counts.get(group, 0)
    assert count > 0, "one that was never counted"
    if count == 1:
        del counts[group]
    else:
        counts[group] = count - 1
