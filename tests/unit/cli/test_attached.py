from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.cli.attached import open_attached
from drupelet.errors import NoConnection
from drupelet.process import Request, ask, node, receive, register, reply, whereis
from tests.unit.services.nodes import open_small_node


async def echo() -> None:
    await register("one")
    while True:
        match await receive():
            case Request(caller, value):
                await reply(caller, value)


async def ask_one() -> object:
    """Of a program of its own: this task's runtime is the one that was opened last."""
    while await whereis("one") is None:
        await trio.lowlevel.checkpoint()
    return await ask("one", "hello")


async def test_two_programs_of_one_node(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "alice") as alice:
        socket = str(alice.config.node.socket)
        async with open_attached(socket) as (client, runtime):
            assert (client.name, runtime.node, node()) == ("alice", "alice", "alice")
            one = runtime.start(echo, ())
            async with open_attached(socket) as (_, other):
                assert (await ask_one(), other.runtimes) == ("hello", {runtime.pid})
            while runtime.runtimes:  # until it has heard that the other one left
                await trio.testing.wait_all_tasks_blocked()
            assert one.received_count == 1


async def test_what_the_block_raises_comes_as_it_is(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "alice") as alice:
        with pytest.raises(LookupError, match="not here"):
            async with open_attached(str(alice.config.node.socket)):
                raise LookupError("not here")
        with trio.move_on_after(0.05) as scope:
            async with open_attached(str(alice.config.node.socket)):
                await trio.Event().wait()
        assert scope.cancelled_caught
    with pytest.raises(NoConnection, match="no_daemon"):
        async with open_attached(str(tmp_path / "none")):
            raise AssertionError
