"""Supervisors: strategies, kinds of children, intensity, verbs. Time is virtual."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.errors import NotSendable, ProcessDown, Refused
from drupelet.process import (
    Down,
    Exit,
    Pid,
    exit,
    flush,
    is_process_alive,
    monitor,
    process_info,
    receive,
    run,
    self,
    send,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
    unlink,
    whereis,
)
from drupelet.process.behaviours import IGNORE
from drupelet.process.children import Child, start_calls
from drupelet.process.supervisor import Supervisor
from drupelet.wire.limits import CHILDREN_MAX

settled = trio.testing.wait_all_tasks_blocked


class Log:
    """What children did, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def child(self, id: str, **options: Any) -> Child:
        return Child(id, (self.live, (id,)), **options)

    async def live(self, id: str) -> None:
        self.events.append(("start", id))
        try:
            reason = await receive()
            exit(reason)
        finally:
            self.events.append(("end", id))

    def taken(self) -> list[tuple[str, Any]]:
        taken, self.events = self.events, []
        return taken


def virtual(main: Callable[..., Any], *args: object) -> Any:
    clock = trio.testing.MockClock(autojump_threshold=0)
    return run(main, *args, clock=clock)


async def pids(supervisor: Pid) -> dict[Any, Any]:
    return {id: pid for id, pid, _, _ in await Supervisor.which_children(supervisor)}


async def end(supervisor: Pid, id: Any, reason: object = "boom") -> None:
    """A child ends, and the supervisor has dealt with that."""
    pid = (await pids(supervisor))[id]
    await send(pid, reason)
    await settled()


async def start(log: Log, ids: str, **options: Any) -> Pid:
    options = {"intensity": 5} | options
    return await Supervisor.start_link([log.child(id) for id in ids], **options)


# -- strategies


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("one_for_one", ["end b", "start b"]),
        ("one_for_all", ["end b", "end c", "end a", "start a", "start b", "start c"]),
        ("rest_for_one", ["end b", "end c", "start b", "start c"]),
    ],
)
def test_strategies(strategy: str, expected: list[str]) -> None:
    async def main() -> None:
        log = Log()
        supervisor = await start(log, "abc", strategy=strategy)
        assert log.taken() == [("start", "a"), ("start", "b"), ("start", "c")]
        before = await pids(supervisor)
        await end(supervisor, "b")
        assert [" ".join(event) for event in log.taken()] == expected
        after = await pids(supervisor)
        renewed = {id for id in "abc" if before[id] != after[id]}
        assert renewed == {event.split()[1] for event in expected}
        assert list(after) == ["c", "b", "a"]

    virtual(main)


def test_children_stop_in_the_reverse_order_and_one_by_one() -> None:
    order: list[str] = []

    async def slow(id: str) -> None:
        trap_exit()
        match await receive(Exit):
            case Exit(_, reason):
                order.append(f"told {id} {reason}")
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)
                order.append(f"over {id}")
                exit("shutdown")

    async def main() -> None:
        children = [Child(id, (slow, (id,))) for id in "abc"]
        supervisor = await Supervisor.start_link(children)
        began = trio.current_time()
        await Supervisor.stop(supervisor)
        assert trio.current_time() - began == pytest.approx(3)

    virtual(main)
    assert order == [f"{word}" for id in "cba" for word in (f"told {id} shutdown", f"over {id}")]


def test_one_for_all_starts_what_was_kept_and_forgets_the_temporary() -> None:
    async def main() -> None:
        log = Log()
        children = [
            log.child("a"),
            log.child("b", restart="temporary"),
            log.child("c", restart="transient"),
        ]
        supervisor = await Supervisor.start_link(children, strategy="one_for_all")
        await end(supervisor, "c", "normal")
        assert (await pids(supervisor))["c"] is None
        log.taken()
        await end(supervisor, "a")
        assert log.taken() == [("end", "a"), ("end", "b"), ("start", "a"), ("start", "c")]
        assert list(await pids(supervisor)) == ["c", "a"]

    virtual(main)


# -- kinds of children


@pytest.mark.parametrize("reason", ["normal", "shutdown", ("shutdown", "word"), "boom", "kill"])
@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
def test_kinds(restart: str, reason: object) -> None:
    async def main() -> tuple[bool, bool]:
        log = Log()
        supervisor = await Supervisor.start_link([log.child("a", restart=restart)])
        if reason == "kill":
            exit((await pids(supervisor))["a"], "kill")
            await settled()
        else:
            await end(supervisor, "a", reason)
        started = log.taken().count(("start", "a")) == 2
        return started, "a" in await pids(supervisor)

    crash = reason in ("boom", "kill")
    restarted = restart == "permanent" or (restart == "transient" and crash)
    assert virtual(main) == (restarted, restart != "temporary")


