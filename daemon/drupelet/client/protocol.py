"""The client's side of a Unix-socket channel, sans-IO: bytes in, settled calls out.

Decides ids, the header of a call, the pieces of large bodies and of streams; knows no socket and no
clock, so the blocking and the trio client share it. The daemon's side is ARCHITECTURE.md, "One
channel, three uses"; the frames are `drupelet.wire.frames`.

Rules
- The client opened the channel, so its ids are even; 0 is the channel. After 2**31 calls the ids
  start again and skip those that are open.
- Whatever waits for an id is its *sink*, an object of the client's own. `receive_data` hands each
  sink back exactly once for a call, and forgets it; an answer that comes later is dropped.
- Values are decoded by whoever waits, not here: one bad value then fails one call.
- A body that is coming in is bounded by BODY_BYTES_MAX; how many are, by the calls that this
  program itself has open.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from drupelet.errors import (
    CallError,
    NoConnection,
    NotSendable,
    RemoteProtocolError,
    Timeout,
    error_from_fields,
)
from drupelet.wire import limits
from drupelet.wire.bodies import Incoming, Outgoing, first_fragment
from drupelet.wire.codec import dumps, loads
from drupelet.wire.frames import (
    CALL,
    CANCEL,
    CAST,
    CLOSE,
    CREDIT,
    DATA,
    ERROR,
    FLAG_MORE,
    GOODBYE,
    HELLO,
    OPEN,
    PING,
    PONG,
    REPLY,
    U32,
    Frame,
    FrameReader,
    call_body,
    frame,
    split_call,
)

PROTOCOL_VERSION: Final = 1
TIMEOUT_S: Final = 5.0  # a call's default: Erlang's gen_server:call has the same
TIMEOUT_GRACE_S: Final = 0.25  # the daemon answers a late call itself; after this we do
HELLO_S: Final = 2.0  # a daemon on this machine says HELLO in 1 ms; one that is stopped never does
EVENTS_STREAM: Final = b"node/events"
SIGNALS_TARGET: Final = b"process/signals"
_IDENT_MAX: Final = 0xFFFF_FFFE
_TIMEOUT_MS_MAX: Final = 0xFFFF_FFFF
_CREDIT_STEP_BYTES: Final = limits.STREAM_CREDIT_BYTES // 2

Sink = TypeVar("Sink")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUp:
    """A node became reachable."""

    name: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDown:
    """A node is no longer reachable; `reason` is a word of `errors.REASONS`."""

    name: str
    key: str
    reason: str


NodeEvent = NodeUp | NodeDown


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What the daemon says of itself."""

    name: str
    key: str
    software: str


class Settled(NamedTuple, Generic[Sink]):
    """One answer: the encoded value, or the failure. `None`: a stream ended well."""

    sink: Sink
    ident: int
    result: bytes | CallError | None


@functools.lru_cache(maxsize=4_096)  # the targets a program uses; each entry is some 300 bytes
def call_target(node_name: str, mission: str, function: str) -> bytes:
    """``NODE/MISSION/FUNCTION``; an empty node is the local one. Raises: `NotSendable`."""
    for path, part in (("node", node_name), ("mission", mission), ("function", function)):
        if not isinstance(part, str):
            raise NotSendable(f"a name is a text, not {type(part).__name__}", path)
        if "/" in part or (not part and path != "node"):
            raise NotSendable(f"{part!r} is no name: it is empty or has a slash", path)
    try:
        target = f"{node_name}/{mission}/{function}".encode()
    except UnicodeEncodeError:
        raise NotSendable("the name is not Unicode", "node, mission or function") from None
    if len(target) > limits.TARGET_BYTES_MAX:
        raise NotSendable(
            f"node, mission and function together take {len(target)} bytes, "
            f"at most {limits.TARGET_BYTES_MAX} can be sent"
        )
    return target


def check_names(nodes: object) -> None:
    """A lone text would be taken letter by letter. Raises: `NotSendable`."""
    if isinstance(nodes, str | bytes):
        what = f"a list of names, not {nodes!r}; write [{nodes!r}], or None for every node"
        raise NotSendable(what, "nodes")


def encode_arguments(arguments: tuple[object, ...] | list[object]) -> bytes:
    """The positional arguments as one CBOR array. Raises: `NotSendable`, before a byte is sent."""
    try:
        encoded = dumps(list(arguments))
    except NotSendable as error:
        message = str(error).removeprefix(f"{error.path}: ")
        raise NotSendable(message, f"args{error.path}") from None
    if len(encoded) > limits.BODY_BYTES_MAX:
        raise NotSendable(
            f"{len(encoded)} bytes, at most {limits.BODY_BYTES_MAX} can be sent in one call", "args"
        )
    return encoded


