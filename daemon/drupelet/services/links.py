"""Links: the driver of membership. Accepts, dials, greets, keeps alive, closes.

Decides nothing that `core/membership`, `core/connection` and `core/admission` can decide: it turns
their effects into sockets and tells them what became of it.

Rules
- A stranger gets no byte that is not the handshake's; a refusal at the door is a reset (so that the
  dialling side does not take it for a wrong cookie, which is an orderly close without a word).
- A link exists for the program from the WELCOME on: the accepting side greets, with the reason when
  it refuses; the dialling side counts the link when it was greeted.
- One malformed peer closes only its own link.

Owns: the listener, one task per link or handshake under way. Cancellation: links are cut.
"""

from __future__ import annotations

import logging
import secrets
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, assert_never

import trio

from drupelet.core import effects
from drupelet.core.admission import Admission
from drupelet.core.candidates import Candidate
from drupelet.core.membership import Membership, PeerInfo
from drupelet.errors import REASONS, CallError, NoConnection, RemoteProtocolError
from drupelet.net import epmd
from drupelet.net.channel import Channel, Flusher, tune_tcp
from drupelet.net.dialer import dial
from drupelet.net.listener import Listener
from drupelet.net.secure_stream import initiate, respond
from drupelet.services.deadlines import Deadlines
from drupelet.services.endpoint import Endpoint, Router
from drupelet.services.keepalive import Link
from drupelet.services.stranger_links import StrangerLinks, Strangers
from drupelet.wire import frames
from drupelet.wire.codec import loads_control
from drupelet.wire.frames import frame
from drupelet.wire.handshake import (
    ROLE_MEMBER,
    ROLE_STRANGER,
    Credentials,
    Established,
    HandshakeRefused,
    Initiator,
    Responder,
)
from drupelet.wire.keys import VerifiedKeys
from drupelet.wire.limits import CANDIDATES_MAX, HANDSHAKE_S
from drupelet.wire.messages.links import Welcome, decode_welcome, encode_welcome
from drupelet.wire.messages.membership import decode_gossip, encode_gossip
from drupelet.wire.records import RecordOpener, RecordSealer

_log = logging.getLogger("drupelet.links")

CONNECT_S: Final = 1.9  # a caller is told within 2 s why a node cannot be reached
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST
_NODE_LISTENERS_MAX: Final = 256  # programs that watch nodes come and go


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvent:
    """A node came up or went down. `kind` is "up" or "down"."""

    kind: str
    name: str
    key: bytes
    incarnation: int
    reason: str


