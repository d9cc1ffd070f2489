"""Bodies larger than one frame: cut into fragments under credit, put together again.

Decides nothing about sockets; the owner sends what `Outgoing.take` yields and tells `Incoming` what
came. The receiver grants credit; a sender that exceeds it is wrong. The first fragment travels in
the CALL or REPLY frame and needs no credit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from drupelet.errors import NoConnection, RemoteProtocolError
from drupelet.wire import limits
from drupelet.wire.frames import CREDIT, DATA, FLAG_MORE, U32, frame


class Outgoing:
    """The rest of one body on its way out.

    `body` is the whole encoded value; the first FRAGMENT_BYTES_MAX bytes of it went already.
    """

    __slots__ = ("_body", "_credit", "_ident", "_position")

    def __init__(self, ident: int, body: bytes) -> None:
        self._ident = ident
        self._body = memoryview(body)
        self._position = limits.FRAGMENT_BYTES_MAX
        self._credit = limits.STREAM_CREDIT_BYTES

    @property
    def finished(self) -> bool:
        """Whether every fragment was taken."""
        return self._position >= len(self._body)

    def add_credit(self, count: int) -> None:
        """The receiver can take `count` bytes more."""
        self._credit += count

    def take(self) -> Iterator[bytes]:
        """DATA frames that the credit allows now, in order."""
        size = len(self._body)
        while self._position < size and self._credit > 0:
            count = min(limits.FRAGMENT_BYTES_MAX, size - self._position, self._credit)
            piece = self._body[self._position : self._position + count]
            self._position += count
            self._credit -= count
            flags = FLAG_MORE if self._position < size else 0
            yield frame(DATA, self._ident, bytes((flags,)) + piece)


class Incoming:
    """One body that is being put together. At most `bytes_max` bytes."""

    __slots__ = ("_allowed", "_buffer", "_bytes_max", "size")

    def __init__(self, first: bytes, bytes_max: int = limits.BODY_BYTES_MAX) -> None:
        # Not a list of parts: DATA frames of one byte would make 16 MiB into 700 MB of objects.
        self._buffer = bytearray(first)
        self._bytes_max = bytes_max
        self._allowed = len(first) + limits.STREAM_CREDIT_BYTES
        self.size = len(first)

    def receive(self, ident: int, data: bytes) -> tuple[bytes | None, bytes | None]:
        """One DATA frame's body. Returns (the whole body or None, a CREDIT frame to send or None).

        Raises: `RemoteProtocolError` when the sender exceeds its credit or the maximum.
        """
        if len(data) < 2:
            raise RemoteProtocolError("empty DATA frame")
        self.size += len(data) - 1
        if self.size > self._allowed:
            raise RemoteProtocolError("more data than credit")
        if self.size > self._bytes_max:
            raise RemoteProtocolError("body too large")
        self._buffer += memoryview(data)[1:]
        if not data[0] & FLAG_MORE:
            whole = bytes(self._buffer)
            self._buffer.clear()
            return whole, None
        spent = self.size + limits.STREAM_CREDIT_BYTES - self._allowed
        if spent < limits.STREAM_CREDIT_BYTES // 2:
            return None, None
        self._allowed += spent
        return None, frame(CREDIT, ident, U32.pack(spent))


class Assembly:
    """All unfinished bodies of one channel: at most REASSEMBLY_BYTES_MAX together.

    `start` names who gets the whole body; `receive` takes DATA frames.
    """

    __slots__ = ("_bodies", "_bytes", "_bytes_max")

    def __init__(self, bytes_max: int = limits.REASSEMBLY_BYTES_MAX) -> None:
        self._bodies: dict[int, tuple[Incoming, Callable[[bytes], None]]] = {}
        self._bytes = 0
        self._bytes_max = bytes_max

    def __contains__(self, ident: int) -> bool:
        return ident in self._bodies

    def start(self, ident: int, first: bytes, whole: Callable[[bytes], None]) -> bool:
        """A body begins. False: too much is unfinished already, and it is not taken."""
        if self._bytes + len(first) > self._bytes_max:
            return False
        self._bytes += len(first)
        self._bodies[ident] = (Incoming(first), whole)
        return True

    def receive(self, ident: int, data: bytes) -> bytes | None:
        """A DATA frame of a body that began; a CREDIT frame to send, or None.

        Raises: `RemoteProtocolError` beyond the sender's credit or a body's maximum; `NoConnection`
        when too much is unfinished: no fault of the sender, who cannot count what others forward
        to us through it. That body is dropped; what follows of it is nobody's.
        """
        incoming, whole = self._bodies[ident]
        before = incoming.size
        body, credit = incoming.receive(ident, data)
        self._bytes += incoming.size - before
        if body is not None:
            self.drop(ident)
            whole(body)
        elif self._bytes > self._bytes_max:
            self.drop(ident)
            raise NoConnection("overloaded")
        return credit

    def drop(self, ident: int) -> None:
        """Nobody wants this body any more."""
        entry = self._bodies.pop(ident, None)
        if entry is not None:
            self._bytes -= entry[0].size


def first_fragment(body: bytes) -> tuple[int, bytes]:
    """(flags, fragment) with which a CALL or REPLY starts."""
    if len(body) <= limits.FRAGMENT_BYTES_MAX:
        return 0, body
    return FLAG_MORE, body[: limits.FRAGMENT_BYTES_MAX]
