"""Three nodes of a lesson's own, where no cluster runs on this machine: started, killed, stopped.

Decides that they are as those of `drupelet demo` (same names, same cookie, and the demo's lock, so
that there is never more than one such cluster), but with no missions, a port mapper for themselves,
and a state of their own, which is removed at each start.

*Owns* the processes. *Cancellation*: they are stopped first, in the reverse order, bounded.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from drupelet.cli import demo, places
from drupelet.cli.children import STOP_S, Child
from drupelet.cli.output import Failed
from drupelet.config import to_toml
from drupelet.net.sockets import make_run_directory

NAMES: Final = demo.NAMES[:3]
_LOG_LINES: Final = 5  # of a node that does not start


class QuietChild(Child):
    """A node whose log is shown only when it does not start."""

    def __init__(self, name: str, config: Path, run_directory: Path) -> None:
        self.last: deque[str] = deque(maxlen=_LOG_LINES)
        super().__init__(name, config, run_directory, len(name))

    def say(self, text: str) -> None:
        """Keep a line of its log."""
        self.last.append(text)


class OwnNodes:
    """The nodes, while they run."""

    def __init__(self, nursery: trio.Nursery, mapper_port: int) -> None:
        self._nursery = nursery
        self._mapper_port = mapper_port
        self._run_directory = make_run_directory()
        self._children: dict[str, QuietChild] = {}

    @property
    def socket(self) -> Path:
        """Where the first node listens."""
        return self._run_directory / f"{NAMES[0]}.sock"

    async def start(self) -> None:
        """Start all; they see each other when this returns. Raises: `Failed`."""
        files = {name: write_node(name, self._mapper_port) for name in NAMES}
        for name in NAMES:
            self._start(name, files[name])
        for child in self._children.values():
            await self._wait_ready(child)
        await self._wait_met()

    def _start(self, name: str, file: Path) -> None:
        child = self._children[name] = QuietChild(name, file, self._run_directory)
        self._nursery.start_soon(child.run)

    @staticmethod
    async def _wait_ready(child: QuietChild) -> None:
        if not await child.wait_ready():
            log = "\n".join(f"  {line}" for line in child.last)
            state = child.how_it_ended() if child.ended.is_set() else "is not ready yet"
            raise Failed(
                f"node {child.name} {state}; its log ends with\n{log}",
                mend="`drupelet demo` shows all of it",
            )

    async def _wait_met(self) -> None:
        await demo.wait_met(list(self._children.values()), self._run_directory)

    async def kill(self, node: str) -> None:
        """SIGKILL; its process has ended when this returns."""
        child = self._children[node]
        os.kill(child.pid, signal.SIGKILL)
        with trio.fail_after(STOP_S):
            await child.ended.wait()

    async def restart(self, node: str) -> None:
        """Start a node that was killed; all see each other when this returns."""
        self._start(node, _file(node))
        await self._wait_ready(self._children[node])
        await self._wait_met()

    async def stop(self) -> None:
        """End them, in the reverse order."""
        for child in reversed(list(self._children.values())):
            await child.stop()


def _file(name: str) -> Path:
    return places.state_directory() / "lesson" / name / "drupelet.toml"


def write_node(name: str, mapper_port: int) -> Path:
    """A fresh directory for one node; its configuration."""
    file = _file(name)
    shutil.rmtree(file.parent, ignore_errors=True)
    (file.parent / "missions.d").mkdir(mode=0o700, parents=True)
    file.write_text(to_toml(places.development_config(name, file.parent, mapper_port)))
    return file


def free_port() -> int:
    """For a port mapper that only they use: nobody looks for them at epmd's."""
    with socket.create_server((places.LOOPBACK, 0)) as server:
        return int(server.getsockname()[1])


@asynccontextmanager
async def open_own_nodes() -> AsyncIterator[OwnNodes]:
    """Nodes as long as the block lasts. Raises: `Failed`."""
    with places.demo_lock() as lock:
        places.make_cookie()
        mapper_port = free_port()
        places.note_mapper(lock, mapper_port)
        async with trio.open_nursery() as nursery:
            nodes = OwnNodes(nursery, mapper_port)
            try:
                await nodes.start()
                yield nodes
            finally:
                with trio.CancelScope(shield=True):  # bounded: each stop has its own deadlines
                    await nodes.stop()
                nursery.cancel_scope.cancel()