class Links:
    """All links of one node; the `Directory` of `services/calls.py`."""

    def __init__(
        self,
        credentials: Credentials,
        membership: Membership,
        router: Router,
        flusher: Flusher,
        deadlines: Deadlines,
        sockets: list[socket.socket],
        *,
        mapper_port: int,
    ) -> None:
        self.credentials = credentials
        self.membership = membership
        self.mapper_port = mapper_port
        self.admission = Admission()
        self._verified = VerifiedKeys()
        self._router = router
        self._flusher = flusher
        self._deadlines = deadlines
        self._listener = Listener(sockets, self._on_accept)
        self._nursery: trio.Nursery | None = None
        self._links: dict[int, Link] = {}
        self._by_name: dict[str, Endpoint] = {}
        self._next_link_id = 1
        self._dialling: set[tuple[str, int]] = set()
        # (why, which cookie is next) of addresses where a handshake failed
        self.failures: dict[tuple[str, int], tuple[str, int]] = {}
        self._changed = trio.Event()
        self._listeners: list[Callable[[NodeEvent], None]] = []
        # The link of a node that is used from now on; never before its WELCOME is in line.
        self.on_use: Callable[[Link], None] | None = None
        self.strangers: Strangers | None = None
        self.stranger_links = StrangerLinks(
            self._stranger_endpoint, self._shake_stranger, deadlines
        )
        self._used: list[Link] = []
        self._greeting = False
        self._stopping = False
        self.protocol_error_count = 0
        self.handshake_failed_count = 0
        self.declared_down_count = 0

    @property
    def own_name(self) -> str:
        """This node's name."""
        return self.credentials.name

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept, dial and keep alive for ever."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.stranger_links.nursery = nursery
            self._deadlines.add(self)
            nursery.start_soon(self._listener.run)
            self._perform()
            task_status.started()

    async def stop(self, drain_s: float) -> None:
        """No new links; say goodbye on all; wait at most `drain_s` for the peers to agree."""
        self._stopping = True
        self._listener.close()
        now = trio.current_time()
        for link in list(self._links.values()):
            self._goodbye(link, "stopping", now)
        self.stranger_links.goodbye("stopping", now)
        with trio.move_on_after(drain_s):
            while self._links:
                await self._changed.wait()
            await self.stranger_links.wait_none()

    # -- the directory

    def endpoint(self, node: str) -> Endpoint | None:
        """The endpoint of a connected node, by its name or the part before @."""
        endpoint = self._by_name.get(node)
        if endpoint is None:
            link_id = self.membership.link_of(node)
            link = self._links.get(link_id) if link_id is not None else None
            endpoint = link.endpoint if link is not None else None
            if endpoint is None and self.strangers is not None:
                endpoint = self.strangers.endpoint(node)
        return endpoint

    def connected(self) -> list[str]:
        """Names of connected nodes."""
        return sorted({link.peer.name for link in self._links.values()} & self._by_name.keys())

    async def connect(self, node: str) -> Endpoint:
        """Dial what is known of `node`. Raises: `NoConnection` with the reason, within 2 s."""
        if self._stopping:
            raise NoConnection("stopping")
        if self.strangers is not None:
            endpoint = await self.strangers.connect(node)
            if endpoint is not None:
                return endpoint
        with trio.move_on_after(CONNECT_S):
            await self._want(node)
            while True:
                endpoint = self.endpoint(node)
                if endpoint is not None:
                    return endpoint
                addresses = self.membership.candidates_of(node)
                if not any((each.host, each.port) in self._dialling for each in addresses):
                    break
                await self._changed.wait()
        raise NoConnection(self.membership.reason(node))

    async def _want(self, node: str) -> None:
        """Dial what is known of `node`; if nothing is, ask the port mapper of its ``@host``."""
        if not self.membership.wanted(node, trio.current_time()) and "@" in node:
            name, _, host = node.partition("@")
            entry = await epmd.lookup(host, name, port=self.mapper_port, timeout_s=CONNECT_S)
            if entry is None:
                raise NoConnection("not_registered")
            self.membership.candidate(
                Candidate(source="mapper", host=host, port=entry.port, name=name, key_prefix=""),
                trio.current_time(),
            )
            self.membership.wanted(node, trio.current_time())
        self._perform()

    async def probe(self, host: str, port: int) -> str:
        """Handshake once with an address, for `why`. Returns "" or the reason it fails."""
        _, sock, reason = await self._shake(host, port)
        if sock is not None:
            sock.close()
        return reason

    def candidate(self, candidate: Candidate) -> None:
        """Discovery, the mapper, a file or a person names an address."""
        self.membership.candidate(candidate, trio.current_time())
        self._perform()

    def link(self, node: str) -> Link | None:
        """The link to a connected member."""
        endpoint = self._by_name.get(node)
        return next((each for each in self._links.values() if each.endpoint is endpoint), None)

    def listen(self, listener: Callable[[NodeEvent], None]) -> None:
        """Tell `listener` of every node that comes up or goes down."""
        if len(self._listeners) >= _NODE_LISTENERS_MAX:
            raise NoConnection("overloaded")
        self._listeners.append(listener)

    def unlisten(self, listener: Callable[[NodeEvent], None]) -> None:
        """No longer."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # -- membership's timer and effects

    def next_timer(self) -> float:
        """When membership wants to look again."""
        return self.membership.next_timer()

    def handle_timer(self, now: float) -> None:
        """Membership's turn."""
        self.membership.handle_timer(now)
        self._perform()

    def _arm(self) -> None:
        soonest = self.membership.next_timer()
        if soonest < self._deadlines.wakes_at:
            self._deadlines.arm(soonest)

    def _perform(self) -> None:
        for effect in self.membership.take_effects():
            match effect:
                case effects.Dial():
                    self._dial(effect)
                case effects.CloseLink(link_id, reason):
                    link = self._links.get(link_id)
                    if link is not None:
                        self._goodbye(link, reason, trio.current_time())
                case effects.NodeUp():
                    _log.info("node_up name=%s", effect.name)
                    self._tell("up", effect, "")
                case effects.UseLink(name, link_id):
                    link = self._links.get(link_id)
                    if link is not None:
                        self._by_name[name] = link.endpoint
                        self._used.append(link)
                        self._change()
                case effects.NodeDown():
                    self._node_down(effect)
                case effects.DeclaredDown():
                    self.declared_down_count += 1
                    _log.warning(
                        "declared_down by=%s reason=%s, rejoining", effect.name, effect.reason
                    )
                case effects.SendGossip(link_id, message):
                    link = self._links.get(link_id)
                    if link is not None:
                        link.endpoint.channel.queue(frame(frames.GOSSIP, 0, encode_gossip(message)))
                case _:
                    assert_never(effect)
        self._arm()
        if self._used and not self._greeting:
            self._tell_used()

    def _tell_used(self) -> None:
        used, self._used = self._used, []
        for link in used:
            if self.on_use is not None and link.link_id in self._links:
                self.on_use(link)

    def _goodbye(self, link: Link, reason: str, now: float) -> None:
        link.connection.goodbye(reason, now)
        link.perform()
        self._deadlines.add(link)

    def _node_down(self, effect: effects.NodeDown) -> None:
        self._by_name.pop(effect.name, None)
        _log.info("node_down name=%s reason=%s", effect.name, effect.reason)
        self._tell("down", effect, effect.reason)

    def _tell(self, kind: str, effect: effects.NodeUp | effects.NodeDown, reason: str) -> None:
        event = NodeEvent(
            kind=kind,
            name=effect.name,
            key=effect.key,
            incarnation=effect.incarnation,
            reason=reason,
        )
        for listener in tuple(self._listeners):
            listener(event)
        self._change()

    # -- dialling

    def _dial(self, effect: effects.Dial) -> None:
        if self._nursery is None or self._stopping:
            return
        self._dialling.add((effect.host, effect.port))
        self._nursery.start_soon(self._outbound, effect)

    async def _outbound(self, effect: effects.Dial) -> None:
        address = (effect.host, effect.port)
        try:
            established, sock, reason = await self._shake(effect.host, effect.port)
            if established is None or sock is None:
                self._dial_failed(effect, reason)
                return
            endpoint = self._endpoint(sock, established, opener=True)
            link = self._new_link(endpoint, established, effect.host, effect.port, initiated=True)
            endpoint.on_hello = lambda body: self._greeted(link, effect, body)
            with trio.CancelScope(deadline=trio.current_time() + HANDSHAKE_S) as scope:
                await self._carry(link, established.rest, scope)
            if not link.was_up:
                self._dial_failed(effect, endpoint.channel.close_reason or "silent")
        finally:
            self._dialling.discard(address)
            self._change()

    def _dial_failed(self, effect: effects.Dial, reason: str) -> None:
        self._dialling.discard((effect.host, effect.port))
        self.membership.dial_failed(effect.host, effect.port, reason, trio.current_time())
        self._perform()
        self._change()

    async def _shake(
        self, host: str, port: int
    ) -> tuple[Established | None, socket.socket | None, str]:
        """Dial and shake hands, with each cookie that we have. (established, socket, reason).

        Who failed at a door is turned away there for a while. So the next try begins with the next
        cookie, and being turned away then reads as the failure that led to it.
        """
        address = (host, port)
        known, first = self.failures.pop(address, ("", 0))
        reason = "silent"
        count = len(self.credentials.psks)
        for attempt in range(count):
            psk_index = (first + attempt) % count
            try:
                sock = await dial(host, port)
                established, reason = await self._shake_once(sock, psk_index)
                if established is not None:
                    return established, sock, ""
                sock.close()
            except NoConnection as error:
                reason = error.reason
            if reason == "overloaded" and known:
                reason = known
                break
            if reason != "bad_cookie":
                break
            known, first = reason, psk_index + 1
        if reason in ("bad_cookie", "version"):
            if len(self.failures) >= CANDIDATES_MAX:
                del self.failures[next(iter(self.failures))]
            self.failures[address] = (reason, first)
        return None, None, reason

    async def _shake_once(
        self, sock: socket.socket, psk_index: int, role: int = ROLE_MEMBER
    ) -> tuple[Established | None, str]:
        machine = Initiator(
            self.credentials,
            role=role,
            ephemeral=secrets.token_bytes(32),
            psk_index=psk_index,
            verified=self._verified,
        )
        try:
            with trio.move_on_after(HANDSHAKE_S):
                return await initiate(sock, machine), ""
        except HandshakeRefused as refused:
            return None, refused.reason
        except RemoteProtocolError:
            return None, "wrong_node"
        except BaseException:
            sock.close()
            raise
        return None, "silent"

    def _greeted(self, link: Link, effect: effects.Dial, body: bytes) -> None:
        """The accepting side's WELCOME."""
        welcome = decode_welcome(body)
        if welcome.refused is not None:
            link.endpoint.channel.close(welcome.refused)
            return
        self._dialling.discard((effect.host, effect.port))
        ours = self._welcome(link, None)
        if self._up(link) is None and ours.declared_down_reason is not None:
            link.endpoint.channel.queue(frame(frames.HELLO, 0, encode_welcome(ours)))
        self._declared_by(link, welcome)

    def _welcome(self, link: Link, refused: str | None) -> Welcome:
        """What we have to tell this peer. Before `_up`: membership tells it once."""
        declared = self.membership.declared_down(link.peer.key, link.peer.incarnation)
        return Welcome(
            ring="member",
            declared_down_incarnation=link.peer.incarnation if declared else None,
            declared_down_reason=declared,
            refused=refused,
        )

    def _declared_by(self, link: Link, welcome: Welcome) -> None:
        """The peer may tell that it had declared us dead, whoever of us dialled."""
        if welcome.declared_down_reason is not None:
            peer = link.peer
            reason = welcome.declared_down_reason
            self.membership.declared_down_by(peer.name, peer.key, reason, trio.current_time())
            self._perform()

    # -- accepting

    def _on_accept(self, accepted: socket.socket, address: str) -> None:
        if (
            self._nursery is None
            or self._stopping
            or self.admission.admit(address, trio.current_time()) is not None
        ):
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            accepted.close()
            return
        self._nursery.start_soon(self._inbound, accepted, address)

    async def _inbound(self, accepted: socket.socket, address: str) -> None:
        established = await self._answer(accepted, address)
        if established is None:
            accepted.close()
            return
        if established.role == ROLE_STRANGER:
            await self.stranger_links.carry(accepted, established, address)
            return
        endpoint = self._endpoint(accepted, established, opener=False)
        port = established.peer.port
        link = self._new_link(endpoint, established, address, port, initiated=False)
        endpoint.on_hello = lambda body: self._declared_by(link, decode_welcome(body))
        self._greeting = True
        welcome = replace(self._welcome(link, None), refused=self._up(link))
        endpoint.channel.queue(frame(frames.HELLO, 0, encode_welcome(welcome)))
        self._greeting = False
        self._tell_used()
        endpoint.channel.send_now()
        if welcome.refused is not None:
            endpoint.channel.close(welcome.refused)
        initial = established.rest
        del established, welcome  # 0.8 KB that an idle link does not need
        await self._carry(link, initial, None)

    async def _answer(self, accepted: socket.socket, address: str) -> Established | None:
        """The handshake of a stranger, bounded in time. None: it is to be closed without a word."""
        established = None
        machine = Responder(
            self.credentials,
            ephemeral=secrets.token_bytes(32),
            accept_strangers=self.strangers is not None and self.strangers.accepts(),
            verified=self._verified,
        )
        try:
            accepted.setblocking(False)
            tune_tcp(accepted)
            with trio.move_on_after(HANDSHAKE_S):
                established = await respond(accepted, machine)
        except (RemoteProtocolError, HandshakeRefused, OSError):
            pass
        finally:
            if established is None:
                self.handshake_failed_count += 1
            self.admission.finished(address, established is not None, trio.current_time())
        return established

    # -- links, whoever opened them

    def _endpoint(
        self, sock: socket.socket, established: Established, *, opener: bool, ring: str = "member"
    ) -> Endpoint:
        channel = Channel(
            sock,
            self._flusher,
            sealer=RecordSealer(established.send),
            opener=RecordOpener(established.receive),
        )
        endpoint = Endpoint(
            channel,
            self._router,
            self._deadlines,
            opener=opener,
            ring=ring,
            name=established.peer.name,
            key=established.peer.key,
        )
        endpoint.incarnation = established.peer.incarnation
        return endpoint

    def _new_link(
        self, endpoint: Endpoint, established: Established, host: str, port: int, *, initiated: bool
    ) -> Link:
        peer = PeerInfo(
            key=established.peer.key,
            name=established.peer.name,
            incarnation=established.peer.incarnation,
            host=host,
            port=port,
        )
        link = Link(self._next_link_id, endpoint, peer, initiated, trio.current_time())
        self._next_link_id += 1
        endpoint.on_control = lambda kind, body: self._on_control(link, kind, body)
        endpoint.on_pong = link.pong
        return link

    def _up(self, link: Link) -> str | None:
        """Ask membership; None when the link is kept, else why it is refused."""
        self._links[link.link_id] = link
        link.was_up = True
        refused = self.membership.link_up(
            link.link_id, link.peer, link.initiated, trio.current_time()
        )
        if refused is not None and not link.initiated:
            del self._links[link.link_id]
        else:
            self._deadlines.add(link)
        self._perform()
        return refused

    async def _carry(self, link: Link, initial: bytes, greeting: trio.CancelScope | None) -> None:
        """Carry frames until the link closes; `greeting` bounds the wait for the WELCOME."""
        if greeting is not None:
            on_hello = link.endpoint.on_hello

            def greeted(body: bytes) -> None:
                greeting.deadline = float("inf")
                if on_hello is not None:
                    on_hello(body)

            link.endpoint.on_hello = greeted
        reason = "closed"
        try:
            reason = await link.endpoint.run(initial)
        except RemoteProtocolError as error:
            self.protocol_error_count += 1
            _log.warning("protocol_error peer=%s what=%s, closed", link.peer.name, error)
        finally:
            self._deadlines.discard(link)
            if self._links.pop(link.link_id, None) is not None:
                reason = link.connection.reason or reason
                self.membership.link_down(link.link_id, reason, trio.current_time())
                self._perform()
                self._change()

    def _on_control(self, link: Link, kind: int, body: bytes) -> None:
        now = trio.current_time()
        if kind == frames.GOSSIP:
            self.membership.receive(link.link_id, decode_gossip(body), now)
            self._perform()
        elif kind == frames.GOODBYE:
            reason = loads_control(body)
            if not isinstance(reason, str):
                raise RemoteProtocolError("malformed goodbye")
            reason = reason if reason in REASONS else "closed"  # a later version's word
            link.connection.goodbye_received(reason, now)
            link.perform()
        else:
            raise RemoteProtocolError("frame kind that a link does not carry")

    def cut_all(self, error: CallError) -> None:
        """Close every link now."""
        for link in list(self._links.values()):
            link.endpoint.close(error)
        self.stranger_links.cut_all(error)

    # -- strangers

    def _stranger_endpoint(
        self, sock: socket.socket, established: Established, opener: bool
    ) -> Endpoint:
        endpoint = self._endpoint(sock, established, opener=opener, ring="stranger")
        endpoint.binding = established.handshake_hash
        return endpoint

    async def _shake_stranger(self, sock: socket.socket) -> tuple[Established | None, str]:
        established, reason = await self._shake_once(sock, 0, ROLE_STRANGER)
        return established, "closed" if reason == "bad_cookie" else reason  # lets no strangers in
