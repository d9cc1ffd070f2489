"""Frames: the unit that every channel carries, between nodes, to workers and to clients.

Decides the shape of a frame and of a call's header; knows nothing of sockets or encryption. On a
link many frames travel in one encrypted record (`drupelet.wire.handshake`); on a Unix socket they
follow each other bare. Both are the same frames, so the daemon forwards a body without opening it.

A frame is ``length:u32 kind:u8 id:u32 body``; `length` counts what follows it. Big endian.

Ids: the side that opened the channel uses even ids, the other odd ones, so one id names one call
or stream in both directions. Id 0 is the channel itself. A body larger than FRAGMENT_BYTES_MAX
starts in its CALL or REPLY frame (flag MORE) and goes on in DATA frames under credit; the last
one lacks the flag MORE. CREDIT and DATA are forwarded end to end like the body they belong to.

| kind   | id   | body                                                                          |
|--------|------|-------------------------------------------------------------------------------|
| CALL   | new  | flags:u8 timeout_ms:u32 target_length:u8 target [digest:16 if DIGEST] args     |
| CAST   | 0    | as CALL; no answer; arguments in one fragment; an id with flag LEASE           |
| REPLY  | call | flags:u8 value                                                                 |
| ERROR  | call | CBOR ``[code, field, ...]`` (errors.py)                                        |
| CANCEL | call | nothing: the caller no longer waits                                            |
| DATA   | any  | flags:u8 bytes                                                                 |
| CREDIT | any  | bytes:u32 that the sender of this frame can take more                          |
| OPEN   | new  | stream type, as a target                                                       |
| CLOSE  | any  | CBOR error array, or nothing: the stream ended well                            |
| PING   | 0    | token:u64                                                                      |
| PONG   | 0    | the token                                                                      |
| GOODBYE| 0    | CBOR reason text: an orderly close                                             |
| GOSSIP | 0    | CBOR, messages/membership.py                                                   |
| HELLO  | 0    | CBOR, messages/links.py or messages/workers.py: first frame of a channel       |

Many calls: with flag MANY the arguments are an array of argument arrays, at most MANY_CALLS_MAX,
and the value is ``[[value, ...], {index: [code, field, ...]}]``: the failed ones stand in the map,
and as null in the list. One header, one decode and one encode for all of them.

Leases: a CALL or CAST to a worker with flag LEASE, which a daemon gives to strangers' calls, is
closed by a CLOSE of its id when nothing of it runs any more, which may be long after its REPLY or
ERROR. Such a CAST has an id. Until then a CANCEL of that id ends what is left of it.

Ideas rejected: CBOR for the header (one more encode and decode per call, 2 us); a dataclass per
frame (1 us; `Frame` is a NamedTuple for the sake of the hot path, see adr/0003).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from drupelet.errors import RemoteProtocolError
from drupelet.wire import limits


class Kind(enum.IntEnum):
    """The kind byte of a frame."""

    CALL = 1
    CAST = 2
    REPLY = 3
    ERROR = 4
    CANCEL = 5
    DATA = 6
    CREDIT = 7
    OPEN = 8
    CLOSE = 9
    PING = 10
    PONG = 11
    GOODBYE = 12
    GOSSIP = 13
    HELLO = 14


# Plain ints for the hot path: an enum member costs a dictionary look-up and hashing in Python.
CALL: Final = 1
CAST: Final = 2
REPLY: Final = 3
ERROR: Final = 4
CANCEL: Final = 5
DATA: Final = 6
CREDIT: Final = 7
OPEN: Final = 8
CLOSE: Final = 9
PING: Final = 10
PONG: Final = 11
GOODBYE: Final = 12
GOSSIP: Final = 13
HELLO: Final = 14
KIND_MAX: Final = 14

FLAG_MORE: Final = 1  # CALL, REPLY, DATA: the body goes on in DATA frames
FLAG_DIGEST: Final = 2  # CALL, CAST: a 16-byte code digest follows the target
FLAG_MANY: Final = 4  # CALL: many calls of one function; see "Many calls" above
FLAG_LEASE: Final = 8  # CALL, CAST to a worker: tell when nothing of it runs; see "Leases" above

DIGEST_BYTES: Final = 16
FRAME_BODY_BYTES_MAX: Final = limits.FRAME_BYTES_MAX - 9  # what one frame carries
MORE_ABOVE: Final = limits.FRAGMENT_BYTES_MAX  # a longer body goes in fragments

HEADER: Final = struct.Struct(">IBI")
HEADER_BYTES: Final = HEADER.size  # 9
_AFTER_LENGTH_BYTES: Final = 5  # kind and id
CALL_HEADER: Final = struct.Struct(">BIB")  # flags, timeout_ms, target length
CALL_HEADER_BYTES: Final = CALL_HEADER.size  # 6
U32: Final = struct.Struct(">I")
U64: Final = struct.Struct(">Q")

_unpack_header = HEADER.unpack_from
_pack_header = HEADER.pack


class Frame(NamedTuple):
    """One frame as it came: kind, id, body."""

    kind: int
    ident: int
    body: bytes


class Call(NamedTuple):
    """The header of a CALL or CAST, and the first fragment of its arguments (encoded)."""

    flags: int
    timeout_ms: int
    target: bytes
    digest: bytes
    args: bytes


def frame(kind: int, ident: int, body: bytes = b"") -> bytes:
    """One frame as bytes. The caller keeps `body` within FRAME_BYTES_MAX - HEADER_BYTES."""
    return _pack_header(len(body) + _AFTER_LENGTH_BYTES, kind, ident) + body


def call_body(
    target: bytes, args: bytes, *, timeout_ms: int = 0, flags: int = 0, digest: bytes = b""
) -> bytes:
    """The body of a CALL or CAST. `timeout_ms` 0 means none; `target` at most 255 bytes."""
    if digest:
        flags |= FLAG_DIGEST
    return CALL_HEADER.pack(flags, timeout_ms, len(target)) + target + digest + args


def split_call(body: bytes) -> Call:
    """The reverse of `call_body`. Raises: `RemoteProtocolError`."""
    if len(body) < CALL_HEADER_BYTES:
        raise RemoteProtocolError("short call")
    flags, timeout_ms, target_length = CALL_HEADER.unpack_from(body)
    start = CALL_HEADER_BYTES + target_length
    target = body[CALL_HEADER_BYTES:start]
    digest = b""
    if flags & FLAG_DIGEST:
        digest = body[start : start + DIGEST_BYTES]
        start += DIGEST_BYTES
    if len(body) < start:
        raise RemoteProtocolError("short call")
    return Call(flags, timeout_ms, target, digest, body[start:])


def split_record(record: bytes) -> list[Frame]:
    """The frames of one whole record. Raises: `RemoteProtocolError` unless they fill it exactly."""
    frames: list[Frame] = []

    def taker(kind: int) -> Callable[[int, bytes], None]:
        return lambda ident, body: frames.append(Frame(kind, ident, body))

    dispatch_record(record, [taker(kind) for kind in range(KIND_MAX + 1)])
    return frames


def dispatch_record(record: bytes, handlers: Sequence[Callable[[int, bytes], None]]) -> None:
    """As `split_record`, but hands each frame to ``handlers[kind](id, body)``; the hot path.

    Frames before a malformed one are handed over. Raises: `RemoteProtocolError`.
    """
    position = 0
    end = len(record)
    last = end - HEADER_BYTES
    while position < end:
        if position > last:
            raise RemoteProtocolError("frame header cut off")
        length, kind, ident = _unpack_header(record, position)
        following = position + 4 + length
        if length < _AFTER_LENGTH_BYTES or following > end:
            raise RemoteProtocolError("frame length beyond its record")
        if not 0 < kind <= KIND_MAX:
            raise RemoteProtocolError("unknown frame kind")
        handlers[kind](ident, record[position + HEADER_BYTES : following])
        position = following


class FrameReader:
    """Byte machine for a bare channel (Unix socket): bytes in, whole frames out.

    Keeps at most one unfinished frame.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def receive_data(self, data: bytes) -> list[Frame]:
        """Take bytes as they came; return the frames that are now whole.

        Raises: `RemoteProtocolError`; the channel is then of no more use.
        """
        if self._rest:
            data = self._rest + data
        frames: list[Frame] = []
        position = 0
        end = len(data)
        last = end - HEADER_BYTES
        while position <= last:
            length, kind, ident = _unpack_header(data, position)
            if not _AFTER_LENGTH_BYTES <= length <= limits.FRAME_BYTES_MAX - 4:
                raise RemoteProtocolError("frame length out of range")
            if not 0 < kind <= KIND_MAX:
                raise RemoteProtocolError("unknown frame kind")
            following = position + 4 + length
            if following > end:
                break
            frames.append(Frame(kind, ident, data[position + HEADER_BYTES : following]))
            position = following
        self._rest = data[position:] if position < end else b""
        return frames

    def dispatch(self, data: bytes, handlers: Sequence[Callable[[int, bytes], None]]) -> None:
        """As `receive_data`, but hands each frame to ``handlers[kind](id, body)``."""
        for kind, ident, body in self.receive_data(data):
            handlers[kind](ident, body)
