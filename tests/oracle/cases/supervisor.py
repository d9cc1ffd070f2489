"""Supervisor and DynamicSupervisor: twins of erlang/oracle_supervisor.erl."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from drupelet import (
    Child,
    DynamicSupervisor,
    Exit,
    Pid,
    ProcessDown,
    Refused,
    Supervisor,
    exit,
    is_process_alive,
    monitor,
    receive,
    self,
    send,
    spawn_link,
    start_calls,
    trap_exit,
)
from tests.oracle.helpers import (
    collect,
    died,
    down,
    forever,
    is_gone,
    next_message,
    quiet,
)
from tests.oracle.normal import case, differs, raised, role

ABC = ("a", "b", "c")


async def living(to: Pid, id: str, parent: Pid, traps: bool) -> None:
    """Tells `to` that it started, and, if it traps exits, that it ended in an orderly way."""
    trap_exit(traps)
    await send(to, ("started", id, self()))
    await send(parent, ("up", self()))
    while True:
        match await receive():
            case Exit(pid=pid, reason=reason) if pid == parent:
                await send(to, ("ended", id, reason))
                exit(reason)
            case ("stop", reason):
                exit(reason)
            case "stubborn":
                await forever()


async def child(to: Pid, id: str, traps: bool) -> Pid:
    """A start function as OTP's: called by the supervisor."""
    pid = await spawn_link(living, to, id, self(), traps)
    await receive(("up", pid))
    return pid


async def failing(to: Pid) -> Pid:
    await send(to, "tried")
    raise Refused("no_luck")


async def ignoring(to: Pid) -> None:
    await send(to, "tried")


def spec(id: str, *, traps: bool = False, to: Pid | None = None, **options: Any) -> Child:
    return Child(id, (start_calls(child), (to or self(), id, traps)), **options)


def idle(id: str) -> Child:
    return Child(id, (start_calls(ignoring), (self(),)))


async def start(*children: Child, strategy: str = "one_for_one", intensity: int = 5) -> Pid:
    return await Supervisor.start_link(
        list(children), strategy=strategy, intensity=intensity, period_s=5
    )


async def started(count: int) -> list[str]:
    """Which children start next, so many."""
    return [(await next_message(("started", str, Pid)))[1] for _ in range(count)]


async def pid_of(supervisor: Pid, id: str) -> Any:
    return next(
        pid for each, pid, _, _ in await Supervisor.which_children(supervisor) if each == id
    )


async def fell(supervisor: Pid, id: str, reason: object) -> None:
    """End a child with a reason, and wait for that."""
    pid = await pid_of(supervisor, id)
    ref = monitor(pid)
    await send(pid, ("stop", reason))
    assert await down(ref) == reason


async def alive(supervisor: Pid) -> list[str]:
    """Who lives now, in the order in which they were started."""
    found = await Supervisor.which_children(supervisor)
    return [id for id, pid, _, _ in reversed(found) if isinstance(pid, Pid)]


async def ok(verb: Awaitable[object]) -> object:
    """``ok`` or ``{error, Reason}``."""
    try:
        await verb
    except Refused as error:
        return ("error", error.reason)
    return "ok"


async def not_started(starting: Awaitable[object]) -> object:
    """Why a supervisor did not start."""
    try:
        await starting
    except ProcessDown as error:
        return error.reason
    return "started"


# -- strategies


@case
async def children_start_in_order() -> object:
    await start(*map(spec, ABC))
    return await started(3)


async def after_a_crash(strategy: str, id: str, expected: int) -> object:
    supervisor = await start(*map(spec, ABC), strategy=strategy)
    first = await started(3)
    await fell(supervisor, id, "boom")
    return (first, await started(expected), await quiet(), await alive(supervisor))


@case
async def one_for_one_restarts_the_one() -> object:
    return await after_a_crash("one_for_one", "b", 1)


@case
async def one_for_all_restarts_all() -> object:
    return await after_a_crash("one_for_all", "b", 3)


@case
async def rest_for_one_restarts_the_rest() -> object:
    return await after_a_crash("rest_for_one", "b", 2)


