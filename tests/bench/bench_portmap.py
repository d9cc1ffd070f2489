"""Port mapper: look-ups and registrations per second, ours beside Erlang's epmd in one run.

    python tests/bench/bench_portmap.py [--names 10,900] [--held 10000] [--json]

One look-up is what every asker does: connect, PORT_PLEASE2_REQ, answer, close; one at a time, from
a process of its own. One registration is connect, ALIVE2_REQ, answer, close, and the name is gone.
The runs of the two mappers alternate, so that their ratio comes from one stretch of time; figures
are medians. Other work on the machine lowers both rates and moves their ratio; `--nice -15` (root)
keeps it out. Ours is the service as the daemon runs it (services/portmap.py under trio). `--held`
names are then held in ours alone (epmd refuses at about 1,020), with the memory that each takes.

Bar: >= 3x epmd's look-ups at 900 names, >= 10,000 names held.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from drupelet.wire import epmd
from drupelet.wire.epmd import MapperEntry

START_S = 10.0  # until a mapper answers
ANSWER_S = 10.0
WARM_SHARE = 0.2  # of a run's time, before its figures count
STEP = 37  # prime to every count of names: look-ups do not walk the table in its order


@dataclass
class Mapper:
    """A port mapper in a process of its own, and the names that we hold there."""

    kind: str
    port: int
    process: subprocess.Popen[bytes]
    held: list[socket.socket] = field(default_factory=list)

    def hold(self, count: int) -> None:
        """Hold exactly `count` names."""
        while len(self.held) > count:
            self.held.pop().close()
        while len(self.held) < count:
            sock, answer = ask(self.port, register_request(f"node{len(self.held):05d}"))
            if answer[1:2] != b"\0":
                raise SystemExit(f"{self.kind} refused name {len(self.held)}")
            self.held.append(sock)

    def rss_kib(self) -> int:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() // 1024

    def stop(self) -> None:
        """End it; the names go first."""
        self.hold(0)
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Figure:
    """One run."""

    per_s: float
    p50_us: float
    p99_us: float


def register_request(name: str) -> bytes:
    entry = MapperEntry(
        name=name,
        port=4370,
        node_type=epmd.NODE_TYPE_NORMAL,
        highest_version=6,
        lowest_version=5,
    )
    return epmd.register_request(entry)


def ask(port: int, request: bytes) -> tuple[socket.socket, bytes]:
    """Connect and ask; the answer comes in one piece."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S)
    sock.sendall(request)
    return sock, sock.recv(1_024)


