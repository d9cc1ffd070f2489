"""Grants: whether a stranger's call goes through now.

Decides in this order, the cheapest first: the grant's bytes were seen before, or its signatures
hold; its issuer is one of ours; it is the caller's; it is not revoked or expired; the function is
among those granted; then the rates of the caller, of every link of the grant, of the mission and of
the node, and how many calls are running. A call is charged to all of these or to none.

    right = grants.present(data, keys, now)               # once for each grant and connection
    ticket = grants.admit(right, "boil", size, now)       # for each call
    ...                                                   # the call runs
    grants.finish(ticket)

What goes on after its answer, and what is no call, is in `grants.holdings` (core/holdings.py).

`keys` are those that the caller has proved: its connection's own, and of grants for whoever has the
file. Sizes of frames, sources of connections and freshness of requests were looked at before.

Rules
- Whether a mission or function exists, and whether it is granted, is one answer (`NotPermitted`).
  `Revoked` and `RateLimited` are told only to who has proved the grant's key.
- A caller is charged only when its grant holds: nobody can use up another's rate.
- All links' limits count: what is narrowed ten times is still charged to the first link.
- Revoking refuses new calls from this moment, before it is durable and before running calls are
  cancelled; `Revocation.tickets` are those, and all else that lives under it. The driver ends
  them, waits for that, and answers when the record is durable.
- Revoking a key ends every grant of ours that goes through it; one that is issued later counts
  again. Each member revokes what it issued itself.
- Spans are counted on `now`, which never goes back; `snapshot` says what is left of each, for disk.
- What is counted is bounded. At most GRANTS_NARROWED_MAX links under one grant have their use
  counted: who makes more has to wait for the others' rest, and harms no other grant. A bucket that
  is full again is forgotten. After a restart each begins full.

References: Miller, "Robust Composition" (2006), on revocable forwarders; the leaky bucket of
`core/buckets.py`. SPKI (RFC 2693) for chains without names.
Rejected: a random delay before refusals (an average tells all the same); revocation lists that
callers fetch (at once means at once); charging refused calls (a caller in a loop would lock out its
own later self for ever).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import inf
from typing import Final

from drupelet.core.buckets import Bucket, charge
from drupelet.core.holdings import Holdings
from drupelet.errors import NotPermitted, RateLimited, RemoteError, RemoteProtocolError, Revoked
from drupelet.wire.grants import Grant, Terms, decode_grant
from drupelet.wire.limits import (
    GRANT_CALLERS_MAX,
    GRANTS_ISSUED_MAX,
    GRANTS_NARROWED_MAX,
    GRANTS_REVOKED_MAX,
)

CACHE_MAX: Final = 1_024  # grants whose signatures were checked; 1 kB each
BUSY_S: Final = 0.1  # when to come again while calls run: there is no better guess
FULL_S: Final = 1.0  # the same where nothing more is counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """The owner's own limits, over all grants: (calls, seconds), and calls at the same time."""

    caller_rate: tuple[int, int] = (1_000, 1)
    mission_rate: tuple[int, int] = (10_000, 1)
    node_rate: tuple[int, int] = (10_000, 1)
    concurrent: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """What is kept of a grant that this node issued. `left_s`: inf without an end."""

    data: bytes
    left_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """What was revoked, to be kept, told to the members, and carried out.

    `ids`: of links, whose whole tails are dead; `keys`: holders, dead in every grant of `issuer`
    with `sequence` or below. `tickets`: of everything that lives under them (core/holdings.py).
    """

    issuer: bytes
    ids: frozenset[bytes]
    keys: frozenset[bytes]
    sequence: int
    tickets: tuple[int, ...] = ()


@dataclass(slots=True)
class _Link:
    """What is counted of one link."""

    deadline: float
    bucket: Bucket | None
    concurrent: int | None
    running: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Right:
    """A grant that was presented by somebody who may use it. `caller`: the key it is charged to.

    What `Grants` looked up for it stays with it, until anything is forgotten or revoked there.
    """

    grant: Grant
    caller: bytes
    looked_up: int = field(default=-1, compare=False, repr=False)  # at which `Grants._changes`
    until: float = field(default=0.0, compare=False, repr=False)
    links: tuple[_Link, ...] = field(default=(), compare=False, repr=False)
    buckets: tuple[Bucket, ...] = field(default=(), compare=False, repr=False)


@dataclass(slots=True)
class _Root:
    """What is known of a first link, and of those under it."""

    grant: Grant
    links: dict[bytes, _Link] = field(default_factory=dict)


