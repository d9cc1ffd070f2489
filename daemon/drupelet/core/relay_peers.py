"""Relays in step: who is connected where, what a peer still has to be told, where mail goes.

    peers = Peers([key_of_the_other])
    peers.linked(key, number, catalogue, now)          # our connection to it is up
    messages = peers.batch(key, accounts, catalogue, now)
    peers.answered(key, message, refusal)              # each of them
    to = peers.next_mail(key, now)                     # whose mailbox to look into
    if peers.may_move(key, to, oldest, now): ...       # hand it over

Decides nothing of accounts (`core/relay.py` has their order) and none of the bytes.

Rules
- A message moves to the relay where its recipient is, and only there: who is asked to take one
  looks whether the recipient is there now, so two relays never hand one to and fro.
- Somebody who is connected here is served here; when what waits longest for him has not moved for
  STUCK_S and he is at a peer as well, his connection here is taken for dead.
- Who was connected counts as here for LINGER_S more: a long poll comes again in no time.
- Of several peers that have somebody, the first of the configuration gets his mail.
- What is to be told is a set of keys, looked up when it is told: it is bounded by the accounts, and
  ten changes of one node, while a peer is slow, are one.
- After a new connection all is told again but accounts, which the peer counts by our changes.

References: SWIM and Serf for what is soft state; RFC 5321 for who is responsible for a message.
Rejected: mail at both relays (each receipt and each take would need both, and the death of one
would stop the other); a vote (two cannot outvote one another).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from drupelet.core.relay import Account, Accounts, Catalogue, Standing
from drupelet.wire.limits import (
    RELAY_ACCOUNTS_MAX,
    RELAY_PEER_BATCH_BYTES_MAX,
    RELAY_PEER_BATCH_MESSAGES,
)
from drupelet.wire.relay import RelayRefused
from drupelet.wire.relay_peers import (
    PeerAccount,
    PeerAnnounce,
    PeerMessage,
    PeerPresent,
    PeerWithdraw,
    age_ms,
    encode_peer,
)

LINGER_S: Final = 3.0  # between two long polls, or two connections
STUCK_S: Final = 5.0  # a node that lives acknowledges within a second
RETRY_S: Final = 5.0  # a mailbox that was full at the peer
AWAY_S: Final = 15.0  # three beats: then what a peer said of who is there counts no more
BEAT_S: Final = 5.0  # something is said at least so often
_STANDINGS: Final = (Standing.PENDING, Standing.APPROVED, Standing.DENIED)


def to_peer(number: int, account: Account) -> PeerAccount:
    """An account as it is told."""
    return PeerAccount(
        number=number,
        key=account.key,
        name=account.name,
        email=account.email,
        standing=_STANDINGS.index(account.standing),
        lifts=account.lifts,
        version=account.version,
    )


def of_peer(said: PeerAccount) -> Account:
    """The reverse."""
    return Account(
        key=said.key,
        name=said.name,
        email=said.email,
        standing=_STANDINGS[said.standing],
        lifts=said.lifts,
        version=said.version,
    )


@dataclass(frozen=True, slots=True)
class Told:
    """A message to a peer, its bytes, and whom it is about; empty: about several, or nobody."""

    message: PeerMessage
    data: bytes
    node: bytes = b""


class Presence:
    """Who is connected to this relay."""

    def __init__(self) -> None:
        self._here: dict[bytes, None] = {}
        self._leaving: dict[bytes, float] = {}  # the first to be gone is the first here

    def __contains__(self, key: bytes) -> bool:
        return key in self._here or key in self._leaving

    def keys(self) -> list[bytes]:
        """All of them."""
        return [*self._here, *self._leaving]

    def came(self, key: bytes) -> bool:
        """Its first connection. Whether it was not here."""
        known = key in self
        self._leaving.pop(key, None)
        self._here[key] = None
        return not known

    def left(self, key: bytes, now: float) -> None:
        """Its last connection has ended."""
        self._here.pop(key, None)
        self._leaving[key] = now + LINGER_S

    def moved(self, key: bytes) -> bool:
        """It is at a peer now. Whether it was about to be gone here, and is."""
        return self._leaving.pop(key, None) is not None

    def next_timer(self) -> float:
        """When somebody is gone; `inf`: never."""
        return next(iter(self._leaving.values()), math.inf)

    def handle_timer(self, now: float) -> list[bytes]:
        """Who is gone."""
        gone = []
        for key, deadline in self._leaving.items():
            if now < deadline:
                break
            gone.append(key)
        for key in gone:
            del self._leaving[key]
        return gone


class Peer:
    """Another relay: what it said, and what it is still to be told."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.linked = False
        self.present: set[bytes] = set()
        self.run = b""
        self.number = 0  # its last change of accounts that we have, of that run
        self.heard_at = -math.inf
        self.answered_at = math.inf  # when we last answered it
        # to be told
        self.told = 0  # our last change of accounts that it has
        self.announce: dict[bytes, None] = {}
        self.withdraw: dict[bytes, None] = {}
        self.presence: dict[bytes, bool] = {}
        self.fresh = True
        self.offers: dict[bytes, bytes] = {}  # node: the hash of the offers that it has
        self.mail: dict[bytes, None] = {}
        self.later: dict[bytes, float] = {}  # whose mail has to wait until when
        self.waiting: dict[bytes, tuple[int, float]] = {}  # connected here: oldest, since when

    def hears(self, now: float) -> bool:
        """Whether its connection to us is up."""
        return now < self.heard_at + AWAY_S


