"""The relay's decisions: who has an account, who sees which node, whose mailbox has room.

    accounts.admit(key)                          # raises RelayRefused: not_registered, ...
    catalogue.announce(asker, announcement, now) # 30 s
    catalogue.seen_by(asker, after, now)         # only what the asker's key matches
    mailboxes.admit(sender, to, size)            # raises RelayRefused: mailbox_full
    allowances.charge(key, "send", now)          # raises RelayRefused: rate_limited

Rules
- An account is a node's key. An invite approves it at once and is used up; an email address waits
  for the relay's owner. What is refused says which: not_registered, not_verified, denied.
- `now` is monotonic seconds. Announcements are told apart by run and sequence, not by time, so a
  replay is refused however the clocks stand. A sequence is remembered as long as the relay runs.
- A missing node and one that is not for the asker get the same refusal.
- One sender takes at most half of a mailbox, so none can shut all others out of it.
- A table that is full refuses; nothing that was accepted is dropped for something new.

References: STUN/TURN allocations (RFC 8656) for what a relay owes to whom; SMTP's 550 and 450.
Rejected: accounts by address and password (the key is there); a mailbox for keys without an
account (anybody could fill the disk).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from drupelet.core.buckets import Bucket
from drupelet.errors import RemoteProtocolError
from drupelet.wire.announcements import Announcement, encode_shown, holder_digest, holds
from drupelet.wire.grants import decode_grant
from drupelet.wire.limits import (
    MAILBOX_BYTES_MAX,
    MAILBOX_MESSAGES_MAX,
    RELAY_ACCOUNTS_MAX,
    RELAY_PENDING_MAX,
    RELAY_SENDS_PER_SECOND,
    RELAY_VERSION_TOP,
)
from drupelet.wire.relay import RelayRefused

ANNOUNCED_S: Final = 30.0
MESSAGE_OVERHEAD_BYTES: Final = 128  # what a message costs beside its body
_PAGE: Final = 64  # nodes in one answer of the catalogue
_SWEEP_S: Final = 1.0  # how long what a peer has announced may lie here when it is over
_SWEEP: Final = 2_048  # buckets, before those that have rested are forgotten


# -- accounts


class Standing(enum.Enum):
    """What the owner thinks of an account."""

    APPROVED = "approved"
    PENDING = "pending"
    DENIED = "denied"


_STANDINGS: Final = (Standing.PENDING, Standing.APPROVED, Standing.DENIED)  # the last one counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One key that may use the relay, or asked to.

    `lifts`: how often its standing was taken back (a denial lifted). `version`: how often it was
    written since. Two relays that wrote it apart from each other both keep the one of higher
    `rank`: a denial counts until somebody who has seen it lifts it.
    """

    key: bytes
    name: str
    email: str
    standing: Standing
    lifts: int = 0
    version: int = 1

    @property
    def rank(self) -> tuple[int, int, int, str, str]:
        """Which of two is kept; only those that are the same in all have the same."""
        standing = _STANDINGS.index(self.standing)
        return self.lifts, standing, self.version, self.name, self.email

    def after(self, known: Account | None) -> Account:
        """This, written over `known`, which was there; `known` itself when it says the same."""
        if known is None:
            return replace(self, lifts=0, version=1)
        if (known.name, known.email, known.standing) == (self.name, self.email, self.standing):
            return known
        back = _STANDINGS.index(self.standing) < _STANDINGS.index(known.standing)
        lifts, version = known.lifts + back, known.version + 1
        return replace(
            self,
            lifts=min(lifts, RELAY_VERSION_TOP),
            version=min(version, RELAY_VERSION_TOP),
        )


