"""A channel: one connected socket that carries frames both ways. Carries, and knows no policy.

Decides when bytes go to the kernel, and nothing else. The same class serves an encrypted link
between nodes (records) and a Unix socket to a worker or a client (bare frames).

Rules it keeps
- One reader task. It reads once, hands every frame of that read to the handlers inline, and sends
  everything that they queued in one go. No task, lock, event or memory channel per message:
  each of them costs more in trio than the whole message (2.5 to 8 us against 2).
- Whoever queues outside a read pass calls `send_soon`: the `Flusher`, one task for all channels of
  a process, sends it in the next scheduler pass, together with all that other tasks queued.
  `send_now` is for a lone call on an idle channel: no second task wakes up.
- A full socket parks the rest; a drain task exists only while that lasts. So an idle channel costs
  one task (writer tasks that only sleep cost 3 KB a link).
- Small frames go before bulk (DATA) frames; a bulk frame never delays a small one by more than
  what the kernel holds: credit (256 KiB a stream) and TCP_NOTSENT_LOWAT bound it.
- Queues are bounded: above OUT_BYTES_MAX `congested` is true and calls are refused, ours and the
  peer's; above twice that answers become short errors (services/endpoint.py); a peer that
  lets HELD_BYTES_MAX wait is cut off. The reader never stops: two nodes that had stopped
  reading until the other one reads waited for each other until both declared the other dead.

Cancellation: cancelling `run` closes the socket.

Ideas rejected: `trio.SocketStream` (10.3 us for send and receive against 2.2), sendmsg of parts (a
join of small parts is cheaper), one writer task per link (memory), trying recv once more before
waiting (a wasted system call for each pass).
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import trio

from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.wire.frames import FrameReader, dispatch_record
from drupelet.wire.limits import (
    BULK_ROOM_BYTES,
    FRAME_BYTES_MAX,
    HELD_BYTES_MAX,
    OUT_BYTES_MAX,
)

_READ_BYTES: Final = 262_144  # a pass of many small frames, or four full records
# A burst goes out in parts, so that the peer's processor works on the first while ours makes the
# next: 65 k calls/s became 105 k at 32 outstanding; 8 and 24 gave 87 k and 80 k.
_EARLY_FRAMES: Final = 16
_EARLY_LARGE: Final = 15  # of more than 1 KiB: 15 of 4 KiB fit one record, 16 do not
_NOTSENT_BYTES: Final = 131_072  # what the kernel may hold unsent: 10 ms at 100 Mbit/s
_TCP_NOTSENT_LOWAT: Final = 25  # linux/tcp.h; the socket module has no name for it

Handlers = Sequence[Callable[[int, bytes], None]]


class Sealer(Protocol):
    """Plaintext to one record with its length."""

    def seal(self, plaintext: bytes) -> bytes: ...


class Opener(Protocol):
    """Bytes as they came to the plaintexts of whole records."""

    def receive_data(self, data: bytes) -> list[bytes]: ...


class Flusher:
    """One task that sends what other tasks queued, for every channel of this process.

    Owns: nothing but its place in the scheduler. Cancellation: what is queued stays queued.
    """

    __slots__ = ("_dirty", "_sleeper", "nursery", "read_buffer", "reading")

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self._dirty: list[Channel] = []
        # Shared by all, since a read is handled before the next. `recv(262_144)` would make
        # and shrink an object of that size for each call: 22 % of a caller's time.
        self.read_buffer = memoryview(bytearray(_READ_BYTES))
        self._sleeper: trio.lowlevel.Task | None = None
        self.reading = False  # a read pass is under way: it flushes at its end, nobody need wake up

    def mark(self, channel: Channel) -> None:
        """`channel` has something to send: wake up in the next scheduler pass."""
        self._dirty.append(channel)
        if self._sleeper is not None and not self.reading:
            sleeper, self._sleeper = self._sleeper, None
            trio.lowlevel.reschedule(sleeper)

    def flush(self) -> None:
        """Send all that is queued anywhere, now."""
        dirty = self._dirty
        if dirty:
            self._dirty = []
            for channel in dirty:
                channel.send_now()

    async def run(self) -> None:
        """Flush for ever."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            if not self._dirty:
                self._sleeper = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)
            self.flush()


