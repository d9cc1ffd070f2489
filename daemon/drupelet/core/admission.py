"""Admission: which stranger may start a handshake now.

Decides by counting: connections whose handshake is under way, in all and per address, and failed
handshakes per address. It runs before a byte is read, so a refusal costs a dictionary look-up.

Rules
- At most UNAUTHENTICATED_MAX under way, UNAUTHENTICATED_PER_ADDRESS_MAX of them per address.
- A failed handshake refuses its address for 1 s, doubling with each further failure up to 60 s; a
  good handshake clears it. On loopback the span stays at 1 s: there many nodes and programs share
  one address, and one broken program must not lock out the others.
- Until `forgiving_until` (pairing) penalties do not count; the other bounds do.
- The table of penalties keeps PENALTY_ADDRESSES_MAX addresses; the oldest goes first.
- An address is an IPv4 address or an IPv6 /64 (one customer has a whole /64: RFC 6177); an IPv4
  address mapped into IPv6 is that IPv4 address.

Ideas rejected: a token bucket per address (needs the same table and forgives faster than a
handshake's cost is earned back); tarpitting (it holds our own descriptors).
"""

from __future__ import annotations

import enum
import functools
import ipaddress
from dataclasses import dataclass
from typing import Final

from drupelet.wire import limits

PENALTY_FIRST_S: Final = 1.0  # a mistyped cookie is retried by a person within a second or more
PENALTY_MAX_S: Final = 60.0  # a mended node comes back within a minute
PENALTY_LOOPBACK_MAX_S: Final = 1.0
_IPV6_GROUP_BITS: Final = 64


class Refusal(enum.Enum):
    """Why a stranger was turned away; for counters and the operator, never told to the stranger."""

    TOTAL = "total"
    ADDRESS = "address"
    PENALTY = "penalty"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionStatistics:
    """Counters of one `Admission`."""

    under_way: int
    admitted_count: int
    failed_count: int
    refused_total_count: int
    refused_address_count: int
    refused_penalty_count: int
    penalty_addresses: int


@dataclass(frozen=True, slots=True)
class _Penalty:
    failures: int
    until: float


class Admission:
    """The doorkeeper of all listeners of one node."""

    __slots__ = (
        "_admitted",
        "_failed",
        "_penalties",
        "_refused",
        "_total",
        "_under_way",
        "forgiving_until",
    )

    def __init__(self) -> None:
        self._under_way: dict[str, int] = {}
        self._total = 0
        self._penalties: dict[str, _Penalty] = {}  # oldest failure first
        self._refused = dict.fromkeys(Refusal, 0)
        self._admitted = 0
        self._failed = 0
        self.forgiving_until = float("-inf")  # no penalty counts until then: a code is shown

    def admit(self, address: str, now: float) -> Refusal | None:
        """Whether a connection from `address` may start a handshake: None admits it.

        Each admitted connection must be given to `finished` once.
        """
        group, _ = group_of(address)
        refusal = self._refusal(group, now)
        if refusal is not None:
            self._refused[refusal] += 1
            return refusal
        self._under_way[group] = self._under_way.get(group, 0) + 1
        self._total += 1
        self._admitted += 1
        return None

    def finished(self, address: str, ok: bool, now: float) -> None:
        """An admitted connection proved itself (`ok`) or ended without doing so."""
        group, loopback = group_of(address)
        count = self._under_way.get(group, 0)
        assert count > 0, "finished() without admit()"
        if count == 1:
            del self._under_way[group]
        else:
            self._under_way[group] = count - 1
        self._total -= 1
        if ok:
            self._penalties.pop(group, None)
        else:
            self._failed += 1
            self._punish(group, loopback, now)

    def next_timer(self) -> float:
        """Never: penalties are looked at when somebody comes."""
        return float("inf")

    def statistics(self) -> AdmissionStatistics:
        """A snapshot of the counters."""
        return AdmissionStatistics(
            under_way=self._total,
            admitted_count=self._admitted,
            failed_count=self._failed,
            refused_total_count=self._refused[Refusal.TOTAL],
            refused_address_count=self._refused[Refusal.ADDRESS],
            refused_penalty_count=self._refused[Refusal.PENALTY],
            penalty_addresses=len(self._penalties),
        )

    def _refusal(self, group: str, now: float) -> Refusal | None:
        penalty = self._penalties.get(group)
        if penalty is not None and self.forgiving_until <= now < penalty.until:
            return Refusal.PENALTY
        if self._under_way.get(group, 0) >= limits.UNAUTHENTICATED_PER_ADDRESS_MAX:
            return Refusal.ADDRESS
        if self._total >= limits.UNAUTHENTICATED_MAX:
            return Refusal.TOTAL
        return None

    def _punish(self, group: str, loopback: bool, now: float) -> None:
        old = self._penalties.pop(group, None)
        failures = 1
        if old is not None and now < old.until + PENALTY_MAX_S:  # an old sin is forgotten
            failures = old.failures + 1
        elif old is None and len(self._penalties) >= limits.PENALTY_ADDRESSES_MAX:
            del self._penalties[next(iter(self._penalties))]
        cap_s = PENALTY_LOOPBACK_MAX_S if loopback else PENALTY_MAX_S
        span_s = min(PENALTY_FIRST_S * 2.0 ** min(failures - 1, 16), cap_s)
        self._penalties[group] = _Penalty(failures, now + span_s)


@functools.lru_cache(maxsize=limits.PENALTY_ADDRESSES_MAX)  # asked twice for each stranger; 6 us
def group_of(address: str) -> tuple[str, bool]:
    """(what counts as one address, whether it is loopback) for a literal IP address.

    Anything else, such as a Unix peer or a test's label, stands for itself.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address, False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped), parsed.ipv4_mapped.is_loopback
        if parsed.is_loopback:
            return str(parsed), True
        upper = int(parsed) >> (128 - _IPV6_GROUP_BITS) << (128 - _IPV6_GROUP_BITS)
        scope = f"%{parsed.scope_id}" if parsed.scope_id else ""
        return f"{ipaddress.IPv6Address(upper)}{scope}/64", False
    return str(parsed), parsed.is_loopback
