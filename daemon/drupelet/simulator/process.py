"""Process: one start of one simulated `drupeletd`, a driver of the real core machines.

Decides nothing that the machines decide; it does what `services/links` does with sockets: dial,
greet, keep alive, carry calls, close. It may be killed, lose power, or be stopped and go on.

The clock it gives to the machines starts near 0 with each start, as a Pi's does: no machine may
compare instants of two nodes or two starts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Final, TypeAlias

from drupelet.core import effects
from drupelet.core.calls import CallTable
from drupelet.core.candidates import Candidate
from drupelet.core.connection import Connection
from drupelet.core.membership import Membership, PeerInfo
from drupelet.errors import NoConnection
from drupelet.simulator.ledger import Ledger
from drupelet.simulator.network import End, Message, Network
from drupelet.simulator.scheduler import Scheduler
from drupelet.wire import limits
from drupelet.wire.messages.membership import decode_gossip, encode_gossip

CALL_S: Final = 5.0  # the default deadline of a call
CALLS_MAX: Final = 256  # small, so that runs reach it


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """What is under test; a test swaps one for a broken one to see it found out."""

    membership: Callable[[bytes, str, Callable[[], float]], Membership] = Membership
    connection: Callable[[float], Connection] = Connection
    calls: Callable[[int, int], CallTable] = CallTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a node keeps over its starts."""

    name: str
    key: bytes


class Link:
    """One greeted link."""

    __slots__ = ("connection", "end", "heard_at", "link_id", "peer", "table")

    def __init__(
        self, link_id: int, end: End, peer: PeerInfo, connection: Connection, table: CallTable
    ) -> None:
        self.link_id = link_id
        self.end = end
        self.peer = peer
        self.connection = connection
        self.table = table
        self.heard_at = 0.0  # in time seen from above


Store: TypeAlias = dict[str, object]


