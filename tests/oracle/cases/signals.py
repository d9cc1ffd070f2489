"""Links, exit signals and what traps them: twins of erlang/oracle_signals.erl."""

from __future__ import annotations

from dataclasses import dataclass

from drupelet import (
    Pid,
    ProcessExit,
    Ref,
    exit,
    is_process_alive,
    link,
    monitor,
    receive,
    self,
    send,
    send_nowait,
    spawn,
    spawn_link,
    trap_exit,
    unlink,
)
from tests.oracle.cases.messages import a_ref
from tests.oracle.cases.processes import ends
from tests.oracle.helpers import (
    answering,
    ask_it,
    collect,
    dead,
    died,
    down,
    forever,
    links,
    next_message,
    quiet,
    return_at_once,
)
from tests.oracle.normal import case, differs, done, role


async def forwards(to: Pid) -> None:
    """Traps exits and sends what it gets to `to`."""
    trap_exit(True)
    await send(to, ("ready", self()))
    while True:
        await send(to, await receive())


async def trapping() -> Pid:
    """A process that traps exits and sends what it gets to this one."""
    pid = await spawn(forwards, self())
    await next_message(("ready", pid))
    return pid


async def answers_or_ends() -> None:
    while True:
        match await receive():
            case ("exit", reason):
                exit(reason)
            case ("ask", sender, question):
                await send(sender, ("answer", question))


@dataclass(frozen=True, slots=True, kw_only=True)
class Couple:
    """Two linked processes; neither traps exits, both are monitored."""

    left: Pid
    right: Pid
    left_ref: Ref
    right_ref: Ref

    async def both(self) -> object:
        return (await down(self.left_ref), await down(self.right_ref))


async def couple() -> Couple:
    me = self()

    async def one() -> None:
        await send(me, ("right", await spawn_link(answers_or_ends)))
        await answers_or_ends()

    left = await spawn(one)
    _, right = await next_message(("right", Pid))
    return Couple(left=left, right=right, left_ref=monitor(left), right_ref=monitor(right))


@case
async def link_normal_end_spares_the_other() -> object:
    two = await couple()
    await send(two.right, ("exit", "normal"))
    reason = await down(two.right_ref)
    return (reason, await ask_it(two.left, "still_here"))


@case
async def link_error_takes_the_other() -> object:
    two = await couple()
    await send(two.right, ("exit", "boom"))
    return await two.both()


@case
async def link_error_takes_the_other_way() -> object:
    two = await couple()
    await send(two.left, ("exit", "boom"))
    return await two.both()


@case
async def link_shutdown_takes_the_other() -> object:
    two = await couple()
    await send(two.right, ("exit", "shutdown"))
    return await two.both()


@case
async def link_chain_of_four() -> object:
    me = self()

    async def chained(more: int) -> None:
        if more:
            await spawn_link(chained, more - 1)
        await send(me, ("member", 4 - more, self()))
        await answers_or_ends()

    await spawn(chained, 3)
    members = sorted(await collect(4), key=lambda each: each[1])
    refs = [monitor(pid) for _, _, pid in members]
    await send(members[3][2], ("exit", "boom"))
    return [await down(ref) for ref in refs]


@case
async def link_to_the_dead_when_trapping() -> object:
    trap_exit(True)
    pid = role(await dead(), "child")
    return (done(link(pid)), await next_message())


@case
async def link_to_the_dead_ends_the_caller() -> object:
    return await died(links, await dead())


@case
async def link_twice_is_one_link() -> object:
    trap_exit(True)
    pid = role(await answering(), "child")
    link(pid)
    link(pid)
    exit(pid, "boom")
    return (await next_message(), await quiet())


@case
async def link_twice_unlink_once() -> object:
    trap_exit(True)
    pid = await answering()
    link(pid)
    link(pid)
    unlink(pid)
    exit(pid, "boom")
    await down(monitor(pid))
    return await quiet()


