"""Supervisor: what is restarted with what, tries that fail; twins of erlang/oracle_restarts.erl."""

from __future__ import annotations

from typing import Any

from drupelet import (
    Child,
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
    spawn,
    start_calls,
    trap_exit,
    whereis,
)
from tests.oracle.cases.supervisor import alive, child, fell, idle, ok, pid_of, spec, start, started
from tests.oracle.helpers import collect, dead, died, down, is_gone, next_message, quiet
from tests.oracle.normal import case, role


async def trying(to: Pid, keeper: Pid) -> Pid:
    """A child that is started as often as the keeper says."""
    await send(keeper, ("may_i", self()))
    if await receive(bool):
        return await child(to, "a", False)
    await send(to, "tried")
    raise Refused("no_luck")


async def keeping(*answers: bool) -> None:
    for answer in answers:
        _, sender = await receive(("may_i", Pid))
        await send(sender, answer)


async def tried(strategy: str, answers: str, *more: Child) -> Pid:
    """`answers`: "y" or "n" for each try."""
    keeper = await spawn(keeping, *(each == "y" for each in answers))
    one = Child("a", (start_calls(trying), (self(), keeper)))
    return await start(one, *more, strategy=strategy, intensity=3)


def first(message: Any) -> Any:
    return message[:2] if message[0] == "started" else message


@case
async def a_temporary_sibling_is_not_restarted() -> object:
    supervisor = await start(
        spec("a"), spec("b", restart="temporary"), spec("c"), strategy="one_for_all"
    )
    await started(3)
    await fell(supervisor, "a", "boom")
    return (await started(2), await quiet(), await alive(supervisor))


@case
async def a_sibling_that_ended_is_started_again() -> object:
    supervisor = await start(spec("a"), spec("b", restart="transient"), strategy="one_for_all")
    await started(2)
    await fell(supervisor, "b", "normal")
    none = await alive(supervisor)
    await fell(supervisor, "a", "boom")
    return (none, await started(2), await alive(supervisor))


async def after_a_termination(strategy: str) -> Pid:
    supervisor = await start(spec("a"), spec("b"), strategy=strategy)
    await started(2)
    await Supervisor.terminate_child(supervisor, "b")
    await fell(supervisor, "a", "boom")
    return supervisor


@case
async def a_sibling_that_was_terminated_is_started_again() -> object:
    supervisor = await after_a_termination("one_for_all")
    return (await started(2), await alive(supervisor))


@case
async def a_terminated_child_stays_down_under_one_for_one() -> object:
    supervisor = await after_a_termination("one_for_one")
    return (await started(1), await quiet(), await alive(supervisor))


@case
async def a_restart_that_fails_is_tried_again() -> object:
    supervisor = await tried("one_for_one", "yny")
    await started(1)
    await fell(supervisor, "a", "boom")
    return [first(each) for each in await collect(2)]


@case
async def a_restart_that_fails_too_often_ends_the_supervisor() -> object:
    trap_exit(True)
    supervisor = role(await tried("one_for_one", "ynnnn", spec("b", traps=True)), "supervisor")
    await started(2)
    await fell(supervisor, "a", "boom")
    return await collect(5)


@case
async def a_restart_of_all_that_fails_is_tried_again() -> object:
    supervisor = await tried("one_for_all", "yny", spec("b"))
    await started(2)
    await fell(supervisor, "b", "boom")
    return [first(each) for each in await collect(3)]


@case
async def restarts_are_forgotten_after_the_period() -> object:
    supervisor = await Supervisor.start_link([spec("a")], intensity=1, period_s=1)
    await started(1)
    await fell(supervisor, "a", "boom")
    await started(1)
    assert await quiet(2.1) == "nothing"
    await fell(supervisor, "a", "boom")
    return (await started(1), is_process_alive(supervisor))


@case
async def an_exit_signal_of_a_stranger_is_ignored() -> object:
    supervisor = await start(spec("a"))
    await started(1)
    await spawn(lambda: exit(supervisor, "boom"))
    assert await quiet() == "nothing"
    return await alive(supervisor)


@case
async def a_message_of_a_stranger_is_ignored() -> object:
    supervisor = await start(spec("a"))
    await started(1)
    await send(supervisor, "what_is_this")
    return await alive(supervisor)


@case
async def the_parents_normal_end_ends_a_supervisor() -> object:
    me, one = self(), spec("a", traps=True)

    async def parent() -> None:
        await send(me, ("sup", await Supervisor.start_link([one])))

    assert await died(parent) == "normal"
    await started(1)
    _, supervisor = await next_message(("sup", Pid))
    return (await next_message(), await is_gone(supervisor))


@case
async def children_of_a_killed_supervisor_end() -> object:
    trap_exit(True)
    supervisor = await start(spec("a"))
    await started(1)
    ref = monitor(await pid_of(supervisor, "a"))
    exit(supervisor, "kill")
    return (await down(ref), (await next_message()).reason)


@case
async def a_killed_supervisor_does_not_wait() -> object:
    trap_exit(True)
    supervisor = await start(spec("a", traps=True))
    await started(1)
    exit(supervisor, "kill")
    told = []
    for message in await collect(2):
        match message:
            case Exit(reason=why):
                told.append(("exit", why))
            case (word, _, why):
                told.append((word, why))
    return sorted(told)


@case
async def stop_a_supervisor() -> object:
    trap_exit(True)
    supervisor = role(await start(spec("a", traps=True), spec("b", traps=True)), "supervisor")
    await started(2)
    return (await ok(Supervisor.stop(supervisor)), await collect(3))


@case
async def a_temporary_id_is_free_after_its_end() -> object:
    supervisor, one = await start(), spec("a", restart="temporary")
    pid = await Supervisor.start_child(supervisor, one)
    await started(1)
    await fell(supervisor, "a", "boom")
    again = await Supervisor.start_child(supervisor, one)
    return (await started(1), bool(pid == again))


@case
async def restart_a_transient_child_that_ended() -> object:
    supervisor = await start(spec("a", restart="transient"))
    await started(1)
    await fell(supervisor, "a", "normal")
    await Supervisor.restart_child(supervisor, "a")
    return (await started(1), await alive(supervisor))


@case
async def start_child_of_one_that_ignores() -> object:
    supervisor = await start()
    gave = ("ok", await Supervisor.start_child(supervisor, idle("idle")))
    return (gave, await next_message(), await pid_of(supervisor, "idle"))


@case
async def start_child_that_was_terminated() -> object:
    supervisor = await start(spec("a"))
    await started(1)
    await Supervisor.terminate_child(supervisor, "a")
    return await ok(Supervisor.start_child(supervisor, spec("a")))


@case
async def shutdown_infinity() -> object:
    supervisor = await start(spec("a", shutdown=float("inf"), traps=True))
    await started(1)
    return (await ok(Supervisor.terminate_child(supervisor, "a")), await next_message())


@case
async def a_supervisor_with_a_name() -> object:
    supervisor = await Supervisor.start_link([spec("a")], name="sup_name")
    await started(1)
    return (await whereis("sup_name") == supervisor, await alive("sup_name"))  # type: ignore[arg-type]


@case
async def calls_of_what_is_no_supervisor() -> object:
    try:
        return await Supervisor.which_children(await dead())
    except ProcessDown as error:
        return error.reason