def measure(mapper: Mapper, operation: str, names: int, seconds: float) -> Figure:
    """One at a time for `seconds`."""
    if operation == "look-up":
        requests = [epmd.look_up_request(f"node{index:05d}") for index in range(names)]
    else:
        requests = [register_request(f"guest{index}") for index in range(97)]
    spans_ns: list[int] = []
    clock = time.perf_counter_ns
    began = clock()
    warm = began + int(seconds * WARM_SHARE * 1e9)
    end = warm + int(seconds * 1e9)
    index = 0
    while True:
        index = (index + STEP) % len(requests)
        started = clock()
        sock, answer = ask(mapper.port, requests[index])
        if answer[1:2] != b"\0":
            raise SystemExit(f"{mapper.kind} answered {answer!r}")
        sock.close()
        now = clock()
        if started >= warm:
            spans_ns.append(now - started)
        if now >= end:
            break
    spans_ns.sort()
    count = len(spans_ns)
    return Figure(
        per_s=count / ((now - warm) / 1e9),
        p50_us=spans_ns[count // 2] / 1e3,
        p99_us=spans_ns[min(count - 1, count * 99 // 100)] / 1e3,
    )


def median_of(figures: list[Figure]) -> Figure:
    return Figure(
        per_s=statistics.median(each.per_s for each in figures),
        p50_us=statistics.median(each.p50_us for each in figures),
        p99_us=statistics.median(each.p99_us for each in figures),
    )


def serve(port: int) -> None:
    """Ours, as the daemon runs it."""
    import trio

    from drupelet.config import PortMapperConfig
    from drupelet.services.portmap import PortMapper

    config = PortMapperConfig(listen=("127.0.0.1",), port=port)
    mapper = PortMapper(config, name="gandalf", port=4370, on_names=lambda names: None)
    trio.run(mapper.run)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start(kind: str) -> Mapper:
    port = free_port()
    if kind == "epmd":
        command = ["epmd", "-port", str(port), "-address", "127.0.0.1"]
    else:
        command = [sys.executable, __file__, "--serve", str(port)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    mapper = Mapper(kind, port, process)
    give_up = time.monotonic() + START_S
    while True:
        try:
            sock, _ = ask(port, epmd.plain_request(epmd.NAMES_REQUEST))
        except OSError:
            if time.monotonic() > give_up:
                mapper.stop()
                raise SystemExit(f"{kind} did not start") from None
            time.sleep(0.01)
        else:
            sock.close()
            return mapper


@contextlib.contextmanager
def mappers() -> Iterator[list[Mapper]]:
    kinds = ["drupelet"]
    if shutil.which("epmd"):
        kinds.insert(0, "epmd")
    else:
        print("epmd is not installed (Debian: erlang-base): no ratio", file=sys.stderr)
    started: list[Mapper] = []
    try:
        for kind in kinds:
            started.append(start(kind))
        yield started
    finally:
        for mapper in started:
            mapper.stop()


def report(options: argparse.Namespace, fields: dict[str, object], text: str) -> None:
    print(json.dumps({"bench": "portmap", **fields}) if options.json else text, flush=True)


def compare(options: argparse.Namespace, running: list[Mapper], operation: str, names: int) -> None:
    """Alternate the mappers; print a line for each and the ratio."""
    for mapper in running:
        mapper.hold(names)
    figures: dict[str, list[Figure]] = {mapper.kind: [] for mapper in running}
    for _ in range(options.repetitions):
        for mapper in running:
            figures[mapper.kind].append(measure(mapper, operation, names, options.seconds))
    medians = {kind: median_of(runs) for kind, runs in figures.items()}
    for kind, figure in medians.items():
        report(
            options,
            {
                "system": kind,
                "operation": operation,
                "names": names,
                "per_s": round(figure.per_s),
                "p50_us": round(figure.p50_us, 1),
                "p99_us": round(figure.p99_us, 1),
            },
            f"{operation:12} {names:6} names  {kind:9} {figure.per_s:8,.0f}/s"
            f"  p50 {figure.p50_us:6.1f} us  p99 {figure.p99_us:6.1f} us",
        )
    if "epmd" in medians:
        ours, theirs = medians["drupelet"], medians["epmd"]
        ratio, p50_ratio = ours.per_s / theirs.per_s, theirs.p50_us / ours.p50_us
        report(
            options,
            {
                "operation": operation,
                "names": names,
                "ratio": round(ratio, 2),
                "p50_ratio": round(p50_ratio, 2),
            },
            f"{operation:12} {names:6} names  drupelet / epmd = {ratio:.2f} per second, "
            f"{p50_ratio:.2f} by p50",
        )


def hold_many(options: argparse.Namespace, ours: Mapper) -> None:
    """How many names it holds, at what memory, and how fast it is then."""
    ours.hold(0)
    before_kib = ours.rss_kib()
    began = time.perf_counter()
    ours.hold(options.held)
    took_s = time.perf_counter() - began
    bytes_each = (ours.rss_kib() - before_kib) * 1024 / options.held
    figure = measure(ours, "look-up", options.held, options.seconds)
    began = time.perf_counter()
    ours.hold(0)
    while ask_names(ours.port) > 1:
        time.sleep(0.001)
    gone_s = time.perf_counter() - began
    report(
        options,
        {
            "system": "drupelet",
            "operation": "hold",
            "names": options.held,
            "rss_bytes_per_name": round(bytes_each),
            "look_ups_per_s": round(figure.per_s),
            "registered_in_s": round(took_s, 2),
            "gone_in_s": round(gone_s, 2),
        },
        f"hold         {options.held:6} names  drupelet  {bytes_each:.0f} B of memory each, "
        f"{figure.per_s:,.0f} look-ups/s, registered in {took_s:.2f} s, gone in {gone_s:.2f} s",
    )


def be_nice(nice: int) -> None:
    """Set the priority of this process and its children to come."""
    with contextlib.suppress(PermissionError):  # already the leader of its group
        os.setsid()
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    with contextlib.suppress(OSError):  # with autogroups, niceness counts per session
        Path("/proc/self/autogroup").write_text(str(nice))


def ask_names(port: int) -> int:
    parts = []
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as sock:
        sock.sendall(epmd.plain_request(epmd.NAMES_REQUEST))
        while part := sock.recv(65_536):
            parts.append(part)
    return len(epmd.parse_names_response(b"".join(parts)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--names", default="10,900", help="names held meanwhile, a list")
    parser.add_argument("--held", type=int, default=10_000, help="names to hold in ours; 0: skip")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one run")
    parser.add_argument("--nice", type=int, default=0, help="of all processes here; -15 needs root")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    if options.nice:
        be_nice(options.nice)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with mappers() as running:
        for names in (int(text) for text in options.names.split(",")):
            for operation in ("look-up", "register"):
                compare(options, running, operation, names)
        if options.held and hard >= options.held + 1_088:  # 1,024 are left for others by ours
            hold_many(options, running[-1])
        elif options.held:
            print(f"{options.held} names do not fit {hard} descriptors: skipped", file=sys.stderr)


if __name__ == "__main__":
    main()
