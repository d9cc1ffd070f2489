"""Freshness: a signed request counts once, and only for a minute.

Decides with tokens of the callee's own making, so that no clock of anybody's is needed: every
TOKEN_S a new random token; the last TOKENS_MAX are accepted; a caller signs over one that it was
given. The ids of requests that were accepted are kept for twice as long as their token lives, so a
second delivery is known from a first. After a boot all tokens are new and nothing old is accepted.

    freshness = Freshness(random 16 bytes, now)
    while freshness.next_timer() <= now: freshness.rotate(random 16 bytes, now)
    match freshness.take(token, ident): FRESH, STALE or UNKNOWN (sign again), REPLAYED, FULL

Rules
- A token says nothing: who has one has only learned that the node was up.
- An id is remembered when it is accepted, so a refused request can be corrected and sent again.
- A full table refuses new requests, it never forgets an id early: else whoever fills it could
  replay.

References: RFC 6479 and QUIC's address validation tokens for tokens of the responder's own; the
server nonces of DPoP (RFC 9449, section 8), which need a clock only to expire.
Rejected: timestamps (a Pi has no clock until it has a network, and a wrong one is an outage);
counters per caller (durable state, on both sides, for each pair).
"""

from __future__ import annotations

import enum
from typing import Final

from drupelet.wire.limits import REPLAY_IDS_MAX

TOKEN_S: Final = 10.0
TOKENS_MAX: Final = 6  # a minute: the slowest way, a long poll, takes half of it
KEPT_MAX: Final = 2 * TOKENS_MAX
_TOKEN_BYTES: Final = 16


class Verdict(enum.Enum):
    """What to do with a request."""

    FRESH = "fresh"
    STALE = "stale"  # sign again over the newest token; this one was not accepted
    UNKNOWN = "unknown"  # the same, and it may have been: its token is too old, or of another boot
    REPLAYED = "replayed"  # it was accepted before: answer with what it was answered then
    FULL = "full"  # too many requests in two windows


class Freshness:
    """The tokens and ids of one callee. `token`: its first, 16 random bytes."""

    __slots__ = ("_count", "_next_at", "_windows")

    def __init__(self, token: bytes, now: float) -> None:
        self._windows: dict[bytes, set[bytes]] = {}  # token -> ids accepted under it, oldest first
        self._count = 0
        self._next_at = now
        self.rotate(token, now)

    @property
    def newest(self) -> bytes:
        """The token to sign over."""
        return next(reversed(self._windows))

    def next_timer(self) -> float:
        """When `rotate` is to be called."""
        return self._next_at

    def rotate(self, token: bytes, now: float) -> None:
        """A new token, 16 random bytes; the oldest is forgotten, with its ids.

        Called late (the machine slept), the missed turns are caught up by calling again.
        """
        assert len(token) == _TOKEN_BYTES and token not in self._windows
        self._windows[token] = set()
        while len(self._windows) > KEPT_MAX:
            ids = self._windows.pop(next(iter(self._windows)))
            self._count -= len(ids)
        self._next_at = max(self._next_at, now - KEPT_MAX * TOKEN_S) + TOKEN_S

    def take(self, token: bytes, ident: bytes) -> Verdict:
        """Judge a request whose signature holds, and remember it if it is fresh."""
        ids = self._windows.get(token)
        if ids is None:
            return Verdict.UNKNOWN
        if ident in ids:
            return Verdict.REPLAYED
        if token not in list(self._windows)[-TOKENS_MAX:]:
            return Verdict.STALE
        if self._count >= REPLAY_IDS_MAX:
            return Verdict.FULL
        ids.add(ident)
        self._count += 1
        return Verdict.FRESH
