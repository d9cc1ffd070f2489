"""Supervisors: strategies, kinds of children, starting, verbs. Time is virtual."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.errors import NotSendable, ProcessDown, Refused
from drupelet.process import (
    Exit,
    Pid,
    exit,
    flush,
    is_process_alive,
    process_info,
    receive,
    self,
    spawn,
    spawn_link,
    trap_exit,
    unlink,
    whereis,
)
from drupelet.process.behaviours import IGNORE
from drupelet.process.children import Child, start_calls
from drupelet.process.supervisor import Supervisor
from drupelet.wire.limits import CHILDREN_MAX
from tests.unit.process.children import Log, end, pids, start, virtual, waiting

settled = trio.testing.wait_all_tasks_blocked


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
        ({"auto_shutdown": "always"}, "ValueError"),
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
            await Supervisor.start_child(supervisor, Child("b", (waiting, ()), name="it"))
        assert caught.value.reason == ("already_started", holder)
        await end(supervisor, "a")
        assert await whereis("it") not in (holder, None)

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
            (
                "start",
                ("$code", "os", "no_such", b""),
                ("x", (), "permanent", 5, "worker", None, False),
            ),
            (),
            (["start"],),
        ]
        for request in requests:
            assert (await ask(supervisor, request))[0] == "error"
        assert is_process_alive(supervisor)
        bad = Child("b", waiting)
        object.__setattr__(bad, "restart", "sometimes")
        with pytest.raises(Refused, match="sometimes"):
            await Supervisor.start_child(supervisor, bad)
        with pytest.raises(NotSendable):
            await Supervisor.start_child(supervisor, Child("c", (waiting, (object(),))))
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
