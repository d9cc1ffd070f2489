"""Buckets: how often something may happen.

Decides with integers alone: a bucket holds tokens in units of which one call costs `period` (in
nanoseconds) and each nanosecond brings `count`, so nothing is ever rounded, however long it runs.
`now` is monotonic seconds; a clock that is set changes nothing.

    bucket = Bucket(10, 60, burst=20, now=now)      # 10 a minute, 20 at once after a rest
    wait_s = bucket.wait_s(now)                     # 0.0: one may go
    bucket.take()
    wait_s = charge(buckets, now)                   # both, with all of them or with none

References: the leaky bucket as a meter (Turner, 1986); ATM's generic cell rate algorithm is the
same with the roles of time and tokens exchanged.
Rejected: floating point (0.1 s steps do not add up to 1 s); windows (twice the rate at a border).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_NS: Final = 1_000_000_000


class Bucket:
    """`count` calls in `period_s` seconds, at most `burst` at once. It begins full."""

    __slots__ = ("_at", "_capacity", "_cost", "_gain", "_level")

    def __init__(self, count: int, period_s: int, *, burst: int, now: float) -> None:
        assert count > 0 and period_s > 0 and burst > 0
        self._gain = count
        self._cost = period_s * _NS
        self._capacity = burst * self._cost
        self._level = self._capacity
        self._at = int(now * _NS)

    def wait_s(self, now: float) -> float:
        """Seconds until a call may go; 0.0: it may."""
        at = int(now * _NS)
        if at > self._at:
            self._level = min(self._level + (at - self._at) * self._gain, self._capacity)
            self._at = at
        missing = self._cost - self._level
        return -(-missing // self._gain) / _NS if missing > 0 else 0.0

    def take(self) -> None:
        """A call goes; `wait_s` was 0.0."""
        assert self._level >= self._cost
        self._level -= self._cost

    def rested(self, now: float) -> bool:
        """Whether it is full: one that is forgotten and made anew would be the same."""
        self.wait_s(now)
        return self._level == self._capacity


def charge(buckets: Iterable[Bucket], now: float) -> float:
    """Take from each, or from none: the seconds until all could give. 0.0: they gave.

    The same as `wait_s` and `take` of each, in one loop: it is run for every stranger's call.
    """
    at = int(now * _NS)
    wait_ns = 0
    for bucket in buckets:
        level = bucket._level
        if at > bucket._at:
            level += (at - bucket._at) * bucket._gain
            if level > bucket._capacity:
                level = bucket._capacity
            bucket._level = level
            bucket._at = at
        if level < bucket._cost:
            wait_ns = max(wait_ns, -((level - bucket._cost) // bucket._gain))
    if wait_ns:
        return wait_ns / _NS
    for bucket in buckets:
        bucket._level -= bucket._cost
    return 0.0
