"""The carrier: attachment before anything else, signals, calls out, and what may be started."""

from __future__ import annotations

import socket
import types
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from drupelet.errors import (
    CallError,
    CodeMismatch,
    NoConnection,
    NotPermitted,
    NotSendable,
    RemoteError,
    RemoteProtocolError,
    Timeout,
    error_to_fields,
)
from drupelet.process.current import this_runtime
from drupelet.process.runtime import Runtime
from drupelet.wire import frames
from drupelet.wire.bodies import Incoming, Outgoing, first_fragment
from drupelet.wire.codec import dumps, loads
from drupelet.wire.frames import Frame, FrameReader
from drupelet.wire.ids import Pid
from drupelet.wire.limits import CALLS_PER_LINK_MAX, FRAGMENT_BYTES_MAX, HELD_BYTES_MAX
from drupelet.wire.messages.processes import SEND, encode_signal
from drupelet.worker import carrier as module
from drupelet.worker.carrier import CONGESTED_BYTES, PIECE_BYTES_MAX, Carrier
from drupelet.worker.loops import run_tasks
from drupelet.worker.targets import Target
from tests.unit.worker.calls import call

PID = Pid("alice", 7, 3 << 40)
ATTACHED = {"node": "alice", "incarnation": 7, "serial": 3, "nodes": ["bob"]}


def read(out: list[bytes]) -> list[Frame]:
    found = FrameReader().receive_data(b"".join(out))
    out.clear()
    return found


@dataclass
class Code:
    digest: bytes = b"d" * 16
    modules: tuple[types.ModuleType, ...] = ()


@dataclass
class Bench:
    """A carrier whose frames a test reads."""

    out: list[bytes] = field(default_factory=list)
    wakes: int = 0

    def __post_init__(self) -> None:
        self.carrier = Carrier(self.out, self.wake)

    def wake(self) -> None:
        self.wakes += 1


# -- signals


def test_signals_of_one_pass_are_one_cast() -> None:
    bench = Bench()
    signals = [encode_signal(SEND, PID, PID, number) for number in range(10)]
    for signal in signals:
        bench.carrier.send(signal)
    assert (bench.wakes, bench.out) == (1, [])
    bench.carrier.collect()
    (one,) = read(bench.out)
    parts = frames.split_call(one.body)
    assert (one.kind, parts.target, parts.args) == (
        frames.CAST,
        b"process/signals",
        b"".join(signals),
    )
    bench.carrier.collect()
    assert bench.out == []


def test_a_large_signal_is_cut() -> None:
    bench = Bench()
    signal = encode_signal(SEND, PID, PID, body=bytes(3 * PIECE_BYTES_MAX))
    bench.carrier.send(signal)
    bench.carrier.collect()
    pieces = [frames.split_call(each.body).args for each in read(bench.out)]
    assert b"".join(pieces) == signal
    assert max(map(len, pieces)) == PIECE_BYTES_MAX
    assert len(pieces) == 4


async def test_congested_at_the_maximum_and_one_above() -> None:
    bench = Bench()
    bench.carrier.send(bytes(CONGESTED_BYTES))
    assert not bench.carrier.congested
    bench.carrier.send(b"x")
    assert bench.carrier.congested
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.carrier.wait_sendable)
        await trio.testing.wait_all_tasks_blocked()
        bench.carrier.collect()
    assert not bench.carrier.congested


