"""Cluster: simulated nodes in one trio loop, and what can happen to them.

    from drupelet.ladder import simulate

    async def main(cluster):
        pid = await cluster.on("bilbo", start_kvs)          # fn runs as a process of that node
        cluster.cut("gandalf", "bilbo")
        ...

    simulate(main, nodes=("gandalf", "bilbo"), seed=1)

Decides what a node is made of (a daemon, one runtime or several), how a fault is made, and that a
run depends on its seed alone: virtual time that jumps when nobody has anything to do, latencies and
trio's order of tasks drawn from the seed. `trace` shows everything that happened.

Rules
- The processes, runtimes, routers, lines and membership are the real ones; simulated are sockets,
  handshakes and time.
- The same program and seed give the same trace (`Trace.hash`), on any machine.
- A run ends with its `main`, or fails after `limit_s` of simulated time.

References: Armstrong, "Programming Erlang", distributed programming: test on one node first, then
on two of one machine, then on two machines. adr/0013.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import trio
import trio.testing

from drupelet.core.effects import Dial
from drupelet.core.processes import ProcessRouter
from drupelet.ladder.daemon import Daemon
from drupelet.ladder.network import Network, Path
from drupelet.ladder.runtimes import Attachment
from drupelet.ladder.seen import SeenRuntime
from drupelet.ladder.trace import Trace
from drupelet.process.running import run_main

LIMIT_S: Final = 3_600.0  # of simulated time: a program that waits for ever ends
NODES_MAX: Final = 64  # a cluster's

Exports = Mapping[str, Mapping[str, Callable[..., object]]]
Fault = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What the simulated machines are like. Spans in seconds, one way."""

    latency_s: float = 0.001  # of a home network
    jitter_s: float = 0.0005
    local_s: float = 0.00005  # between a runtime and its daemon
    router: type[ProcessRouter] = ProcessRouter  # others: to see broken ones found out
    runtime: type[SeenRuntime] = SeenRuntime


