"""Sockets for the relay: Hypercorn's trio server on each connection, and our own word on them.

Decides how many connections there may be, in all and from one address, and what an error in one of
them does: it ends that one, and the log says why. Hypercorn's own loop (trio.serve_listeners) would
end with it, and knows no maximum.

    async with open_listeners(["127.0.0.1:8443"]) as listeners:
        await serve(app, listeners, tls)

Rules
- A peer that takes nothing, or is gone without a word, is cut off by TCP_USER_TIMEOUT: Hypercorn
  shields its sending from being cancelled. TCP itself asks whether a silent one is there, not pings
  of the WebSocket: those cost a task for each link, 4 KB.
- No compression of WebSockets: what is sealed does not shrink.
- HTTP/1.1 only: one WebSocket is one connection is one node.
- Stopping: no new connections, then GRACE_S for those there are, then their sockets are closed.

References: tcp(7); ASGI 3.
Rejected: uvicorn (asyncio); Hypercorn's `serve` (see above); HTTP/2 (its WebSockets share a
connection, so a node's end would be no event of its socket).
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.protocol import ws_stream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import wrap_app
from wsproto.extensions import Extension

from drupelet.wire.limits import (
    RELAY_CONNECTIONS_MAX,
    RELAY_CONNECTIONS_PER_ADDRESS_MAX,
    RELAY_FRAME_BYTES_MAX,
)

DEAD_S: Final = 60.0  # unacknowledged bytes for so long
ALIVE_S: Final = 30.0  # then the kernel asks: NATs forget a silent connection after a minute
ASK_S: Final = 10.0  # and again
GRACE_S: Final = 2.0
_BACKLOG: Final = 256
_READ_BYTES: Final = 65_536
_PAUSE_S: Final = 0.1  # when there are no descriptors left
_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(ALIVE_S)),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, int(ASK_S)),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(DEAD_S * 1_000)),  # of what was not answered
)
_PASSING: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_listeners(addresses: Sequence[str]) -> AsyncIterator[list[trio.SocketListener]]:
    """Listening sockets: ``host:port``, IPv6 in brackets. Raises: `OSError`."""
    listeners: list[trio.SocketListener] = []
    try:
        for address in addresses:
            host, _, port = address.rpartition(":")
            listeners += await trio.open_tcp_listeners(
                int(port), host=host.strip("[]"), backlog=_BACKLOG
            )
        yield listeners
    finally:
        for listener in listeners:
            listener.socket.close()


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """For `serve`. Raises: `OSError`, `ssl.SSLError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate, key)
    return context


class _NoCompression(Extension):
    """In the place of permessage-deflate: 64 KB from a stranger would become 64 MB."""

    name = "permessage-deflate"

    def enabled(self) -> bool:
        return False

    def offer(self) -> bool | str:
        return False

    def accept(self, offer: str) -> bool | str | None:
        return None


setattr(ws_stream, "PerMessageDeflate", _NoCompression)  # noqa: B010  Hypercorn has no setting


class _Connection(TCPServer):
    """Hypercorn's, that ends when its peer has gone, and not when its idle time is over."""

    async def _read_data(self) -> None:
        # Not Hypercorn's own: a scope and two frames around each wait are 2 KB of a silent link.
        data: bytes | bytearray = b" "
        while data:
            try:
                data = await self.stream.receive_some(_READ_BYTES)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                break
            await self.protocol.handle(RawData(bytes(data)))
        await self.protocol.handle(Closed())
        await self.idle_task.stop()


class Server:
    """The application `app` on listeners."""

    def __init__(
        self,
        app: Any,
        *,
        tls: ssl.SSLContext | None = None,
        connections_max: int = RELAY_CONNECTIONS_MAX,
        per_address_max: int = RELAY_CONNECTIONS_PER_ADDRESS_MAX,
    ) -> None:
        self._app = wrap_app(app, RELAY_FRAME_BYTES_MAX, "asgi")
        self._tls = tls
        self._connections_max = connections_max
        self._per_address_max = per_address_max
        self._from: Counter[str] = Counter()
        self._streams: set[trio.SocketStream] = set()
        self._stopping = False
        self._empty = trio.Event()  # set when it stops and the last connection has ended
        self._context = WorkerContext(None)
        self._config = Config()
        self._config.errorlog = logging.getLogger("drupelet.relay.hypercorn")
        self._config.include_server_header = False
        self._config.websocket_max_message_size = RELAY_FRAME_BYTES_MAX
        self._config.keep_alive_timeout = 75.0  # longer than a long poll
        self._config.ssl_handshake_timeout = 10.0

    @property
    def connections(self) -> int:
        """That are open."""
        return len(self._streams)

    async def serve(self, listeners: Sequence[trio.SocketListener]) -> None:
        """Until cancelled. Each connection ends alone."""
        async with trio.open_nursery() as connections:
            try:
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(self._accept, listener, connections)
            finally:
                await self._context.terminated.set()
                self._stopping = True
                if self._streams:
                    with trio.move_on_after(GRACE_S, shield=True):
                        await self._empty.wait()
                for stream in list(self._streams):
                    stream.socket.close()
                connections.cancel_scope.cancel()

    async def _accept(self, listener: trio.SocketListener, connections: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
                address = str(stream.socket.getpeername()[0])
                for level, option, value in _ALIVE:
                    stream.setsockopt(level, option, value)
            except OSError as error:
                log.info("a connection was not accepted: %s", error)
                await trio.sleep(_PAUSE_S)
                continue
            full = len(self._streams) >= self._connections_max
            if full or self._from[address] >= self._per_address_max:
                stream.socket.close()
                continue
            self._streams.add(stream)
            self._from[address] += 1
            connections.start_soon(self._connection, stream, address)

    async def _connection(self, stream: trio.SocketStream, address: str) -> None:
        transport: Any = stream
        if self._tls is not None:
            transport = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)
        state = ConnectionState(LifespanState())
        try:
            await _Connection(self._app, self._config, self._context, state, transport).run()
        except* _PASSING:
            pass
        except* Exception as group:  # whatever a peer can make of Hypercorn: it is his connection's
            log.warning("a connection from %s ended: %r", address, group.exceptions[0])
        finally:
            stream.socket.close()
            self._streams.discard(stream)
            self._from[address] -= 1
            if not self._from[address]:
                del self._from[address]
            if self._stopping and not self._streams:
                self._empty.set()
