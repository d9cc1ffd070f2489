from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from drupelet.cli import demo, places
from drupelet.cli.demo import NAMES, choose_mapper_port, program, show_what_to_try
from drupelet.cli.output import Failed
from tests.unit.cli.conftest import Run


@pytest.fixture
def foreign() -> Iterator[int]:
    """The port of something that is no port mapper: it takes connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def serve_names(text: bytes, task_status: trio.TaskStatus[int]) -> None:
    """A port mapper that answers NAMES."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"\0\0\x11\x11" + text)

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(listener.socket.getsockname()[1])
        async with listener:
            while True:
                nursery.start_soon(serve, await listener.accept())


async def test_a_free_port_is_taken() -> None:
    port = free_port()
    assert await choose_mapper_port(port, NAMES) == port


async def test_a_running_port_mapper_is_joined_unless_it_has_our_names(
    nursery: trio.Nursery,
) -> None:
    port = await nursery.start(serve_names, b"name gandalf at port 4370\n")
    assert await choose_mapper_port(port, ("bilbo",)) == port
    with pytest.raises(Failed, match="gandalf"):
        await choose_mapper_port(port, ("gandalf", "bilbo"))


async def test_another_port_is_used_and_told_when_the_usual_one_is_foreign(
    foreign: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = free_port()
    monkeypatch.setattr(places, "MAPPER_PORT", foreign)
    monkeypatch.setattr(demo, "_OTHER_MAPPER_PORTS", (foreign, other))
    assert await choose_mapper_port(0, NAMES) == other
    assert f"using {other}" in capsys.readouterr().err


async def test_a_foreign_port_that_was_asked_for_is_refused(foreign: int) -> None:
    with pytest.raises(Failed, match="no port mapper"):
        await choose_mapper_port(foreign, NAMES)


def test_what_to_try_starts_with_what_the_user_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / ".venv" / "bin" / "drupelet"
    script.parent.mkdir(parents=True)
    script.touch()
    monkeypatch.setattr(sys, "argv", [str(script), "demo"])
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir(tmp_path)
    assert program() == ".venv/bin/drupelet"
    monkeypatch.chdir("/usr")
    assert program() == str(script)
    monkeypatch.setenv("PATH", f"/nowhere:{script.parent}")
    assert program() == "drupelet"
    show_what_to_try({"gandalf": 1, "bilbo": 2})
    out = capsys.readouterr().out
    assert "  drupelet call gandalf kvs store weather fine\n" in out
    assert "  kill -9 2 " in out
    assert """  drupelet call gandalf ring around '["gandalf", "bilbo"]' 30 100\n""" in out


@pytest.mark.parametrize("count", ["0", str(len(NAMES) + 1)])
def test_the_number_of_nodes_is_bounded(run: Run, count: str) -> None:
    assert len(NAMES) == 16
    assert run("demo", "-n", count)[0] == 2