class Process:
    """One start of one node."""

    def __init__(
        self,
        identity: Identity,
        host: str,
        port: int,
        incarnation: int,
        *,
        scheduler: Scheduler,
        network: Network,
        ledger: Ledger,
        random: Random,
        machines: Machines,
    ) -> None:
        self.identity = identity
        self.host = host
        self.port = port
        self.incarnation = incarnation
        self.alive = True
        self.stopped = False
        self.resumed_at = -inf
        self.links: dict[int, Link] = {}
        self.store: Store = {}
        self._scheduler = scheduler
        self._network = network
        self._ledger = ledger
        self._random = random
        self._machines = machines
        self._booted = scheduler.now - random.random() * 20.0  # seconds since the board started
        self.membership = machines.membership(identity.key, identity.name, random.random)
        self._by_end: dict[End, Link] = {}
        self._greeting: dict[End, tuple[effects.Dial | None, float]] = {}  # and its deadline
        self._inbox: deque[Callable[[], None]] = deque()
        self._next_link_id = 1
        self._wakes_at = inf  # in time seen from above

    # -- life

    @property
    def now(self) -> float:
        """This machine's monotonic clock."""
        return self._scheduler.now - self._booted

    def post(self, action: Callable[[], None]) -> None:
        """Run `action` in this process: now, after a stop, or never."""
        if self.stopped:
            self._inbox.append(action)
        elif self.alive:
            action()
            self._arm()

    def stop(self) -> None:
        """SIGSTOP."""
        self.stopped = True

    def resume(self) -> None:
        """SIGCONT: what waits in the sockets and what is due come in either order."""
        if not self.alive:
            return
        self.stopped = False
        self.resumed_at = self._scheduler.now
        if self._random.random() < 0.5:
            self._handle_timers()
        while self._inbox and self.alive:
            self._inbox.popleft()()
        self._arm()

    def end(self) -> None:
        """The process is gone."""
        self.alive = False
        self.stopped = False
        self._inbox.clear()
        self._ledger.caller_gone(self.label)

    @property
    def label(self) -> str:
        """Name and start, for the ledger."""
        return f"{self.identity.name}.{self.incarnation}"

    # -- the program's side

    def hint(self, candidate: Candidate) -> None:
        """Discovery or configuration offers an address."""
        self.membership.candidate(candidate, self.now)
        self._perform()

    def call(self, token: int, name: str, work_s: float) -> None:
        """Call a function on `name`, which keeps `token` and gives the number of its calls."""
        self._ledger.opened(token, self.label, name, self._scheduler.now + CALL_S)
        link_id = self.membership.link_of(name)
        link = self.links.get(link_id) if link_id is not None else None
        if link is None:
            self.membership.wanted(name, self.now)
            self._perform()
            self._ledger.outcome(token, "no_connection", maybe_ran=False)
            return
        try:
            ident = link.table.open(token, self.now + CALL_S)
        except NoConnection as error:
            self._ledger.outcome(token, "overloaded", maybe_ran=error.maybe_ran)
            return
        self._network.send(link.end, ("call", ident, token, work_s))
        self._arm()

    # -- the network's side

    def accepted(self, end: End) -> None:
        """A connection came in."""
        self._greeting[end] = (None, self.now + limits.HANDSHAKE_S)

    def received(self, end: End, message: Message) -> None:
        """A message came."""
        link = self._by_end.get(end)
        if link is None:
            self._greet(end, message)
            return
        link.heard_at = self._scheduler.now
        link.connection.last_received = self.now
        match message:
            case ("ping", int(token)):
                self._network.send(end, ("pong", token))
            case ("pong", int(token)):
                link.connection.pong(token, self.now)
            case ("gossip", bytes(body)):
                self.membership.receive(link.link_id, decode_gossip(body), self.now)
                self._perform()
            case ("goodbye", str(reason)):
                link.connection.goodbye_received(reason, self.now)
                self._perform_link(link)
            case ("declared", str(reason)):
                self._told(link, reason)
            case ("call", int(ident), int(token), float(work_s)):
                self._serve(link, ident, token, work_s)
            case ("reply", int(ident), value):
                waiter = link.table.close(ident)
                if isinstance(waiter, int):
                    self._ledger.outcome(waiter, "value", value=value)
            case _:
                raise AssertionError(f"a message that nobody sends: {message!r}")

    def ended(self, end: End) -> None:
        """The connection is gone: end of file or reset."""
        greeting = self._greeting.pop(end, None)
        if greeting is not None and greeting[0] is not None:
            self._dial_failed(greeting[0], "closed")
        link = self._by_end.get(end)
        if link is not None:
            link.connection.closed()
            self._perform_link(link)

    def _serve(self, link: Link, ident: int, token: int, work_s: float) -> None:
        self.store["count"] = value = f"{self.label}:{token}"
        self._ledger.ran(token, value)

        def reply() -> None:
            self._network.send(link.end, ("reply", ident, value))

        if work_s > 0.0:
            self._scheduler.after(work_s, lambda: self.post(reply))
        else:
            reply()

    # -- greeting

    def _dial(self, effect: effects.Dial) -> None:
        def answer(end: End | None, reason: str) -> None:
            if end is None:
                self._dial_failed(effect, reason)
            else:
                self._greeting[end] = (effect, self.now + limits.HANDSHAKE_S)
                self._network.send(end, ("hello", self._own_info()))

        self._network.dial(self, effect.host, effect.port, answer)

    def _dial_failed(self, effect: effects.Dial, reason: str) -> None:
        self._scheduler.trace(f"{self.label} dial_failed {effect.host} {reason}")
        self.membership.dial_failed(effect.host, effect.port, reason, self.now)
        self._perform()

    def _own_info(self) -> PeerInfo:
        return PeerInfo(
            key=self.identity.key,
            name=self.identity.name,
            incarnation=self.incarnation,
            host=self.host,
            port=self.port,
        )

    def _greet(self, end: End, message: Message) -> None:
        greeting = self._greeting.pop(end, None)
        match message:
            case ("hello", PeerInfo() as peer) if greeting is not None:
                declared = self.membership.declared_down(peer.key, peer.incarnation)
                refused = self._link_up(end, peer, initiated=False)
                self._network.send(end, ("welcome", self._own_info(), refused, declared))
                if refused is not None:
                    self._network.close(end)
                self._perform()
            case ("welcome", PeerInfo() as peer, refused, declared) if greeting is not None:
                dial = greeting[0]
                assert dial is not None
                if isinstance(refused, str):
                    self._network.close(end)
                    self._dial_failed(dial, refused)
                    return
                self._welcomed(end, dial, peer, declared)

    def _welcomed(self, end: End, dial: effects.Dial, peer: PeerInfo, declared: object) -> None:
        info = PeerInfo(
            key=peer.key,
            name=peer.name,
            incarnation=peer.incarnation,
            host=dial.host,
            port=dial.port,
        )
        ours = self.membership.declared_down(peer.key, peer.incarnation)
        self._link_up(end, info, initiated=True)
        link = self._by_end[end]
        if ours is not None:
            self._network.send(end, ("declared", ours))
        if isinstance(declared, str):
            self._told(link, declared)
        self._perform()

    def _link_up(self, end: End, peer: PeerInfo, *, initiated: bool) -> str | None:
        link_id = self._next_link_id
        self._next_link_id += 1
        refused = self.membership.link_up(link_id, peer, initiated, self.now)
        self._scheduler.trace(f"{self.label} link_up {end.wire_id} {peer.name} {refused}")
        if refused is None or initiated:
            link = Link(
                link_id,
                end,
                peer,
                self._machines.connection(self.now),
                self._machines.calls(2 if initiated else 1, CALLS_MAX),
            )
            link.heard_at = self._scheduler.now
            self.links[link_id] = self._by_end[end] = link
        return refused

    def _told(self, link: Link, reason: str) -> None:
        peer = link.peer
        self._ledger.declared(peer.incarnation, self.identity.key, self.incarnation)
        self.membership.declared_down_by(peer.name, peer.key, reason, self.now)
        self._perform()

    # -- timers and effects

    def _due(self) -> float:
        due = self.membership.next_timer()
        for link in self.links.values():
            due = min(due, link.connection.next_timer(), link.table.next_timer())
        for _, deadline in self._greeting.values():
            due = min(due, deadline)
        return due

    def _arm(self) -> None:
        if not self.alive or self.stopped:
            return
        due = self._due() + self._booted
        if due < self._wakes_at:
            self._wakes_at = due
            # A loop is never exactly in time; and instants of two clocks differ by rounding.
            self._scheduler.at(due + 1e-6, lambda: self._wake(due))

    def _wake(self, due: float) -> None:
        if self._wakes_at != due:
            return
        self._wakes_at = inf
        if self.alive and not self.stopped:
            self._handle_timers()
            self._arm()

    def _handle_timers(self) -> None:
        self._wakes_at = inf
        now = self.now
        for end, (dial, deadline) in list(self._greeting.items()):
            if now >= deadline and self._greeting.pop(end, None) is not None:
                self._network.close(end)
                if dial is not None:
                    self._dial_failed(dial, "silent")
        for link in list(self.links.values()):
            for _, waiter in link.table.expire(now):
                assert isinstance(waiter, int)
                self._ledger.outcome(waiter, "timeout", maybe_ran=True)
            link.connection.handle_timer(now)
            self._perform_link(link)
        if now >= self.membership.next_timer():
            self.membership.handle_timer(now)
            assert self.membership.next_timer() > now, "a timer that does not move on"
        self._perform()

    def _perform(self) -> None:
        for effect in self.membership.take_effects():
            match effect:
                case effects.Dial():
                    self._dial(effect)
                case effects.CloseLink(link_id, reason):
                    link = self.links.get(link_id)
                    if link is not None:
                        link.connection.goodbye(reason, self.now)
                        self._perform_link(link)
                case effects.NodeUp() | effects.NodeDown():
                    kind = type(effect).__name__
                    self._scheduler.trace(f"{self.label} {kind} {effect.name}")
                    self._ledger.event(self.incarnation, effect, self._scheduler.now)
                case effects.SendGossip(link_id, message):
                    link = self.links.get(link_id)
                    if link is not None:
                        self._network.send(link.end, ("gossip", encode_gossip(message)))
                case effects.UseLink() | effects.DeclaredDown():
                    self._scheduler.trace(f"{self.label} {effect}")

    def _perform_link(self, link: Link) -> None:
        for effect in link.connection.take_effects():
            match effect:
                case effects.SendPing(token):
                    self._network.send(link.end, ("ping", token))
                case effects.SendGoodbye(reason):
                    self._network.send(link.end, ("goodbye", reason))
                case effects.Dead(reason):
                    self._link_gone(link, reason)

    def _link_gone(self, link: Link, reason: str) -> None:
        self._network.close(link.end)
        del self.links[link.link_id]
        del self._by_end[link.end]
        for _, waiter in link.table.drain():
            assert isinstance(waiter, int)
            self._ledger.outcome(waiter, "link_lost", maybe_ran=True)
        self._scheduler.trace(f"{self.label} link_down {link.end.wire_id} {reason}")
        self.membership.link_down(link.link_id, reason, self.now)
        self._perform()
