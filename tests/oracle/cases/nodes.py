"""Sending, links, monitors and ends across nodes: twins of erlang/oracle_nodes.erl.

They run as processes of a program that is attached to a third node, in one go (test_nodes.py).
"""

from __future__ import annotations

from collections.abc import Callable

from drupelet import (
    Pid,
    demonitor,
    exit,
    is_alive,
    is_process_alive,
    link,
    monitor,
    monitor_node,
    node,
    nodes,
    ping,
    process_info,
    register,
    self,
    send,
    send_after,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
    unlink,
    whereis,
)
from drupelet.errors import CallError
from tests.oracle.distant import GANDALF, NOBODY, dead_there, far, named, there, trapping_there
from tests.oracle.helpers import (
    ask_it,
    collect,
    died,
    down,
    forever,
    links,
    next_message,
    quiet,
    rest,
)
from tests.oracle.normal import case, differs, done, raised, role

# -- distribution


@case
async def node_is_alive() -> object:
    return is_alive()


@case
async def node_ping() -> object:
    return await ping(GANDALF)


@case
async def node_ping_oneself() -> object:
    return await ping(node())


@case
async def node_ping_unknown() -> object:
    return await ping(NOBODY)


@case
async def node_nodes() -> object:
    return sorted(nodes())


@case
async def node_of_a_remote_pid() -> object:
    return (await there()).node


def refused(ask: Callable[[Pid], object], pid: Pid) -> object:
    try:
        return ask(pid)
    except ValueError as error:
        return type(error).__name__


@differs("refusals", otp=("error", "badarg"), ours="ValueError")
async def is_process_alive_of_a_remote_pid() -> object:
    return refused(is_process_alive, await there())


@differs("refusals", otp=("error", "badarg"), ours="ValueError")
async def process_info_of_a_remote_pid() -> object:
    return refused(process_info, await there())


@case
async def node_monitor_an_unknown_node() -> object:
    await monitor_node(NOBODY)
    return await next_message()


@case
async def node_monitor_gives_true() -> object:
    return [done(await monitor_node(GANDALF, flag)) for flag in (True, False)]


# -- sending


@case
async def remote_spawn() -> object:
    pid = await there()
    await send(pid, ("ask", self(), "node"))
    _, _, where = await next_message()
    return (where, pid.node == where)


@case
async def remote_send_keeps_order() -> object:
    await spawn(far.tells, self(), [1, 2, 3, 4, 5], node=GANDALF)
    return await collect(5)


@case
async def remote_pid_comes_back_equal() -> object:
    await spawn(far.tells, self(), [("you", self())], node=GANDALF)
    _, back = await next_message()
    return bool(back == self())


@case
async def remote_ref_comes_back_equal() -> object:
    pid = await there()
    ref = monitor(pid)
    return await ask_it(pid, ref) == ref


@case
async def remote_large_messages_keep_their_order() -> object:
    await spawn(far.large, self(), [1, 1_000_000, 2, 100_000, 3], node=GANDALF)
    return [len(each) for each in await collect(5)]


@case
async def spawn_on_ones_own_node() -> object:
    await spawn(far.tells, self(), ["hello"], node=node())
    return await next_message()


@differs("refusals", otp=("error", "badarg"), ours=("raised", "ProcessDown"))
async def register_a_remote_pid() -> object:
    return await raised(register("of_another", await there()))


@differs("timers", otp=("error", "badarg"), ours=("answer", "hello"))
async def timer_to_a_remote_pid() -> object:
    send_after(0, await there(), ("ask", self(), "hello"))
    return await next_message()


@case
async def remote_send_to_the_dead() -> object:
    await send(await dead_there(), "hello")
    return "still_here"


@case
async def remote_send_to_a_name() -> object:
    await named("remote_name")
    await send(("remote_name", GANDALF), ("ask", self(), "hello"))
    return await next_message()


@case
async def remote_send_to_an_unknown_name() -> object:
    await send(("no_such_name", GANDALF), "hello")
    return "still_here"


@case
async def send_to_a_name_on_an_unknown_node() -> object:
    await send(("no_such_name", NOBODY), "hello")
    return "still_here"


@case
async def remote_whereis() -> object:
    pid = await named("remote_whereis")
    return await whereis("remote_whereis", GANDALF) == pid


@case
async def a_name_is_of_its_node() -> object:
    await named("of_its_node")
    return await whereis("of_its_node")


@differs("spawn", otp="undef", ours=("raised", "RemoteError"))
async def remote_spawn_of_an_unknown_function() -> object:
    def no_such_function() -> None: ...

    no_such_function.__module__ = far.__name__
    no_such_function.__qualname__ = "no_such_function"
    return await raised(spawn_monitor(no_such_function, node=GANDALF))


@differs("data", otp=("from", "gandalf"), ours=("raised", "NotSendable"))
async def remote_spawn_of_a_function_in_a_variable() -> object:
    return await raised(spawn(lambda: None, node=GANDALF))


@differs("spawn", otp="noconnection", ours=("raised", "NoConnection"))
async def remote_spawn_on_an_unknown_node() -> object:
    try:
        _, ref = await spawn_monitor(far.answers, node=NOBODY)
    except CallError as error:
        return ("raised", type(error).__name__)
    return await down(ref)


# -- links, monitors and ends


@case
async def remote_spawn_monitor_normal() -> object:
    pid, _ = await spawn_monitor(far.ends, node=GANDALF)
    role(pid, "child")
    message = await next_message()
    return (message.pid, message.reason)


