"""The keeper of the discovery process, against a fake process on a Unix socket and the real one."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.core.candidates import Candidate
from drupelet.errors import LocalProtocolError
from drupelet.services import discovery
from drupelet.services.discovery import Discovery
from drupelet.wire import limits
from drupelet.wire.frames import FrameReader
from drupelet.wire.messages import discovery as messages

OWN = "o" * 16
WAIT_S = 10.0  # a test that waits this long has failed


@dataclass(frozen=True, slots=True)
class Settings:
    enabled: bool = True
    interfaces: tuple[str, ...] = ("nowhere0",)


class Peer:
    """A discovery process as the daemon sees it, honest or not."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._reader = FrameReader()
        self._pending: list[messages.Message] = []

    async def send(self, *sent: messages.Message) -> None:
        await self.stream.send_all(b"".join(messages.encode(message) for message in sent))

    async def receive(self) -> messages.Message:
        while not self._pending:
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self._pending += [messages.decode(f) for f in self._reader.receive_data(bytes(data))]
        return self._pending.pop(0)

    async def wait_closed(self) -> None:
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            while True:
                await self.receive()


class Scene:
    """A keeper that accepts on a Unix socket, and what it passed on."""

    def __init__(self, path: Path | None) -> None:
        self.passed: list[Candidate] = []
        self.keeper = Discovery(
            Settings(),
            key_prefix=OWN,
            name="gandalf",
            port=4370,
            on_candidate=self.passed.append,
            socket_path=path,
        )
        self._path = path
        self.peers: list[Peer] = []

    async def connect(self) -> Peer:
        """Connect as systemd's process would; it tries again until the daemon listens."""
        while True:
            try:
                self.peers.append(Peer(await trio.open_unix_socket(str(self._path))))
            except OSError:
                await trio.testing.wait_all_tasks_blocked(0.005)
            else:
                return self.peers[-1]

    async def greeted(self) -> Peer:
        peer = await self.connect()
        await peer.send(messages.Hello())
        start = await peer.receive()
        assert start == messages.Start(
            key_prefix=OWN, name="gandalf", port=4370, interfaces=("nowhere0",)
        )
        return peer


@asynccontextmanager
async def playing(path: Path | None) -> AsyncIterator[Scene]:
    scene = Scene(path)
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(scene.keeper.run)
            yield scene
            for peer in scene.peers:
                peer.stream.socket.close()
            nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def _quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "RESTART_BASE_S", 0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "discovery.sock"


def found(number: int, key_prefix: str = "k" * 16) -> messages.Found:
    host = f"10.0.{number // 256}.{number % 256}"
    return messages.Found(key_prefix=key_prefix, name="bilbo", host=host, port=4370)


async def until(is_so: Callable[[], bool]) -> None:
    """Let the keeper read until it is so; the scene's deadline bounds it."""
    while not is_so():
        await trio.testing.wait_all_tasks_blocked(0.005)


async def test_candidates_pass_and_own_ones_do_not(path: Path) -> None:
    async with playing(path) as scene:
        peer = await scene.greeted()
        assert stat.S_IMODE(path.stat().st_mode) == discovery.SOCKET_MODE  # noqa: ASYNC240
        report = messages.Report(interfaces=("eth0",), packet_count=7)
        await peer.send(found(1), found(1), found(2, OWN), found(3), report)
        await until(lambda: scene.keeper.statistics().report == report)
        assert [candidate.host for candidate in scene.passed] == ["10.0.0.1", "10.0.0.3"]
        assert scene.passed[0] == Candidate(
            source="mdns", host="10.0.0.1", port=4370, name="bilbo", key_prefix="k" * 16
        )
        statistics = scene.keeper.statistics()
        assert statistics.connected and statistics.start_count == 1
        assert statistics.candidates.own_count == 1