def timeout_ms(timeout_s: float) -> int:
    """The span as the wire has it: 0 for ever, at least 1. Raises: `ValueError`, `Timeout`."""
    if timeout_s > 0:
        if timeout_s == math.inf:
            return 0
        return min(math.ceil(timeout_s * 1_000), _TIMEOUT_MS_MAX)
    if math.isnan(timeout_s):
        raise ValueError("timeout must be a number of seconds, not NaN")
    raise Timeout(maybe_ran=False)


def decode_hello(body: bytes) -> Hello:
    """Raises: `RemoteProtocolError`; `NoConnection` when the daemon speaks another version."""
    match loads(body):
        case {"role": "daemon", "version": int(version), **fields}:
            if version != PROTOCOL_VERSION:
                raise NoConnection("version")
            return Hello(
                name=str(fields.get("name", "")),
                key=str(fields.get("key", "")),
                software=str(fields.get("software", "")),
            )
    raise RemoteProtocolError("malformed HELLO")


def decode_event(encoded: bytes) -> NodeEvent:
    """One item of the ``node/events`` stream. Raises: `RemoteProtocolError`."""
    match loads(encoded):
        case {"event": "up", "name": str(name), **fields}:
            return NodeUp(name=name, key=str(fields.get("key", "")))
        case {"event": "down", "name": str(name), **fields}:
            reason = str(fields.get("reason", ""))
            return NodeDown(name=name, key=str(fields.get("key", "")), reason=reason)
    raise RemoteProtocolError("malformed node event")