@case
async def remote_spawn_monitor_exit() -> object:
    _, ref = await spawn_monitor(far.fails_there, node=GANDALF)
    return await down(ref)


@case
async def remote_spawn_link() -> object:
    trap_exit(True)
    role(await spawn_link(far.fails_there, node=GANDALF), "child")
    return await next_message()


@case
async def remote_link_takes_the_local() -> object:
    pid = await there()

    async def child() -> None:
        link(pid)
        await send(pid, ("exit", "boom"))
        await forever()

    return await died(child)


@case
async def remote_link_takes_the_remote() -> object:
    pid = await there()
    ref = monitor(pid)

    def child() -> None:
        link(pid)
        exit("boom")

    assert await died(child) == "boom"
    return await down(ref)


@case
async def remote_link_from_there() -> object:
    trap_exit(True)
    pid = role(await spawn(far.obeys, node=GANDALF), "child")
    await send(pid, ("link", self(), self()))
    await next_message("linked")
    await send(pid, ("exit", "boom"))
    return await next_message()


@case
async def remote_unlink() -> object:
    trap_exit(True)
    pid = await there()
    ref = monitor(pid)
    link(pid)
    unlink(pid)
    await send(pid, ("exit", "boom"))
    return (await down(ref), await quiet())


@case
async def remote_link_to_the_dead() -> object:
    trap_exit(True)
    link(await dead_there())
    return await next_message()


@case
async def remote_link_to_the_dead_ends_the_caller() -> object:
    return await died(links, await dead_there())


@case
async def remote_exit_sent() -> object:
    pid = await there()
    ref = monitor(pid)
    exit(pid, "boom")
    return await down(ref)


@case
async def remote_exit_sent_kill() -> object:
    pid = await there()
    ref = monitor(pid)
    exit(pid, "kill")
    return await down(ref)


@case
async def remote_exit_sent_kill_cannot_be_trapped() -> object:
    pid = await trapping_there()
    ref = monitor(pid)
    exit(pid, "kill")
    return (await down(ref), await quiet())


@case
async def remote_kill_is_seen_as_killed() -> object:
    trap_exit(True)
    pid = await there()
    link(pid)
    exit(pid, "kill")
    return await next_message()


@case
async def remote_kill_takes_a_linked_process() -> object:
    pid = await there()

    async def child() -> None:
        link(pid)
        exit(pid, "kill")
        await forever()

    return await died(child)


@case
async def remote_link_twice_unlink_once() -> object:
    trap_exit(True)
    pid = await there()
    ref = monitor(pid)
    link(pid)
    link(pid)
    unlink(pid)
    await send(pid, ("exit", "boom"))
    return (await down(ref), await quiet())


@case
async def remote_unlink_then_link() -> object:
    trap_exit(True)
    pid = await there()
    link(pid)
    unlink(pid)
    link(pid)
    await send(pid, ("exit", "boom"))
    return (await next_message(), await quiet())


@case
async def remote_demonitor_flush() -> object:
    pid = await there()
    first, second = monitor(pid), monitor(pid)
    await send(pid, ("exit", "boom"))
    await down(second)
    demonitor(first, flush=True)
    return await quiet()


@case
async def remote_name_is_taken_by_another() -> object:
    pid = await named("remote_heir")
    ref = monitor(pid)
    await send(pid, ("exit", "boom"))
    await down(ref)
    new = await named("remote_heir")
    await ask_it(("remote_heir", GANDALF), "hello")
    return bool(new == pid)


@case
async def remote_exit_sent_normal_is_ignored() -> object:
    pid = await there()
    exit(pid, "normal")
    return await ask_it(pid, "still_here")


@case
async def remote_exit_sent_is_trapped() -> object:
    exit(await trapping_there(), "boom")
    return await next_message()


@case
async def remote_exit_sent_to_the_dead() -> object:
    return done(exit(await dead_there(), "boom"))


@case
async def remote_signals_keep_their_order() -> object:
    pid = await trapping_there()
    await send(pid, "one")
    exit(pid, "boom")
    await send(pid, "two")
    return await collect(3)


@case
async def remote_monitor_the_dead() -> object:
    monitor(await dead_there())
    return await next_message()


@case
async def remote_monitor_several_refs() -> object:
    pid = await there()
    refs = [monitor(pid), monitor(pid)]
    await send(pid, ("exit", "boom"))
    return ([await down(ref) for ref in refs], await rest())


@case
async def remote_demonitor() -> object:
    pid = await there()
    first, second = monitor(pid), monitor(pid)
    demonitor(first)
    await send(pid, ("exit", "boom"))
    return (await down(second), await quiet())


@case
async def remote_monitor_by_name() -> object:
    pid = await named("remote_watched")
    monitor(("remote_watched", GANDALF))
    await ask_it(pid, "sync")
    await send(pid, ("exit", "boom"))
    return await next_message()


@case
async def remote_monitor_an_unknown_name() -> object:
    monitor(("no_such_name", GANDALF))
    return await next_message()


@case
async def monitor_a_name_on_an_unknown_node() -> object:
    monitor(("no_such_name", NOBODY))
    return await next_message()


@case
async def remote_name_is_free_after_down() -> object:
    pid = await named("remote_mortal")
    ref = monitor(pid)
    await send(pid, ("exit", "boom"))
    await down(ref)
    return await whereis("remote_mortal", GANDALF)
