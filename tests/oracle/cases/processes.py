"""Spawning, names and monitors: twins of erlang/oracle_processes.erl."""

from __future__ import annotations

import time

from drupelet import (
    Down,
    Exit,
    MailboxFull,
    Pid,
    ProcessDown,
    demonitor,
    exit,
    is_process_alive,
    link,
    monitor,
    node,
    process_info,
    receive,
    register,
    registered,
    self,
    send,
    send_nowait,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
    unregister,
    whereis,
)
from tests.oracle.cases.messages import a_ref
from tests.oracle.helpers import (
    answering,
    ask_it,
    collect,
    dead,
    died,
    down,
    forever,
    next_message,
    quiet,
    rest,
    return_at_once,
)
from tests.oracle.normal import case, differs, done, in_real_time, raised, role


def ends(reason: object) -> None:
    exit(reason)


@case
async def spawn_gives_the_pid_of_the_child() -> object:
    me = self()

    async def child() -> None:
        await send(me, ("i_am", self()))

    pid = await spawn(child)
    _, who = await next_message()
    return (who == pid, who == me)


@case
async def spawn_with_arguments() -> object:
    await spawn(send, self(), ("one", "two"))
    return await next_message()


@case
async def the_value_of_a_process_is_lost() -> object:
    return await died(lambda: "some_value")


@case
async def spawn_monitor_normal() -> object:
    pid, _ = await spawn_monitor(return_at_once)
    role(pid, "child")
    message = await next_message()
    return (message.pid, message.reason, await rest())


@case
async def spawn_monitor_exit() -> object:
    return await died(ends, "boom")


@case
async def spawn_monitor_exit_with_a_tuple() -> object:
    return await died(ends, ("shutdown", [1, "two"]))


@case
async def spawn_link_normal() -> object:
    trap_exit(True)
    role(await spawn_link(return_at_once), "child")
    return await next_message()


@case
async def spawn_link_exit() -> object:
    trap_exit(True)
    role(await spawn_link(ends, "boom"), "child")
    return await next_message()


def bad() -> None:
    raise ValueError("bad")


@differs("reasons", otp="bad", ours=("ValueError", "bad"))
async def an_uncaught_error() -> object:
    return await died(bad)


@differs("reasons", otp=("nocatch", "bad"), ours=("ValueError", "bad"))
async def an_uncaught_throw() -> object:
    return await died(bad)


@differs("reasons", otp="badarg", ours="ValueError")
async def an_error_of_the_language() -> object:
    kind, _ = await died(int, "x")  # type: ignore[misc]
    return kind


@case
async def messages_come_before_down() -> object:
    me = self()

    async def child() -> None:
        await send(me, "one")
        await send(me, "two")
        exit("boom")

    pid, _ = await spawn_monitor(child)
    role(pid, "child")
    one, two, message = await collect(3)
    assert (one, two) == ("one", "two")
    return (message.pid, message.reason)


@case
async def whether_a_process_is_alive() -> object:
    pid = await answering()
    before = is_process_alive(pid)
    exit(pid, "kill")
    await down(monitor(pid))
    return (before, is_process_alive(pid), is_process_alive(self()))


@case
async def the_mailbox_is_counted() -> object:
    for number in (1, 2, 3):
        await send(self(), number)
    return process_info()["messages"]


@differs("refusals", otp=None, ours="ProcessDown")
async def process_info_of_the_dead() -> object:
    try:
        return process_info(await dead())
    except ProcessDown as error:
        return type(error).__name__


@case
async def process_info_names_links_and_traps() -> object:
    trap_exit(True)
    await register("informed")
    role(await spawn_link(forever), "child")
    info = process_info()
    (name,) = info["names"]
    return (name, info["links"], info["trap_exit"])


@differs("mailbox", otp=10_001, ours=("MailboxFull", 10_000))
async def the_mailbox_has_a_limit() -> object:
    pid = await spawn(forever)
    for number in range(1, 10_002):
        try:
            send_nowait(pid, number)
        except MailboxFull as error:
            return (type(error).__name__, process_info(pid)["messages"])
    return process_info(pid)["messages"]