class Channel:
    """One socket with its queues.

    `handlers[kind](ident, body)` is called for each frame, inline; whatever it queues is sent when
    the read pass is over. `on_pass()` is called after each pass that read something.
    """

    __slots__ = (
        "_blocked",
        "_bulk",
        "_drained",
        "_flusher",
        "_marked",
        "_on_pass",
        "_opener",
        "_out",
        "_reader",
        "_rest",
        "_sealer",
        "_socket",
        "bulk_bytes",
        "bytes_received",
        "bytes_sent",
        "close_reason",
        "handlers",
        "on_room",
        "queued_bytes",
    )

    def __init__(
        self,
        sock: socket.socket,
        flusher: Flusher,
        *,
        sealer: Sealer | None = None,
        opener: Opener | None = None,
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._flusher = flusher
        self._sealer = sealer
        self._opener = opener
        self._reader = None if opener is not None else FrameReader()
        self._out: list[bytes] = []
        self._bulk: deque[bytes] | None = None
        self._rest: memoryview | None = None
        self._blocked = False
        self._marked = False
        self._drained: trio.Event | None = None
        self._on_pass: Callable[[], None] | None = None
        self.handlers: Handlers = ()
        self.queued_bytes = 0  # small frames that wait for a full socket
        self.bulk_bytes = 0  # DATA frames in line
        self.on_room: Callable[[], None] | None = None  # there is room for bulk again
        self.bytes_received = 0
        self.bytes_sent = 0
        self.close_reason = ""

    def start(self, handlers: Handlers, on_pass: Callable[[], None] | None = None) -> None:
        """Set who takes the frames. Before `run`."""
        self.handlers = handlers
        self._on_pass = on_pass

    @property
    def closed(self) -> bool:
        """Whether nothing goes through any more."""
        return self.close_reason != ""

    @property
    def congested(self) -> bool:
        """Whether so much waits that new calls must be refused."""
        return self.queued_bytes > OUT_BYTES_MAX

    # -- sending

    def queue(self, frame: bytes) -> None:
        """Put one whole small frame in line. It goes at the end of this read pass."""
        out = self._out
        out.append(frame)
        if self._marked:
            waiting = len(out)
            if waiting >= _EARLY_FRAMES or (waiting >= _EARLY_LARGE and len(frame) > 1_024):
                self.send_now()
        elif self._blocked:
            self._count(frame)
        else:
            self._marked = True
            self._flusher.mark(self)

    def queue_bulk(self, frame: bytes) -> None:
        """Put one DATA (or CLOSE) frame in line, behind all small ones."""
        if self._bulk is None:
            self._bulk = deque()
        self._bulk.append(frame)
        self.bulk_bytes += len(frame)
        if self._blocked:
            self._check_held()
        elif not self._marked:
            self._marked = True
            self._flusher.mark(self)

    def send_frame_now(self, frame: bytes) -> None:
        """One small frame, straight to the kernel when nothing else waits."""
        self._out.append(frame)
        if self._blocked:
            self._count(frame)
        elif not self._marked:
            self.send_now()

    def _count(self, frame: bytes) -> None:
        self.queued_bytes += len(frame)
        self._check_held()

    def _check_held(self) -> None:
        if self.queued_bytes + self.bulk_bytes > HELD_BYTES_MAX:
            self.close("overloaded")

    def send_now(self) -> None:
        """Give the kernel all that it takes. Never blocks and never raises for the peer's sake."""
        self._marked = False
        if self.close_reason:
            self._out.clear()
            self._bulk = None
            return
        if self._blocked:
            return
        send = self._socket.send
        while True:
            if self._out:
                data = self._next_small()
            elif self._bulk:
                data = self._next_bulk()
            else:
                return
            try:
                count = send(data)
            except BlockingIOError:
                count = 0
            except OSError:
                self.close("closed")
                return
            self.bytes_sent += count
            if count < len(data):
                self._rest = memoryview(data)[count:]
                self._park()
                return

    def _next_small(self) -> bytes:
        out = self._out
        if len(out) == 1:
            joined = out[0]
            out.clear()
        else:
            joined = b"".join(out)
            if self._sealer is None or len(joined) <= FRAME_BYTES_MAX:
                out.clear()
            else:
                joined = self._first_record(out)
        return joined if self._sealer is None else self._sealer.seal(joined)

    @staticmethod
    def _first_record(frames: list[bytes]) -> bytes:
        """Take from the front as many whole frames as one record holds."""
        size = 0
        count = 0
        for frame in frames:
            size += len(frame)
            if size > FRAME_BYTES_MAX:
                break
            count += 1
        if count == 0:
            raise LocalProtocolError("a frame larger than a record was queued")
        joined = b"".join(frames[:count])
        del frames[:count]
        return joined

    def _next_bulk(self) -> bytes:
        assert self._bulk
        frame = self._bulk.popleft()
        self.bulk_bytes -= len(frame)
        if self.bulk_bytes < BULK_ROOM_BYTES and self.on_room is not None:
            self.on_room()
        return frame if self._sealer is None else self._sealer.seal(frame)

    def _park(self) -> None:
        self._blocked = True
        self.queued_bytes = sum(map(len, self._out)) + len(self._rest or b"")
        self._flusher.nursery.start_soon(self._drain)

    async def _drain(self) -> None:
        """Exists while the socket is full."""
        try:
            while self._rest is not None:
                await trio.lowlevel.wait_writable(self._socket)
                if self.close_reason:  # in the pass that woke us; `_rest` is gone
                    break
                try:
                    count = self._socket.send(self._rest)
                except BlockingIOError:
                    continue
                self.bytes_sent += count
                self._rest = self._rest[count:] if count < len(self._rest) else None
        except (OSError, trio.ClosedResourceError):
            self.close("closed")
        self._blocked = False
        self.queued_bytes = 0
        if self._drained is not None:
            self._drained.set()
            self._drained = None
        self.send_now()

    async def wait_sendable(self) -> None:
        """Wait until the kernel takes bytes again, or the channel is closed."""
        while self._blocked and not self.close_reason:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    # -- receiving

    async def run(self, initial: bytes = b"") -> str:
        """Read until the channel closes; return why, a word of `errors.REASONS`.

        `initial` is what was read beyond the handshake. Raises: `RemoteProtocolError` for what the
        peer must not send.
        """
        sock = self._socket
        receive_into = sock.recv_into
        buffer = self._flusher.read_buffer
        wait = trio.lowlevel.wait_readable
        try:
            if initial:
                self._receive(initial)
            while not self.close_reason:
                await wait(sock)
                try:
                    count = receive_into(buffer)
                except BlockingIOError:
                    continue
                if not count:
                    break
                self._receive(bytes(buffer[:count]))
        except (OSError, trio.ClosedResourceError):
            pass
        except RemoteProtocolError:
            self.close("closed")
            raise
        finally:
            self.close("closed")
        return self.close_reason

    def _receive(self, data: bytes) -> None:
        self.bytes_received += len(data)
        flusher = self._flusher
        flusher.reading = True
        try:
            self._dispatch(data)
            if self._on_pass is not None:
                self._on_pass()
        finally:
            flusher.reading = False
            flusher.flush()

    def _dispatch(self, data: bytes) -> None:
        if self._opener is None:
            assert self._reader is not None
            self._reader.dispatch(data, self.handlers)
            return
        handlers = self.handlers
        for record in self._opener.receive_data(data):
            if self.close_reason:
                return
            dispatch_record(record, handlers)

    def close(self, reason: str) -> None:
        """Close now; `run` returns `reason` (the first one given counts)."""
        if self.close_reason:
            return
        self.close_reason = reason
        self._out.clear()
        self._bulk = None
        self._rest = None
        if self._drained is not None:
            self._drained.set()
            self._drained = None
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


def tune_tcp(sock: socket.socket) -> None:
    """No Nagle (44 ms instead of 90 us a call), and little unsent data in the kernel."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _NOTSENT_BYTES)
