"""Announcing: what a node tells a relay of itself, and how often.

Decides when `wire/announcements.py` is said: each ANNOUNCE_S, and within LOOK_S when grants change.
A node that offers nothing is seen by nobody, and only says each QUIET_S that it is there. The
answers are how it knows that the relay is: nobody pings (`net/relay_socket.py`, SILENT_S).

Rules
- Idle is cheap: the offers are left out while the relay has them, so an announcement is 300 bytes
  (daemon/docs/RELAY.md has the figures of a minute).
- The relay's word `rate_limited` delays an announcement; other refusals end the connection.

Rejected: one at each new token (10 s: twice the bytes; a token is good for a minute, and a caller
whose token is too old signs again over the newest, core/requests.py).
"""

from __future__ import annotations

import re
from math import inf
from typing import Final, NamedTuple, Protocol

import trio

from drupelet.net.relay_way import RelayGone, RelayWay
from drupelet.wire import relay as wire
from drupelet.wire import sodium
from drupelet.wire.announcements import encode_announcement, encode_offers

ANNOUNCE_S: Final = 20.0  # it counts for 30 s
QUIET_S: Final = 30.0  # the relay ends a connection that says nothing for 90 s; routers forget it
LOOK_S: Final = 1.0
LATER: Final = ("rate_limited", "busy")  # refusals that pass
_TRIES: Final = 3
_LAST: Final = re.compile(r"last: ([0-9]{1,18})")


class Offered(NamedTuple):
    """What is announced."""

    offers: dict[str, tuple[bytes, ...]]  # who may see us, for each mission
    boot_key: bytes
    token: bytes


class Offering(Protocol):
    """Who knows what is to be announced."""

    def version(self) -> int:
        """Changes when the offers do."""
        ...

    def offered(self) -> Offered:
        """What is announced now."""
        ...


class Announcer:
    """What one node has announced, and to whom."""

    def __init__(self, offering: Offering, *, seed: bytes, name: str) -> None:
        self.offering = offering
        self._seed = seed
        self._key = sodium.ed25519_public(seed)
        self._name = name
        self._there: tuple[bytes, bytes] = (b"", b"")  # in which run of a relay, which offers
        self._sequence = 0
        self.version = -1  # of the offering, as it was announced last
        self.announced_at = -inf
        self.announced = trio.Event()  # a new one after each announcement
        self.leaving = False  # then nothing is said any more

    async def run(self, way: RelayWay) -> None:
        """Announce until the way ends. Raises: `RelayGone`, `RelayRefused`."""
        while not self.leaving:
            every_s = ANNOUNCE_S if self.offering.offered().offers else QUIET_S
            next_at = self.announced_at + every_s
            while (  # noqa: ASYNC110
                trio.current_time() < next_at and self.offering.version() == self.version
            ):
                await trio.sleep(min(LOOK_S, max(next_at - trio.current_time(), 0.0)))
            if self.leaving:
                return
            try:
                await self.announce(way)
            except wire.RelayRefused as refusal:
                if refusal.code not in LATER:
                    raise
                await trio.sleep(max(refusal.retry_after_s, LOOK_S))

    async def announce(self, way: RelayWay) -> None:
        """Now. Raises: `RelayGone`, `RelayRefused`."""
        version, offered = self.offering.version(), self.offering.offered()
        offers = encode_offers(self._key, offered.offers)
        run = way.run_id
        # None is as long as null, and the relay may have forgotten it meanwhile.
        with_offers = self._there != (run, offers) or not offered.offers
        if self._there[0] != run:
            self._sequence = 0
        for _ in range(_TRIES):
            self._sequence += 1
            announcement = encode_announcement(
                self._seed,
                name=self._name,
                boot_key=offered.boot_key,
                token=offered.token,
                run=run,
                sequence=self._sequence,
                offers=offers,
                with_offers=with_offers,
            )
            try:
                await way.ask(wire.Announce(ref=0, announcement=announcement))
                self._there, self.version = (run, offers), version
                self.announced_at = trio.current_time()
                told, self.announced = self.announced, trio.Event()
                told.set()
                return
            except wire.RelayRefused as refusal:
                last = _LAST.match(refusal.text)
                if refusal.code == "offers_wanted":
                    with_offers = True
                elif refusal.code == "replayed" and last is not None:
                    self._sequence = int(last[1])
                else:
                    raise
        raise RelayGone("the relay takes no announcement")
