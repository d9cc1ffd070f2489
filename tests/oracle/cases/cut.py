"""A node whose connection is closed, and which comes back: twin of `cut/0` in oracle_nodes.erl."""

from __future__ import annotations

from drupelet import (
    Exit,
    NodeDown,
    Pid,
    disconnect_node,
    link,
    monitor,
    monitor_node,
    pg,
    ping,
    self,
    send,
    spawn,
    spawn_link,
    trap_exit,
)
from tests.oracle.distant import GANDALF, NOBODY, far
from tests.oracle.helpers import ask_it, down, is_gone, next_message, quiet
from tests.oracle.normal import role

NAMES = (
    "unknown",
    "gives",
    "nodedown",
    "exit_of_each_link",
    "down",
    "leaves_the_groups",
    "tells_nothing_twice",
    "comes_back",
    "tells_the_other_side",
    "takes_who_was_linked",
    "spares_who_was_not",
    "is_in_the_groups_again",
    "can_be_watched_and_linked_again",
    "nothing_is_left",
)


async def scene() -> list[tuple[str, object]]:
    """Relations with `gandalf`, what is told of each when it is cut off, and what is so later."""
    trap_exit(True)
    linked = role(await spawn_link(far.answers, node=GANDALF), "linked")
    watched = role(await spawn(far.answers, node=GANDALF), "watched")
    keeping = role(await spawn(far.keeps, self(), node=GANDALF), "keeping")
    await next_message(("ready", keeping))
    ref = monitor(watched)
    await monitor_node(GANDALF)
    for pid in (linked, watched):
        await ask_it(pid, "sync")
    group, _ = pg.monitor("cut_group")
    await send(watched, ("join", "cut_group"))
    await next_message((group, "join", "cut_group", list))
    outcomes: list[tuple[str, object]] = [
        ("unknown", await disconnect_node(NOBODY)),
        ("gives", await disconnect_node(GANDALF)),
    ]
    told = await next_message(NodeDown)
    outcomes.append(("nodedown", "nodedown" if told != "silence" else told))
    outcomes.append(("exit_of_each_link", [await exit_of(pid) for pid in (linked, keeping)]))
    outcomes.append(("down", await down(ref)))
    _, _, _, left = await next_message((group, "leave", "cut_group", list))
    outcomes.append(("leaves_the_groups", left))
    pg.demonitor(group)
    outcomes.append(("tells_nothing_twice", await quiet()))
    return outcomes + await later(linked, watched, keeping)


async def exit_of(pid: Pid) -> object:
    message = await next_message(lambda m: isinstance(m, Exit) and m.pid == pid)
    return message.reason if isinstance(message, Exit) else message


async def later(linked: Pid, watched: Pid, keeping: Pid) -> list[tuple[str, object]]:
    """When the node is connected again."""
    while await ping(GANDALF) != "pong":
        await quiet()
    outcomes: list[tuple[str, object]] = [("comes_back", "pong")]
    await send(keeping, ("told", self()))
    _, both, more = await next_message(("told", list, list))
    outcomes.append(("tells_the_other_side", (both, more)))
    outcomes.append(("takes_who_was_linked", await is_gone(linked)))
    outcomes.append(("spares_who_was_not", await ask_it(watched, "still_here")))
    again, members = pg.monitor("cut_group")
    if not members:
        await next_message((again, "join", "cut_group", list))
    pg.demonitor(again)
    outcomes.append(("is_in_the_groups_again", pg.get_members("cut_group")))
    ref = monitor(watched)
    link(watched)
    await ask_it(watched, "sync")
    await send(watched, ("exit", "boom"))
    outcomes.append(("can_be_watched_and_linked_again", (await down(ref), await next_message())))
    outcomes.append(("nothing_is_left", await quiet()))
    return outcomes