class Cluster:
    """Simulated nodes. Made by `open_cluster`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        names: Sequence[str],
        seed: int,
        conditions: Conditions,
        missions: Callable[[str], Exports] | Exports | None,
        modules: Sequence[str] = (),
    ) -> None:
        self.names = tuple(names)
        self.conditions = conditions
        self.network = Network(Random(f"{seed} network"))
        self.daemons: dict[str, Daemon] = {}
        self.trace = Trace()  # everything that happened so far
        self._nursery = nursery
        self._missions = missions
        self._modules = dict.fromkeys(modules, b"")
        self._exports: dict[str, Exports] = {}
        self._paths: dict[tuple[str, str], Path] = {}
        self._main: dict[str, Attachment] = {}
        self._incarnation = 0
        self._link = 0
        self._changed = trio.Event()

    # -- what programs use

    async def on(self, node: str, function: Callable[..., Awaitable[Any]], *args: object) -> Any:
        """Run ``function(*args)`` as a process of that node; its value, or what it raises."""
        attachment = self._main.get(node)
        if attachment is None or not attachment.is_alive:
            raise RuntimeError(f"{node} does not run")
        return await run_main(attachment.runtime, function, *args)

    def cut(self, node: str, other: str, *, one_way: bool = False) -> None:
        """Nothing arrives between the two any more; `one_way`: nothing of `node` at `other`."""
        self.trace.event("cut", node, other)
        self.path(node, other).cut()
        if not one_way:
            self.path(other, node).cut()

    def split(self, nodes: Sequence[str]) -> None:
        """A partition: these nodes on one side, the others on the other."""
        for node in nodes:
            for other in self.names:
                if other not in nodes:
                    self.cut(node, other)

    def heal(self) -> None:
        """Mend every path that is cut."""
        self.trace.event("heal", "")
        for path in self._paths.values():
            path.heal()

    def drop_links(self, node: str, other: str, *, one_end: bool = False) -> bool:
        """Break the connections between two nodes; `one_end`: only `node` notices. Were any?"""
        links = [each for each in self.daemon(node).links.values() if each.peer.name == other]
        self.trace.event("drop", node, other)
        for link in links:
            peer = self.daemons[other]
            if not one_end and peer.is_alive and link.other.link_id in peer.links:
                delay = self.path(node, other).delay_s()
                self.network.after(delay, lambda e=link.other, p=peer: p.gone(e, "closed"))  # type: ignore[misc]
            if one_end:
                link.out.go_dark()
            self.daemon(node).gone(link, "closed")
        return bool(links)

    def dial_again(self, node: str, other: str) -> None:
        """`node` opens one more link to `other`, as a node that lost the first one does."""
        self.trace.event("dial", node, other)
        self.daemon(node).dial(Dial(host=other, port=1, name=other))

    def stretch(self, node: str, other: str, latency_s: float) -> None:
        """What `node` sends takes so long to `other` from now on."""
        self.path(node, other).latency_s = latency_s

    def pause(self, node: str) -> None:
        """Its programs stop, as with ``kill -STOP``: its daemon goes on, they read nothing."""
        self.trace.event("pause", node)
        for attachment in self.daemon(node).attachments.values():
            attachment.stall()

    def resume(self, node: str) -> None:
        """They go on."""
        self.trace.event("resume", node)
        for attachment in self.daemon(node).attachments.values():
            attachment.go_on()

    def kill(self, node: str, *, dark: bool = False) -> None:
        """End a node with everything on it; `dark`: its power went, so nobody is told."""
        daemon = self.daemon(node)
        self.trace.event("kill", node)
        daemon.stop(dark=dark)
        del self.daemons[node]
        del self._main[node]

    async def restart(self, node: str) -> None:
        """Start a node that was killed: a new incarnation."""
        if node in self.daemons:
            raise RuntimeError(f"{node} runs")
        self.trace.event("restart", node)
        await self._start(node)

    async def add_runtime(self, node: str, label: str = "client") -> Attachment:
        """One more runtime on a node: a client's, or another worker's."""
        attachment = Attachment(self.daemon(node), label, {})
        await self._nursery.start(attachment.run, self.conditions.runtime)
        return attachment

    async def wait_connected(self) -> None:
        """Until every node that runs is connected to every other."""
        while not self._is_whole():
            self._changed = trio.Event()
            await self._changed.wait()

    # -- what its parts use

    def daemon(self, node: str) -> Daemon:
        """The daemon of a node that runs."""
        daemon = self.daemons.get(node)
        if daemon is None:
            raise RuntimeError(f"{node} does not run")
        return daemon

    def key_of(self, name: str) -> bytes:
        """The key of a node; in the order of the names, so that the first decides."""
        return self.names.index(name).to_bytes(32, "big")

    def path(self, source: str, target: str) -> Path:
        """The way from one host to another."""
        path = self._paths.get((source, target))
        if path is None:
            conditions = self.conditions
            path = self.network.path(conditions.latency_s, conditions.jitter_s)
            self._paths[source, target] = path
        return path

    def new_link(self) -> int:
        """A number for a link."""
        self._link += 1
        return self._link

    def node_up(self, node: str, other: str) -> None:
        """`node` is connected to `other`."""
        self.trace.event("up", node, other)
        self._changed.set()

    def prepare(self, attachment: Attachment) -> None:
        """A runtime was made: before it runs anything."""
        runtime = attachment.runtime
        if isinstance(runtime, SeenRuntime):
            runtime.trace_to = self.trace

    def export(self, node: str, mission: str, function: str) -> Callable[..., object] | None:
        """What a call of that mission runs on that node."""
        return self._exports[node].get(mission, {}).get(function)

    async def start(self) -> None:
        """Start every node; they are connected when this returns."""
        for name in self.names:
            await self._start(name)
        await self.wait_connected()

    async def _start(self, name: str) -> None:
        self._incarnation += 1
        daemon = Daemon(self, name, self._incarnation, self.conditions.router)
        self.daemons[name] = daemon
        missions = self._missions(name) if callable(self._missions) else self._missions
        self._exports[name] = missions or {}
        attachment = self._main[name] = Attachment(daemon, "main", self._modules)
        await self._nursery.start(attachment.run, self.conditions.runtime)
        daemon.start([other for other in self.names if other != name])

    def _is_whole(self) -> bool:
        return all(
            other in daemon.up
            for name, daemon in self.daemons.items()
            for other in self.daemons
            if other != name
        )


@asynccontextmanager
async def open_cluster(
    nodes: Sequence[str] = ("gandalf", "bilbo"),
    *,
    seed: int = 1,
    conditions: Conditions = Conditions(),
    missions: Callable[[str], Exports] | Exports | None = None,
    modules: Sequence[str] = (),
) -> AsyncIterator[Cluster]:
    """A cluster in the running trio loop, whatever its clock; it ends with the block.

    Raises: `ValueError` for nodes that cannot be.
    """
    _check_nodes(nodes)
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nursery, nodes, seed, conditions, missions, modules)
        nursery.start_soon(cluster.network.timers.run)
        await cluster.start()
        try:
            yield cluster
        finally:
            cluster.trace.is_closed = True
            nursery.cancel_scope.cancel()


def simulate(
    main: Callable[[Cluster], Awaitable[Any]],
    nodes: Sequence[str] = ("gandalf", "bilbo"),
    *,
    seed: int = 1,
    faults: Sequence[Fault] = (),
    conditions: Conditions = Conditions(),
    missions: Callable[[str], Exports] | Exports | None = None,
    modules: Sequence[str] = (),
    limit_s: float = LIMIT_S,
) -> Any:
    """Run ``main(cluster)`` in simulated time; its value.

    `faults`: ``(after_s, verb, *names)`` with the verbs cut, heal, drop_links, pause, resume, kill,
    restart;
    `missions`: mission -> function -> what a call runs, or a function that makes them for a node;
    `modules`: those whose functions can be spawned elsewhere; that of `main` is one.
    Raises what `main` raises, `trio.TooSlowError` after `limit_s`, `ValueError` for nodes or faults
    that cannot be.
    """
    _check_nodes(nodes)
    for fault in faults:
        _check_fault(fault)
    modules = (main.__module__, *modules)

    async def first() -> Any:
        failure: Exception | None = None
        with trio.fail_after(limit_s):
            async with (
                open_cluster(
                    nodes, seed=seed, conditions=conditions, missions=missions, modules=modules
                ) as cluster,
                trio.open_nursery() as nursery,
            ):
                for fault in faults:
                    nursery.start_soon(_cause, cluster, fault)
                try:
                    value = await main(cluster)
                except Exception as error:  # a nursery would make a group of it
                    failure = error
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return value

    return run_virtual(first, seed)


VERBS: Final = ("cut", "heal", "drop_links", "pause", "resume", "kill", "restart")


def _check_nodes(names: Sequence[str]) -> None:
    if not 1 <= len(set(names)) == len(names) <= NODES_MAX:
        raise ValueError(f"1 to {NODES_MAX} different names of nodes, not {names!r:.200}")


def _check_fault(fault: Fault) -> None:
    if len(fault) < 2 or fault[1] not in VERBS or not isinstance(fault[0], int | float):
        raise ValueError(f"a fault is (after_s, verb, *names) with one of {VERBS}, not {fault!r}")


async def _cause(cluster: Cluster, fault: Fault) -> None:
    after_s, verb, *names = fault
    await trio.sleep(float(after_s))  # type: ignore[arg-type]
    done = getattr(cluster, str(verb))(*names)
    if verb == "restart":
        await done


def run_virtual(main: Callable[[], Awaitable[Any]], seed: int) -> Any:
    """`trio.run` in virtual time, tasks in an order that depends on the seed alone."""
    # trio's own switch, for its hypothesis plugin: tasks are shuffled from a seeded generator.
    scheduler: Any = trio._core._run
    former = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    state = scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    try:
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = former
        scheduler._r.setstate(state)


__all__ = ["Cluster", "Conditions", "open_cluster", "run_virtual", "simulate"]
