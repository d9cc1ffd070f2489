"""Two responders on the loopback interface, and forged announcements from Mallory."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from drupelet.discovery.interfaces import Plan
from drupelet.discovery.responder import (
    CACHED_NAMES_MAX,
    EXIT_MEMORY,
    INSTANCES_PER_PACKET_MAX,
    GatedLoop,
    Responder,
)
from drupelet.wire import limits
from drupelet.wire.messages import discovery as messages
from tests.netns.flood import GROUP, announcement, name, record

GANDALF, BILBO, MALLORY = "g" * 16, "b" * 16, "m" * 16
FOUND_S = 5.0
SPEAK = Plan(speak=("127.0.0.1",), advertise=("10.9.8.7",), interfaces=("lo",))


class Ear:
    """A responder and what it told; `wait` until it told something."""

    def __init__(self, loop: GatedLoop, key_prefix: str, label: str) -> None:
        self.found: list[messages.Found] = []
        self.senders: set[str] = set()
        self.flood_count = 0
        self._news = asyncio.Event()
        start = messages.Start(key_prefix=key_prefix, name=label, port=4370)
        self.responder = Responder(
            start,
            SPEAK,
            loop.gate,
            on_found=self._on_found,
            on_flood=self._on_flood,
            lost_count=lambda: 0,
        )

    async def wait_found(self, key_prefix: str) -> messages.Found:
        async with asyncio.timeout(FOUND_S):
            while True:
                for found in self.found:
                    if found.key_prefix == key_prefix:
                        return found
                self._news.clear()
                await self._news.wait()

    def _on_found(self, sender: str, found: messages.Found) -> None:
        self.found.append(found)
        self.senders.add(sender)
        self._news.set()

    def _on_flood(self) -> None:
        self.flood_count += 1
        self._news.set()


def run(scene: Callable[[GatedLoop], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=GatedLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, GatedLoop)
        runner.run(scene(loop))


def shout(*packets: bytes) -> None:
    """Multicast on the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        for packet in packets:
            sender.sendto(packet, GROUP)


def test_two_responders_find_each_other_and_never_themselves() -> None:
    async def scene(loop: GatedLoop) -> None:
        gandalf, bilbo = Ear(loop, GANDALF, "gandalf"), Ear(loop, BILBO, "bilbo")
        await gandalf.responder.open()
        await bilbo.responder.open()
        try:
            found = await gandalf.wait_found(BILBO)
            assert found == messages.Found(
                key_prefix=BILBO, name="bilbo", host="10.9.8.7", port=4370
            )
            await bilbo.wait_found(GANDALF)
            assert {found.key_prefix for found in gandalf.found} == {BILBO}
            assert gandalf.senders == {"127.0.0.1"}
        finally:
            await gandalf.responder.close(goodbye=True)
            await bilbo.responder.close(goodbye=False)

    run(scene)


def test_a_node_that_announces_itself_again_is_told_again() -> None:
    async def scene(loop: GatedLoop) -> None:
        gandalf = Ear(loop, GANDALF, "gandalf")
        await gandalf.responder.open()
        try:
            for port in (5_001, 5_001, 5_002):
                gandalf.found.clear()
                shout(announcement(BILBO, f"n{random.random()}"[:12], "10.1.1.1", port))
                assert (await gandalf.wait_found(BILBO)).port == port
        finally:
            await gandalf.responder.close(goodbye=False)

    run(scene)


FORGED = {
    "key of 15": announcement("m" * 15, "mallory", "10.1.1.1", 4370),
    "upper case": announcement("M" * 16, "mallory", "10.1.1.1", 4370),
    "key differs": announcement(MALLORY, "mallory", "10.1.1.1", 4370).replace(
        b"k=" + MALLORY.encode(), b"k=" + BILBO.encode()
    ),
    "version": announcement(MALLORY, "mallory", "10.1.1.1", 4370).replace(b"v=1", b"v=2"),
    "name": announcement(MALLORY, "mal\nlory", "10.1.1.1", 4370),
    "privileged": announcement(MALLORY, "mallory", "10.1.1.1", 1_023),
    "loopback": announcement(MALLORY, "mallory", "127.0.0.1", 4370),
    "multicast": announcement(MALLORY, "mallory", "224.0.0.251", 4370),
}


