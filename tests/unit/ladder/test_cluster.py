"""Simulated clusters: programs run on their nodes, faults happen, the seed decides everything."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from drupelet import (
    Down,
    NodeDown,
    ask,
    is_alive,
    monitor,
    monitor_node,
    node,
    nodes,
    ping,
    receive,
    register,
    reply,
    self,
    send,
    spawn,
)
from drupelet.errors import CallError, NoConnection
from drupelet.ladder import Cluster, Conditions, open_cluster, simulate
from drupelet.ladder.cluster import NODES_MAX, Fault, run_virtual
from drupelet.ladder.network import DEAD_S

PAIR = ("gandalf", "bilbo")


async def echo() -> None:
    while True:
        request = await receive()
        await reply(request.caller, (node(), request.request))


async def start_echo() -> object:
    return await spawn(echo, name="echo")


async def where() -> tuple[str, list[str], bool]:
    return node(), nodes(), is_alive()


def test_a_program_runs_on_its_node() -> None:
    async def main(cluster: Cluster) -> list[object]:
        pid = await cluster.on("bilbo", start_echo)
        return [
            await cluster.on("gandalf", where),
            await cluster.on("gandalf", ask, pid, 1),
            await cluster.on("bilbo", ask, "echo", 2),
            await cluster.on("gandalf", ask, ("echo", "bilbo"), 3),
        ]

    assert simulate(main) == [
        ("gandalf", ["bilbo"], True),
        ("bilbo", 1),
        ("bilbo", 2),
        ("bilbo", 3),
    ]


def test_the_same_seed_is_the_same_run() -> None:
    async def main(cluster: Cluster) -> str:
        pid = await cluster.on("bilbo", start_echo)
        await cluster.on("gandalf", ask, pid, 1)
        return cluster.trace.hash()

    hashes = [simulate(main, seed=seed) for seed in (1, 1, 2, 2)]
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]


def test_a_program_finds_its_clock_and_order_again() -> None:
    """The scheduler of who calls is as it was."""
    scheduler: Any = trio._core._run
    before = scheduler._r.getstate()

    async def main() -> float:
        await trio.sleep(1_000)
        return trio.current_time()

    assert run_virtual(main, 1) >= 1_000
    assert scheduler._r.getstate() == before


def test_what_main_raises_and_what_takes_too_long() -> None:
    async def fails(cluster: Cluster) -> None:
        raise KeyError("mine")

    async def in_a_process(cluster: Cluster) -> None:
        async def crash() -> None:
            raise KeyError("its")

        await cluster.on("bilbo", crash)

    async def waits(cluster: Cluster) -> None:
        await cluster.on("bilbo", receive)

    with pytest.raises(KeyError, match="mine"):
        simulate(fails)
    with pytest.raises(KeyError, match="its"):
        simulate(in_a_process)
    with pytest.raises(trio.TooSlowError):
        simulate(waits, limit_s=60)


@pytest.mark.parametrize("one_way", [True, False])
def test_a_cut_is_noticed_and_mended(one_way: bool) -> None:
    async def watch() -> float:
        await monitor_node("bilbo", True)
        since_s = trio.current_time()
        assert await receive() == NodeDown("bilbo", "noconnection")
        return trio.current_time() - since_s

    async def main(cluster: Cluster) -> None:
        cluster.cut("bilbo", "gandalf", one_way=one_way)
        assert 0.5 < await cluster.on("gandalf", watch) <= DEAD_S
        assert (await cluster.on("gandalf", where))[1] == []
        cluster.heal()
        await cluster.wait_connected()
        await trio.sleep(1)
        assert (await cluster.on("gandalf", where))[1] == ["bilbo"]

    simulate(main)


@pytest.mark.parametrize("dark", [True, False])
def test_a_node_is_killed_and_comes_again_as_another(dark: bool) -> None:
    async def watch(pid: object) -> tuple[object, float]:
        monitor(pid)  # type: ignore[arg-type]
        since_s = trio.current_time()
        down = await receive(Down)
        return down.reason, trio.current_time() - since_s

    async def main(cluster: Cluster) -> None:
        pid = await cluster.on("bilbo", start_echo)
        async with trio.open_nursery() as nursery:

            async def watching() -> None:
                reason, span_s = await cluster.on("gandalf", watch, pid)
                assert reason == "noconnection"
                assert (span_s > 1.0) == dark

            nursery.start_soon(watching)
            await trio.sleep(0.1)
            cluster.kill("bilbo", dark=dark)
        with pytest.raises(RuntimeError, match="bilbo does not run"):
            await cluster.on("bilbo", where)
        with pytest.raises(RuntimeError, match="bilbo does not run"):
            cluster.kill("bilbo")
        await cluster.restart("bilbo")
        with pytest.raises(RuntimeError, match="bilbo runs"):
            await cluster.restart("bilbo")
        await cluster.wait_connected()
        again = await cluster.on("bilbo", start_echo)
        assert (again.node, again.number) == (pid.node, pid.number)
        assert again.incarnation != pid.incarnation
        assert await cluster.on("gandalf", ask, again, 1) == ("bilbo", 1)

    simulate(main)


def test_a_paused_node_reads_nothing_until_it_goes_on() -> None:
    async def main(cluster: Cluster) -> None:
        pid = await cluster.on("bilbo", start_echo)
        cluster.pause("bilbo")
        with pytest.raises(CallError):
            await cluster.on("gandalf", ask, pid, 1)
        cluster.resume("bilbo")
        assert await cluster.on("gandalf", ask, pid, 2) == ("bilbo", 2)

    simulate(main)


def test_a_partition_of_three() -> None:
    async def reach(other: str) -> str:
        return await ping(other)

    async def main(cluster: Cluster) -> None:
        cluster.split(["a"])
        await trio.sleep(2 * DEAD_S)
        assert await cluster.on("b", reach, "c") == "pong"
        for one, other in (("a", "b"), ("c", "a")):
            assert await cluster.on(one, reach, other) == "pang"
        cluster.heal()
        await cluster.wait_connected()
        assert await cluster.on("a", reach, "c") == "pong"

    simulate(main, nodes=("a", "b", "c"))


def test_another_link_takes_over_and_no_message_is_lost() -> None:
    """Both dial at the start, and one link of the two is given up while messages flow."""

    async def count() -> int:
        return sum([await receive(timeout=5) == number for number in range(100)])

    async def start_count() -> object:
        await register("counter")
        return await count()

    async def flood() -> None:
        for number in range(100):
            await send(("counter", "bilbo"), number)
            await trio.sleep(0.001)

    async def main(cluster: Cluster) -> int:
        async with trio.open_nursery() as nursery:

            async def counting() -> None:
                assert await cluster.on("bilbo", start_count) == 100

            nursery.start_soon(counting)
            await trio.testing.wait_all_tasks_blocked()
            await cluster.on("gandalf", flood)
        assert not any(each.kind == "down" and hasattr(each, "where")
                       for each in cluster.trace.entries)  # fmt: skip
        return sum(each.kind == "link" for each in cluster.trace.entries)

    slow = Conditions(latency_s=0.01, jitter_s=0.005)
    assert sum(simulate(main, seed=seed, conditions=slow) for seed in range(10)) > 0


@pytest.mark.parametrize("one_end", [True, False])
def test_links_that_break_are_made_again(one_end: bool) -> None:
    async def main(cluster: Cluster) -> None:
        assert cluster.drop_links("gandalf", "bilbo", one_end=one_end)
        assert not cluster.drop_links("gandalf", "bilbo")
        await cluster.wait_connected()
        events = [(each.kind, each.where) for each in cluster.trace.entries
                  if each.kind in ("up", "down") and hasattr(each, "where")]  # fmt: skip
        assert events.count(("down", "gandalf")) == 1
        assert events.count(("up", "gandalf")) == 2

    simulate(main)


def test_faults_at_their_times() -> None:
    async def reach() -> str:
        return await ping("bilbo")

    async def main(cluster: Cluster) -> list[tuple[str, str]]:
        await trio.sleep(30)
        assert await cluster.on("gandalf", reach) == "pong"
        faults = ("cut", "heal", "kill", "restart", "pause", "resume", "drop")
        return [(each.kind, str(each.where)) for each in cluster.trace.entries
                if each.kind in faults and hasattr(each, "where")]  # fmt: skip

    faults: list[Fault] = [
        (1, "cut", "gandalf", "bilbo"),
        (5, "heal"),
        (6, "kill", "bilbo"),
        (7, "restart", "bilbo"),
        (9, "pause", "bilbo"),
        (10, "resume", "bilbo"),
        (11, "drop_links", "gandalf", "bilbo"),
    ]
    assert simulate(main, faults=faults) == [
        ("cut", "gandalf"),
        ("heal", ""),
        ("kill", "bilbo"),
        ("restart", "bilbo"),
        ("pause", "bilbo"),
        ("resume", "bilbo"),
        ("drop", "gandalf"),
    ]
    for bad in [(1, "melt", "bilbo"), (1,), ("cut", 1)]:
        with pytest.raises(ValueError, match="a fault is"):
            simulate(main, faults=[bad])


async def child(parent: object, what: object) -> None:
    await send(parent, (node(), what))  # type: ignore[arg-type]


def test_functions_of_the_programs_module_start_elsewhere() -> None:
    async def parent() -> object:
        await spawn(child, self(), "hello", node="bilbo")
        return await receive(timeout=1)

    async def main(cluster: Cluster) -> object:
        return await cluster.on("gandalf", parent)

    assert simulate(main) == ("bilbo", "hello")


async def test_it_runs_in_any_loop_and_several_runtimes_share_a_node() -> None:
    conditions = Conditions(latency_s=0.0001, jitter_s=0.0)
    async with open_cluster(PAIR, conditions=conditions) as cluster:
        await cluster.on("bilbo", start_echo)
        client = await cluster.add_runtime("bilbo")
        assert await client.runtime.ask(None, "echo", 1, 5.0) == ("bilbo", 1)
        client.crash()
        await client.ended.wait()
        with pytest.raises(NoConnection):
            await client.call("bilbo", "node", "ping", (), 1.0)


def test_as_many_nodes_as_there_may_be() -> None:
    async def main(cluster: Cluster) -> int:
        return len(cluster.daemons)

    names = [f"node{number}" for number in range(NODES_MAX + 1)]
    assert simulate(main, nodes=names[:12]) == 12
    for bad in (names, [], ["twice", "twice"]):
        with pytest.raises(ValueError, match="different names of nodes"):
            simulate(main, nodes=bad)
