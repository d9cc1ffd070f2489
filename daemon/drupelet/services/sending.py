"""Large bodies on their way out of one channel, in turn.

Decides which body sends its next fragment: what its receiver's credit allows, while fewer than
BULK_ROOM_BYTES are in line on the channel; the others wait and take turns. So a hundred calls of
1 MiB hold 1 MiB in line, not 25, and none of them starves.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from drupelet.wire.bodies import Outgoing, first_fragment
from drupelet.wire.frames import FLAG_MORE, frame
from drupelet.wire.limits import BULK_ROOM_BYTES

if TYPE_CHECKING:
    from drupelet.net.channel import Channel


class Sending:
    """The unfinished bodies that one endpoint sends."""

    __slots__ = ("_bodies", "_channel", "_waiting")

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._bodies: dict[int, Outgoing] = {}
        self._waiting: deque[int] = deque()  # bodies with credit, when there is no room
        channel.on_room = self._on_room

    def __contains__(self, ident: int) -> bool:
        return ident in self._bodies

    def start(self, kind: int, ident: int, prefix: bytes, body: bytes) -> None:
        """Send a frame with the first fragment; `prefix` starts with the flags byte."""
        _, fragment = first_fragment(body)
        head = bytes((prefix[0] | FLAG_MORE,)) + prefix[1:]
        self._channel.queue(frame(kind, ident, head + fragment))
        self._bodies[ident] = Outgoing(ident, body)
        self._push(ident)

    def credit(self, ident: int, count: int) -> None:
        """The receiver can take `count` bytes more of this body."""
        self._bodies[ident].add_credit(count)
        if ident not in self._waiting:
            self._push(ident)

    def drop(self, ident: int) -> None:
        """Nobody wants it any more."""
        self._bodies.pop(ident, None)

    def _push(self, ident: int) -> None:
        """Queue what credit and room allow."""
        outgoing = self._bodies[ident]
        for data in outgoing.take():
            self._channel.queue_bulk(data)
            if self._channel.bulk_bytes > BULK_ROOM_BYTES and not outgoing.finished:
                self._waiting.append(ident)
                return
        if outgoing.finished:
            self._bodies.pop(ident, None)

    def _on_room(self) -> None:
        """Each body that waits gets one more fragment, in turn."""
        waiting = self._waiting
        while waiting and self._channel.bulk_bytes < BULK_ROOM_BYTES:
            ident = waiting.popleft()
            outgoing = self._bodies.get(ident)
            data = next(outgoing.take(), None) if outgoing is not None else None
            if data is None or outgoing is None:
                continue
            self._channel.queue_bulk(data)
            if outgoing.finished:
                self._bodies.pop(ident, None)
            else:
                waiting.append(ident)
