"""A relay with connected nodes: its memory, and how long a message takes through it.

    python -m tests.bench.bench_relay [--nodes 1000] [--messages 2000] [--tls] [--peers]

The relay is a process of its own, on loopback; `--tls`: it does TLS itself (with a certificate
that openssl makes); `--peers`: two that keep in step, senders at one and recipients at the other,
and the figures of memory are those of the first. The nodes are WebSockets of this one,
each logged in and announced. Latency: from before `Send` until the recipient has the message, one
at a time, so it holds one commit to this machine's disk; `commit_ms` is that of the disk alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import sqlite3
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import psutil
import trio

from drupelet.relay.store import Store
from drupelet.store.identity import load_or_make_identity
from drupelet.wire import relay as wire
from tests.unit.relay.nodes import NAME, Client, approved, certificate, connected, node, send

LOGINS = 32  # at once


@contextmanager
def relay_process(
    directory: Path, *more: str, port: int = 0
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`drupelet-relay` on a free port; it is killed in the end."""
    file = directory / "relay.toml"
    lines = [f'names = ["{NAME}", "127.0.0.1"]', 'state_dir = "s"']
    lines += [f'listen = ["127.0.0.1:{port}"]', "connections_per_address = 5120", *more]
    file.write_text("\n".join(["[relay]", *lines, ""]))
    command = [sys.executable, "-m", "drupelet.relay.main", "--config", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.kill()


TLS = ['tls_certificate = "cert.pem"', 'tls_key = "key.pem"']


@asynccontextmanager
async def many(
    ports: list[int], count: int, tls: ssl.SSLContext | None
) -> AsyncIterator[list[Client]]:
    """So many nodes, connected and announced, at the relays in turn."""
    limiter, found = trio.CapacityLimiter(LOGINS), dict[int, Client]()

    async def one(number: int, *, task_status: trio.TaskStatus) -> None:  # type: ignore[type-arg]
        who = node(number + 1)
        async with AsyncExitStack() as own:
            async with limiter:
                port = ports[number % len(ports)]
                client = await own.enter_async_context(connected(port, who, tls))
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


async def measure(
    ports: list[int], pid: int, nodes: int, messages: int, tls: ssl.SSLContext | None
) -> dict[str, float]:
    """The figures of relays that are there for this."""
    process = psutil.Process(pid)
    empty = process.memory_info().rss
    async with many(ports, nodes, tls) as clients:
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
            "kb_per_node": round((connected_rss - empty) / 1e3 * len(ports) / nodes, 1),
            "messages": messages,
            "delivery_p50_ms": round(latencies[len(latencies) // 2] * 1e3, 2),
            "delivery_p99_ms": round(latencies[len(latencies) * 99 // 100] * 1e3, 2),
        }


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in taken]


def run(nodes: int, messages: int, *, tls: bool = False, peers: bool = False) -> dict[str, float]:
    """Start a relay, or two that keep in step, measure, end them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as name, ExitStack() as relays:
        directories = [Path(name) / letter for letter in ("ab" if peers else "a")]
        ports = _free_ports(len(directories))
        keys, more = [], list[str]()
        for directory in directories:
            store = Store(directory / "s")
            approved(store, *(node(number + 1) for number in range(nodes)))
            store.close()
            keys.append(load_or_make_identity(directory / "s", board_serial="").key_text)
        context = None
        if tls:
            more = TLS
            context = ssl.create_default_context(cafile=str(certificate(directories[0])))
        started = []
        for place, directory in enumerate(directories):
            lines = list(more)
            if peers:
                url, key = f"http://127.0.0.1:{ports[1 - place]}", keys[1 - place]
                lines.append(f'peers = [{{ url = "{url}", key = "{key}" }}]')
            made = relay_process(directory, *lines, port=ports[place])
            started.append(relays.enter_context(made))
        found = trio.run(measure, ports, started[0][0].pid, nodes, messages, context)
        return {**found, "commit_ms": round(commit_ms(Path(name)), 2)}


def figures(output: str) -> dict[str, float]:
    """What `main` printed."""
    found: dict[str, float] = json.loads(output)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--messages", type=int, default=2_000)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    if options.tls and options.peers:
        parser.error("two relays on one machine speak without TLS")
    made = run(options.nodes, options.messages, tls=options.tls, peers=options.peers)
    print(json.dumps(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
