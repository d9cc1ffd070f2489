"""Head of line: a 100 MB stream on a link, and what it does to a 64-byte call on the same link.

Two processes; the goal is a p99 at most 20 ms above the quiet one (issue "First light").
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from drupelet.node import Node, open_node
from drupelet.services.endpoint import Endpoint
from drupelet.services.streams import Stream
from drupelet.services.system import MEMBERS
from tests.bench.drupelet_peer import UP_S, config, payload, wait_for_server, warm

STREAM_BYTES = 100_000_000
DELAY_MS_MAX = 20.0


async def serve(port: int, directory: Path) -> None:
    async with open_node(config(directory, "server", port), finding=False) as node:
        node.serve("bench", {"echo": lambda value: value})
        async with trio.open_nursery() as nursery:

            async def sink(stream: Stream) -> None:
                while await stream.receive_some():
                    pass
                stream.end()

            def accept(endpoint: Endpoint, stream: Stream) -> None:
                nursery.start_soon(sink, stream)

            node.calls.serve_stream("bench/sink", accept, MEMBERS)
            await trio.sleep_forever()


async def calls_until(node: Node, done: trio.Event, latencies_ms: list[float]) -> None:
    value = payload(64)
    while not done.is_set():
        started = time.perf_counter()
        await node.call("server", "bench", "echo", value)
        latencies_ms.append((time.perf_counter() - started) * 1000)


def p99(latencies_ms: list[float]) -> float:
    latencies_ms.sort()
    return latencies_ms[int(len(latencies_ms) * 0.99)]


async def measure(port: int, directory: Path) -> bool:
    async with open_node(config(directory, "client", 0, port), finding=False) as node:
        with trio.fail_after(UP_S):
            await wait_for_server(node)
        endpoint = node.links.endpoint("server")
        assert endpoint is not None
        await warm(node)
        quiet: list[float] = []
        busy: list[float] = []
        done = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(calls_until, node, done, quiet)
            await trio.sleep(1)
            done.set()
        done = trio.Event()
        chunk = bytes(1_000_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(calls_until, node, done, busy)
            stream = endpoint.open_stream(b"bench/sink")
            started = time.perf_counter()
            for _ in range(STREAM_BYTES // len(chunk)):
                await stream.send_all(chunk)
            stream.end()
            await stream.receive_some()
            took_s = time.perf_counter() - started
            done.set()
    delay_ms = p99(busy) - p99(quiet)
    met = delay_ms <= DELAY_MS_MAX
    print(
        f"  {'PASS' if met else 'MISS'}  100 MB at {STREAM_BYTES / took_s / 1e6:,.0f} MB/s; "
        "64 B call p99 "
        f"{p99(quiet):.2f} ms quiet, {p99(busy):.2f} ms beside it ({len(busy)} calls): "
        f"+{delay_ms:.2f} ms (goal <= {DELAY_MS_MAX} ms)"
    )
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--serve", type=int)
    parser.add_argument("--dir", type=Path)
    options = parser.parse_args()
    if options.serve:
        trio.run(serve, options.serve, options.dir)
        return 0
    from tests.bench.peers.benchlib import free_port

    with tempfile.TemporaryDirectory(prefix="drupelet-bench-") as directory:
        port = free_port()
        assert isinstance(port, int)
        command = [sys.executable, "-m", "tests.bench.bench_stream"]
        server = subprocess.Popen([*command, "--serve", str(port), "--dir", directory])
        try:
            return 0 if trio.run(measure, port, Path(directory)) else 1
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    sys.exit(main())
