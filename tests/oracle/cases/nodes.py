"""Two other nodes, `gandalf` that stays up and `bilbo` that is killed: twins of oracle_nodes.erl.

They run as processes of a program that is attached to a third node, in one go (test_nodes.py).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from drupelet import (
    GenServer,
    NodeDown,
    Pid,
    demonitor,
    exit,
    is_alive,
    link,
    monitor,
    monitor_node,
    node,
    nodes,
    pg,
    ping,
    receive,
    rpc,
    self,
    send,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
    unlink,
    whereis,
)
from drupelet.errors import CallError, NoConnection, RemoteError, Timeout
from tests.oracle.helpers import (
    ask_it,
    collect,
    died,
    down,
    forever,
    next_message,
    quiet,
    rest,
)
from tests.oracle.normal import case, caught, differs, done, role

FAR = Path(__file__).parents[1] / "far.py"


def _load() -> Any:
    """far.py as a worker loads it: a function's module is what the other node calls it."""
    spec = importlib.util.spec_from_file_location("mission_far", FAR)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


far = _load()

GANDALF, BILBO, NOBODY = "gandalf", "bilbo", "nobody"


async def there() -> Pid:
    return role(await spawn(far.answers, node=GANDALF), "child")


async def dead_there() -> Pid:
    pid, ref = await spawn_monitor(far.ends, node=GANDALF)
    await down(ref)
    return role(pid, "child")


async def named(name: str, where: str = GANDALF) -> Pid:
    pid = await rpc.call(where, "far", "named", (name,))
    assert isinstance(pid, Pid)
    return role(pid, "child")


async def trapping_there() -> Pid:
    pid = await spawn(far.traps, self(), node=GANDALF)
    await next_message(("ready", pid))
    return pid


async def failed(awaitable: Awaitable[object]) -> object:
    """What `rpc:call` gives for an exception: ``{badrpc, Reason}``."""
    try:
        return await awaitable
    except Timeout:
        return ("badrpc", "timeout")
    except NoConnection:
        return ("badrpc", "nodedown")
    except RemoteError as error:
        return ("badrpc", error.kind)


# -- distribution


@case
async def node_is_alive() -> object:
    return is_alive()


@case
async def node_ping() -> object:
    return await ping(GANDALF)


@case
async def node_ping_unknown() -> object:
    return await ping(NOBODY)


@case
async def node_nodes() -> object:
    return sorted(nodes())


@case
async def node_of_a_remote_pid() -> object:
    return (await there()).node


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


async def links(pid: Pid) -> None:
    link(pid)
    await forever()


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


# -- servers


async def server(name: str) -> tuple[str, str]:
    role(await rpc.call(GANDALF, "far", "server", (name,)), "server")
    return (name, GANDALF)


@case
async def remote_call() -> object:
    pid = await whereis(*await server("rs_1"))
    assert pid is not None
    return await GenServer.call(pid, "put", ["new"])


@case
async def remote_call_by_name() -> object:
    return await GenServer.call(await server("rs_2"), "get")


@case
async def remote_cast() -> object:
    to = await server("rs_3")
    gave = await GenServer.cast(to, "one")
    return ("ok" if done(gave) else gave, await GenServer.call(to, "get"))


@case
async def remote_call_timeout() -> object:
    return await caught(GenServer.call(await server("rs_4"), "never", timeout=0.02))


@case
async def remote_server_exits_during_a_call() -> object:
    return await caught(GenServer.call(await server("rs_5"), "end", "boom"))


@case
async def remote_call_to_an_unknown_name() -> object:
    return await caught(GenServer.call(("no_such_name", GANDALF), "get"))


@case
async def call_on_an_unknown_node() -> object:
    return await caught(GenServer.call(("no_such_name", NOBODY), "get"))


@case
async def cast_on_an_unknown_node() -> object:
    return "ok" if done(await GenServer.cast(("no_such_name", NOBODY), "hello")) else "?"


# -- groups


@case
async def pg_member_of_another_node() -> object:
    pg.join("remote_group")
    ref, _ = pg.monitor("remote_group")
    pid = role(await spawn(far.member, "remote_group", node=GANDALF), "child")
    _, _, _, joined = await next_message((ref, "join", "remote_group", list))
    members = pg.get_members("remote_group")
    return (joined, len(members), pid in members, pg.get_local_members("remote_group"))


@case
async def pg_member_of_another_node_dies() -> object:
    pg.monitor("remote_group_2")
    pid = role(await spawn(far.member, "remote_group_2", node=GANDALF), "child")
    await next_message()
    await send(pid, ("exit", "boom"))
    _, what, _, left = await next_message()
    assert what == "leave"
    return (left, pg.get_members("remote_group_2"))


# -- rpc


@case
async def rpc_value() -> object:
    return await rpc.call(GANDALF, "far", "here")


@case
async def rpc_undef() -> object:
    return await failed(rpc.call(GANDALF, "far", "no_such_function"))


@differs("reasons", otp=("badrpc", "bad"), ours=("badrpc", "ValueError"))
async def rpc_error() -> object:
    return await failed(rpc.call(GANDALF, "far", "fails", ("error",)))


@differs("reasons", otp=("badrpc", "boom"), ours=("badrpc", "ProcessExit"))
async def rpc_exit() -> object:
    return await failed(rpc.call(GANDALF, "far", "fails", ("exit",)))


