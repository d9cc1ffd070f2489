"""`make bench`: ours and the peers' figures of one run on one machine, as ratios with their goals.

    python tests/bench/run.py [--sections rpc,single,full,links,portmap,footprint,stream,
                              processes,grants,relay] [--quick]
                              [--peers-python PATH]

The peers (Erlang, NATS, Pyro5, rpyc) run from a Python of their own with their packages:
`tests/bench/setup.sh DIR` makes one; a peer that is absent is left out, and the table says so.
Every section has a hard time limit. Figures go to build/bench/SECTION.jsonl, the table to standard
output. `noise` is the largest share of a core that other processes used meanwhile: above 0.2 a
figure is not to be trusted, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = Path("build/bench").resolve()
SECTION_S_MAX = 900
NOISE_MAX = 0.2

Figure = dict[str, object]
Table = dict[tuple[int, int], dict[str, Figure]]


@dataclass(frozen=True)
class Goal:
    """`ours` over `peer` in one case, at least `ratio` (for latencies: at most)."""

    ours: str
    peer: str
    payload: int
    concurrency: int
    ratio: float
    latency: bool = False


RPC_GOALS = [
    Goal("drupelet", "erlang-tls", 64, 32, 0.85),
    Goal("drupelet", "erlang-tls", 64, 256, 1.0),
    Goal("drupelet", "nats-tls", 64, 32, 3.0),
    Goal("drupelet call_many", "erlang-tls", 64, 32, 1.1),
    Goal("drupelet call_many", "erlang-tls", 64, 256, 1.7),
    Goal("drupelet", "erlang-tls", 4096, 32, 2.5),
    Goal("drupelet", "erlang-tls", 4096, 256, 2.5),
]
SINGLE_GOALS = [
    Goal("drupelet", "erlang-tls", 64, 1, 0.5),
    Goal("drupelet", "nats-tls", 64, 1, 3.0),
    Goal("drupelet", "pyro5-ssl", 64, 1, 1.5),
]
FULL_GOALS = [
    Goal("drupelet full", "erlang-tls", 64, 1, 3.0, latency=True),
    Goal("drupelet full", "erlang-tls", 64, 256, 0.35),
    Goal("drupelet full", "pyro5-ssl", 64, 256, 4.0),
    Goal("drupelet full", "rpyc-ssl", 64, 256, 4.0),
]


def external(name: str, server: str, client: str) -> list[str]:
    """The --external arguments of one of our ways of calling."""
    program = f"{sys.executable} {HERE}/drupelet_peer.py"
    place = "--port {port} --dir {dir}"
    return ["--external", name, f"{program} {server} {place}", f"{program} {client} {place}"]


def rpc(
    options: argparse.Namespace, name: str, peers: str, extra: list[str], goals: list[Goal]
) -> bool:
    """One run of peers/a_rpc.py; prints its table and how the goals stand."""
    command = [options.peers_python, str(HERE / "peers" / "a_rpc.py"), "--peers", peers]
    command += ["--dir", str(OUT / "work"), "--reps", "2" if options.quick else "5"]
    command += ["--secs", "0.4" if options.quick else "0.8"]
    if os.geteuid() == 0:
        command += ["--nice", "-15"]
    figures = run_section(name, [*command, *extra])
    table: Table = {}
    for figure in figures:
        case = figure["case"]
        assert isinstance(case, dict)
        table.setdefault((case["payload"], case["conc"]), {})[str(figure["peer"])] = figure
    for (payload, concurrency), row in table.items():
        print(f"\n{name}: {payload} B, {concurrency} outstanding")
        for peer, figure in row.items():
            print(
                f"  {peer:22} {number(figure, 'median'):>10,.0f} call/s   "
                f"p50 {number(figure, 'p50_us'):>8,.0f} us   "
                f"p99 {number(figure, 'p99_us'):>8,.0f} us   "
                f"noise {number(figure, 'noise'):.2f}"
            )
    return check(table, goals)


def number(figure: Figure | None, key: str) -> float:
    """A figure's number; 0 when it failed."""
    value = (figure or {}).get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def check(table: Table, goals: list[Goal]) -> bool:
    """Print each goal with what was reached."""
    good = True
    print()
    for goal in goals:
        row = table.get((goal.payload, goal.concurrency), {})
        ours, peer = row.get(goal.ours), row.get(goal.peer)
        if ours is None or peer is None:
            print(f"  ----  {goal.ours} / {goal.peer}: not measured")
            continue
        key = "p50_us" if goal.latency else "median"
        base = number(peer, key)
        ratio = number(ours, key) / base if base else 0.0
        met = 0 < ratio <= goal.ratio if goal.latency else ratio >= goal.ratio
        good = good and met
        noise = max(number(ours, "noise"), number(peer, "noise"))
        print(
            f"  {'PASS' if met else 'MISS'}  {goal.ours} / {goal.peer}, {goal.payload} B, "
            f"{goal.concurrency} outstanding: {ratio:.2f}x {key} (goal "
            f"{'<=' if goal.latency else '>='} {goal.ratio}x)"
            f"{f', noise {noise:.2f}: run again on a quiet machine' if noise > NOISE_MAX else ''}"
        )
    return good


