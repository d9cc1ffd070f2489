"""Runtimes: real ones, each joined to its simulated daemon by two pipes.

Decides how a runtime of a simulated node is attached, runs and crashes. What processes do is
decided in `process/`, as everywhere.

Rules
- What a runtime sends arrives in order, cut anywhere. A runtime that crashed loses a part of what
  it had under way, cut in the middle of a signal or between two; then its daemon sees the end.
- What still runs in a crashed runtime (a ``finally``) reaches nobody.
- A stalled runtime does not read: its daemon tells who sends to it to hold back.

Owns: one task and one nursery per runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from drupelet.errors import NoConnection
from drupelet.ladder.network import Pipe
from drupelet.process.current import runtime_var
from drupelet.process.runtime import Runtime
from drupelet.process.transport import Transport

if TYPE_CHECKING:
    from drupelet.ladder.daemon import Daemon

CONGESTED_BYTES: Final = 1024 * 1024  # as worker/carrier.py
STALLED_BYTES: Final = 1024  # far below the daemon's own figure: a test fills it at once


class Attachment(Transport):
    """One runtime of a daemon: its transport, its pipes, its task.

    `serve`, when given, runs in the runtime's nursery: what a mission starts.
    """

    def __init__(self, daemon: Daemon, label: str, modules: dict[str, bytes]) -> None:
        self.daemon = daemon
        self.label = label
        self.modules = modules
        self.is_alive = True
        self.is_stalled = False
        self.serial = 0
        self.runtime: Runtime
        self.ended = trio.Event()
        self._scope = trio.CancelScope()
        self._sendable: trio.Event | None = None
        self._waiting_bytes = 0
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._up = Pipe(daemon.bus, self._at_daemon, self._gone)
        self._down = Pipe(daemon.bus, self._at_runtime, lambda reason: None)

    @property
    def under_way(self) -> int:
        """Pieces that it sent and that its daemon has not got yet."""
        return len(self._up)

    # -- the transport

    @property
    def congested(self) -> bool:
        return self._waiting_bytes > CONGESTED_BYTES

    def send(self, signal: bytes) -> None:
        if self.is_alive:
            self._waiting_bytes += len(signal)
            self._up.send(signal)

    async def wait_sendable(self) -> None:
        if self._sendable is None:
            self._sendable = trio.Event()
        await self._sendable.wait()

    async def call(
        self, node: str, mission: str, function: str, args: Sequence[object], timeout: float
    ) -> object:
        if not self.is_alive:
            raise NoConnection("no_daemon")
        return await self.daemon.calls.call(node, mission, function, list(args), timeout)

    async def cast(self, node: str, mission: str, function: str, args: Sequence[object]) -> None:
        if not self.is_alive:
            raise NoConnection("no_daemon")
        self.daemon.calls.cast(node, mission, function, list(args))
        await trio.lowlevel.checkpoint()

    # -- life

    async def run(
        self,
        runtime_class: Callable[[trio.Nursery, Transport], Runtime],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Attach, and run until `crash`."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self.runtime = runtime_class(nursery, self)
                    self.daemon.cluster.prepare(self)
                    runtime_var.set(self.runtime)
                    nursery.start_soon(self.runtime.run)
                    self.daemon.attach(self)
                    task_status.started()
        finally:
            self.ended.set()

    def crash(self) -> None:
        """End it as ``kill -9`` does."""
        if not self.is_alive:
            return
        self._up.close("crashed", lose=self._lose)
        self.cut_off()

    def cut_off(self) -> None:
        """Nobody hears of it any more: it crashed, or its node did."""
        self.is_alive = False
        self._down.drop()
        if not self._up.is_closed:
            self._up.drop()
        self._scope.cancel()

    def _lose(self, thing: object) -> object:
        assert isinstance(thing, bytes)
        return thing[: self.daemon.random.randrange(len(thing))] or None

    # -- pipes

    def _at_daemon(self, thing: object) -> None:
        assert isinstance(thing, bytes)
        self._waiting_bytes -= len(thing)
        if self._sendable is not None and not self.congested:
            self._sendable.set()
            self._sendable = None
        self.daemon.receive_runtime(self, thing)

    def _gone(self, reason: str) -> None:
        self.daemon.detach(self, reason)

    def deliver(self, data: bytes) -> None:
        """The daemon has signals for the runtime: cut somewhere."""
        if len(data) > 1 and self.daemon.random.random() < 0.5:
            place = self.daemon.random.randrange(1, len(data))
            self._down.send(data[:place])
            data = data[place:]
        self._down.send(data)

    def _at_runtime(self, thing: object) -> None:
        assert isinstance(thing, bytes)
        if not self.is_stalled:
            self.runtime.receive(thing)
            return
        self._unread.append(thing)
        self._unread_bytes += len(thing)
        if self._unread_bytes > STALLED_BYTES:
            self.daemon.congested(self, True)

    def stall(self) -> None:
        """It reads nothing from now on."""
        self.is_stalled = True

    def go_on(self) -> None:
        """It reads again."""
        self.is_stalled = False
        unread, self._unread = self._unread, []
        self._unread_bytes = 0
        if self.is_alive:
            for thing in unread:
                self.runtime.receive(thing)
            self.daemon.congested(self, False)