class Peers:
    """All other relays, and who is here."""

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self.presence = Presence()
        self._peers = {key: Peer(key) for key in keys}

    def __bool__(self) -> bool:
        return bool(self._peers)

    def __getitem__(self, key: bytes) -> Peer:
        return self._peers[key]

    def __contains__(self, key: bytes) -> bool:
        return key in self._peers

    # -- what happens here

    def came(self, key: bytes) -> None:
        """Its first connection."""
        if self.presence.came(key):
            self._tell_presence(key, True)

    def left(self, key: bytes, now: float) -> None:
        """Its last connection has ended."""
        self.presence.left(key, now)

    def announced(self, key: bytes) -> None:
        """A node has announced itself."""
        for peer in self._peers.values():
            peer.withdraw.pop(key, None)
            peer.announce[key] = None

    def withdrawn(self, key: bytes) -> None:
        """A node is out of our catalogue before its time."""
        for peer in self._peers.values():
            peer.announce.pop(key, None)
            peer.withdraw[key] = None

    def wanted(self, to: bytes) -> bool:
        """There is mail for `to`. Whether a peer may be the place for it."""
        for peer in self._peers.values():
            if peer.linked and to in peer.present:
                peer.later.pop(to, None)
                peer.mail[to] = None
                return True
        return False

    def at(self, key: bytes) -> bytes | None:
        """The peer that has that node, as far as it said; the first of the configuration."""
        having = (peer.key for peer in self._peers.values() if key in peer.present)
        return next(having, None)

    def handle_timer(self, now: float) -> list[bytes]:
        """Who is gone; their mail may be `wanted` elsewhere."""
        gone = self.presence.handle_timer(now)
        for key in gone:
            self._tell_presence(key, False)
        for peer in self._peers.values():
            if not peer.hears(now):
                peer.present.clear()
            due = [key for key, deadline in peer.later.items() if now >= deadline]
            for key in due:
                del peer.later[key]
                peer.mail[key] = None
        return gone

    def _tell_presence(self, key: bytes, here: bool) -> None:
        for peer in self._peers.values():
            peer.presence[key] = here

    # -- what a peer says

    def entered(self, key: bytes, run: bytes, now: float) -> int:
        """It has logged in. The number of its last change of accounts that we have."""
        peer = self._peers[key]
        peer.heard_at = now
        if peer.run != run:
            peer.run, peer.number = run, 0
        peer.answered_at = now
        return peer.number

    def heard(self, key: bytes, idle_s: float, now: float) -> float:
        """A batch of it came. How long it was on the way, at the very most.

        Raises: `RelayRefused`: it was silent for too long, and has to begin anew.
        """
        peer = self._peers[key]
        if not peer.hears(now):
            raise RelayRefused("denied", "log in again")
        peer.heard_at = now
        return max(0.0, now - peer.answered_at - idle_s)

    def hear_presence(self, key: bytes, said: PeerPresent, keys: Sequence[bytes]) -> list[bytes]:
        """`keys` have come to it. Those whose mail here is to be looked at."""
        peer = self._peers[key]
        if said.fresh:
            peer.present.clear()
        come = []
        for node in keys:
            if len(peer.present) < RELAY_ACCOUNTS_MAX:
                peer.present.add(node)
                come.append(node)
                if self.presence.moved(node):
                    self._tell_presence(node, False)
        return come

    def hear_gone(self, key: bytes, keys: Iterable[bytes]) -> None:
        """`keys` have left it."""
        self._peers[key].present.difference_update(keys)

    # -- what a peer is told

    def linked(
        self, key: bytes, number: int, announced: Iterable[bytes], waiting: Iterable[bytes]
    ) -> None:
        """Our connection to it is up; it has our changes up to `number`.

        `announced`: who is in our own catalogue. `waiting`: who has mail here.
        """
        peer = self._peers[key]
        peer.linked = True
        peer.told = number
        peer.announce = dict.fromkeys(announced)
        peer.withdraw.clear()
        peer.presence = dict.fromkeys(self.presence.keys(), True)
        peer.fresh = True
        peer.offers.clear()
        for to in waiting:
            self.wanted(to)

    def unlinked(self, key: bytes) -> None:
        """Our connection to it has ended; other peers may have who has mail."""
        peer = self._peers[key]
        peer.linked = False
        for to in [*peer.mail, *peer.later]:
            self.wanted(to)
        peer.mail.clear()
        peer.later.clear()
        peer.waiting.clear()

    def batch(self, key: bytes, accounts: Accounts, catalogue: Catalogue, now: float) -> list[Told]:
        """What to tell it next: at most half a batch, and no mail."""
        peer = self._peers[key]
        told: list[Told] = []
        room, size = RELAY_PEER_BATCH_MESSAGES // 2, RELAY_PEER_BATCH_BYTES_MAX // 4

        def add(message: PeerMessage, node: bytes = b"") -> bool:
            """Whether there is room for another."""
            nonlocal room, size
            data = encode_peer(message)
            told.append(Told(message, data, node))
            room, size = room - 1, size - len(data)
            return room > 0 and size > 0

        for number, account in accounts.since(peer.told, room):
            if not add(to_peer(number, account)):
                return told
        if peer.fresh or peer.presence:
            nodes = list(peer.presence)[:RELAY_PEER_BATCH_MESSAGES]  # keys of one message
            here = [peer.presence.pop(node) for node in nodes]
            come = b"".join(node for node, is_here in zip(nodes, here, strict=True) if is_here)
            gone = b"".join(node for node, is_here in zip(nodes, here, strict=True) if not is_here)
            fresh, peer.fresh = peer.fresh, False
            if not add(PeerPresent(fresh=fresh, come=come, gone=gone)):
                return told
        while peer.withdraw:
            node = next(iter(peer.withdraw))
            del peer.withdraw[node]
            peer.offers.pop(node, None)
            if not add(PeerWithdraw(key=node)):
                return told
        while peer.announce:
            node = next(iter(peer.announce))
            del peer.announce[node]
            shown = catalogue.own(node, peer.offers.get(node, b""), now)
            if shown is not None:
                peer.offers[node] = shown.offers_hash
                said = PeerAnnounce(announcement=shown.data, age_ms=age_ms(shown.age_s))
                if not add(said, node):
                    return told
        return told

    def answered(self, key: bytes, told: Told, refusal: str) -> None:
        """It has answered; `refusal`: the code, or empty."""
        peer = self._peers[key]
        if isinstance(told.message, PeerAccount):
            # Also one that it has no room for: the others behind that one matter as well.
            peer.told = max(peer.told, told.message.number)
        elif refusal and isinstance(told.message, PeerAnnounce):
            peer.offers.pop(told.node, None)
            if refusal == "offers_wanted":
                peer.announce.setdefault(told.node)

    # -- mail

    def next_mail(self, key: bytes) -> bytes | None:
        """Whose mailbox to look into for it; then it is not told again before there is news."""
        peer = self._peers[key]
        while peer.mail:
            to = next(iter(peer.mail))
            del peer.mail[to]
            if to in peer.present:
                return to
        return None

    def may_move(self, key: bytes, to: bytes, oldest: int, now: float) -> bool:
        """Whether the peer gets the mail for `to`, whose oldest message has that number."""
        peer = self._peers[key]
        if to not in self.presence:
            peer.waiting.pop(to, None)
            return True
        number, since = peer.waiting.get(to, (0, now))
        if number == oldest and now >= since + STUCK_S:
            return True
        if number != oldest:
            since = now
        peer.waiting[to] = (oldest, since)
        peer.later[to] = since + STUCK_S
        return False

    def empty(self, key: bytes, to: bytes) -> None:
        """There was no mail for `to`."""
        self._peers[key].waiting.pop(to, None)

    def moved(self, key: bytes, to: bytes, refusal: str, now: float) -> None:
        """All that was handed over for `to` was taken, or some was refused."""
        peer = self._peers[key]
        peer.waiting.pop(to, None)
        if not refusal:
            peer.mail[to] = None  # there may be more
        elif refusal == "not_found":
            peer.present.discard(to)
            self.wanted(to)
        else:
            peer.later[to] = now + RETRY_S

    def next_timer(self) -> float:
        """When `handle_timer` has something to do; `inf`: not yet."""
        timers = [self.presence.next_timer()]
        for peer in self._peers.values():
            timers += peer.later.values()
            if peer.present:
                timers.append(peer.heard_at + AWAY_S)
        return min(timers)
