"""Idempotency keys: calls with one a second, and how soon a cast to who is away is kept (S004-8).

    python -m tests.bench.bench_once [--quick]

A daemon and a client on this machine; the mission only answers. The disk decides: each call with a
key is two records, durable one after the other, and calls that come together share an fsync. So an
fsync of this disk is printed beside. The peer is the same call without a key.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import trio

from drupelet.client.asynchronous import Client, open_client
from drupelet.client.blocking import BlockingClient
from tests.integration.cluster import Cluster, RealNode
from tests.integration.test_grants import LIGHT, done, grant, key_of

CAST_BAR_S = 0.050
AT_ONCE = 64


def fsync_s(directory: Path) -> float:
    """A record of 150 bytes on this disk: the median."""
    descriptor = os.open(directory / "probe", os.O_WRONLY | os.O_CREAT)
    spans = []
    for _ in range(50):
        began = time.perf_counter()
        os.write(descriptor, bytes(150))
        os.fdatasync(descriptor)
        spans.append(time.perf_counter() - began)
    os.close(descriptor)
    return statistics.median(spans)


async def calls_per_s(client: Client, count: int, at_once: int, key: str) -> float:
    """`key` "": none."""
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            await client.call(
                "", "light", "temp", number, idempotency_key=f"{key}{number}" if key else None
            )

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(caller)
    return count / (time.perf_counter() - began)


async def measure(node: RealNode, quick: bool) -> dict[str, float]:
    found: dict[str, float] = {}
    rounds = 1 if quick else 2
    async with open_client(node.socket_path) as client:
        for at_once in (1, AT_ONCE):
            for name, count in (("", 2_000), ("key", 200 if at_once == 1 else 2_000)):
                spans = [
                    await calls_per_s(client, count, at_once, name and f"{name}{at_once}{turn}")
                    for turn in range(rounds if at_once == 1 else 1)
                ]
                found[f"{name or 'plain'}_{at_once}_per_s"] = max(spans)
    return found


def casts_kept(client: BlockingClient, count: int) -> list[float]:
    spans = []
    for number in range(count):
        began = time.perf_counter()
        assert client.post("alice", "light", "temp", number)
        spans.append(time.perf_counter() - began)
    return sorted(spans)


def main() -> int:
    parser = argparse.ArgumentParser(description="Calls with idempotency keys, and kept casts.")
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as place, Cluster(Path(place)) as cluster:
        alice = cluster.add("alice", missions={}, cookie_file=Path(place) / "ca")
        bob = cluster.add("bob", missions={}, cookie_file=Path(place) / "cb")
        folder = alice.directory / "missions.d"
        folder.mkdir()
        (folder / "light.toml").write_text('module = "light.py"\nexports = ["temp"]\n')
        (folder / "light.py").write_text(LIGHT)
        alice.start()
        bob.start()
        print(f"fsync                    {fsync_s(Path(place)) * 1e3:8.2f} ms")
        for name, value in trio.run(measure, alice, quick).items():
            print(f"{name:<24} {value:8.0f}")
        done(bob, "accept", grant(alice, "--to", key_of(bob))[1])
        alice.kill()
        with bob.connect() as client:
            spans = casts_kept(client, 50 if quick else 200)
        middle, late = spans[len(spans) // 2], spans[int(len(spans) * 0.99)]
        print(f"cast kept, callee away   {middle * 1e3:8.2f} ms   99 %: {late * 1e3:.2f} ms")
        good = late <= CAST_BAR_S
        print(f"bar {CAST_BAR_S * 1e3:.0f} ms: {'kept' if good else 'missed'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
