"""Work that computes, in real workers: its end, its bounds, and code that was shipped. And traces:
a process of a worker seen from another node."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from drupelet.client import open_client
from drupelet.client.carrier import Carrier
from drupelet.process import Pid, ask, send, trace
from drupelet.process.running import open_runtime
from tests.integration.cluster import Cluster, RealNode, children, is_running, wait_gone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

WAIT_S = 30.0
SERVICE = """
import os, signal, time
from drupelet import Down, Mailbox, Request, computing, exit, mission, receive, reply, self, spawn
from drupelet import spawn_monitor
import {helper}

MEMORY = 1 << 30

def square(number):
    return {helper}.times(number, number)

def bad():
    raise ValueError("bad")

def die():
    os.kill(os.getpid(), signal.SIGSEGV)

def allocate():
    return len(bytearray(MEMORY))

def spin():
    while True:
        pass

def nap(to):
    while True:
        time.sleep(0.01)
        computing.send(to, "still here")

@mission("service")
async def compute(where, name, number):
    return await computing.compute(globals()[name], number, where=where)

@mission("service")
async def reason(where, name):
    pid, ref = await spawn_monitor(globals()[name], where=where)
    return (await receive(Down, timeout=30)).reason

@mission("service")
async def start(where, name):
    return await spawn(globals()[name], where=where)

@mission("service")
async def abandon():
    pid, ref = await spawn_monitor(nap, self(), where="thread")
    await receive("still here", timeout=30)
    exit(pid, "kill")
    return (await receive(Down, timeout=30)).reason

@mission("service")
async def abandoned():
    return computing.abandoned()

@mission("service")
async def kill(pid):
    exit(pid, "kill")