class Accounts:
    """All accounts, by key. The store keeps them; this judges.

    Each change has a number, in this run of the relay, for those who keep in step with it.
    """

    def __init__(self, accounts: Iterable[Account] = ()) -> None:
        self._accounts: dict[bytes, Account] = {}
        self._numbers: dict[bytes, int] = {}  # the last to change is the last here
        self._number = 0
        self.load(accounts)

    def __len__(self) -> int:
        return len(self._accounts)

    def get(self, key: bytes) -> Account | None:
        """The account of `key`, whatever its standing."""
        return self._accounts.get(key)

    def load(self, accounts: Iterable[Account]) -> None:
        """All accounts anew: the owner has changed some."""
        found = {account.key: account for account in accounts}
        for key in self._accounts.keys() - found.keys():
            del self._accounts[key], self._numbers[key]
        for account in found.values():
            self.put(account)

    def put(self, account: Account) -> None:
        """The store has it."""
        if self._accounts.get(account.key) == account:
            return
        self._accounts[account.key] = account
        self._number += 1
        self._numbers.pop(account.key, None)
        self._numbers[account.key] = self._number

    def since(self, number: int, count: int) -> list[tuple[int, Account]]:
        """What has changed after the change `number`, oldest first, at most `count`."""
        newer: list[tuple[int, Account]] = []
        for key in reversed(self._numbers):
            if self._numbers[key] <= number:
                break
            newer.append((self._numbers[key], self._accounts[key]))
        return newer[: -count - 1 : -1]

    def admit(self, key: bytes) -> Account:
        """The account, if it may use the relay. Raises: `RelayRefused`."""
        account = self._accounts.get(key)
        if account is None:
            raise RelayRefused("not_registered", "register with an invite or an email address")
        if account.standing is Standing.PENDING:
            raise RelayRefused("not_verified", "the owner of the relay has not approved it yet")
        if account.standing is Standing.DENIED:
            raise RelayRefused("denied")
        return account

    def may_receive(self, key: bytes) -> bool:
        """Whether there is a mailbox for `key`."""
        account = self._accounts.get(key)
        return account is not None and account.standing is Standing.APPROVED

    def application(self, key: bytes, name: str, email: str, *, invited: bool) -> Account:
        """The account that a registration makes. The invite is good: the store looked.

        Raises: `RelayRefused`. A key that was denied stays so; an approved one is as it was.
        """
        known = self._accounts.get(key)
        if known is not None:
            if known.standing is Standing.DENIED:
                raise RelayRefused("denied")
            if known.standing is Standing.APPROVED:
                return known
            standing = Standing.APPROVED if invited else Standing.PENDING
            return replace(known, name=name, email=email or known.email, standing=standing)
        if len(self._accounts) >= RELAY_ACCOUNTS_MAX:
            raise RelayRefused("busy", "this relay has no room for more accounts")
        if not invited:
            waiting = sum(one.standing is Standing.PENDING for one in self._accounts.values())
            if waiting >= RELAY_PENDING_MAX:
                raise RelayRefused("busy", "too many accounts wait for the owner")
        standing = Standing.APPROVED if invited else Standing.PENDING
        return Account(key=key, name=name, email=email, standing=standing)


# -- the catalogue


@dataclass(slots=True)
class _Live:
    beacon: bytes
    name: str
    offers: Mapping[str, bytes]
    offers_hash: bytes
    until: float


