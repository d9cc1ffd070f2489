"""Large bodies on their way out of one channel, in turn.

Decides which body sends its next fragment: what its receiver's credit allows, while fewer than
BULK_ROOM_BYTES are in line on the channel; the others wait and take turns. So a hundred calls of
1 MiB hold 1 MiB in line, not 25, and none of them starves. And which body begins: those under way
stay below what the peer may hold unfinished (REASSEMBLY_BYTES_MAX); later ones begin as earlier
ones end, in order.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from drupelet.errors import RemoteError
from drupelet.wire.bodies import Outgoing, first_fragment
from drupelet.wire.frames import FLAG_MORE, frame
from drupelet.wire.limits import BODY_BYTES_MAX, BULK_ROOM_BYTES, REASSEMBLY_BYTES_MAX

if TYPE_CHECKING:
    from drupelet.net.channel import Channel

# What is under way at once: the peer holds as much, and one more body that it began meanwhile.
UNDER_WAY_BYTES_MAX: Final = REASSEMBLY_BYTES_MAX - BODY_BYTES_MAX


class Sending:
    """The unfinished bodies that one endpoint sends."""

    __slots__ = ("_bodies", "_channel", "_held", "_under_way_bytes", "_waiting", "held_bytes")

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._bodies: dict[int, tuple[Outgoing, int]] = {}
        self._held: dict[int, tuple[int, bytes, bytes]] = {}  # not begun yet, in order
        self.held_bytes = 0
        self._under_way_bytes = 0
        self._waiting: deque[int] = deque()  # bodies with credit, when there is no room
        channel.on_room = self._on_room

    def __contains__(self, ident: int) -> bool:
        return ident in self._bodies or ident in self._held

    @property
    def unfinished(self) -> bool:
        """Whether there is any."""
        return bool(self._bodies or self._held)

    def start(self, kind: int, ident: int, prefix: bytes, body: bytes) -> None:
        """Send a frame with the first fragment; `prefix` starts with the flags byte."""
        if self._held or self._under_way_bytes + len(body) > UNDER_WAY_BYTES_MAX:
            self._held[ident] = (kind, prefix, body)
            self.held_bytes += len(body)
        else:
            self._begin(kind, ident, prefix, body)

    def credit(self, ident: int, count: int) -> None:
        """The receiver can take `count` bytes more of this body."""
        entry = self._bodies.get(ident)
        if entry is not None:
            entry[0].add_credit(count)
            if ident not in self._waiting:
                self._push(ident)

    def drop(self, ident: int) -> None:
        """Nobody wants it any more."""
        held = self._held.pop(ident, None)
        if held is not None:
            self.held_bytes -= len(held[2])
        self._end(ident)

    def _begin(self, kind: int, ident: int, prefix: bytes, body: bytes) -> None:
        _, fragment = first_fragment(body)
        head = bytes((prefix[0] | FLAG_MORE,)) + prefix[1:]
        self._channel.queue(frame(kind, ident, head + fragment))
        self._bodies[ident] = (Outgoing(ident, body), len(body))
        self._under_way_bytes += len(body)
        self._push(ident)

    def _end(self, ident: int) -> None:
        entry = self._bodies.pop(ident, None)
        if entry is not None:
            self._under_way_bytes -= entry[1]
        while self._held:
            following = next(iter(self._held))
            kind, prefix, body = self._held[following]
            if self._under_way_bytes + len(body) > UNDER_WAY_BYTES_MAX:
                return
            del self._held[following]
            self.held_bytes -= len(body)
            self._begin(kind, following, prefix, body)

    def _push(self, ident: int) -> None:
        """Queue what credit and room allow."""
        outgoing = self._bodies[ident][0]
        for data in outgoing.take():
            self._channel.queue_bulk(data)
            if self._channel.bulk_bytes > BULK_ROOM_BYTES and not outgoing.finished:
                self._waiting.append(ident)
                return
        if outgoing.finished:
            self._end(ident)

    def _on_room(self) -> None:
        """Each body that waits gets one more fragment, in turn."""
        waiting = self._waiting
        while waiting and self._channel.bulk_bytes < BULK_ROOM_BYTES:
            ident = waiting.popleft()
            entry = self._bodies.get(ident)
            data = next(entry[0].take(), None) if entry is not None else None
            if data is None or entry is None:
                continue
            self._channel.queue_bulk(data)
            if entry[0].finished:
                self._end(ident)
            else:
                waiting.append(ident)


def too_large(size: int) -> RemoteError:
    """The refusal of a body beyond BODY_BYTES_MAX."""
    return RemoteError(
        "too_large",
        f"the value has {size} bytes encoded, at most {BODY_BYTES_MAX} travel in one call; "
        "send it in pieces or as a stream",
    )
