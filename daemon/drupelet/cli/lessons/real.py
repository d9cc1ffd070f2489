"""The real stage: a cluster of daemons, with this program as a part of its first node.

Decides how a lesson's code reaches the nodes and what breaking them means. The program is shipped
to all connected members as the mission MODULE, as `drupelet nl` does: one worker of each node runs
it, whichever lesson it is. `main` and what it spawns without ``node=`` run here, so that what they
print is seen.

- ``kill``: SIGKILL where this command started the nodes itself (own_nodes.py); on a cluster that is
  somebody's, the link is closed instead: from here that looks the same.
- ``cut``: links are closed, and the daemons find each other again by themselves. A wire that stays
  cut needs root, or hands; the simulator has it.

*Owns* the client and the runtime. At the end the processes that the lesson left on other nodes are
killed; its worker stays there and waits for the next lesson.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from os import PathLike
from typing import Any, Final, Protocol

import trio

from drupelet.cli.lessons.program import MODULE, Program
from drupelet.cli.lessons.stage import Stage
from drupelet.cli.lessons.watched import WatchedRuntime
from drupelet.cli.output import Failed
from drupelet.client import Client, open_client
from drupelet.client.carrier import Carrier
from drupelet.errors import CallError, RemoteProtocolError
from drupelet.process import exit, processes
from drupelet.process.current import runtime_var
from drupelet.process.running import run_main
from drupelet.wire.ids import Pid

NODES_MAX: Final = 3  # a lesson needs no more
SHIP_S: Final = 60.0  # a worker starts on each node: 0.3 s on a PC, some seconds on a Pi
CUT_S: Final = 5.0
HEAL_S: Final = 15.0
TIDY_S: Final = 3.0
_DISCONNECTED: Final = (
    "{node} was not killed, since it is not ours: the link to it was closed, which looks the same "
    "from here"
)
_CLOSED: Final = (
    "no wire was cut: the links of {node} were closed, and the nodes found each other again at "
    "once; but each had been told of the loss, and that cannot be taken back"
)


class Power(Protocol):
    """Who can switch nodes off and on: who started them."""

    async def kill(self, node: str) -> None: ...

    async def restart(self, node: str) -> None: ...


class RealStage(Stage):
    """Up to three nodes of a real cluster."""

    limit_s = 15.0  # a lesson takes less than a second

    def __init__(
        self, names: tuple[str, ...], runtime: WatchedRuntime, power: Power | None
    ) -> None:
        super().__init__()
        self.names = names
        self.trace = runtime.trace_to
        self._runtime = runtime
        self._power = power
        self._killed: list[str] = []

    async def run(self, function: Callable[..., Awaitable[Any]], *args: object) -> Any:
        return await run_main(self._runtime, function, *args)

    async def kill(self, node: str) -> None:
        if self._power is None:
            self.notes.append(_DISCONNECTED.format(node=node))
            await self._disconnect([node])
        else:
            self.trace.event("kill", node)
            self._killed.append(node)
            await self._power.kill(node)

    async def cut(self, node: str) -> None:
        self.notes.append(_CLOSED.format(node=node))
        others = self._runtime.nodes if node == self.names[0] else [node]
        await self._disconnect(sorted(others))

    async def _disconnect(self, others: list[str]) -> None:
        """Close the links to these nodes; they were lost when this returns."""
        lost = self._runtime.lost_count
        before = {each: lost.get(each, 0) for each in others}
        assert self._runtime.transport is not None
        for each in others:
            self.trace.event("cut", self.names[0], each)
            await self._runtime.transport.call("", "process", "disconnect", (each,), CUT_S)
        with trio.fail_after(CUT_S):
            await self._wait(lambda: all(lost.get(each, 0) > before[each] for each in others))

    async def heal(self) -> None:
        while self._killed:
            assert self._power is not None
            await self._power.restart(self._killed.pop())
        with trio.fail_after(HEAL_S):
            for each in self.names[1:]:
                if each not in self._runtime.nodes:
                    with suppress(CallError):  # it is dialled again until it is there
                        await self._runtime.connect(each)
            await self._wait(lambda: set(self.names[1:]) <= set(self._runtime.nodes))

    async def _wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._runtime.changed.wait()

    async def tidy(self) -> None:
        """Kill what the lesson's processes have started on other nodes."""
        with trio.move_on_after(TIDY_S):
            for node in self.names[1:]:
                await self.run(_kill_ours, node, self._runtime.pid)


async def _kill_ours(node: str, runtime: Pid) -> None:
    try:
        rows = await processes(node)
    except CallError:
        return
    for pid in ours(rows, runtime):
        exit(pid, "kill")


def ours(rows: Iterable[dict[str, Any]], runtime: Pid) -> set[Pid]:
    """The processes that `runtime` has started elsewhere, or that these have."""
    parents = {row["pid"]: row["parent"] for row in rows if isinstance(row["parent"], Pid)}
    found: set[Pid] = set()
    while True:
        more = {
            pid for pid, parent in parents.items() if _is_of(parent, runtime) or parent in found
        }
        if more <= found:
            return found
        found |= more


def _is_of(pid: Pid, runtime: Pid) -> bool:
    mine = (runtime.node, runtime.incarnation, runtime.number >> 40)
    return (pid.node, pid.incarnation, pid.number >> 40) == mine


async def ship(client: Client, program: Program) -> bytes:
    """Send the program to the local node and all connected members; its digest there.

    Raises: `CallError`, `Failed`.
    """
    modules = [[MODULE, program.source]]
    answer = await client.call("", "code", "ship", modules, None, timeout=SHIP_S)
    match answer:
        case {"digest": str(digest), "nodes": dict(nodes)}:
            pass
        case _:
            raise RemoteProtocolError("malformed answer of code/ship")
    for node, outcome in nodes.items():
        if not isinstance(outcome, dict) or not outcome.get("ok"):
            raise Failed(
                f"{node} does not take the lesson's code: {outcome}",
                mend="`drupelet nl FILE` shows the same; or run the lesson with --simulated",
            )
    return bytes.fromhex(digest)


@asynccontextmanager
async def open_stage(
    socket: str | PathLike[str] | None, program: Program, power: Power | None = None
) -> AsyncIterator[RealStage]:
    """The node that listens on `socket` and up to two others as a stage. Raises: `CallError`."""
    async with open_client(socket) as client, trio.open_nursery() as nursery:
        digest = await ship(client, program)
        carrier = Carrier(client)
        runtime = WatchedRuntime(nursery, carrier)
        runtime.digest_of = lambda module: digest if module == MODULE else b""
        nursery.start_soon(runtime.run)
        token = runtime_var.set(runtime)
        try:
            await carrier.attach(runtime)
            others = [str(each["name"]) for each in await client.nodes() if each["state"] == "up"]
            names = (runtime.node, *sorted(others)[: NODES_MAX - 1])
            stage = RealStage(names, runtime, power)
            await stage.heal()
            yield stage
            await stage.tidy()
        finally:
            runtime_var.reset(token)
            nursery.cancel_scope.cancel()
