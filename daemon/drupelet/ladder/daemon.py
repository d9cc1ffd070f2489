"""Daemon: one start of one simulated node: the real `Membership` and the real `ProcessRouter`.

Decides nothing that they decide; drives them as `services/links.py` and `services/processes.py` do,
over pipes instead of sockets. A daemon is one incarnation: a restarted node is another one.

Rules
- A link is two pipes. The acceptor is up when it accepts, the dialler when the welcome has come,
  so either can lose a link that the other never had.
- Node up: told to the router when a link is first used; another link of the same incarnation:
  `link_changed`; node down when membership says so. Segments are taken from whatever link of the
  peer they come on, also from one that is being closed.
- What waits for a node is told after CONNECT_S at the latest that it is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any, Final, assert_never

import trio

from drupelet.core import effects
from drupelet.core.candidates import Candidate
from drupelet.core.connection import GOODBYE_S
from drupelet.core.members import PeerInfo
from drupelet.core.membership import Membership
from drupelet.core.processes import (
    Answered,
    Connect,
    Ended,
    ProcessRouter,
    ToNode,
    ToProxy,
    ToRuntime,
)
from drupelet.errors import NoConnection
from drupelet.ladder.calls import Calls
from drupelet.ladder.network import Pipe

if TYPE_CHECKING:
    from drupelet.ladder.cluster import Cluster
    from drupelet.ladder.runtimes import Attachment

CONNECT_S: Final = 2.0  # services/links.py
DIAL_SILENT_S: Final = (1.0, 10.0)  # how long a dial into a cut path takes to fail
PORT: Final = 4370

GREETING, OPEN, CLOSING, CLOSED = range(4)


class Link:
    """One end of a link."""

    __slots__ = ("dialled", "link_id", "other", "out", "peer", "state")

    def __init__(self, link_id: int, peer: PeerInfo) -> None:
        self.link_id = link_id
        self.peer = peer
        self.state = GREETING
        self.dialled = False
        self.out: Pipe
        self.other: Link


class Daemon:
    """One start of a node. `random` draws latencies and faults, never what a program sees."""

    def __init__(
        self, cluster: Cluster, name: str, incarnation: int, router: type[ProcessRouter]
    ) -> None:
        self.cluster = cluster
        self.name = name
        self.key = cluster.key_of(name)
        self.incarnation = incarnation
        self.random: Random = cluster.network.random
        self.bus = cluster.network.path(cluster.conditions.local_s)
        self.is_alive = True
        self.membership = Membership(self.key, name, self.random.random)
        self.router = router(name, incarnation)
        self.calls = Calls(self)
        self.links: dict[int, Link] = {}
        self.attachments: dict[int, Attachment] = {}
        self.up: dict[str, int] = {}  # connected nodes, with their incarnation
        self._by_name: dict[str, Link] = {}
        self._used: list[Link] = []
        self._greeting = False
        self._dialling: set[str] = set()
        self._waiting: dict[str, list[Callable[[Link | None], None]]] = {}
        self._wakes_at = inf

    def start(self, known: list[str]) -> None:
        """Learn where the others are, and dial them."""
        now = trio.current_time()
        for host in known:
            candidate = Candidate(source="static", host=host, port=PORT, name=host, key_prefix="")
            self.membership.candidate(candidate, now)
        if now >= self.membership.next_timer():
            self.membership.handle_timer(now)
        self.perform()

    def stop(self, *, dark: bool) -> None:
        """It was killed, or its power went (`dark`)."""
        self.is_alive = False
        for link in list(self.links.values()):
            link.state = CLOSED
            if dark:
                link.out.go_dark()
            elif not link.out.is_closed:
                link.out.close("closed", lose=lambda thing: None)
            link.other.out.drop()
        self.links.clear()
        for attachment in self.attachments.values():
            attachment.cut_off()

    def later(self, action: Callable[[], None]) -> None:
        """Do it after the way through the own node."""
        self.cluster.network.after(self.bus.latency_s, action)

    def info(self) -> PeerInfo:
        """How this node presents itself."""
        return PeerInfo(
            key=self.key, name=self.name, incarnation=self.incarnation, host=self.name, port=PORT
        )

    # -- runtimes

    def attach(self, attachment: Attachment) -> None:
        """A runtime is there."""
        now = trio.current_time()
        serial = self.router.attach(attachment.label, attachment.modules, now)
        attachment.serial = serial
        self.attachments[serial] = attachment
        attachment.runtime.attached(self.name, self.incarnation, serial)
        self.perform()

    def receive_runtime(self, attachment: Attachment, data: bytes) -> None:
        """Signals from a runtime."""
        if self.is_alive:
            self.router.receive_runtime(attachment.serial, data, trio.current_time())
            self.perform()

    def detach(self, attachment: Attachment, reason: str) -> None:
        """A runtime is gone."""
        if self.is_alive and self.attachments.pop(attachment.serial, None) is not None:
            self.router.detach(attachment.serial, reason, trio.current_time())
            self.perform()

    def congested(self, attachment: Attachment, on: bool) -> None:
        """A runtime does not read, or does again."""
        if self.is_alive:
            self.router.congested(attachment.serial, on)
            self.perform()

    # -- links

    def dial(self, dial: effects.Dial) -> None:
        """Open a link."""
        network, host = self.cluster.network, dial.host
        self._dialling.add(host)
        there, back = self.cluster.path(self.name, host), self.cluster.path(host, self.name)

        def reached() -> None:
            other = self.cluster.daemons.get(host)
            if not self.is_alive:
                return
            if there.is_cut or back.is_cut:
                low, high = DIAL_SILENT_S
                span_s = low + (high - low) * self.random.random()
                network.after(span_s, lambda: self._dial_failed(dial, "silent"))
            elif other is None or not other.is_alive:
                network.after(back.latency_s, lambda: self._dial_failed(dial, "closed"))
            else:
                self._meet(dial, other)

        # The connection and the first two messages of the handshake, then the third.
        network.after(there.delay_s() + back.delay_s() + there.delay_s(), reached)

    def _meet(self, dial: effects.Dial, other: Daemon) -> None:
        cluster = self.cluster
        mine = Link(cluster.new_link(), other.info())
        theirs = Link(mine.link_id, self.info())
        mine.other, theirs.other = theirs, mine
        mine.dialled = True
        mine.out = Pipe(
            cluster.path(self.name, other.name),
            lambda thing: other.received(theirs, thing),
            lambda reason: other.gone(theirs, reason),
            lambda: other.gone(theirs, "down"),
        )
        theirs.out = Pipe(
            cluster.path(other.name, self.name),
            lambda thing: self.received(mine, thing, dial),
            lambda reason: self._ended(mine, dial, reason),
            lambda: self._ended(mine, dial, "down"),
        )
        self.links[mine.link_id] = mine
        other.accept(theirs)

    def accept(self, link: Link) -> None:
        """Somebody dialled us and is who it says."""
        self.links[link.link_id] = link
        link.state = OPEN
        refused = self.membership.link_up(link.link_id, link.peer, False, trio.current_time())
        link.out.send(("welcome", refused, None))
        if refused is not None:
            self.membership.take_effects()  # its CloseLink
            link.state = CLOSED
            del self.links[link.link_id]
            link.out.close(refused)
            link.other.out.drop()
        self.perform()

    def _dial_failed(self, dial: effects.Dial, reason: str) -> None:
        if self.is_alive:
            self._dialling.discard(dial.host)
            self.membership.dial_failed(dial.host, dial.port, reason, trio.current_time())
            self._give_up(dial.host)
            self.perform()

    def _ended(self, link: Link, dial: effects.Dial, reason: str) -> None:
        if link.state == GREETING:
            link.state = CLOSED
            self.links.pop(link.link_id, None)
            link.out.close()
            self._dial_failed(dial, reason)
        else:
            self.gone(link, reason)

    def received(self, link: Link, thing: Any, dial: effects.Dial | None = None) -> None:
        """Something came on a link."""
        if not self.is_alive or link.state == CLOSED:
            return
        match thing:
            case ("segment", _, bytes(segment)):
                peer = link.peer
                now = trio.current_time()
                self.router.receive_node(peer.name, peer.incarnation, segment, now)
                self.perform()
            case ("welcome", refused, _):
                assert dial is not None
                self._welcomed(link, dial, refused)
            case ("goodbye", reason, _):
                self.gone(link, str(reason))
            case ("call", ident, what):
                self.calls.received(link, ident, what)
            case ("cast", _, what):
                self.calls.received(link, 0, what)
            case ("answer", ident, value):
                self.calls.answered(ident, value)
            case ("gossip", message, _):
                self.membership.receive(link.link_id, message, trio.current_time())
                self.perform()
            case _:
                raise AssertionError(f"unknown: {thing!r:.100}")

    def _welcomed(self, link: Link, dial: effects.Dial, refused: object) -> None:
        if isinstance(refused, str):
            self._ended(link, dial, refused)
            return
        link.state = OPEN
        self._dialling.discard(dial.host)
        self.membership.link_up(link.link_id, link.peer, True, trio.current_time())
        self.perform()

    def gone(self, link: Link, reason: str) -> None:
        """A link ended."""
        if not self.is_alive or link.state == CLOSED:
            return
        link.state = CLOSED
        del self.links[link.link_id]
        self.calls.lost(link, "closed" if reason == "duplicate" else reason)
        lossy = self.random.random() < 0.5
        link.out.close("closed", lose=(lambda thing: None) if lossy else None)
        self.membership.link_down(link.link_id, reason, trio.current_time())
        self.perform()

    def _goodbye(self, link: Link, reason: str) -> None:
        if link.state == OPEN:
            link.state = CLOSING
            link.out.send(("goodbye", reason, None))
            self.cluster.network.after(GOODBYE_S, lambda: self.gone(link, reason))

    def disconnect(self, node: str) -> bool:
        """Close the links to a node."""
        links = [link for link in self.links.values() if link.peer.name == node]
        for link in links:
            self._goodbye(link, "closed")
        return bool(links)

    def link_of(self, node: str) -> Link | None:
        """The link that is used to a node."""
        link_id = self.membership.link_of(node)
        return self.links.get(link_id) if link_id is not None else None

    async def connect(self, node: str) -> Link:
        """Raises: `NoConnection`, within CONNECT_S."""
        answers: list[Link | None] = []
        done = trio.Event()

        def tell(link: Link | None) -> None:
            answers.append(link)
            done.set()

        self.want(node, tell)
        await done.wait()
        if answers[0] is None:
            raise NoConnection(self.membership.reason(node))
        return answers[0]

    def want(self, node: str, tell: Callable[[Link | None], None]) -> None:
        """Tell, once, which link is used to a node, or None."""
        link = self.link_of(node)
        if link is None and self.membership.wanted(node, trio.current_time()):
            waiting = self._waiting.setdefault(node, [])
            waiting.append(tell)
            if len(waiting) == 1:
                self.cluster.network.after(CONNECT_S, lambda: self._settle(node, None, waiting))
            self.perform()
        else:
            self.perform()
            tell(link)

    def _settle(
        self, node: str, link: Link | None, waiting: list[Callable[[Link | None], None]] | None
    ) -> None:
        if waiting is not None and self._waiting.get(node) is not waiting:
            return
        for tell in self._waiting.pop(node, ()):
            tell(link)

    def _give_up(self, node: str) -> None:
        if node in self._waiting and node not in self._dialling:
            self._settle(node, None, None)

    # -- time and effects

    def _arm(self) -> None:
        soonest = min(self.membership.next_timer(), self.router.next_timer())
        if soonest < self._wakes_at:
            self._wakes_at = soonest
            self.cluster.network.timers.add(soonest, lambda: self._wake(soonest))

    def _wake(self, due: float) -> None:
        if self._wakes_at != due or not self.is_alive:
            return
        self._wakes_at = inf
        now = trio.current_time()
        if now >= self.membership.next_timer():
            self.membership.handle_timer(now)
        if now >= self.router.next_timer():
            self.router.handle_timer(now)
        self.perform()

    def perform(self) -> None:
        """Do what the machines want done."""
        if not self.is_alive:
            return
        self._perform_membership()
        for effect in self.router.take_effects():
            match effect:
                case ToRuntime(serial, data):
                    attachment = self.attachments.get(serial)
                    if attachment is not None:
                        attachment.deliver(data)
                case ToNode(node, segments):
                    link = self._by_name.get(node)
                    if link is not None and link.state != CLOSED:
                        for segment in segments:
                            link.out.send(("segment", None, segment))
                case Connect(node):
                    self._connect(node)
                case Answered() | ToProxy() | Ended():  # no strangers here
                    pass
                case _:
                    assert_never(effect)
        self._arm()

    def _perform_membership(self) -> None:
        now = trio.current_time()
        trace = self.cluster.trace
        for effect in self.membership.take_effects():
            match effect:
                case effects.Dial():
                    self.dial(effect)
                case effects.CloseLink(link_id, reason):
                    if link_id in self.links:
                        self._goodbye(self.links[link_id], reason)
                case effects.UseLink(name, link_id):
                    if link_id in self.links:
                        self._by_name[name] = self.links[link_id]
                        self._used.append(self.links[link_id])
                case effects.NodeDown():
                    self._by_name.pop(effect.name, None)
                    if self.up.pop(effect.name, None) is not None:
                        trace.event("down", self.name, effect.name)
                        self.router.node_down(effect.name, now)
                case effects.SendGossip(link_id, message):
                    if link_id in self.links:
                        self.links[link_id].out.send(("gossip", message, None))
                case effects.NodeUp() | effects.DeclaredDown():
                    pass
                case _:
                    assert_never(effect)
        used, self._used = self._used, []
        for link in used:
            if link.link_id not in self.links:
                continue
            name, incarnation = link.peer.name, link.peer.incarnation
            if self.up.get(name) == incarnation:
                trace.event("link", self.name, name)
                self.router.link_changed(name)
            else:
                self.up[name] = incarnation
                self.cluster.node_up(self.name, name)
                self.router.node_up(name, incarnation, now)
            if name in self._waiting:
                self._settle(name, link, None)

    def _connect(self, node: str) -> None:
        def tell(link: Link | None) -> None:
            if not self.is_alive:
                return
            now = trio.current_time()
            if link is None:
                self.router.connect_failed(node, self.membership.reason(node), now)
            else:
                self.router.connected(node, link.peer.name, now)
            self.perform()

        # In a task of its own there: not within the effects of what asked for it.
        self.later(lambda: self.want(node, tell) if self.is_alive else None)
