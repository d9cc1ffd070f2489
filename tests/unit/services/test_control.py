"""The control socket: who gets in, what stands in its way, and what is left of it."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.client import open_client
from drupelet.errors import ConfigError, RemoteError
from drupelet.services import control
from drupelet.services.control import Control
from drupelet.wire import frames
from drupelet.wire.codec import dumps
from drupelet.wire.frames import frame
from drupelet.wire.limits import CLIENTS_MAX
from tests.unit.services.pairs import Side, open_side

OPERATOR = frozenset({"operator"})


def make(side: Side, path: Path) -> Control:
    return Control(path, side.calls, side.flusher, side.deadlines, name="alice", key="KEY")


@asynccontextmanager
async def open_control(path: Path) -> AsyncIterator[tuple[Control, Side]]:
    async with open_side("alice") as side, trio.open_nursery() as nursery:
        service = make(side, path)
        service.open()
        nursery.start_soon(service.run)
        yield service, side
        nursery.cancel_scope.cancel()


async def test_a_client_calls_as_the_operator(tmp_path: Path) -> None:
    async with open_control(tmp_path / "sock") as (service, side):
        side.serve("node", OPERATOR, secret=lambda: 7)
        async with open_client(tmp_path / "sock") as client:
            assert await client.call("", "node", "secret") == 7
            assert await client.call("alice", "node", "secret") == 7
            assert (client.name, client.key) == ("alice", "KEY")
            assert len(service.clients) == 1
            with pytest.raises(RemoteError, match="undef"):
                await client.call("", "node", "nothing")
        await trio.testing.wait_all_tasks_blocked()
        assert not service.clients


async def test_only_the_group_may_open_it(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        async with open_control(tmp_path / "deep" / "er" / "sock"):
            mode = (tmp_path / "deep" / "er" / "sock").stat().st_mode
            assert stat.S_IMODE(mode) == 0o660
            assert stat.S_IMODE((tmp_path / "deep" / "er").stat().st_mode) & 0o007 == 0
            assert os.umask(0o022) == 0o022, "the mask is put back"
    finally:
        os.umask(mask)


async def test_a_dead_daemons_socket_is_replaced_a_living_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with open_control(path), open_side("second") as second:
        with pytest.raises(ConfigError, match="another drupeletd answers"):
            make(second, path).open()
        async with open_client(path):
            pass
    assert not path.exists()


async def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    path.write_text("mine")
    async with open_side("alice") as side:
        with pytest.raises(ConfigError, match="is not a socket"):
            make(side, path).open()
    assert path.read_text() == "mine"


async def test_a_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with open_side("alice") as side:
        with pytest.raises(ConfigError, match=r"cannot listen on .*file/sock") as caught:
            make(side, tmp_path / "file" / "sock").open()
        assert caught.value.key == "[node] socket"
        with pytest.raises(ConfigError, match="108 bytes"):
            make(side, tmp_path / ("x" * 200)).open()


async def test_stopping_leaves_a_successors_socket_alone(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    async with open_control(path) as (first, _):
        first.stop_accepting()
        assert not path.exists()
        async with open_control(path):
            first.stop_accepting()
            assert path.exists()
            async with open_client(path):
                pass


async def test_clients_that_are_in_stay_while_stopping(tmp_path: Path) -> None:
    async with open_control(tmp_path / "sock") as (service, side):
        side.serve("node", OPERATOR, ping=lambda: "pong")
        async with open_client(tmp_path / "sock") as client:
            service.stop_accepting()
            await trio.testing.wait_all_tasks_blocked()
            assert await client.call("", "node", "ping") == "pong"


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\n\r\n" * 20,
        frame(frames.HELLO, 0, dumps({"role": "client", "version": 2})),
        frame(frames.HELLO, 0, dumps(["client"])),
        frame(frames.HELLO, 0, b"\xff"),
        frame(frames.GOSSIP, 0, b""),
        frame(frames.CALL, 3, b"\0"),
    ],
)
async def test_who_is_no_client_is_put_out(tmp_path: Path, junk: bytes) -> None:
    async with open_control(tmp_path / "sock") as (service, side):
        side.serve("node", OPERATOR, ping=lambda: "pong")
        stranger = await trio.open_unix_socket(str(tmp_path / "sock"))
        async with stranger, open_client(tmp_path / "sock") as client:
            await stranger.send_all(junk)
            with trio.fail_after(2):
                try:
                    while await stranger.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
            assert service.refused_count == 1
            assert await client.call("", "node", "ping") == "pong"


async def test_clients_at_the_maximum_and_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "CLIENTS_MAX", 3)
    assert CLIENTS_MAX > 3
    async with open_control(tmp_path / "sock") as (service, _):
        streams = [await trio.open_unix_socket(str(tmp_path / "sock")) for _ in range(4)]
        for each in streams[:3]:
            assert await each.receive_some()
        assert await streams[3].receive_some() == b""
        assert service.refused_count == 1
        await streams[0].aclose()
        await trio.testing.wait_all_tasks_blocked()
        async with await trio.open_unix_socket(str(tmp_path / "sock")) as again:
            assert await again.receive_some()
        for each in streams[1:]:
            await each.aclose()