class Session(Generic[Sink]):
    """Byte machine for one channel to the local daemon.

    `calls` maps the ids of open calls to their sinks, `streams` those of open streams.
    """

    __slots__ = (
        "_incoming",
        "_last_ident",
        "_outgoing",
        "_reader",
        "_spent",
        "calls",
        "goodbye",
        "on_signals",
        "peer",
        "streams",
    )

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._last_ident = 0
        self._incoming: dict[int, Incoming] = {}
        self._outgoing: dict[int, Outgoing] = {}
        self._spent: dict[int, int] = {}  # a stream's bytes since the last CREDIT
        self.calls: dict[int, Sink] = {}
        self.streams: dict[int, Sink] = {}
        self.peer: Hello | None = None
        self.goodbye = ""
        self.on_signals: Callable[[bytes], None] | None = None  # of processes: carrier.py

    # -- out

    def hello(self) -> bytes:
        """The first frame."""
        return frame(HELLO, 0, dumps({"role": "client", "version": PROTOCOL_VERSION}))

    def call(
        self, target: bytes, arguments: bytes, wire_timeout_ms: int, sink: Sink
    ) -> tuple[int, bytes]:
        """Open a call; (its id, the bytes to send).

        Raises: `NoConnection` ("overloaded") when CALLS_PER_LINK_MAX calls are open.
        """
        calls = self.calls
        if len(calls) >= limits.CALLS_PER_LINK_MAX:
            raise NoConnection("overloaded")
        ident = self._new_ident()
        calls[ident] = sink
        if len(arguments) <= limits.FRAGMENT_BYTES_MAX:
            body = call_body(target, arguments, timeout_ms=wire_timeout_ms)
            return ident, frame(CALL, ident, body)
        flags, fragment = first_fragment(arguments)
        body = call_body(target, fragment, timeout_ms=wire_timeout_ms, flags=flags)
        rest = Outgoing(ident, arguments)
        parts = [frame(CALL, ident, body), *rest.take()]
        if not rest.finished:
            self._outgoing[ident] = rest
        return ident, b"".join(parts)

    def cast(self, target: bytes, arguments: bytes) -> bytes:
        """A call without an answer. Raises: `NotSendable` beyond one fragment."""
        if len(arguments) > limits.FRAGMENT_BYTES_MAX:
            raise NotSendable(
                f"{len(arguments)} bytes, at most {limits.FRAGMENT_BYTES_MAX} fit a cast; "
                "a call takes more",
                "args",
            )
        return frame(CAST, 0, call_body(target, arguments))

    def cancel(self, ident: int) -> bytes:
        """Forget an open call; the bytes that tell the daemon so."""
        self._forget(ident)
        return frame(CANCEL, ident)

    def open_stream(self, stream_type: bytes, sink: Sink) -> tuple[int, bytes]:
        """Open a stream; (its id, the bytes to send). Raises: `NoConnection` ("overloaded")."""
        if len(self.streams) >= limits.STREAMS_PER_LINK_MAX:
            raise NoConnection("overloaded")
        ident = self._new_ident()
        self.streams[ident] = sink
        self._spent[ident] = 0
        return ident, frame(OPEN, ident, stream_type)

    def close_stream(self, ident: int) -> bytes:
        """Forget an open stream; the bytes that tell the daemon so."""
        self._forget_stream(ident)
        return frame(CLOSE, ident)

    def _new_ident(self) -> int:
        ident = self._last_ident + 2
        while ident > _IDENT_MAX or ident in self.calls or ident in self.streams:
            ident = (
                2 if ident > _IDENT_MAX else ident + 2
            )  # ends: far fewer are open than there are
        self._last_ident = ident
        return ident

    def _forget(self, ident: int) -> None:
        self.calls.pop(ident, None)
        if self._incoming:
            self._incoming.pop(ident, None)
        if self._outgoing:
            self._outgoing.pop(ident, None)

    def _forget_stream(self, ident: int) -> None:
        self.streams.pop(ident, None)
        self._spent.pop(ident, None)

    # -- in

    def receive_data(self, data: bytes) -> tuple[list[Settled[Sink]], bytes]:
        """Take bytes as they came; (what they settled, bytes to send back).

        Raises: `RemoteProtocolError`; the channel is then of no more use.
        """
        settled: list[Settled[Sink]] = []
        answers: list[bytes] = []
        pop = self.calls.pop
        for one in self._reader.receive_data(data):
            kind, ident, body = one
            if kind == REPLY and body and not body[0] & FLAG_MORE:
                sink = pop(ident, None)
                if sink is not None:
                    if self._outgoing:
                        self._outgoing.pop(ident, None)
                    settled.append(Settled(sink, ident, body[1:]))
            elif self.peer is None and kind != HELLO:
                raise RemoteProtocolError("the first frame is not HELLO")
            else:
                self._receive_frame(one, settled, answers)
        return settled, b"".join(answers)

    def _receive_frame(
        self, one: Frame, settled: list[Settled[Sink]], answers: list[bytes]
    ) -> None:
        kind, ident, body = one
        if kind == REPLY:
            if not body:
                raise RemoteProtocolError("empty REPLY")
            if ident in self.calls:
                self._incoming[ident] = Incoming(body[1:])
        elif kind == ERROR:
            sink = self.calls.get(ident)
            self._forget(ident)
            if sink is not None:
                settled.append(Settled(sink, ident, error_from_fields(loads(body))))
        elif kind == DATA:
            if ident in self._incoming:
                self._receive_piece(ident, body, settled, answers)
            elif ident in self.streams:
                self._receive_item(ident, body, settled, answers)
        elif kind == CREDIT:
            if len(body) != U32.size:
                raise RemoteProtocolError("malformed CREDIT")
            rest = self._outgoing.get(ident)
            if rest is not None:
                rest.add_credit(U32.unpack(body)[0])
                answers.extend(rest.take())
                if rest.finished:
                    del self._outgoing[ident]
        elif kind == CLOSE:
            stream_sink = self.streams.get(ident)
            self._forget_stream(ident)
            if stream_sink is not None:
                result = error_from_fields(loads(body)) if body else None
                settled.append(Settled(stream_sink, ident, result))
                if not body:
                    answers.append(frame(CLOSE, ident))  # a stream ends when both sides said so
        elif kind == HELLO and self.peer is None:
            self.peer = decode_hello(body)
        elif kind == PING:
            answers.append(frame(PONG, 0, body))
        elif kind == GOODBYE:
            self.goodbye = str(loads(body)) if body else "stopping"
        elif kind == CAST and self.on_signals is not None:
            call = split_call(body)
            if call.target == SIGNALS_TARGET:
                self.on_signals(call.args)
        elif kind != PONG:
            raise RemoteProtocolError(f"a daemon sends no frame of kind {kind} to a client")

    def _receive_piece(
        self, ident: int, body: bytes, settled: list[Settled[Sink]], answers: list[bytes]
    ) -> None:
        whole, credit = self._incoming[ident].receive(ident, body)
        if credit is not None:
            answers.append(credit)
        if whole is not None:
            sink = self.calls[ident]
            self._forget(ident)
            settled.append(Settled(sink, ident, whole))

    def _receive_item(
        self, ident: int, body: bytes, settled: list[Settled[Sink]], answers: list[bytes]
    ) -> None:
        if not body:
            raise RemoteProtocolError("empty DATA frame")
        spent = self._spent[ident] + len(body) - 1
        if spent > limits.STREAM_CREDIT_BYTES:
            raise RemoteProtocolError("more data than credit")
        if (
            len(body) > 1
        ):  # an item is one DATA frame; its flag MORE only says that the stream goes on
            settled.append(Settled(self.streams[ident], ident, body[1:]))
        if spent >= _CREDIT_STEP_BYTES:
            answers.append(frame(CREDIT, ident, U32.pack(spent)))
            spent = 0
        self._spent[ident] = spent

    def end(self) -> list[Settled[Sink]]:
        """The channel is gone: every sink that still waits, with why."""
        reason = "stopping" if self.goodbye else "closed"
        waiting = [*self.calls.items(), *self.streams.items()]
        self.calls.clear()
        self.streams.clear()
        return [Settled(sink, ident, NoConnection(reason, True)) for ident, sink in waiting]