@pytest.mark.parametrize("packet", FORGED.values(), ids=FORGED.keys())
def test_forged_announcements_are_refused(packet: bytes) -> None:
    async def scene(loop: GatedLoop) -> None:
        gandalf = Ear(loop, GANDALF, "gandalf")
        await gandalf.responder.open()
        try:
            shout(packet, announcement(BILBO, "bilbo", "10.1.1.1", 4370))
            await gandalf.wait_found(BILBO)
            assert {found.key_prefix for found in gandalf.found} == {BILBO}
            assert gandalf.responder.refused_count > 0
        finally:
            await gandalf.responder.close(goodbye=False)

    run(scene)


def test_a_packet_with_many_instances_and_one_with_many_addresses() -> None:
    async def scene(loop: GatedLoop) -> None:
        gandalf = Ear(loop, GANDALF, "gandalf")
        await gandalf.responder.open()
        try:
            count = INSTANCES_PER_PACKET_MAX + 1
            type_name = "_drupelet._tcp.local"
            pointers = [
                record(type_name, 12, name(f"{'a' * 15}{letter}.{type_name}"), is_unique=False)
                for letter in "abcdefghijklmnop"[:count]
            ]
            many = b"\0\0\x84\0\0\0" + bytes((0, count)) + b"\0\0\0\0" + b"".join(pointers)
            whole = announcement(BILBO, "bilbo", "10.1.1.1", 4370)
            server = f"{BILBO}-drupelet.local"
            more = limits.SERVICE_ADDRESSES_MAX
            addresses = [record(server, 1, bytes((10, 1, 2, n))) for n in range(more)]
            wide = whole[:7] + bytes((4 + more,)) + whole[8:] + b"".join(addresses)
            shout(many, wide)
            await gandalf.wait_found(BILBO)
            assert gandalf.responder.refused_count == 1  # the ninth instance
            assert len(gandalf.found) == limits.SERVICE_ADDRESSES_MAX  # of nine
        finally:
            await gandalf.responder.close(goodbye=False)

    run(scene)


def test_junk_breaks_nothing(seed: int) -> None:
    async def scene(loop: GatedLoop) -> None:
        source = random.Random(seed)
        gandalf = Ear(loop, GANDALF, "gandalf")
        await gandalf.responder.open()
        try:
            heard: Any = gandalf.responder._zeroconf
            listener = heard.zeroconf.engine.protocols[0].transport.transport.get_protocol()
            for number in range(2_000):
                data = bytearray(announcement(MALLORY, "mallory", "10.1.1.1", 4370))
                for _ in range(source.randrange(1, 8)):
                    data[source.randrange(len(data))] = source.randrange(256)
                listener.datagram_received(bytes(data), (f"s{number}", 5353))
            loop.gate.__init__()  # type: ignore[misc]  # its rates, used up by the junk
            shout(announcement(BILBO, "bilbo", "10.1.1.1", 4370))
            await gandalf.wait_found(BILBO)
        finally:
            await gandalf.responder.close(goodbye=False)

    run(scene)


def test_a_cache_full_of_forged_names_is_noticed() -> None:
    async def scene(loop: GatedLoop) -> None:
        gandalf = Ear(loop, GANDALF, "gandalf")
        await gandalf.responder.open()
        try:
            heard: Any = gandalf.responder._zeroconf
            listener = heard.zeroconf.engine.protocols[0]
            assert not gandalf.responder.is_flooded
            for number in range(CACHED_NAMES_MAX):
                key_prefix = "".join("abcdefghij"[int(digit)] for digit in f"{number:016d}")
                packet = announcement(key_prefix, "mallory", "10.1.1.1", 4370)
                listener.datagram_received(packet, ("10.1.1.1", 5353))
            assert gandalf.responder.is_flooded and gandalf.flood_count > 0
        finally:
            await gandalf.responder.close(goodbye=False)

    run(scene)


def test_memory_that_runs_out_ends_the_process() -> None:
    program = """
from drupelet.discovery.gate import PacketGate
from drupelet.discovery.responder import _GatedProtocol
class Hungry:
    def datagram_received(self, data, addr):
        raise MemoryError
_GatedProtocol(Hungry(), PacketGate(), lambda: 0.0).datagram_received(b"drupelet", ("a", 1))
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=20, check=False)
    assert done.returncode == EXIT_MEMORY
