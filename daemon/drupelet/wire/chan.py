"""Values on a chan connection, once the guest is in (guests.py).

Decides their bytes, and which values guests may exchange. Records hold frames of frames.py, all
with id 0, of three kinds:

    DATA   flags:u8 bytes    a value in fragments of at most 32 KiB; all but the last say MORE
    CLOSE  nothing           orderly end; nothing follows
    PING   nothing           "I am still here", unanswered, by each side for itself

Rules it keeps
- A value is one item of the codec, at most CHAN_VALUE_BYTES_MAX bytes: data without references.
  Pids, refs and notices are refused in both directions: a guest may talk to one service process,
  and a pid is the right to send to another. (Proxy pids come with grants.)
- No credit: a value is a message, the receiver's mailbox pushes back by way of TCP.
- At most one unfinished value is held; after an error the object refuses everything.

Ideas rejected: CREDIT as on links (a chan carries one conversation, nothing waits behind a large
value but its own kind); the whole frame table (CALL to a guest would be a second door).
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from drupelet.errors import NotSendable, RemoteProtocolError
from drupelet.wire import codec, frames, limits
from drupelet.wire.guests import Admitted

_PLAIN: Final = frozenset(
    {
        type(None),
        bool,
        int,
        float,
        str,
        bytes,
        bytearray,
        memoryview,
        datetime.datetime,
        uuid.UUID,
    }
)


@dataclass(frozen=True, slots=True)
class Value:
    """One value came."""

    value: Any


@dataclass(frozen=True, slots=True)
class Closed:
    """The peer ended the conversation."""


Event = Value | Closed


class ChanStream:
    """Byte machine of both sides. Takes over what `admitted` has."""

    __slots__ = ("_closed", "_failed", "_opener", "_parts", "_parts_bytes", "_sealer")

    def __init__(self, admitted: Admitted) -> None:
        self._sealer = admitted.sealer
        self._opener = admitted.opener
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._failed = False
        self._closed = False

    def send_value(self, value: object) -> bytes:
        """The records of one value. Raises: `NotSendable`; then nothing was sealed."""
        data = dump(value)
        step = limits.FRAGMENT_BYTES_MAX
        records = []
        for start in range(0, len(data), step):
            flags = frames.FLAG_MORE if start + step < len(data) else 0
            body = bytes((flags,)) + data[start : start + step]
            records.append(self._sealer.seal(frames.frame(frames.DATA, 0, body)))
        return b"".join(records)

    def send_close(self) -> bytes:
        """The record that ends the conversation."""
        return self._sealer.seal(frames.frame(frames.CLOSE, 0))

    def send_ping(self) -> bytes:
        """The record that only says that this side lives."""
        return self._sealer.seal(frames.frame(frames.PING, 0))

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes as they came; return what is now whole. Raises: `RemoteProtocolError`."""
        if self._failed:
            raise RemoteProtocolError("the connection failed before")
        self._failed = True  # until this read has proved itself
        events: list[Event] = []
        for record in self._opener.receive_data(data):
            for kind, ident, body in frames.split_record(record):
                self._take(kind, ident, body, events)
        self._failed = False
        return events

    def _take(self, kind: int, ident: int, body: bytes, events: list[Event]) -> None:
        if ident or self._closed:
            raise RemoteProtocolError("a frame with an id, or after the end")
        if kind == frames.DATA and body and body[0] in (0, frames.FLAG_MORE):
            self._parts_bytes += len(body) - 1
            if self._parts_bytes > limits.CHAN_VALUE_BYTES_MAX:
                raise RemoteProtocolError("value too large")
            if body[0] and len(body) == 1:
                raise RemoteProtocolError("an empty fragment")  # a free wake-up
            self._parts.append(body[1:])
            if not body[0]:
                data = b"".join(self._parts)
                self._parts.clear()
                self._parts_bytes = 0
                events.append(Value(load(data)))
        elif kind == frames.CLOSE and not body and not self._parts:
            self._closed = True
            events.append(Closed())
        elif kind != frames.PING or body:
            raise RemoteProtocolError("a frame that chan does not have")


def dump(value: object) -> bytes:
    """`value` as bytes. Raises: `NotSendable`, with the place, for what guests may not exchange."""
    data = codec.dumps(value)
    place = _reference(value, "value")
    if place:
        raise NotSendable("a pid, a ref or a notice does not go to a guest; send plain data", place)
    if len(data) > limits.CHAN_VALUE_BYTES_MAX:
        raise NotSendable(
            f"{len(data)} bytes; at most {limits.CHAN_VALUE_BYTES_MAX} go over a chan"
        )
    return data


def load(data: bytes) -> Any:
    """The reverse of `dump`. Raises: `RemoteProtocolError`."""
    value = codec.loads(data)
    if _reference(value, "value"):
        raise RemoteProtocolError("a pid, a ref or a notice from a guest")
    return value


def _reference(value: Any, path: str) -> str:
    """Where in `value` something stands that the codec takes and guests do not get; "": nowhere.

    The codec took `value`, so it is at most VALUE_DEPTH_MAX deep.
    """
    kind = type(value)
    if kind in _PLAIN:
        return ""
    items: Iterable[tuple[object, Any]]
    if kind is list or kind is tuple:
        items = enumerate(value)
    elif kind is dict:
        items = value.items()
    else:
        return path
    for key, item in items:
        if type(item) not in _PLAIN:
            found = _reference(item, f"{path}[{key!r:.40}]")
            if found:
                return found
    return ""
