"""Mallory: forged nodes over mDNS. `python -m tests.netns.flood RATE SECONDS SEED ADDRESS...`.

Sends RATE announcements a second for SECONDS, each of a service that never was, well formed in
every respect (PTR, SRV, TXT, A), from each ADDRESS in turn. Prints how many it sent.
"""

from __future__ import annotations

import random
import socket
import struct
import sys
import time

GROUP = ("224.0.0.251", 5353)
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
TYPE = "_drupelet._tcp.local"


def name(text: str) -> bytes:
    """A domain name, not compressed."""
    return b"".join(bytes((len(part),)) + part.encode() for part in text.split(".")) + b"\0"


def record(owner: str, kind: int, data: bytes, *, is_unique: bool = True) -> bytes:
    """One resource record with a lifetime of 4,500 s."""
    kind_class = 0x8001 if is_unique else 1
    return name(owner) + struct.pack(">HHIH", kind, kind_class, 4_500, len(data)) + data


def announcement(key_prefix: str, label: str, host: str, port: int) -> bytes:
    """A whole mDNS response that announces one node."""
    instance = f"{key_prefix}.{TYPE}"
    server = f"{key_prefix}-drupelet.local"
    texts = (b"v=1", b"name=" + label.encode(), b"k=" + key_prefix.encode())
    text_data = b"".join(bytes((len(text),)) + text for text in texts)
    records = (
        record(TYPE, 12, name(instance), is_unique=False),
        record(instance, 33, struct.pack(">HHH", 0, 0, port) + name(server)),
        record(instance, 16, text_data),
        record(server, 1, socket.inet_aton(host)),
    )
    return struct.pack(">HHHHHH", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def main(rate: int, seconds: float, seed: int, addresses: list[str]) -> None:
    """Send, paced in steps of 10 ms."""
    source = random.Random(seed)
    sockets = []
    for address in addresses:
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        sender.bind((address, 5353))
        sockets.append(sender)
    began_s = time.monotonic()
    sent = 0
    while (elapsed_s := time.monotonic() - began_s) < seconds:
        while sent < elapsed_s * rate:
            key_prefix = "".join(source.choices(ALPHABET, k=16))
            host = f"10.231.{source.randrange(100, 200)}.{source.randrange(1, 255)}"
            packet = announcement(key_prefix, "mallory", host, source.randrange(1_024, 65_536))
            sockets[sent % len(sockets)].sendto(packet, GROUP)
            sent += 1
        time.sleep(0.01)  # the pace of the flood itself, not a wait for anybody
    print(sent, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
