"""``trace``: every message of one process, in order, while it happens.

Decides how an event reads, and what a person is told when there is nothing to trace. Attaches to
the local node as `drupelet shell` does; `process/tracing.py` does the rest.

"tracing ..." on stderr means that the trace holds: whatever is sent after it is shown. It ends with
the process (exit code 0), or with Ctrl-C.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from typing import Final

import trio

from drupelet.cli import output
from drupelet.cli.attached import open_attached
from drupelet.cli.grammar import Request, UsageError
from drupelet.cli.output import Failed
from drupelet.cli.pids import bare, parse_address, shown_address, shown_short
from drupelet.client import Client
from drupelet.errors import EXIT_DONE, NoConnection
from drupelet.process.runtime import Runtime
from drupelet.process.tracing import Events, TraceEvent
from drupelet.process.tracing import trace as open_trace
from drupelet.wire.ids import Pid
from drupelet.wire.messages.processes import COUNT_MASK, NOPROC

_TOWARDS: Final = {
    "receive": "from",
    "answer": "from",
    "send": "to",
    "ask": "to",
    "reply": "to",
    "spawn": "as",
}


def trace(request: Request) -> int:
    """``trace PROCESS``."""
    text = request.argument(0)
    try:
        address = parse_address(text)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no process: give PID, NAME or NAME@NODE, as `drupelet ps` lists them "
            f"({error})",
            "trace",
        ) from None
    return trio.run(_trace, request, address)


async def _trace(request: Request, address: Pid | tuple[str, str]) -> int:
    async with open_attached(request.socket) as (client, runtime):
        with (
            trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals,
            trio.CancelScope() as scope,
        ):
            await runtime.nursery.start(_stop, signals, scope)
            pid = await _find(client, runtime, address)
            async with open_trace(pid) as events:
                await _show(client, pid, events, json=request.json)
    return EXIT_DONE


async def _stop(
    signals: AsyncIterator[int], scope: trio.CancelScope, task_status: trio.TaskStatus[None]
) -> None:
    task_status.started()
    async for _ in signals:
        scope.cancel()


async def _show(client: Client, pid: Pid, events: Events, *, json: bool) -> None:
    started = trio.current_time()
    first = True
    output.note(f"tracing {bare(pid)}; Ctrl-C ends it")
    async for event in events:
        if first and event.kind == "exit" and event.message == NOPROC:
            raise await _nobody(client, pid.node, f"no process {bare(pid)} runs any more")
        first = False
        if json:
            output.document(_for_machines(event, started))
        else:
            output.line(_for_people(event, started))


async def _find(client: Client, runtime: Runtime, address: Pid | tuple[str, str]) -> Pid:
    """The process's pid, of this life of its node. Raises: `Failed`, `CallError`."""
    if isinstance(address, tuple):
        name, node = address
        node = node or runtime.node
        found = await runtime.whereis(name, node)
        if found is None:
            raise await _nobody(client, node, f"no process of {node} is registered as {name!r}")
        return found
    node = address.node
    if node != runtime.node and node not in runtime.nodes:
        await runtime.connect(node)
        if node not in runtime.nodes:
            raise NoConnection("down")
    life = runtime.incarnation if node == runtime.node else runtime.nodes[node]
    if address.incarnation != life:
        raise Failed(
            f"{bare(address)} is of another life of {node}, which was started anew since",
            mend=f"`drupelet ps {node}` lists the processes of this one",
        )
    if not address.number & COUNT_MASK:
        raise Failed(
            f"{bare(address)} is no process but what runs processes",
            mend=f"`drupelet ps {node}` lists the processes",
        )
    return address


async def _nobody(client: Client, node: str, what: str) -> Failed:
    """There is no such process: what there is."""
    there = await client.call("" if node == client.name else node, "process", "list")
    if isinstance(there, list) and there:
        return Failed(what, mend=f"`drupelet ps {node}` lists the processes of {node}")
    return Failed(
        f"{what}; {node} runs no processes at all",
        mend="missions with async functions or a GenServer have processes: list one in missions.d",
    )


def _for_people(event: TraceEvent, started: float) -> str:
    peer = shown_address(event.peer)
    towards = f"  {_TOWARDS.get(event.kind, 'with')} {peer}" if peer else ""
    message = f"{event.message} events found no room" if event.kind == "overflow" else ""
    message = message or shown_short(event.message)
    return f"{event.at - started:11.6f}  {event.kind:8}  {message}{towards}"


def _for_machines(event: TraceEvent, started: float) -> dict[str, object]:
    peer = event.peer
    return {
        "at": round(event.at - started, 6),
        "kind": event.kind,
        "pid": str(event.pid),
        "message": event.message,
        "peer": str(peer) if isinstance(peer, Pid) else shown_address(peer) or None,
    }
