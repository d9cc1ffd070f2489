"""Servers, groups and rpc across nodes: twins of erlang/oracle_nodes.erl, as cases/nodes.py."""

from __future__ import annotations

import os

from drupelet import (
    Child,
    GenEvent,
    GenServer,
    GenStatem,
    Pid,
    Supervisor,
    ask,
    monitor,
    node,
    pg,
    reply,
    rpc,
    self,
    send,
    spawn,
    spawn_monitor,
    trap_exit,
    whereis,
)
from drupelet.errors import CallError, NoConnection
from tests.oracle.distant import GANDALF, NOBODY, dead_there, failed, far
from tests.oracle.helpers import died, down, forever, is_gone, next_message, quiet
from tests.oracle.normal import case, caught, differs, done, role

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
async def remote_statem() -> object:
    await rpc.call(GANDALF, "far", "machine", ("rm_1",))
    to = ("rm_1", GANDALF)
    pushed = [await GenStatem.call(to, "push"), await GenStatem.call(to, "push")]
    return [*pushed, await caught(GenStatem.call(to, "never", timeout=0.02))]


@case
async def remote_statem_ends() -> object:
    ref = monitor(await rpc.call(GANDALF, "far", "machine", ("rm_2",)))
    await GenStatem.cast(("rm_2", GANDALF), "stop")
    return await down(ref)


@case
async def remote_event_handler() -> object:
    await rpc.call(GANDALF, "far", "manager", ("re_1",))
    to = ("re_1", GANDALF)
    gave = await GenEvent.add_handler(to, (far.Teller, "a"), self())
    await GenEvent.notify(to, "hello")
    outcome = ("ok" if done(gave) else gave, await next_message())
    return (*outcome, len(await GenEvent.which_handlers(to)))


@case
async def remote_event_handler_goes_with_its_owner() -> object:
    await rpc.call(GANDALF, "far", "manager", ("re_2",))
    to = ("re_2", GANDALF)
    await died(GenEvent.add_sup_handler, to, (far.Teller, "a"), self())
    return (await next_message(), await GenEvent.which_handlers(to))


@case
async def remote_supervisor() -> object:
    await spawn(far.supervises, "rs_sup", self(), node=GANDALF)
    await next_message(Pid)
    to = ("rs_sup", GANDALF)
    pid = await Supervisor.start_child(to, Child("a", (far.started, (self(),))))
    _, _, first = await next_message()
    assert first == pid
    ref = monitor(pid)
    await send(pid, ("stop", "boom"))
    assert await down(ref) == "boom"
    _, _, again = await next_message()
    gave = await Supervisor.terminate_child(to, "a")
    return (again.node, bool(again == pid), "ok" if done(gave) else gave, await is_gone(again))


@case
async def remote_supervisor_of_a_server() -> object:
    await spawn(far.supervises, "rs_sup_2", self(), node=GANDALF)
    await next_message(Pid)
    to = ("rs_sup_2", GANDALF)
    pid = await Supervisor.start_child(to, Child("a", far.Plain))
    return (
        await GenServer.call(pid, "get"),
        [id for id, *_ in await Supervisor.which_children(to)],
    )


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


async def joined(group: str) -> Pid:
    """An answering process of gandalf that is in this group, which we are told of."""
    ref, _ = pg.monitor(group)
    pid = role(await spawn(far.member, group, node=GANDALF), "child")
    await next_message((ref, "join", group, [pid]))
    return pid


@differs("pg", otp="nolocal", ours="ValueError")
async def pg_join_of_a_remote_pid() -> object:
    pid = await spawn(far.answers, node=GANDALF)
    try:
        return pg.join("of_another", pid)
    except ValueError as error:
        return type(error).__name__


@case
async def pg_member_of_another_node_leaves() -> object:
    pid = await joined("remote_group_3")
    await send(pid, ("leave", "remote_group_3"))
    _, what, group, left = await next_message()
    return (what, group, left, pg.get_members("remote_group_3"), pg.which_groups() == [])


@case
async def pg_members_seen_from_another_node() -> object:
    pg.join("remote_group_4")
    pid = await joined("remote_group_4")
    seen = await rpc.call(GANDALF, "far", "members", ("remote_group_4",))
    local = await rpc.call(GANDALF, "far", "members", ("remote_group_4", True))
    pg.leave("remote_group_4")
    return (sorted(seen, key=str) == sorted([self(), pid], key=str), local)


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


@differs(
    "rpc",
    otp=(["gandalf"], ["nobody"]),
    ours=[("gandalf", "gandalf"), ("nobody", "NoConnection")],
)
async def rpc_multicall_gives() -> object:
    found = await rpc.multicall([GANDALF, NOBODY], "far", "here")
    return [
        (name, type(value).__name__ if isinstance(value, CallError) else value)
        for name, value in found.items()
    ]


@case
async def rpc_in_another_process_of_the_system() -> object:
    return await rpc.call(GANDALF, "far", "getpid") == os.getpid()


# -- requests without a behaviour, and exit signals from there


async def handing() -> Pid:
    return await spawn(far.hands, self(), node=GANDALF)


async def asking(to: Pid) -> None:
    me = self()

    async def child() -> None:
        await send(me, ("outcome", await ask(to, "hello")))

    await spawn(child)


@case
async def remote_ask() -> object:
    return await ask(await spawn(far.serves, node=GANDALF), ["hello", 1])


@case
async def remote_ask_a_late_reply_is_dropped() -> object:
    outcome = await caught(ask(await handing(), "hello", timeout=0.02))
    _, caller, _ = await next_message()
    _, ref = await spawn_monitor(far.replies, caller, "late", node=GANDALF)
    await down(ref)
    return (outcome, await quiet())


@case
async def remote_ask_reply_by_a_process_here() -> object:
    await asking(await handing())
    _, caller, _ = await next_message()
    await reply(caller, "from_here")
    return await next_message()


@case
async def remote_ask_reply_by_another_there() -> object:
    await asking(await handing())
    _, caller, _ = await next_message()
    await spawn(far.replies, caller, "there", node=GANDALF)
    return await next_message()


@case
async def remote_ask_the_dead() -> object:
    return await caught(ask(await dead_there(), "hello"))


@case
async def remote_ask_the_receiver_ends() -> object:
    to = await spawn(far.serves, node=GANDALF)
    return (await caught(ask(to, ("exit", "boom"))), await quiet())


async def is_told(reason: str, trap: bool) -> None:
    trap_exit(trap)
    await spawn(far.exits, self(), reason, node=GANDALF)
    await forever()


@case
async def remote_exit_sent_from_there_takes() -> object:
    return await died(is_told, "boom", False)


@case
async def remote_exit_sent_from_there_is_trapped() -> object:
    trap_exit(True)
    await spawn(far.exits, self(), "boom", node=GANDALF)
    return (await next_message()).reason


@case
async def remote_exit_sent_from_there_kill() -> object:
    return await died(is_told, "kill", True)
