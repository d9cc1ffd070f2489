"""Processes in real workers of two nodes: names, monitors, spawns, kills and confinement."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from drupelet import Down, Pid, ask, monitor, receive, send, whereis
from drupelet.client import open_client
from drupelet.client.carrier import Carrier
from drupelet.errors import CodeMismatch, NotPermitted, RemoteError
from drupelet.node import Node, open_node
from drupelet.process.running import open_runtime
from drupelet.services.missions import MissionSpec
from tests.unit.services.nodes import make_config, open_small_node, wait_up

COUNTER = """
import os
from drupelet import Down, Request, mission, monitor, node, receive, register, reply, rpc, send
from drupelet import self as own_pid
from drupelet import spawn, whereis

async def counter():
    number = 0
    while True:
        match await receive():
            case Request(caller=caller, request="get"):
                await reply(caller, number)
            case ("add", more):
                number += more
            case "crash":
                raise ValueError("bad")

async def greet(who):
    await send(who, ("hello from", node()))

@mission("counter")
async def start() -> object:
    pid = await spawn(counter)
    await register("counter", pid)
    return pid

@mission("counter")
async def watch(name: str) -> object:
    ref = monitor(("counter", name))
    await send(("counter", name), "crash")
    match await receive(timeout=5):
        case Down(ref=got, pid=pid, reason=reason):
            print("DOWN", got, pid, reason, own_pid(), ref, flush=True)
            return reason

@mission("counter")
async def spawn_on(name: str) -> object:
    pid = await spawn(greet, own_pid(), node=name)
    return [pid, await receive(timeout=5)]

@mission("counter")
async def call_on(name: str) -> object:
    return await rpc.call(name, "counter", "getpid", [])

@mission("counter")
def getpid() -> int:
    return os.getpid()
"""


def spec_of(directory: Path, source: str = COUNTER, *, cluster: bool = True) -> MissionSpec:
    file = directory / "counter.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(source)
    return MissionSpec(name="", modules=(str(file),), cluster=cluster)


@asynccontextmanager
async def open_counter(
    directory: Path, name: str, *known: Node, source: str = COUNTER, cluster: bool = True
) -> AsyncIterator[Node]:
    from drupelet.config_values import Peer

    peers = tuple(Peer(name=each.name, host="127.0.0.1", port=each.port) for each in known)
    config = make_config(directory, name, peers=peers)
    spec = spec_of(directory / f"{name}-code", source, cluster=cluster)
    async with open_node(config, [spec]) as node:
        for each in known:
            await wait_up(node, each.name)
            await wait_up(each, name)
        yield node


async def test_processes_of_two_nodes(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with (
            open_counter(tmp_path, "alice") as alice,
            open_counter(tmp_path, "bob", alice) as bob,
        ):
            pid = await alice.call("alice", "counter", "start")
            assert isinstance(pid, Pid)
            assert pid.node == "alice"
            spawned, message = await bob.call("bob", "counter", "spawn_on", "alice")  # type: ignore[misc]
            assert (spawned.node, message) == ("alice", ("hello from", "alice"))  # type: ignore[has-type]
            theirs = await alice.call("alice", "counter", "getpid")
            assert await bob.call("bob", "counter", "call_on", "alice") == theirs
            shown = await bob.call("alice", "process", "list")
            assert isinstance(shown, list)
            assert [each["runtime"] for each in shown if each.get("pid") == pid] == ["counter"]
            assert await bob.call("bob", "counter", "watch", "alice") == ("ValueError", "bad")
            assert await bob.call("bob", "counter", "watch", "alice") == "noproc"


async def test_a_client_talks_to_them_and_hears_of_a_kill(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with (
            open_counter(tmp_path, "alice") as alice,
            open_small_node(tmp_path, "bob", alice) as bob,
        ):
            await wait_up(bob, "alice")
            await alice.call("alice", "counter", "start")
            async with open_client(bob.config.node.socket) as client:
                carrier = Carrier(client)
                async with open_runtime(carrier) as runtime:
                    await carrier.attach(runtime)
                    await send(("counter", "alice"), ("add", 5))
                    assert await ask(("counter", "alice"), "get") == 5
                    pid = await whereis("counter", "alice")
                    assert pid is not None
                    by_pid, by_name = monitor(pid), monitor(("counter", "alice"))
                    assert await ask(pid, "get") == 5
                    worker = alice.missions._missions[0].process
                    assert worker is not None
                    worker.kill()
                    downs = [await receive(Down, timeout=5) for _ in range(2)]
                    assert {(each.ref, each.reason) for each in downs} == {  # type: ignore[attr-defined]
                        (by_pid, "crashed"),
                        (by_name, "crashed"),
                    }
                    assert await whereis("counter", "alice") is None


async def test_other_code_is_a_mismatch(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with open_counter(tmp_path, "alice", source=COUNTER + "# newer\n") as alice:
            async with open_counter(tmp_path, "bob", alice) as bob:
                with pytest.raises((CodeMismatch, RemoteError)) as caught:
                    await bob.call("bob", "counter", "spawn_on", "alice")
                assert "CodeMismatch" in (type(caught.value).__name__ + str(caught.value))


async def test_a_mission_without_cluster_reaches_nobody(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with open_counter(tmp_path, "alice") as alice:
            async with open_counter(tmp_path, "bob", alice, cluster=False) as bob:
                pid = await bob.call("bob", "counter", "start")
                assert isinstance(pid, Pid)
                assert pid.node == "nonode@nohost"
                for function in ("spawn_on", "call_on"):
                    with pytest.raises((NotPermitted, RemoteError)):
                        await bob.call("bob", "counter", function, "alice")
                assert bob.processes.statistics().runtime_count == 0
                assert isinstance(await alice.call("bob", "counter", "getpid"), int)
