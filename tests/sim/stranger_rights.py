"""Rights as the parties of a simulated run agreed on them: what may run where, now, and how often.

Decides for each call whether a node has to let it in, may not, or may do either. Written from
wire/grants.py's and core/grants.py's rules, and from what the parties *wanted* when they made a
grant; nothing of the code under test is asked. Where that counts with integer buckets, this looks
back at every use: of any span, `burst + rate * span` is the most.

A *place* is what has a rate of its own: a link of a grant, a caller, a mission, the node.
Times are the node's own clock's, of its present boot; *up* is the time that it ran in all boots.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from math import inf

from drupelet.core.grants import Quota

NEAR_S = 1e-4  # a node counts in nanoseconds, of a clock that is read a little later
NEAR_CALLS = 1e-3

QUOTA = Quota(caller_rate=(8, 1), mission_rate=(12, 1), node_rate=(16, 1), concurrent=12)


@dataclass(frozen=True)
class Link:
    """One link as its maker wanted it."""

    id: bytes
    holder: bytes
    functions: frozenset[str] | None
    rate: tuple[int, int] | None
    burst: int | None
    concurrent: int | None
    size: int | None
    expires_s: int | None


@dataclass
class Chain:
    """A grant that was really made. `holders`: the parties who have its holder's secret."""

    data: bytes
    issuer: str
    issuer_key: bytes
    mission: str
    sequence: int
    links: tuple[Link, ...]
    holders: tuple[str, ...]
    bearer_seed: bytes | None
    delegable: int
    issued_up_s: float = 0.0  # of its issuer
    lost_s: float = 0.0  # what its issuer's power cuts had cost until then

    @property
    def holder(self) -> bytes:
        """The key that uses it."""
        return self.links[-1].holder

    @property
    def ids(self) -> tuple[bytes, ...]:
        """Of its links."""
        return tuple(link.id for link in self.links)

    def permits(self, function: str, size: int) -> bool:
        """Whether every link has the function, for so many bytes."""
        return all(
            (link.functions is None or function in link.functions)
            and (link.size is None or size <= link.size)
            for link in self.links
        )


@dataclass(eq=False)
class Dead:
    """What was revoked: a link's id, a holder's key, or a mission's name, at its issuer.

    Key and mission: in the grants that the issuer had made until then. `over`: first links whose
    time was over there; a mission's revocation does not name them, and a member of the issuer's
    counts their time for itself (adr/0018).
    """

    what: bytes | str
    issuer_key: bytes
    sequence: int
    over: frozenset[bytes] = frozenset()
    is_kept: bool = False  # on disk

    def covers(self, chain: Chain) -> bool:
        """Whether that grant is dead with it."""
        if self.what in chain.ids:
            return True
        if chain.issuer_key != self.issuer_key or chain.sequence > self.sequence:
            return False
        if self.what == chain.mission:
            return chain.ids[0] not in self.over
        return any(self.what == link.holder for link in chain.links)


@dataclass
class Node:
    """What is known of one node's boot, and what outlives it."""

    name: str
    takes: frozenset[str]  # issuers whose grants count here: itself, and members
    booted_s: float = 0.0
    up_before_s: float = 0.0
    lost_s: float = 0.0
    saved_s: float = 0.0
    uses: dict[Hashable, list[float]] = field(default_factory=lambda: defaultdict(list))
    running: dict[Hashable, int] = field(default_factory=lambda: defaultdict(int))
    seen: dict[bytes, float] = field(default_factory=dict)
    tickets: dict[int, tuple[Chain, str]] = field(default_factory=dict)
    dead: list[Dead] = field(default_factory=list)

    def up_s(self, local: float) -> float:
        """How long it ran, in all boots."""
        return self.up_before_s + local - self.booted_s

    def cut(self, local: float) -> None:
        """A power cut: what was not on disk did not happen."""
        self.lost_s += local - self.saved_s
        self.up_before_s = self.up_s(local)
        self.dead = [each for each in self.dead if each.is_kept]

    def kept(self, dead: tuple[Dead, ...]) -> None:
        """They are on disk."""
        for each in dead:
            each.is_kept = True

    def boot(self, local: float) -> None:
        """A new clock; all rates begin full."""
        self.booted_s = self.saved_s = local
        for table in (self.uses, self.running, self.seen, self.tickets):
            table.clear()

    # -- what counts

    def is_dead(self, chain: Chain) -> bool:
        """Whether a link of it, or a holder on its way, was revoked here."""
        return any(each.covers(chain) for each in self.dead)

    def expired(self, chain: Chain, local: float) -> tuple[bool, bool]:
        """(it may count as expired, it has to). They differ by what power cuts cost."""
        may = must = False
        for place, link in enumerate(chain.links):
            if link.expires_s is None:
                continue
            if place == 0 and chain.issuer == self.name:
                spent = self.up_s(local) - chain.issued_up_s
                least = spent - (self.lost_s - chain.lost_s)
            else:
                spent = least = local - self.seen.get(link.id, inf)
            may = may or spent >= link.expires_s - NEAR_S
            must = must or least >= link.expires_s + NEAR_S
        return may, must

    def saw(self, chain: Chain, local: float) -> None:
        """It was shown here: spans of what others made begin."""
        for link in chain.links:
            self.seen.setdefault(link.id, local)

    def answers(self, chain: Chain, function: str, size: int, local: float) -> frozenset[str]:
        """What the node may say to a call: "ok", or the name of a refusal."""
        if chain.issuer not in self.takes:
            return frozenset({"NotPermitted"})
        if self.is_dead(chain):
            return frozenset({"Revoked"})
        may, must = self.expired(chain, local)
        if must:
            return frozenset({"Revoked"})
        maybe = {"Revoked"} if may else set()
        if not chain.permits(function, size):
            return frozenset({"NotPermitted", *maybe})
        level = min(self._level(*place, local) for place in self._places(chain))
        busy = len(self.tickets) >= QUOTA.concurrent or any(
            link.concurrent is not None and self.running[link.id] >= link.concurrent
            for link in chain.links
        )
        if busy or level < 1 - NEAR_CALLS:
            return frozenset({"RateLimited", *maybe})
        if level < 1 + NEAR_CALLS:
            maybe.add("RateLimited")
        return frozenset({"ok", *maybe})

    def _places(self, chain: Chain) -> Iterator[tuple[Hashable, tuple[int, int], int]]:
        for name, rate in (
            (("caller", chain.holder), QUOTA.caller_rate),
            (("mission", chain.mission), QUOTA.mission_rate),
            (("node",), QUOTA.node_rate),
        ):
            yield name, rate, rate[0]
        for link in chain.links:
            if link.rate is not None:
                yield link.id, link.rate, link.burst or link.rate[0]

    def _level(self, place: Hashable, rate: tuple[int, int], burst: int, local: float) -> float:
        times = self.uses[place]
        level, left = float(burst), len(times)
        for at in times:
            level = min(level, burst + (local - at) * rate[0] / rate[1] - left)
            left -= 1
        return level

    def charge(self, chain: Chain, ticket: int, function: str, local: float) -> None:
        """It was let in."""
        self.tickets[ticket] = (chain, function)
        for place, _, _ in self._places(chain):
            self.uses[place].append(local)
        for link in chain.links:
            self.running[link.id] += 1

    def finished(self, ticket: int) -> None:
        """It ended."""
        chain, _ = self.tickets.pop(ticket, (None, ""))
        for link in chain.links if chain is not None else ():
            self.running[link.id] -= 1