class _Nodes:
    """Those that have announced themselves in one run of a relay: this one, or another."""

    def __init__(self, run: bytes) -> None:
        self.run = run
        self.live: dict[bytes, _Live] = {}
        self._sequences: dict[bytes, int] = {}  # at most one for each account that there was

    def announce(self, announcement: Announcement, until: float) -> None:
        """Keep it. Raises: `RelayRefused`."""
        beacon = announcement.beacon
        last = self._sequences.get(beacon.key, 0)
        if beacon.run != self.run or beacon.sequence <= last:
            raise RelayRefused("replayed", f"last: {last}")
        live = self.live.get(beacon.key)
        if announcement.offers is not None:
            offers = announcement.offers
        elif live is not None and live.offers_hash == beacon.offers_hash:
            offers = live.offers
        else:
            raise RelayRefused("offers_wanted")
        self._sequences[beacon.key] = beacon.sequence
        self.live.pop(beacon.key, None)
        self.live[beacon.key] = _Live(beacon.data, beacon.name, offers, beacon.offers_hash, until)

    def expire(self, now: float) -> None:
        """Forget those whose time is over."""
        for key in [key for key, live in self.live.items() if now >= live.until]:
            del self.live[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An announcement to this relay, for another one. `data`: as nodes send it."""

    data: bytes
    offers_hash: bytes
    age_s: float


class Catalogue:
    """The nodes that have announced themselves in this run of the relay, and those of its peers.

    A node that is at both is shown as it announced itself last.
    """

    def __init__(self, run: bytes) -> None:
        self._own = _Nodes(run)
        self._theirs: dict[bytes, _Nodes] = {}  # by the relay's key
        self._swept_at = -_SWEEP_S

    def __len__(self) -> int:
        return len(self.keys())

    @property
    def run(self) -> bytes:
        """What announcements must name."""
        return self._own.run

    def announce(self, asker: bytes, announcement: Announcement, now: float) -> None:
        """Show it for ANNOUNCED_S. `asker`: who brought it. Raises: `RelayRefused`."""
        self.expire(now)
        if announcement.beacon.key != asker:
            raise RelayRefused("denied", "an announcement of another node")
        self._own.announce(announcement, now + ANNOUNCED_S)

    def withdraw(self, key: bytes) -> None:
        """It goes."""
        self._own.live.pop(key, None)

    def forget(self, key: bytes) -> None:
        """It is no longer welcome, wherever it is."""
        for nodes in (self._own, *self._theirs.values()):
            nodes.live.pop(key, None)

    def expire(self, now: float) -> None:
        """Forget those whose time is over."""
        while self._own.live:  # the first to end is the first here
            key, live = next(iter(self._own.live.items()))
            if live.until > now:
                break
            del self._own.live[key]
        if now >= self._swept_at + _SWEEP_S:
            self._swept_at = now
            for nodes in self._theirs.values():
                nodes.expire(now)

    # -- the peers'

    def begin(self, peer: bytes, run: bytes) -> None:
        """The relay `peer` is there, and its nodes' announcements name that run.

        Raises: `RelayRefused`.
        """
        if run == self.run:
            raise RelayRefused("denied", "that run is mine")
        known = self._theirs.get(peer)
        if known is None or known.run != run:
            self._theirs[peer] = _Nodes(run)

    def announce_from(
        self, peer: bytes, announcement: Announcement, age_s: float, now: float
    ) -> None:
        """A node has announced itself there, that long ago. Raises: `RelayRefused`."""
        self.expire(now)
        self._theirs[peer].announce(announcement, now + ANNOUNCED_S - max(age_s, 0.0))

    def withdraw_from(self, peer: bytes, key: bytes) -> None:
        """It is out of the peer's catalogue."""
        self._theirs[peer].live.pop(key, None)

    def own_keys(self) -> list[bytes]:
        """Who has announced himself here."""
        return list(self._own.live)

    def own(self, key: bytes, offers_hash: bytes, now: float) -> Shown | None:
        """What `key` announced here, for a peer that has the offers of that hash."""
        live = self._own.live.get(key)
        if live is None or now >= live.until:
            return None
        offers = None if live.offers_hash == offers_hash else live.offers
        data = encode_shown(live.beacon, offers)
        age_s = now - (live.until - ANNOUNCED_S)
        return Shown(data=data, offers_hash=live.offers_hash, age_s=age_s)

    # -- who asks

    def keys(self) -> set[bytes]:
        """Who is shown, here and at the peers."""
        keys = set(self._own.live)
        return keys.union(*(nodes.live for nodes in self._theirs.values()))

    def _shown(self, key: bytes, now: float) -> _Live | None:
        found = [nodes.live.get(key) for nodes in (self._own, *self._theirs.values())]
        live = [one for one in found if one is not None and one.until > now]
        return max(live, key=lambda one: one.until, default=None)

    def seen_by(
        self, asker: bytes, after: bytes, now: float
    ) -> list[tuple[bytes, str, bytes, list[str]]]:
        """(key, name, beacon, missions that the asker's key matches), by key, from `after` on."""
        self.expire(now)
        found = []
        for key in sorted(key for key in self.keys() if key > after):
            live = self._shown(key, now)
            missions = self._matching(key, live, asker) if live else []
            if live and missions:
                found.append((key, live.name, live.beacon, missions))
                if len(found) == _PAGE:
                    break
        return found

    def find(
        self, asker: bytes, node: bytes, grant: bytes, now: float
    ) -> tuple[bytes, str, bytes, list[str]]:
        """As one of `seen_by`; who shows a grant of the node's needs no match.

        Raises: `RelayRefused`.
        """
        self.expire(now)
        live = self._shown(node, now)
        missions = self._matching(node, live, asker) if live else []
        if grant:
            try:
                shown = decode_grant(grant)
            except RemoteProtocolError as error:
                raise RelayRefused("malformed", str(error)) from None
            if shown.issuer == node and live and shown.mission in live.offers:
                missions = sorted({*missions, shown.mission})
        if live is None or not missions:
            raise RelayRefused("not_found")
        return node, live.name, live.beacon, missions

    def called(self, name: str, now: float) -> list[bytes]:
        """The keys of those that call themselves so: anybody with an account may."""
        self.expire(now)
        found = [(key, self._shown(key, now)) for key in sorted(self.keys())]
        return [key for key, live in found if live is not None and live.name == name]

    @staticmethod
    def _matching(node: bytes, live: _Live, asker: bytes) -> list[str]:
        digest = holder_digest(node, asker)
        return [mission for mission, digests in live.offers.items() if holds(digests, digest)]


# -- mailboxes


@dataclass(slots=True)
class _Share:
    messages: int = 0
    size: int = 0


@dataclass(slots=True)
class _Box:
    messages: int = 0
    size: int = 0
    senders: dict[bytes, _Share] = field(default_factory=dict)


class Mailboxes:
    """How full each mailbox is. The messages themselves are in the store."""

    def __init__(self) -> None:
        self._boxes: dict[bytes, _Box] = {}

    def waiting(self, key: bytes) -> tuple[int, int]:
        """Messages and bytes that wait for `key`."""
        box = self._boxes.get(key)
        return (box.messages, box.size) if box else (0, 0)

    def recipients(self) -> list[bytes]:
        """Whose mailbox is not empty."""
        return list(self._boxes)

    @property
    def total(self) -> int:
        """Messages that wait in all of them."""
        return sum(box.messages for box in self._boxes.values())

    def admit(self, sender: bytes, to: bytes, body_bytes: int) -> None:
        """Count a message in, before it is written. Raises: `RelayRefused`."""
        size = body_bytes + MESSAGE_OVERHEAD_BYTES
        box = self._boxes.get(to) or _Box()
        share = box.senders.get(sender) or _Share()
        if box.messages >= MAILBOX_MESSAGES_MAX or box.size + size > MAILBOX_BYTES_MAX:
            raise RelayRefused("mailbox_full")
        if sender != to and (
            share.messages >= MAILBOX_MESSAGES_MAX // 2
            or share.size + size > MAILBOX_BYTES_MAX // 2
        ):
            raise RelayRefused("mailbox_full", "half of it is yours")
        self.restore(sender, to, body_bytes)

    def has_room(self, sender: bytes, to: bytes, body_bytes: int) -> bool:
        """Whether `admit` would; then it has counted it in."""
        try:
            self.admit(sender, to, body_bytes)
        except RelayRefused:
            return False
        return True

    def restore(self, sender: bytes, to: bytes, body_bytes: int) -> None:
        """Count in what the store has, even if it is too much by today's rules."""
        size = body_bytes + MESSAGE_OVERHEAD_BYTES
        box = self._boxes.setdefault(to, _Box())
        share = box.senders.setdefault(sender, _Share())
        box.messages += 1
        box.size += size
        share.messages += 1
        share.size += size

    def release(self, sender: bytes, to: bytes, body_bytes: int) -> None:
        """It is gone: taken, expired, or never written."""
        size = body_bytes + MESSAGE_OVERHEAD_BYTES
        box = self._boxes[to]
        share = box.senders[sender]
        box.messages -= 1
        box.size -= size
        share.messages -= 1
        share.size -= size
        if not share.messages:
            del box.senders[sender]
        if not box.messages:
            del self._boxes[to]


# -- how often


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`count` in `period_s` seconds, `burst` at once."""

    count: int
    period_s: int
    burst: int


def sends(per_second: int) -> Rate:
    """Messages of one account."""
    return Rate(count=per_second, period_s=1, burst=4 * per_second)


RATES: Final[Mapping[str, Rate]] = {
    "send": sends(RELAY_SENDS_PER_SECOND),  # a mailbox is full after 20 s
    "announce": Rate(count=1, period_s=2, burst=10),  # one each 20 s, and after each change
    "ask": Rate(count=5, period_s=1, burst=20),  # a catalogue of 1,000 nodes takes 2 ms
    "login": Rate(count=20, period_s=1, burst=2_000),  # from an address; a proxy has only one
    "session": Rate(count=1, period_s=2, burst=20),  # of a key that has proved itself
    "put": Rate(count=10, period_s=1, burst=50),  # of one holder of grants, by HTTP
    "puts": Rate(count=20, period_s=1, burst=200),  # from an address; each costs 1 ms to look at
    "register": Rate(count=5, period_s=60, burst=5),  # from an address
    # 4,096 plates, and a code is shown for 5 minutes: an account tries 15, an address 50
    "plate": Rate(count=1, period_s=30, burst=5),
    "plates": Rate(count=1, period_s=10, burst=20),
    "show": Rate(count=1, period_s=5, burst=20),
}


class Allowances:
    """Buckets: for each account and each kind of question."""

    def __init__(self, rates: Mapping[str, Rate] = RATES) -> None:
        self._rates = rates
        self._buckets: dict[tuple[bytes, str], Bucket] = {}
        self._sweep_at = _SWEEP

    def __len__(self) -> int:
        return len(self._buckets)

    def charge(self, who: bytes, kind: str, now: float) -> None:
        """One more. `who`: a key or an address. Raises: `RelayRefused`."""
        bucket = self._buckets.get((who, kind))
        if bucket is None:
            if len(self._buckets) >= self._sweep_at:
                self._sweep(now)
            rate = self._rates[kind]
            bucket = Bucket(rate.count, rate.period_s, burst=rate.burst, now=now)
            self._buckets[who, kind] = bucket
        wait_s = bucket.wait_s(now)
        if wait_s:
            raise RelayRefused("rate_limited", retry_after_s=wait_s)
        bucket.take()

    def _sweep(self, now: float) -> None:
        """Forget those that have rested; what is left may double before the next time."""
        rested = [who for who, bucket in self._buckets.items() if bucket.rested(now)]
        for who in rested:
            del self._buckets[who]
        if len(self._buckets) >= 4 * RELAY_ACCOUNTS_MAX:
            raise RelayRefused("busy")
        self._sweep_at = max(_SWEEP, 2 * len(self._buckets))
