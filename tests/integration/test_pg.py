"""Groups of processes on three real nodes: who is seen where, and how soon after what happens."""

from __future__ import annotations

import signal
import statistics
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from drupelet import pg
from drupelet.client import Client, open_client
from drupelet.client.carrier import Carrier
from drupelet.process import Pid, receive
from drupelet.process.running import open_runtime
from tests.integration.cluster import Cluster, RealNode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

CONVERGED_S = 1.0  # the bar
WAIT_S = 30.0  # for what must happen, on a machine that is busy
NAMES = ("alice", "bob", "carol")
CLUB = """
from drupelet import exit, mission, pg, receive, spawn

async def member():
    await receive("end")

@mission("club")
async def join(group, count: int):
    pids = [await spawn(member) for _ in range(count)]
    pg.join(group, pids)
    return pids

@mission("club")
async def leave(group, pid):
    return pg.leave(group, pid)

@mission("club")
async def end(pid):
    exit(pid, "kill")

@mission("club")
async def members(group):
    return [pg.get_members(group), pg.get_local_members(group), pg.which_groups()]
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    directory = tmp_path
    (directory / "club.py").write_text(CLUB)
    exports = '"join", "leave", "end", "members"'
    with Cluster(directory) as cluster:
        for name in NAMES:
            node = cluster.add(name, *cluster.nodes.values(), missions={})
            missions = node.directory / "missions.d"
            missions.mkdir()
            (missions / "club.toml").write_text(
                f'module = "{directory / "club.py"}"\nexports = [{exports}]\n'
            )
            node.start()
        yield cluster


async def connected(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        await node.wait_up(*(name for name in NAMES if name != node.name))


class Observer:
    """A program on a node that watches a group; `members` is what it was told."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.members: set[Pid] = set()
        self.history: list[set[Pid]] = []
        self._changed = trio.Event()

    async def watch(self, group: str, task_status: trio.TaskStatus[None]) -> None:
        ref, members = pg.monitor(group)
        self.members.update(members)
        task_status.started()
        while True:
            match await receive():
                case (got, "join", _, pids) if got == ref:
                    assert not self.members.intersection(pids)
                    self.members.update(pids)
                case (got, "leave", _, pids) if got == ref:
                    assert self.members.issuperset(pids)
                    self.members.difference_update(pids)
                case other:
                    raise AssertionError(other)
            self.history.append(set(self.members))
            self._changed.set()
            self._changed = trio.Event()

    async def until(self, members: set[Pid]) -> None:
        """Until it sees exactly these."""
        with trio.fail_after(WAIT_S):
            while self.members != members:
                await self._changed.wait()

    async def until_it_saw(self, members: set[Pid]) -> None:
        """As `until`, though it may see others by now."""
        with trio.fail_after(WAIT_S):
            while members not in self.history:
                await self._changed.wait()

    async def call(self, function: str, *args: object) -> object:
        return await self.client.call(self.client.name, "club", function, *args, timeout=WAIT_S)


@asynccontextmanager
async def observing(node: RealNode, group: str) -> AsyncIterator[Observer]:
    async with open_client(node.socket_path) as client:
        carrier = Carrier(client)
        async with open_runtime(carrier) as runtime, trio.open_nursery() as nursery:
            await carrier.attach(runtime)
            observer = Observer(client)
            await nursery.start(observer.watch, group)
            yield observer
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def observing_all(cluster: Cluster, group: str) -> AsyncIterator[dict[str, Observer]]:
    """An observer on each node, which are connected."""
    await connected(cluster)
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(observing(cluster[name], group)) for name in NAMES
        }


async def all_see(observers: dict[str, Observer], members: set[Pid]) -> float:
    """Until each sees exactly these; the seconds that took."""
    started = trio.current_time()
    for observer in observers.values():
        await observer.until(members)
    return trio.current_time() - started


async def join(observer: Observer, group: str, count: int = 1) -> set[Pid]:
    pids = await observer.call("join", group, count)
    assert isinstance(pids, list)
    return set(pids)


async def test_every_node_sees_every_member_within_a_second(cluster: Cluster) -> None:
    async with observing_all(cluster, "g") as seen:
        members: set[Pid] = set()
        took = []
        for _ in range(3):
            for observer in seen.values():
                members |= await join(observer, "g", 2)
                took.append(await all_see(seen, members))
        by_node = {name: {pid for pid in members if pid.node == name} for name in NAMES}
        assert {len(each) for each in by_node.values()} == {6}
        for name, observer in seen.items():
            answer = await observer.call("members", "g")
            assert isinstance(answer, list)
            assert (set(answer[0]), set(answer[1])) == (members, by_node[name])
            assert answer[2] == ["g"]
        for observer, verb in zip(seen.values(), ("leave", "end", "leave"), strict=True):
            pid = by_node[observer.client.name].pop()
            await observer.call(verb, *(("g", pid) if verb == "leave" else (pid,)))
            members.discard(pid)
            took.append(await all_see(seen, members))
        assert statistics.median(took) <= CONVERGED_S, took


async def test_a_node_that_is_killed_takes_its_members_along(cluster: Cluster) -> None:
    async with observing_all(cluster, "killed") as seen:
        members = {name: await join(observer, "killed", 3) for name, observer in seen.items()}
        await all_see(seen, set().union(*members.values()))
        bob = cluster["bob"]
        others = {name: seen[name] for name in ("alice", "carol")}
        bob.signal(signal.SIGKILL)
        bob.wait()
        await all_see(others, members["alice"] | members["carol"])
        bob.start()
        await connected(cluster)
        async with observing(bob, "killed") as again:  # another life: nobody of the first
            await again.until(members["alice"] | members["carol"])
            new = await join(again, "killed")
            assert not new & members["bob"]
            await all_see(others, members["alice"] | members["carol"] | new)


async def test_a_node_that_was_silent_is_seen_again(cluster: Cluster) -> None:
    async with observing_all(cluster, "silent") as seen:
        members = {name: await join(observer, "silent") for name, observer in seen.items()}
        everybody = set().union(*members.values())
        await all_see(seen, everybody)
        carol = cluster["carol"]
        others = {name: seen[name] for name in ("alice", "bob")}
        async with cluster["alice"].watch() as nodes:
            carol.signal(signal.SIGSTOP)
            try:
                await all_see(others, members["alice"] | members["bob"])
                members["alice"] |= await join(seen["alice"], "silent")  # meanwhile
                everybody |= members["alice"]
            finally:
                carol.signal(signal.SIGCONT)
            while (await nodes.next(WAIT_S)).__class__.__name__ != "NodeUp":
                pass
        took = await all_see(others, everybody)
        await all_see(seen, everybody)  # carol too, which did not notice that she was silent
        assert took <= CONVERGED_S, took


async def test_a_link_that_was_closed_heals(cluster: Cluster) -> None:
    async with observing_all(cluster, "closed") as seen:
        members = {name: await join(observer, "closed", 2) for name, observer in seen.items()}
        everybody = set().union(*members.values())
        await all_see(seen, everybody)
        assert await seen["alice"].client.call("", "process", "disconnect", "bob")
        await seen["alice"].until_it_saw(everybody - members["bob"])
        assert seen["carol"].members == everybody
        assert await seen["alice"].client.call("bob", "node", "ping") is not None
        await all_see(seen, everybody)
