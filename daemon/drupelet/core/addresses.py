"""Addresses: where nodes may answer, and when to dial each of them next.

Decides which hints are kept and when an address is due. Knows nothing of links; `membership` tells
it what became of a dial.

Rules
- One entry per (host, port), however many sources name it; at most CANDIDATES_MAX.
- When full, the worst goes: static peers never, an address being dialled never, then those that
  once led to a member stay longest, then by source (a port mapper of ours before a registry before
  a member's gossip before mDNS, which anyone on the network can forge), then the longest unheard.
  A newcomer worse than all of them is refused.
- Every address is tried for ever, with jittered back-off up to 30 s, or 120 s while nothing but
  mDNS speaks for it. A hint that is repeated cuts a long back-off short, at most once in 5 s: the
  node may have just come back.
- What only mDNS names and what has another cookie is a node of another cluster on this network: it
  is tried again after OTHERS_S, give or take a fifth, whatever mDNS repeats. Each try is a failed
  handshake there, which turns this machine's strangers away for a while too; and who corrects a
  cookie starts his node anew, which then dials.
- An address asleep (`dial_at` inf) was proved to lead to a node that is linked. Who merely claims
  to be such a node is tried after CLAIMED_S; who contests a proof, at the next repeated hint.

Ideas rejected: forgetting an address after so many failures (a Pi behind a late network would never
be found again); one back-off per node (a dead address of it would delay the good one).
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Iterator
from math import inf
from typing import Final

from drupelet.core.backoff import Backoff
from drupelet.core.candidates import Candidate
from drupelet.wire import limits

BACKOFF_BASE_S: Final = 0.2  # a daemon restarts in less than a second
BACKOFF_CAP_S: Final = 30.0  # a mended network is used again within half a minute
HINTED_CAP_S: Final = (
    120.0  # for what only mDNS names: a full book of forgeries is 2 dials a second
)
REPEATED_GAP_S: Final = 5.0  # how often a repeated hint may cut a back-off short
REPEATED_SAVES_S: Final = 2.0  # a shorter wait is not worth cutting
OTHERS_S: Final = 150.0  # core/admission.py has forgotten the last time by then
FIRST_JITTER_S: Final = 0.05  # spreads a burst of new hints
CLAIMED_S: Final = 60.0  # then an address that only claims to be a linked node's is tried
YIELD_S: Final = 0.2  # the larger key waits this long for the smaller one to dial: fewer duplicates
KEY_PREFIX_CHARS: Final = 16

_SOURCE_RANK: Final = {"static": 4, "mapper": 3, "registry": 2, "gossip": 1, "mdns": 0}


@functools.lru_cache(maxsize=512)  # asked for each address and member in turn; 2 us a key
def key_prefix_of(key: bytes) -> str:
    """The first 16 base32 characters of a key, as discovery advertises them."""
    return base64.b32encode(key).decode("ascii").lower()[:KEY_PREFIX_CHARS]


@functools.lru_cache(maxsize=512)  # asked for each member in each gossip
def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host in ("::1", "::ffff:127.0.0.1")


def told_host(host: str, receiver: str) -> str | None:
    """How to name the machine `host` to a node at `receiver`; None: it has no name there."""
    if _is_loopback(host):
        return host if _is_loopback(receiver) else ""  # "": the machine that we run on
    if "%" in host or host.lower().startswith("fe80:"):
        return None  # a link-local address means something else on each interface
    return host


class Address:
    """One (host, port) and what is known of it. Mutable; owned by its `AddressBook`."""

    __slots__ = (
        "backoff",
        "dial_at",
        "dialling_until",
        "doubted",
        "failed_at",
        "host",
        "key",
        "key_prefix",
        "last_seen",
        "name",
        "port",
        "reason",
        "repeated_at",
        "source",
        "wanted_at",
    )

    def __init__(self, candidate: Candidate, backoff: Backoff, now: float) -> None:
        self.host = candidate.host
        self.port = candidate.port
        self.source = candidate.source
        self.name = candidate.name  # claimed
        self.key_prefix = candidate.key_prefix  # claimed
        self.key: bytes | None = None  # proved by a handshake
        self.backoff = backoff
        self.dial_at = now
        self.dialling_until = -inf  # a dial is under way until then at most
        self.doubted = False  # who answers there is to be found out, whoever is linked already
        self.last_seen = now
        self.repeated_at = now
        self.wanted_at = -inf
        self.reason = ""
        self.failed_at = -inf

    @property
    def dialling(self) -> bool:
        """Whether a dial is under way."""
        return self.dialling_until > -inf

    @property
    def hinted(self) -> bool:
        """Whether nothing speaks for it but mDNS, which anyone on the network can forge."""
        return self.key is None and self.source == "mdns"

    def leads_to(self, key: bytes, name: str) -> bool:
        """Whether, to the best of what is known, the node of this key and name answers here."""
        if self.key is not None:
            return self.key == key
        if self.key_prefix:
            return self.key_prefix == key_prefix_of(key)
        return bool(self.name) and self.name == name

    def rank(self) -> tuple[bool, int, float]:
        """How much it is worth keeping; the smallest goes first."""
        return self.key is not None, _SOURCE_RANK.get(self.source, 0), self.last_seen

    def urgency(self) -> tuple[bool, int, bool, float]:
        """Who is dialled first when many are due: what never was before what failed."""
        proved, source, _ = self.rank()
        return proved, source, self.failed_at == -inf, -self.dial_at


class AddressBook:
    """All addresses that one node knows of."""

    __slots__ = ("_addresses", "_own_prefix", "_random", "evicted_count", "refused_count")

    def __init__(self, own_key: bytes, random: Callable[[], float]) -> None:
        self._own_prefix = key_prefix_of(own_key)
        self._random = random
        self._addresses: dict[tuple[str, int], Address] = {}
        self.evicted_count = 0
        self.refused_count = 0

    def __len__(self) -> int:
        return len(self._addresses)

    def __iter__(self) -> Iterator[Address]:
        return iter(self._addresses.values())

    def find(self, host: str, port: int) -> Address | None:
        """The entry of (host, port)."""
        return self._addresses.get((host, port))

    def add(self, candidate: Candidate, now: float) -> Address | None:
        """Take a hint. Returns its entry; None when it is our own or there is no room for it."""
        if candidate.key_prefix == self._own_prefix:
            return None
        known = self._addresses.get((candidate.host, candidate.port))
        if known is not None:
            self._repeated(known, candidate, now)
            return known
        address = Address(candidate, self._backoff(candidate.source), now)
        address.dial_at = now + self._first_delay_s(candidate.key_prefix)
        if len(self._addresses) >= limits.CANDIDATES_MAX and not self._make_room(address):
            self.refused_count += 1
            return None
        self._addresses[candidate.host, candidate.port] = address
        return address

    def failed(self, address: Address, reason: str, now: float) -> None:
        """A dial of it came to nothing, or its link did not last."""
        address.dialling_until = -inf
        address.reason = reason
        address.failed_at = now
        if self._is_of_others(address):
            address.dial_at = now + OTHERS_S * (0.8 + 0.4 * self._random())
        else:
            address.dial_at = now + address.backoff.next_delay_s()

    def retry_others(self, now: float) -> None:
        """We have another cookie: they may be of our cluster."""
        for address in self._addresses.values():
            if self._is_of_others(address) and not address.dialling:
                address.backoff.reset()
                address.dial_at = now + self._first_delay_s(address.key_prefix)

    @staticmethod
    def _is_of_others(address: Address) -> bool:
        """Whether a node answers there that has another cookie, and only mDNS speaks for it."""
        return address.reason == "bad_cookie" and address.hinted

    def wake(self, address: Address, now: float) -> None:
        """The node it leads to is no longer linked."""
        if not address.dialling:
            delay_s = address.backoff.next_delay_s() + self._yield_s(address)
            address.dial_at = min(address.dial_at, now + delay_s)

    def rest(self, address: Address, now: float) -> None:
        """The node it leads to is linked: for good if that was proved. A mere claim holds for
        CLAIMED_S, or a forged hint could hide the node that really answers there."""
        address.doubted = address.key is None
        address.dial_at = inf if address.key is not None else now + CLAIMED_S

    def _backoff(self, source: str) -> Backoff:
        cap_s = HINTED_CAP_S if source == "mdns" else BACKOFF_CAP_S
        return Backoff(BACKOFF_BASE_S, cap_s, self._random)

    def proved(self, address: Address, key: bytes) -> None:
        """A handshake with `key` succeeded there."""
        if address.hinted:
            address.backoff = self._backoff("")
        address.key = key

    def _yield_s(self, address: Address) -> float:
        prefix = key_prefix_of(address.key) if address.key is not None else address.key_prefix
        return YIELD_S if prefix and self._own_prefix > prefix else 0.0

    def _first_delay_s(self, key_prefix: str) -> float:
        yield_s = YIELD_S if key_prefix and self._own_prefix > key_prefix else 0.0
        return yield_s + self._random() * FIRST_JITTER_S

    def _repeated(self, known: Address, candidate: Candidate, now: float) -> None:
        known.last_seen = now
        if _SOURCE_RANK.get(candidate.source, 0) > _SOURCE_RANK.get(known.source, 0):
            if known.hinted:
                known.backoff = self._backoff(candidate.source)
            known.source = candidate.source
            known.name = candidate.name or known.name
            known.key_prefix = candidate.key_prefix or known.key_prefix
        elif not known.name:
            known.name = candidate.name
        claimed = known.key_prefix if known.key is None else key_prefix_of(known.key)
        contested = bool(candidate.key_prefix) and candidate.key_prefix != claimed
        if not claimed:
            known.key_prefix = candidate.key_prefix
        if known.dialling or now < known.repeated_at + REPEATED_GAP_S:
            return
        if self._is_of_others(known):
            return
        if contested and known.dial_at == inf:
            known.doubted = True  # perhaps another node has this address now
        elif known.dial_at == inf:
            return
        if known.dial_at > now + REPEATED_SAVES_S:
            known.repeated_at = now
            known.backoff.reset()
            known.dial_at = now + self._first_delay_s(known.key_prefix)

    def _make_room(self, newcomer: Address) -> bool:
        movable = [
            address
            for address in self._addresses.values()
            if address.source != "static" and not address.dialling and address.dial_at < inf
        ]
        worst = min(movable, key=Address.rank, default=None)
        if worst is None:
            return False
        if newcomer.source != "static" and newcomer.rank() < worst.rank():
            return False
        del self._addresses[worst.host, worst.port]
        self.evicted_count += 1
        return True
