"""``demo``: a cluster on this machine in the foreground.

Decides what a first-time user sees: nodes that start, find each other, what to type next, and that
a killed node is noticed. The nodes are ordinary `drupeletd` processes with ordinary configurations,
so what works here works on Pis.

Order: lock, files, port mapper's port, processes, ready, everybody sees everybody, what to try.
Stop (Ctrl-C, SIGTERM, SIGHUP): the nodes in reverse order, bounded.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import trio

from drupelet.cli import output, places
from drupelet.cli.children import Child
from drupelet.cli.grammar import Request
from drupelet.cli.output import Failed
from drupelet.client import NodeDown, NodeUp, open_client
from drupelet.errors import EXIT_DONE, EXIT_FAILED, DrupeletError, NoConnection
from drupelet.net import epmd
from drupelet.net.sockets import make_run_directory

NAMES: Final = (
    "gandalf",
    "bilbo",
    "frodo",
    "sam",
    "merry",
    "pippin",
    "aragorn",
    "legolas",
    "gimli",
    "boromir",
    "elrond",
    "arwen",
    "galadriel",
    "eowyn",
    "faramir",
    "theoden",
)
MEET_S: Final = 15.0  # until every node sees all others; 1 s on a PC
_OTHER_MAPPER_PORTS: Final = range(4368, 4360, -1)  # below epmd's; above it are the link ports


def demo(request: Request) -> int:
    """``demo [-n N]``."""
    count = request.integer("nodes", 3, 1, len(NAMES))
    wanted = request.integer("mapper-port", 0, 1, 65_535)
    with places.demo_lock() as lock:
        places.make_cookie()
        try:
            return trio.run(_demo, NAMES[:count], wanted, lock)
        except* DrupeletError as group:  # of the nurseries that it passed
            raise _first(group) from None


def _first(group: BaseExceptionGroup[DrupeletError]) -> DrupeletError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _demo(names: tuple[str, ...], wanted_port: int, lock: int) -> int:
    mapper_port = await choose_mapper_port(wanted_port, names)
    places.note_mapper(lock, mapper_port)
    files = {name: places.write_demo_node(name, mapper_port) for name in names}
    run_directory = make_run_directory()
    children: list[Child] = []
    code = EXIT_DONE
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            try:
                width = max(map(len, names))
                for name in names:
                    child = Child(name, files[name], run_directory, width)
                    children.append(child)
                    nursery.start_soon(child.run)
                code = await _attend(children, run_directory, signals)
            finally:
                with trio.CancelScope(shield=True):  # bounded: each stop has its own deadlines
                    for child in reversed(children):
                        await child.stop()
                nursery.cancel_scope.cancel()
    output.note("stopped")
    return code


async def _attend(children: list[Child], run_directory: Path, signals: object) -> int:
    """From started to a signal, or until no node is left; the exit code."""
    code = EXIT_FAILED
    async with trio.open_nursery() as nursery:

        async def wait_signal() -> None:
            nonlocal code
            async for received in signals:  # type: ignore[attr-defined]
                output.note(f"\nstopping ({signal.Signals(received).name})")
                code = EXIT_DONE
                nursery.cancel_scope.cancel()

        async def watch(child: Child) -> None:
            await child.ended.wait()
            output.note(f"drupelet: node {child.name} {child.how_it_ended()}")
            if all(one.ended.is_set() for one in children):
                output.note("drupelet: no node is left")
                nursery.cancel_scope.cancel()

        nursery.start_soon(wait_signal)
        for child in children:
            nursery.start_soon(watch, child)
        for child in children:
            if not await child.wait_ready():
                state = child.how_it_ended() if child.ended.is_set() else "is not ready yet"
                raise Failed(f"node {child.name} {state}", mend="its log above has the reason")
        await wait_met(children, run_directory)
        show_what_to_try({child.name: child.pid for child in children})
        async with open_client(_socket_of(run_directory, children[0].name)) as node:
            try:
                async for event in node.monitor_nodes():
                    match event:
                        case NodeUp(name=name):
                            output.note(f"drupelet: {node.name} sees {name} again")
                        case NodeDown(name=name, reason=reason):
                            output.note(
                                f"drupelet: {node.name} noticed that {name} is down: {reason}"
                            )
            except NoConnection:
                pass  # its own end is told by `watch`
        await trio.Event().wait()  # until a signal, or no node is left
    return code


async def wait_met(children: list[Child], run_directory: Path) -> None:
    """Wait until every node sees all the others. Raises: `Failed`."""
    others = {child.name: {one.name for one in children} - {child.name} for child in children}

    async def wait_one(name: str) -> None:
        async with open_client(_socket_of(run_directory, name)) as node:
            events = node.monitor_nodes()  # first: nothing that comes after the list is missed
            for known in await node.nodes():
                if known.get("state") == "up":
                    others[name].discard(str(known.get("name")))
            while others[name]:
                event = await anext(events)
                if isinstance(event, NodeUp):
                    others[name].discard(event.name)
            await events.aclose()

    with trio.move_on_after(MEET_S) as patience:
        try:
            async with trio.open_nursery() as nursery:
                for child in children:
                    nursery.start_soon(wait_one, child.name)
        except* DrupeletError as group:
            raise Failed(
                f"a node stopped answering: {group.exceptions[0]}", mend="see its log"
            ) from None
    if not patience.cancelled_caught:
        return
    blind = "; ".join(
        f"{name} does not see {', '.join(sorted(left))}" for name, left in others.items() if left
    )
    raise Failed(
        f"the nodes did not find each other in {MEET_S:.0f} s: {blind}", mend="see their logs above"
    )


def _socket_of(run_directory: Path, name: str) -> str:
    return str(run_directory / f"{name}.sock")


# -- the port mapper's port


async def choose_mapper_port(wanted: int, names: tuple[str, ...]) -> int:
    """The port for the demo's port mapper: `wanted` (0: 4369) unless something foreign has it.

    Raises: `Failed` when a node of one of `names` is registered there already.
    """
    first = wanted or places.MAPPER_PORT
    for port in [first] if wanted else [first, *_OTHER_MAPPER_PORTS]:
        try:
            registered = {name for name, _ in await epmd.names(places.LOOPBACK, port=port)}
        except NoConnection:
            if _is_free(port):
                if port != first:
                    output.note(
                        f"port {first} is taken by something that is no port mapper; using {port}"
                    )
                return port
            continue
        taken = sorted(registered.intersection(names))
        if taken:
            raise Failed(
                f"the port mapper on port {port} has {', '.join(taken)} registered already",
                mend="stop those nodes (`drupelet names` lists them), or use --mapper-port",
            )
        return port
    raise Failed(
        f"port {first} is taken by something that is no port mapper",
        mend="name a free one with --mapper-port",
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((places.LOOPBACK, port))
        except OSError:
            return False
    return True


# -- what to try


def program() -> str:
    """How the user types this program: as short as works from here."""
    path = Path(sys.argv[0])
    if path.name != "drupelet":
        return f"{shlex.quote(os.path.relpath(sys.executable))} -m drupelet.cli.main"
    for directory in os.get_exec_path():
        found = Path(directory) / "drupelet"
        if found.exists():
            if found.resolve() == path.resolve():
                return "drupelet"
            break
    relative = os.path.relpath(path)
    return shlex.quote(str(path.absolute()) if relative.startswith("..") else relative)


def show_what_to_try(pids: dict[str, int]) -> None:
    """The next commands, ready to be copied. `pids`: the nodes and their processes."""
    me = program()
    names = list(pids)
    last = names[-1]
    lines = [
        "",
        f"{len(names)} nodes are up and see each other: {', '.join(names)}.",
        "In another terminal, try:",
        "",
        f"  {me} call gandalf kvs store weather fine",
        f"  {me} call gandalf kvs lookup weather",
        f"  {me} nodes",
        f"  {me} status",
        f"  {me} names",
    ]
    if len(names) > 1:
        lines += [
            f"  {me} ping {last}",
            f"  {me} why {last} kvs store",
            f"  {me} multicall all node ping",
            f"  kill -9 {pids[last]}          # kill {last}; the others notice",
        ]
    lines += [
        f"  {me} call gandalf ring around '{json.dumps(names)}' 30 100",
        f"  {me} call gandalf resa start '[\"ab.12.0\"]'; {me} ps",
        f"  {me} lesson 1",
        f"  {me} shell          # then: spawn(print, 'hello'); it is as erl",
        f"  {me} lesson         # twelve lessons about processes",
    ]
    lines += ["", "Ctrl-C stops all nodes.", ""]
    output.line("\n".join(lines))