def test_a_server_class_a_function_and_a_supervisor_are_children() -> None:
    async def main() -> None:
        log = Log()

        class Inner(Supervisor):
            strategy = "one_for_all"

            def init(self, *ids: str) -> list[Child]:
                return [log.child(id) for id in ids]

        async def plain() -> None:
            await receive()

        outer = await Supervisor.start_link([Child("inner", (Inner, ("x", "y"))), plain], name="up")
        assert await whereis("up") == outer
        shown = await Supervisor.which_children("up")
        assert [(id, type) for id, _, type, _ in shown] == [
            ("plain", "worker"),
            ("inner", "supervisor"),
        ]
        assert shown[0][3] == [__name__]
        assert await Supervisor.count_children(outer) == {
            "specs": 2,
            "active": 2,
            "supervisors": 1,
            "workers": 1,
        }
        inner = shown[1][1]
        assert isinstance(inner, Pid)
        assert process_info(inner)["function"].endswith("Inner")
        assert process_info(inner)["parent"] == outer
        await Supervisor.stop(outer)
        assert log.taken()[-2:] == [("end", "y"), ("end", "x")]

    virtual(main)


def test_an_inner_supervisor_that_gives_up_is_restarted() -> None:
    async def main() -> None:
        log = Log()

        class Inner(Supervisor):
            intensity = 0

            def init(self) -> list[Child]:
                return [log.child("leaf")]

        outer = await Supervisor.start_link([Inner])
        inner = (await pids(outer))["Inner"]
        await end(inner, "leaf")
        again = (await pids(outer))["Inner"]
        assert again != inner
        assert log.taken() == [("start", "leaf"), ("end", "leaf"), ("start", "leaf")]

    virtual(main)


def test_start_link_itself_is_called_and_not_run_as_a_process() -> None:
    async def main() -> None:
        log = Log()
        inner = Child("inner", (Supervisor.start_link, ([log.child("a")],)), type="supervisor")
        outer = await Supervisor.start_link([inner])
        child = (await pids(outer))["inner"]
        assert child in process_info(outer)["links"]
        assert list(await pids(child)) == ["a"]

    virtual(main)


def test_a_start_function_that_forgot_to_link_is_linked() -> None:
    async def main() -> None:
        log = Log()
        start = start_calls(functools.partial(spawn, log.live, "a"))
        outer = await Supervisor.start_link([Child("a", start)])
        await end(outer, "a")
        assert log.taken().count(("start", "a")) == 2

    virtual(main)


# -- starting


def test_a_child_that_does_not_start_stops_the_others() -> None:
    async def main() -> None:
        log = Log()

        def bad() -> Pid:
            raise ValueError("no luck")

        children = [log.child("a"), log.child("b"), Child("bad", start_calls(bad)), log.child("c")]
        trap_exit()
        with pytest.raises(ProcessDown) as caught:
            await Supervisor.start_link(children)
        reason = ("shutdown", ("failed_to_start_child", "bad", ("ValueError", "no luck")))
        assert caught.value.reason == reason
        assert [message.reason for message in await flush()] == [reason]  # type: ignore[attr-defined]
        assert log.taken() == [("start", "a"), ("start", "b"), ("end", "b"), ("end", "a")]

    virtual(main)


@pytest.mark.parametrize("nothing", [None, IGNORE])
def test_a_child_that_ignores_is_kept_without_a_process(nothing: object) -> None:
    async def main() -> None:
        def start() -> object:
            return nothing

        idle = Child("idle", start_calls(start))
        gone = Child("gone", start_calls(start), restart="temporary")
        supervisor = await Supervisor.start_link([idle, gone])
        assert await pids(supervisor) == {"idle": None}
        assert await Supervisor.restart_child(supervisor, "idle") is None

    virtual(main)


def test_a_supervisor_that_ignores() -> None:
    class Off(Supervisor):
        async def init(self) -> object:
            return IGNORE

    assert virtual(Off.start_link) is None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"strategy": "simple_one_for_one"}, "ValueError"),
        ({"intensity": -1}, "ValueError"),
        ({"intensity": True}, "ValueError"),
        ({"period_s": 0}, "ValueError"),
    ],
)
def test_flags_that_cannot_be(options: Any, error: str) -> None:
    async def main() -> Any:
        trap_exit()
        with pytest.raises(ProcessDown) as caught:
            await Supervisor.start_link([], **options)
        return caught.value.reason

    assert virtual(main)[0] == error


def test_two_children_of_one_id() -> None:
    async def main() -> Any:
        log = Log()
        trap_exit()
        with pytest.raises(ProcessDown) as caught:
            await Supervisor.start_link([log.child("a"), log.child("a")])
        assert log.taken() == []
        return caught.value.reason

    assert virtual(main) == ("start_spec", ("duplicate_child_name", "a"))


