"""Signals through real daemons: attachment, both ways, large ones, ends, and who does not read."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.client import open_client
from drupelet.client.asynchronous import Client
from drupelet.client.carrier import Carrier
from drupelet.errors import NoConnection, NotPermitted, RemoteError, RemoteProtocolError
from drupelet.node import Node
from drupelet.services import processes
from drupelet.services.processes import PIECE_BYTES_MAX
from drupelet.wire import frames
from drupelet.wire.codec import dumps, loads
from drupelet.wire.frames import FrameReader
from drupelet.wire.ids import Pid
from drupelet.wire.messages.processes import (
    ASK,
    DOWN,
    GONE,
    MONITOR,
    PAUSE,
    REPLY,
    RESUME,
    SEND,
    SERIAL_SHIFT,
    UP,
    Signal,
    SignalCutter,
    encode_signal,
    split_signals,
)
from tests.unit.services.nodes import open_small_node, wait_up

LARGE = 1024 * 1024


class Recorder:
    """A runtime that writes down what comes, and answers requests of the daemon."""

    def __init__(self, carrier: Carrier, *, silent: bool = False) -> None:
        self.carrier = carrier
        self.signals: list[Signal] = []
        self.pid = Pid("nobody", 0, 0)
        self.nodes: list[str] = []
        self.detached_reason = ""
        self.pieces = 0
        self._silent = silent
        self._cutter = SignalCutter()
        self._came = trio.Event()

    def receive(self, data: bytes) -> None:
        self.pieces += 1
        for signal, _ in split_signals(self._cutter.receive_data(data)):
            self.signals.append(signal)
            if signal.kind == ASK and not self._silent:
                answer = dumps([{"pid": self.process(1), "name": "it"}])
                self.carrier.send(encode_signal(REPLY, signal.sender, self.pid, signal.ref, answer))
        self._came.set()
        self._came = trio.Event()

    def attached(self, node: str, incarnation: int, serial: int, nodes: Sequence[str] = ()) -> None:
        self.pid = Pid(node, incarnation, serial << SERIAL_SHIFT)
        self.nodes = list(nodes)

    def detached(self, reason: str = "noconnection") -> None:
        self.detached_reason = reason

    def process(self, count: int) -> Pid:
        return Pid(self.pid.node, self.pid.incarnation, self.pid.number + count)

    def send(self, kind: int, to: Pid, body: bytes = b"", ref: int = 0, name: str = "") -> None:
        self.carrier.send(encode_signal(kind, to, self.process(1), ref, body, name=name))

    async def wait(self, kind: int, count: int = 1) -> list[Signal]:
        with trio.fail_after(10):
            while True:
                found = [each for each in self.signals if each.kind == kind]
                if len(found) >= count:
                    return found
                await self._came.wait()


@asynccontextmanager
async def attached(node: Node, *, silent: bool = False) -> AsyncIterator[tuple[Recorder, Client]]:
    async with open_client(node.config.node.socket) as client:
        carrier = Carrier(client)
        runtime = Recorder(carrier, silent=silent)
        await carrier.attach(runtime, {"shell": b"d"})
        yield runtime, client


@asynccontextmanager
async def two_nodes(directory: Path) -> AsyncIterator[tuple[Node, Node]]:
    async with (
        open_small_node(directory, "alice") as alice,
        open_small_node(directory, "bob", alice) as bob,
    ):
        await wait_up(alice, "bob")
        await wait_up(bob, "alice")
        yield alice, bob


async def test_a_client_is_a_runtime_of_its_node(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "alice") as alice:
        async with attached(alice) as (one, client), attached(alice) as (two, _):
            assert one.pid.number >> SERIAL_SHIFT == 1
            assert two.pid.number >> SERIAL_SHIFT == 2
            again = await client.call("", "process", "attach", {"other": b"d"})
            assert isinstance(again, dict)
            assert again["serial"] == 1
            one.send(SEND, two.process(7), dumps("hello"))
            (signal,) = await two.wait(SEND)
            assert (signal.sender, loads(signal.body)) == (one.process(1), "hello")
            shown = await client.call("", "process", "list")
            assert shown == [
                {"pid": one.process(1), "name": "it", "runtime": "client"},
                {"pid": two.process(1), "name": "it", "runtime": "client"},
            ]
        assert one.detached_reason == "noconnection"


async def test_signals_cross_nodes_in_order_and_large_ones_too(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (alice, bob):
        async with attached(alice) as (a, _), attached(bob) as (b, _):
            assert a.nodes == ["bob"]
            await a.wait(UP, 2)
            large = bytes(range(256)) * (LARGE // 256)
            for number in range(100):
                a.send(SEND, b.process(1), dumps(number))
            a.send(SEND, b.process(1), large)
            a.send(SEND, b.process(1), dumps("last"))
            found = await b.wait(SEND, 102)
            assert [loads(each.body) for each in found[:100]] == list(range(100))
            assert found[100].body == large
            assert loads(found[101].body) == "last"
            b.send(SEND, a.process(1), large)
            assert (await a.wait(SEND))[0].body == large
            pieces = b.pieces
            assert pieces < 40 + LARGE // PIECE_BYTES_MAX * 2, "not joined"


async def test_the_end_of_a_client_is_told_on_both_nodes(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (alice, bob):
        async with attached(alice) as (watcher, _), attached(bob) as (far, _):
            async with attached(alice) as (leaver, _):
                watcher.send(MONITOR, leaver.process(1), ref=3)
                await leaver.wait(MONITOR)
                await far.wait(UP, 3)
            for runtime in (watcher, far):
                (gone,) = await runtime.wait(GONE)
                assert gone.sender == leaver.pid
                assert loads(gone.body) == ["noconnection", []]
            far.send(MONITOR, leaver.process(1), ref=4)
            (down,) = await far.wait(DOWN)
            assert (down.ref, loads(down.body)) == (4, "noproc")


async def test_a_node_that_goes_is_told_and_one_that_is_not_there_too(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "alice") as alice, attached(alice) as (a, _):
        async with open_small_node(tmp_path, "bob", alice) as bob:
            await wait_up(alice, "bob")
            (up,) = await a.wait(UP)
            assert up.sender == Pid("bob", bob.credentials.incarnation, 0)
        (gone,) = await a.wait(GONE)
        assert (gone.sender, loads(gone.body)) == (up.sender, "noconnection")
        a.send(MONITOR, Pid("carol", 1, 1 << SERIAL_SHIFT | 1), ref=5)
        (down,) = await a.wait(DOWN)
        assert (down.ref, loads(down.body)) == (5, "noconnection")


async def test_signals_wait_until_a_known_node_is_connected(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "alice") as alice:
        async with open_small_node(tmp_path, "bob") as bob, attached(bob) as (b, _):
            async with open_small_node(tmp_path, "carol", bob) as carol, attached(carol) as (c, _):
                c.send(SEND, b.process(1), dumps(1))
                assert len(await b.wait(SEND)) == 1
        assert alice.processes.statistics().node_count == 0


async def test_another_link_doubles_nothing(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (alice, bob):
        async with attached(alice) as (a, _), attached(bob) as (b, _):
            a.send(SEND, b.process(1), dumps(1))
            await b.wait(SEND)
            link = alice.links.link("bob")
            assert link is not None
            alice.processes._on_use(link)  # as if it had taken over: all is sent again
            a.send(SEND, b.process(1), dumps(2))
            found = await b.wait(SEND, 2)
            await trio.testing.wait_all_tasks_blocked()
            assert [loads(each.body) for each in found] == [1, 2]
            line = alice.processes.router._peers[b"bob"].line
            assert line.statistics().again_count == 1


async def test_names_from_another_node(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (alice, bob):
        async with attached(alice) as (a, _), attached(bob) as (b, _):
            here = Pid("alice", a.pid.incarnation, 0)
            a.send(ASK, here, dumps(["register", "kvs", a.process(5)]), ref=1)
            assert loads((await a.wait(REPLY))[0].body) is True
            b.send(ASK, here, dumps(["whereis", "kvs"]), ref=2)
            assert loads((await b.wait(REPLY))[0].body) == a.process(5)
            b.send(SEND, Pid("alice", 0, 0), dumps("by name"), name="kvs")
            (signal,) = await a.wait(SEND)
            assert signal.to_number == a.process(5).number


# -- refusals


async def test_a_runtime_that_does_not_answer_is_shown_as_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LIST_S", 0.05)
    async with open_small_node(tmp_path, "alice") as alice, attached(alice, silent=True):
        assert await alice.call("alice", "process", "list") == [
            {"runtime": "client", "state": "silent"}
        ]


async def test_only_runtimes_attach_and_only_members_send_segments(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (alice, bob):
        with pytest.raises(NotPermitted):
            await alice.call("bob", "process", "attach", {})
        refused = bob.calls.refused_count
        endpoint = alice.links.endpoint("bob")
        assert endpoint is not None
        endpoint.cast(frames.call_body(b"process/signals", b""), b"")
        async with open_client(bob.config.node.socket) as client:
            client._submit(frames.frame(frames.CAST, 0, frames.call_body(b"process/segment", b"x")))
            with pytest.raises(RemoteError, match="badarg"):
                await client.call("", "process", "attach", 5)
            with pytest.raises(RemoteError):
                await client.call("", "process", "attach", {"x": "no digest"})
        with trio.fail_after(5):
            assert await alice.call("bob", "node", "ping") == "pong"
        assert bob.calls.refused_count == refused + 2
        assert bob.processes.statistics().runtime_count == 0


@pytest.mark.parametrize("attach", [False, True])
async def test_signals_that_are_none_cut_their_runtime_off(tmp_path: Path, attach: bool) -> None:
    async with open_small_node(tmp_path, "alice") as alice:
        with trio.fail_after(5):
            async with open_client(alice.config.node.socket) as client:
                if attach:
                    await client.call("", "process", "attach", {})
                body = frames.call_body(b"process/signals", b"\xff" * 60)
                client._submit(frames.frame(frames.CAST, 0, body))
                with pytest.raises(NoConnection):
                    await client.call("", "node", "ping", timeout=3)
        assert alice.processes.statistics().runtime_count == 0


async def test_junk_from_a_node_closes_its_link_and_the_next_one_is_good(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (alice, bob):
        endpoint = alice.links.endpoint("bob")
        assert endpoint is not None
        endpoint.cast(frames.call_body(b"process/segment", b""), b"\xff" * 40)
        await wait_up(alice, "bob", up=False)
        await wait_up(alice, "bob")
        assert bob.links.protocol_error_count == 1
        async with attached(alice) as (a, _), attached(bob) as (b, _):
            a.send(SEND, b.process(1), dumps("good again"))
            await b.wait(SEND)


# -- who does not read


class Deaf:
    """A client by hand that attaches and then reads nothing until it is told to."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.connect(str(path))
        self.reader = FrameReader()
        self.pid = Pid("nobody", 0, 0)
        self.bytes = 0

    async def attach(self) -> None:
        self.sock.send(frames.frame(frames.HELLO, 0, dumps({"role": "client", "version": 1})))
        call = frames.call_body(b"/process/attach", dumps([{}]))
        self.sock.send(frames.frame(frames.CALL, 2, call))
        while not self.pid.number:
            await trio.lowlevel.wait_readable(self.sock)
            for frame in self.reader.receive_data(self.sock.recv(65_536)):
                if frame.kind == frames.REPLY:
                    value = loads(frame.body[1:])
                    number = value["serial"] << SERIAL_SHIFT
                    self.pid = Pid(value["node"], value["incarnation"], number)

    async def read(self, count: int) -> None:
        while self.bytes < count:
            await trio.lowlevel.wait_readable(self.sock)
            self.bytes += len(self.sock.recv(1 << 20))


