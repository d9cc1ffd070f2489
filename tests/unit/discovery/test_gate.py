"""The gate: size, subject and rate of packets, at the maximum and one above."""

from __future__ import annotations

from drupelet.discovery import gate
from drupelet.discovery.gate import PacketGate

PACKET = b"...\x09_drupelet\x04_tcp\x05local\x00..."


def admitted(filter: PacketGate, sender: str, now: float, count: int) -> int:
    return sum(filter.admits(PACKET, sender, now) for _ in range(count))


def test_size() -> None:
    largest = PACKET.ljust(gate.PACKET_BYTES_MAX, b".")
    assert PacketGate().admits(largest, "a", 0.0)
    assert not PacketGate().admits(largest + b".", "a", 0.0)


def test_the_chatter_of_others_is_not_parsed() -> None:
    filter = PacketGate()
    assert not filter.admits(b"\x04_ipp\x04_tcp\x05local\x00", "printer", 0.0)
    assert not filter.admits(b"", "nobody", 0.0)
    assert filter.statistics().foreign_count == 2


def test_one_sender_has_a_burst_and_then_its_rate() -> None:
    filter = PacketGate()
    burst = int(gate.PACKETS_PER_SENDER_BURST) + 1
    assert admitted(filter, "mallory", 100.0, burst + 1) == burst
    assert admitted(filter, "frodo", 100.0, 1) == 1
    assert admitted(filter, "mallory", 101.0, 100) == int(gate.PACKETS_PER_SENDER_PER_S)
    assert filter.sender == "mallory"


def test_all_senders_together_have_a_burst_and_then_their_rate() -> None:
    filter = PacketGate()
    burst = int(gate.PACKETS_BURST) + 1
    assert sum(filter.admits(PACKET, f"s{number}", 5.0) for number in range(1_000)) == burst
    passed = sum(filter.admits(PACKET, f"t{number}", 6.0) for number in range(1_000))
    assert passed == int(gate.PACKETS_PER_S)
    assert filter.statistics().over_rate_count == 2_000 - burst - passed


def test_senders_are_forgotten_at_the_maximum() -> None:
    filter = PacketGate()
    for number in range(gate.SENDERS_MAX + 1):
        assert filter.admits(PACKET, f"s{number}", number)
    assert len(filter._due_s) == gate.SENDERS_MAX
    assert "s0" not in filter._due_s and "s1" in filter._due_s
