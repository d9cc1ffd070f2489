"""Tasks, and their supervisors. Time is virtual where nothing computes in a thread."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.errors import ProcessDown, Refused, Timeout
from drupelet.process import (
    Down,
    Exit,
    Mailbox,
    Pid,
    exit,
    flush,
    is_process_alive,
    process_info,
    receive,
    run,
    self,
    send,
    spawn,
    spawn_monitor,
    trap_exit,
    whereis,
)
from drupelet.process.gen_server import GenServer
from drupelet.process.supervisor import Supervisor
from drupelet.process.task import Task, TaskSupervisor
from tests.unit.process.servers import virtual

settled = trio.testing.wait_all_tasks_blocked


async def later(seconds: float, value: object) -> object:
    await trio.sleep(seconds)
    return value


def at_once(value: object) -> object:
    return value


async def crash(seconds: float = 0) -> None:
    await trio.sleep(seconds)
    raise ValueError("bad")


async def stubborn(seconds: float, value: object) -> object:
    trap_exit()
    await trio.sleep(seconds)
    return value


def play(main: Any, *args: object) -> Any:
    return run(main, *args, clock=virtual())


# -- async and await


def test_the_value_of_a_task() -> None:
    async def main() -> None:
        began = trio.current_time()
        tasks = [await Task.async_(later, 3, "slow"), await Task.async_(at_once, "quick")]
        assert process_info(tasks[0].pid)["links"] == [self()]
        assert process_info(tasks[0].pid)["function"].endswith("later")
        assert [await task for task in tasks] == ["slow", "quick"]
        assert trio.current_time() - began == pytest.approx(3)
        assert await tasks[0] == "slow"  # as often as one likes
        await settled()
        assert await flush() == []
        assert not is_process_alive(tasks[0].pid)
        assert repr(tasks[0]) == f"<Task {tasks[0].pid} of {self()}>"

    play(main)


def test_other_messages_stay() -> None:
    async def main() -> None:
        await send(self(), "before")
        task = await Task.async_(later, 1, 1)
        await send(self(), (task.pid, 2))
        await send(self(), [task.ref, 3])
        assert await task == 1
        assert await flush() == ["before", (task.pid, 2), [task.ref, 3]]

    play(main)


def test_one_that_takes_too_long_is_ended() -> None:
    async def main() -> None:
        task = await Task.async_(later, 6, 1)
        with pytest.raises(Timeout):
            await task
        assert not is_process_alive(task.pid)
        task = await Task.async_(later, 6, 1)
        assert await Task.await_(task, timeout=7) == 1
        assert await flush() == []

    play(main)


def test_a_crash_is_the_owners_too() -> None:
    async def main() -> object:
        async def owner() -> None:
            await (await Task.async_(crash))

        await spawn_monitor(owner)
        return (await receive(Down)).reason

    assert play(main) == ("ValueError", "bad")


def test_an_owner_that_traps_exits_sees_both() -> None:
    async def main() -> None:
        trap_exit()
        task = await Task.async_(crash)
        with pytest.raises(ProcessDown) as caught:
            await task
        assert caught.value.reason == ("ValueError", "bad")
        assert await flush() == [Exit(task.pid, ("ValueError", "bad"))]

    play(main)


def test_a_task_ends_with_its_owner() -> None:
    async def main() -> None:
        test = self()

        async def owner() -> None:
            await send(test, (await Task.async_(later, 100, 1)).pid)
            exit("over")

        await spawn(owner)
        pid = await receive(Pid)
        await settled()
        assert not is_process_alive(pid)

    play(main)


def test_a_value_that_is_no_data_is_a_crash_of_the_task() -> None:
    async def main() -> object:
        trap_exit()
        with pytest.raises(ProcessDown) as caught:
            await (await Task.async_(at_once, object()))
        return caught.value.reason

    assert play(main)[0] == "NotSendable"


def test_only_its_owner_may_wait() -> None:
    async def main() -> None:
        task = await Task.async_(later, 1, 1)
        reasons = []
        for wait in (Task.await_, Task.yield_, Task.shutdown):
            await spawn_monitor(wait, task)
            reasons.append((await receive(Down)).reason)
        assert [(kind, "only its owner" in text) for kind, text in reasons] == [
            ("RuntimeError", True)
        ] * 3
        assert await task == 1

    play(main)


def test_a_full_mailbox_does_not_keep_the_value_out() -> None:
    async def main() -> None:
        test = self()

        async def owner() -> None:
            task = await Task.async_(later, 1, "value")
            await send(self(), "fills it")
            await send(test, await task)

        await spawn(owner, mailbox=Mailbox(limit=1))
        assert await receive() == "value"

    play(main)


@pytest.mark.parametrize("where", ["thread", "process"])
def test_a_task_that_computes(where: str) -> None:
    async def main() -> object:
        task = await Task.async_(zlib.crc32, b"drupelet", where=where)
        return await Task.await_(task, timeout=60)

    assert run(main) == zlib.crc32(b"drupelet")


# -- many


def test_the_values_of_many_in_their_order() -> None:
    async def main() -> None:
        began = trio.current_time()
        tasks = [await Task.async_(later, 3 - number, number) for number in range(3)]
        assert await Task.await_many(tasks) == [0, 1, 2]
        assert trio.current_time() - began == pytest.approx(3)
        assert await Task.await_many([]) == []
        assert await Task.await_many([tasks[0], tasks[0]]) == [0, 0]

    play(main)


def test_when_one_of_many_fails_the_others_are_ended() -> None:
    async def main() -> None:
        await TaskSupervisor.start_link(name="tasks")
        began = trio.current_time()
        tasks = [
            await TaskSupervisor.async_nolink("tasks", later, 3, 1),
            await TaskSupervisor.async_nolink("tasks", crash, 1),
            await TaskSupervisor.async_nolink("tasks", at_once, 2),
        ]
        with pytest.raises(ProcessDown) as caught:
            await Task.await_many(tasks)
        assert caught.value.reason == ("ValueError", "bad")
        assert trio.current_time() - began == pytest.approx(1)
        assert [is_process_alive(task.pid) for task in tasks] == [False] * 3
        assert await Task.yield_(tasks[2]) == ("ok", 2)
        assert await flush() == []

    play(main)


def test_many_that_take_too_long_are_ended() -> None:
    async def main() -> None:
        tasks = [await Task.async_(later, seconds, 1) for seconds in (1, 3, 4)]
        with pytest.raises(Timeout):
            await Task.await_many(tasks, timeout=2)
        assert [is_process_alive(task.pid) for task in tasks] == [False] * 3
        assert await Task.yield_(tasks[1]) == ("exit", "killed")
        assert await flush() == []

    play(main)


# -- yield and shutdown


def test_yield_does_not_end_it() -> None:
    async def main() -> None:
        task = await Task.async_(later, 3, "value")
        assert await Task.yield_(task, timeout=0) is None
        assert await Task.yield_(task, timeout=2) is None
        assert await Task.yield_(task, timeout=2) == ("ok", "value")

    play(main)


def test_yield_many() -> None:
    async def main() -> None:
        await TaskSupervisor.start_link(name="tasks")
        tasks = [
            await TaskSupervisor.async_nolink("tasks", later, 1, "value"),
            await TaskSupervisor.async_nolink("tasks", crash),
            await TaskSupervisor.async_nolink("tasks", later, 9, "late"),
        ]
        outcomes = await Task.yield_many(tasks, timeout=2)
        assert outcomes == [
            (tasks[0], ("ok", "value")),
            (tasks[1], ("exit", ("ValueError", "bad"))),
            (tasks[2], None),
        ]
        assert await Task.yield_(tasks[2], timeout=9) == ("ok", "late")

    play(main)


@pytest.mark.parametrize(
    ("timeout", "seconds", "outcome"),
    [(5, 3, ("ok", "value")), (2, 9, None), ("brutal_kill", 9, None)],
)
def test_shutdown_waits_for_one_that_does_not_end_at_once(
    timeout: Any, seconds: float, outcome: object
) -> None:
    async def main() -> None:
        task = await Task.async_(stubborn, seconds, "value")
        await settled()
        assert await Task.shutdown(task, timeout) == outcome
        assert not is_process_alive(task.pid)
        assert await flush() == []

    play(main)


def test_shutdown_of_one_that_ends_or_has_ended() -> None:
    async def main() -> None:
        task = await Task.async_(later, 9, 1)
        assert await Task.shutdown(task) is None
        task = await Task.async_(at_once, 1)
        await settled()
        assert await Task.shutdown(task) == ("ok", 1)
        assert await Task.shutdown(task) == ("ok", 1)
        trap_exit()
        task = await Task.async_(crash)
        await settled()
        assert await Task.shutdown(task) == ("exit", ("ValueError", "bad"))
        assert await flush() == []

    play(main)


# -- below a supervisor


def test_tasks_below_a_supervisor() -> None:
    async def main() -> None:
        supervisor = await TaskSupervisor.start_link(name="tasks")
        task = await TaskSupervisor.async_("tasks", later, 1, "value")
        assert await TaskSupervisor.children("tasks") == [task.pid]
        assert set(process_info(task.pid)["links"]) == {supervisor, self()}
        assert process_info(task.pid)["function"].endswith("later")
        assert await task == "value"
        await settled()
        assert await TaskSupervisor.children("tasks") == []

    play(main)


def test_a_crash_of_one_without_a_link_is_not_the_owners() -> None:
    async def main() -> None:
        await TaskSupervisor.start_link(name="tasks")
        task = await TaskSupervisor.async_nolink("tasks", crash)
        with pytest.raises(ProcessDown):
            await task
        assert await TaskSupervisor.children("tasks") == []
        linked = await TaskSupervisor.async_nolink("tasks", at_once, 3)
        assert await linked == 3

    play(main)


def test_a_server_takes_the_value_among_its_messages() -> None:
    class Kitchen(GenServer):
        def init(self) -> None:
            self.done: list[object] = []

        async def boil(self, what: str) -> None:
            function, args = (crash, ()) if what == "bad" else (later, (1, what))
            self.task = await TaskSupervisor.async_nolink("tasks", function, *args)

        def ready(self) -> list[object]:
            return self.done

        def handle_info(self, message: Any) -> None:
            match message:
                case (ref, value) if ref == self.task.ref:
                    self.done.append(value)
                case Down(ref=ref, reason=reason) if ref == self.task.ref:
                    self.done.append(reason)

    async def main() -> None:
        await TaskSupervisor.start_link(name="tasks")
        kitchen = await Kitchen.start()
        for what in ("water", "bad"):
            await GenServer.call(kitchen, "boil", what)
            await trio.sleep(2)
        assert await GenServer.call(kitchen, "ready") == ["water", "normal", ("ValueError", "bad")]

    play(main)


def test_a_child_whose_value_nobody_waits_for() -> None:
    async def main() -> None:
        test = self()

        async def work(word: str) -> None:
            await send(test, word)

        await TaskSupervisor.start_link(name="tasks")
        pid = await TaskSupervisor.start_child("tasks", work, "done")
        assert await receive() == "done"
        await settled()
        assert not is_process_alive(pid)

    play(main)


def test_they_end_with_their_supervisor() -> None:
    async def main() -> None:
        top = await Supervisor.start_link([TaskSupervisor])
        ((_, tasks, kind, _),) = await Supervisor.which_children(top)
        assert kind == "supervisor" and isinstance(tasks, Pid)
        task = await TaskSupervisor.async_nolink(tasks, later, 100, 1)
        await Supervisor.stop(top)
        assert await Task.yield_(task) == ("exit", "shutdown")

    play(main)


def test_an_owner_that_is_gone_before_the_task_knows_it() -> None:
    async def main() -> None:
        supervisor = await TaskSupervisor.start_link()
        gone, _ = await spawn_monitor(at_once, 1)
        await receive(Down)
        from drupelet.process.behaviours import ask_verb
        from drupelet.process.current import this_runtime
        from drupelet.process.parcels import pack

        with pack(this_runtime(), supervisor, at_once) as code:
            pid = await ask_verb(supervisor, "start", (gone, code, (1,), "inline"))
        await settled()
        assert not is_process_alive(pid)

    play(main)


def test_a_supervisor_that_is_full_or_not_there() -> None:
    async def main() -> None:
        await TaskSupervisor.start_link(name="tasks", max_children=1)
        task = await TaskSupervisor.async_("tasks", later, 1, 1)
        with pytest.raises(Refused) as caught:
            await TaskSupervisor.async_("tasks", later, 1, 1)
        assert caught.value.reason == "max_children"
        assert await task == 1
        with pytest.raises(ProcessDown):
            await TaskSupervisor.start_child("nobody", at_once, 1)
        assert await whereis("tasks") is not None

    play(main)


@pytest.mark.parametrize("where", ["thread", "process"])
def test_one_below_a_supervisor_that_computes(where: str) -> None:
    async def main() -> object:
        await TaskSupervisor.start_link(name="tasks")
        task = await TaskSupervisor.async_nolink("tasks", zlib.crc32, b"drupelet", where=where)
        return await Task.await_(task, timeout=60)

    assert run(main) == zlib.crc32(b"drupelet")