async def test_who_sends_to_a_runtime_that_does_not_read_is_paused(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (alice, bob):
        deaf = Deaf(bob.config.node.socket)
        with deaf.sock, trio.fail_after(20):
            await deaf.attach()
            async with attached(alice) as (far, _), attached(bob) as (near, _):
                to = Pid(deaf.pid.node, deaf.pid.incarnation, deaf.pid.number + 1)
                for _ in range(6):
                    near.send(SEND, to, bytes(LARGE))
                near.send(SEND, to, dumps("one more"))
                assert [each.sender for each in await near.wait(PAUSE)] == [deaf.pid]
                far.send(SEND, to, dumps("from far"))
                assert [each.sender for each in await far.wait(PAUSE)] == [deaf.pid]
                assert RESUME not in [each.kind for each in near.signals + far.signals]
                await deaf.read(6 * LARGE)
                for runtime in (near, far):
                    resume = (await runtime.wait(RESUME))[-1]
                    assert resume.sender == deaf.pid


async def test_raw_segments_of_a_worker_are_nobodys(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "alice") as alice:
        export = alice.missions.exports[b"process/segment"]
        assert export.rings == {"member"}
        with pytest.raises(NotPermitted):
            alice.calls.permit(b"process/segment", "worker", b"")
        with pytest.raises(RemoteProtocolError):
            alice.processes._on_signals(None, b"")  # type: ignore[arg-type]
