"""Which process a piece of code belongs to, and tasks that become one."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from drupelet.errors import ProcessExit, ReceiveTimeout
from drupelet.process import (
    Down,
    Exit,
    Pid,
    ask,
    exit,
    is_process_alive,
    link,
    monitor,
    process_info,
    receive,
    register,
    self,
    send,
    send_nowait,
    spawn,
    spawn_monitor,
    trap_exit,
    whereis,
)
from drupelet.process.current import process_var, retire, this_process, this_runtime
from drupelet.process.running import open_runtime
from drupelet.process.runtime import Runtime
from tests.unit.process.values import alone
from tests.unit.process.wires import on, open_wires, settle, start, virtual


def in_runtime(main: object) -> None:
    async def whole() -> None:
        async with open_runtime() as runtime:
            await main(runtime)  # type: ignore[operator]

    trio.run(whole, clock=MockClock(autojump_threshold=0))


def test_what_a_process_starts_in_its_own_nursery_acts_for_it() -> None:
    async def main() -> None:
        me = self()
        pids: list[Pid] = []

        async def child() -> None:
            pids.append(self())
            await send(me, "from a child")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(child)
        assert pids == [me, me]
        assert [await receive(), await receive()] == ["from a child"] * 2

    alone(main)


def test_a_process_that_is_spawned_is_another() -> None:
    async def main() -> None:
        me = self()
        pid, ref = await spawn_monitor(lambda: send_nowait(me, self()))
        assert await receive() == pid != me
        assert await receive() == Down(ref, pid, "normal")
        assert self() == me

    alone(main)


def test_a_task_becomes_a_process_when_it_needs_a_pid() -> None:
    async def main(runtime: Runtime) -> None:
        await spawn(trio.sleep_forever)
        assert len(runtime.processes) == 1 and process_var.get(None) is None
        with pytest.raises(ReceiveTimeout):
            await receive(timeout=1)
        me = self()
        assert len(runtime.processes) == 2 and self() == me and this_runtime() is runtime
        assert process_info()["parent"] is None and "whole" in process_info()["function"]
        await register("task")
        await send("task", 1)
        assert await receive() == 1
        watcher, _ = await spawn_monitor(watch, me)
        await settle()
        retire()
        retire()
        assert not is_process_alive(me) and await whereis("task") is None
        await settle()
        assert runtime.find(watcher) is None  # it saw "normal"
        with pytest.raises(ProcessExit):
            self()

    in_runtime(main)


async def watch(pid: Pid) -> None:
    ref = monitor(pid)
    assert await receive() == Down(ref, pid, "normal")


def test_a_process_does_not_retire_by_it() -> None:
    async def main() -> None:
        retire()
        assert is_process_alive(self())

    alone(main)


def test_a_task_that_became_one_ends_at_once_when_it_is_told_to() -> None:
    """Nothing can cancel it: it is told at its next word, or where it waits for a message."""

    async def main(runtime: Runtime) -> None:
        async def waiting() -> None:
            with pytest.raises(ProcessExit, match="over"):
                await receive()
            ended.append("receive")
            for act in (self, this_process, trap_exit):
                with pytest.raises(ProcessExit):
                    act()  # type: ignore[operator]
            with pytest.raises(ProcessExit):
                await send(self_before[0], 1)
            with pytest.raises(ProcessExit):
                await receive()
            with pytest.raises(ProcessExit):
                exit(self_before[0], "x")
            ended.append("more")

        async def naming() -> None:
            self_before.append(self())
            await waiting()

        ended: list[str] = []
        self_before: list[Pid] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(naming)
            await settle()
            (pid,) = self_before
            ref = monitor(pid)
            exit(pid, "over")
            assert not is_process_alive(pid)
            assert await receive() == Down(ref, pid, "over")
        assert ended == ["receive", "more"]

    in_runtime(main)


def test_one_that_asks_when_it_is_told_to_end_hears_of_it_there() -> None:
    async def main(runtime: Runtime) -> None:
        async def asking() -> None:
            pids.append(self())
            for _ in range(2):
                with pytest.raises(ProcessExit, match="over"):
                    await ask(server, 1, timeout=3)
            assert trio.current_time() == 0

        pids: list[Pid] = []
        server = await spawn(trio.sleep_forever)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asking)
            await settle()
            exit(pids[0], "over")
        assert not runtime.asks

    in_runtime(main)


def test_all_links_of_a_task_that_became_one_end_with_the_first() -> None:
    """A node goes with two processes that it is linked to: it ends once, and nothing breaks."""

    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            servers = [await start(bob), await start(bob)]
            adopted = alice.adopt()
            near = alice.start(trio.sleep_forever, ())
            for server in servers:
                alice.link(adopted, server)
            alice.link(adopted, near.pid)
            near.trap_exit = True
            await settle()
            wires.cut("alice", "bob")
            await settle()
            assert not adopted.alive and adopted.exit_reason == "noconnection"
            assert list(near.messages or ()) == [Exit(adopted.pid, "noconnection")]

            async def others() -> object:
                return await whereis("nobody")

            assert await on(alice, others) is None

    virtual(main)


def test_a_link_between_tasks_that_became_processes() -> None:
    async def main(runtime: Runtime) -> None:
        pids: list[Pid] = []

        async def one() -> None:
            pids.append(self())
            with pytest.raises(ProcessExit, match="over"):
                await receive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            nursery.start_soon(one)
            await settle()
            first, second = (runtime.find(pid) for pid in pids)
            assert first is not None and second is not None
            runtime.link(first, second.pid)
            exit(second.pid, "over")
        assert not first.alive and first.exit_reason == "over"
        link(self())

    in_runtime(main)