def run_section(name: str, command: list[str]) -> list[Figure]:
    """Run it with a time limit; its JSON lines."""
    OUT.mkdir(parents=True, exist_ok=True)
    file = OUT / f"{name}.jsonl"
    with file.open("w") as out, (OUT / f"{name}.err").open("w") as err:
        try:
            subprocess.run(command, stdout=out, stderr=err, timeout=SECTION_S_MAX, check=False)
        except subprocess.TimeoutExpired:
            print(f"{name}: stopped after {SECTION_S_MAX} s")
    return [json.loads(line) for line in file.read_text().splitlines() if line.startswith("{")]


def script(options: argparse.Namespace, name: str) -> bool:
    """A benchmark script of ours that prints its own table; exit 1 when a goal is missed."""
    command = [sys.executable, "-m", f"tests.bench.{Path(name).stem}"]
    quick, whole = SCRIPT_ARGUMENTS.get(name, (["--quick"], []))
    command += quick if options.quick else whole
    print(f"\n{name}")
    sys.stdout.flush()
    try:
        return subprocess.run(command, timeout=SECTION_S_MAX, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"stopped after {SECTION_S_MAX} s")
        return False


NICE = ["--nice", "-15"] if os.geteuid() == 0 else []
SCRIPT_ARGUMENTS: dict[str, tuple[list[str], list[str]]] = {  # quick, whole
    "bench_portmap.py": (["--repetitions", "2", "--seconds", "0.3", *NICE], NICE),
    "bench_hostile.py": ([], ["--seconds", "60"]),
    "bench_codec.py": ([], []),
    "bench_relay.py": (["--nodes", "100", "--messages", "200"], []),
}

LINK = external("drupelet", "serve-link", "link")
MANY = external("drupelet call_many", "serve-link", "many")
FULL = external("drupelet full", "serve-full", "full")
BLOCKING = external("drupelet full, blocking client", "serve-full", "blocking")

SECTIONS: dict[str, Callable[[argparse.Namespace], bool]] = {
    "rpc": lambda options: rpc(
        options,
        "rpc",
        "erlang-tls,nats-tls,trio-plain:naive",
        ["--payloads", "64,4096,1048576", "--concs", "1,32,256", *LINK, *MANY],
        RPC_GOALS,
    ),
    "single": lambda options: rpc(
        options,
        "single",
        "erlang-tls,nats-tls,pyro5-ssl,rpyc-ssl,trio-plain:naive",
        ["--payloads", "64,4096", "--concs", "1", "--cpus", "0", *LINK],
        SINGLE_GOALS,
    ),
    "full": lambda options: rpc(
        options,
        "full",
        "erlang-tls,pyro5-ssl,rpyc-ssl",
        ["--payloads", "64", "--concs", "1,32,256", *FULL],
        FULL_GOALS,
    ),
    "blocking": lambda options: rpc(
        options,
        "blocking",
        "erlang-tls",
        ["--payloads", "64", "--concs", "1", *BLOCKING, *FULL],
        [],
    ),
    "stream": lambda options: script(options, "bench_stream.py"),
    "links": lambda options: script(options, "bench_links.py"),
    "portmap": lambda options: script(options, "bench_portmap.py"),
    "footprint": lambda options: script(options, "bench_footprint.py"),
    "hostile": lambda options: script(options, "bench_hostile.py"),
    "codec": lambda options: script(options, "bench_codec.py"),
    "processes": lambda options: script(options, "bench_processes.py"),
    "grants": lambda options: script(options, "bench_grants.py"),
    "relay": lambda options: script(options, "bench_relay.py"),
    "http": lambda options: script(options, "bench_http_calls.py"),
    "once": lambda options: script(options, "bench_once.py"),
}


def peers_python(given: str | None) -> str:
    """The Python that has the peers' packages."""
    for candidate in (given, os.environ.get("PEERS_PYTHON"), ".venv/peers/bin/python"):
        if candidate and Path(candidate).exists():
            return candidate
    print("no Python with the peers: run `sh tests/bench/setup.sh .venv/peers` (as root) first;")
    print("only what needs none of them is measured now.")
    return sys.executable


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="short runs, for a first look")
    parser.add_argument("--peers-python", default=None)
    options = parser.parse_args()
    options.peers_python = peers_python(options.peers_python)
    os.environ["PEERS_PYTHON"] = options.peers_python  # the scripts look for it there
    missed = [name for name in options.sections.split(",") if name and not SECTIONS[name](options)]
    print(f"\nsections with a missed goal: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
