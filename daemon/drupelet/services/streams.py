"""Byte streams on a channel, beside calls: credit, order, an end.

Decides when bytes may be sent: the receiver grants credit as its reader consumes, so a slow reader
slows its sender and nobody else. Small frames of the same channel go before stream data.

Close semantics: `aclose` or `end` says that no more comes; CLOSE with an error breaks both ways.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from drupelet.errors import CallError, NoConnection, RemoteProtocolError, error_to_fields
from drupelet.wire import frames
from drupelet.wire.codec import dumps
from drupelet.wire.frames import U32, frame
from drupelet.wire.limits import FRAGMENT_BYTES_MAX, STREAM_CREDIT_BYTES

if TYPE_CHECKING:
    from drupelet.net.channel import Channel

_SMALL_PART_BYTES: Final = 1_024


class Stream:
    """One byte stream. One task may send and one may receive at a time."""

    __slots__ = (
        "_channel",
        "_credit",
        "_ended",
        "_error",
        "_granted",
        "_on_end",
        "_parts",
        "_peer_ended",
        "_unread",
        "_wake_receiver",
        "_wake_sender",
        "ident",
        "on_closed",
    )

    def __init__(self, channel: Channel, on_end: Callable[[int], None]) -> None:
        self._channel = channel
        self._on_end = on_end
        self.ident = 0
        self.on_closed: Callable[[], None] | None = None  # the peer no longer reads, or is gone
        self._credit = STREAM_CREDIT_BYTES  # what we may send
        self._granted = STREAM_CREDIT_BYTES  # what the peer may send
        self._parts: deque[bytes] = deque()
        self._unread = 0  # bytes consumed since the last grant
        self._ended = False
        self._peer_ended = False
        self._error: CallError | None = None
        self._wake_sender = trio.Event()
        self._wake_receiver = trio.Event()

    async def send_all(self, data: bytes) -> None:
        """Send `data`; waits for credit. Raises: `CallError` when the stream broke."""
        await trio.lowlevel.checkpoint()
        view = memoryview(data)
        while view:
            self._check()
            if self._credit <= 0:
                self._wake_sender = trio.Event()
                await self._wake_sender.wait()
                continue
            count = min(FRAGMENT_BYTES_MAX, self._credit, len(view))
            self._credit -= count
            self._channel.queue_bulk(frame(frames.DATA, self.ident, b"\x01" + bytes(view[:count])))
            view = view[count:]
            await self._channel.wait_sendable()

    async def receive_some(self) -> bytes:
        """The next bytes; empty at the end. Raises: `CallError` when the stream broke."""
        await trio.lowlevel.checkpoint()
        while not self._parts:
            if self._peer_ended:
                return b""
            self._check()
            self._wake_receiver = trio.Event()
            await self._wake_receiver.wait()
        data = self._parts.popleft()
        self._unread += len(data)
        if self._unread >= STREAM_CREDIT_BYTES // 2 and not self._peer_ended:
            self._granted += self._unread
            self._channel.queue(frame(frames.CREDIT, self.ident, U32.pack(self._unread)))
            self._unread = 0
        return data

    def send_item_nowait(self, data: bytes) -> bool:
        """One whole small message as one DATA frame; False when there is no credit for it."""
        if self._ended or self._error is not None or self._credit < len(data):
            return False
        self._credit -= len(data)
        self._channel.queue_bulk(frame(frames.DATA, self.ident, b"\x01" + data))
        return True

    def end(self, error: CallError | None = None) -> None:
        """No more comes from here; with `error`, nothing goes either way any more."""
        if self._ended:
            return
        self._ended = True
        body = b"" if error is None else dumps(error_to_fields(error))
        if not self._channel.closed:
            self._channel.queue_bulk(frame(frames.CLOSE, self.ident, body))
        if self._peer_ended or error is not None:
            self._on_end(self.ident)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._channel.closed:
            raise NoConnection(self._channel.close_reason, maybe_ran=True)

    # -- what the peer sent (endpoint)

    def data_received(self, body: bytes) -> None:
        """A DATA frame. Raises: `RemoteProtocolError` beyond its credit."""
        if len(body) < 2 or self._peer_ended:
            raise RemoteProtocolError("data on an ended stream")
        self._granted -= len(body) - 1
        if self._granted < 0:
            raise RemoteProtocolError("more stream data than credit")
        if self._parts and len(self._parts[-1]) < _SMALL_PART_BYTES:
            self._parts[-1] += body[1:]  # frames of one byte must not become 260,000 objects
        else:
            self._parts.append(body[1:])
        self._wake_receiver.set()

    def credit_received(self, count: int) -> None:
        """The peer can take more."""
        self._credit += count
        self._wake_sender.set()

    def closed_by_peer(self, error: CallError | None) -> None:
        """The peer's CLOSE, or the end of the channel."""
        self._peer_ended = self._peer_ended or error is None
        self._error = self._error or error
        self._wake_receiver.set()
        self._wake_sender.set()
        if error is not None or self._ended:
            self._on_end(self.ident)
        if self.on_closed is not None:
            on_closed, self.on_closed = self.on_closed, None
            on_closed()
