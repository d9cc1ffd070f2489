"""ring: round and round, on one node and on several simulated ones."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.bundled import ring
from drupelet.errors import NoConnection
from drupelet.ladder import simulate
from drupelet.process import Exit, exit, node, nodes, processes, receive, spawn_link, trap_exit
from drupelet.process.running import open_runtime


@pytest.fixture(autouse=True)
def as_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module has the name that workers load it by."""
    monkeypatch.setitem(sys.modules, "ring", ring)


async def settled() -> int:
    """How many processes are left."""
    await trio.testing.wait_all_tasks_blocked()
    return len(await processes())


async def test_round_and_round() -> None:
    async with open_runtime():
        for count, rounds in ((1, 1), (1, 5), (7, 3), (1000, 1)):
            figures = await ring.around([node()], count, rounds)
            assert figures["processes"] == count
            assert figures["hops"] == count * rounds
            assert await settled() == 1  # this test


@pytest.mark.parametrize(
    ("names", "count", "rounds", "fits"),
    [
        ([], 1, 1, False),
        (["n"], 0, 1, False),
        (["n"], ring.PROCESSES_MAX, 1, True),
        (["n"], ring.PROCESSES_MAX + 1, 1, False),
        (["n"], 1_000, 0, False),
        (["n"], 1_000, ring.HOPS_MAX // 1_000, True),
        (["n"], 1_000, ring.HOPS_MAX // 1_000 + 1, False),
    ],
)
async def test_its_bounds(
    names: list[str], count: int, rounds: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Started(Exception):
        pass

    async def start(*_: object, **__: object) -> None:
        raise Started

    monkeypatch.setattr(ring, "spawn_link", start)
    async with open_runtime():
        with pytest.raises(Started if fits else ValueError):
            await ring.around(names, count, rounds)


async def test_a_caller_that_gives_up_leaves_nothing() -> None:
    async with open_runtime():
        with trio.move_on_after(0.05) as scope:
            await ring.around([node()], 100, 100_000)
        assert scope.cancelled_caught
        assert await settled() == 1


async def test_a_link_that_breaks_ends_the_ring() -> None:
    async def run(_: object) -> None:
        await ring.around([node()], 50, 100_000)

    async with open_runtime():
        trap_exit()
        pid = await spawn_link(run, None)
        while len(rows := await processes()) < 50:
            await trio.lowlevel.checkpoint()
        exit(rows[25]["pid"], "broken")  # type: ignore[arg-type]
        assert await receive(Exit) == Exit(pid, "broken")
        assert await settled() == 1


def test_around_several_nodes() -> None:
    async def run() -> dict[str, object]:
        return await ring.around([node(), *nodes()], 9, 5)

    async def main(cluster: Any) -> None:
        await cluster.wait_connected()
        figures = await cluster.on("a", run)
        assert (figures["nodes"], figures["hops"]) == (3, 45)

    simulate(main, ("a", "b", "c"), modules=["ring"])


def test_a_node_that_is_not_there_is_told() -> None:
    async def run(count: int) -> dict[str, object]:
        return await ring.around([node(), "nobody"], count, 5)

    async def main(cluster: Any) -> None:
        with pytest.raises(NoConnection, match="no_such_node"):  # the first one
            await cluster.on("a", run, 9)
        with pytest.raises(RuntimeError, match="no_such_node"):  # a later one: by its link
            await cluster.on("a", run, 10)

    simulate(main, ("a",), modules=["ring"])