def test_too_many_children(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CHILDREN_MAX == 40_000
    monkeypatch.setattr("drupelet.process.supervisor.CHILDREN_MAX", 3)

    async def main() -> None:
        log = Log()
        supervisor = await start(log, "abc")
        with pytest.raises(Refused, match="system_limit"):
            await Supervisor.start_child(supervisor, log.child("d"))
        await Supervisor.stop(supervisor)
        trap_exit()
        with pytest.raises(ProcessDown, match="at most 3"):
            await start(log, "abcd")

    virtual(main)


def test_a_taken_name() -> None:
    async def main() -> None:
        log = Log()
        supervisor = await Supervisor.start_link([Child("a", (log.live, ("a",)), name="it")])
        holder = await whereis("it")
        with pytest.raises(Refused) as caught:
            await Supervisor.start_child(supervisor, Child("b", (_wait, ()), name="it"))
        assert caught.value.reason == ("already_started", holder)
        await end(supervisor, "a")
        assert await whereis("it") not in (holder, None)

    virtual(main)


async def _wait() -> None:
    await receive()


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
        return await spawn_link(_wait)

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
            return await spawn_link(_wait)

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


# -- verbs


def test_start_terminate_restart_delete() -> None:
    async def main() -> None:
        log = Log()
        supervisor = await start(log, "a")
        pid = await Supervisor.start_child(supervisor, log.child("b"))
        assert await pids(supervisor) == {"b": pid, "a": (await pids(supervisor))["a"]}
        with pytest.raises(Refused) as caught:
            await Supervisor.start_child(supervisor, log.child("b"))
        assert caught.value.reason == ("already_started", pid)
        for refused in (Supervisor.restart_child, Supervisor.delete_child):
            with pytest.raises(Refused, match="running"):
                await refused(supervisor, "b")
        await Supervisor.terminate_child(supervisor, "b")
        assert (await pids(supervisor))["b"] is None
        assert not is_process_alive(pid)
        with pytest.raises(Refused, match="already_present"):
            await Supervisor.start_child(supervisor, log.child("b"))
        again = await Supervisor.restart_child(supervisor, "b")
        assert (await pids(supervisor))["b"] == again != pid
        await Supervisor.terminate_child(supervisor, "b")
        await Supervisor.terminate_child(supervisor, "b")
        await Supervisor.delete_child(supervisor, "b")
        assert list(await pids(supervisor)) == ["a"]
        verbs = (Supervisor.restart_child, Supervisor.delete_child, Supervisor.terminate_child)
        for refused in verbs:
            for unknown in ("b", ["b"]):
                with pytest.raises(Refused, match="not_found"):
                    await refused(supervisor, unknown)

    virtual(main)


def test_a_temporary_child_that_is_terminated_is_forgotten() -> None:
    async def main() -> None:
        log = Log()
        supervisor = await Supervisor.start_link([log.child("a", restart="temporary")])
        await Supervisor.terminate_child(supervisor, "a")
        assert await pids(supervisor) == {}

    virtual(main)


def test_requests_that_are_none_leave_it_alive() -> None:
    from drupelet.process import ask

    async def main() -> None:
        log = Log()
        supervisor = await start(log, "a")
        requests = [
            "word",
            ("dance",),
            ("start", 1),
            ("start", ("$here", 1), (1, 2)),
            ("start", ("$code", "os", "no_such", b""), ("x", (), "permanent", 5, "worker", None)),
            (),
            (["start"],),
        ]
        for request in requests:
            assert (await ask(supervisor, request))[0] == "error"
        assert is_process_alive(supervisor)
        bad = Child("b", _wait)
        object.__setattr__(bad, "restart", "sometimes")
        with pytest.raises(Refused, match="sometimes"):
            await Supervisor.start_child(supervisor, bad)
        with pytest.raises(NotSendable):
            await Supervisor.start_child(supervisor, Child("c", (_wait, (object(),))))
        assert list(await pids(supervisor)) == ["a"]

    virtual(main)


def test_a_child_elsewhere_counts_as_active() -> None:
    async def main() -> object:
        def elsewhere() -> Pid:
            return Pid("bob", 7, 42)

        supervisor = await Supervisor.start_link([Child("far", start_calls(elsewhere))])
        return await Supervisor.count_children(supervisor)

    assert virtual(main) == {"specs": 1, "active": 1, "supervisors": 0, "workers": 1}


def test_its_state_is_shown() -> None:
    async def main() -> None:
        log = Log()
        supervisor = await start(log, "a", strategy="one_for_all")
        shown = Supervisor.format_status(_state_of(supervisor))
        assert shown == {"strategy": "one_for_all", "children": await pids(supervisor)}

    virtual(main)


def _state_of(pid: Pid) -> Any:
    from drupelet.process.current import this_runtime

    process = this_runtime().find(pid)
    assert process is not None
    return process.state


def test_a_child_that_unlinked_itself_is_still_stopped() -> None:
    async def main() -> None:
        async def naughty(supervisor: Pid) -> None:
            unlink(supervisor)
            await receive()

        async def start_it() -> Pid:
            return await spawn_link(naughty, self())

        supervisor = await Supervisor.start_link([Child("naughty", start_calls(start_it))])
        pid = (await pids(supervisor))["naughty"]
        await settled()
        assert process_info(pid)["links"] == []
        await Supervisor.terminate_child(supervisor, "naughty")
        assert not is_process_alive(pid)

    virtual(main)
