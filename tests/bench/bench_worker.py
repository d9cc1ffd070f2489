"""Calls per second at a mission worker: this process -> socket pair -> worker process and back.

    python -m tests.bench.bench_worker [--seconds 2]

Prints one JSON line per figure: loop ("plain", "trio" or "task"), calls outstanding, calls/s; the
memory of an idle worker; and what checking two arguments against their annotations costs. The
caller is a bare loop without trio or tables, so the figure is the worker's; the daemon's own costs
come on top (bench_links).
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
import timeit
from pathlib import Path
from typing import Annotated

from drupelet import Length, Range
from drupelet.services.launchers import environment
from drupelet.wire import frames
from drupelet.wire.codec import dumps
from drupelet.wire.frames import FrameReader, frame
from drupelet.wire.messages.workers import WorkerHello, WorkerOrder, decode_hello, encode_order
from drupelet.worker.arguments import Check, compile_checks, complaint

ARGUMENT_BYTES = 64
MODULE = """
from drupelet import mission

@mission("bench")
def echo(value: bytes) -> bytes:
    return value
"""
ASYNC = """
@mission("bench")
async def echo_later(value: bytes) -> bytes:
    return value
"""


class Worker:
    """One worker process; `reader` has taken its HELLO."""

    def __init__(self, module: Path) -> None:
        self.sock, theirs = socket.socketpair()
        order = WorkerOrder(mission="", modules=(str(module),), memory_bytes=256 << 20)
        self.sock.sendall(frame(frames.HELLO, 0, encode_order(order)))
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-m", "drupelet.worker", f"--fd={theirs.fileno()}"],
                pass_fds=(theirs.fileno(),),
                env=environment(),
            )
        self.reader = FrameReader()
        (hello,) = self.reader.receive_data(self.sock.recv(65_536))
        assert isinstance(decode_hello(hello.body), WorkerHello)

    def memory_kb(self) -> dict[str, int]:
        words = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().split()
        wanted = ("Rss", "Pss", "Private_Dirty")
        return {name: int(words[words.index(f"{name}:") + 1]) for name in wanted}

    def close(self) -> None:
        self.sock.close()
        assert self.process.wait(5) == 0


def measure(worker: Worker, target: bytes, outstanding: int, seconds: float) -> float:
    """Keep `outstanding` calls open; calls per second."""
    args = dumps([bytes(ARGUMENT_BYTES)])
    body = frames.call_body(target, args)
    call = {2 * n: frame(frames.CALL, 2 * n, body) for n in range(outstanding)}
    worker.sock.sendall(b"".join(call.values()))
    count = 0
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        got = worker.reader.receive_data(worker.sock.recv(262_144))
        count += len(got)
        worker.sock.sendall(b"".join([call[ident] for _, ident, _ in got]))
    left = outstanding
    while left:
        left -= len(worker.reader.receive_data(worker.sock.recv(262_144)))
    return count / (now - began)


def measure_arguments() -> dict[str, float]:
    """Microseconds for two arguments that fit, the best of five."""
    kinds: dict[str, tuple[object, object]] = {
        "unchecked": (object, object),
        "types": (float, str),
        "limits": (Annotated[float, Range(0.1, 5)], Annotated[str, Length(1, 64)]),
    }
    found = {}
    for name, (first, second) in kinds.items():
        checks = compile_checks([("litres", first), ("text", second)])

        def check(checks: tuple[Check, ...] = checks) -> None:
            if checks and complaint("boil", checks, [1.5, "text"]):
                raise AssertionError

        span_s = min(timeit.repeat(check, number=100_000, repeat=5)) / 100_000
        found[name] = round(span_s * 1e6, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=2.0)
    seconds = parser.parse_args().seconds
    print(json.dumps({"two_arguments_us": measure_arguments()}))
    with tempfile.TemporaryDirectory() as directory:
        for loop, text, functions in (
            ("plain", MODULE, ("echo",)),
            ("trio", MODULE + ASYNC, ("echo", "echo_later")),
        ):
            module = Path(directory) / f"bench_{loop}.py"
            module.write_text(text)
            worker = Worker(module)
            measure(worker, b"bench/echo", 1, 0.1)
            print(json.dumps({"loop": loop, "idle_memory_kb": worker.memory_kb()}))
            for function in functions:
                for outstanding in (1, 32, 256):
                    rate = measure(worker, f"bench/{function}".encode(), outstanding, seconds)
                    shown = {"loop": loop, "function": function, "outstanding": outstanding}
                    print(json.dumps({**shown, "calls_per_s": round(rate)}))
            worker.close()


if __name__ == "__main__":
    main()