@differs("none", otp=(True, True), ours=(None, None))
async def link_gives_true() -> object:
    pid = await answering()
    return (link(pid), unlink(pid))


@case
async def link_oneself() -> object:
    return (done(link(self())), "still_here")


@case
async def unlink_then_exit() -> object:
    trap_exit(True)
    pid = await answering()
    link(pid)
    unlink(pid)
    exit(pid, "boom")
    await down(monitor(pid))
    return await quiet()


@case
async def unlink_what_is_not_linked() -> object:
    return done(unlink(await answering()))


@case
async def unlink_counts_for_both() -> object:
    pid = await answering()

    def links_and_unlinks() -> None:
        link(pid)
        unlink(pid)
        exit("boom")

    assert await died(links_and_unlinks) == "boom"
    return await ask_it(pid, "still_here")


@case
async def trap_exit_gives_what_was() -> object:
    return [trap_exit(flag) for flag in (True, True, False, False)]


@case
async def trapped_normal() -> object:
    trap_exit(True)
    role(await spawn_link(return_at_once), "child")
    return await next_message()


@case
async def trapped_error() -> object:
    trap_exit(True)
    role(await spawn_link(ends, ("bad", "thing")), "child")
    return await next_message()


@case
async def trapped_end_is_not_trapped_for_others() -> object:
    pid = role(await trapping(), "child")
    ref = monitor(pid)
    exit(pid, "boom")
    message = await next_message()
    exit(pid, "kill")
    return (message, await down(ref))


@case
async def trap_exit_off_again() -> object:
    async def child() -> None:
        trap_exit(True)
        trap_exit(False)
        await spawn_link(ends, "boom")
        await forever()

    return await died(child)


@case
async def exit_kill_inside_is_seen_as_kill() -> object:
    trap_exit(True)
    role(await spawn_link(ends, "kill"), "child")
    return await next_message()


@case
async def exit_kill_inside_takes_a_linked_process() -> object:
    two = await couple()
    await send(two.right, ("exit", "kill"))
    return await two.both()


@case
async def exit_sent_normal_is_ignored() -> object:
    pid = await answering()
    return (done(exit(pid, "normal")), await ask_it(pid, "still_here"))


@case
async def exit_sent_normal_is_trapped() -> object:
    exit(await trapping(), "normal")
    return await next_message()


async def exits_itself(reason: object, *, trap: bool = False) -> None:
    trap_exit(trap)
    exit(self(), reason)
    await forever()


@case
async def exit_sent_normal_to_oneself() -> object:
    return await died(exits_itself, "normal")


@case
async def exit_sent_to_oneself() -> object:
    return await died(exits_itself, "boom")


@case
async def exit_sent_to_oneself_ends_at_once() -> object:
    me = self()

    async def child() -> None:
        exit(self(), "boom")
        await send(me, "not_reached")

    return (await died(child), await quiet())


@case
async def exit_sent_to_oneself_trapped() -> object:
    trap_exit(True)
    exit(self(), "boom")
    exit(self(), "normal")
    return await collect(2)


@case
async def exit_sent_kill_to_oneself() -> object:
    return await died(lambda: exits_itself("kill", trap=True))


@case
async def exit_sent() -> object:
    pid = await answering()
    ref = monitor(pid)
    exit(pid, "boom")
    return await down(ref)


@case
async def exit_sent_is_trapped() -> object:
    exit(await trapping(), "boom")
    return await next_message()


@case
async def exit_sent_to_the_dead() -> object:
    return done(exit(await dead(), "boom"))


@case
async def exit_sent_kill() -> object:
    pid = await answering()
    ref = monitor(pid)
    exit(pid, "kill")
    return await down(ref)


@case
async def exit_sent_kill_cannot_be_trapped() -> object:
    pid = await trapping()
    ref = monitor(pid)
    exit(pid, "kill")
    return (await down(ref), await quiet())


