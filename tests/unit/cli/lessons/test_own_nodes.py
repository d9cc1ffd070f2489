"""What a lesson's own nodes are made of. That they start and stop: tests/integration."""

from __future__ import annotations

import socket
from collections import deque
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from drupelet.cli import places
from drupelet.cli.lessons.own_nodes import (
    NAMES,
    OwnNodes,
    QuietChild,
    free_port,
    open_own_nodes,
    write_node,
)
from drupelet.cli.output import Failed
from drupelet.config import load


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_a_node_begins_afresh() -> None:
    file = write_node("bilbo", 4_369)
    config = load(file)
    assert (config.node.name, config.portmapper.port) == ("bilbo", 4_369)
    assert list(config.missions.dir.iterdir()) == []
    old = config.node.state_dir
    old.mkdir()
    write_node("bilbo", 4_369)
    assert not old.exists()


class FakeChild:
    name = "bilbo"

    def __init__(self, *, has_ended: bool) -> None:
        self.last = deque(["first", "last words"])
        self.ended = trio.Event()
        if has_ended:
            self.ended.set()

    async def wait_ready(self) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    def how_it_ended(self) -> str:
        return "ended with exit code 78"


@pytest.mark.parametrize(("has_ended", "words"), [(True, "exit code 78"), (False, "not ready")])
async def test_a_node_that_does_not_start_shows_its_log(has_ended: bool, words: str) -> None:
    child = cast(Any, FakeChild(has_ended=has_ended))
    with pytest.raises(Failed, match=f"node bilbo .*{words}.*\n  first\n  last words") as caught:
        await OwnNodes._wait_ready(child)
    assert "drupelet demo" in caught.value.mend


def test_a_log_is_kept_short() -> None:
    child = QuietChild.__new__(QuietChild)
    child.last = deque(maxlen=5)
    for number in range(9):
        child.say(str(number))
    assert list(child.last) == ["4", "5", "6", "7", "8"]


def test_the_port_of_their_mapper_is_free() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass


async def test_never_beside_a_demo() -> None:
    with places.demo_lock():
        with pytest.raises(Failed, match="a demo runs already"):
            async with open_own_nodes():
                raise AssertionError("two clusters of the same names")
    assert NAMES == ("gandalf", "bilbo", "frodo")
