"""The relay's addresses: a WebSocket, the same by HTTP, and what a monitor reads.

| address | what |
|---|---|
| `/v1/link` | WebSocket: messages of wire/relay.py, both ways |
| `GET /v1/hello` | a `Hello`; its nonce is for one login, within NONCE_S |
| `POST /v1/say` | one message, answered by `Done` or `Refused` |
| `GET /v1/messages?after=N&wait_s=25` | long poll: a CBOR array of encoded `Deliver`, maybe empty |
| `PUT /apply/NODE/MISSION/FUNCTION` | a call of somebody without an account: apply.py |
| `POST /v1/peer/login`, `POST /v1/peer` | another relay: messages of wire/relay_peers.py |
| `GET /metrics`, `GET /healthz` | Prometheus' text; `ok` |

Decides what a connection may do before and after its login. By HTTP, `Login` needs the header
``Drupelet-Nonce`` (hexadecimal) and is answered with a session, 32 bytes, which later requests
carry as ``Authorization: Bearer`` (hexadecimal).

Rules
- Nothing but login and registration is read before a key is proved; LOGIN_S for that.
- One message of a connection is answered after the other, so that two keep their order.
- Who says nothing for SILENCE_S is cut off: an announcement comes each 20 s, or each 30 s.
- Sessions and nonces are in memory: after a restart a node logs in again.

References: RFC 6455; RFC 6750 (bearer tokens); Prometheus' exposition format 0.0.4.
Rejected: server-sent events for the fallback (proxies hold them back); cookies.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from drupelet.errors import RemoteProtocolError
from drupelet.relay.apply import METHODS, Apply
from drupelet.relay.bodies import read_body
from drupelet.relay.lines import Line
from drupelet.relay.peers import IN_STEP, Peering
from drupelet.relay.service import Relay
from drupelet.relay.store import Message
from drupelet.wire.codec import dumps
from drupelet.wire.limits import (
    RELAY_FRAME_BYTES_MAX,
    RELAY_NONCES_MAX,
    RELAY_PEER_BATCH_BYTES_MAX,
    RELAY_SESSIONS_MAX,
)
from drupelet.wire.relay import (
    NONCE_BYTES,
    SESSION_BYTES,
    VERSION,
    Deliver,
    Done,
    FromNode,
    FromRelay,
    Hello,
    Login,
    Refused,
    Register,
    RelayRefused,
    decode_from_node,
    encode,
    refused,
)
from drupelet.wire.relay_peers import decode_login

LOGIN_S: Final = 10.0
LOGIN_TRIES: Final = 3  # a registration, and the login after it, and one to spare
NONCE_S: Final = 60.0
SESSION_S: Final = 3_600.0  # unused
SILENCE_S: Final = 90.0
POLL_S: Final = 60.0  # the longest; proxies cut what is longer

_CBOR: Final = "application/cbor"
_CLOSE_MALFORMED: Final = 4400
_CLOSE_REFUSED: Final = 4403
_CLOSE_SILENT: Final = 4408
_STATUS: Final = {"rate_limited": 429, "busy": 503, "not_found": 404, "malformed": 400}


class Expiring:
    """Secrets that were given out: each with a value, for some seconds; the oldest goes first."""

    def __init__(self, seconds: float, count: int) -> None:
        self._seconds = seconds
        self._count = count
        self._kept: dict[bytes, tuple[bytes, float]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, secret: bytes, value: bytes = b"") -> None:
        """Keep it, from now."""
        self._kept.pop(secret, None)
        while len(self._kept) >= self._count:
            del self._kept[next(iter(self._kept))]
        self._kept[secret] = (value, trio.current_time() + self._seconds)

    def take(self, secret: bytes) -> bytes | None:
        """Its value, once."""
        value, until = self._kept.pop(secret, (b"", -1.0))
        return value if until > trio.current_time() else None


class Delivery:
    """What a line has goes to its socket, by a task that lives only as long as there is something:
    one that waited would cost each silent link 3 KB. When the line ends, so does the nursery.
    """

    def __init__(self, socket: WebSocket, line: Line, nursery: trio.Nursery) -> None:
        self._socket = socket
        self._line = line
        self._nursery = nursery
        self._running = False

    async def __aenter__(self) -> None:
        self._line.on_wake = self._wake
        self._wake()

    async def __aexit__(self, *_: object) -> None:
        self._line.on_wake = None

    def _wake(self) -> None:
        if not self._running:
            self._running = True
            self._nursery.start_soon(self._run)

    async def _run(self) -> None:
        try:
            while self._line.has_more:
                for message in await self._line.now():
                    await self._socket.send_bytes(encode(_deliver_of(message)))
        except WebSocketDisconnect:
            self._nursery.cancel_scope.cancel()
        self._running = False
        if self._line.ended:
            self._nursery.cancel_scope.cancel()


class Web:
    """What answers at all of them."""

    def __init__(
        self,
        relay: Relay,
        *,
        entropy: Callable[[int], bytes],
        behind_proxy: bool = False,
        peering: Peering | None = None,
    ) -> None:
        self._relay = relay
        self._peering = peering
        self._apply = Apply(relay, entropy=entropy)
        self._entropy = entropy
        self._behind_proxy = behind_proxy
        self._nonces = Expiring(NONCE_S, RELAY_NONCES_MAX)
        self._sessions = Expiring(SESSION_S, RELAY_SESSIONS_MAX)
        self._routes = Starlette(
            routes=[
                Route("/v1/hello", self._hello, methods=["GET"]),
                Route("/v1/say", self._say, methods=["POST"]),
                Route("/v1/messages", self._messages, methods=["GET"]),
                Route("/apply/{rest:path}", self._put, methods=METHODS),
                Route("/v1/peer/login", self._peer_login, methods=["POST"]),
                Route("/v1/peer", self._peer, methods=["POST"]),
                Route("/metrics", self._metrics, methods=["GET"]),
                Route("/healthz", self._healthz, methods=["GET"]),
            ]
        )

    def app(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The ASGI application.

        A link's way through Starlette's routes and handlers of errors is 30 frames that live as
        long as the link: 7 KB, where all of it has 40.
        """
        if scope["type"] == "websocket" and scope["path"] == "/v1/link":
            return self._link(WebSocket(scope, receive, send))
        return self._routes(scope, receive, send)

    def _address(self, connection: HTTPConnection) -> str:
        """Where it comes from: what our own proxy put last into X-Forwarded-For."""
        if self._behind_proxy:
            forwarded = connection.headers.getlist("x-forwarded-for")
            if forwarded:
                return forwarded[-1].rpartition(",")[2].strip()[:64]
        return connection.client.host if connection.client else ""

    # -- WebSocket

    async def _link(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            key = await self._enter(socket)
            if key:
                with self._relay.line(key) as line:
                    await self._serve(socket, key, line)
        except RelayRefused as refusal:
            await socket.send_bytes(encode(refused(0, refusal)))
            await socket.close(_CLOSE_REFUSED)
        except RemoteProtocolError:
            await socket.close(_CLOSE_MALFORMED)
        except WebSocketDisconnect:
            return

    async def _enter(self, socket: WebSocket) -> bytes:
        """The key that was proved, or b""; the connection is closed then."""
        nonce = self._entropy(NONCE_BYTES)
        await socket.send_bytes(encode(self._hello_of(nonce)))
        with trio.move_on_after(LOGIN_S):
            for _ in range(LOGIN_TRIES):
                message = decode_from_node(await _receive(socket))
                ref = message.ref
                try:
                    key = await self._relay.enter(message, nonce, self._address(socket))
                except RelayRefused as refusal:
                    await socket.send_bytes(encode(refused(ref, refusal)))
                    continue
                await socket.send_bytes(encode(Done(ref=ref, value=None)))
                if isinstance(message, Login):
                    return key
        await socket.close(_CLOSE_REFUSED)
        return b""

    async def _serve(self, socket: WebSocket, key: bytes, line: Line) -> None:
        async with trio.open_nursery() as nursery, Delivery(socket, line, nursery):
            scope = nursery.cancel_scope  # not one for each wait: 1 KB of a silent link
            try:
                while True:
                    scope.deadline = trio.current_time() + SILENCE_S
                    data = await _receive(socket)
                    scope.deadline = math.inf
                    message = decode_from_node(data)
                    answer = await self._answer(key, message, self._address(socket))
                    await socket.send_bytes(encode(answer))
            except WebSocketDisconnect:
                pass
            except RemoteProtocolError:
                await socket.close(_CLOSE_MALFORMED)
            scope.cancel()
        if line.ended:
            await socket.close(_CLOSE_REFUSED)
        elif trio.current_time() >= scope.deadline:
            await socket.close(_CLOSE_SILENT)

    async def _answer(self, key: bytes, message: FromNode, address: str) -> FromRelay:
        try:
            return Done(ref=message.ref, value=await self._relay.answer(key, message, address))
        except RelayRefused as refusal:
            self._relay.counts[f"refused_{refusal.code}"] += 1
            return refused(message.ref, refusal)

    # -- HTTP

    def _hello_of(self, nonce: bytes) -> Hello:
        return Hello(version=VERSION, nonce=nonce, run=self._relay.run_id)

    async def _hello(self, request: Request) -> Response:
        nonce = self._entropy(NONCE_BYTES)
        self._nonces.put(nonce)
        return Response(encode(self._hello_of(nonce)), media_type=_CBOR)

    async def _say(self, request: Request) -> Response:
        try:
            message = decode_from_node(await read_body(request, RELAY_FRAME_BYTES_MAX))
        except RemoteProtocolError as error:
            return _reply(refused(0, RelayRefused("malformed", str(error)[:200])))
        if isinstance(message, Login | Register):
            return _reply(await self._enter_by_http(request, message))
        key = self._session(request)
        if key is None:
            return _reply(refused(message.ref, RelayRefused("denied", "log in again")), 401)
        return _reply(await self._answer(key, message, self._address(request)))

    async def _enter_by_http(self, request: Request, message: Login | Register) -> FromRelay:
        try:
            nonce = self._take_nonce(request)
            key = await self._relay.enter(message, nonce, self._address(request))
        except RelayRefused as refusal:
            return refused(message.ref, refusal)
        if isinstance(message, Register):
            return Done(ref=message.ref, value=None)
        session = self._entropy(SESSION_BYTES)
        self._sessions.put(session, key)
        return Done(ref=message.ref, value=session)

    def _take_nonce(self, request: Request) -> bytes:
        nonce = _hexadecimal(request.headers.get("drupelet-nonce", ""))
        if self._nonces.take(nonce) is None:
            raise RelayRefused("denied", "that nonce was used, or is too old")
        return nonce

    def _session(self, request: Request) -> bytes | None:
        session = _bearer(request)
        key = self._sessions.take(session)
        if key is not None:
            self._sessions.put(session, key)  # used: its time begins anew
        return key

    async def _messages(self, request: Request) -> Response:
        key = self._session(request)
        if key is None:
            return _reply(refused(0, RelayRefused("denied", "log in again")), 401)
        try:
            after = int(request.query_params.get("after", "0")[:19])
            wait_s = min(float(request.query_params.get("wait_s", "25")[:8]), POLL_S)
            if not 0 <= after < 2**63 or not wait_s >= 0:
                raise ValueError
        except ValueError:
            return _reply(refused(0, RelayRefused("malformed", "after and wait_s are numbers")))
        messages: list[Message] = []
        try:
            with self._relay.line(key, after) as line:
                messages = await line.now()
                if not messages:
                    with trio.move_on_after(wait_s):
                        messages = await line.next()
        except RelayRefused as refusal:
            return _reply(refused(0, refusal))
        content = dumps([encode(_deliver_of(message)) for message in messages])
        return Response(content, media_type=_CBOR)

    async def _put(self, request: Request) -> Response:
        return await self._apply.put(request, self._address(request))

    # -- another relay

    async def _peer_login(self, request: Request) -> Response:
        try:
            self._relay.charge(self._address(request).encode(), "login")
            login = decode_login(await read_body(request, RELAY_FRAME_BYTES_MAX))
            nonce = self._take_nonce(request)
            if self._peering is None:
                raise RelayRefused("denied", "this relay has no peers")
            value = self._peering.welcome(login, nonce).value()
        except RelayRefused as refusal:
            return _reply(refused(0, refusal))
        except RemoteProtocolError as error:
            return _reply(refused(0, RelayRefused("malformed", str(error)[:200])))
        return _reply(Done(ref=0, value=value))

    async def _peer(self, request: Request) -> Response:
        try:
            if self._peering is None:
                raise RelayRefused("denied", "this relay has no peers")
            body = await read_body(request, RELAY_PEER_BATCH_BYTES_MAX)
            answer = await self._peering.hear(_bearer(request), body)
        except RelayRefused as refusal:
            return _reply(refused(0, refusal))
        except RemoteProtocolError as error:
            return _reply(refused(0, RelayRefused("malformed", str(error)[:200])))
        return Response(answer, media_type=_CBOR)

    async def _metrics(self, request: Request) -> Response:
        relay = self._relay
        lines = []
        gauges = relay.gauges()
        if self._peering is not None:
            states = [state for _, _, state in self._peering.states()]
            gauges |= {"peers": len(states), "peers_in_step": states.count(IN_STEP)}
        for name, value in gauges.items():
            lines += [f"# TYPE drupelet_relay_{name} gauge", f"drupelet_relay_{name} {value}"]
        counts = {**relay.counts, "transactions": relay.writer.transactions}
        for name, value in sorted(counts.items()):
            full = f"drupelet_relay_{name}_total"
            lines += [f"# TYPE {full} counter", f"{full} {value}"]
        return PlainTextResponse(
            "\n".join(lines) + "\n", headers={"content-type": "text/plain; version=0.0.4"}
        )

    async def _healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")


async def _receive(socket: WebSocket) -> bytes:
    event = await socket.receive()
    if event["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(event.get("code", 1006))
    data = event.get("bytes")
    if not isinstance(data, bytes):
        raise RemoteProtocolError("a text message")
    return data


def _bearer(request: Request) -> bytes:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return _hexadecimal(token) if scheme.lower() == "bearer" else b""


def _deliver_of(message: Message) -> Deliver:
    return Deliver(
        number=message.number,
        kind=message.kind,
        sender=message.sender,
        id=message.id,
        re=message.re,
        body=message.body,
    )


def _reply(message: Any, status: int = 0) -> Response:
    if isinstance(message, Refused):
        status = status or _STATUS.get(message.code, 403)
    return Response(encode(message), status_code=status or 200, media_type=_CBOR)


def _hexadecimal(text: str) -> bytes:
    try:
        return bytes.fromhex(text) if len(text) == 2 * NONCE_BYTES else b""
    except ValueError:
        return b""
