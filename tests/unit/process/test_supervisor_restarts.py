"""Supervisors: intensity, and exit signals that come at a bad time. Time is virtual."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from drupelet.errors import Refused
from drupelet.process import (
    Down,
    Exit,
    Pid,
    exit,
    is_process_alive,
    monitor,
    process_info,
    receive,
    self,
    send,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
)
from drupelet.process.children import Child, start_calls
from drupelet.process.supervisor import Supervisor
from tests.unit.process.children import Log, end, pids, start, virtual, waiting

settled = trio.testing.wait_all_tasks_blocked


# -- intensity


def test_as_many_restarts_as_allowed_within_the_period() -> None:
    async def main() -> None:
        log = Log()
        supervisor = await start(log, "a", intensity=2, period_s=5)
        for _ in range(6):  # never more than two in five seconds
            await end(supervisor, "a")
            await end(supervisor, "a")
            await trio.sleep(5.5)
        assert is_process_alive(supervisor)

    virtual(main)


def test_one_more_ends_the_supervisor_and_its_children() -> None:
    async def main() -> Any:
        log = Log()
        trap_exit()
        supervisor = await start(log, "abc", intensity=2, period_s=5)
        log.taken()
        for seconds in (2, 2.9, 0):
            await end(supervisor, "b")
            await trio.sleep(seconds)
        message = await receive(Exit)
        assert message == Exit(supervisor, "shutdown")
        return log.taken()

    events = virtual(main)
    assert events[-3:] == [("end", "b"), ("end", "c"), ("end", "a")]
    assert events.count(("start", "b")) == 2


def test_a_restart_that_fails_is_tried_again_and_counts() -> None:
    fails = 0
    tries = 0

    async def start_it() -> Pid:
        nonlocal tries
        tries += 1
        if 1 < tries <= 1 + fails:
            raise ValueError("not yet")
        return await spawn_link(waiting)

    async def main(count: int) -> object:
        nonlocal fails, tries
        fails, tries = count, 0
        trap_exit()
        supervisor = await Supervisor.start_link([Child("a", start_calls(start_it))], intensity=3)
        exit((await pids(supervisor))["a"], "kill")
        await settled()
        return is_process_alive(supervisor), tries

    assert virtual(main, 2) == (True, 4)
    assert virtual(main, 3) == (False, 4)


def test_between_two_tries_it_can_be_asked_and_stopped() -> None:
    async def main() -> None:
        broken = False
        states: list[object] = []

        async def start_it() -> Pid:
            if broken:
                await trio.sleep(1)
                raise ValueError("broken")
            return await spawn_link(waiting)

        supervisor = await Supervisor.start_link(
            [Child("a", start_calls(start_it))], intensity=1_000, period_s=1
        )
        broken = True
        exit((await pids(supervisor))["a"], "kill")
        await settled()
        states.append((await pids(supervisor))["a"])
        for refused in (Supervisor.restart_child, Supervisor.delete_child):
            with pytest.raises(Refused, match="restarting"):
                await refused(supervisor, "a")
        await Supervisor.terminate_child(supervisor, "a")
        states.append((await pids(supervisor))["a"])
        await trio.sleep(10)
        states.append((await pids(supervisor))["a"])
        assert states == ["restarting", None, None]

    virtual(main)


def test_a_group_that_fails_to_start_again_stops_at_the_one_that_failed() -> None:
    async def main() -> None:
        log = Log()
        tries = 0

        async def start_it() -> Pid:
            nonlocal tries
            tries += 1
            if tries == 2:
                raise ValueError("not yet")
            return await spawn_link(log.live, "b")

        children = [log.child("a"), Child("b", start_calls(start_it)), log.child("c")]
        supervisor = await Supervisor.start_link(children, strategy="one_for_all", intensity=2)
        await end(supervisor, "c")
        assert tries == 3
        assert log.taken() == [
            *[("start", id) for id in "abc"],
            *[("end", id) for id in "cba"],
            ("start", "a"),  # and b fails
            ("end", "a"),
            *[("start", id) for id in "abc"],
        ]

    virtual(main)


# -- exit signals are not lost


def test_a_child_that_ends_while_another_one_starts_is_restarted_then() -> None:
    async def main() -> None:
        log = Log()

        async def slow() -> Pid:
            await trio.sleep(10)
            return await spawn_link(log.live, "slow")

        supervisor = await start(log, "ab")
        before = await pids(supervisor)
        async with trio.open_nursery() as nursery:
            slow_child = Child("slow", start_calls(slow))
            nursery.start_soon(Supervisor.start_child, supervisor, slow_child)
            await trio.sleep(5)
            for id in "ab":
                await send(before[id], "boom")
                await settled()
        await settled()
        after = await pids(supervisor)
        assert list(after) == ["slow", "b", "a"]
        assert all(is_process_alive(pid) for pid in after.values())
        assert log.taken()[2:] == [
            ("end", "a"),
            ("end", "b"),
            ("start", "slow"),
            ("start", "a"),
            ("start", "b"),
        ]

    virtual(main)


def test_a_child_that_ends_while_another_one_stops_is_restarted_then() -> None:
    async def main() -> None:
        log = Log()

        async def stubborn() -> None:
            trap_exit()
            await receive("never")

        supervisor = await Supervisor.start_link(
            [log.child("a"), Child("stubborn", stubborn, shutdown=10)]
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Supervisor.terminate_child, supervisor, "stubborn")
            await trio.sleep(5)
            await send(log_pid := (await _linked(supervisor, log)), "boom")
            assert log_pid
        await settled()
        assert log.taken() == [("start", "a"), ("end", "a"), ("start", "a")]

    virtual(main)


async def _linked(supervisor: Pid, log: Log) -> Pid:
    """The child that lives in `log`; the supervisor is busy and cannot be asked."""
    for pid in process_info(supervisor)["links"]:
        if "live" in str(process_info(pid)["function"]):
            assert isinstance(pid, Pid)
            return pid
    raise AssertionError("no such child")


def test_the_parent_s_end_is_dealt_with_after_a_slow_start() -> None:
    async def main() -> None:
        log = Log()

        async def parent() -> None:
            await Supervisor.start_link([log.child("a"), Child("slow", start_calls(slow))])

        async def slow() -> Pid:
            await trio.sleep(10)
            return await spawn_link(log.live, "slow")

        pid = await spawn(parent)
        await trio.sleep(5)
        exit(pid, "boom")
        await trio.sleep(4)
        assert log.events == [("start", "a")]
        await trio.sleep(2)
        assert log.taken()[1:] == [("start", "slow"), ("end", "slow"), ("end", "a")]

    virtual(main)


def test_a_supervisor_ends_with_its_parent_and_so_do_its_children() -> None:
    async def main() -> None:
        log = Log()

        async def parent() -> None:
            supervisor = await start(log, "ab")
            await send(test, supervisor)
            exit("boom")

        test = self()
        await spawn(parent)
        supervisor = await receive(Pid)
        ref = monitor(supervisor)
        down = await receive(Down)
        assert (down.ref, down.reason) in ((ref, "boom"), (ref, "noproc"))
        assert log.taken()[-2:] == [("end", "b"), ("end", "a")]

    virtual(main)


def test_an_exit_signal_of_a_stranger_is_ignored() -> None:
    async def main() -> None:
        log = Log()
        supervisor = await start(log, "a")
        await spawn_monitor(exit, supervisor, "boom")
        await receive(Down)
        await send(supervisor, "a message")
        assert list(await pids(supervisor)) == ["a"]
        assert log.taken() == [("start", "a")]

    virtual(main)


# -- significant children


@pytest.mark.parametrize(
    ("auto_shutdown", "ends", "lives"),
    [
        ("any_significant", [("a", "normal")], False),
        ("any_significant", [("a", "boom")], True),  # transient: it runs again
        ("any_significant", [("t", "boom")], False),
        ("any_significant", [("x", "normal")], True),  # not a significant one
        ("all_significant", [("a", "normal")], True),
        ("all_significant", [("a", "normal"), ("t", "normal")], False),
        ("never", [("x", "normal")], True),
    ],
)
def test_the_end_of_significant_children(
    auto_shutdown: str, ends: list[tuple[str, str]], lives: bool
) -> None:
    async def main() -> None:
        log = Log()
        trap_exit()
        significant = auto_shutdown != "never"
        children = [
            log.child("a", restart="transient", significant=significant),
            log.child("t", restart="temporary", significant=significant),
            log.child("x", restart="transient"),
        ]
        supervisor = await Supervisor.start_link(children, auto_shutdown=auto_shutdown)
        for id, reason in ends:
            await end(supervisor, id, reason)
        assert is_process_alive(supervisor) == lives
        if not lives:
            assert await receive(Exit) == Exit(supervisor, "shutdown")
            assert {id for verb, id in log.taken() if verb == "end"} == {"a", "t", "x"}

    virtual(main)


def test_one_that_is_stopped_is_no_end_of_its_own() -> None:
    async def main() -> None:
        log = Log()
        child = log.child("a", restart="temporary", significant=True)
        supervisor = await Supervisor.start_link([child], auto_shutdown="any_significant")
        await Supervisor.terminate_child(supervisor, "a")
        await Supervisor.start_child(supervisor, child)
        assert is_process_alive(supervisor)
        plain = await Supervisor.start_link([])
        with pytest.raises(Refused, match="auto_shutdown is 'never'"):
            await Supervisor.start_child(plain, child)

    virtual(main)
