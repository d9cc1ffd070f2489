"""A relay with connected nodes: its memory, and how long a message takes through it.

    python -m tests.bench.bench_relay [--nodes 1000] [--messages 2000]

The relay is a process of its own, on loopback without TLS; the nodes are WebSockets of this one,
each logged in and announced. Latency: from before `Send` until the recipient has the message, one
at a time, so it holds one commit to this machine's disk; `commit_ms` is that of the disk alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import psutil
import trio

from drupelet.relay.store import Store
from drupelet.wire import relay as wire
from tests.unit.relay.nodes import NAME, Client, approved, connected, node, send

LOGINS = 32  # at once


@contextmanager
def relay_process(directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`drupelet-relay` on a free port; it is killed in the end."""
    file = directory / "relay.toml"
    lines = [f'names = ["{NAME}"]', 'state_dir = "s"', 'listen = ["127.0.0.1:0"]']
    file.write_text("\n".join(["[relay]", *lines, "connections_per_address = 5120", ""]))
    command = [sys.executable, "-m", "drupelet.relay.main", "--config", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.kill()


@asynccontextmanager
async def many(port: int, count: int) -> AsyncIterator[list[Client]]:
    """So many nodes, connected and announced."""
    limiter, found = trio.CapacityLimiter(LOGINS), dict[int, Client]()

    async def one(number: int, *, task_status: trio.TaskStatus) -> None:  # type: ignore[type-arg]
        who = node(number + 1)
        async with AsyncExitStack() as own:
            async with limiter:
                client = await own.enter_async_context(connected(port, who))
                data = who.announcement(client.hello.run, 1, node(1))
                await client.ask(wire.Announce(ref=0, announcement=data))
            found[number] = client
            task_status.started()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as starting:
            for number in range(count):
                starting.start_soon(_start, nursery, one, number)
        yield [found[number] for number in range(count)]
        nursery.cancel_scope.cancel()


async def _start(nursery: trio.Nursery, task: object, *arguments: object) -> None:
    await nursery.start(task, *arguments)  # type: ignore[arg-type]


def commit_ms(directory: Path) -> float:
    """The median of a commit of 300 bytes here, with the relay's settings."""
    database = sqlite3.connect(directory / "probe.sqlite3", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE probe (data BLOB)")
    taken = []
    for _ in range(100):
        before = time.perf_counter()
        database.execute("INSERT INTO probe VALUES (?)", [bytes(300)])
        taken.append(time.perf_counter() - before)
    database.close()
    return statistics.median(taken) * 1_000


async def measure(port: int, pid: int, nodes: int, messages: int) -> dict[str, float]:
    """The figures of a relay that is there for this."""
    process = psutil.Process(pid)
    empty = process.memory_info().rss
    async with many(port, nodes) as clients:
        connected_rss = process.memory_info().rss
        await clients[0].ask(wire.Catalogue(ref=0, after=b""))
        latencies = []
        for number in range(messages):
            sender, recipient = number % nodes, (number * 7 + 1) % nodes
            before = time.perf_counter()
            await clients[sender].ask(send(node(recipient + 1), bytes(300)))
            await clients[recipient].inbox.receive()
            latencies.append(time.perf_counter() - before)
        latencies.sort()
        return {
            "nodes": nodes,
            "rss_empty_mb": round(empty / 1e6, 1),
            "rss_connected_mb": round(connected_rss / 1e6, 1),
            "rss_after_messages_mb": round(process.memory_info().rss / 1e6, 1),
            "kb_per_node": round((connected_rss - empty) / 1e3 / nodes, 1),
            "messages": messages,
            "delivery_p50_ms": round(latencies[len(latencies) // 2] * 1e3, 2),
            "delivery_p99_ms": round(latencies[len(latencies) * 99 // 100] * 1e3, 2),
        }


def run(nodes: int, messages: int) -> dict[str, float]:
    """Start a relay, measure it, end it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        store = Store(directory / "s")
        approved(store, *(node(number + 1) for number in range(nodes)))
        store.close()
        with relay_process(directory) as (process, port):
            figures = trio.run(measure, port, process.pid, nodes, messages)
        return {**figures, "commit_ms": round(commit_ms(directory), 2)}


def figures(output: str) -> dict[str, float]:
    """What `main` printed."""
    found: dict[str, float] = json.loads(output)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--messages", type=int, default=2_000)
    options = parser.parse_args()
    print(json.dumps(run(options.nodes, options.messages)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