@case
async def one_for_all_ends_the_others_last_first() -> object:
    supervisor = await start(*(spec(id, traps=True) for id in ABC), strategy="one_for_all")
    await started(3)
    await fell(supervisor, "b", "boom")
    (_, first, why), (_, second, _) = await collect(2)
    return (first, second, why, await started(3))


@case
async def rest_for_one_spares_those_before() -> object:
    supervisor = await start(*(spec(id, traps=True) for id in ABC), strategy="rest_for_one")
    await started(3)
    before = await pid_of(supervisor, "a")
    await fell(supervisor, "b", "boom")
    return (await next_message(), await started(2), await pid_of(supervisor, "a") == before)


@case
async def a_restarted_child_is_a_new_process() -> object:
    supervisor = await start(spec("a"))
    await started(1)
    before = await pid_of(supervisor, "a")
    await fell(supervisor, "a", "boom")
    await started(1)
    return await pid_of(supervisor, "a") == before


@case
async def a_child_that_does_not_start_fails_the_supervisor() -> object:
    trap_exit(True)
    bad = Child("bad", (start_calls(failing), (self(),)))
    reason: Any = await not_started(start(spec("a", traps=True), bad))
    shutdown, (failed, id, why) = reason
    assert (shutdown, failed) == ("shutdown", "failed_to_start_child")
    one, tried, (_, _, end), told = await collect(4)
    assert (one[:2], tried, told.reason) == (("started", "a"), "tried", reason)
    return (id, why, end)


@case
async def a_child_that_ignores_is_kept_without_a_process() -> object:
    supervisor = await start(idle("idle"), spec("b"))
    return (await next_message(), await started(1), await pid_of(supervisor, "idle"))


# -- kinds


async def ended_with(kind: str, reason: object) -> object:
    supervisor = await start(spec("a", restart=kind))
    await started(1)
    await fell(supervisor, "a", reason)
    again = "not_restarted" if await quiet() == "nothing" else "restarted"
    return (again, len(await Supervisor.which_children(supervisor)))


def _kinds() -> None:
    """``a_KIND_child_that_ends_with_REASON``, nine of them."""
    for kind in ("permanent", "transient", "temporary"):
        for reason in ("normal", "shutdown", "boom"):

            async def body(kind: str = kind, reason: str = reason) -> object:
                return await ended_with(kind, reason)

            body.__name__ = f"a_{kind}_child_that_ends_with_{reason}"
            case(body)


_kinds()


@case
async def a_transient_child_that_ends_with_shutdown_and_a_word() -> object:
    return await ended_with("transient", ("shutdown", "word"))


@case
async def a_killed_child_is_restarted() -> object:
    supervisor = await start(spec("a", restart="transient"))
    await started(1)
    exit(await pid_of(supervisor, "a"), "kill")
    return await started(1)


@case
async def too_many_restarts_end_the_supervisor() -> object:
    trap_exit(True)
    supervisor = role(await start(spec("a"), spec("b", traps=True), intensity=2), "supervisor")
    await started(2)
    for _ in range(2):
        await fell(supervisor, "a", "boom")
        await started(1)
    await fell(supervisor, "a", "boom")
    return await collect(2)


@case
async def as_many_restarts_as_allowed() -> object:
    supervisor = await start(spec("a"), intensity=3)
    await started(1)
    starts = []
    for _ in range(3):
        await fell(supervisor, "a", "boom")
        starts.append(await started(1))
    return (starts, is_process_alive(supervisor))


async def falls_once(reason: str) -> object:
    trap_exit(True)
    supervisor = role(await start(spec("a"), intensity=0), "supervisor")
    await started(1)
    await fell(supervisor, "a", reason)
    return await next_message()


@case
async def intensity_0_allows_none() -> object:
    return await falls_once("boom")


@case
async def normal_ends_of_permanent_children_count() -> object:
    return await falls_once("normal")


async def inner_supervisor(to: Pid) -> Pid:
    leaf = Child("leaf", (start_calls(child), (to, "leaf", False)))
    return await Supervisor.start_link([leaf], intensity=0)


