"""A relay over HTTP: what a node says to it, and the long poll for what waits for the node.

Decides how the messages of `wire/relay.py` travel by HTTP/1.1 (daemon/docs/RELAY.md) where no
WebSocket passes: two connections, one that says and one that polls, each used by one thread at a
time.

Rules
- An answer has a maximum, and a time; no redirect is followed, no proxy of the environment is used.
- Questions go one after the other, in the order in which they are waited for.
- A connection that failed is closed; the next question opens another. `close` ends the threads.
- A connection that was idle may have been ended by the relay: the question is said once more, on
  a new one. Every message may come twice: RELAY.md.

Owns: two connections; a thread of trio's for as long as a question takes, at most THREADS.

Rejected: an HTTP library (another dependency, for four requests that we know).
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from drupelet.errors import RemoteProtocolError
from drupelet.net.relay_way import (
    ANSWER_S,
    Place,
    RelayGone,
    RelaySilent,
    decoded,
    hello_of,
    said,
    value_of,
)
from drupelet.wire.codec import loads_canonical
from drupelet.wire.limits import RELAY_FRAME_BYTES_MAX, RELAY_WINDOW_MESSAGES
from drupelet.wire.relay import (
    SESSION_BYTES,
    Deliver,
    FromNode,
    decode_from_relay,
    encode,
)

POLL_S: Final = 50.0  # proxies cut what is silent for a minute
THREADS: Final = 2
_POLL_BYTES: Final = RELAY_WINDOW_MESSAGES * RELAY_FRAME_BYTES_MAX


class _Line:
    """A connection, and whether it is given up: a thread may still use it then."""

    __slots__ = ("connection", "gone")

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        connection.auto_open = 0
        self.connection = connection
        self.gone = False

    def cut(self) -> None:
        """End it, and so the thread that waits on it."""
        self.gone = True
        if self.connection.sock is not None:
            with contextlib.suppress(OSError):  # it is closed already
                self.connection.sock.shutdown(socket.SHUT_RDWR)
        self.connection.close()


class _Question:
    """One that is asked when its answer is waited for."""

    __slots__ = ("_message", "_way")

    def __init__(self, way: RelayHttp, message: FromNode) -> None:
        self._way = way
        self._message = message

    async def value(self) -> Any:
        """As `Asked.value`."""
        return await self._way.ask(self._message)


class RelayHttp:
    """A `RelayWay`. Made by `open_http`."""

    def __init__(self, place: Place) -> None:
        self.run_id = b""
        self._place = place
        self._limiter = trio.CapacityLimiter(THREADS)
        self._saying, self._polling = trio.Lock(), trio.Lock()
        self._open: dict[trio.Lock, _Line] = {}
        self._refs = itertools.count(1)
        self._session = b""
        self._last = 0  # of the messages that came

    def close(self) -> None:
        """End both connections, and so whatever waits on them."""
        for line in self._open.values():
            line.cut()
        self._open.clear()
        self._session = b""

    async def login(self) -> None:
        """As `RelayWay.login`."""
        self._session = b""
        nonce = await self._hello()
        session = await self._say(self._place.login(nonce), {"Drupelet-Nonce": nonce.hex()})
        if not isinstance(session, bytes) or len(session) != SESSION_BYTES:
            raise RelayGone("a login without a session")
        self._session = session

    async def register(
        self, name: str, *, invite: bytes | None = None, email: str | None = None
    ) -> None:
        """As `RelayWay.register`."""
        nonce = await self._hello()
        asked = self._place.registration(nonce, name, invite=invite, email=email)
        await self._say(asked, {"Drupelet-Nonce": nonce.hex()})

    async def begin(self, message: FromNode) -> _Question:
        """As `RelayWay.begin`."""
        return _Question(self, message)

    async def ask(self, message: FromNode) -> Any:
        """As `RelayWay.ask`."""
        message = dataclasses.replace(message, ref=next(self._refs))
        return await self._say(message, {"Authorization": f"Bearer {self._session.hex()}"})

    async def messages(self) -> list[Deliver]:
        """As `RelayWay.messages`."""
        while True:
            messages = await self.poll(self._last)
            if messages:
                self._last = messages[-1].number
                return messages

    async def poll(self, after: int, wait_s: float = POLL_S) -> list[Deliver]:
        """What came behind the number `after`. Raises: `RelayGone`, `RelayRefused`."""
        path = f"/v1/messages?after={after}&wait_s={wait_s}"
        headers = {"Authorization": f"Bearer {self._session.hex()}"}
        status, body = await self._request(
            self._polling, "GET", path, b"", headers, _POLL_BYTES, wait_s
        )
        if status != 200:
            value_of(decoded(body))
            raise RelayGone(f"status {status}")
        try:
            parts = loads_canonical(body)
            if not isinstance(parts, list) or not all(type(each) is bytes for each in parts):
                raise RemoteProtocolError("malformed messages")
            messages = [decode_from_relay(each) for each in parts]
        except RemoteProtocolError as error:
            raise RelayGone(str(error)) from None
        last = after
        for message in messages:
            if not isinstance(message, Deliver) or message.number <= last:
                raise RelayGone("malformed messages")
            last = message.number
        return [message for message in messages if isinstance(message, Deliver)]

    # -- inside

    async def _hello(self) -> bytes:
        _, body = await self._request(
            self._saying, "GET", "/v1/hello", b"", {}, RELAY_FRAME_BYTES_MAX, 0.0
        )
        hello = hello_of(decoded(body))
        self.run_id = hello.run
        return hello.nonce

    async def _say(self, message: FromNode, headers: dict[str, str]) -> Any:
        _, body = await self._request(
            self._saying, "POST", "/v1/say", encode(message), headers, RELAY_FRAME_BYTES_MAX, 0.0
        )
        return value_of(decoded(body), message.ref)

    async def _request(
        self,
        lock: trio.Lock,
        method: str,
        path: str,
        body: bytes,
        headers: dict[str, str],
        most: int,
        wait_s: float,
    ) -> tuple[int, bytes]:
        async with lock:
            for _ in range(2):
                line = self._open.get(lock)
                used = line is not None
                if line is None:
                    line = self._open[lock] = _Line(
                        await trio.to_thread.run_sync(self._connection, limiter=self._limiter)
                    )
                connection = line.connection
                connection.timeout = ANSWER_S + wait_s
                if connection.sock is not None:
                    connection.sock.settimeout(connection.timeout)
                done = False
                try:
                    answer = await trio.to_thread.run_sync(
                        _exchange,
                        line,
                        method,
                        path,
                        body,
                        {**headers, "Content-Type": "application/cbor"},
                        most,
                        abandon_on_cancel=True,
                        limiter=self._limiter,
                    )
                    done = True
                    return answer
                except (OSError, http.client.HTTPException, ValueError) as error:
                    ended = used and isinstance(error, ConnectionError)
                    if isinstance(error, TimeoutError):
                        raise RelaySilent("the relay does not answer") from None
                    if not ended:
                        raise RelayGone(said(error)) from None
                finally:
                    if not done:
                        line.cut()
                        if self._open.get(lock) is line:
                            del self._open[lock]
        raise RelayGone("the relay ends every connection")

    def _connection(self) -> http.client.HTTPConnection:
        place = self._place
        if not place.tls:
            return http.client.HTTPConnection(place.host, place.port)
        return http.client.HTTPSConnection(place.host, place.port, context=place.context())


def _exchange(
    line: _Line,
    method: str,
    path: str,
    body: bytes,
    headers: dict[str, str],
    most: int,
) -> tuple[int, bytes]:
    """In a thread: one question, one answer."""
    connection = line.connection
    try:
        if connection.sock is None:
            connection.connect()
        connection.request(method, path, body=body or None, headers=headers)
        with connection.getresponse() as response:
            content = response.read(most + 1)
            if len(content) > most:
                raise ValueError("an answer that is too long")
            return response.status, content
    finally:
        if line.gone:  # meanwhile: nobody else closes what was opened here
            connection.close()


@asynccontextmanager
async def open_http(place: Place) -> AsyncIterator[RelayHttp]:
    """A way that is not logged in. Nothing is connected before the first question."""
    way = RelayHttp(place)
    try:
        yield way
    finally:
        way.close()
