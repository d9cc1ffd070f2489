"""Links of strangers: of those who hold a grant of ours, and to those of whom we hold one.

Decides nothing: carries them. Membership never hears of a stranger; a link of one has keepalive and
calls, and nothing else. What it may call, services/grants.py decides.

Owns: one task for each link, in the nursery of `services/links.py`.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from drupelet.core.members import PeerInfo
from drupelet.errors import CallError, NoConnection, RemoteProtocolError
from drupelet.net.dialer import dial
from drupelet.services.deadlines import Deadlines
from drupelet.services.endpoint import Endpoint
from drupelet.services.keepalive import Link
from drupelet.wire import frames
from drupelet.wire.codec import loads_control
from drupelet.wire.frames import frame
from drupelet.wire.grants import Grant
from drupelet.wire.handshake import Established
from drupelet.wire.limits import HANDSHAKE_S, STRANGERS_MAX, STRANGERS_PER_KEY_MAX
from drupelet.wire.messages.links import Welcome, decode_welcome, encode_welcome

_log = logging.getLogger("drupelet.links")


class Strangers(Protocol):
    """Who decides about links of strangers (services/grants.py)."""

    def accepts(self) -> bool:
        """Whether strangers are let in: there is something that one may call."""
        ...

    def endpoint(self, node: str) -> Endpoint | None:
        """The link to a node of which we hold a grant, if there is one."""
        ...

    async def connect(self, node: str) -> Endpoint | None:
        """Connect to it; None: we hold no grant of a node of that name. Raises: `NoConnection`."""
        ...

    def held(self, node: str) -> list[Grant]:
        """The grants that we hold of a node of that name."""
        ...

    def relays(self, node: str) -> tuple[str, ...]:
        """Where that node is to be found besides, by the files of those grants."""
        ...

    def wait_s(self, ident: bytes) -> float:
        """After how long a call by that grant would go through, as was said when it was shown."""
        ...

    async def dead(self, node: str) -> dict[bytes, CallError]:
        """Those of them, by id, that it does not take any more. Raises: as `connect`, `Revoked`."""
        ...


class StrangerLinks:
    """All of them. `make_endpoint` and `shake` are those of `Links`."""

    def __init__(
        self,
        make_endpoint: Callable[[socket.socket, Established, bool], Endpoint],
        shake: Callable[[socket.socket], Awaitable[tuple[Established | None, str]]],
        deadlines: Deadlines,
    ) -> None:
        self.nursery: trio.Nursery | None = None
        self._make_endpoint = make_endpoint
        self._shake = shake
        self._deadlines = deadlines
        self._links: set[Link] = set()
        self._none = trio.Event()
        self.on_gone: Callable[[Endpoint], None] | None = None

    @property
    def count(self) -> int:
        """How many there are now."""
        return len(self._links)

    async def dial(self, host: str, port: int, key: bytes | None) -> Endpoint:
        """A link, as a stranger, to the node with that key (None: any). Raises: `NoConnection`."""
        if self.nursery is None:
            raise NoConnection("stopping")
        sock = await dial(host, port)
        established, reason = await self._shake(sock)
        if established is None or key not in (None, established.peer.key):
            sock.close()
            raise NoConnection(reason if established is None else "wrong_node")
        greeting = _Greeting()
        self.nursery.start_soon(self._carry, sock, established, host, greeting)
        try:
            with trio.move_on_after(HANDSHAKE_S):
                await greeting.event.wait()
        finally:
            if greeting.endpoint is None:
                greeting.give_up()
        if greeting.endpoint is None:
            raise NoConnection(greeting.reason)
        return greeting.endpoint

    async def carry(self, sock: socket.socket, established: Established, host: str) -> None:
        """A link that a stranger opened, until it closes."""
        await self._carry(sock, established, host, None)

    async def _carry(
        self, sock: socket.socket, established: Established, host: str, greeting: _Greeting | None
    ) -> None:
        """Until it closes. `greeting`: we dialled, and wait for the WELCOME."""
        now = trio.current_time()
        peer = established.peer
        endpoint = self._make_endpoint(sock, established, greeting is not None)
        info = PeerInfo(
            key=peer.key, name=peer.name, incarnation=peer.incarnation, host=host, port=peer.port
        )
        link = Link(0, endpoint, info, greeting is not None, now)
        endpoint.on_control = lambda kind, body: _on_control(link, kind, body)
        endpoint.on_pong = link.pong
        if greeting is None:
            refused = self._refused(peer.key)
            welcome = Welcome(
                ring="stranger",
                declared_down_incarnation=None,
                declared_down_reason=None,
                refused=refused,
            )
            endpoint.channel.queue(frame(frames.HELLO, 0, encode_welcome(welcome)))
            endpoint.channel.send_now()
            if refused is not None:
                endpoint.channel.close(refused)
        else:
            endpoint.on_hello = lambda body: greeting.greeted(endpoint, body)
            greeting.carried = endpoint
            if greeting.given_up:
                endpoint.close(NoConnection("closed"))
        self._links.add(link)
        self._deadlines.add(link)
        try:
            await endpoint.run(established.rest)
        except RemoteProtocolError as error:
            _log.warning("protocol_error stranger=%s what=%s, closed", peer.name, error)
        finally:
            self._deadlines.discard(link)
            self._links.discard(link)
            if not self._links:
                self._none.set()
                self._none = trio.Event()
            if self.on_gone is not None:
                self.on_gone(endpoint)
            if greeting is not None:
                greeting.ended(endpoint.channel.close_reason or "closed")

    def endpoint_of(self, key: bytes) -> Endpoint | None:
        """An open link of the stranger with that key."""
        for link in self._links:
            if link.peer.key == key and not link.endpoint.closed:
                return link.endpoint
        return None

    def _refused(self, key: bytes) -> str | None:
        same = sum(link.peer.key == key for link in self._links)
        full = len(self._links) >= STRANGERS_MAX or same >= STRANGERS_PER_KEY_MAX
        return "overloaded" if full else None

    def cut_uninvited(self, invited: Callable[[Endpoint], bool]) -> None:
        """Close those that strangers opened who are not invited; what is in line for them goes."""
        for link in list(self._links):
            if not link.initiated and not invited(link.endpoint):
                link.endpoint.channel.send_now()
                link.endpoint.close(NoConnection("closed"))

    def goodbye(self, reason: str, now: float) -> None:
        """Say goodbye on all."""
        for link in list(self._links):
            link.connection.goodbye(reason, now)
            link.perform()
            self._deadlines.add(link)

    async def wait_none(self) -> None:
        """Until all are closed."""
        while self._links:
            await self._none.wait()

    def cut_all(self, error: CallError) -> None:
        """Close every one now."""
        for link in list(self._links):
            link.endpoint.close(error)


class _Greeting:
    """A link that we dialled, until it was greeted or ended."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.endpoint: Endpoint | None = None
        self.carried: Endpoint | None = None
        self.given_up = False
        self.reason = "silent"

    def greeted(self, endpoint: Endpoint, body: bytes) -> None:
        welcome = decode_welcome(body)
        if welcome.refused is not None:
            self.reason = welcome.refused
            endpoint.channel.close(welcome.refused)
        else:
            self.endpoint = endpoint
        self.event.set()

    def give_up(self) -> None:
        """Who dialled waits no more: nobody would ever close it."""
        self.given_up = True
        if self.carried is not None:
            self.carried.close(NoConnection("closed"))

    def ended(self, reason: str) -> None:
        if not self.event.is_set():
            self.reason = reason
            self.event.set()


def _on_control(link: Link, kind: int, body: bytes) -> None:
    reason = loads_control(body)
    if kind != frames.GOODBYE or not isinstance(reason, str):
        raise RemoteProtocolError("frame kind that a stranger's link does not carry")
    link.connection.goodbye_received("closed", trio.current_time())
    link.perform()