def test_what_waits_is_bounded_at_the_maximum_and_one_above() -> None:
    bench = Bench()
    piece = bytes(HELD_BYTES_MAX // 8)
    for _ in range(8):
        bench.carrier.send(piece)
    assert bench.carrier.dropped_count == 0
    bench.carrier.send(b"x")
    assert bench.carrier.dropped_count == 1


# -- calls


@asynccontextmanager
async def calling(
    bench: Bench, *args: object, timeout: float = 5.0
) -> AsyncIterator[tuple[Frame, list[object]]]:
    """A call under way: its first frame, and where its value or error goes."""
    results: list[object] = []

    async def run() -> None:
        try:
            results.append(await bench.carrier.call("bob", "kvs", "store", args, timeout))
        except CallError as error:
            results.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        first, *rest = read(bench.out)
        for each in rest:
            bench.out.append(frames.frame(*each))
        yield first, results
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_call_and_its_value() -> None:
    bench = Bench()
    async with calling(bench, "k", 1, timeout=2.0) as (sent, results):
        parts = frames.split_call(sent.body)
        assert (sent.kind, sent.ident, parts.target) == (frames.CALL, 1, b"bob/kvs/store")
        assert (loads(parts.args), parts.timeout_ms) == (["k", 1], 2_000)
        bench.carrier.on_reply(sent.ident, b"\0" + dumps({"ok": True}))
        bench.carrier.on_reply(sent.ident, b"\0" + dumps("late"))
    assert results == [{"ok": True}]
    async with calling(bench) as (sent, _):
        assert sent.ident == 3


async def test_an_error_is_raised_as_clients_see_it() -> None:
    bench = Bench()
    for error in (NoConnection("down"), RemoteError("undef", "no"), NotPermitted()):
        async with calling(bench) as (sent, results):
            bench.carrier.on_error(sent.ident, dumps(error_to_fields(error)))
        assert type(results[0]) is type(error)


async def test_a_cancelled_call_is_cancelled_there(autojump_clock: object) -> None:
    bench = Bench()
    async with calling(bench, timeout=1.0) as (sent, results):
        await trio.testing.wait_all_tasks_blocked(0.0)
        with trio.move_on_after(3):
            await trio.sleep_forever()
        assert isinstance(results[0], Timeout)
    (cancel,) = read(bench.out)
    assert (cancel.kind, cancel.ident) == (frames.CANCEL, sent.ident)
    async with calling(bench) as (sent, results):
        pass
    (cancel,) = read(bench.out)
    assert (cancel.kind, cancel.ident) == (frames.CANCEL, sent.ident)
    assert results == []


async def test_large_arguments_and_values_go_in_pieces() -> None:
    bench = Bench()
    large = bytes(range(256)) * 4_096  # 1 MiB: four windows of credit
    async with calling(bench, large) as (sent, results):
        parts = frames.split_call(sent.body)
        assert parts.flags & frames.FLAG_MORE
        incoming = Incoming(parts.args)
        whole = None
        while whole is None:
            for each in read(bench.out):
                whole, credit = incoming.receive(each.ident, each.body)
                if credit is not None:
                    (back,) = FrameReader().receive_data(credit)
                    bench.carrier.on_credit(back.ident, back.body)
        assert loads(whole) == [large]
        value = dumps(large)
        flags, first = first_fragment(value)
        bench.carrier.on_reply(sent.ident, bytes((flags,)) + first)
        outgoing = Outgoing(sent.ident, value)
        while not outgoing.finished:
            for data in outgoing.take():
                (each,) = FrameReader().receive_data(data)
                bench.carrier.on_data(each.ident, each.body)
            for each in read(bench.out):
                outgoing.add_credit(frames.U32.unpack(each.body)[0])
    assert results == [large]


async def test_a_value_that_breaks_its_bounds_fails_its_call_only() -> None:
    bench = Bench()
    async with calling(bench) as (sent, results):
        bench.carrier.on_reply(sent.ident, b"\x01" + bytes(10))
        bench.carrier.on_data(sent.ident, b"")
    assert isinstance(results[0], RemoteError)
    bench.carrier.on_data(sent.ident, b"\0x")
    bench.carrier.on_credit(sent.ident, b"123")
    with pytest.raises(RemoteProtocolError):
        bench.carrier.on_reply(1, b"")


async def test_casts_and_what_is_refused_before_a_byte_is_sent() -> None:
    bench = Bench()
    await bench.carrier.cast("", "kvs", "store", ["k"])
    (sent,) = read(bench.out)
    assert (sent.kind, frames.split_call(sent.body).target) == (frames.CAST, b"/kvs/store")
    empty = len(dumps([b""])) + 4
    await bench.carrier.cast("", "kvs", "store", [bytes(FRAGMENT_BYTES_MAX - empty)])
    bench.out.clear()
    with pytest.raises(NotSendable, match="use call"):
        await bench.carrier.cast("", "kvs", "store", [bytes(FRAGMENT_BYTES_MAX)])
    with pytest.raises(NotSendable):
        await bench.carrier.call("", "a/b", "f", [], 5.0)
    with pytest.raises(NotSendable):
        await bench.carrier.call("n" * 250, "mission", "f", [], 5.0)
    with pytest.raises(NotSendable):
        await bench.carrier.call("", "kvs", "f", [object()], 5.0)
    with pytest.raises(Timeout):
        await bench.carrier.call("", "kvs", "f", [], 0.0)
    assert bench.out == []


async def test_open_calls_at_the_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CALLS_PER_LINK_MAX >= 65_536
    monkeypatch.setattr(module, "CALLS_PER_LINK_MAX", 1)
    bench = Bench()
    async with calling(bench):
        with pytest.raises(NoConnection, match="overloaded"):
            await bench.carrier.call("", "kvs", "f", [], 5.0)


# -- attachment, under the real loop


class FakeDaemon:
    """The other end of a worker's channel."""

    def __init__(self, sock: trio.SocketStream) -> None:
        self._sock = sock
        self._reader = FrameReader()
        self._frames: list[Frame] = []

    async def send(self, *sent: bytes) -> None:
        await self._sock.send_all(b"".join(sent))

    async def next(self) -> Frame:
        while not self._frames:
            self._frames += self._reader.receive_data(await self._sock.receive_some(65_536))
        return self._frames.pop(0)

    async def answer_attach(self, answer: object = ATTACHED) -> dict[str, bytes]:
        attach = await self.next()
        parts = frames.split_call(attach.body)
        assert (attach.kind, parts.target) == (frames.CALL, b"/process/attach")
        if isinstance(answer, CallError):
            body = dumps(error_to_fields(answer))
            await self.send(frames.frame(frames.ERROR, attach.ident, body))
        else:
            await self.send(frames.frame(frames.REPLY, attach.ident, b"\0" + dumps(answer)))
        (modules,) = loads(parts.args)
        assert isinstance(modules, dict)
        return modules


@asynccontextmanager
async def open_worker(**functions: Callable[..., object]) -> AsyncIterator[FakeDaemon]:
    ours, theirs = socket.socketpair()
    table = {f"m/{name}".encode(): Target(name, each) for name, each in functions.items()}
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))

    async def run() -> None:
        await run_tasks(theirs, table, FrameReader(), uses_processes=lambda: True)

    with trio.fail_after(10), theirs:
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield FakeDaemon(stream)
            await stream.aclose()


