"""DynamicSupervisor: children of one kind. Time is virtual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.errors import NotSendable, ProcessDown, Refused
from drupelet.process import (
    Down,
    Pid,
    ask,
    exit,
    is_process_alive,
    monitor,
    receive,
    run,
    self,
    send,
    spawn_link,
    trap_exit,
)
from drupelet.process.behaviours import IGNORE
from drupelet.process.children import Child, start_calls
from drupelet.process.dynamic_supervisor import DynamicSupervisor
from drupelet.process.supervisor import Supervisor
from drupelet.wire.limits import CHILDREN_MAX

settled = trio.testing.wait_all_tasks_blocked
started: list[tuple[object, ...]] = []


async def live(*args: object) -> None:
    started.append(args)
    exit(await receive())


def virtual(main: Callable[..., Any], *args: object) -> Any:
    started.clear()
    return run(main, *args, clock=trio.testing.MockClock(autojump_threshold=0))


async def pids(supervisor: Pid) -> list[Any]:
    return [pid for _, pid, _, _ in await DynamicSupervisor.which_children(supervisor)]


def test_children_get_the_template_s_arguments_and_their_own() -> None:
    async def main() -> None:
        supervisor = await DynamicSupervisor.start_link(Child("live", (live, (1,))), name="many")
        none = {"specs": 1, "active": 0, "supervisors": 0, "workers": 0}
        assert await DynamicSupervisor.count_children("many") == none
        first = await DynamicSupervisor.start_child("many", 2, "x")
        second = await DynamicSupervisor.start_child("many")
        assert started == [(1, 2, "x"), (1,)]
        shown = await DynamicSupervisor.which_children(supervisor)
        assert shown == [(None, pid, "worker", [__name__]) for pid in (first, second)]
        with pytest.raises(NotSendable):
            await DynamicSupervisor.start_child(supervisor, object())

    virtual(main)


@pytest.mark.parametrize(
    ("restart", "reason", "again"),
    [
        ("permanent", "normal", True),
        ("permanent", "boom", True),
        ("transient", "boom", True),
        ("transient", ("shutdown", "word"), False),
        ("temporary", "boom", False),
    ],
)
def test_restarts(restart: str, reason: object, again: bool) -> None:
    async def main() -> None:
        supervisor = await DynamicSupervisor.start_link(Child("live", live, restart=restart))
        pid = await DynamicSupervisor.start_child(supervisor, "x")
        await send(pid, reason)
        await settled()
        assert started == [("x",)] * (2 if again else 1)
        left = await pids(supervisor)
        assert len(left) == again
        assert pid not in left

    virtual(main)


def test_too_many_restarts_end_it() -> None:
    async def main() -> None:
        trap_exit()
        supervisor = await DynamicSupervisor.start_link(live, intensity=2)
        children = [await DynamicSupervisor.start_child(supervisor, n) for n in range(4)]
        ref = monitor(children[3])
        for pid in children[:3]:
            assert is_process_alive(supervisor)
            await send(pid, "boom")
            await settled()
        down = await receive(Down)
        assert (down.ref, down.reason) == (ref, "shutdown")
        assert not is_process_alive(supervisor)
        assert started == [(0,), (1,), (2,), (3,), (0,), (1,)]

    virtual(main)


def test_a_restart_that_fails_is_tried_again() -> None:
    async def main() -> None:
        tries: list[int] = []

        async def start_it(number: int) -> Pid:
            tries.append(number)
            if len(tries) in (3, 4):
                await trio.sleep(1)
                raise ValueError("not yet")
            return await spawn_link(live, number)

        supervisor = await DynamicSupervisor.start_link(
            Child("it", start_calls(start_it)), intensity=3
        )
        first = await DynamicSupervisor.start_child(supervisor, 1)
        second = await DynamicSupervisor.start_child(supervisor, 2)
        await send(first, "boom")
        assert await pids(supervisor) == [first, second]  # asked before it knew
        assert await pids(supervisor) == [second, "restarting"]
        counts = await DynamicSupervisor.count_children(supervisor)
        assert (counts["active"], counts["workers"]) in ((1, 2), (2, 2))
        await trio.sleep(5)
        assert tries == [1, 2, 1, 1, 1]
        left = await pids(supervisor)
        assert len(left) == 2
        assert left[0] == second

    virtual(main)


def test_one_that_waits_for_its_restart_can_be_terminated() -> None:
    async def main() -> None:
        tries = 0

        async def start_it() -> Pid:
            nonlocal tries
            tries += 1
            if tries > 1:
                await trio.sleep(1)
                raise ValueError("never again")
            return await spawn_link(live)

        supervisor = await DynamicSupervisor.start_link(
            Child("it", start_calls(start_it)), intensity=1_000
        )
        pid = await DynamicSupervisor.start_child(supervisor)
        await send(pid, "boom")
        await settled()
        await DynamicSupervisor.terminate_child(supervisor, pid)
        await trio.sleep(10)
        assert tries == 2
        assert await pids(supervisor) == []

    virtual(main)


def test_a_start_that_fails_or_ignores() -> None:
    async def main() -> None:
        def start_it(what: str) -> Any:
            if what == "ignore":
                return IGNORE
            raise ValueError(what)

        supervisor = await DynamicSupervisor.start_link(Child("it", start_calls(start_it)))
        assert await DynamicSupervisor.start_child(supervisor, "ignore") is None
        with pytest.raises(Refused) as caught:
            await DynamicSupervisor.start_child(supervisor, "bad")
        assert caught.value.reason == ("ValueError", "bad")
        assert await pids(supervisor) == []

    virtual(main)


def test_at_most_so_many_children() -> None:
    async def main() -> None:
        supervisor = await DynamicSupervisor.start_link(live, max_children=2)
        first = await DynamicSupervisor.start_child(supervisor)
        await DynamicSupervisor.start_child(supervisor)
        with pytest.raises(Refused, match="max_children"):
            await DynamicSupervisor.start_child(supervisor)
        await DynamicSupervisor.terminate_child(supervisor, first)
        await DynamicSupervisor.start_child(supervisor)
        trap_exit()
        for number in (-1, CHILDREN_MAX + 1, True):
            with pytest.raises(ProcessDown, match="max_children"):
                await DynamicSupervisor.start_link(live, max_children=number)
        await DynamicSupervisor.start_link(live, max_children=CHILDREN_MAX)

    virtual(main)


def test_terminate() -> None:
    async def main() -> None:
        supervisor = await DynamicSupervisor.start_link(live)
        pid = await DynamicSupervisor.start_child(supervisor)
        await DynamicSupervisor.terminate_child(supervisor, pid)
        assert not is_process_alive(pid)
        assert await pids(supervisor) == []
        await DynamicSupervisor.terminate_child(supervisor, pid)  # it does not run: so it is
        for stranger in (self(), Pid("bob", 7, 42)):
            with pytest.raises(Refused, match="not_found"):
                await DynamicSupervisor.terminate_child(supervisor, stranger)
        for wrong in (
            ask(supervisor, ("terminate", "live")),
            ask(supervisor, ("restart", "live")),
            ask(supervisor, ("delete", "live")),
        ):
            assert await wrong == ("error", "simple_one_for_one")

    virtual(main)


def test_at_the_end_all_stop_at_once() -> None:
    async def slow(seconds: float) -> None:
        trap_exit()
        try:
            await receive("never", timeout=0)
        except Exception:
            await receive()
        await trio.sleep(seconds)
        exit("shutdown")

    async def main() -> None:
        supervisor = await DynamicSupervisor.start_link(Child("slow", slow, shutdown=5))
        children = [await DynamicSupervisor.start_child(supervisor, n) for n in (1, 2, 3, 100)]
        refs = {monitor(pid): pid for pid in children}
        began = trio.current_time()
        await DynamicSupervisor.stop(supervisor)
        assert trio.current_time() - began == pytest.approx(5)
        reasons = {}
        for _ in children:
            down = await receive(Down)
            reasons[refs[down.ref]] = down.reason
        assert [reasons[pid] for pid in children] == ["shutdown"] * 3 + ["killed"]

    virtual(main)


@pytest.mark.parametrize("shutdown", ["brutal_kill", float("inf")])
def test_other_ways_to_stop(shutdown: Any) -> None:
    async def main() -> object:
        supervisor = await DynamicSupervisor.start_link(Child("live", live, shutdown=shutdown))
        ref = monitor(await DynamicSupervisor.start_child(supervisor))
        await DynamicSupervisor.stop(supervisor)
        down = await receive(Down)
        assert down.ref == ref
        return down.reason

    assert virtual(main) == ("killed" if shutdown == "brutal_kill" else "shutdown")


def test_many_children_end_in_linear_time() -> None:
    async def main() -> None:
        supervisor = await DynamicSupervisor.start_link(live)
        children = [await DynamicSupervisor.start_child(supervisor) for _ in range(3_000)]
        await DynamicSupervisor.stop(supervisor)
        assert not any(is_process_alive(pid) for pid in children)

    virtual(main)


def test_supervisors_as_children() -> None:
    async def main() -> None:
        supervisor = await DynamicSupervisor.start_link(Supervisor)
        inner = await DynamicSupervisor.start_child(supervisor, [])
        assert await Supervisor.which_children(inner) == []
        counts = await DynamicSupervisor.count_children(supervisor)
        assert (counts["supervisors"], counts["workers"]) == (1, 0)

    virtual(main)
