"""Membership: who is known, who is linked, whom to dial when.

Decides which links are kept, when a node is up or down, and what is told to other members. Sockets,
handshakes and names to addresses are the driver's; a key that arrives here was proved.

Rules
- A node is its key. A name belongs to one key at a time; the second is refused (`name_taken`).
- A link with our own key is closed (`self`) and its address left alone for OWN_RETRY_S.
- Two links to the same start (incarnation) of a peer: **the node with the smaller key decides
  alone**, the other one keeps both until one is closed. When dials crossed, the decider keeps what
  it has first; that nobody else decides makes both sides keep the same one in any order of events.
  A second link that the *peer* opened long after the first means that the peer lost the first: the
  newcomer waits RIVAL_S, then takes over. No `NodeDown` while one link of a peer lives.
- Another incarnation of a peer replaces the present one, and the replaced never comes back (a
  delayed link of it, or a clone, is closed as `superseded`; core/clones.py tells them apart).
  Incarnations are compared for equality only: a Pi's clock says 1970 after each start.
- `NodeDown` exactly once for each `NodeUp`, and alternating for each key.
- A lost or refused address is dialled again for ever (core/addresses.py).
- Gossip: all linked members and their addresses, to each link when it comes up and, at most once in
  GOSSIP_GAP_S, when a member is new. What is received are hints like any other.

References: OTP's distribution handshake asks about duplicates (status ``alive``); SWIM (Das et al.,
2002) for gossip, of which only the list is used. Rejected: "both close what the larger key opened"
(two of one side stay undecided); dialling from one side only (one NAT, and the pair never meets).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from math import inf
from typing import Final

from drupelet.core.addresses import Address, AddressBook, key_prefix_of, told_host
from drupelet.core.candidates import Candidate
from drupelet.core.clones import Clones
from drupelet.core.effects import (
    CloseLink,
    DeclaredDown,
    Dial,
    MembershipEffect,
    NodeDown,
    NodeUp,
    SendGossip,
    UseLink,
)
from drupelet.core.members import Member, MemberLink, MembershipStatistics, NodeSnapshot, PeerInfo
from drupelet.wire import limits
from drupelet.wire.messages.membership import Gossip, GossipNode

__all__ = ["Membership", "MembershipStatistics", "NodeSnapshot", "PeerInfo"]

LINKS_WANTED_MAX: Final = 64  # members that we dial; a full mesh of more is too much for a Pi
LINKS_MAX: Final = 512  # that we accept, rivals and nodes beyond the mesh included: 5 MB
LINKS_PER_PEER_MAX: Final = 4  # one, a rival, and two of dials that crossed
MEMBERS_MAX: Final = 1_024  # remembered, the up ones included; the longest down goes first
SUPERSEDED_MAX: Final = 8  # former incarnations remembered per member
DIALS_MAX: Final = 16  # dials under way; each is a socket and a handshake of 0.3 ms
DIAL_S: Final = 15.0  # connecting and handshake 10 s by the driver; then we no longer wait for it
DIALS_HINTED_MAX: Final = 8  # of these to what only mDNS, thus anyone, names: a flood leaves room
SAME_NODE_S: Final = 0.25  # between dials of two addresses of one node (RFC 8305, section 5)
SETTLED_S: Final = limits.HANDSHAKE_S  # dials that crossed are both done within a handshake's time
LINGER_S: Final = 0.5  # a node is not down because the peer closed a duplicate first
RIVAL_S: Final = 1.0  # a round trip and a stall: time for the peer to close one itself
STABLE_S: Final = 5.0  # a link that lasted so long resets its address's back-off
TOLD_S: Final = 10.0  # a link that lasted so long carried its first message: silence ends it sooner
WANTED_GAP_S: Final = 1.0  # how often a call may dial in spite of the back-off
OWN_RETRY_S: Final = 300.0  # an address that led to ourselves may have a new owner by then
GOSSIP_GAP_S: Final = 1.0  # a cluster of 64 that starts at once sends 64 lists per link, not 4,096
GOSSIP_WAIT_S: Final = 0.05  # puts several new members into one list


class Membership:
    """The decision machine of one node's cluster. `random`: floats in [0, 1)."""

    def __init__(self, own_key: bytes, own_name: str, random: Callable[[], float]) -> None:
        self._own_key = own_key
        self._own_name = own_name
        self.clones = Clones(own_key)
        self._book = AddressBook(own_key, random)
        self._members: dict[bytes, Member] = {}
        self._names: dict[str, Member] = {}  # the latest holder of each name
        self._links: dict[int, MemberLink] = {}
        self._dialling = 0
        self._timer: float | None = None  # next_timer, None when it is to be found anew
        self._rivals_at = self._gossip_at = inf  # lower bounds of all rival_at and gossip_at
        self._effects: list[MembershipEffect] = []
        self._counts = dict.fromkeys(
            ("dialled", "failed", "duplicate", "self", "name_taken", "superseded", "gossip"), 0
        )
        self._counts |= {"overloaded": 0, "declared_down": 0}

    # -- inputs

    def candidate(self, candidate: Candidate, now: float) -> None:
        """Discovery, configuration, a port mapper or a member offers an address."""
        self._timer = None
        address = self._book.add(candidate, now)
        if address is not None and address.dial_at < inf and self._owner(address) is not None:
            self._book.rest(address, now)

    def wanted(self, name: str, now: float) -> bool:
        """A call wants that node. Returns whether it is linked or being dialled now.

        Dials its addresses at once, ignoring their back-off at most once in WANTED_GAP_S.
        """
        if self.link_of(name) is not None:
            return True
        under_way = False
        for address in list(self._named(name)):
            if address.dialling:
                under_way = True
            elif now >= address.wanted_at + WANTED_GAP_S and self._owner(address) is None:
                address.wanted_at = now
                self._timer = None
                if self._dialling < 2 * DIALS_MAX:  # a person waits: beyond the usual limit
                    self._dial(address, now)
                    under_way = True
        return under_way

    def refusal(self, peer: PeerInfo) -> str:
        """Why `link_up` would refuse this peer now, as a word of `errors.REASONS`; "" if it would
        not. For the driver to say so in the handshake's last message."""
        if peer.key == self._own_key:
            return "self"
        holder = self._names.get(peer.name)
        if peer.name == self._own_name or (
            holder is not None and holder.up and holder.key != peer.key
        ):
            return "name_taken"
        member = self._members.get(peer.key)
        if member is not None and peer.incarnation in member.superseded:
            return "superseded"
        if len(self._links) >= LINKS_MAX:
            return "overloaded"
        return ""

    def link_up(self, link_id: int, peer: PeerInfo, initiated: bool, now: float) -> str | None:
        """A handshake succeeded on a new link; `initiated`: we dialled.

        Returns None when the link is kept, else why not, a word of `errors.REASONS`; a `CloseLink`
        with that reason is among the effects then.
        """
        self._timer = None
        assert link_id not in self._links, "link_up() twice for one link"
        address = self._book.find(peer.host, peer.port)
        if initiated and address is not None and address.dialling:
            self._dial_ended(address)
            self._book.proved(address, peer.key)
            address.dial_at = inf
            if address.name and address.name != peer.name:
                address.reason, address.failed_at = "wrong_node", now
        refusal = self.refusal(peer)
        if refusal:
            self._counts[refusal] += 1
            holder = self._members.get(peer.key)
            self.clones.refused(refusal, peer, holder.since if holder is not None else now, now)
            self._effects.append(CloseLink(link_id, refusal))
            if initiated and address is not None:
                self._failed(address, refusal, now)
            return refusal
        self._gossip_at = now  # the new link gets its list at once
        return self._enter(MemberLink(link_id, peer, initiated, now), peer, now)

    def link_down(self, link_id: int, reason: str, now: float) -> None:
        """A link is gone. `reason`: a word of `errors.REASONS`, "down" for silence."""
        self._timer = None
        link = self._links.pop(link_id, None)
        if link is None:
            return  # we closed it ourselves
        if link.gossip_at <= self._gossip_at:
            self._look_for_gossip()
        member = self._members[link.key]
        was_first = member.links[0] is link
        member.links.remove(link)
        if len(member.links) == 1:
            member.rival_at = inf
        address = self._book.find(link.host, link.port)
        if address is not None and now >= link.since + STABLE_S:
            address.backoff.reset()
        if now >= link.since + TOLD_S:
            member.declared = None
        if not member.links and reason == "duplicate":
            self._await_rival(member, now + LINGER_S)  # the kept one's Welcome is under way
        elif not member.links:
            self._down(member, reason, now)
        elif was_first:
            self._use_first(member)

    def cookie_changed(self, now: float) -> None:
        """Who refused the former one may take this one."""
        self._timer = None
        self._book.retry_others(now)

    def dial_failed(self, host: str, port: int, reason: str, now: float) -> None:
        """A `Dial` came to nothing."""
        self._timer = None
        address = self._book.find(host, port)
        if address is not None and address.dialling:
            self._dial_ended(address)
            self._counts["failed"] += 1
            self.clones.refused_by(host, reason, now)
            self._failed(address, reason, now)

    def declared_down_by(self, name: str, key: bytes, reason: str, now: float) -> None:
        """The Welcome of a new link says that this peer had declared us dead."""
        self._counts["declared_down"] += 1
        self._effects.append(DeclaredDown(name=name, key=key, reason=reason))

    def receive(self, link_id: int, message: Gossip, now: float) -> None:
        """A member's gossip."""
        link = self._links.get(link_id)
        if link is None:
            return
        for node in message.nodes:
            if node.key != self._own_key:
                self.candidate(
                    Candidate(
                        source="gossip",
                        host=node.host or link.host,
                        port=node.port,
                        name=node.name,
                        key_prefix=key_prefix_of(node.key),
                    ),
                    now,
                )

    def handle_timer(self, now: float) -> None:
        """Whatever is due at `now`."""
        self._timer = None
        if now >= self._rivals_at:
            for member in self._members.values():
                if now >= member.rival_at and member.links:
                    self._settle_rivals(member)
                elif now >= member.rival_at:
                    self._down(member, "duplicate", now)
            self._rivals_at = min((each.rival_at for each in self._members.values()), default=inf)
        if now >= self._gossip_at:
            for link in self._links.values():
                if now >= link.gossip_at:
                    self._gossip(link, now)
            self._look_for_gossip()
        for address in list(self._book):
            if address.dialling and now >= address.dialling_until:
                self.dial_failed(address.host, address.port, "silent", now)
        self._dial_due(now)

    def next_timer(self) -> float:
        """When to call `handle_timer` next; inf: never."""
        if self._timer is None:
            self._timer = self._find_timer()
        return self._timer

    def take_effects(self) -> list[MembershipEffect]:
        """What to do, in order; each is given out once."""
        effects, self._effects = self._effects, []
        return effects

    # -- queries

    def nodes(self) -> list[NodeSnapshot]:
        """Every member that was ever linked and is not forgotten, by name."""
        return [
            NodeSnapshot(
                name=member.name,
                key=member.key,
                state="up" if member.up else "down",
                since=member.since,
                incarnation=member.incarnation,
                host=member.host,
                port=member.port,
                reason=member.reason,
                link_id=member.links[0].link_id if member.links else None,
            )
            for member in sorted(self._members.values(), key=lambda m: (m.name, m.key))
        ]

    def link_of(self, name: str) -> int | None:
        """The link that carries calls to ``name`` or ``name@host``; None when there is none."""
        member = self._names.get(name)
        if member is None and "@" in name:
            label, _, host = name.partition("@")
            member = self._names.get(label)
            if member is not None and not self._is_at(member, host):
                return None
        return member.links[0].link_id if member is not None and member.links else None

    def key_of(self, name: str) -> bytes | None:
        """The key of the member called ``name`` or ``name@host``, up or down."""
        member = self._names.get(name) or self._names.get(name.partition("@")[0])
        return member.key if member is not None else None

    def reason(self, name: str) -> str:
        """Why ``name`` cannot be reached: the last failure, a word of `errors.REASONS`."""
        member = self._names.get(name) or self._names.get(name.partition("@")[0])
        reason, at = "no_such_node", -inf
        if member is not None and not member.links:
            reason, at = member.reason, member.since
        for address in self._named(name):
            if address.reason and address.failed_at >= at:
                reason, at = address.reason, address.failed_at
            elif reason == "no_such_node":
                reason = "closed"  # known by a hint, not tried to the end yet
        return reason

    def candidates_of(self, name: str) -> list[Candidate]:
        """The addresses at which ``name`` or ``name@host`` is hoped to answer; "": all."""
        return [
            Candidate(
                source=address.source,
                host=address.host,
                port=address.port,
                name=address.name,
                key_prefix=address.key_prefix,
            )
            for address in (self._named(name) if name else self._book)
        ]

    def declared_down(self, key: bytes, incarnation: int) -> str | None:
        """Why this start of that peer, down now, was declared dead here; None when it was not.

        Ask before `link_up`, and tell the peer on the new link. It is told on each new link until
        one lasts TOLD_S, since a link that breaks at once may not have carried the news.
        """
        member = self._members.get(key)
        if member is None or member.up or member.declared is None:
            return None
        if member.declared[0] != incarnation:
            return None
        return member.declared[1]

    def statistics(self) -> MembershipStatistics:
        """A snapshot of the counters."""
        return MembershipStatistics(
            addresses=len(self._book),
            members=len(self._members),
            links=len(self._links),
            evicted_count=self._book.evicted_count,
            refused_count=self._book.refused_count,
            **{f"{word}_count": count for word, count in self._counts.items()},
        )

    # -- links

    def _enter(self, link: MemberLink, peer: PeerInfo, now: float) -> str | None:
        member = self._members.get(peer.key)
        if member is not None and member.up and member.incarnation == peer.incarnation:
            return self._enter_rival(member, link, now)
        if member is not None and member.up:
            for old in member.links:
                del self._links[old.link_id]
                self._effects.append(CloseLink(old.link_id, "superseded"))
            member.links.clear()
            self._down(member, "superseded", now)
        if member is None:
            self._forget_one()
            member = self._members[peer.key] = Member(peer, now)
        self._up(member, link, peer, now)
        return None

    def _up(self, member: Member, link: MemberLink, peer: PeerInfo, now: float) -> None:
        if member.incarnation != peer.incarnation:
            member.superseded.append(member.incarnation)
            del member.superseded[:-SUPERSEDED_MAX]
        holder = self._names.get(peer.name)
        if holder is not None and holder is not member:  # down, or it would have been refused
            del self._members[holder.key]
        if self._names.get(member.name) is member:
            del self._names[member.name]
        self._names[peer.name] = member
        member.name = peer.name
        member.incarnation = peer.incarnation
        member.host, member.port = peer.host, peer.port
        member.since = now
        member.reason = ""
        member.links.append(link)
        self._links[link.link_id] = link
        self._effects.append(NodeUp(name=peer.name, key=peer.key, incarnation=peer.incarnation))
        self._effects.append(UseLink(peer.name, link.link_id))
        self._remember_address(peer, now)
        for other in self._links.values():
            if other.gossip_at == inf:
                other.gossip_at = max(now + GOSSIP_WAIT_S, other.gossiped_at + GOSSIP_GAP_S)

    def _down(self, member: Member, reason: str, now: float) -> None:
        member.since = now
        member.reason = reason
        member.rival_at = inf
        if reason == "down":
            member.declared = (member.incarnation, reason)
        self._effects.append(
            NodeDown(
                name=member.name, key=member.key, incarnation=member.incarnation, reason=reason
            )
        )
        for address in self._book:
            if address.leads_to(member.key, member.name):
                self._book.wake(address, now)

    def _enter_rival(self, member: Member, link: MemberLink, now: float) -> str | None:
        if not member.links:
            member.rival_at = inf
            member.links.append(link)
            self._links[link.link_id] = link
            self._use_first(member)
            return None
        settled = now >= member.links[0].since + SETTLED_S
        if self._decides(member):
            closes = link.initiated or not settled
        else:
            closes = link.initiated and settled  # an alias of an address; nothing is lost
        if closes or len(member.links) >= LINKS_PER_PEER_MAX:
            self._counts["duplicate"] += 1
            self._effects.append(CloseLink(link.link_id, "duplicate"))
            return "duplicate"
        member.links.append(link)
        self._await_rival(member, now + RIVAL_S)
        self._links[link.link_id] = link
        return None

    def _await_rival(self, member: Member, until: float) -> None:
        member.rival_at = until
        self._rivals_at = min(self._rivals_at, until)

    def _settle_rivals(self, member: Member) -> None:
        """The newest link proved its life last: it takes over."""
        member.rival_at = inf
        newest = member.links.pop()
        others = member.links
        member.links = [newest] if self._decides(member) else [newest, *others]
        self._use_first(member)
        if not self._decides(member):
            return
        for link in others:
            del self._links[link.link_id]
            self._counts["duplicate"] += 1
            self._effects.append(CloseLink(link.link_id, "duplicate"))

    def _use_first(self, member: Member) -> None:
        first = member.links[0]
        member.host, member.port = first.host, first.port
        self._effects.append(UseLink(member.name, first.link_id))

    def _decides(self, member: Member) -> bool:
        return self._own_key < member.key

    def _forget_one(self) -> None:
        if len(self._members) < MEMBERS_MAX:
            return
        down = [member for member in self._members.values() if not member.up]
        oldest = min(down, key=lambda member: member.since)  # at most LINKS_MAX are up
        del self._members[oldest.key]
        if self._names.get(oldest.name) is oldest:
            del self._names[oldest.name]

    # -- addresses

    def _remember_address(self, peer: PeerInfo, now: float) -> None:
        if peer.port:
            address = self._book.add(
                Candidate(
                    source="gossip",
                    host=peer.host,
                    port=peer.port,
                    name=peer.name,
                    key_prefix=key_prefix_of(peer.key),
                ),
                now,
            )
            if address is not None:
                self._book.proved(address, peer.key)
        for address in self._book:
            asleep = address.dial_at == inf and not address.doubted
            if not (asleep or address.dialling) and address.leads_to(peer.key, peer.name):
                self._book.rest(address, now)

    def _owner(self, address: Address) -> Member | None:
        """The linked member that answers at this address, as far as is known and undoubted."""
        if address.doubted:
            return None
        if address.key is not None:
            member = self._members.get(address.key)
            return member if member is not None and member.links else None
        if address.name and not address.key_prefix:
            member = self._names.get(address.name)
            return member if member is not None and member.links else None
        if address.key_prefix:
            for member in self._members.values():
                if member.links and address.leads_to(member.key, member.name):
                    return member
        return None

    def _named(self, name: str) -> list[Address]:
        """Addresses at which ``name`` or ``name@host`` is hoped to answer."""
        label, _, host = name.partition("@")
        member = self._names.get(name) or self._names.get(label)
        return [
            address
            for address in self._book
            if (not host or address.name == name or address.host == host)
            and (
                address.name in (name, label)
                or (member is not None and address.leads_to(member.key, member.name))
            )
        ]

    def _is_at(self, member: Member, host: str) -> bool:
        return member.host == host or any(
            address.host == host and address.leads_to(member.key, member.name)
            for address in self._book
        )

    def _room(self) -> tuple[int, int]:
        """(dials that may start now, those of them to what only mDNS names)."""
        hinted = sum(address.dialling and address.hinted for address in self._book)
        room = min(DIALS_MAX, LINKS_WANTED_MAX - len(self._links)) - self._dialling
        return room, DIALS_HINTED_MAX - hinted

    def _dial_due(self, now: float) -> None:
        """Dial what is due, the most trusted first; `next_timer` leaves out what finds no room."""
        due = [address for address in self._book if now >= address.dial_at]
        if not due:
            return
        due.sort(key=Address.urgency, reverse=True)
        room, room_hinted = self._room()
        for address in due:
            if now < address.dial_at:
                continue  # another address of the same node went first
            if self._owner(address) is not None:
                self._book.rest(address, now)
            elif room > 0 and (room_hinted > 0 or not address.hinted):
                room -= 1
                room_hinted -= address.hinted
                self._dial(address, now)

    def _find_timer(self) -> float:
        """A look at every address; kept until the next input."""
        soonest = soonest_hinted = dial_ends = inf
        hinted_under_way = 0
        for address in self._book:
            if address.dial_at == inf and address.dialling_until == -inf:
                continue  # asleep, like most of a full book
            if address.dialling_until > -inf:
                dial_ends = min(dial_ends, address.dialling_until)
                hinted_under_way += address.hinted
            elif address.hinted:
                soonest_hinted = min(soonest_hinted, address.dial_at)
            else:
                soonest = min(soonest, address.dial_at)
        if hinted_under_way < DIALS_HINTED_MAX:
            soonest = min(soonest, soonest_hinted)
        if self._dialling >= min(DIALS_MAX, LINKS_WANTED_MAX - len(self._links)):
            soonest = inf
        return min(soonest, dial_ends, self._rivals_at, self._gossip_at)

    def _dial(self, address: Address, now: float) -> None:
        self._dialling += 1
        address.dialling_until = now + DIAL_S
        address.dial_at = inf
        self._counts["dialled"] += 1
        self._effects.append(Dial(host=address.host, port=address.port, name=address.name))
        if not address.key_prefix:
            return
        for other in self._book:  # the other addresses of the same node: one after the other
            if other is not address and other.key_prefix == address.key_prefix:
                other.dial_at = max(other.dial_at, now + SAME_NODE_S)

    def _failed(self, address: Address, reason: str, now: float) -> None:
        self._book.failed(address, reason, now)
        if reason == "self":
            address.dial_at = now + OWN_RETRY_S
        elif address.key is not None and self._owner(address) is not None:
            self._book.rest(address, now)

    def _dial_ended(self, address: Address) -> None:
        self._dialling -= 1
        address.dialling_until = -inf
        address.doubted = False

    # -- gossip

    def _look_for_gossip(self) -> None:
        self._gossip_at = min((link.gossip_at for link in self._links.values()), default=inf)

    def _gossip(self, link: MemberLink, now: float) -> None:
        link.gossip_at = inf
        newest = (
            GossipNode(name=member.name, key=member.key, host=host, port=member.port)
            for member in reversed(self._members.values())
            if member.links and member.key != link.key and member.port
            for host in (told_host(member.host, link.host),)
            if host is not None
        )
        nodes = tuple(islice(newest, limits.GOSSIP_NODES_MAX))[::-1]
        if nodes:
            link.gossiped_at = now
            self._counts["gossip"] += 1
            self._effects.append(SendGossip(link.link_id, Gossip(nodes)))