async def own_pid() -> object:
    return this_runtime().pid


async def send_many(to: Pid) -> None:
    for number in range(50):
        await this_runtime().send(None, to, number)


async def test_no_call_runs_before_the_runtime_is_of_the_node() -> None:
    async with open_worker(own_pid=own_pid, plain=lambda: "plain") as daemon:
        await daemon.send(call(2, "m/own_pid"), call(4, "m/plain"))
        await trio.testing.wait_all_tasks_blocked()
        assert await daemon.answer_attach() == {}
        answers = {}
        for _ in range(2):
            reply = await daemon.next()
            answers[reply.ident] = loads(reply.body[1:])
        assert answers == {2: PID, 4: "plain"}


async def test_where_it_may_not_attach_the_runtime_is_alone() -> None:
    async with open_worker(own_pid=own_pid) as daemon:
        await daemon.answer_attach(NotPermitted())
        await daemon.send(call(2, "m/own_pid"))
        reply = await daemon.next()
        assert loads(reply.body[1:]).node == "nonode@nohost"


async def test_what_processes_send_together_travels_together() -> None:
    async with open_worker(send_many=send_many) as daemon:
        await daemon.answer_attach()
        to = Pid("bob", 9, 1 << 40 | 4)
        await daemon.send(call(2, "m/send_many", to))
        expected = b"".join(encode_signal(SEND, to, PID, 0, dumps(n)) for n in range(50))
        signals, casts, replied = b"", 0, False
        while not replied or len(signals) < len(expected):
            each = await daemon.next()
            if each.kind == frames.CAST:
                signals += frames.split_call(each.body).args
                casts += 1
            else:
                assert loads(each.body[1:]) is None
                replied = True
        assert signals == expected
        assert casts < 10


# -- what may be started from elsewhere

SOURCE = """
import os
from os.path import join
LIMIT = 5
def boil(litres): return litres
async def bake(): ...
class Oven:
    def heat(self, degrees): ...
    @staticmethod
    def cool(): return "cool"
    @classmethod
    def make(cls): return cls
"""


