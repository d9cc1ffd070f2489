"""Footprint: what a `drupeletd` takes when it has nothing to do, and how soon it is there.

    python -m tests.bench.bench_footprint [--quick]

Three real nodes on loopback, linked with each other. The first is measured: mDNS in its process,
a port mapper, the missions kvs and echo in their workers. After SETTLE_S of rest its memory is read
from /proc, and its processor time (to the nanosecond, /proc/PID/task/*/schedstat) and the bytes
that it caused to be written to disk (/proc/PID/io) over a stretch in which nobody calls.

Start to ready is from spawning a node with both missions to its READY=1; `drupelet status` is the
whole command, as typed. An idle `erl` and `nats-server`, where they are installed, stand beside.

Bars: drupeletd <= 45 MB RSS, discovery <= 30 MB, <= 0.5 % of one core, 0 disk writes, ready within
0.6 s, `drupelet status` within 0.15 s.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from tests.bench.bench_links import Server, goal, nats_server
from tests.bench.bench_portmap import be_nice
from tests.integration.cluster import Cluster, RealNode, children, free_port

RSS_MB_MAX = 45.0
DISCOVERY_RSS_MB_MAX = 30.0
PROCESSOR_SHARE_MAX = 0.005
READY_S_MAX = 0.6
STATUS_S_MAX = 0.15
IDLE_S = 20.0
IDLE_QUICK_S = 8.0
SETTLE_S = 5.0  # workers, mDNS and the first gossip are done, and garbage of the start collected
STARTS = 5
STATUS_RUNS = 10
PEER_SETTLE_S = 2.0
DISCOVERY_S = 10.0


def rss_mb(pid: int) -> float:
    """Resident memory in 10**6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit(f"process {pid} has no memory: it ended")


def processor_s(pid: int) -> float:
    """Processor time of all its threads so far."""
    total_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns / 1e9


def written_bytes(pid: int) -> int:
    """Bytes that it caused to be written to a disk so far."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    raise SystemExit("/proc has no write_bytes: this kernel does not count them")


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def discovery_of(node: RealNode) -> int | None:
    """The process id of its mDNS process, once there is one."""
    give_up = time.monotonic() + DISCOVERY_S
    while time.monotonic() < give_up:
        for pid in children(node.pid):
            with contextlib.suppress(OSError):
                if "discovery" in command_of(pid):
                    return pid
        time.sleep(0.1)
    return None


def at_rest(node: RealNode, idle_s: float) -> bool:
    """Memory, processor and disk of a node with two links that nobody calls."""
    discovery = discovery_of(node)
    time.sleep(SETTLE_S)
    before_s, before_bytes = processor_s(node.pid), written_bytes(node.pid)
    started = time.monotonic()
    time.sleep(idle_s)
    took_s = time.monotonic() - started
    share = (processor_s(node.pid) - before_s) / took_s
    written = written_bytes(node.pid) - before_bytes
    rss = rss_mb(node.pid)
    good = goal(rss <= RSS_MB_MAX, f"drupeletd {rss:.1f} MB RSS (goal <= {RSS_MB_MAX:.0f} MB)")
    if discovery is None:
        good = goal(False, "no discovery process was started")
    else:
        rss = rss_mb(discovery)
        text = f"discovery {rss:.1f} MB RSS (goal <= {DISCOVERY_RSS_MB_MAX:.0f} MB)"
        good = goal(rss <= DISCOVERY_RSS_MB_MAX, text) and good
    for worker in sorted(children(node.pid) - {discovery}):
        label = command_of(worker).split()[-1]
        print(f"        besides {rss_mb(worker):.1f} MB RSS: worker {label}")
    text = f"{share * 100:.2f} % of one core over {took_s:.0f} s, 2 links (goal <= 0.5 %)"
    good = goal(share <= PROCESSOR_SHARE_MAX, text) and good
    return goal(written == 0, f"{written} bytes written to disk meanwhile (goal 0)") and good


def start_to_ready(cluster: Cluster) -> bool:
    """Spawn to READY=1, with both missions."""
    spans: list[float] = []
    for number in range(STARTS):
        node = cluster.add(f"starter{number}")
        node.cookie_file.parent.mkdir(exist_ok=True)
        spans.append(node.start())
        node.stop()
    median_s = statistics.median(spans)
    return goal(
        median_s <= READY_S_MAX,
        f"start to ready {median_s:.2f} s, {min(spans):.2f} to {max(spans):.2f} (goal <= 0.6 s)",
    )


def status(node: RealNode) -> bool:
    """The wall time of the command."""
    program = Path(sys.executable).parent / "drupelet"
    command = [str(program), "--socket", str(node.socket_path), "status"]
    spans: list[float] = []
    for _ in range(STATUS_RUNS):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=10)
        spans.append(time.perf_counter() - started)
    median_s = statistics.median(spans)
    return goal(
        median_s <= STATUS_S_MAX,
        f"drupelet status {median_s:.3f} s, {min(spans):.3f} to {max(spans):.3f} (goal <= 0.15 s)",
    )


def show_peers() -> None:
    """Idle memory of what people would use instead."""
    commands = (
        ("erl", shutil.which("erl"), ["-noinput"]),
        ("nats-server", nats_server(), ["-a", "127.0.0.1", "-p", str(free_port())]),
    )
    for name, program, arguments in commands:
        if program is None:
            print(f"  ----  {name} is absent")
            continue
        process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(PEER_SETTLE_S)
        print(f"        beside: idle {name} {rss_mb(process.pid):.1f} MB RSS")
        Server(process, 0).stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a shorter look at the idle node")
    options = parser.parse_args()
    if os.geteuid() == 0:
        be_nice(-15)  # other work on the machine hardly touches the figures then
    with (
        tempfile.TemporaryDirectory(prefix="drupelet-bench-") as name,
        Cluster(Path(name)) as cluster,
    ):
        good = start_to_ready(cluster)
        gandalf = cluster.start("gandalf", mdns=True, mapper_port=free_port())
        bilbo = cluster.start("bilbo", gandalf, missions={})
        cluster.start("frodo", gandalf, bilbo, missions={})
        trio.run(gandalf.wait_up, "bilbo", "frodo")
        good = status(gandalf) and good
        good = at_rest(gandalf, IDLE_QUICK_S if options.quick else IDLE_S) and good
    show_peers()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
