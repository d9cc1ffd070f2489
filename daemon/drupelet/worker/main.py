"""A mission worker: one process that runs one mission's code.

Decides the order of its start: limits first, then the order from the daemon, then the code, then
HELLO, then calls. It is started by a launcher with one end of a socket pair as descriptor ``--fd``.

Exit codes: 0 the daemon closed, 1 its processes do not start or end too often, 78 the mission does
not load, 76 (EX_PROTOCOL) the daemon sent what it must not send.
"""

from __future__ import annotations

import gc
import io
import os
import socket
import sys
from typing import Final

from drupelet.errors import (
    EXIT_BAD_CONFIGURATION,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_USAGE,
    RemoteProtocolError,
)
from drupelet.wire import frames
from drupelet.wire.frames import FrameReader
from drupelet.wire.messages.workers import WorkerOrder, decode_order, encode_hello
from drupelet.worker import loops, sandbox
from drupelet.worker.loading import Loaded, LoadError, load
from drupelet.worker.versions import Versions

_PROCESSES: Final = "drupelet.process"
EXIT_PROTOCOL: Final = 76  # EX_PROTOCOL of sysexits.h


def main(argv: list[str] | None = None) -> None:
    """Run until the daemon closes; exits the process."""
    options = _options(sys.argv[1:] if argv is None else argv)
    sandbox.die_with(options.get("parent", 0))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    with socket.socket(fileno=options["fd"]) as sock:
        sock.set_inheritable(False)
        sys.exit(run(sock))


def run(sock: socket.socket) -> int:
    """Everything after the process is set up; returns the exit code."""
    reader = FrameReader()
    try:
        order = _read_order(sock, reader)
        if order is None:
            return EXIT_DONE
        os.chdir(order.directory)
        sandbox.show_name(order.mission or os.path.basename(order.modules[0]))
        sandbox.limit(order.memory_bytes)
        return serve(sock, order, reader)
    except RemoteProtocolError as error:
        sys.stderr.write(f"drupelet.worker: the daemon sent a bad frame: {error}\n")
        return EXIT_PROTOCOL
    except (BrokenPipeError, ConnectionResetError):
        return EXIT_DONE


def serve(sock: socket.socket, order: WorkerOrder, reader: FrameReader) -> int:
    """Load, say HELLO, answer calls. Also what tests run in a thread of their own."""
    imported = _PROCESSES in sys.modules  # by a test; in a worker only the mission's code does
    loaded = _load(sock, order)
    if loaded is None:
        return EXIT_BAD_CONFIGURATION

    def uses_processes() -> bool:
        if order.exports == ():  # members may spawn its functions, and nothing else
            return True
        if versions.current.needs_processes:
            return True
        return not imported and _PROCESSES in sys.modules

    versions = Versions(order, loaded)
    table = versions.table
    del loaded
    gc.collect()
    gc.freeze()  # what is loaded stays: the collector need not walk it again
    handover = None
    if not (uses_processes() or loops.needs_tasks(table)):
        handover = loops.run_plain(sock, table, reader, uses_processes)
        if handover is None:
            return EXIT_DONE
    import trio

    failure = trio.run(loops.run_tasks, sock, table, reader, handover, versions, uses_processes)
    if failure:
        sys.stderr.write(f"{order.mission or 'the mission'} ends: {failure}\n")
        return EXIT_FAILED
    return EXIT_DONE


def _load(sock: socket.socket, order: WorkerOrder) -> Loaded | None:
    try:
        loaded = load(order)
    except LoadError as error:
        sock.sendall(frames.frame(frames.HELLO, 0, encode_hello(error.hello())))
        return None
    sock.sendall(frames.frame(frames.HELLO, 0, encode_hello(loaded.hello())))
    return loaded


def _read_order(sock: socket.socket, reader: FrameReader) -> WorkerOrder | None:
    """The first frame; None when the daemon is gone. Nothing may follow it before our HELLO."""
    while True:
        data = sock.recv(loops.READ_BYTES)
        if not data:
            return None
        found = reader.receive_data(data)
        if found:
            first, *more = found
            if first.kind != frames.HELLO or more:
                raise RemoteProtocolError("the first frame is not one HELLO")
            return decode_order(first.body)


def _options(argv: list[str]) -> dict[str, int]:
    """``--fd=N --parent=PID``; by hand, since argparse would stay in memory for 1 MB."""
    options: dict[str, int] = {}
    for word in argv:
        name, _, value = word.removeprefix("--").partition("=")
        if name == "label":
            continue  # for people who look at ps
        if name not in ("fd", "parent") or not value.isascii() or not value.isdigit():
            sys.exit(EXIT_USAGE)
        options[name] = int(value)
    if "fd" not in options:
        sys.stderr.write("drupelet.worker is started by drupeletd; see MISSIONS.md\n")
        sys.exit(EXIT_USAGE)
    return options