async def test_the_process_is_not_trusted_with_the_rate(path: Path) -> None:
    async with playing(path) as scene:
        peer = await scene.greeted()
        await peer.send(*(found(number) for number in range(65)), messages.Report(packet_count=1))
        await until(lambda: scene.keeper.statistics().report.packet_count == 1)
        assert len(scene.passed) == limits.CANDIDATES_PER_WINDOW_MAX


async def test_a_process_far_above_its_limits_is_cut_off(path: Path) -> None:
    most = discovery.MESSAGES_PER_WINDOW_MAX
    async with playing(path) as scene:
        peer = await scene.greeted()
        await peer.send(*(messages.Report(packet_count=n) for n in range(1, most + 1)))
        await until(lambda: scene.keeper.statistics().report.packet_count == most)
        await peer.send(messages.Report())
        await peer.wait_closed()
        await scene.greeted()
        assert scene.keeper.statistics().start_count == 2


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 9,
        messages.encode(messages.Ping(b"12345678")),
        messages.encode(messages.Start(key_prefix=OWN, name="mallory", port=4370)),
        messages.encode(found(1)).replace(b"10.0.0.1", b"127.0.01"),
    ],
    ids=["junk", "ping", "start", "loopback"],
)
async def test_a_process_that_breaks_the_protocol_is_cut_off(path: Path, data: bytes) -> None:
    async with playing(path) as scene:
        peer = await scene.greeted()
        await peer.stream.send_all(data)
        await peer.wait_closed()
        await scene.greeted()
        assert scene.passed == []


async def test_a_process_that_does_not_greet_is_cut_off(path: Path) -> None:
    async with playing(path) as scene:
        peer = await scene.connect()
        await peer.send(found(1))
        await peer.wait_closed()
        assert scene.passed == []


async def test_a_process_that_does_not_answer_is_cut_off(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "PING_INTERVAL_S", 0.02)
    monkeypatch.setattr(discovery, "ANSWER_S", 0.05)
    async with playing(path) as scene:
        peer = await scene.greeted()
        for _ in range(3):  # as long as it answers it stays
            ping = await peer.receive()
            assert isinstance(ping, messages.Ping)
            await peer.send(messages.Pong(ping.token))
        await peer.wait_closed()
        await scene.greeted()


async def test_one_process_at_a_time(path: Path) -> None:
    async with playing(path) as scene:
        first = await scene.greeted()
        with pytest.raises(OSError):
            await trio.open_unix_socket(str(path))
        await first.stream.aclose()
        await scene.greeted()


async def test_a_file_in_the_way_is_kept(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text("precious")  # noqa: ASYNC240
    async with playing(path):
        await until(lambda: "is no socket; remove it" in caplog.text)
    assert path.read_text() == "precious"  # noqa: ASYNC240


async def test_a_killed_process_is_replaced_and_a_cancelled_keeper_leaves_none() -> None:
    async with playing(None) as scene:
        keeper = scene.keeper
        await until(lambda: keeper.statistics().connected)
        first = keeper.statistics().process_id
        os.kill(first, signal.SIGKILL)
        await until(lambda: keeper.statistics().process_id not in (0, first))
        await until(lambda: keeper.statistics().connected)
        second = keeper.statistics().process_id
    for process_id in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(process_id, 0)


async def test_switched_off_it_returns_at_once(path: Path) -> None:
    keeper = Discovery(
        Settings(enabled=False),
        key_prefix=OWN,
        name="gandalf",
        port=4370,
        on_candidate=lambda candidate: None,
        socket_path=path,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
    assert not path.exists()  # noqa: ASYNC240


def test_a_key_that_is_none_is_our_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        Discovery(
            Settings(), key_prefix="short", name="", port=4370, on_candidate=lambda candidate: None
        )


def test_a_name_that_mdns_cannot_carry_is_left_out() -> None:
    keeper = Discovery(
        Settings(), key_prefix=OWN, name="gänd", port=4370, on_candidate=lambda candidate: None
    )
    assert keeper._start.name == ""
