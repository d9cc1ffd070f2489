"""One HTTP connection to another relay: a question, its answer, the next question.

    async with connect("https://relay2.example.org", ca_file=None) as http:
        status, body = await http.ask("POST", "/v1/peer", body, {"authorization": "..."})

Decides how long each may take, how long an answer may be, and whom to believe: the system's
certificate authorities or a file of them; without TLS only this machine (the configuration looks).
Every failure is `PeerGone`; the connection is then over.

References: RFC 9112. h11 knows it, and is Hypercorn's own.
Rejected: http.client in threads, as nodes have it (`net/relay_http.py`): a relay's loop has no
other threads that wait, and a task can be cancelled.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import h11
import trio

from drupelet.errors import DrupeletError
from drupelet.wire.limits import RELAY_PEER_BATCH_BYTES_MAX

CONNECT_S: Final = 10.0
ANSWER_S: Final = 10.0  # a peer's disk is slow, or it has gone; less than its AWAY_S
_READ_BYTES: Final = 16_384
_CLOSE_S: Final = 1.0
_BROKEN: Final = (OSError, ssl.SSLError, trio.BrokenResourceError, trio.ClosedResourceError)


class PeerGone(DrupeletError):
    """The other relay cannot be reached, or speaks something else."""


def host_of(url: str) -> str:
    """The host that a login there is for."""
    return urlsplit(url).hostname or ""


@asynccontextmanager
async def connect(url: str, ca_file: Path | None = None) -> AsyncIterator[PeerHttp]:
    """A connection to the relay at `url`. Raises: `PeerGone`."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if tls else 80)
    stream: trio.abc.Stream | None = None
    try:
        try:
            with trio.fail_after(CONNECT_S):
                stream = await trio.open_tcp_stream(host, port)
                if tls:
                    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
                    secure = trio.SSLStream(
                        stream, context, server_hostname=host, https_compatible=True
                    )
                    stream = secure
                    await secure.do_handshake()
        except (*_BROKEN, ValueError) as error:
            # A certificate's fault is the cause of a broken stream, and says more.
            shown = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
            raise PeerGone(f"{type(shown).__name__}: {shown}"[:200]) from None
        except trio.TooSlowError:
            raise PeerGone(f"no connection within {CONNECT_S:.0f} s") from None
        yield PeerHttp(stream, parts.netloc)
    finally:
        if stream is not None:
            with trio.move_on_after(_CLOSE_S, shield=True):
                await trio.aclose_forcefully(stream)


class PeerHttp:
    """A connection that is open. One task at a time."""

    def __init__(self, stream: trio.abc.Stream, host: str) -> None:
        self._stream = stream
        self._host = host
        self._http = h11.Connection(h11.CLIENT)

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """The status and the body of the answer. Raises: `PeerGone`."""
        try:
            with trio.fail_after(ANSWER_S):
                return await self._exchange(method, path, body, headers or {})
        except (*_BROKEN, h11.ProtocolError) as error:
            raise PeerGone(f"{type(error).__name__}: {error}"[:200]) from None
        except trio.TooSlowError:
            raise PeerGone(f"no answer within {ANSWER_S:.0f} s") from None

    async def _exchange(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        fields = {"host": self._host, "content-length": str(len(body)), **headers}
        if body:
            fields["content-type"] = "application/cbor"
        request = h11.Request(method=method, target=path, headers=list(fields.items()))
        parts = [self._http.send(request), self._http.send(h11.Data(data=body))]
        parts.append(self._http.send(h11.EndOfMessage()))
        await self._stream.send_all(b"".join(part for part in parts if part))
        status, content = 0, bytearray()
        while True:
            event = await self._next()
            match event:
                case h11.Response(status_code=code):
                    status = code
                case h11.Data(data=data):
                    content += data
                    if len(content) > RELAY_PEER_BATCH_BYTES_MAX:
                        raise PeerGone("an answer that is too long")
                case h11.EndOfMessage():
                    break
        if self._http.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            self._http.start_next_cycle()
        return status, bytes(content)

    async def _next(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            data = bytes(await self._stream.receive_some(_READ_BYTES))
            if not data:
                raise PeerGone("it has ended the connection")
            self._http.receive_data(data)
        return event
