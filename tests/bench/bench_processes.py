"""Processes: ours and real Erlang's figures of one run, with the bars of issue 3.

    python -m tests.bench.bench_processes [--quick]

Local figures come from one program; the remote ones from processes in the workers of two daemons
on this machine (worker, daemon, encrypted link, daemon, worker, and back), Erlang's from two nodes
over plain TCP, its default. Bars are absolute: Erlang's VM does a round trip in 0.4 us, which no
Python can; the ratio is printed beside.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from drupelet import Down, Mailbox, Pid, Request, ask, receive, reply, run, self, send, spawn
from drupelet.process.api import spawn_monitor
from tests.integration.cluster import Cluster

HERE = Path(__file__).resolve().parent
BARS = {  # at most
    "request_us": 40.0,
    "ask_us": 40.0,
    "gen_server_us": 40.0,
    "spawn_us": 70.0,
    "remote_request_us": 400.0,
    "remote_spawn_us": 400.0,
    "idle_bytes": 6_000.0,
    "rss_20000_mb": 160.0,
    "flood_mb": 32.0,
}
ERLANG_S = 120
IDLE_COUNT = 20_000
FLOOD_COUNT = 1_000_000


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def server() -> None:
    while True:
        match await receive():
            case Request(caller, value):
                await reply(caller, value)
            case (Pid() as sender, value):
                await send(sender, value)


async def idle() -> None:
    await receive()


async def nothing() -> None:
    pass


async def speed(count: int) -> dict[str, float]:
    """Local figures in microseconds."""
    figures = {}
    pid = await spawn(server)
    own = self()
    for name in ("warm", "request_us"):
        started = time.perf_counter()
        for _ in range(count):
            await send(pid, (own, 1))
            await receive()
        figures[name] = (time.perf_counter() - started) / count * 1e6
    started = time.perf_counter()
    for _ in range(count):
        await ask(pid, 1)
    figures["ask_us"] = (time.perf_counter() - started) / count * 1e6
    started = time.perf_counter()
    for _ in range(count):
        await spawn_monitor(nothing)
        await receive(Down)
    figures["spawn_us"] = (time.perf_counter() - started) / count * 1e6
    figures["gen_server_us"] = await gen_server(count)
    del figures["warm"]
    return figures


async def gen_server(count: int) -> float:
    """Microseconds of a GenServer.call."""
    from drupelet import GenServer

    class Adder(GenServer):
        def add(self, value: int) -> int:
            return value + 1

    pid = await Adder.start()
    started = time.perf_counter()
    for _ in range(count):
        await GenServer.call(pid, "add", 1)
    return (time.perf_counter() - started) / count * 1e6


async def memory() -> dict[str, float]:
    """Bytes of an idle process, the whole with 20,000 of them, and what a flood adds."""
    await spawn(nothing)
    await trio.sleep(0.1)
    gc.collect()
    before = rss()
    for _ in range(IDLE_COUNT):
        await spawn(idle)
    await trio.sleep(0.5)
    gc.collect()
    figures = {
        "idle_bytes": (rss() - before) / IDLE_COUNT,
        "rss_20000_mb": rss() / 1e6,
    }
    before = rss()
    flooded = await spawn(never, mailbox=Mailbox(policy="drop_old"))
    for index in range(FLOOD_COUNT):
        await send(flooded, ("m", index))
    figures["flood_mb"] = (rss() - before) / 1e6
    return figures


async def never() -> None:
    await receive("never")


def local(count: int) -> dict[str, float]:
    """Each kind in a program of its own, so that neither sees the other's garbage."""
    figures: dict[str, float] = {}
    for kind in ("speed", "memory"):
        command = [sys.executable, "-m", "tests.bench.bench_processes", "--only", kind]
        done = subprocess.run(
            [*command, "--count", str(count)], capture_output=True, text=True, check=True
        )
        figures |= json.loads(done.stdout)
    return figures


def remote(count: int) -> dict[str, float]:
    """Between the workers of two daemons."""
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory)) as cluster:
        missions = {"bench": ["remote"]}
        one = cluster.add("gandalf", missions=missions)
        two = cluster.add("bilbo", one, missions=missions)
        for node in (one, two):
            node.write_config()
            file = node.directory / "missions.d" / "bench.toml"
            node.missions = {}
            file.write_text(f'module = "{HERE / "process_mission.py"}"\nexports = ["remote"]\n')
            node.start()
        trio.run(two.wait_up, "gandalf")
        words = ("--json", "call", "gandalf", "bench", "remote", "bilbo")
        one.run(*words, "50")  # warm
        done = one.run(*words, str(count))
        if done.returncode:
            print(done.stdout, done.stderr, file=sys.stderr)
            return {}
        figures: dict[str, float] = json.loads(done.stdout)
        return figures


def erlang(count: int) -> dict[str, float]:
    """The same on real Erlang, when it is installed."""
    if shutil.which("erl") is None:
        print("erl is not installed: its column is empty (apt-get install erlang-base)")
        return {}
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["erlc", str(HERE / "peers" / "processes.erl")], cwd=directory, check=True)
        lines = erl(directory, "-run", "processes", "local", str(count))
        name = f"bench{os.getpid()}"
        server_command = ["erl", "-noshell", "-sname", f"{name}b", "-run", "processes", "server"]
        peer = subprocess.Popen(server_command, cwd=directory, stdout=subprocess.PIPE, text=True)
        try:
            assert peer.stdout is not None
            peer.stdout.readline()
            host = os.uname().nodename.partition(".")[0]
            words = ["-sname", f"{name}a", "-run", "processes", "remote", f"{name}b@{host}"]
            lines += erl(directory, *words, str(count))
        finally:
            peer.kill()
            peer.wait()
    return {each["name"]: each["value"] for each in map(json.loads, lines)}


def erl(directory: str, *words: str) -> list[str]:
    done = subprocess.run(
        ["erl", "-noshell", *words], cwd=directory, capture_output=True, text=True, timeout=ERLANG_S
    )
    return [line for line in done.stdout.splitlines() if line.startswith("{")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=("speed", "memory"))
    parser.add_argument("--count", type=int, default=0)
    options = parser.parse_args()
    count = options.count or (5_000 if options.quick else 20_000)
    if options.only == "speed":
        print(json.dumps(run(speed, count)))
        return 0
    if options.only == "memory":
        print(json.dumps(run(memory)))
        return 0
    ours = local(count) | remote(count // 10)
    theirs = erlang(count)
    good = True
    print(f"{'':20}{'ours':>12}{'Erlang':>12}{'ours/Erlang':>14}{'bar':>10}")
    for name, bar in BARS.items():
        mine, peer = ours.get(name), theirs.get(name)
        met = mine is not None and mine <= bar
        good = good and met
        print(
            f"{name:20}{_shown(mine):>12}{_shown(peer):>12}"
            f"{_shown(mine / peer if mine and peer else None):>14}{bar:>10,.0f}"
            f"  {'PASS' if met else 'MISS'}"
        )
    return 0 if good else 1


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


if __name__ == "__main__":
    sys.exit(main())
