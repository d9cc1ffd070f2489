"""A cluster of real `drupeletd` processes on loopback, for tests and benches.

`Cluster(directory)` writes a configuration for each node, starts it, waits until it says that it is
ready (sd_notify) and ends everything by process id when its ``with`` block ends, also after a
failure. Nodes have static peers or a port mapper of the cluster's own, no mDNS, one cookie file.
Ports are below the kernel's ephemeral range, so that no outgoing connection takes them meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import trio

from drupelet.client import Client, NodeEvents, open_client
from drupelet.client.blocking import BlockingClient, connect
from drupelet.client.protocol import NodeDown, NodeUp

READY_S = 15.0  # 0.6 s on a PC with nothing else to do
STOP_S = 5.0
COMMAND_S = 20.0
REPOSITORY = Path(__file__).parents[2]
_PORTS = range(20_000, 32_000)
MISSIONS = {"echo": ("echo", "echo_later"), "kvs": ("store", "lookup")}


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody has now."""
    for _ in range(100):
        port = random.SystemRandom().choice(_PORTS)  # not the test's seed: runs share the machine
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def drupelet(*words: str, socket_path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line; its exit code and output."""
    command = [sys.executable, "-m", "drupelet.cli.main"]
    if socket_path is not None:
        command += ["--socket", str(socket_path)]
    return subprocess.run(
        [*command, *words], capture_output=True, text=True, timeout=COMMAND_S, cwd=REPOSITORY
    )


@dataclass
class RealNode:
    """One node's files and, while it runs, its process."""

    name: str
    directory: Path
    port: int
    mapper_port: int | None = None
    cookie_file: Path = Path("cookie")
    peers: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()  # a command that runs the daemon, such as ``ip netns exec NAME``
    listen: str = "127.0.0.1"
    mdns: bool = False
    port_max: int | None = None
    program: tuple[str, ...] = ("-m", "drupelet.cli.daemon")
    socket_override: Path | None = None  # where two nodes must meet; else each has its own
    process: subprocess.Popen[bytes] | None = None
    missions: dict[str, Sequence[str]] = field(default_factory=lambda: dict(MISSIONS))

    @property
    def socket_path(self) -> Path:
        return self.socket_override or self.directory / "sock"

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def write_config(self) -> Path:
        """The configuration as it stands in the fields."""
        missions = self.directory / "missions.d"
        missions.mkdir(parents=True, exist_ok=True)
        for mission, exports in self.missions.items():
            listed = ", ".join(f'"{each}"' for each in exports)
            (missions / f"{mission}.toml").write_text(
                f'module = "{mission}"\nexports = [{listed}]\n'
            )
        peers = ", ".join(f'"{each}"' for each in self.peers)
        file = self.directory / "drupelet.toml"
        file.write_text(
            f"""
[node]
name = "{self.name}"
state_dir = "{self.state_dir}"
socket = "{self.socket_path}"
environment = "dev"
[link]
listen = ["{self.listen}"]
port_min = {self.port}
port_max = {self.port_max or self.port}
peers = [{peers}]
cookie_file = "{self.cookie_file}"
[mdns]
enabled = {str(self.mdns).lower()}
[portmapper]
enabled = {str(self.mapper_port is not None).lower()}
listen = ["127.0.0.1"]
port = {self.mapper_port or 4369}
[missions]
launcher = "subprocess"
"""
        )
        return file

    def launch(self, notify: str = "") -> None:
        """Start the process, and wait for nothing."""
        config = self.write_config()
        environment = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
        if notify:
            environment["NOTIFY_SOCKET"] = notify
        parent = () if self.prefix else ("--parent", str(os.getpid()))
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.prefix,
                    sys.executable,
                    *self.program,
                    "--config",
                    str(config),
                    *parent,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                env=environment,
                start_new_session=True,
            )

    def start(self) -> float:
        """Start and wait until it is ready; how long that took in seconds."""
        started = time.monotonic()
        file = self.directory / "notify"
        file.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(file))
            self.launch(str(file))
            pidfd = os.pidfd_open(self.pid)
            try:
                while True:
                    readable, _, _ = select.select([notify, pidfd], [], [], READY_S)
                    if notify not in readable:
                        raise AssertionError(f"{self.name} is not ready; its log:\n{self.log}")
                    if b"READY=1" in notify.recv(4_096):
                        return time.monotonic() - started
            finally:
                os.close(pidfd)

    def signal(self, number: int) -> None:
        """Send a signal to the daemon alone."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Its exit code."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """End it at once, whatever state it is in."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_S)

    def stop(self) -> None:
        """SIGTERM, patience, SIGKILL."""
        if self.process is None or self.process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def connect(self) -> BlockingClient:
        """A client of this node."""
        return connect(self.socket_path)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command line at this node."""
        return drupelet(*words, socket_path=self.socket_path)

    def status(self) -> dict[str, object]:
        """``drupelet --json status``."""
        found = json.loads(self.run("--json", "status").stdout)
        assert isinstance(found, dict)
        return found

    def workers(self) -> set[int]:
        """Process ids of its mission workers: children of the daemon."""
        return children(self.pid)

    async def wait_up(self, *names: str, up: bool = True, timeout_s: float = 15.0) -> None:
        """Until this node sees all of `names` up (or down)."""
        async with self.watch() as watch:
            known = {str(one["name"]) for one in await watch.node.nodes() if one["state"] == "up"}
            missing = {name for name in names if (name in known) is not up}
            with trio.fail_after(timeout_s):
                while missing:
                    event = await watch.next()
                    if isinstance(event, NodeUp if up else NodeDown):
                        missing.discard(event.name)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Watch]:
        """Nodes that come and go as this node tells, from now on."""
        async with open_client(self.socket_path) as node:
            events = node.monitor_nodes()
            await node.nodes()  # answered after the stream was opened: nothing is missed from here
            yield Watch(node, events)
            await events.aclose()


class Watch:
    """Node events of one node."""

    def __init__(self, node: Client, events: NodeEvents) -> None:
        self.node = node
        self._events = events

    async def next(self, timeout_s: float = 15.0) -> NodeUp | NodeDown:
        """The next event; fails after `timeout_s`."""
        with trio.fail_after(timeout_s):
            event: NodeUp | NodeDown = await anext(self._events)
            return event


def children(pid: int) -> set[int]:
    """Living children of a process."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found |= {int(each) for each in (task / "children").read_text().split()}
    return {each for each in found if is_running(each)}


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def wait_gone(pids: set[int], timeout_s: float) -> set[int]:
    """Wait until none of them runs; those that still do."""
    deadline = time.monotonic() + timeout_s
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))
            finally:
                os.close(pidfd)
    return {pid for pid in pids if is_running(pid)}


class Cluster:
    """Nodes in one directory; all of them end with the ``with`` block."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.nodes: dict[str, RealNode] = {}

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for node in self.nodes.values():
            node.stop()
        if error is not None:
            for node in self.nodes.values():
                with contextlib.suppress(OSError):
                    print(f"--- log of {node.name}\n{node.log}")

    def __getitem__(self, key: str) -> RealNode:
        return self.nodes[key]

    def add(self, key: str, *known: RealNode, **fields: object) -> RealNode:
        """A node that is not started yet; it dials `known`. Its name is `key`."""
        directory = self.directory / key
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        values: dict[str, object] = {
            "name": key,
            "directory": directory,
            "port": free_port(),
            "cookie_file": self.directory / "cookie",
            "peers": tuple(f"{each.name}@{each.listen}:{each.port}" for each in known),
        }
        node = RealNode(**(values | fields))  # type: ignore[arg-type]
        self.nodes[key] = node
        return node

    def start(self, key: str, *known: RealNode, **fields: object) -> RealNode:
        """A node that is ready."""
        node = self.add(key, *known, **fields)
        node.start()
        return node
