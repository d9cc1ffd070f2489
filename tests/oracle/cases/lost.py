"""A node that is killed: what is told of each relation with it, and what its pids are good for.

One scene with many outcomes: twin of `lost/0` in erlang/oracle_nodes.erl.
"""

from __future__ import annotations

from collections.abc import Callable

from drupelet import (
    GenServer,
    NodeDown,
    Pid,
    exit,
    link,
    monitor,
    monitor_node,
    nodes,
    ping,
    receive,
    rpc,
    self,
    send,
    spawn,
    spawn_link,
    trap_exit,
    unlink,
)
from tests.oracle.distant import BILBO, failed, far, named
from tests.oracle.helpers import ask_it, died, down, forever, links, next_message, quiet, rest
from tests.oracle.normal import caught, done, role

NAMES = (
    "nodedown_for_each_monitor_node",
    "takes_back_monitor_node",
    "exit_of_a_link",
    "down_of_each_monitor",
    "down_by_name",
    "takes_who_does_not_trap",
    "during_a_call",
    "during_an_rpc",
    "tells_nothing_twice",
    "is_not_in_nodes",
    "ping",
    "send",
    "exit_sent",
    "monitor",
    "link",
    "link_not_trapped",
    "call",
    "cast",
    "rpc",
    "monitor_node",
)


async def scene(kill: Callable[[], None]) -> list[tuple[str, object]]:
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
