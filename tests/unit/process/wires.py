"""Several runtimes on several nodes in one trio loop, joined by a daemon that is only a table.

Signals are bytes that arrive cut anywhere, in order; what a daemon answers for receivers that are
not there is answered here. The real one is core/processes.py.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import MockClock

from drupelet import process as api
from drupelet.errors import NoConnection, error_to_fields
from drupelet.process import Request, receive, reply, self, send
from drupelet.process.running import run_main
from drupelet.process.runtime import Runtime
from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import (
    NOCONNECTION,
    NOPROC,
    Signal,
    SignalCutter,
    decode_signal,
    encode_signal,
)

INCARNATION = 7
CUT_BYTES_MAX = 90  # most signals are cut; some arrive in one piece with the next
QUEUED_BYTES = 1_000  # from here on an end is congested


class End:
    """One runtime's channel to its daemon."""

    def __init__(self, wires: Wires, node: str, serial: int) -> None:
        self.wires = wires
        self.pid = Pid(node, INCARNATION, serial << wire.SERIAL_SHIFT)
        self.node = node
        self.serial = serial
        self.held = False  # by the test
        self.stopped = False
        self.calls: list[tuple[str, str, str]] = []
        self._out = bytearray()
        self._in = bytearray()
        self._cutter = SignalCutter()
        self._news = trio.Event()
        self._free = trio.Event()

    @property
    def congested(self) -> bool:
        return self.held or len(self._out) > QUEUED_BYTES

    @congested.setter
    def congested(self, held: bool) -> None:
        self.held = held
        self._freed()

    def send(self, signal: bytes) -> None:
        self._out += signal
        self._news.set()

    async def wait_sendable(self) -> None:
        while self.congested:
            await self._free.wait()

    def _freed(self) -> None:
        if not self.congested:
            self._free.set()
            self._free = trio.Event()

    async def call(
        self, node: str, mission: str, function: str, args: Sequence[object], timeout: float
    ) -> object:
        await trio.lowlevel.checkpoint()
        self.calls.append((node, mission, function))
        if node not in self.wires.nodes or self.wires.is_cut(self.node, node):
            raise NoConnection("no_such_node")
        return "pong"

    async def cast(self, node: str, mission: str, function: str, args: Sequence[object]) -> None:
        await self.call(node, mission, function, args, 0)

    def stop(self) -> None:
        """What was sent arrives; nothing comes back."""
        self.stopped = True
        self._news.set()
        whole = self._cutter.receive_data(bytes(self._out))
        position = 0
        while position < len(whole):
            start = position
            signal, position = decode_signal(whole, start)
            self.wires.route(signal, whole[start:position])

    def deliver(self, signal: bytes) -> None:
        self._in += signal
        self._news.set()

    async def pump(self, runtime: Runtime) -> None:
        """Move bytes both ways, in pieces of any size."""
        cut = self.wires.random.randint
        while not self.stopped:
            await self._news.wait()
            self._news = trio.Event()
            while (self._out or self._in) and not self.stopped:
                piece = bytes(self._out[: cut(1, CUT_BYTES_MAX)])
                del self._out[: len(piece)]
                self._freed()
                whole = self._cutter.receive_data(piece)
                position = 0
                while position < len(whole):
                    start = position
                    signal, position = decode_signal(whole, start)
                    self.wires.route(signal, whole[start:position])
                piece = bytes(self._in[: cut(1, CUT_BYTES_MAX)])
                del self._in[: len(piece)]
                runtime.receive(piece)
                await trio.lowlevel.checkpoint()