def hold(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass

@mission("service")
async def hold_the_loop():
    pid, ref = await spawn_monitor(hold, 0.2)
    return (await receive(Down, timeout=30)).reason

async def echo():
    while True:
        match await receive():
            case Request(caller, request):
                await reply(caller, request)
            case "end":
                return

@mission("service")
async def start_echo():
    return await spawn(echo, name="echo")
"""
HELPER = "def times(one, other):\n    return one * other\n"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


def add(cluster: Cluster, name: str, *known: RealNode) -> RealNode:
    node = cluster.add(name, *known, missions={})
    folder = node.directory / "missions.d"
    folder.mkdir()
    helper = f"{name}_helper"
    (folder / f"{helper}.py").write_text(HELPER)
    (folder / "service.py").write_text(SERVICE.format(helper=helper))
    functions = re.findall(r'@mission\("service"\)\nasync def (\w+)', SERVICE)
    exports = ", ".join(f'"{each}"' for each in functions)
    (folder / "service.toml").write_text(f'module = "service.py"\nexports = [{exports}]\n')
    node.start()
    return node


def worker_of(node: RealNode) -> int:
    """The one worker of the node."""
    [worker] = node.workers()
    return worker


async def until_children(pid: int, count: int) -> set[int]:
    with trio.fail_after(WAIT_S):
        while len(found := children(pid)) != count:  # noqa: ASYNC110  (of other programs)
            await trio.sleep(0.01)
    return found


async def test_a_worker_computes_elsewhere_and_says_how_it_ended(cluster: Cluster) -> None:
    node = add(cluster, "alice")
    async with open_client(node.socket_path) as client:

        async def call(function: str, *args: object) -> object:
            return await client.call("", "service", function, *args, timeout=WAIT_S)

        for where in ("thread", "process"):
            assert await call("compute", where, "square", 12) == 144
            assert await call("reason", where, "square") == (
                "TypeError",
                "square() missing 1 required positional argument: 'number'",
            )
            assert await call("reason", where, "bad") == ("ValueError", "bad")
            # the worker's limit holds there as well, and costs only who asked for so much
            kind, _ = await call("reason", where, "allocate")  # type: ignore[misc]
            assert kind == "MemoryError"  # type: ignore[has-type]
        reason = await call("reason", "process", "die")
        assert reason == ("ProgramDied", "service.die was ended by SIGSEGV")
        assert await call("abandon") == "killed"
        while await call("abandoned"):  # it ends at its next word
            pass
        worker = worker_of(node)
        assert await until_children(worker, 0) == set()


async def test_a_program_ends_with_its_process_and_with_its_worker(cluster: Cluster) -> None:
    node = add(cluster, "alice")
    worker = worker_of(node)
    async with open_client(node.socket_path) as client:
        pid = await client.call("", "service", "start", "process", "spin")
        programs = await until_children(worker, 1)
        await client.call("", "service", "kill", pid)
        assert not await trio.to_thread.run_sync(wait_gone, programs, WAIT_S)
        await client.call("", "service", "start", "process", "spin")
        programs = await until_children(worker, 1)
        os.kill(worker, 9)
        assert not await trio.to_thread.run_sync(wait_gone, programs, WAIT_S)
        with trio.fail_after(WAIT_S):
            while not (workers := node.workers() - {worker}):  # noqa: ASYNC110
                await trio.sleep(0.01)
        # ... and with the daemon, killed in the midst of it
        while True:
            with contextlib.suppress(Exception):
                await client.call("", "service", "start", "process", "spin", timeout=WAIT_S)
                break
        [worker] = workers
        programs = await until_children(worker, 1)
    node.kill()
    assert not await trio.to_thread.run_sync(wait_gone, {worker, *programs}, WAIT_S)
    assert not any(map(is_running, programs))


async def test_who_holds_the_loop_of_a_worker_is_named_in_the_log(cluster: Cluster) -> None:
    node = add(cluster, "alice")
    async with open_client(node.socket_path) as client:
        assert await client.call("", "service", "hold_the_loop", timeout=WAIT_S) == "normal"
    line = SERVICE.split("\n").index("def hold(seconds):") + 1
    wanted = re.compile(
        rf"loop_held pid=<alice\S+> function=service\.hold place=service\.py:{line} ms=\d+ "
    )
    with trio.fail_after(WAIT_S):
        while not wanted.search(node.log):  # noqa: ASYNC110  (another program's file)
            await trio.sleep(0.01)


async def test_shipped_code_computes_where_no_file_has_it(cluster: Cluster) -> None:
    alice = add(cluster, "alice")
    bob = add(cluster, "bob", alice)
    await alice.wait_up("bob")
    files = [alice.directory / "missions.d" / name for name in ("service.py", "alice_helper.py")]
    shipped = alice.run("nl", *map(str, files))
    assert shipped.returncode == 0, shipped.stderr
    assert not list(bob.directory.rglob("alice_helper.py"))
    async with open_client(bob.socket_path) as client:
        for where in ("thread", "process"):
            value = await client.call("", "service", "compute", where, "square", 9, timeout=WAIT_S)
            assert value == 81
            got = await client.call("", "service", "reason", where, "bad", timeout=WAIT_S)
            assert got == ("ValueError", "bad")
    assert "shipped/service.py" in bob.log  # the traceback of `bad` in its program


async def test_a_trace_of_a_worker_of_another_node(cluster: Cluster) -> None:
    alice = add(cluster, "alice")
    bob = cluster.start("bob", alice, missions={})
    await bob.wait_up("alice")
    async with open_client(alice.socket_path) as client:
        pid = await client.call("", "service", "start_echo", timeout=WAIT_S)
        assert isinstance(pid, Pid)
    with trio.fail_after(WAIT_S):
        async with open_client(bob.socket_path) as client:
            carrier = Carrier(client)
            async with open_runtime(carrier) as runtime:
                await carrier.attach(runtime)
                async with trace(("echo", "alice")) as events:
                    for number in range(100):
                        assert await ask(pid, number) == number
                    # whatever was before an answer is there when the answer is
                    seen = events.read()
                    assert [(each.kind, each.pid) for each in seen] == [
                        ("receive", pid),
                        ("reply", pid),
                    ] * 100
                    assert [each.message for each in seen[1::2]] == list(range(100))
                    await send(pid, "end")
                    ending = [(each.kind, each.message) async for each in events]
                    assert ending == [("receive", "end"), ("exit", "normal")]
