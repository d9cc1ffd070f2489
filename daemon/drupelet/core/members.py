"""Members: the records that `membership` keeps and shows.

Decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInfo:
    """Who is at the other end of a link, as proved in the handshake.

    `host`, `port`: the address that was dialled; for an accepted link the remote address and the
    port that the peer says it listens on (0: none).
    """

    key: bytes
    name: str
    incarnation: int
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSnapshot:
    """One member as `nodes()` shows it. `state` is "up" or "down", `since` an instant."""

    name: str
    key: bytes
    state: str
    since: float
    incarnation: int
    host: str
    port: int
    reason: str
    link_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipStatistics:
    """Counters of one `Membership`."""

    addresses: int
    members: int
    links: int
    dialled_count: int
    failed_count: int
    duplicate_count: int
    self_count: int
    name_taken_count: int
    superseded_count: int
    overloaded_count: int
    evicted_count: int
    refused_count: int
    gossip_count: int
    declared_down_count: int


class MemberLink:
    """One link, as membership sees it. Mutable; owned by its `Membership`."""

    __slots__ = ("gossip_at", "gossiped_at", "host", "initiated", "key", "link_id", "port", "since")

    def __init__(self, link_id: int, peer: PeerInfo, initiated: bool, now: float) -> None:
        self.link_id = link_id
        self.key = peer.key
        self.host = peer.host
        self.port = peer.port
        self.initiated = initiated
        self.since = now
        self.gossip_at = now
        self.gossiped_at = -inf


class Member:
    """One other node that was linked once. Mutable; owned by its `Membership`."""

    __slots__ = (
        "declared",
        "host",
        "incarnation",
        "key",
        "links",
        "name",
        "port",
        "reason",
        "rival_at",
        "since",
        "superseded",
    )

    def __init__(self, peer: PeerInfo, now: float) -> None:
        self.key = peer.key
        self.name = peer.name
        self.incarnation = peer.incarnation
        self.host = peer.host
        self.port = peer.port
        self.since = now
        self.links: list[MemberLink] = []  # the first carries the calls; empty: down
        self.rival_at = inf  # when to look at several links, or at none, again
        self.reason = ""
        self.superseded: list[int] = []
        self.declared: tuple[int, str] | None = None  # (incarnation, reason) told at the next link

    @property
    def up(self) -> bool:
        """Whether its `NodeUp` stands: it has a link, or the kept one of two is just to come."""
        return bool(self.links) or self.rival_at < inf
