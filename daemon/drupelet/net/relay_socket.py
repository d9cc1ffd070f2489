"""A relay over a WebSocket: one connection, questions and messages in both directions.

Decides how the messages of `wire/relay.py` travel by RFC 6455 (daemon/docs/RELAY.md): wsproto reads
and writes the frames, this moves the bytes.

Rules
- A question may be asked while others wait; the relay answers them in their order.
- A task that gives up waiting leaves its question: its answer is read, and dropped. Nothing that
  was begun is written by half.
- Everything is bounded: questions and bytes that wait for the relay, a message, what came and was
  not taken. Of several pings the last is answered.
- A relay that is silent for SILENT_S, that does not answer for ANSWER_S, or takes no bytes for as
  long, is gone: a router may have forgotten us, and the kernel does not say so.
- What ends the way is said in words that help, whichever side it was.

Owns: one connection, a task that reads it, a task that writes.

References: RFC 6455; RFC 8446. Rejected: trio-websocket (an API of tasks over the same wsproto, no
bound on pings, kept for tests); websockets (asyncio).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any, Final

import trio
from wsproto import ConnectionType, WSConnection
from wsproto import events as ws
from wsproto.connection import ConnectionState
from wsproto.utilities import ProtocolError

from drupelet.errors import DrupeletError
from drupelet.net.relay_way import (
    ANSWER_S,
    NotPassed,
    Place,
    RelayCut,
    RelayGone,
    RelaySilent,
    decoded,
    hello_of,
    said,
    value_of,
)
from drupelet.wire.limits import (
    RELAY_ASKED_MAX,
    RELAY_FRAME_BYTES_MAX,
    RELAY_INBOX_BYTES_MAX,
    RELAY_UNSENT_BYTES_MAX,
    RELAY_WINDOW_MESSAGES,
)
from drupelet.wire.relay import (
    Deliver,
    FromNode,
    FromRelay,
    Hello,
    Refused,
    RelayRefused,
    encode,
)

SILENT_S: Final = 45.0  # answers to announcements come sooner: services/announcing.py
CLOSE_S: Final = 1.0  # for our last word
PATH: Final = "/v1/link"
_READ_BYTES: Final = 65_536
_PIECE_BYTES: Final = 32_768  # 15 s for one of them: 17 kbit/s
_BEHIND: Final = (502, 503, 504)  # a proxy's words
_BROKEN: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)

ENDED: Final = {  # close codes, RFC 6455 section 7.4.1 and RELAY.md
    1000: "the relay ended the connection",
    1001: "the relay stops or restarts",
    1009: "the relay found a message of this node too long: update the older of the two",
    1011: "the relay failed: its owner's log tells why",
    1012: "the relay restarts",
    1013: "the relay has no room now",
    4400: "the relay could not read a message of this node: update the older of the two",
    4403: "the relay ended the connection: its owner denied this node, or other connections with "
    "its key took its place",
    4408: "the relay heard nothing of this node for too long",
}


class _Question:
    """One that waits for its answer."""

    __slots__ = ("answer", "done", "error", "ref", "written_at")

    def __init__(self, ref: int) -> None:
        self.ref = ref
        self.done = trio.Event()
        self.answer: FromRelay | None = None
        self.error: DrupeletError | None = None
        self.written_at = inf

    async def value(self) -> Any:
        """As `Asked.value`."""
        await self.done.wait()
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return value_of(self.answer, self.ref)


class RelaySocket:
    """A `RelayWay`. Made by `open_socket`."""

    def __init__(self, stream: trio.abc.Stream, place: Place) -> None:
        self.run_id = b""
        self._stream = stream
        self._place = place
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._nonce = b""
        self._refs = itertools.count(1)
        self._asked: deque[_Question] = deque()
        self._unsent: deque[tuple[bytes, _Question]] = deque()
        self._unsent_bytes = 0
        self._pong: bytes = b""
        self._writing = False  # a frame may have gone out by half
        self._filled, self._room, self._told = trio.Event(), trio.Event(), trio.Event()
        self._message = bytearray()  # that has begun to come
        self._inbox: list[Deliver] = []
        self._inbox_bytes = 0
        self._last = 0
        self.gone: DrupeletError | None = None  # why it ended
        self._close_code = 1000
        self._reading = trio.CancelScope()
        self._heard_at = trio.current_time()

    # -- what is asked

    async def login(self) -> None:
        """As `RelayWay.login`."""
        await self.ask(self._place.login(self._nonce))

    async def register(
        self, name: str, *, invite: bytes | None = None, email: str | None = None
    ) -> None:
        """As `RelayWay.register`."""
        await self.ask(self._place.registration(self._nonce, name, invite=invite, email=email))

    async def begin(self, message: FromNode) -> _Question:
        """As `RelayWay.begin`."""
        while self.gone is None and (
            len(self._asked) >= RELAY_ASKED_MAX or self._unsent_bytes >= RELAY_UNSENT_BYTES_MAX
        ):
            self._room = trio.Event()
            await self._room.wait()
        if self.gone is not None:
            raise self.gone
        question = _Question(next(self._refs))
        data = self._ws.send(
            ws.BytesMessage(data=encode(dataclasses.replace(message, ref=question.ref)))
        )
        self._asked.append(question)
        self._unsent.append((data, question))
        self._unsent_bytes += len(data)
        self._filled.set()
        return question

    async def ask(self, message: FromNode) -> Any:
        """As `RelayWay.ask`."""
        return await (await self.begin(message)).value()

    async def messages(self) -> list[Deliver]:
        """As `RelayWay.messages`. What came before the end is given before it."""
        while not self._inbox:
            if self.gone is not None:
                raise self.gone
            self._told = trio.Event()
            await self._told.wait()
        taken, self._inbox, self._inbox_bytes = self._inbox, [], 0
        return taken

    # -- the beginning and the end

    async def upgrade(self) -> None:
        """From HTTP to a WebSocket, and the relay's hello. Raises: `RelayGone`, `NotPassed`."""
        try:
            with trio.fail_after(ANSWER_S):
                await self._stream.send_all(self.upgrade_request())
                while not self.run_id and self.gone is None:
                    data = await self._stream.receive_some(_READ_BYTES)
                    if not data:
                        raise NotPassed("a WebSocket's beginning was cut")
                    self.take(data)
        except trio.TooSlowError:
            raise NotPassed("no answer to a WebSocket's beginning") from None
        except _BROKEN as error:
            raise NotPassed(f"a WebSocket's beginning was cut: {said(error)}") from None
        if self.gone is not None:
            raise self.gone

    def upgrade_request(self) -> bytes:
        """The first bytes."""
        host = f"[{self._place.host}]" if ":" in self._place.host else self._place.host
        if self._place.port not in (80, 443):
            host = f"{host}:{self._place.port}"
        return self._ws.send(ws.Request(host=host, target=PATH))

    async def read_all(self) -> None:
        """Until the way ends."""
        with self._reading:
            while self.gone is None:
                self._set_deadline()
                try:
                    data = await self._stream.receive_some(_READ_BYTES)
                except _BROKEN as error:
                    self._end(RelayCut(f"the connection was cut: {said(error)}"))
                    return
                self._heard_at = trio.current_time()
                self.take(data)
        if self._reading.cancelled_caught and self.gone is None:
            why = "does not answer" if self._asked else "is silent"
            self._end(RelaySilent(f"the relay {why}: the connection is dead"))

    async def write_all(self) -> None:
        """Until the way ends."""
        while self.gone is None:
            if not self._unsent and not self._pong:
                self._filled = trio.Event()
                await self._filled.wait()
                continue
            batch, self._pong = bytearray(self._pong), b""
            questions = []
            while self._unsent and len(batch) < _PIECE_BYTES:
                data, question = self._unsent.popleft()
                batch += data
                questions.append(question)
            self._writing = True
            try:
                for start in range(0, len(batch), _PIECE_BYTES):
                    with trio.fail_after(ANSWER_S):
                        await self._stream.send_all(bytes(batch[start : start + _PIECE_BYTES]))
            except trio.TooSlowError:
                self._end(RelaySilent("the relay takes no bytes: the connection is dead"))
                return
            except _BROKEN as error:
                self._end(RelayCut(f"the connection was cut: {said(error)}"))
                return
            self._writing = False
            self._unsent_bytes = sum(len(data) for data, _ in self._unsent)
            self._room.set()
            for question in questions:
                question.written_at = trio.current_time()
            self._set_deadline()

    async def close(self) -> None:
        """Our last word, where it can still be said; then the connection ends."""
        self._end(RelayGone("closed"))
        with trio.move_on_after(CLOSE_S, shield=True), contextlib.suppress(*_BROKEN):
            if not self._writing and self._ws.state in (
                ConnectionState.OPEN,
                ConnectionState.REMOTE_CLOSING,
            ):
                word = ws.CloseConnection(code=self._close_code)
                await self._stream.send_all(self._ws.send(word))
        await trio.aclose_forcefully(self._stream)

    # -- inside

    def _set_deadline(self) -> None:
        """When the relay will have been silent for too long."""
        until = self._heard_at + SILENT_S
        if self._asked:
            until = min(until, max(self._heard_at, self._asked[0].written_at) + ANSWER_S)
        self._reading.deadline = until

    def _end(self, why: DrupeletError, close_code: int = 1000) -> None:
        """Nothing more by this way. The first reason counts."""
        if self.gone is not None:
            return
        self.gone = why
        self._close_code = close_code
        for question in self._asked:
            question.error = why
            question.done.set()
        self._asked.clear()
        self._unsent.clear()
        for event in (self._told, self._room, self._filled):
            event.set()
        self._reading.cancel()

    def take(self, data: bytes | bytearray) -> None:
        """What the relay sent; b"": it will send no more. A fault of it is kept in `gone`."""
        try:
            self._ws.receive_data(bytes(data) or None)
            for event in self._ws.events():
                self._on_event(event)
                if self.gone is not None:
                    return
        except (ProtocolError, UnicodeError) as error:  # wsproto reads headers as ASCII
            began = bool(self.run_id)
            words = f"what came is no WebSocket: {error}"
            self._end(RelayGone(words) if began else NotPassed(words), 1002)
        except RelayGone as error:
            self._end(error, 1002)

    def _on_event(self, event: ws.Event) -> None:
        match event:
            case ws.BytesMessage(data=data, message_finished=finished):
                self._message += data
                if len(self._message) > RELAY_FRAME_BYTES_MAX:
                    self._end(RelayGone("the relay sent a message that is too long"), 1009)
                elif finished:
                    whole, self._message = bytes(self._message), bytearray()
                    self._on_message(decoded(whole), len(whole))
            case ws.Ping():
                self._pong = self._ws.send(event.response())
                self._filled.set()
            case ws.CloseConnection(code=code, reason=reason) if (
                self._ws.state is ConnectionState.OPEN
            ):  # not the relay's word: wsproto's, of what it could not read
                self._end(RelayGone(f"what came is no WebSocket: {reason}"), int(code))
            case ws.CloseConnection(code=code, reason=reason):
                self._on_close(int(code), reason or "")
            case ws.RejectConnection(status_code=status) if status in _BEHIND:
                self._end(RelayGone(f"a proxy answers, and the relay does not: status {status}"))
            case ws.RejectConnection(status_code=status):
                self._end(NotPassed(f"no WebSocket passes: HTTP status {status}"))
            case ws.TextMessage():
                self._end(RelayGone("the relay sent a text, and messages are binary"), 1003)
            case _:  # AcceptConnection, RejectData, Pong
                pass

    def _on_close(self, code: int, reason: str) -> None:
        if code == 1006:  # no close frame: the connection's end
            words = "the connection was cut"
            self._end(RelayCut(words) if self.run_id else NotPassed(words))
            return
        words = ENDED.get(code, f"the relay ended the connection with code {code}")
        self._end(RelayGone(f"{words}{': ' if reason else ''}{reason[:100]}"))

    def _on_message(self, message: FromRelay, size: int) -> None:
        if not self.run_id:
            hello = hello_of(message)
            self.run_id, self._nonce = hello.run, hello.nonce
            return
        match message:
            case Deliver(number=number):
                self._inbox_bytes += size
                if (
                    number <= self._last
                    or len(self._inbox) >= RELAY_WINDOW_MESSAGES
                    or self._inbox_bytes > RELAY_INBOX_BYTES_MAX
                ):
                    raise RelayGone("the relay delivers more than it may")
                self._last = number
                self._inbox.append(message)
                self._told.set()
            case Refused(ref=0, code=code, text=text):
                self._end(RelayRefused(code, text, message.retry_after_ms / 1_000))
            case Hello():
                raise RelayGone("the relay said hello twice")
            case _:
                if not self._asked or self._asked[0].ref != message.ref:
                    raise RelayGone("an answer to another question")
                question = self._asked.popleft()
                question.answer = message
                question.done.set()
                self._room.set()


@asynccontextmanager
async def open_socket(place: Place) -> AsyncIterator[RelaySocket]:
    """A way that is open, but not logged in. Raises: `RelayGone`, `NotPassed`."""
    way = RelaySocket(await place.connect(), place)
    try:
        await way.upgrade()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(way.read_all)
            nursery.start_soon(way.write_all)
            yield way
            nursery.cancel_scope.cancel()
    finally:
        await way.close()
