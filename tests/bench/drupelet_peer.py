"""Drupelet as a peer of the call benchmark (peers/a_rpc.py --external).

    drupelet_peer.py serve-link --port N --dir D    a node whose echo runs inside its own process
    drupelet_peer.py link --port N --dir D          a program inside a second node calls it
    drupelet_peer.py many --port N --dir D          the same with call_many, half at a time
    drupelet_peer.py serve-full --port N --dir D    drupeletd with the echo mission in a worker
    drupelet_peer.py full --port N --dir D          a client of another drupeletd calls that
    drupelet_peer.py blocking --port N --dir D      the same by the blocking client

A client prints READY, reads {"payload", "conc", "secs"} per line, prints START when warm, then one
JSON result {"ops", "secs", "p50_us", "p99_us"}.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from drupelet.client import connect, open_client
from drupelet.config import (
    Config,
    LinkConfig,
    MdnsConfig,
    MissionsConfig,
    NodeConfig,
    PortMapperConfig,
    to_toml,
)
from drupelet.config_values import Peer
from drupelet.errors import RemoteError
from drupelet.node import Node, open_node

WARM_S = 0.25
UP_S = 15.0


def config(directory: Path, name: str, port: int, peer_port: int = 0) -> Config:
    """A node on loopback that finds its peer by a static address."""
    state_dir = directory / f"{name}-{port}"
    missions = state_dir / "missions.d"
    missions.mkdir(parents=True, exist_ok=True)
    (missions / "echo.toml").write_text('module = "echo"\nexports = ["echo"]\n')
    peers = (Peer(name="server", host="127.0.0.1", port=peer_port),) if peer_port else ()
    return Config(
        node=NodeConfig(
            name=name, state_dir=state_dir, socket=state_dir / "sock", environment="dev"
        ),
        link=LinkConfig(
            listen=("127.0.0.1",),
            port_min=port,
            port_max=port,
            peers=peers,
            cookie_file=directory / "cookie",
        ),
        mdns=MdnsConfig(enabled=False),
        portmapper=PortMapperConfig(enabled=False),
        missions=MissionsConfig(dir=missions, launcher="subprocess"),
    )


def payload(size: int) -> dict[str, object]:
    """The same map as the other peers send."""
    return {"id": 7, "kind": "temp", "data": bytes(range(42)) if size <= 64 else b"\xa5" * size}


def echo(value: dict[str, object]) -> dict[str, object]:
    """Look at it, answer with it."""
    if "id" not in value:
        raise ValueError("no id")
    return value


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def result(latencies: list[int], took_s: float) -> None:
    latencies.sort()
    count = len(latencies)
    p99 = latencies[min(count - 1, int(count * 0.99))] / 1e3 if count else None
    p50 = latencies[count // 2] / 1e3 if count else None
    say(json.dumps({"ops": count, "secs": took_s, "p50_us": p50, "p99_us": p99}))


Call = Callable[[dict[str, object]], Awaitable[object]]
CallMany = Callable[[list[list[object]]], Awaitable[object]]


class Window:
    """One measurement: its callers, and the latencies of what ended inside the window, in ns."""

    def __init__(self, call: Call, call_many: CallMany | None, size: int) -> None:
        self._call = call
        self._call_many = call_many
        self._value = payload(size)
        self.latencies: list[int] = []
        self.on = False
        self.stopped = False

    async def one_by_one(self) -> None:
        value = self._value
        while not self.stopped:
            started = time.perf_counter_ns()
            await self._call(value)
            if self.on:
                self.latencies.append(time.perf_counter_ns() - started)

    async def many(self, count: int) -> None:
        assert self._call_many is not None
        argument_lists: list[list[object]] = [[self._value]] * count
        while not self.stopped:
            started = time.perf_counter_ns()
            await self._call_many(argument_lists)
            if self.on:
                self.latencies.extend([time.perf_counter_ns() - started] * count)


async def measure(call: Call, call_many: CallMany | None) -> None:
    """Answer one command line after the other."""
    say("READY")
    while line := await trio.to_thread.run_sync(sys.stdin.readline):
        command = json.loads(line)
        window = Window(call, call_many, command["payload"])
        concurrency = command["conc"]
        async with trio.open_nursery() as nursery:
            if call_many is not None:
                for _ in range(min(2, concurrency)):
                    nursery.start_soon(window.many, max(1, concurrency // 2))
            else:
                for _ in range(concurrency):
                    nursery.start_soon(window.one_by_one)
            await trio.sleep(WARM_S)
            say("START")
            window.on = True
            started = time.perf_counter()
            await trio.sleep(command["secs"])
            window.on, window.stopped = False, True
            took_s = time.perf_counter() - started
        result(window.latencies, took_s)


async def wait_for_server(node: Node) -> None:
    """Until the link is up."""
    up = trio.Event()
    node.links.listen(lambda event: up.set())
    if node.links.endpoint("server") is None:
        await up.wait()


async def serve_link(port: int, directory: Path) -> None:
    async with open_node(config(directory, "server", port), finding=False) as node:
        node.serve("bench", {"echo": echo})
        await trio.sleep_forever()


async def link(port: int, directory: Path, *, many: bool) -> None:
    async with open_node(config(directory, "client", 0, port), finding=False) as node:
        with trio.fail_after(UP_S):
            await wait_for_server(node)

        await warm(node)

        async def call(value: dict[str, object]) -> object:
            return await node.call("server", "bench", "echo", value)

        async def call_many(argument_lists: list[list[object]]) -> object:
            answers = await node.call_many("server", "bench", "echo", argument_lists)
            assert answers[0].__class__ is dict
            return answers

        await measure(call, call_many if many else None)


async def warm(node: Node) -> None:
    """Until the server serves: its function is added just after its link port."""
    with trio.fail_after(UP_S):
        while True:
            try:
                await node.call("server", "bench", "echo", payload(64))
                return
            except RemoteError:
                await trio.sleep(0.05)


def start_daemon(conf: Config) -> subprocess.Popen[bytes]:
    """A drupeletd of its own, by its own configuration file."""
    file = conf.node.state_dir / "drupelet.toml"
    file.write_text(to_toml(conf))
    program = Path(sys.executable).parent / "drupeletd"
    return subprocess.Popen([program, "--config", file], stdin=subprocess.DEVNULL)


async def full(port: int, directory: Path) -> None:
    conf = config(directory, "caller", 0, port)
    daemon = start_daemon(conf)
    try:
        await wait_for_echo(conf.node.socket)
        async with open_client(socket=conf.node.socket) as node:

            async def call(value: dict[str, object]) -> object:
                return await node.call("server", "echo", "echo", value)

            await measure(call, None)
    finally:
        daemon.terminate()
        daemon.wait(5)


async def wait_for_echo(socket: Path) -> None:
    """Until the whole way works."""
    with trio.fail_after(UP_S):
        while True:
            try:
                async with open_client(socket=socket) as node:
                    await node.call("server", "echo", "echo", 1)
                return
            except Exception as error:
                last = error
                await trio.sleep(0.1)
                if os.environ.get("BENCH_DEBUG"):
                    sys.stderr.write(f"{last!r}\n")


def blocking(port: int, directory: Path) -> None:
    conf = config(directory, "caller", 0, port)
    daemon = start_daemon(conf)
    try:
        trio.run(wait_for_echo, conf.node.socket)
        with connect(socket=conf.node.socket) as node:
            say("READY")
            for line in sys.stdin:
                command = json.loads(line)
                value = payload(command["payload"])
                latencies: list[int] = []
                end = time.perf_counter() + WARM_S
                while time.perf_counter() < end:
                    node.call("server", "echo", "echo", value)
                say("START")
                started = time.perf_counter()
                while (before := time.perf_counter()) - started < command["secs"]:
                    node.call("server", "echo", "echo", value)
                    latencies.append(int((time.perf_counter() - before) * 1e9))
                result(latencies, time.perf_counter() - started)
    finally:
        daemon.terminate()
        daemon.wait(5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dir", type=Path, required=True)
    options = parser.parse_args()
    directory = options.dir / f"drupelet-{options.port}"
    directory.mkdir(parents=True, exist_ok=True)
    match options.mode:
        case "serve-link":
            trio.run(serve_link, options.port, directory)
        case "serve-full":
            daemon = start_daemon(config(directory, "server", options.port))
            sys.exit(daemon.wait())
        case "link":
            trio.run(lambda: link(options.port, directory, many=False))
        case "many":
            trio.run(lambda: link(options.port, directory, many=True))
        case "full":
            trio.run(full, options.port, directory)
        case "blocking":
            blocking(options.port, directory)


if __name__ == "__main__":
    main()
