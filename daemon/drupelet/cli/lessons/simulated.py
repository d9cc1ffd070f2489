"""The simulated stage: three nodes in this process, in time that jumps when nobody works.

Decides what "kill", "cut" and "heal" are there: the ladder's own, a dead node and a silent wire. So
a cut is noticed after the seconds of silence that a real one needs, which take no time here.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import trio

from drupelet.cli.lessons.checks import Check
from drupelet.cli.lessons.program import MODULE, Loaded
from drupelet.cli.lessons.stage import Performance, Stage, perform
from drupelet.ladder import Cluster, simulate

SETTLE_S: Final = 0.01  # virtual: from a daemon that sees a node to programs that know of it
SILENCE_S: Final = 10.0  # virtual: a silent peer is given up after 5 s
NODES: Final = ("gandalf", "bilbo", "frodo")
SPIN_S: Final = 10.0  # real seconds: a program that talks without end stops no clock by itself


class SimulatedStage(Stage):
    """A `Cluster` as a stage."""

    limit_s = 60.0  # virtual: a cut lasts SILENCE_S, and the search for a lost node some seconds

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.names = cluster.names
        self.trace = cluster.trace
        self._cluster = cluster
        self._killed: list[str] = []
        self._cut = False

    async def run(self, function: Callable[..., Awaitable[Any]], *args: object) -> Any:
        return await self._cluster.on(self.names[0], function, *args)

    async def kill(self, node: str) -> None:
        self._cluster.kill(node)
        self._killed.append(node)

    async def cut(self, node: str) -> None:
        self._cut = True
        self._cluster.split([node])
        await trio.sleep(SILENCE_S)

    async def heal(self) -> None:
        if self._cut:
            self._cluster.heal()
            self._cut = False
        while self._killed:
            await self._cluster.restart(self._killed.pop())
        await self.settle()

    async def settle(self) -> None:
        """Until every program knows every node."""
        await self._cluster.wait_connected()
        await trio.sleep(SETTLE_S)


class _Watchdog(trio.abc.Instrument):
    """Cancels what spins without end: virtual time has no end of its own then."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self._until = time.monotonic() + SPIN_S

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if time.monotonic() > self._until:
            self._scope.cancel()


def run_simulated(
    program: Loaded, checks: Sequence[Check], exercises: Sequence[Check], *, seed: int = 1
) -> Performance:
    """A performance in the simulator."""

    async def main(cluster: Cluster) -> Performance | None:
        with trio.CancelScope() as scope:
            trio.lowlevel.add_instrument(_Watchdog(scope))
            stage = SimulatedStage(cluster)
            await stage.settle()
            return await perform(stage, program, checks, exercises)
        return None

    found: Performance | None = simulate(main, NODES, seed=seed, modules=(MODULE,))
    if found is None:
        problem = f"the program talks without end: stopped after {SPIN_S:g} seconds"
        return Performance(nodes=NODES, problem=problem, seconds=SPIN_S)
    return found
