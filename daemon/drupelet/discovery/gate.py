"""The gate before zeroconf: which packets are parsed at all.

Decides per packet, from its bytes, its sender and `now`, before any parser sees it:

- size: what does not fit an Ethernet frame is not ours (our answers take about 400 bytes);
- subject: every packet about our service has the bytes "drupelet" in it, since a DNS label stands
  in full at its first use (RFC 1035, section 4.1.4) and our host names end in it too. The rest of
  a LAN's chatter (printers, televisions, other assistants) is never parsed nor cached;
- rate: at most PACKETS_PER_SENDER_PER_S of one sender, and PACKETS_PER_S in all, with a burst.

So a flood costs one look at the bytes per packet. Rates are kept as one instant per sender, the
"theoretical arrival time" of the generic cell rate algorithm (ITU-T I.371): no timers.

Rejected: a BPF filter on the socket (zeroconf owns the sockets; measured, the gate is enough).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PACKET_BYTES_MAX: Final = 1_500  # an Ethernet frame; zeroconf itself stays below 1,460
MARK: Final = b"drupelet"
PACKETS_PER_SENDER_PER_S: Final = 20.0  # a node that starts sends about 8 packets in its first 2 s
PACKETS_PER_SENDER_BURST: Final = 40.0  # three nodes on one machine that start at once
PACKETS_PER_S: Final = 100.0  # 1 % of a Pi Zero's core is about 100 parsed packets
PACKETS_BURST: Final = 300.0  # 50 nodes after a power cut: 6 packets each in the first second
SENDERS_MAX: Final = 256  # senders are forged freely: the oldest is forgotten first


@dataclass(frozen=True, slots=True, kw_only=True)
class GateStatistics:
    """What came and what was dropped."""

    packet_count: int
    foreign_count: int
    over_rate_count: int


class PacketGate:
    """Decides whether a packet is parsed. `sender` is who sent the last one that was let in."""

    __slots__ = ("_all_due_s", "_due_s", "_foreign", "_over_rate", "_packets", "sender")

    def __init__(self) -> None:
        self._due_s: dict[str, float] = {}  # sender -> theoretical arrival time
        self._all_due_s = 0.0
        self._packets = 0
        self._foreign = 0
        self._over_rate = 0
        self.sender = ""

    def admits(self, packet: bytes, sender: str, now: float) -> bool:
        """Whether to parse `packet`, which came from the address `sender`."""
        self._packets += 1
        if len(packet) > PACKET_BYTES_MAX or MARK not in packet:
            self._foreign += 1
            return False
        if not self._has_rate(sender, now):
            self._over_rate += 1
            return False
        self.sender = sender
        return True

    def statistics(self) -> GateStatistics:
        """Counts since the start."""
        return GateStatistics(
            packet_count=self._packets,
            foreign_count=self._foreign,
            over_rate_count=self._over_rate,
        )

    def _has_rate(self, sender: str, now: float) -> bool:
        due_s = max(self._due_s.get(sender, now), now)
        if due_s > now + PACKETS_PER_SENDER_BURST / PACKETS_PER_SENDER_PER_S:
            return False
        all_due_s = max(self._all_due_s, now)
        if all_due_s > now + PACKETS_BURST / PACKETS_PER_S:
            return False
        self._all_due_s = all_due_s + 1.0 / PACKETS_PER_S
        self._due_s.pop(sender, None)  # so that the order is that of the last packet
        if len(self._due_s) >= SENDERS_MAX:
            del self._due_s[next(iter(self._due_s))]
        self._due_s[sender] = due_s + 1.0 / PACKETS_PER_SENDER_PER_S
        return True
