"""The real stage on simulated daemons; on real ones it stands in tests/integration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from drupelet.cli.lessons.program import MODULE, Program
from drupelet.cli.lessons.real import RealStage, ours, ship
from drupelet.cli.lessons.watched import WatchedRuntime
from drupelet.cli.output import Failed
from drupelet.client import Client
from drupelet.errors import RemoteProtocolError
from drupelet.ladder import Cluster, Conditions, simulate
from drupelet.process import (
    NodeDown,
    ReceiveTimeout,
    monitor_node,
    node,
    nodes,
    processes,
    receive,
    spawn,
)
from drupelet.wire.ids import Pid

NAMES = ("gandalf", "bilbo", "frodo")


class Power:
    """Switches the nodes of a simulated cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def kill(self, node: str) -> None:
        self._cluster.kill(node)

    async def restart(self, node: str) -> None:
        await self._cluster.restart(node)


def on_stage(
    main: Callable[[RealStage, Cluster], Awaitable[Any]], *, has_power: bool = False
) -> Any:
    async def first(cluster: Cluster) -> Any:
        runtime = cluster._main["gandalf"].runtime
        assert isinstance(runtime, WatchedRuntime)
        power = Power(cluster) if has_power else None
        stage = RealStage(NAMES, runtime, power)
        await stage.heal()
        return await main(stage, cluster)

    conditions = Conditions(runtime=WatchedRuntime)
    return simulate(first, NAMES, conditions=conditions, modules=(__name__,))


async def _watch(stage: RealStage, *names: str) -> None:
    for name in names:
        await monitor_node(name)
    await stage.cut(node())
    assert sorted([(await receive(NodeDown)).node for _ in names]) == list(names)


def test_a_cut_is_noticed_and_heals() -> None:
    async def main(stage: RealStage, cluster: Cluster) -> None:
        await stage.run(_watch, stage, "bilbo", "frodo")
        await stage.heal()
        assert await stage.run(_nodes) == ["bilbo", "frodo"]
        assert len(stage.notes) == 1
        assert "links of gandalf were closed" in stage.notes[0]

    on_stage(main)


async def _nodes() -> list[str]:
    await trio.lowlevel.checkpoint()
    return nodes()


@pytest.mark.parametrize("has_power", [True, False])
def test_a_killed_node_comes_back(has_power: bool) -> None:
    async def main(stage: RealStage, cluster: Cluster) -> None:
        incarnation = cluster.daemon("bilbo").incarnation
        await stage.kill("bilbo")
        assert ("bilbo" in cluster.daemons) is not has_power
        await stage.heal()
        assert await stage.run(_nodes) == ["bilbo", "frodo"]
        assert (cluster.daemon("bilbo").incarnation != incarnation) is has_power
        assert [("bilbo was not killed" in note) for note in stage.notes] == [True] * (
            not has_power
        )

    on_stage(main, has_power=has_power)


async def _leave() -> None:
    await spawn(_stay, node="bilbo")
    await receive("never", timeout=0.1)


async def _stay() -> None:
    await spawn(receive)
    await receive()


async def _here() -> list[dict[str, Any]]:
    return await processes()


def test_what_was_left_on_other_nodes_is_killed() -> None:
    async def main(stage: RealStage, cluster: Cluster) -> None:
        await cluster.on("bilbo", spawn, _stay)  # somebody else's
        with pytest.raises(ReceiveTimeout):
            await stage.run(_leave)
        before = await cluster.on("bilbo", _here)
        await stage.tidy()
        after = await cluster.on("bilbo", _here)
        assert len(before) - len(after) == 2
        assert len([each for each in after if "_stay" in each["function"]]) == 1

    on_stage(main)


def test_ours_are_children_and_their_children() -> None:
    runtime = Pid("a", 1, 2 << 40)
    mine, other = Pid("a", 1, 2 << 40 | 7), Pid("a", 1, 3 << 40 | 7)
    pids = [Pid("b", 1, 1 << 40 | number) for number in range(6)]
    parents = [mine, pids[0], other, pids[2], None, pids[1]]
    rows = [{"pid": pid, "parent": parent} for pid, parent in zip(pids, parents, strict=True)]
    assert ours(rows, runtime) == {pids[0], pids[1], pids[5]}
    assert ours([], runtime) == set()


class FakeClient:
    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked: list[object] = []

    async def call(self, *args: object, timeout: float) -> object:
        await trio.lowlevel.checkpoint()
        self.asked = list(args)
        return self.answer


async def _ship(answer: object, folder: Path) -> tuple[bytes, list[object]]:
    file = folder / "mine.py"
    file.write_text("async def main(): ...\n")
    client = FakeClient(answer)
    return await ship(cast(Client, client), Program(file)), client.asked


async def test_the_program_is_shipped_under_one_name(tmp_path: Path) -> None:
    answer = {"digest": "00ff", "nodes": {"gandalf": {"ok": True, "state": "loaded"}}}
    digest, asked = await _ship(answer, tmp_path)
    assert digest == b"\x00\xff"
    assert asked == ["", "code", "ship", [[MODULE, b"async def main(): ...\n"]], None]


async def test_a_node_that_does_not_take_it_is_named(tmp_path: Path) -> None:
    refused = {"ok": False, "error": {"kind": "not_durable", "message": "disk full"}}
    with pytest.raises(Failed, match="bilbo does not take the lesson's code.*disk full"):
        await _ship({"digest": "00", "nodes": {"bilbo": refused}}, tmp_path)
    with pytest.raises(RemoteProtocolError):
        await _ship({"digest": 1}, tmp_path)