@differs("rpc", otp="thrown", ours=("badrpc", "ValueError"))
async def rpc_throw() -> object:
    return await failed(rpc.call(GANDALF, "far", "fails", ("throw",)))


@case
async def rpc_nodedown() -> object:
    return await failed(rpc.call(NOBODY, "far", "here"))


@case
async def rpc_timeout() -> object:
    return await failed(rpc.call(GANDALF, "far", "later", (5.0,), timeout=0.02))


@case
async def rpc_to_oneself() -> object:
    return await rpc.call(node(), "far", "here")


@case
async def rpc_cast() -> object:
    gave = done(await rpc.cast(GANDALF, "far", "tell", (self(), ["hello"])))
    return (gave, await next_message())


@case
async def rpc_multicall() -> object:
    found = await rpc.multicall([node(), GANDALF, NOBODY], "far", "here")
    values = [value for value in found.values() if not isinstance(value, CallError)]
    return (values, [name for name, value in found.items() if isinstance(value, NoConnection)])


@case
async def rpc_in_another_process_of_the_system() -> object:
    return await rpc.call(GANDALF, "far", "getpid") == os.getpid()


# -- a node that is lost


LOST = (
    "down_by_name",
    "takes_who_does_not_trap",
    "takes_back_monitor_node",
    "during_an_rpc",
    "during_a_call",
    "tells_nothing_twice",
    "send",
    "exit_sent",
    "monitor",
    "link",
    "link_not_trapped",
    "call",
    "cast",
    "rpc",
    "monitor_node",
    "nodedown_for_each_monitor_node",
    "down_of_each_monitor",
    "is_not_in_nodes",
    "ping",
)


async def lost(kill: Callable[[], None]) -> list[tuple[str, object]]:
    """Many relations with `bilbo`, and what is told of each when it is killed."""
    me = self()
    trap_exit(True)
    linked = role(await spawn_link(far.answers, node=BILBO), "linked")
    watched = role(await spawn(far.answers, node=BILBO), "watched")
    on_bilbo = await named("on_bilbo", BILBO)
    refs = [monitor(watched), monitor(watched)]
    by_name = monitor(("on_bilbo", BILBO))
    for pid in (linked, watched, on_bilbo):
        await ask_it(pid, "sync")

    async def calling() -> None:
        await send(me, ("rpc", await failed(rpc.call(BILBO, "far", "later", (60.0,), timeout=60))))

    async def untrapping() -> None:
        link(watched)
        await send(me, "linked")
        await forever()

    async def flagged() -> None:
        await monitor_node(BILBO)
        await monitor_node(BILBO, False)
        await send(me, "flagged")
        await receive("finish")
        await send(me, ("waited", await rest()))

    async def asking() -> None:
        asked = GenServer.call(("on_bilbo", BILBO), "never", timeout=60)
        await send(me, ("call", await caught(asked)))

    await spawn(calling)
    await spawn(asking)
    untrapping_ref = monitor(await spawn(untrapping))
    await next_message("linked")
    await monitor_node(BILBO)
    await monitor_node(BILBO)
    flagged_pid = await spawn(flagged)
    await next_message("flagged")
    kill()
    nodedowns = [await next_message(NodeDown) for _ in range(2)]
    outcomes: list[tuple[str, object]] = [
        ("nodedown_for_each_monitor_node", ["nodedown" for _ in nodedowns if _ != "silence"]),
        (
            "exit_of_a_link",
            (await next_message(lambda m: getattr(m, "pid", None) == linked)).reason,
        ),
        ("down_of_each_monitor", [await down(ref) for ref in refs]),
    ]
    told = await next_message(lambda m: getattr(m, "ref", None) == by_name)
    outcomes.append(("down_by_name", (told.pid, told.reason)))
    outcomes.append(("takes_who_does_not_trap", await down(untrapping_ref)))
    await send(flagged_pid, "finish")
    outcomes.append(("takes_back_monitor_node", (await next_message(("waited", list)))[1]))
    outcomes.append(("during_an_rpc", (await next_message(("rpc", object)))[1]))
    outcomes.append(("during_a_call", (await next_message(("call", object)))[1]))
    outcomes.append(("tells_nothing_twice", await quiet()))
    return outcomes + await after(linked, watched)


async def after(linked: Pid, watched: Pid) -> list[tuple[str, object]]:
    """What is done with the pids of a node that was lost."""
    outcomes: list[tuple[str, object]] = [
        ("is_not_in_nodes", BILBO in nodes()),
        ("ping", await ping(BILBO)),
    ]
    await send(watched, "hello")
    outcomes.append(("send", "still_here"))
    outcomes.append(("exit_sent", done(exit(watched, "boom"))))
    monitor(watched)
    outcomes.append(("monitor", await next_message()))
    link(linked)
    outcomes.append(("link", await next_message()))
    outcomes.append(("link_not_trapped", await died(links, linked)))
    unlink(linked)
    outcomes.append(("call", await caught(GenServer.call(watched, "get"))))
    outcomes.append(("cast", "ok" if done(await GenServer.cast(watched, "hello")) else "?"))
    outcomes.append(("rpc", await failed(rpc.call(BILBO, "far", "here"))))
    await monitor_node(BILBO)
    outcomes.append(("monitor_node", await next_message()))
    return outcomes