@case
async def a_supervisor_under_a_supervisor_is_restarted() -> object:
    inner = Child("inner", (start_calls(inner_supervisor), (self(),)), type="supervisor")
    supervisor = await start(inner)
    await started(1)
    first = await pid_of(supervisor, "inner")
    await fell(first, "leaf", "boom")
    return (await started(1), await pid_of(supervisor, "inner") == first)


# -- verbs


@case
async def which_children() -> object:
    supervisor = await start(spec("a"), spec("b", restart="temporary"))
    found = sorted(await Supervisor.which_children(supervisor), key=lambda each: str(each[0]))
    return [(id, isinstance(pid, Pid), kind) for id, pid, kind, _ in found]


@case
async def count_children() -> object:
    return await Supervisor.count_children(await start(spec("a"), spec("b"), idle("c")))


COUNTED = {"specs": 1, "active": 1, "supervisors": 0, "workers": 1}


@differs("pairs", otp=list(COUNTED.items()), ours=COUNTED)
async def count_children_gives() -> object:
    return await Supervisor.count_children(await start(spec("a")))


@differs("refusals", otp=("error", "not_found"), ours=("raised", "Refused"))
async def what_a_supervisor_refuses() -> object:
    return await raised(Supervisor.terminate_child(await start(), "nobody"))


@case
async def start_child() -> object:
    supervisor = await start()
    pid = await Supervisor.start_child(supervisor, spec("a"))
    return (await started(1), await pid_of(supervisor, "a") == pid)


@case
async def start_child_twice() -> object:
    supervisor = await start()
    role(await Supervisor.start_child(supervisor, spec("a")), "child")
    return await ok(Supervisor.start_child(supervisor, spec("a")))


@case
async def start_child_that_fails() -> object:
    supervisor = await start()
    bad = Child("bad", (start_calls(failing), (self(),)))
    _, reason = await ok(Supervisor.start_child(supervisor, bad))  # type: ignore[misc]
    return (reason, len(await Supervisor.which_children(supervisor)))


@case
async def terminate_child() -> object:
    supervisor = await start(spec("a"))
    await started(1)
    ref = monitor(await pid_of(supervisor, "a"))
    gave = await ok(Supervisor.terminate_child(supervisor, "a"))
    return (gave, await down(ref), await quiet(), await pid_of(supervisor, "a"))


@case
async def terminate_an_unknown_child() -> object:
    return await ok(Supervisor.terminate_child(await start(), "nobody"))


@case
async def terminate_a_temporary_child() -> object:
    supervisor = await start(spec("a", restart="temporary"))
    gave = await ok(Supervisor.terminate_child(supervisor, "a"))
    return (gave, await Supervisor.which_children(supervisor))


@case
async def restart_child() -> object:
    supervisor = await start(spec("a"))
    await started(1)
    await Supervisor.terminate_child(supervisor, "a")
    pid = await Supervisor.restart_child(supervisor, "a")
    return (await started(1), await pid_of(supervisor, "a") == pid)


@case
async def restart_a_child_that_runs() -> object:
    return await ok(Supervisor.restart_child(await start(spec("a")), "a"))


@case
async def restart_an_unknown_child() -> object:
    return await ok(Supervisor.restart_child(await start(), "nobody"))


@case
async def delete_child() -> object:
    supervisor = await start(spec("a"))
    await Supervisor.terminate_child(supervisor, "a")
    gave = await ok(Supervisor.delete_child(supervisor, "a"))
    return (gave, await Supervisor.which_children(supervisor))


@case
async def delete_a_child_that_runs() -> object:
    return await ok(Supervisor.delete_child(await start(spec("a")), "a"))


@case
async def delete_an_unknown_child() -> object:
    return await ok(Supervisor.delete_child(await start(), "nobody"))


@case
async def two_children_of_one_id() -> object:
    trap_exit(True)
    return ("error", await not_started(start(spec("a"), spec("a"))))


# -- shutdowns


@case
async def children_end_last_first() -> object:
    trap_exit(True)
    supervisor = role(await start(*(spec(id, traps=True) for id in ABC)), "supervisor")
    await started(3)
    exit(supervisor, "shutdown")
    return await collect(4)


