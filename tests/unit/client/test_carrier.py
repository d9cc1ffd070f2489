"""A client that runs processes, against a daemon of our own making."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.client import open_client
from drupelet.client.carrier import CONGESTED_BYTES, PIECE_BYTES_MAX, Carrier
from drupelet.errors import NoConnection, RemoteError, RemoteProtocolError
from drupelet.wire import frames
from drupelet.wire.codec import dumps, loads
from drupelet.wire.frames import Frame, FrameReader
from drupelet.wire.limits import HELD_BYTES_MAX

HELLO = {"role": "daemon", "version": 1, "name": "alice", "key": "k", "software": "0"}
ATTACHED = {"node": "alice", "incarnation": 7, "serial": 3, "nodes": ["bob"]}


class Recorder:
    def __init__(self) -> None:
        self.calls: list[object] = []

    def receive(self, data: bytes) -> None:
        self.calls.append(data)

    def attached(self, node: str, incarnation: int, serial: int, nodes: Sequence[str] = ()) -> None:
        self.calls.append((node, incarnation, serial, list(nodes)))

    def detached(self, reason: str = "noconnection") -> None:
        self.calls.append(reason)


class Daemon:
    """The daemon's end of one client's connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._reader = FrameReader()
        self._frames: list[Frame] = []

    async def next(self) -> Frame:
        while not self._frames:
            self._frames += self._reader.receive_data(await self.stream.receive_some(65_536))
        return self._frames.pop(0)

    async def send(self, kind: int, ident: int, body: bytes) -> None:
        await self.stream.send_all(frames.frame(kind, ident, body))

    async def signals(self, data: bytes) -> None:
        await self.send(frames.CAST, 0, frames.call_body(b"process/signals", data))

    async def answer_attach(self, answer: object, early: bytes = b"") -> list[object]:
        attach = await self.next()
        parts = frames.split_call(attach.body)
        assert (attach.kind, parts.target) == (frames.CALL, b"/process/attach")
        if early:
            await self.signals(early)
        await self.send(frames.REPLY, attach.ident, b"\0" + dumps(answer))
        args: list[object] = loads(parts.args)
        return args


class Accepted:
    """The one connection that comes."""

    def __init__(self) -> None:
        self.daemon: Daemon | None = None
        self.ready = trio.Event()

    async def receive(self) -> Daemon:
        await self.ready.wait()
        assert self.daemon is not None
        return self.daemon


@asynccontextmanager
async def open_daemon(tmp_path: Path) -> AsyncIterator[tuple[str, Accepted]]:
    path = str(tmp_path / "sock")
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await listener.bind(path)
    listener.listen()
    accepted = Accepted()

    async def accept() -> None:
        sock, _ = await listener.accept()
        accepted.daemon = Daemon(trio.SocketStream(sock))
        await accepted.daemon.send(frames.HELLO, 0, dumps(HELLO))
        hello = await accepted.daemon.next()
        assert hello.kind == frames.HELLO
        accepted.ready.set()

    with trio.fail_after(10), listener:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                yield path, accepted
        finally:
            if accepted.daemon is not None:
                await trio.aclose_forcefully(accepted.daemon.stream)


@asynccontextmanager
async def attached(tmp_path: Path) -> AsyncIterator[tuple[Carrier, Recorder, Daemon]]:
    async with open_daemon(tmp_path) as (path, accepted), open_client(path) as client:
        daemon = await accepted.receive()
        carrier, runtime = Carrier(client), Recorder()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carrier.attach, runtime, {"shell": b"d"})
            assert await daemon.answer_attach(ATTACHED) == [{"shell": b"d"}]
        yield carrier, runtime, daemon


async def test_it_attaches_and_nothing_comes_before_that(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as (path, accepted), open_client(path) as client:
        daemon = await accepted.receive()
        carrier, runtime = Carrier(client), Recorder()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carrier.attach, runtime)
            assert await daemon.answer_attach(ATTACHED, early=b"early") == [{}]
        assert runtime.calls == [("alice", 7, 3, ["bob"]), b"early"]
        await daemon.signals(b"later")
        await daemon.send(frames.CAST, 0, frames.call_body(b"something/else", b"not for us"))
        await trio.testing.wait_all_tasks_blocked()
        assert runtime.calls[2:] == [b"later"]
        await daemon.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert runtime.calls[3:] == ["noconnection"]


async def test_signals_of_one_pass_are_one_cast_and_large_ones_are_cut(tmp_path: Path) -> None:
    async with attached(tmp_path) as (carrier, _, daemon):
        for piece in (b"one", b"two", b"three"):
            carrier.send(piece)
        parts = frames.split_call((await daemon.next()).body)
        assert (parts.target, parts.args) == (b"process/signals", b"onetwothree")
        large = bytes(range(256)) * 4_096
        carrier.send(large)
        found = b""
        while len(found) < len(large):
            args = frames.split_call((await daemon.next()).body).args
            assert len(args) <= PIECE_BYTES_MAX
            found += args
        assert found == large


async def test_calls_and_casts_are_the_clients(tmp_path: Path) -> None:
    async with attached(tmp_path) as (carrier, _, daemon):
        results: list[object] = []

        async def run() -> None:
            results.append(await carrier.call("bob", "kvs", "store", ["k", 1], 2.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            sent = await daemon.next()
            assert frames.split_call(sent.body).target == b"bob/kvs/store"
            await daemon.send(frames.REPLY, sent.ident, b"\0" + dumps("value"))
        assert results == ["value"]
        await carrier.cast("bob", "kvs", "store", ["k"])
        assert (await daemon.next()).kind == frames.CAST


async def test_congested_at_the_maximum_and_one_above(tmp_path: Path) -> None:
    async with attached(tmp_path) as (carrier, _, daemon):
        carrier.send(bytes(CONGESTED_BYTES))
        assert not carrier.congested
        carrier.send(b"x")
        assert carrier.congested
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carrier.wait_sendable)
            read = 0
            while read <= CONGESTED_BYTES:
                read += len(frames.split_call((await daemon.next()).body).args)
        assert not carrier.congested


async def test_what_waits_is_bounded_at_the_maximum_and_one_above(tmp_path: Path) -> None:
    async with attached(tmp_path) as (carrier, runtime, daemon):
        for _ in range(8):
            carrier.send(bytes(HELD_BYTES_MAX // 8))
        assert carrier.dropped_count == 0
        carrier.send(b"x")
        assert carrier.dropped_count == 1
        await daemon.stream.aclose()  # who waits is let go
        await carrier.wait_sendable()
        await trio.testing.wait_all_tasks_blocked()
        assert runtime.calls[-1] == "noconnection"
        with pytest.raises(NoConnection):
            await carrier.call("", "node", "ping", [], 1.0)


@pytest.mark.parametrize("answer", [None, {}, {"node": "alice", "serial": 1}])
async def test_an_answer_that_is_none(tmp_path: Path, answer: object) -> None:
    async with open_daemon(tmp_path) as (path, accepted), open_client(path) as client:
        daemon = await accepted.receive()
        carrier = Carrier(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.answer_attach, answer)
            with pytest.raises(RemoteProtocolError, match="malformed"):
                await carrier.attach(Recorder())


async def test_a_refusal_is_told(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as (path, accepted), open_client(path) as client:
        daemon = await accepted.receive()
        carrier = Carrier(client)

        async def refuse() -> None:
            attach = await daemon.next()
            fields = [1, "undef", "no mission process", ""]
            await daemon.send(frames.ERROR, attach.ident, dumps(fields))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)
            with pytest.raises(RemoteError, match="no mission process"):
                await carrier.attach(Recorder())