@case
async def exit_sent_kill_is_seen_as_killed() -> object:
    trap_exit(True)
    pid = role(await spawn_link(forever), "child")
    exit(pid, "kill")
    return await next_message()


@case
async def exit_sent_kill_takes_a_linked_process() -> object:
    two = await couple()
    exit(two.right, "kill")
    return await two.both()


@case
async def exit_sent_shutdown() -> object:
    pid = await answering()
    ref = monitor(pid)
    exit(pid, "shutdown")
    return await down(ref)


@case
async def exit_sent_without_a_link() -> object:
    pid = role(await trapping(), "child")
    role(await spawn(lambda: exit(pid, "boom")), "sender")
    return await next_message()


@case
async def signals_of_one_sender_keep_their_order() -> object:
    pid = await trapping()
    await send(pid, "one")
    exit(pid, "boom")
    await send(pid, "two")
    exit(pid, "bang")
    await send(pid, "three")
    return await collect(5)


@case
async def an_exit_can_be_caught() -> object:
    def catches() -> None:
        try:
            exit("boom")
        except ProcessExit as error:
            assert error.reason == "boom"
        exit("went_on")

    return await died(catches)


@case
async def exit_normal_inside_ends_at_once() -> object:
    me = self()

    async def child() -> None:
        exit("normal")
        await send(me, "not_reached")

    return (await died(child), await quiet())


@case
async def clean_up_after_exit() -> object:
    me = self()

    async def child() -> None:
        try:
            exit("boom")
        finally:
            await send(me, "cleaned")

    await died(child)
    return await next_message()


@differs("finally", otp="nothing", ours=("unexpected", "cleaned"))
async def clean_up_after_a_signal() -> object:
    me = self()

    async def child() -> None:
        try:
            await send(me, "ready")
            await forever()
        finally:
            send_nowait(me, "cleaned")

    pid = await spawn(child)
    await next_message("ready")
    exit(pid, "boom")
    await down(monitor(pid))
    return await quiet()


@case
async def unlink_leaves_an_exit_that_came() -> object:
    trap_exit(True)
    pid = role(await spawn_link(ends, "boom"), "child")
    await down(monitor(pid))
    unlink(pid)
    return await next_message()


@case
async def an_exit_in_the_clean_up_is_the_reason() -> object:
    def child() -> None:
        try:
            exit("boom")
        finally:
            exit("worse")

    return await died(child)


@case
async def exit_with_a_pid_and_a_ref_as_reason() -> object:
    return await died(lambda: exit(([self()], a_ref(), {1: 2.5})))


@differs("finally", otp="boom", ours="killed")
async def exit_sent_with_kill_to_who_ends_already() -> object:
    pid = await spawn(forever)
    ref = monitor(pid)
    exit(pid, "boom")
    exit(pid, "kill")
    return await down(ref)


@case
async def who_traps_does_not_end_by_its_childs_kill() -> object:
    trap_exit(True)
    exit(role(await spawn_link(forever), "child"), "kill")
    return (await next_message(), await quiet())


@case
async def a_link_of_two_who_trap() -> object:
    right = role(await trapping(), "right")

    def child() -> None:
        link(right)
        exit("boom")

    await died(child)
    return ((await next_message()).reason, is_process_alive(right))


@case
async def what_waited_is_lost_with_the_process() -> object:
    me = self()

    async def child() -> None:
        await receive("go")
        _, what = await receive(("say", object))
        await send(me, what)

    pid = await spawn(child)
    await send(pid, ("say", "hello"))
    exit(pid, "boom")
    await send(pid, "go")
    await down(monitor(pid))
    return await quiet()


@case
async def a_parent_that_ends_leaves_its_children() -> object:
    me = self()

    async def parent() -> None:
        await send(me, ("child", await answering()))

    assert await died(parent) == "normal"
    _, child = await next_message()
    return await ask_it(child, "still_here")