def computes(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@differs("computing", otp=["quick", "computed"], ours=["computed", "quick"])
async def a_process_that_computes_lets_others_run() -> object:
    me = self()

    async def woken() -> None:
        await receive("go")
        await send(me, "quick")

    async def busy(other: Pid) -> None:
        await send(other, "go")
        computes(0.03)
        await send(me, "computed")

    await spawn(busy, await spawn(woken))
    return await collect(2)


@case
@in_real_time
async def a_process_that_computes_in_a_thread() -> object:
    trap_exit(True)
    pid = await spawn_link(computes, 0.3, where="thread")
    await spawn(send, self(), "quick")
    return ["computed" if each == Exit(pid, "normal") else each for each in await collect(2)]


@case
async def node_of_a_pid() -> object:
    return (self().node == node(), a_ref().node == node())


@case
async def register_and_whereis() -> object:
    gave = done(await register("here"))
    return (gave, await whereis("here"), "here" in await registered())


@case
async def whereis_of_an_unknown_name() -> object:
    return await whereis("no_such_name")


@case
async def register_another_process() -> object:
    pid = role(await answering(), "child")
    await register("another", pid)
    return (await whereis("another"), await ask_it("another", "ok"))


@differs("refusals", otp=("error", "badarg"), ours=("raised", "NameTaken"))
async def register_a_name_that_is_taken() -> object:
    await register("taken", await answering())
    return await raised(register("taken"))


@differs("refusals", otp=("error", "badarg"), ours=("raised", "NameTaken"))
async def register_the_same_again() -> object:
    await register("again")
    return await raised(register("again"))


@differs("names", otp=("error", "badarg"), ours=("gave", None))
async def register_a_second_name() -> object:
    await register("one_name")
    return await raised(register("two_name"))


@differs("refusals", otp=("error", "badarg"), ours=("raised", "ProcessDown"))
async def register_the_dead() -> object:
    return await raised(register("dead_name", await dead()))


@case
async def unregister_a_name() -> object:
    await register("there")
    gave = done(await unregister("there"))
    return (gave, await whereis("there"), "there" in await registered())


@differs("refusals", otp=("error", "badarg"), ours=("raised", "ProcessDown"))
async def unregister_an_unknown_name() -> object:
    return await raised(unregister("no_such_name"))


@case
async def unregister_the_name_of_another() -> object:
    await register("others", await answering())
    await unregister("others")
    return await whereis("others")


async def registers_and_ends(name: str, reason: object) -> None:
    await register(name)
    exit(reason)


@case
async def a_name_is_free_when_down_comes() -> object:
    assert await died(registers_and_ends, "mortal", "boom") == "boom"
    return await whereis("mortal")


@case
async def a_name_is_free_when_exit_comes() -> object:
    trap_exit(True)
    await spawn_link(registers_and_ends, "mortal_link", "boom")
    assert isinstance(await next_message(), Exit)
    return await whereis("mortal_link")


@case
async def a_name_can_be_taken_after_down() -> object:
    assert await died(registers_and_ends, "heir", "normal") == "normal"
    await register("heir")
    return await whereis("heir")


@case
async def a_name_moves_to_another() -> object:
    first, second = role(await answering(), "first"), role(await answering(), "second")
    await register("moving", first)
    before = await whereis("moving")
    await unregister("moving")
    await register("moving", second)
    return (before, await whereis("moving"))


@case
async def monitor_several_refs() -> object:
    pid = role(await answering(), "child")
    refs = [monitor(pid) for _ in range(3)]
    exit(pid, "boom")
    downs = [await next_message(down_of(ref)) for ref in refs]
    return (len(set(refs)), [(each.pid, each.reason) for each in downs], await rest())


def down_of(ref: object) -> object:
    return lambda message: isinstance(message, Down) and message.ref == ref


@case
async def monitor_the_dead() -> object:
    monitor(role(await dead(), "child"))
    return await next_message()


@case
async def monitor_oneself() -> object:
    monitor(self())
    return await quiet()


@case
async def monitor_is_one_way() -> object:
    pid = await answering()

    def watches() -> None:
        monitor(pid)
        exit("boom")

    assert await died(watches) == "boom"
    return await ask_it(pid, "still_here")


@case
async def monitor_by_name() -> object:
    pid = await answering()
    await register("watched", pid)
    monitor("watched")
    exit(pid, "boom")
    return await next_message()


@case
async def monitor_by_name_and_node() -> object:
    pid = await answering()
    await register("watched_there", pid)
    monitor(("watched_there", node()))
    exit(pid, "boom")
    return await next_message()


@case
async def monitor_an_unknown_name() -> object:
    monitor("no_such_name")
    return await next_message()


@case
async def monitor_by_name_stays_with_the_process() -> object:
    pid = await answering()
    await register("passing", pid)
    monitor("passing")
    await unregister("passing")
    await register("passing", await answering())
    exit(pid, "boom")
    return await next_message()


@case
async def demonitor_in_time() -> object:
    pid = await answering()
    gave = demonitor(monitor(pid))
    exit(pid, "boom")
    await down(monitor(pid))
    return (gave, await quiet())


async def watched_and_dead() -> tuple[Pid, object]:
    """Somebody dead whose Down has come."""
    pid = await dead()
    ref, probe = monitor(pid), monitor(pid)
    await receive(down_of(probe))
    return pid, ref


@case
async def demonitor_leaves_a_down_that_came() -> object:
    pid, ref = await watched_and_dead()
    role(pid, "child")
    demonitor(ref)  # type: ignore[arg-type]
    return await next_message()


@differs("demonitor", otp=(True, "nothing"), ours=(False, "nothing"))
async def demonitor_flush_takes_a_down_that_came() -> object:
    _, ref = await watched_and_dead()
    return (demonitor(ref, flush=True), await quiet())  # type: ignore[arg-type]


@differs("demonitor", otp=True, ours=False)
async def demonitor_twice() -> object:
    ref = monitor(await answering())
    demonitor(ref)
    return demonitor(ref)


@case
async def demonitor_one_of_two() -> object:
    pid = role(await answering(), "child")
    first = monitor(pid)
    monitor(pid)
    demonitor(first)
    exit(pid, "boom")
    message = await next_message()
    return (message.pid, message.reason, await quiet())


@case
async def down_comes_once() -> object:
    pid = role(await answering(), "child")
    monitor(pid)
    exit(pid, "boom")
    exit(pid, "bang")
    return (await next_message(), await quiet())


@case
async def link_and_monitor_tell_both() -> object:
    trap_exit(True)
    pid = role(await answering(), "child")
    link(pid)
    monitor(pid)
    exit(pid, "boom")
    return sorted(await collect(2), key=lambda each: isinstance(each, Down))
