"""The relay of the simulated run: faithful, or as hostile as its run says.

Decides the way of each message, and what is told of where a node is. It keeps all that ever went
by, in the clear as it came, and both hostile parties have all of it too.

What a hostile relay does, each with the chance that its run drew: drops, delivers twice, lets
others overtake, holds for minutes, flips a bit, brings what it brought before (to the same or to
another), gives one call's answer to another call, lies about the sender, holds an answer back and
brings its request again two minutes later (so that tokens are old), and shows beacons that are old,
another node's, or of its own making.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from drupelet.core.relay import Catalogue
from drupelet.wire import sodium
from drupelet.wire.announcements import decode_announcement, encode_announcement, encode_offers
from drupelet.wire.relay import RelayRefused

if TYPE_CHECKING:
    from tests.sim.stranger_ledger import Deed
    from tests.sim.stranger_world import World

FAULTS = (
    "drop",
    "twice",
    "overtaken",
    "held",
    "altered",
    "replayed",
    "misdirected",
    "crossed",
    "wrong_sender",
    "straddled",
    "old_beacon",
    "other_beacon",
    "forged_beacon",
)
HOLD_S = (20.0, 200.0)
STRADDLE_S = (100.0, 140.0)  # two windows after the token was new
OFTEN = 0.12


@dataclass(eq=False)
class Message:
    """One message. `deed`, `tags`: for the ledger alone."""

    sender: bytes
    to: bytes
    ident: bytes
    re: bytes | None
    body: bytes
    tags: tuple[str, ...] = ()
    put: bool = False  # over HTTP
    deed: Deed | None = field(default=None, compare=False)


class Relay:
    """One relay. `chances`: of each fault."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.catalogue = Catalogue(self.random.randbytes(16))
        self.seed = self.random.randbytes(32)  # what it forges beacons with
        self.private = self.random.randbytes(32)
        self.archive: list[Message] = []
        self.boxes: dict[bytes, list[Message]] = defaultdict(list)
        self.beacons: dict[bytes, list[bytes]] = defaultdict(list)
        self.chances = dict.fromkeys(FAULTS, 0.0)
        self.straddled: set[bytes] = set()

    def turn_hostile(self) -> None:
        """For this run; some do only some of it."""
        for fault in FAULTS:
            if self.random.random() < 0.6:
                self.chances[fault] = self.random.uniform(0.02, OFTEN)
        self.chances["straddled"] *= 2.5  # little comes of most

    def turn_faithful(self) -> None:
        """What it held back, it brings."""
        self.chances = dict.fromkeys(FAULTS, 0.0)

    def _does(self, fault: str) -> bool:
        chance = self.chances[fault]
        if not chance or self.random.random() >= chance:
            return False
        self.world.fired[fault] += 1
        return True

    # -- messages

    def put(self, message: Message) -> None:
        """A party sends something."""
        self.world.ledger.known.append(message.body)
        self.archive.append(message)
        delay_s = self.random.uniform(0.005, 0.08)
        if message.ident in self.straddled or (message.re in self.straddled):
            return  # the answer is held back for ever
        if self._does("drop"):
            return
        if self._does("overtaken"):
            delay_s += self.random.uniform(0.1, 4.0)
        if self._does("held"):
            delay_s += self.random.uniform(*HOLD_S)
            message = _tagged(message, "held")
        self.world.after(delay_s, self.arrives, message)
        if self._does("twice"):
            for _ in range(self.random.randint(1, 2)):
                again_s = delay_s + self.random.choice((0.0, 0.01, 0.5, 30.0))
                self.world.after(again_s, self.arrives, _tagged(message, "twice"))
        if self._does("altered"):
            self.world.after(delay_s / 2, self.arrives, self._altered(message))
        if message.re is None:
            self._with_request(message, delay_s)
        elif self._does("crossed"):
            others = [each for each in self.archive if each.re is None and each.ident != message.re]
            if others:
                other = self.random.choice(others)
                crossed = replace(message, to=other.sender, re=other.ident, tags=("crossed",))
                self.world.after(delay_s, self.arrives, crossed)
        if self._does("replayed"):
            old = _tagged(self.random.choice(self.archive), "replayed")
            self.world.after(self.random.uniform(0, 90), self.arrives, old)
        if self._does("misdirected"):
            old = self.random.choice(self.archive)
            to = self.random.choice(list(self.world.keys.values()))
            lost = replace(old, to=to, tags=("misdirected",))
            self.world.after(delay_s, self.arrives, lost)

    def _with_request(self, message: Message, delay_s: float) -> None:
        if self._does("wrong_sender"):
            liar = self.random.choice(list(self.world.keys.values()))
            told = replace(message, sender=liar, tags=("wrong_sender",))
            self.world.after(delay_s * self.random.random(), self.arrives, told)
        if self._does("straddled"):
            self.straddled.add(message.ident)
            again = _tagged(message, "straddled")
            for _ in range(3):
                self.world.after(self.random.uniform(*STRADDLE_S), self._straddles, again)

    def _straddles(self, message: Message) -> None:
        self.straddled.discard(message.ident)  # this time, the answer goes through
        self.arrives(message)

    def _altered(self, message: Message) -> Message:
        body = bytearray(message.body)
        match self.random.randrange(4):
            case 0:
                del body[self.random.randrange(len(body)) :]
            case 1:
                body += self.random.randbytes(self.random.randint(1, 40))
            case _:
                body[self.random.randrange(len(body))] ^= 1 << self.random.randrange(8)
        return replace(message, body=bytes(body), tags=("altered",))

    def arrives(self, message: Message) -> None:
        """At its recipient, or in the mailbox of one that is off."""
        if not self.world.deliver(message):
            self.boxes[message.to].append(message)

    def node_up(self, key: bytes) -> None:
        """It is back: its mailbox is brought."""
        for message in self.boxes.pop(key, []):
            self.world.after(self.random.uniform(0.05, 0.5), self.arrives, message)

    # -- where nodes are

    def announced(self, key: bytes, data: bytes) -> None:
        """A node announces itself."""
        announcement = decode_announcement(data)
        self.catalogue.announce(key, announcement, self.world.now)
        self.beacons[key].append(announcement.beacon.data)

    def find(self, asker: bytes, key: bytes, grant: bytes) -> bytes | None:
        """The beacon of a node, or what the relay shows for it."""
        self.world.announce_if_due(key)
        if self.beacons[key] and self._does("old_beacon"):
            return self.random.choice(self.beacons[key])
        if self._does("other_beacon"):
            others = [each[-1] for other, each in self.beacons.items() if other != key and each]
            return self.random.choice(others) if others else None
        if self._does("forged_beacon"):
            return self._forged(key)
        try:
            return self.catalogue.find(asker, key, grant, self.world.now)[2]
        except RelayRefused:
            return None

    def _forged(self, key: bytes) -> bytes:
        """The node's name and key, and a boot key of the relay's own."""
        made = encode_announcement(
            self.seed,
            name=self.world.names[key],
            boot_key=sodium.x25519_public(self.private),
            token=self.random.randbytes(16),
            run=self.catalogue.run,
            sequence=10**6,
            offers=encode_offers(key, {}),
        )
        own = sodium.ed25519_public(self.seed)
        beacon = decode_announcement(made).beacon.data
        return beacon.replace(own, key) if self.random.random() < 0.7 else beacon


def _tagged(message: Message, tag: str) -> Message:
    return replace(message, tags=(tag,))
