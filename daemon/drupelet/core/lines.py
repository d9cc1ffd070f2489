"""Lines: the ordered byte stream of signals between two daemons, over whatever link there is.

Decides what goes into each segment, what is kept until the peer has it, and what a segment from the
peer adds. Knows no signal, only bytes; `core/processes.py` says what they are. One `Line` to each
peer and incarnation.

    segment = epoch:u64 for_epoch:u64 offset:u64 ack:u64 bytes          at most SEGMENT_BYTES_MAX

`epoch` names the sender's stream and `offset` the place of the bytes in it; `for_epoch` is the
receiver's stream as the sender knows it (0: not yet) and `ack` how many of its bytes have come.

Rules
- Bytes are kept until they are acknowledged. When another link of the same node takes over
  (`link_changed`), everything from there on is sent again; the receiver drops what it has. So
  nothing is lost, doubled or out of order, whatever the old link still delivers. A link is in order
  in itself and begins at the acknowledged byte: a gap is never seen, and dropped if it is.
- At most WINDOW_BYTES are under way. The rest waits here; above PAUSE_BYTES `paused` is true until
  it is down to RESUME_BYTES. Above BYTES_MAX a signal is refused: its sender did not pause.
- Acknowledgements ride on segments. Alone they go after ACK_BYTES, or ACK_S after the first byte
  that they acknowledge: so a line that is quiet keeps nothing for longer.
- Who told NodeDown of the peer (`reset`) forgets both streams and begins a new epoch, larger than
  any before. Bytes and acknowledgements count only in segments that know our present epoch, and
  are sent only when the peer's is known: nothing of an old epoch comes after a new one.
- Its peer, which may never have noticed, sees a new epoch instead of the one that it knew: it is
  told that the peer had lost it (`Arrived.lost`), forgets both streams too, and begins anew.
- `link_changed` always sends a segment, an empty one if need be: it says which epoch we are in.

References: TCP (RFC 9293) for window and acknowledgement; its 4-way numbering of connections is
what the epochs replace, since both ends outlive their connections.
Rejected: acknowledging each segment at once (one more frame and system call for each message of a
one-way stream); a stream per pair of runtimes (a table of windows for no gain: one link carries
them all); keeping signals across NodeDown (Down was told: what comes later would break it).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple

from drupelet.errors import RemoteProtocolError
from drupelet.wire.limits import FRAGMENT_BYTES_MAX, HELD_BYTES_MAX

HEADER: Final = struct.Struct(">QQQQ")
SEGMENT_BYTES_MAX: Final = FRAGMENT_BYTES_MAX - 64  # with the CAST's target it fits one fragment
DATA_BYTES_MAX: Final = SEGMENT_BYTES_MAX - HEADER.size
WINDOW_BYTES: Final = 262_144  # 20 ms at 100 Mbit/s, as a stream's
ACK_BYTES: Final = 65_536  # a quarter of the window: the sender need never stop for it
ACK_S: Final = 0.05  # 20 small frames a second from an idle receiver of a one-way stream
PAUSE_BYTES: Final = 1024 * 1024  # 80 ms at 100 Mbit/s
RESUME_BYTES: Final = WINDOW_BYTES  # the wire is still busy when the senders go on
BYTES_MAX: Final = HELD_BYTES_MAX  # four of the largest signals, from senders that did not pause
_U64: Final = 1 << 64


class Arrived(NamedTuple):
    """What a segment brought: new bytes in order; `lost`: first of all, the peer had lost us."""

    data: bytes
    lost: bool


_NOTHING: Final = Arrived(b"", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineStatistics:
    """Counters of one `Line`."""

    waiting_bytes: int
    stale_count: int
    again_count: int
    refused_count: int


class Line:
    """One line. `epoch` is larger than that of every line before."""

    __slots__ = (
        "_ack_at",
        "_ack_due",
        "_acked",
        "_again",
        "_floor",
        "_out",
        "_peer_epoch",
        "_received",
        "_refused",
        "_reported",
        "_sent",
        "_stale",
        "connected",
        "epoch",
        "paused",
    )

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.connected = False
        self.paused = False
        self._floor = 0  # greetings of these epochs of the peer may come late
        self._stale = self._again = self._refused = 0
        self._peer_epoch = 0
        self._clear()

    def _clear(self) -> None:
        self._out = bytearray()  # from the acknowledged byte on
        self._acked = 0  # where that is in the stream
        self._sent = 0  # up to here it was sent on the present link
        self._received = 0  # of the peer's stream
        self._reported = 0  # of it, acknowledged
        self._ack_at = inf
        self._ack_due = False

    # -- inputs

    def send(self, data: bytes) -> bool:
        """Put whole signals in line. False: too much waits, they are refused."""
        if len(self._out) + len(data) > BYTES_MAX:
            self._refused += 1
            return False
        self._out += data
        if len(self._out) > PAUSE_BYTES:
            self.paused = True
        return True

    def link_changed(self) -> None:
        """There is a link, or another one than before: send what is not acknowledged, again."""
        if self._sent > self._acked:
            self._again += 1
        self._sent = self._acked
        self._ack_due = True
        self.connected = True

    def reset(self, epoch: int) -> None:
        """NodeDown was told: forget both streams. `epoch` is larger than every one before."""
        assert epoch > self.epoch
        self.epoch = epoch
        self._floor = max(self._floor, self._peer_epoch)
        self._peer_epoch = 0
        self._clear()
        self.connected = False
        self.paused = False

    def receive(self, segment: bytes, epoch: int, now: float) -> Arrived:
        """A segment came. `epoch`: the one to go on with, if the peer had lost us.

        Raises: `RemoteProtocolError`.
        """
        if len(segment) < HEADER.size:
            raise RemoteProtocolError("segment cut off")
        peer_epoch, for_epoch, offset, ack = HEADER.unpack_from(segment)
        if not peer_epoch or peer_epoch >> 63 or offset >> 62 or ack >> 62:
            raise RemoteProtocolError("number of a segment out of range")
        knows_us = for_epoch == self.epoch
        if peer_epoch < self._peer_epoch or (not knows_us and peer_epoch <= self._floor):
            self._stale += 1
            return _NOTHING
        lost = False
        if peer_epoch > self._peer_epoch:
            # A peer that knows another epoch of ours never had bytes of this one.
            lost = self._peer_epoch != 0 and (for_epoch == 0 or self._received + self._acked > 0)
            if lost:
                connected = self.connected
                self.reset(epoch)
                self.connected = connected
            self._peer_epoch = peer_epoch
            self._sent = self._acked
            self._ack_due = True  # it has to learn ours
        if lost or not knows_us:
            self._stale += bool(for_epoch)
            return Arrived(b"", lost)
        self._acknowledged(ack)
        return Arrived(self._take(segment, offset, now), lost)

    def _take(self, segment: bytes, offset: int, now: float) -> bytes:
        known = self._received - offset
        fresh = len(segment) - HEADER.size - known
        if known < 0:
            self._stale += 1
            return b""
        if known and len(segment) > HEADER.size:
            self._ack_due = True  # it sends again what it need not
        if fresh <= 0:
            return b""
        self._received += fresh
        unreported = self._received - self._reported
        if unreported >= ACK_BYTES:
            self._ack_due = True
        elif self._ack_at == inf:
            self._ack_at = now + ACK_S
        return segment[HEADER.size + known :]

    def _acknowledged(self, ack: int) -> None:
        if ack > self._acked + len(self._out):
            raise RemoteProtocolError("acknowledgement of what was not sent")
        count = ack - self._acked
        if count <= 0:
            return
        del self._out[:count]
        self._acked = ack
        self._sent = max(self._sent, ack)
        if self.paused and len(self._out) <= RESUME_BYTES:
            self.paused = False

    def next_timer(self) -> float:
        """When `handle_timer` is to be called; inf: never."""
        return self._ack_at

    def handle_timer(self, now: float) -> None:
        """The acknowledgement that waited for a segment to ride on."""
        if now >= self._ack_at:
            self._ack_at = inf
            self._ack_due = True

    # -- outputs

    def take_segments(self) -> list[bytes]:
        """What is to be sent now, in order, on the present link; nothing while there is none."""
        if not self.connected:
            return []
        segments: list[bytes] = []
        end = min(len(self._out), WINDOW_BYTES) if self._peer_epoch else 0
        position = self._sent - self._acked
        while position < end:
            following = min(position + DATA_BYTES_MAX, end)
            segments.append(self._header() + self._out[position:following])
            position = following
            self._sent = self._acked + position
        if not segments and self._ack_due:
            segments.append(self._header())
        if segments:
            self._ack_due = False
            self._ack_at = inf
            self._reported = self._received
        return segments

    def _header(self) -> bytes:
        return HEADER.pack(self.epoch, self._peer_epoch, self._sent, self._received)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that the peer has not acknowledged, sent or not."""
        return len(self._out)

    def statistics(self) -> LineStatistics:
        """A snapshot of the counters."""
        return LineStatistics(
            waiting_bytes=len(self._out),
            stale_count=self._stale,
            again_count=self._again,
            refused_count=self._refused,
        )
