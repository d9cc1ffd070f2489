"""The functions of `pg`, as a program uses them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
import trio

from drupelet import pg
from drupelet.process import (
    Down,
    Mailbox,
    Pid,
    exit,
    process_info,
    receive,
    run,
    self,
    send,
    spawn,
    spawn_monitor,
)
from drupelet.process.table import SLACK
from drupelet.wire.ids import Ref
from drupelet.wire.limits import GROUP_MONITORS_MAX, GROUP_NAME_BYTES_MAX
from tests.unit.process.wires import on, open_wires, settle, virtual


async def idle() -> None:
    await trio.sleep_forever()


async def ended(pid: Pid) -> None:
    from drupelet.process import monitor

    monitor(pid)
    exit(pid, "kill")
    await receive(Down)


def test_join_and_leave() -> None:
    async def main() -> None:
        me = self()
        assert pg.get_members("g") == pg.which_groups() == []
        pg.join("g")
        other = await spawn(idle)
        pg.join("g", other)
        pg.join("g", [other, me])  # twice
        assert Counter(pg.get_members("g")) == Counter([me, me, other, other])
        assert pg.get_members("g") == pg.get_local_members("g")
        assert pg.leave("g", [me, other])
        assert Counter(pg.get_members("g")) == Counter([me, other])
        assert pg.leave("g", [other, other])
        assert pg.leave("g")
        assert not pg.leave("g")
        assert not pg.leave("never")
        assert pg.which_groups() == []

    run(main)


def test_scopes_know_nothing_of_each_other() -> None:
    async def main() -> None:
        pg.join("g", scope="one")
        pg.join(("g", 2), scope="two")
        assert pg.get_members("g") == pg.get_members("g", scope="two") == []
        assert pg.get_members("g", scope="one") == [self()]
        assert pg.which_groups(scope="two") == pg.which_local_groups(scope="two") == [("g", 2)]
        assert not pg.leave("g", scope="two")

    run(main)


def test_who_ends_has_left_before_that_is_told() -> None:
    async def main() -> None:
        pid, _ = await spawn_monitor(idle)
        pg.join("g", [pid, pid])
        exit(pid, "boom")
        await receive(Down)
        assert pg.get_members("g") == []

    run(main)


@pytest.mark.parametrize(
    "group", [None, ["g"], {"g": 1}, {"g"}, object(), print, "x" * GROUP_NAME_BYTES_MAX]
)
def test_what_names_no_group(group: object) -> None:
    async def main() -> None:
        functions: list[Callable[..., object]] = [pg.join, pg.leave, pg.monitor]
        for function in functions:
            with pytest.raises(ValueError, match="a group is named by"):
                function(group)

    if group is None:  # a value like any other

        async def main() -> None:
            pg.join(None)
            assert pg.which_groups() == [None]

    run(main)


def test_the_longest_name_of_a_group() -> None:
    async def main() -> None:
        longest = "x" * (GROUP_NAME_BYTES_MAX - 2)  # its head takes two
        pg.join(longest)
        assert pg.which_groups() == [longest]
        with pytest.raises(ValueError, match="at most 255 bytes"):
            pg.join(longest + "x")

    run(main)


def test_what_may_not_be_joined() -> None:
    async def main() -> None:
        gone = await spawn(idle)
        await ended(gone)
        for pids in (gone, [self(), gone], Pid("elsewhere", 1, 5)):
            with pytest.raises(ValueError, match="no process of this program"):
                pg.join("g", pids)
        with pytest.raises(ValueError, match="a member is a Pid"):
            pg.join("g", ["printer"])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="scope|name"):
            pg.join("g", scope="no name")
        assert pg.which_groups() == []

    run(main)


def test_a_monitor_tells_of_one_group() -> None:
    async def main() -> None:
        one, two = await spawn(idle), await spawn(idle)
        pg.join("g", one)
        ref, members = pg.monitor("g")
        assert members == [one]
        pg.join("g", [two, two])
        pg.join("other", two)
        pg.leave("g", one)
        exit(two, "kill")
        assert [await receive() for _ in range(3)] == [
            (ref, "join", "g", [two, two]),
            (ref, "leave", "g", [one]),
            (ref, "leave", "g", [two, two]),
        ]
        assert pg.demonitor(ref)
        assert not pg.demonitor(ref)
        pg.join("g", one)
        await settle()
        assert process_info()["messages"] == 0

    run(main)


def test_a_monitor_of_a_scope_tells_of_every_group() -> None:
    async def main() -> None:
        pg.join("old")
        ref, groups = pg.monitor_scope()
        assert groups == {"old": [self()]}
        pg.join("new")
        pg.join("new", scope="other")
        pg.leave("old")
        assert await receive() == (ref, "join", "new", [self()])
        assert await receive() == (ref, "leave", "old", [self()])
        assert process_info()["messages"] == 0
        with pytest.raises(ValueError, match="name"):
            pg.monitor_scope(scope="no name")

    run(main)


def test_monitors_end_with_their_process_and_have_a_maximum() -> None:
    async def watch(to: Pid) -> None:
        for _ in range(GROUP_MONITORS_MAX):
            pg.monitor("g")
        with pytest.raises(ValueError, match="16,384 monitors"):
            pg.monitor("g")
        await send(to, "watched")
        await idle()

    async def main() -> None:
        watcher = await spawn(watch, self())
        assert await receive() == "watched"
        with pytest.raises(ValueError, match="16,384 monitors"):
            pg.monitor_scope()
        await ended(watcher)
        assert isinstance(pg.monitor("g")[0], Ref)

    run(main)


def test_who_does_not_read_is_told_no_more_than_fits() -> None:
    async def main() -> None:
        limit = 3

        async def deaf() -> None:
            pg.monitor("g")
            await idle()

        pid = await spawn(deaf, mailbox=Mailbox(limit=limit))
        await settle()
        for _ in range((limit + SLACK) // 2 + 5):
            pg.join("g")
            pg.leave("g")
        info = process_info(pid)
        assert info["messages"] == limit + SLACK
        assert info["dropped"] == 2 * ((limit + SLACK) // 2 + 5) - limit - SLACK

    run(main)


def test_members_of_the_cluster_of_the_node_and_of_the_program() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            here, beside = await wires.attach("alice"), await wires.attach("alice")
            far = await wires.attach("bob")
            pids = [runtime.start(idle, ()).pid for runtime in (here, beside, far)]

            def joins(pid: Pid) -> Callable[[], Awaitable[None]]:
                async def join() -> None:
                    pg.join("g", pid)

                return join

            for runtime, pid in zip((here, beside, far), pids, strict=True):
                await on(runtime, joins(pid))
            await settle()

            async def look() -> None:
                assert Counter(pg.get_members("g")) == Counter(pids)
                assert Counter(pg.get_local_members("g")) == Counter(pids[:2])
                assert pg.which_local_groups() == pg.which_groups() == ["g"]
                with pytest.raises(ValueError, match="no process of this program"):
                    pg.join("g", pids[1])
                assert not pg.leave("g", pids[1:])  # each program speaks for its own

            await on(here, look)

            async def elsewhere() -> None:
                ref, members = pg.monitor("g")
                assert Counter(members) == Counter(pids)
                wires.kill(beside)
                assert await receive(timeout=1) == (ref, "leave", "g", [pids[1]])
                wires.cut("alice", "bob")
                assert await receive(timeout=1) == (ref, "leave", "g", [pids[0]])
                wires.heal("alice", "bob")
                assert await receive(timeout=1) == (ref, "join", "g", [pids[0]])

            await on(far, elsewhere)

    virtual(main)
