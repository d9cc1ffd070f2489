"""`trace` at nodes inside this process."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.cli import trace as module
from drupelet.cli.attached import open_attached
from drupelet.cli.grammar import UsageError, parse
from drupelet.cli.output import Failed
from drupelet.cli.pids import parse_address
from drupelet.cli.verbs import VERBS
from drupelet.errors import EXIT_DONE, NoConnection
from drupelet.node import Node
from drupelet.process import Pid, Request, ask, exit, receive, register, reply, self, send
from drupelet.process.running import run_main
from drupelet.process.runtime import Runtime
from drupelet.process.table import Process
from drupelet.process.tracing import TraceEvent
from tests.unit.services.nodes import open_small_node, wait_up


@asynccontextmanager
async def open_pair(directory: Path) -> AsyncIterator[tuple[Node, Node, Runtime]]:
    """Two nodes, and a program of the second."""
    async with open_small_node(directory, "alice") as alice:
        async with open_small_node(directory, "bob", alice) as bob:
            await wait_up(alice, "bob")
            async with open_attached(str(bob.config.node.socket)) as (_, runtime):
                yield alice, bob, runtime


async def serve() -> None:
    await register("server")
    while True:
        match await receive():
            case Request(caller, int(number)):
                await reply(caller, number + 1)
            case ("stop", reason):
                exit(reason)


async def run(node: Node, process: object, *options: str) -> int:
    socket = str(node.config.node.socket)
    request = parse(["--socket", socket, *options, "trace", str(process)], VERBS)
    return await module._trace(request, parse_address(str(process)))


@pytest.mark.parametrize("name", ["server@bob", ""])
async def test_what_happens_to_a_process_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    codes: list[int] = []
    with trio.fail_after(20):
        async with open_pair(tmp_path) as (alice, _, runtime), trio.open_nursery() as nursery:
            server = runtime.start(serve, ())

            async def client() -> Pid:
                assert await ask(server.pid, 41) == 42
                await send(server.pid, ("stop", "enough"))
                return self()

            async def watch() -> None:
                codes.append(await run(alice, name or str(server.pid)[1:-1]))

            await named(runtime, "server")
            nursery.start_soon(watch)
            await traced(server)
            me = str(await run_main(runtime, client))[1:-1]
    out, err = capsys.readouterr()
    assert codes == [EXIT_DONE]
    assert f"tracing {str(server.pid)[1:-1]}; Ctrl-C" in err
    lines = [re.sub(r"^ *\d+\.\d{6} +", "", line) for line in out.splitlines()]
    wanted = rf"receive   Request\(caller=\(<{me}>, #Ref<bob\.\d+\.\d+>\), request=41\)  from {me}"
    assert re.fullmatch(wanted, lines[0]), lines
    assert lines[1:] == [
        f"reply     42  to {me}",
        f"receive   ('stop', 'enough')  from {me}",
        "exit      'enough'",
    ]


async def named(runtime: Runtime, name: str) -> None:
    while await runtime.whereis(name, runtime.node) is None:
        await trio.lowlevel.checkpoint()


async def traced(process: Process) -> None:
    while not process.tracers:
        await trio.testing.wait_all_tasks_blocked()


async def test_json_and_ctrl_c(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    with trio.fail_after(20):
        async with open_pair(tmp_path) as (_, bob, runtime), trio.open_nursery() as nursery:

            async def talk() -> None:
                await receive()
                await send(self(), {"a": (self(), b"x")})
                await send(("nobody", "bob"), 1)
                await receive(str)

            async def watch() -> None:
                codes.append(await run(bob, talker.pid, "--json"))

            talker = runtime.start(talk, ())
            nursery.start_soon(watch)
            await traced(talker)
            await send(talker.pid, 0)
            out = ""
            while out.count("\n") < 4:
                await trio.testing.wait_all_tasks_blocked()
                out += capsys.readouterr().out
            os.kill(os.getpid(), signal.SIGINT)
    me = talker.pid
    assert codes == [EXIT_DONE]
    events = [json.loads(line) for line in out.splitlines()]
    assert [(one["kind"], one["pid"], one["peer"]) for one in events] == [
        ("receive", str(me), None),
        ("send", str(me), str(me)),
        ("receive", str(me), str(me)),
        ("send", str(me), "nobody@bob"),
    ]
    assert events[1]["message"] == {"a": [{"$pid": str(me)}, {"$bytes": "eA=="}]}
    assert all(one["at"] >= 0 for one in events)


async def test_every_mistake_teaches(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with open_pair(tmp_path) as (alice, _, runtime):
            me = runtime.start(serve, ()).pid
            for process, message, mend in (
                ("nobody", "no process of alice is registered as 'nobody'; alice runs no", ""),
                ("nobody@bob", "no process of bob is registered as 'nobody'", "ps bob"),
                (Pid("bob", me.incarnation + 1, me.number), "of another life of bob", "ps bob"),
                (Pid("alice", 1, 7), "of another life of alice", "ps alice"),
                (Pid("bob", me.incarnation, me.number + 999), "runs any more", "ps bob"),
                (runtime.pid, "no process but what runs", "ps bob"),
            ):
                with pytest.raises(Failed) as raised:
                    await run(alice, process)
                assert message in str(raised.value)
                assert mend in raised.value.mend
            for process in ("server@carol", Pid("carol", 1, 1)):
                with pytest.raises(NoConnection, match="no_such_node"):
                    await run(alice, process)
    for text in ("a b", "<gandalf.1>", "", "x@"):
        with pytest.raises(UsageError, match="PID, NAME or NAME@NODE"):
            module.trace(parse(["trace", text], VERBS))


def test_what_found_no_room_is_told() -> None:
    event = TraceEvent(kind="overflow", pid=Pid("g", 1, 2), message=7, at=3.5)
    assert module._for_people(event, 1.0) == "   2.500000  overflow  7 events found no room"