class Grants:
    """The grants of one node. `own_key` and those for which `is_member` is true may issue them."""

    def __init__(
        self,
        own_key: bytes,
        is_member: Callable[[bytes], bool],
        quota: Quota = Quota(),
        holdings: Holdings | None = None,
    ) -> None:
        self._own_key = own_key
        self._is_member = is_member
        self._quota = quota
        self._sequence = 0
        self._changes = 0  # times that something was revoked, or forgotten before its time
        self._checked: dict[bytes, Grant] = {}  # by the hash of their bytes; the oldest first
        self._roots: dict[bytes, _Root] = {}
        self._revoked_ids: set[bytes] = set()
        self._revoked_keys: dict[tuple[bytes, bytes], int] = {}  # issuer, holder -> last dead one
        self._callers: dict[bytes, Bucket] = {}  # the longest unused first
        self._missions: dict[str, Bucket] = {}
        self._node: Bucket | None = None
        self.holdings = Holdings() if holdings is None else holdings
        self._running: dict[int, tuple[_Link, ...]] = {}  # tickets of calls that count
        self._refused = 0

    # -- issuing and keeping

    @property
    def next_sequence(self) -> int:
        """For the next grant of this node."""
        return self._sequence + 1

    @property
    def changes(self) -> tuple[int, int]:
        """Another one when something was issued or revoked; not when a time is over."""
        return self._sequence, self._changes

    def issued(self, grant: Grant, now: float) -> Issued:
        """This node signed a grant: what to keep before it is given away.

        Raises: `ValueError` when there are too many.
        """
        if grant.issuer != self._own_key or len(grant.links) != 1:
            raise ValueError("only a grant of this node's own is issued here")
        self._forget_roots(now)
        if len(self._roots) >= GRANTS_ISSUED_MAX:
            raise ValueError(f"{GRANTS_ISSUED_MAX} grants are in force; revoke some")
        left_s = _left(grant.links[0].terms)
        self._add_root(grant, now + left_s, now)
        return Issued(data=grant.data, left_s=left_s)

    def restore(
        self, issued: Iterable[Issued], revoked: Iterable[Revocation], now: float
    ) -> list[str]:
        """After a start: what was kept. Returns what could not be read, one sentence each."""
        problems = []
        for each in issued:
            try:
                grant = decode_grant(each.data)
            except RemoteProtocolError as error:
                problems.append(f"a kept grant cannot be read and does not count: {error}")
            else:
                self._add_root(grant, now + each.left_s, now)
        for revocation in revoked:
            self._merge(revocation)
        return problems

    def in_force(self, now: float) -> list[Issued]:
        """Every grant that this node issued and that still counts."""
        kept = []
        for ident, root in self._roots.items():
            left_s = root.links[ident].deadline - now
            if root.grant.issuer == self._own_key and left_s > 0 and not self._is_dead(root.grant):
                kept.append(Issued(data=root.grant.data, left_s=left_s))
        return kept

    def grant_of(self, issued: Issued) -> Grant:
        """The grant of something kept. Raises: `RemoteProtocolError`."""
        digest = blake2b(issued.data, digest_size=16).digest()
        return self._checked.get(digest) or decode_grant(issued.data)

    # -- the door

    def present(self, data: bytes, keys: Container[bytes], now: float) -> Right:
        """The right that these bytes give to somebody who proved `keys`.

        Raises: `NotPermitted`, `Revoked`.
        """
        digest = blake2b(data, digest_size=16).digest()
        grant = self._checked.pop(digest, None)
        if grant is None:
            try:
                grant = decode_grant(data)
            except RemoteProtocolError:
                self._refused += 1
                raise NotPermitted from None
            if len(self._checked) >= CACHE_MAX:
                del self._checked[next(iter(self._checked))]
        self._checked[digest] = grant
        ours = grant.issuer == self._own_key or self._is_member(grant.issuer)
        if not ours or grant.holder not in keys:
            self._refused += 1
            raise NotPermitted
        right = Right(grant, grant.holder)
        self._check_force(right, now)
        return right

    def admit(self, right: Right, function: str, size: int, now: float) -> int:
        """A call of `function` with `size` bytes of arguments may run: its ticket.

        Raises: `NotPermitted`, `Revoked`, `RateLimited`.
        """
        if right.looked_up != self._changes or right.until <= now:
            self._look_up(right, now)
        grant, links, caller = right.grant, right.links, right.caller
        terms = grant.terms
        if terms.functions is not None and function not in terms.functions:
            self._refused += 1
            raise NotPermitted
        if terms.bytes is not None and size > terms.bytes:
            self._refused += 1
            raise NotPermitted(f"{size} bytes of arguments; the grant allows {terms.bytes}")
        self._callers[caller] = self._callers.pop(caller)  # the longest unused first
        wait_s = FULL_S if self.holdings.full else 0.0
        if not wait_s and len(self._running) >= self._quota.concurrent:
            wait_s = BUSY_S
        for link in links:
            if link.concurrent is not None and len(link.running) >= link.concurrent:
                wait_s = max(wait_s, BUSY_S)
        if wait_s:
            wait_s = max(wait_s, *(bucket.wait_s(now) for bucket in right.buckets))
        else:
            wait_s = charge(right.buckets, now)
        if wait_s:
            self._refused += 1
            raise RateLimited(wait_s)
        ticket = self.holdings.hold(grant)
        self._running[ticket] = links
        for link in links:
            link.running.add(ticket)
        return ticket

    def _look_up(self, right: Right, now: float) -> None:
        """What is counted of it. Raises: `Revoked`, `RateLimited`."""
        links = self._check_force(right, now)
        counted = [link.bucket for link in links if link.bucket is not None]
        right.buckets = (
            self._caller(right.caller, now),
            *counted,
            self._mission(right.grant.mission, now),
            self._whole_node(now),
        )
        right.links = links
        right.until = min(link.deadline for link in links)
        right.looked_up = self._changes

    def wait_s(self, right: Right, now: float) -> float:
        """After how long a call would go through; 0: now. Charges nothing.

        Raises: `Revoked`, `RateLimited`.
        """
        self._look_up(right, now)
        busy = any(
            link.concurrent is not None and len(link.running) >= link.concurrent
            for link in right.links
        )
        wait_s = BUSY_S if busy or len(self._running) >= self._quota.concurrent else 0.0
        return max(wait_s, *(bucket.wait_s(now) for bucket in right.buckets))

    def finish(self, ticket: int) -> None:
        """The call ended, however: it counts no more. A second time does nothing.

        When its driver has named it, it stays in `holdings` until that drops it.
        """
        self.answered(ticket)
        if self.holdings.what(ticket) is None:
            self.holdings.drop(ticket)

    def answered(self, ticket: int) -> None:
        """As `finish`, of what is named."""
        for link in self._running.pop(ticket, ()):
            link.running.discard(ticket)

    def holds(self, right: Right, now: float) -> bool:
        """Whether it would still be let in."""
        try:
            self._check_force(right, now)
        except (Revoked, RateLimited):
            return False
        return True

    # -- revoking

    def revoke(self, what: bytes | str, now: float) -> Revocation:
        """Take back: a link's id (16 bytes), a holder's key (32 bytes) or a mission (its name).

        Nothing of it is let through from now on. An id that was not seen here may be of a link that
        a holder made and that was not used yet: it is remembered (`seen`). Raises: `KeyError` with
        words when it is not.
        """
        self._forget_roots(now)
        ids: set[bytes] = set()
        keys: set[bytes] = set()
        if isinstance(what, str):
            ids = {
                ident
                for ident, root in self._roots.items()
                if root.grant.mission == what and root.grant.issuer == self._own_key
            }
        elif len(what) == len(self._own_key):
            keys = {what}
        elif self.seen(what) or (what not in self._revoked_ids and self._hands_on(now)):
            ids = {what}
        if not ids and not keys:
            known = "`drupelet grants` lists those in force"
            if isinstance(what, str):
                raise KeyError(f"is no grant, key, or mission of which one counts; {known}")
            taken = what in self._revoked_ids
            raise KeyError("is revoked already" if taken else f"is no grant in force here; {known}")
        count = len(self._revoked_ids) + len(self._revoked_keys) + len(ids) + len(keys)
        if count > GRANTS_REVOKED_MAX:
            raise KeyError("is not revoked: too many revocations are remembered")
        return self._merge(
            Revocation(
                issuer=self._own_key,
                ids=frozenset(ids),
                keys=frozenset(keys),
                sequence=self._sequence,
            )
        )

    def seen(self, ident: bytes) -> bool:
        """Whether a link with that id is known here, and counts."""
        return ident in self._roots or any(ident in root.links for root in self._roots.values())

    def _hands_on(self, now: float) -> bool:
        """Whether somebody may have made a link that was not seen here."""
        own = (root.grant for root in self._roots.values() if root.grant.issuer == self._own_key)
        return any(each.terms.delegable and not self._is_dead(each) for each in own)

    def merge(self, revocation: Revocation) -> Revocation:
        """What a member told: the same, with the calls that run under it.

        Raises: `RemoteError` where members' revocations would leave no room for our own.
        """
        fresh = len(revocation.ids - self._revoked_ids) + len(revocation.keys)
        if len(self._revoked_ids) + len(self._revoked_keys) + fresh > GRANTS_REVOKED_MAX // 2:
            raise RemoteError("overloaded", "too many revocations are remembered")
        return self._merge(revocation)

    def _merge(self, revocation: Revocation) -> Revocation:
        """One of ours, or that was kept, or a member's: it counts from now on."""
        self._changes += 1
        self._revoked_ids |= revocation.ids
        for key in revocation.keys:
            place = (revocation.issuer, key)
            former = self._revoked_keys.get(place, 0)
            self._revoked_keys[place] = max(former, revocation.sequence)
        for ident in revocation.ids:
            self._roots.pop(ident, None)
        if revocation.issuer == self._own_key:  # kept from before a start: numbers go on
            self._sequence = max(self._sequence, revocation.sequence)
        return replace(revocation, tickets=self.holdings.under(self._is_dead))

    # -- inside

    def _is_dead(self, grant: Grant) -> bool:
        issuer, sequence, keys = grant.issuer, grant.sequence, self._revoked_keys
        for link in grant.links:
            if link.id in self._revoked_ids:
                return True
            if keys and keys.get((issuer, link.holder), 0) >= sequence:
                return True
        return False

    def _check_force(self, right: Right, now: float) -> tuple[_Link, ...]:
        """What is counted of each link. Raises: `Revoked`, `RateLimited`."""
        grant = right.grant
        if self._is_dead(grant):
            self._refused += 1
            raise Revoked
        links = self._links(grant, now)
        if any(link.deadline <= now for link in links):
            self._refused += 1
            raise Revoked("expired")
        return links

    def _links(self, grant: Grant, now: float) -> tuple[_Link, ...]:
        first = grant.links[0].id
        root = self._roots.get(first)
        if root is None:
            if grant.issuer == self._own_key:
                raise Revoked("expired")  # what we issued we know, as long as it is in force
            if len(self._roots) >= GRANTS_ISSUED_MAX:
                raise RateLimited(FULL_S)
            root = self._add_root(grant, now + _left(grant.links[0].terms), now)
        links = []
        for link in grant.links:
            known = root.links.get(link.id)
            if known is None:
                if len(root.links) > GRANTS_NARROWED_MAX:
                    self._forget_links(root, first, now)
                known = root.links[link.id] = _counted(link.terms, now + _left(link.terms), now)
            links.append(known)
        return tuple(links)

    def _add_root(self, grant: Grant, deadline: float, now: float) -> _Root:
        link = grant.links[0]
        if grant.issuer == self._own_key:
            self._sequence = max(self._sequence, grant.sequence)
        root = _Root(grant)
        root.links[link.id] = _counted(link.terms, deadline, now)
        self._roots[link.id] = root
        return root

    def _forget_roots(self, now: float) -> None:
        """Those of ours whose time is over: what we do not know is over.

        A member's would begin anew.
        """
        for ident, root in list(self._roots.items()):
            own = root.grant.issuer == self._own_key
            if own and root.links[ident].deadline <= now and not root.links[ident].running:
                del self._roots[ident]

    def _forget_links(self, root: _Root, first: bytes, now: float) -> None:
        """One that would be made anew as it is. Raises: `RateLimited` when there is none."""
        for ident, link in root.links.items():
            rested = link.bucket is None or link.bucket.rested(now)
            if ident != first and rested and not link.running and link.deadline == inf:
                self._changes += 1
                del root.links[ident]
                return
        raise RateLimited(FULL_S)

    def _caller(self, key: bytes, now: float) -> Bucket:
        bucket = self._callers.pop(key, None)
        if bucket is None:
            if len(self._callers) >= GRANT_CALLERS_MAX:
                del self._callers[next(iter(self._callers))]
                self._changes += 1
            bucket = _bucket(self._quota.caller_rate, now)
        self._callers[key] = bucket
        return bucket

    def _mission(self, mission: str, now: float) -> Bucket:
        bucket = self._missions.get(mission)
        if bucket is None:  # of grants that we or members signed: as many as there are missions
            bucket = self._missions[mission] = _bucket(self._quota.mission_rate, now)
        return bucket

    def _whole_node(self, now: float) -> Bucket:
        if self._node is None:
            self._node = _bucket(self._quota.node_rate, now)
        return self._node


def _left(terms: Terms) -> float:
    return inf if terms.expires_s is None else float(terms.expires_s)


def _bucket(rate: tuple[int, int], now: float) -> Bucket:
    return Bucket(rate[0], rate[1], burst=rate[0], now=now)


def _counted(terms: Terms, deadline: float, now: float) -> _Link:
    bucket = None
    if terms.rate is not None:
        count, period_s = terms.rate
        bucket = Bucket(count, period_s, burst=terms.burst or count, now=now)
    return _Link(deadline, bucket, terms.concurrent)
