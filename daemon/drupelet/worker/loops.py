"""The two loops of a worker: one that only sleeps in recv, and one under trio.

Decides which a mission gets. A mission of plain functions needs no event loop: `run_plain` blocks
in recv, answers, and blocks in send when the daemon is slow to read. That saves 12 MB of trio in
every such worker and an epoll per batch. Async and threaded functions get `run_tasks`:
the same inline path, and a task for each call that asks for one.

A mission of plain functions whose new version has others moves from the one to the other between
two reads, without losing a call.

Rules: one read, all frames, one send. A socket that takes no more stops the reading: what waits
here is bounded by what one read can cause. Both end when the daemon closes.

Rejected: trio for all (memory); asyncio (a second kind of async code to teach).
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from drupelet.errors import CallError
from drupelet.lease import Lease, lease_var
from drupelet.wire.frames import FrameReader
from drupelet.wire.limits import OUT_BYTES_MAX
from drupelet.worker.session import Session
from drupelet.worker.targets import INLINE, TASK, Target

if TYPE_CHECKING:
    import trio

    from drupelet.process.runtime import Runtime
    from drupelet.worker.carrier import Carrier
    from drupelet.worker.loading import Loaded
    from drupelet.worker.servers import Servers
    from drupelet.worker.versions import Versions

READ_BYTES: Final = 65_536  # some 600 small calls, or two fragments of a large body
THREADS_MAX: Final = max(2, os.cpu_count() or 1)  # more would only take turns
_FULL_WAIT_MS: Final = 1_000


def needs_tasks(table: dict[bytes, Target]) -> bool:
    """Whether any export is async or runs in a thread."""
    return any(target.how != INLINE for target in table.values())


Early = tuple[Lease | None, int, Target, list[object]]
"""A call that came before tasks were needed: whose right, and what `Session.spawn` takes."""


@dataclass(slots=True)
class Handover:
    """What `run_plain` leaves to `run_tasks`, when a new version of the code needs tasks."""

    session: Session
    calls: dict[int, Early]  # of the last read


def run_plain(
    sock: socket.socket,
    table: dict[bytes, Target],
    reader: FrameReader,
    uses_processes: Callable[[], bool] = lambda: False,
) -> Handover | None:
    """Serve inline functions until the daemon closes (None), or tasks are needed. `sock` blocks."""

    def flush() -> None:
        data = b"".join(session.out)
        session.out.clear()
        session.out_bytes = 0
        sock.sendall(data)

    def spawn(ident: int, target: Target, args: list[object]) -> None:
        key = ident if ident >= 0 else -len(calls) - 1
        lease = lease_var.get()
        calls[key] = (lease, ident, target, args)
        forget = functools.partial(_forget, calls, key)
        if ident >= 0:
            session.running[ident] = forget
        if lease is not None:
            lease.add(target, forget)

    calls: dict[int, Early] = {}
    session = Session(table, flush, spawn, reader)
    receive = session.receive
    recv = sock.recv
    out = session.out
    try:
        while not session.finished:
            data = recv(READ_BYTES)
            if not data:
                return None
            receive(data)
            if out:
                flush()
            if calls or uses_processes():  # a new version of the code (versions.py)
                return Handover(session, calls)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return None


def _forget(calls: dict[int, Early], key: int) -> None:
    """It never begins."""
    lease, _, target, _ = calls.pop(key, (None, 0, None, []))
    if lease is not None:
        lease.done(target)


async def run_tasks(
    sock: socket.socket,
    table: dict[bytes, Target],
    reader: FrameReader,
    handover: Handover | None = None,
    versions: Versions | None = None,
    uses_processes: Callable[[], bool] = lambda: False,
) -> str:
    """Serve every kind of function until the daemon closes; run its processes, if it uses any.

    Returns "", or why the mission cannot go on.
    """
    import trio

    sock.setblocking(False)
    async with trio.open_nursery() as nursery:
        loop = _TaskLoop(sock, table, reader, nursery, handover, versions, uses_processes)
        nursery.start_soon(loop.run_sender)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await loop.run_reader()
        nursery.cancel_scope.cancel()
    return loop.failure


class _TaskLoop:
    """Reader and sender of one channel under trio. Owns: one task for each spawned call."""

    def __init__(
        self,
        sock: socket.socket,
        table: dict[bytes, Target],
        reader: FrameReader,
        nursery: trio.Nursery,
        handover: Handover | None,
        versions: Versions | None,
        uses_processes: Callable[[], bool],
    ) -> None:
        import trio

        self._trio = trio
        self._sock = sock
        self._nursery = nursery
        if handover is None:
            self._session = Session(table, self._flush, self._spawn, reader)
        else:
            self._session = handover.session
            self._session.take_over(self._flush, self._spawn)
        self._session.wake = self._wake_later
        self._rest = b""
        self._sleeper: trio.lowlevel.Task | None = None
        self._awake = False
        self._reading = False
        self._drained = trio.Event()
        self._threads = trio.CapacityLimiter(THREADS_MAX)
        self._owners: dict[int, trio.CapacityLimiter] = {}
        self._versions = versions
        self._uses_processes = uses_processes
        self._carrier: Carrier | None = None
        self._retire: Callable[[], None] | None = None
        self._servers: Servers | None = None
        self._calls = handover.calls if handover is not None else {}
        self.failure = ""

    async def run_reader(self) -> None:
        """Read until the daemon closes."""
        sock, session = self._sock, self._session
        wait = self._trio.lowlevel.wait_readable
        if self._uses_processes():
            self._join_processes()
        else:
            self._spawn_early()
        while not session.finished:
            await wait(sock)
            try:
                data = sock.recv(READ_BYTES)
            except BlockingIOError:
                continue
            if not data:
                return
            self._reading = True  # what it causes goes at its end
            session.receive(data)
            self._reading = False
            if self._carrier is not None:
                if self._carrier.outdated:
                    self._nursery.start_soon(self._announce, self._carrier)
            elif self._uses_processes():  # a new version of the code uses them
                self._join_processes()
            if session.out or self._has_signals():
                self._flush()
            if self._rest:
                self._drained = self._trio.Event()
                self._wake()
                await self._drained.wait()

    # -- processes

    def _join_processes(self) -> None:
        """Processes run here from now on; no call runs before they are the node's."""
        from drupelet.process.current import retire, runtime_var
        from drupelet.process.runtime import Runtime
        from drupelet.worker.carrier import Carrier

        carrier = self._carrier = Carrier(self._session.out, self._wake, self._flush_lone)
        runtime = Runtime(self._nursery, carrier)
        runtime_var.set(runtime)  # what the reader starts belongs to it
        self._retire = retire
        if self._versions is not None:
            self._versions.attach(runtime)
        self._session.carry(carrier)
        self._session.hold()
        self._nursery.start_soon(runtime.run)
        self._nursery.start_soon(self._attach, runtime, carrier)

    async def _attach(self, runtime: Runtime, carrier: Carrier) -> None:
        await carrier.attach(runtime, self._code if self._versions is not None else None)
        if self._versions is not None:
            self._versions.on_taken = functools.partial(self._take, runtime)
            if self._versions.current.needs_processes:
                await self._open_servers(runtime).wait()
        self._spawn_early()
        self._session.release()
        self._wake()

    def _spawn_early(self) -> None:
        """Calls of the last read before tasks were needed."""
        while self._calls:
            lease, ident, target, args = self._calls.pop(next(iter(self._calls)))
            token = lease_var.set(lease)
            self._spawn(ident, target, args)
            lease_var.reset(token)
            if lease is not None:
                lease.done(target)

    def _open_servers(self, runtime: Runtime) -> trio.Event:
        """Set when all run; their calls wait for them."""
        from drupelet.worker.servers import Servers

        self._servers = Servers(runtime, self._code, self._session.endings)
        started = self._trio.Event()
        self._nursery.start_soon(self._run_servers, self._servers, started)
        return started

    async def _run_servers(self, servers: Servers, started: trio.Event) -> None:
        self.failure = await servers.run(started.set)
        self._nursery.cancel_scope.cancel()

    _run_servers.__module__, _run_servers.__qualname__ = "drupelet", "worker"  # as `ps` shows it

    def _take(self, runtime: Runtime) -> None:
        """The code is another: so are the processes that it wants."""
        if self._servers is not None:
            self._servers.take()
            self._nursery.start_soon(self._servers.change)
        elif self._code().needs_processes:
            self._open_servers(runtime)

    def _code(self) -> Loaded:
        assert self._versions is not None
        return self._versions.current

    async def _announce(self, carrier: Carrier) -> None:
        with contextlib.suppress(CallError):
            await carrier.announce_changes()

    def _has_signals(self) -> bool:
        return self._carrier is not None and self._carrier.pending

    def _flush_lone(self) -> bool:
        """One signal, straight to the kernel when nothing else waits."""
        if self._rest or self._session.out or self._reading:
            return False
        self._flush()
        return True

    def _flush(self) -> None:
        """Give the kernel what it takes; the rest waits for `run_sender`."""
        session = self._session
        if self._carrier is not None and not self._rest:
            self._carrier.collect()
        data = b"".join(session.out)
        session.out.clear()
        session.out_bytes = 0
        if self._rest:
            self._rest += data
        else:
            self._rest = self._send(data)
        if self._rest:
            self._wake()
            if len(self._rest) > OUT_BYTES_MAX:
                self._send_blocking()

    def _send(self, data: bytes) -> bytes:
        try:
            count = self._sock.send(data)
        except BlockingIOError:
            return data
        except (BrokenPipeError, ConnectionResetError):  # the reader ends; who sends now is ending
            self._session.finished = True
            return b""
        return data[count:] if count < len(data) else b""

    def _send_blocking(self) -> None:
        """In the middle of a batch whose replies are huge: nothing else may pile up."""
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        while self._rest:
            poll.poll(_FULL_WAIT_MS)
            self._rest = self._send(self._rest)

    # -- the sender: sends what tasks finished, in the scheduler pass after theirs

    def _wake(self) -> None:
        self._awake = True
        if self._sleeper is not None:
            sleeper, self._sleeper = self._sleeper, None
            self._trio.lowlevel.reschedule(sleeper)

    def _wake_later(self) -> None:
        """What a read causes goes at its end."""
        if not self._reading:
            self._wake()

    async def run_sender(self) -> None:
        """Send for ever; sleeps while there is nothing."""
        import trio
        from trio.lowlevel import Abort

        def abort(_: object) -> Abort:
            self._sleeper = None
            return Abort.SUCCEEDED

        while True:
            if not self._awake:
                self._sleeper = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)
            self._awake = False
            if not self._rest and (self._session.out or self._has_signals()):
                self._flush()
            while self._rest:
                await trio.lowlevel.wait_writable(self._sock)
                self._rest = self._send(self._rest)
                if not self._rest and (self._session.out or self._has_signals()):
                    self._flush()
            self._drained.set()

    # -- calls that ask for a task

    def _answered(self, was_last: bool) -> None:
        """A server answered; at once when no other answer is about to come."""
        if self._reading or not self._session.out:
            return
        if was_last and not self._rest:
            self._flush()
        else:
            self._wake()

    def _spawn(self, ident: int, target: Target, args: list[object]) -> None:
        if target.slot is not None:
            target.slot.serve(self._session, self._answered, ident, target, args)
            return
        scope = self._trio.CancelScope()
        cancel = functools.partial(self._cancel, scope, ident, target)
        if ident >= 0:
            self._session.running[ident] = cancel
        lease = lease_var.get()
        if lease is not None:
            lease.add(scope, cancel)
        self._nursery.start_soon(self._run_call, scope, ident, target, args)

    def _cancel(self, scope: trio.CancelScope, ident: int, target: Target) -> None:
        """Its caller gave up. That it has ended is told by `_run_call`, or by its `_Turn`."""
        if target.stop is not None:
            target.stop()
        self._session.endings.cancelled(scope, max(ident, 0))
        scope.cancel()

    def _ended(self, lease: Lease | None, scope: trio.CancelScope) -> None:
        if lease is not None:
            lease.done(scope)
        self._session.endings.ended(scope)

    async def _run_call(
        self, scope: trio.CancelScope, ident: int, target: Target, args: list[object]
    ) -> None:
        session, lease = self._session, lease_var.get()
        if scope.cancel_called:  # before it began
            session.dropped(ident)
            self._ended(lease, scope)
            return
        turn = None
        try:
            with scope:
                if target.how == TASK:
                    value = await cast(Awaitable[object], target.function(*args))
                else:
                    turn = self._turn(target)
                    value = await self._run_in_thread(turn, target, args)
                session.finish(ident, target, value)
        except (Exception, SystemExit) as error:  # the function's, told to its caller
            session.fail(ident, target, error)
        if scope.cancelled_caught:
            session.dropped(ident)
        over = functools.partial(self._ended, lease, scope)
        if turn is not None and turn.taken:
            turn.over = over  # its thread runs on
        else:
            over()
        if self._retire is not None:
            self._retire()
        if session.out:
            self._wake()

    def _turn(self, target: Target) -> _Turn:
        """A class's methods take turns, so that its state needs no lock."""
        limiter = self._threads
        if target.owner is not None:
            key = id(target.owner)
            if key not in self._owners:
                self._owners[key] = self._trio.CapacityLimiter(1)
            limiter = self._owners[key]
        return _Turn(limiter)

    async def _run_in_thread(self, turn: _Turn, target: Target, args: list[object]) -> object:
        run = functools.partial(target.function, *args)
        return await self._trio.to_thread.run_sync(
            run,
            limiter=cast("trio.CapacityLimiter", turn),  # or anything with its two methods
            abandon_on_cancel=True,
        )


class _Turn:
    """One call's place among the threads. trio gives it back when the thread has ended, which may
    be long after its call was cancelled."""

    __slots__ = ("_limiter", "over", "taken")

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter
        self.over: Callable[[], None] | None = None  # when its call ended before it
        self.taken = False

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """trio is about to start the thread."""
        await self._limiter.acquire_on_behalf_of(borrower)
        self.taken = True

    def release_on_behalf_of(self, borrower: object) -> None:
        """The thread has ended."""
        self._limiter.release_on_behalf_of(borrower)
        self.taken = False
        if self.over is not None:
            self.over()