class Wires:
    """The nodes and their runtimes."""

    def __init__(self, nursery: trio.Nursery, seed: int) -> None:
        self.nursery = nursery
        self.random = random.Random(seed)
        self.nodes: dict[str, list[End]] = {}
        self.names: dict[str, dict[str, Pid]] = {}
        self.runtimes: dict[End, Runtime] = {}
        self.scopes: dict[End, trio.CancelScope] = {}
        self.routed: list[int] = []  # kinds
        self.lose: Callable[[Signal], bool] = lambda signal: False
        self.lost = 0
        self._cuts: set[frozenset[str]] = set()
        self._serial = 0

    # -- what a test does

    async def attach(self, node: str) -> Runtime:
        """One more runtime on a node."""
        self._serial += 1
        end = End(self, node, self._serial)
        known = node in self.nodes
        self.nodes.setdefault(node, [])
        self.names.setdefault(node, {})

        async def serve(task_status: trio.TaskStatus[Runtime]) -> None:
            async with trio.open_nursery() as nursery:
                self.scopes[end] = nursery.cancel_scope
                runtime = Runtime(nursery, end)
                self.runtimes[end] = runtime
                runtime.attached(node, INCARNATION, end.serial)
                nursery.start_soon(runtime.run)
                nursery.start_soon(end.pump, runtime)
                task_status.started(runtime)

        runtime: Runtime = await self.nursery.start(serve)
        self._tell_up(end, known=known)
        return runtime

    def _tell_up(self, end: End, *, known: bool) -> None:
        node = end.node
        for other in self.all():
            if self.is_cut(node, other.node):
                continue
            if other.node != node and not known:
                self.tell(other, wire.UP, Pid(node, INCARNATION, 0))
            if other.node != node:
                self.tell(end, wire.UP, Pid(other.node, INCARNATION, 0))
            self.tell(other, wire.UP, end.pid)
            self.tell(end, wire.UP, other.pid)
        self.nodes[node].append(end)

    def kill(self, runtime: Runtime, reason: object = "killed") -> None:
        """A worker dies: what it had sent arrives, then its daemon tells."""
        end = next(each for each, other in self.runtimes.items() if other is runtime)
        self.nodes[end.node].remove(end)
        del self.runtimes[end]
        self.scopes.pop(end).cancel()
        self._gone(end, reason)

    def leave(self, runtime: Runtime) -> None:
        """It is alone from now on, and its processes run on."""
        end = next(each for each, other in self.runtimes.items() if other is runtime)
        self.nodes[end.node].remove(end)
        del self.runtimes[end]
        end.stop()
        runtime.detached()
        self._gone(end, "noconnection")

    def join(self, runtime: Runtime, node: str) -> None:
        """One that has left comes back, as another."""
        self._serial += 1
        end = End(self, node, self._serial)
        self.scopes[end] = runtime.nursery.cancel_scope
        self.runtimes[end] = runtime
        runtime.transport = end
        runtime.attached(node, INCARNATION, end.serial)
        runtime.nursery.start_soon(end.pump, runtime)
        self._tell_up(end, known=True)

    def _gone(self, end: End, reason: object) -> None:
        names = [name for name, pid in self.names[end.node].items() if self._is_of(pid, end)]
        for name in names:
            del self.names[end.node][name]
        for other in self.all():
            if not self.is_cut(end.node, other.node):
                self.tell(other, wire.GONE, end.pid, dumps([reason, names]))

    def cut(self, one: str, other: str) -> None:
        """A partition that both sides have noticed."""
        self._cuts.add(frozenset((one, other)))
        for here, there in ((one, other), (other, one)):
            for end in self.nodes[here]:
                self.tell(end, wire.GONE, Pid(there, INCARNATION, 0), dumps(NOCONNECTION))

    def heal(self, one: str, other: str) -> None:
        self._cuts.discard(frozenset((one, other)))
        for here, there in ((one, other), (other, one)):
            for end in self.nodes[here]:
                self.tell(end, wire.UP, Pid(there, INCARNATION, 0))
                for far in self.nodes[there]:
                    self.tell(end, wire.UP, far.pid)

    # -- what a daemon does

    def all(self) -> list[End]:
        return [end for ends in self.nodes.values() for end in ends]

    def is_cut(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self._cuts

    def tell(self, end: End, kind: int, sender: Pid, body: bytes = b"") -> None:
        end.deliver(encode_signal(kind, end.pid, sender, 0, body))

    def route(self, signal: Signal, own: bytes) -> None:
        self.routed.append(signal.kind)
        if self.lose(signal):
            self.lost += 1
            return
        node = signal.to_node
        if node not in self.nodes or self.is_cut(signal.from_node, node):
            self._absent(signal, NOCONNECTION)
        elif signal.kind == wire.SPAWN:
            if self.nodes[node]:
                self.nodes[node][0].deliver(own)
            else:
                self._absent(signal, NOPROC)
        elif signal.to_name:
            pid = self.names[node].get(signal.to_name)
            if pid is None:
                self._absent(signal, NOPROC)
            else:
                again = encode_signal(signal.kind, pid, signal.sender, signal.ref, signal.body)
                self._to_pid(decode_signal(again)[0], again)
        elif not signal.to_number:
            if signal.kind == wire.ASK:
                self._asked(node, signal)
        else:
            self._to_pid(signal, own)

    def _to_pid(self, signal: Signal, own: bytes) -> None:
        for end in self.nodes[signal.to_node]:
            if end.serial == signal.to_number >> wire.SERIAL_SHIFT:
                end.deliver(own)
                return
        self._absent(signal, NOPROC)

    def _absent(self, signal: Signal, reason: str) -> None:
        to = Pid(signal.to_node, signal.to_incarnation, signal.to_number)
        body = dumps(reason)
        match signal.kind:
            case wire.LINK:
                kind = wire.EXIT
            case wire.MONITOR | wire.ASK:
                kind = wire.DOWN
            case wire.SPAWN:
                kind, body = wire.SPAWNED, dumps(error_to_fields(NoConnection("down")))
            case _:
                return
        answer = encode_signal(kind, signal.sender, to, signal.ref, body)
        for end in self.nodes[signal.from_node]:
            if end.serial == signal.from_number >> wire.SERIAL_SHIFT:
                end.deliver(answer)

    def _asked(self, node: str, signal: Signal) -> None:
        names = self.names[node]
        value: object = None
        match loads(signal.body):
            case ["register", str(name), Pid() as pid]:
                if name in names:
                    value = ["error", f"{name!r} is the name of {names[name]}"]
                else:
                    names[name] = pid
            case ["unregister", str(name)]:
                serial = signal.from_number >> wire.SERIAL_SHIFT
                if name in names and names[name].number >> wire.SERIAL_SHIFT == serial:
                    del names[name]
            case ["whereis", str(name)]:
                value = names.get(name)
            case ["registered"]:
                value = [[name, names[name]] for name in sorted(names)]
            case other:
                raise AssertionError(other)
        if signal.ref:
            daemon = Pid(node, INCARNATION, 0)
            answer = encode_signal(wire.REPLY, signal.sender, daemon, signal.ref, dumps(value))
            self._to_pid(decode_signal(answer)[0], answer)

    def _is_of(self, pid: Pid, end: End) -> bool:
        return pid.number >> wire.SERIAL_SHIFT == end.serial


async def serve() -> None:
    """Echo; ends with what it is told to."""
    while True:
        match await receive():
            case ("end", reason):
                api.exit(reason)
            case Request(caller, ("end", reason)):
                api.exit(reason)
            case Request(caller, value):
                await reply(caller, value)
            case (Pid() as pid, value):
                await send(pid, (self(), value))


async def serve_trapping() -> None:
    """As `serve`; no exit signal but "kill" ends it."""
    api.trap_exit(True)
    await serve()


async def start(runtime: Runtime, function: Callable[..., object] = serve, *args: object) -> Pid:
    """A process of `runtime` that has run until it waits."""
    process = runtime.start(function, args)
    await settle()
    return process.pid


@asynccontextmanager
async def open_wires(seed: int = 0) -> AsyncIterator[Wires]:
    async with trio.open_nursery() as nursery:
        wires = Wires(nursery, seed)
        yield wires
        nursery.cancel_scope.cancel()


async def on(runtime: Runtime, main: Callable[..., Awaitable[Any]], *args: object) -> Any:
    """``main(*args)`` as a process of `runtime`, and its value."""
    return await run_main(runtime, main, *args)


async def settle() -> None:
    """Until nothing moves any more."""
    await trio.testing.wait_all_tasks_blocked()


def virtual(main: Callable[..., Awaitable[Any]], *args: object) -> Any:
    """Run `main` in virtual time."""
    return trio.run(main, *args, clock=MockClock(autojump_threshold=0))
