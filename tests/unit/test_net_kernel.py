"""A program becomes part of a node while it runs, and leaves it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet import (
    Down,
    Exit,
    Pid,
    ProcessDown,
    Request,
    ask,
    exit,
    is_alive,
    link,
    monitor,
    net_kernel,
    node,
    pg,
    process_info,
    receive,
    register,
    registered,
    reply,
    self,
    send,
    spawn,
    trap_exit,
    whereis,
)
from drupelet.cli.attached import open_attached
from drupelet.errors import NoConnection
from drupelet.node import Node
from drupelet.process.running import open_runtime, run_main
from tests.unit.services.nodes import open_small_node


async def serve() -> None:
    await register("server")
    while True:
        match await receive():
            case Request(caller, value):
                await reply(caller, (self(), value))
            case (Pid() as pid, value):
                await send(pid, (self(), value))


async def alone(main: object, *args: object) -> object:
    """As `run(main)`, in this loop."""
    with trio.fail_after(20):
        async with open_runtime() as runtime:
            return await run_main(runtime, main, *args)  # type: ignore[arg-type]


async def elsewhere(where: Node, main: object, *args: object) -> object:
    async with open_attached(str(where.config.node.socket)) as (_, runtime):
        return await run_main(runtime, main, *args)  # type: ignore[arg-type]


async def test_on_and_off(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "alice") as alice:
        socket = alice.config.node.socket

        async def main() -> None:
            pid = await spawn(serve)
            assert await ask(pid, 1) == (pid, 1)
            with pytest.raises(NoConnection, match="no_daemon"):
                await net_kernel.start(tmp_path / "none")
            for _ in range(2):
                assert (is_alive(), node()) == (False, "nonode@nohost")
                assert await net_kernel.start(socket) == "alice"
                assert (is_alive(), node()) == (True, "alice")
                with pytest.raises(RuntimeError, match="part of alice already"):
                    await net_kernel.start(socket)
                assert await whereis("server") == pid
                assert await registered() == ["server"]  # the whole node knows it
                assert await ask(pid, 2) == (pid, 2)
                assert await net_kernel.stop() is True
                assert await ask("server", 3) == (pid, 3)
            assert await net_kernel.stop() is False

        await alone(main)


async def test_processes_that_are_older_than_the_node_are_reached(tmp_path: Path) -> None:
    """And reach others: the first one, which calls `start`, is such a process."""
    async with open_small_node(tmp_path, "alice") as alice:

        async def far(old: Pid) -> None:
            """A program of its own, which knows what it was sent."""
            there = await whereis("server", "alice")
            assert there is not None and there.node == "alice"
            assert await ask(there, 1) == (there, 1)
            assert await ask(("server", "alice"), 2) == (there, 2)
            await send(there, (self(), 3))
            assert await receive((there, 3), timeout=5) == (there, 3)
            ref = monitor(there)
            link(there)
            trap_exit(True)
            exit(there, "boom")
            ends = [await receive(timeout=5), await receive(timeout=5)]
            assert Down(ref, there, "boom") in ends
            assert Exit(there, "boom") in ends
            with pytest.raises(ProcessDown):
                await ask(there, 4)
            await send(("first", "alice"), (self(), "done"))
            assert await receive(timeout=5) == "thanks"

        async def main() -> None:
            old = await spawn(serve)
            ref = monitor(old)
            await register("first")
            await net_kernel.start(alice.config.node.socket)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(elsewhere, alice, far, old)
                assert await receive(timeout=10) == Down(ref, old, "boom")  # the pid that we know
                who, word = await receive(timeout=10)
                assert (who.node, word) == ("alice", "done")
                far_ref = monitor(who)
                await send(who, "thanks")
                down = await receive(timeout=10)
                assert (down.ref, down.pid) == (far_ref, who)

        await alone(main)


async def test_a_process_that_is_older_than_the_node_is_told_of_an_end(tmp_path: Path) -> None:
    """By DOWN, not by the end of the other's program."""
    async with open_small_node(tmp_path, "alice") as alice:

        async def far(_: Pid) -> None:
            watched = await spawn(serve)
            await send(("first", "alice"), (self(), watched))
            assert await receive(timeout=5) == "end it"
            exit(watched, "boom")
            assert await receive(timeout=5) == "thanks"

        async def main() -> None:
            await register("first")
            await net_kernel.start(alice.config.node.socket)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(elsewhere, alice, far, self())
                who, watched = await receive(timeout=10)
                ref = monitor(watched)
                await send(who, "end it")
                assert await receive(timeout=5) == Down(ref, watched, "boom")
                await send(who, "thanks")

        await alone(main)


