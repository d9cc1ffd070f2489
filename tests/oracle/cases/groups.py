"""pg on one node: twins of erlang/oracle_pg.erl. Each case has a runtime of its own."""

from __future__ import annotations

from drupelet import Pid, exit, monitor, pg
from tests.oracle.helpers import answering, collect, down, next_message, quiet, rest
from tests.oracle.normal import case, differs, done, role


def ok(joined: None) -> str:
    return "ok" if done(joined) else "?"


def left(gave: bool) -> str:
    return "ok" if gave else "not_joined"


async def ends(pid: Pid) -> None:
    ref = monitor(pid)
    exit(pid, "boom")
    await down(ref)


@case
async def pg_join() -> object:
    return (ok(pg.join("group")), pg.get_members("group"))


@case
async def pg_members_of_an_unknown_group() -> object:
    return pg.get_members("nobody")


@case
async def pg_join_twice_is_twice_a_member() -> object:
    pg.join("group")
    pg.join("group")
    return pg.get_members("group")


@case
async def pg_leave_once_of_two() -> object:
    pg.join("group")
    pg.join("group")
    outcome: list[object] = []
    for _ in range(2):
        outcome += [left(pg.leave("group")), pg.get_members("group")]
    return tuple(outcome)


@differs("pg", otp="not_joined", ours=False)
async def pg_leave_what_was_not_joined() -> object:
    return pg.leave("group")


@case
async def pg_join_of_several() -> object:
    both = [await answering(), await answering()]
    pg.join("group", both)
    return sorted(pg.get_members("group"), key=str) == sorted(both, key=str)


@case
async def pg_local_members() -> object:
    pg.join("group")
    return pg.get_local_members("group")


@case
async def pg_which_groups() -> object:
    for group in ("red", "blue"):
        pg.join(group)
    before = sorted(map(str, pg.which_groups()))
    pg.leave("red")
    return (before, pg.which_groups())


@case
async def pg_a_dead_member_leaves() -> object:
    pid = await answering()
    pg.join("group", pid)
    await ends(pid)
    return (pg.get_members("group"), pg.which_groups())


@case
async def pg_scopes_are_apart() -> object:
    pg.join("group", scope="one")
    return (pg.get_members("group", scope="one"), pg.get_members("group", scope="other"))


@case
async def pg_monitor_tells_joins_and_leaves() -> object:
    ref, before = pg.monitor("group")
    pg.join("group")
    pg.leave("group")
    joined, gone = await collect(2)
    assert (joined[:3], gone[:3]) == ((ref, "join", "group"), (ref, "leave", "group"))
    return (before, joined[3], gone[3], await rest())


@case
async def pg_monitor_gives_who_is_there() -> object:
    pg.join("group")
    return pg.monitor("group")[1]


@case
async def pg_monitor_tells_a_death() -> object:
    pid = role(await answering(), "child")
    pg.join("group", pid)
    ref, _ = pg.monitor("group")
    await ends(pid)
    told, _, _, pids = await next_message((ref, "leave", "group", list))
    assert told == ref
    return pids


@case
async def pg_monitor_hears_of_its_group_only() -> object:
    pg.monitor("red")
    pg.join("blue")
    return await quiet()


@case
async def pg_demonitor() -> object:
    ref, _ = pg.monitor("group")
    gave = left(pg.demonitor(ref))
    pg.join("group")
    return (gave, await quiet())


@case
async def pg_monitor_scope() -> object:
    pg.join("red")
    ref, before = pg.monitor_scope()
    pg.join("blue")
    told, what, group, joined = await next_message()
    assert (told, what, group) == (ref, "join", "blue")
    return (before, joined)
