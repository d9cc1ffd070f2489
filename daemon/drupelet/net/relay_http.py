"""A relay over HTTP: what a node says to it, and the long poll for what waits for the node.

Decides how the messages of `wire/relay.py` travel by HTTP/1.1 (daemon/docs/RELAY.md): two
connections, one that says and one that polls, each used by one thread at a time. When to try again
is the caller's (`services/relay_link.py`).

Rules
- TLS is verified, by the system's certificate authorities or by a file of them. Without TLS only
  on this machine: `split_url`.
- An answer has a maximum, and a time; no redirect is followed, no proxy of the environment is used.
- Every failure of the way is `RelayGone`; a refusal of the relay is `RelayRefused`.
- A connection that failed is closed; the next question opens another. `close` ends the threads.
- A connection that was idle may have been ended by the relay: the question is said once more, on
  a new one. Every message may come twice: RELAY.md.

Owns: two connections; a thread of trio's for as long as a question takes, at most THREADS.

Rejected: an HTTP library (another dependency, for four requests that we know); WebSockets by hand
(a second protocol to prove; the poll does the same at the cost of a request each 25 s).
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import ipaddress
import itertools
import socket
import ssl
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import trio

from drupelet.errors import DrupeletError, RemoteProtocolError
from drupelet.wire.codec import loads_canonical
from drupelet.wire.limits import RELAY_FRAME_BYTES_MAX, RELAY_WINDOW_MESSAGES
from drupelet.wire.relay import (
    SESSION_BYTES,
    Deliver,
    Done,
    FromNode,
    Hello,
    Login,
    Refused,
    Register,
    RelayRefused,
    decode_from_relay,
    encode,
    prove,
)
from drupelet.wire.sodium import ed25519_public

POLL_S: Final = 25.0
ANSWER_S: Final = 15.0  # for an answer, beside the time that a poll waits
THREADS: Final = 2
_POLL_BYTES: Final = RELAY_WINDOW_MESSAGES * RELAY_FRAME_BYTES_MAX


class RelayGone(DrupeletError):
    """The relay cannot be reached, or speaks something else."""


def split_url(url: str) -> tuple[bool, str, int]:
    """Whether it is TLS, the host, the port. Raises: `ValueError` with what is wrong."""
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("a relay's address is https://HOST")
    if parts.username or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("a relay's address is https://HOST or https://HOST:PORT and no more")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError("http is for this machine only; use https")
    return parts.scheme == "https", parts.hostname, parts.port or (443, 80)[parts.scheme == "http"]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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


class RelayHttp:
    """The relay at `url`, for the node whose identity is `seed`. `ca_file`: whom to believe."""

    def __init__(self, url: str, seed: bytes, ca_file: Path | None = None) -> None:
        self._tls, self.host, self._port = split_url(url)
        self._seed = seed
        self._key = ed25519_public(seed)
        self._ca_file = ca_file
        self._context: ssl.SSLContext | None = None
        self._limiter = trio.CapacityLimiter(THREADS)
        self._saying, self._polling = trio.Lock(), trio.Lock()
        self._open: dict[trio.Lock, _Line] = {}
        self._refs = itertools.count(1)
        self._session = b""
        self.run_id = b""

    def close(self) -> None:
        """End both connections, and so whatever waits on them."""
        for line in self._open.values():
            line.cut()
        self._open.clear()
        self._session = b""

    async def login(self) -> None:
        """Prove our key. Raises: `RelayGone`, `RelayRefused`."""
        self._session = b""
        nonce = await self._hello()
        signature = prove(self._seed, "login", self.host, nonce)
        asked = Login(ref=0, key=self._key, audience=self.host, signature=signature)
        session = await self._enter(asked, nonce)
        if not isinstance(session, bytes) or len(session) != SESSION_BYTES:
            raise RelayGone("a login without a session")
        self._session = session

    async def register(self, name: str, invite: bytes) -> None:
        """Make an account with an invite's code. Raises: `RelayGone`, `RelayRefused`."""
        nonce = await self._hello()
        await self._enter(
            Register(
                ref=0,
                key=self._key,
                audience=self.host,
                signature=prove(self._seed, "register", self.host, nonce),
                name=name,
                invite=invite,
                email=None,
            ),
            nonce,
        )

    async def ask(self, message: FromNode) -> Any:
        """The value of the answer; `ref` is put in. Raises: `RelayGone`, `RelayRefused`."""
        message = dataclasses.replace(message, ref=next(self._refs))
        return await self._say(message, {"Authorization": f"Bearer {self._session.hex()}"})

    async def poll(self, after: int, wait_s: float = POLL_S) -> list[Deliver]:
        """What came behind the number `after`. Raises: `RelayGone`, `RelayRefused`."""
        path = f"/v1/messages?after={after}&wait_s={wait_s}"
        headers = {"Authorization": f"Bearer {self._session.hex()}"}
        status, body = await self._request(
            self._polling, "GET", path, b"", headers, _POLL_BYTES, wait_s
        )
        if status != 200:
            _value_of(body)
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
        hello = _decoded(body)
        if not isinstance(hello, Hello):
            raise RelayGone("no relay answers there")
        self.run_id = hello.run
        return hello.nonce

    async def _enter(self, message: Login | Register, nonce: bytes) -> Any:
        return await self._say(message, {"Drupelet-Nonce": nonce.hex()})

    async def _say(self, message: FromNode, headers: dict[str, str]) -> Any:
        _, body = await self._request(
            self._saying, "POST", "/v1/say", encode(message), headers, RELAY_FRAME_BYTES_MAX, 0.0
        )
        return _value_of(body, message.ref)

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
                    if not ended:
                        raise RelayGone(f"{type(error).__name__}: {error}"[:200]) from None
                finally:
                    if not done:
                        line.cut()
                        if self._open.get(lock) is line:
                            del self._open[lock]
        raise RelayGone("the relay ends every connection")

    def _connection(self) -> http.client.HTTPConnection:
        if not self._tls:
            return http.client.HTTPConnection(self.host, self._port)
        if self._context is None:
            try:
                self._context = ssl.create_default_context(
                    cafile=str(self._ca_file) if self._ca_file is not None else None
                )
            except (OSError, ssl.SSLError) as error:
                raise RelayGone(f"{self._ca_file}: {error}") from None
        return http.client.HTTPSConnection(self.host, self._port, context=self._context)


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


def _decoded(body: bytes) -> Hello | Done | Refused | Deliver:
    try:
        return decode_from_relay(body)
    except RemoteProtocolError as error:
        raise RelayGone(str(error)) from None


def _value_of(body: bytes, ref: int | None = None) -> Any:
    answer = _decoded(body)
    if isinstance(answer, Refused):
        raise RelayRefused(answer.code, answer.text, answer.retry_after_ms / 1_000)
    if not isinstance(answer, Done) or (ref is not None and answer.ref != ref):
        raise RelayGone("an answer to another question")
    return answer.value