async def test_groups_that_are_older_than_the_node(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "alice") as alice:

        async def far() -> None:
            while not (members := pg.get_members("servers")):
                await trio.lowlevel.checkpoint()
            (member,) = members
            assert member.node == "alice"
            assert await ask(member, 1) == (member, 1)
            exit(member, "kill")
            while pg.get_members("servers"):
                await trio.lowlevel.checkpoint()

        async def main() -> None:
            pid = await spawn(serve)
            pg.join("servers", pid)
            await net_kernel.start(alice.config.node.socket)
            assert pg.get_members("servers") == [pid]  # the pid that we know
            await elsewhere(alice, far)
            assert pg.get_members("servers") == []

        await alone(main)


async def test_a_daemon_that_ends_leaves_the_program_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_small_node(tmp_path, "alice") as alice:
            await net_kernel.start(alice.config.node.socket)
            assert is_alive()
        while is_alive():
            await trio.lowlevel.checkpoint()
        assert node() == "nonode@nohost"
        pid = await spawn(serve)
        assert await ask(pid, 1) == (pid, 1)
        async with open_small_node(tmp_path, "alice") as alice:
            assert await net_kernel.start(alice.config.node.socket) == "alice"
            assert await registered() == ["server"]

    await alone(main)


async def test_names_are_told_once_each_time_and_freed_with_their_holder(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "alice") as alice:

        async def main() -> None:
            pid = await spawn(serve)
            await ask(pid, 1)
            for _ in range(3):
                await net_kernel.start(alice.config.node.socket)
                assert process_info(pid)["names"] == ["server"]
                await net_kernel.stop()
            await net_kernel.start(alice.config.node.socket)
            ref = monitor(pid)
            exit(pid, "kill")
            assert await receive(timeout=5) == Down(ref, pid, "killed")
            await register("server")
            assert await registered() == ["server"]

        await alone(main)


async def test_a_name_that_another_program_has_is_lost_and_its_heir_s_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_small_node(tmp_path, "alice") as alice:

        async def holder(done: trio.Event) -> None:
            await register("server")
            held.set()
            await done.wait()

        async def main() -> None:
            done = trio.Event()
            loser = await spawn(serve)
            await ask(loser, 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(elsewhere, alice, holder, done)
                await held.wait()
                await net_kernel.start(alice.config.node.socket)
                assert "name_taken 'server' is the name of <alice." in caplog.text
                assert process_info(loser)["names"] == []
                there = await whereis("server")
                assert there is not None and there != loser
                done.set()
            while await whereis("server") is not None:
                await trio.lowlevel.checkpoint()
            await register("server")
            ref = monitor(loser)
            exit(loser, "kill")  # once it had that name
            assert await receive(timeout=5) == Down(ref, loser, "killed")
            assert await whereis("server") == self() and await registered() == ["server"]

        held = trio.Event()
        await alone(main)


async def test_two_starts_at_once_and_what_is_sent_meanwhile(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "alice") as alice:

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(net_kernel.start, alice.config.node.socket)
                while not net_kernel._joining:  # which of the two runs first is trio's dice
                    await trio.lowlevel.checkpoint()
                with pytest.raises(RuntimeError, match="about to be part of a node already"):
                    await net_kernel.start(alice.config.node.socket)
                assert not is_alive()
                far = Pid("bob", 1, 5)  # a runtime alone reaches nobody, and says so
                ref = monitor(far)
                assert await receive(timeout=5) == Down(ref, far, "noconnection")
            assert is_alive()
            with trio.move_on_after(0):
                await net_kernel.stop()
            while is_alive():
                await trio.lowlevel.checkpoint()
            with trio.CancelScope() as scope:
                scope.cancel()
                await net_kernel.start(alice.config.node.socket)
            assert not is_alive()
            assert await net_kernel.start(alice.config.node.socket) == "alice"

        await alone(main)


async def test_a_stop_after_the_daemon_s_end_says_that_there_was_none(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_small_node(tmp_path, "alice") as alice:
            await net_kernel.start(alice.config.node.socket)
        while is_alive():
            await trio.lowlevel.checkpoint()
        assert await net_kernel.stop() is False
        assert await net_kernel.stop() is False

    await alone(main)


async def test_outside_of_any_process() -> None:
    for function in (net_kernel.start, net_kernel.stop):
        with pytest.raises(RuntimeError, match="no process runs here"):
            await function()