@case
async def a_child_that_does_not_trap_ends_with_shutdown() -> object:
    trap_exit(True)
    supervisor = await start(spec("a"))
    ref = monitor(await pid_of(supervisor, "a"))
    exit(supervisor, "shutdown")
    return await down(ref)


@case
async def shutdown_brutal_kill() -> object:
    supervisor = await start(spec("a", shutdown="brutal_kill", traps=True))
    await started(1)
    ref = monitor(await pid_of(supervisor, "a"))
    await Supervisor.terminate_child(supervisor, "a")
    return (await down(ref), await quiet())


@case
async def shutdown_time_is_over() -> object:
    supervisor = await start(spec("a", shutdown=0.02, traps=True))
    pid = await pid_of(supervisor, "a")
    await send(pid, "stubborn")
    ref = monitor(pid)
    return (await ok(Supervisor.terminate_child(supervisor, "a")), await down(ref))


@case
async def shutdown_in_time() -> object:
    supervisor = await start(spec("a", shutdown=5.0, traps=True))
    await started(1)
    ref = monitor(await pid_of(supervisor, "a"))
    gave = await ok(Supervisor.terminate_child(supervisor, "a"))
    return (gave, await next_message(), await down(ref))


@case
async def a_supervisor_ends_with_its_parent() -> object:
    me, one = self(), spec("a", traps=True)

    async def parent() -> None:
        await send(me, ("sup", await Supervisor.start_link([one])))
        exit("boom")

    assert await died(parent) == "boom"
    await started(1)
    _, supervisor = await next_message(("sup", Pid))
    return (await next_message(), await is_gone(supervisor))


# -- many children of one kind


async def many(restart: str = "permanent") -> Pid:
    one = Child("worker", (start_calls(child), (self(),)), restart=restart)
    return await DynamicSupervisor.start_link(one, intensity=5, period_s=5)


@case
async def dynamic_starts_with_none() -> object:
    counted = await DynamicSupervisor.count_children(await many())
    return counted == {"specs": 1, "active": 0, "supervisors": 0, "workers": 0}


@case
async def dynamic_start_child() -> object:
    supervisor = await many()
    for id in ("x", "y"):
        await DynamicSupervisor.start_child(supervisor, id, False)
    counted = await DynamicSupervisor.count_children(supervisor)
    return (await started(2), counted["active"])


@case
async def dynamic_children_have_no_id() -> object:
    supervisor = await many()
    role(await DynamicSupervisor.start_child(supervisor, "x", False), "child")
    return [each[:3] for each in await DynamicSupervisor.which_children(supervisor)]


@case
async def dynamic_child_is_restarted_with_its_arguments() -> object:
    pid = await DynamicSupervisor.start_child(await many(), "x", False)
    await started(1)
    await send(pid, ("stop", "boom"))
    return await started(1)


@case
async def dynamic_temporary_child_is_forgotten() -> object:
    supervisor = await many("temporary")
    pid = await DynamicSupervisor.start_child(supervisor, "x", False)
    await started(1)
    ref = monitor(pid)
    await send(pid, ("stop", "boom"))
    await down(ref)
    return (await quiet(), await DynamicSupervisor.which_children(supervisor))


@case
async def dynamic_terminate_child() -> object:
    supervisor = await many()
    pid = await DynamicSupervisor.start_child(supervisor, "x", False)
    ref = monitor(pid)
    gave = await ok(DynamicSupervisor.terminate_child(supervisor, pid))
    return (gave, await down(ref), await DynamicSupervisor.which_children(supervisor))


@case
async def dynamic_terminate_an_unknown_child() -> object:
    return await ok(DynamicSupervisor.terminate_child(await many(), self()))


@case
async def dynamic_children_end_with_their_supervisor() -> object:
    trap_exit(True)
    supervisor = await many()
    refs = [
        monitor(await DynamicSupervisor.start_child(supervisor, id, False))
        for id in ("x", "y", "z")
    ]
    exit(supervisor, "shutdown")
    return [await down(ref) for ref in refs]
