"""The process's end of the channel, and when it gives up; no network is touched."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from drupelet.discovery.process import DaemonChannel, DiscoveryProcess
from drupelet.discovery.responder import GatedLoop
from drupelet.wire import limits
from drupelet.wire.frames import FrameReader
from drupelet.wire.messages import discovery as messages

KEY = "abcdefghij234567"
NOWHERE = messages.Start(key_prefix=KEY, name="gandalf", port=4370, interfaces=("nowhere0",))
ENDED_S = 5.0


class Daemon:
    """The other end, blocking with a timeout; used from a worker thread of the loop."""

    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw
        self.raw.settimeout(ENDED_S)
        self._reader = FrameReader()
        self._pending: list[messages.Message] = []

    def send(self, message: messages.Message) -> None:
        self.raw.sendall(messages.encode(message))

    async def receive(self) -> messages.Message:
        while not self._pending:
            data = await asyncio.get_running_loop().sock_recv(self.raw, 4_096)
            assert data
            self._pending += [messages.decode(f) for f in self._reader.receive_data(data)]
        return self._pending.pop(0)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def run(theirs: socket.socket, scene: Coroutine[Any, Any, None]) -> DiscoveryProcess:
    """Play the scene as the daemon; the process must end by itself after it."""

    async def both() -> DiscoveryProcess:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, GatedLoop)
        process = DiscoveryProcess(DaemonChannel(theirs), loop)
        async with asyncio.timeout(ENDED_S):
            await asyncio.gather(process.run(), scene)
        return process

    with asyncio.Runner(loop_factory=GatedLoop) as runner:
        return runner.run(both())


def test_hello_start_ping_and_end(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.setblocking(False)
    daemon = Daemon(ours)
    ours.setblocking(False)

    async def scene() -> None:
        assert await daemon.receive() == messages.Hello()
        daemon.send(NOWHERE)
        daemon.send(messages.Ping(b"12345678"))
        reports = []
        while (message := await daemon.receive()) != messages.Pong(b"12345678"):
            reports.append(message)
        assert reports and all(report == messages.Report() for report in reports)
        ours.close()

    run(theirs, scene())


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 9,
        messages.encode(messages.Hello()),
        messages.encode(NOWHERE) * 2,
        messages.encode(messages.Report()),
    ],
    ids=["junk", "hello", "second start", "report"],
)
def test_a_daemon_that_breaks_the_protocol_ends_it(
    pair: tuple[socket.socket, socket.socket], data: bytes
) -> None:
    ours, theirs = pair

    async def scene() -> None:
        ours.sendall(data)

    run(theirs, scene())


def test_a_daemon_that_says_nothing_ends_it(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drupelet.discovery.process.START_S", 0.01)

    async def scene() -> None:
        return

    run(pair[1], scene())


def test_found_goes_through_the_window(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    daemon = Daemon(ours)
    ours.setblocking(False)

    async def scene() -> None:
        await daemon.receive()
        daemon.send(NOWHERE)
        assert await daemon.receive() == messages.Report()
        for number in range(limits.CANDIDATES_PER_ORIGIN_MAX + 1):
            found = messages.Found(
                key_prefix="k" * 16, name="bilbo", host=f"10.0.0.{number}", port=4370
            )
            process._on_found("10.0.0.1", found)
        daemon.send(messages.Ping(b"12345678"))
        received = []
        while (message := await daemon.receive()) != messages.Pong(b"12345678"):
            received.append(message)
        hosts = [message.host for message in received if isinstance(message, messages.Found)]
        assert hosts == [f"10.0.0.{number}" for number in range(limits.CANDIDATES_PER_ORIGIN_MAX)]
        assert received[-1] == messages.Report(dropped_count=1)
        ours.close()

    async def both() -> None:
        nonlocal process
        loop = asyncio.get_running_loop()
        assert isinstance(loop, GatedLoop)
        process = DiscoveryProcess(DaemonChannel(theirs), loop)
        async with asyncio.timeout(ENDED_S):
            await asyncio.gather(process.run(), scene())

    process: DiscoveryProcess
    with asyncio.Runner(loop_factory=GatedLoop) as runner:
        runner.run(both())


def test_a_daemon_that_does_not_read_costs_whole_messages_only(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_608)
    channel = DaemonChannel(theirs)
    found = messages.Found(key_prefix=KEY, name="n" * 127, host="10.0.0.1", port=4370)
    sent = 0
    while not channel.dropped_count and sent < 10_000:
        channel.send(found)
        sent += 1
    assert 0 < sent < 10_000
    reader, received = FrameReader(), 0
    ours.setblocking(False)
    for _ in range(2):  # empties the socket; the rest of a cut frame follows with the next send
        while True:
            try:
                received += len(reader.receive_data(ours.recv(65_536)))
            except BlockingIOError:
                break
        channel.send(found)
        sent += 1
    received += len(reader.receive_data(ours.recv(65_536)))
    assert received == sent - channel.dropped_count