def make_module(name: str = "mission_kitchen") -> types.ModuleType:
    made = types.ModuleType(name)
    exec(SOURCE, made.__dict__)
    return made


async def attached(code: Code) -> tuple[Bench, Runtime]:
    bench = Bench()
    async with trio.open_nursery() as nursery:
        runtime = Runtime(nursery, bench.carrier)
        nursery.start_soon(bench.carrier.attach, runtime, lambda: code)
        await trio.testing.wait_all_tasks_blocked()
        (sent,) = read(bench.out)
        names = {each.__name__.removeprefix("mission_") for each in code.modules}
        assert loads(frames.split_call(sent.body).args) == [dict.fromkeys(names, code.digest)]
        bench.carrier.receive_signals(b"")
        bench.carrier.on_reply(sent.ident, b"\0" + dumps(ATTACHED))
    assert runtime.pid == PID
    return bench, runtime


async def test_functions_that_a_module_defines_can_be_started() -> None:
    kitchen = make_module()
    _, runtime = await attached(Code(modules=(kitchen,)))
    digest = b"d" * 16
    assert runtime.resolve("kitchen", "boil", digest) is vars(kitchen)["boil"]
    assert runtime.resolve("kitchen", "bake", b"") is vars(kitchen)["bake"]
    assert runtime.resolve("kitchen", "Oven.cool", digest)() == "cool"
    assert runtime.resolve("kitchen", "Oven.make", digest)() is vars(kitchen)["Oven"]
    assert runtime.digest_of("kitchen") == digest
    assert runtime.digest_of("json") == b""


async def test_behaviours_that_a_module_defines_can_be_children_and_handlers() -> None:
    kitchen = make_module()
    source = "from drupelet import GenServer, Supervisor\nclass Stove(GenServer): pass\n"
    exec(source + "class Larder:\n    class Shelf(Supervisor): pass\n", kitchen.__dict__)
    _, runtime = await attached(Code(modules=(kitchen,)))
    assert runtime.resolve("kitchen", "Stove", b"") is vars(kitchen)["Stove"]
    assert runtime.resolve("kitchen", "Larder.Shelf", b"") is vars(kitchen)["Larder"].Shelf
    for name in ("GenServer", "Supervisor", "Larder", "Stove.start_link", "Stove._run"):
        with pytest.raises(RemoteError, match="defines no function"):
            runtime.resolve("kitchen", name, b"")


@pytest.mark.parametrize(
    "name",
    ["os.system", "join", "LIMIT", "Oven", "nothing", "", "boil.__globals__", "__builtins__.exec",
     "Oven.__class__", "Oven.nothing", "boil.__code__", "bake.x"],
)  # fmt: skip
async def test_nothing_else_can_be_started(name: str) -> None:
    _, runtime = await attached(Code(modules=(make_module(),)))
    with pytest.raises(RemoteError, match="defines no function"):
        runtime.resolve("kitchen", name, b"")


async def test_other_code_is_a_mismatch_and_another_module_undefined() -> None:
    _, runtime = await attached(Code(modules=(make_module(),)))
    with pytest.raises(CodeMismatch) as caught:
        runtime.resolve("kitchen", "boil", b"x" * 16)
    assert (caught.value.have, caught.value.want) == ((b"d" * 16).hex(), (b"x" * 16).hex())
    for name in ("garden", "mission_kitchen", "os"):
        with pytest.raises(RemoteError, match="no module"):
            runtime.resolve(name, "boil", b"")


async def test_a_new_version_is_announced() -> None:
    code = [Code(modules=(make_module(),))]
    bench, runtime = await attached(code[0])
    bench.carrier._code = lambda: code[0]
    assert not bench.carrier.outdated
    code[0] = Code(b"e" * 16, (make_module(), make_module("garden")))
    assert bench.carrier.outdated
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.carrier.announce_changes)
        await trio.testing.wait_all_tasks_blocked()
        (sent,) = read(bench.out)
        assert loads(frames.split_call(sent.body).args) == [
            {"kitchen": b"e" * 16, "garden": b"e" * 16}
        ]
        bench.carrier.on_reply(sent.ident, b"\0" + dumps(ATTACHED))
    assert not bench.carrier.outdated
    assert runtime.resolve("garden", "boil", b"e" * 16)
