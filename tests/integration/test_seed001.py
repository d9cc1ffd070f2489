"""Seed 001 on real daemons: S001-3 (the primitives of distribution, dist_demo) and S001-5 as
processes see it. S001-6 is in test_code.py, S001-10 in test_chan.py, node events in
test_failures.py; `tests/oracle` compares the same with real Erlang.

A program at gandalf (as `drupelet shell` is one) works with processes in bilbo's workers.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import trio

from drupelet import (
    Down,
    Exit,
    NodeDown,
    Pid,
    ProcessDown,
    ask,
    disconnect_node,
    exit,
    is_alive,
    link,
    monitor,
    monitor_node,
    node,
    nodes,
    ping,
    receive,
    registered,
    rpc,
    self,
    send,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
    whereis,
)
from drupelet.bundled import dist_demo
from drupelet.cli.attached import open_attached
from drupelet.errors import NoConnection, NotSendable, ReceiveTimeout, RemoteError
from drupelet.process.running import open_runtime, run_main
from tests.integration.cluster import Cluster, RealNode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

KILLED_S = 0.1  # NodeDown after kill -9
SILENT_S = 5.0  # NodeDown after SIGSTOP
QUIET_S = 0.3  # in which nothing comes that must not come

BIFS = """
from drupelet import Request, exit, mission, node, receive, register, reply, self, send

async def serve(name=None):
    if name is not None:
        await register(name)
    while True:
        match await receive():
            case Request(caller, "node"):
                await reply(caller, (node(), self()))
            case Request(caller, value):
                await reply(caller, value)
            case (pid, word):
                await send(pid, (self(), word))

async def end(reason):
    exit(reason)

async def crash():
    raise ValueError("bad")

async def hello(to, *words):
    await send(to, (self(), *words))

@mission("bifs")
def nothing() -> None: ...
"""


def install(cluster: Cluster, name: str, *known: RealNode) -> RealNode:
    """A node with dist_demo, and with bifs.py as its operator's own mission."""
    missions = {"dist_demo": ("demo",)}
    added = cluster.add(name, *known, missions=missions)
    folder = added.directory / "missions.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bifs.toml").write_text('module = "bifs.py"\nexports = ["nothing"]\n')
    (folder / "bifs.py").write_text(BIFS)
    added.start()
    return added


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("seed001")) as cluster:
        install(cluster, "bilbo", install(cluster, "gandalf"))
        yield cluster


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        install(cluster, "bilbo", install(cluster, "gandalf"))
        yield cluster


async def at_gandalf(cluster: Cluster, main: Callable[[], Awaitable[object]]) -> object:
    """`main` as the first process of a program at gandalf, when both nodes see each other."""
    await cluster["gandalf"].wait_up("bilbo")
    await cluster["bilbo"].wait_up("gandalf")
    with trio.fail_after(30):
        async with open_attached(str(cluster["gandalf"].socket_path)) as (_, runtime):
            return await run_main(runtime, main)


@pytest.fixture
def bifs() -> ModuleType:
    """The same module as at the nodes, in this program."""
    module = ModuleType("bifs")
    exec(compile(BIFS, "bifs.py", "exec"), vars(module))
    return module


# -- S001-3


async def test_s001_3_spawn_with_a_function_and_by_name(shared: Cluster, bifs: ModuleType) -> None:
    async def main() -> None:
        me = self()
        for function in (bifs.hello, "bifs:hello"):
            pid = await spawn(function, me, 1, ("a", b"b"), node="bilbo")
            assert pid.node == "bilbo"
            assert await receive(timeout=5) == (pid, 1, ("a", b"b"))
            pid = await spawn_link(function, me, node="bilbo")
            assert await receive(timeout=5) == (pid,)
            pid, ref = await spawn_monitor(function, me, node="bilbo")
            assert await receive(timeout=5) == (pid,)
            assert await receive(timeout=5) == Down(ref, pid, "normal")
        with pytest.raises(RemoteError, match="defines no function 'goodbye'"):
            await spawn("bifs:goodbye", node="bilbo")
        with pytest.raises(RemoteError, match="no process on bilbo can start code of 'nowhere'"):
            await spawn("nowhere:hello", node="bilbo")
        with pytest.raises(NotSendable, match="code does not travel"):
            await spawn(lambda: None, node="bilbo")
        with pytest.raises(NoConnection, match="no_such_node"):
            await spawn(bifs.hello, me, node="sauron")

    await at_gandalf(shared, main)


async def test_s001_3_names_on_nodes(shared: Cluster, bifs: ModuleType) -> None:
    async def main() -> None:
        pid = await spawn_link(bifs.serve, "server", node="bilbo")
        assert await ask(pid, "node") == ("bilbo", pid)
        there = ("server", "bilbo")
        await send(there, (self(), "by name"))
        assert await receive(timeout=5) == (pid, "by name")
        assert await ask(there, "asked by name") == "asked by name"
        assert await whereis("server", "bilbo") == pid
        assert await whereis("server") is None  # names are a node's
        assert "server" not in await registered()
        await send("server", "nobody here has that name: as in OTP, of another node, no error")
        ref = monitor(there)
        exit(pid, "kill")
        assert (await receive(Down, timeout=5)).ref == ref
        with pytest.raises(ProcessDown):
            await ask(there, 1)

    async def guarded() -> None:
        trap_exit(True)
        await main()
        assert (await receive(Exit, timeout=5)).reason == "killed"

    await at_gandalf(shared, guarded)


async def test_s001_3_node_and_is_alive(shared: Cluster) -> None:
    async def main() -> None:
        assert (node(), is_alive(), self().node) == ("gandalf", True, "gandalf")
        assert nodes() == ["bilbo"]
        assert await ping("bilbo") == "pong"
        assert await ping("sauron") == "pang"
        pid = await dist_demo.start("bilbo")
        assert await dist_demo.rpc(pid, "drupelet", "node", []) == "bilbo"
        assert await dist_demo.rpc(pid, "drupelet", "is_alive", []) is True
        assert await dist_demo.rpc(pid, "drupelet", "self", []) == pid
        assert await dist_demo.rpc(pid, "drupelet", "nodes", []) == ["gandalf"]
        exit(pid, "kill")

    async def alone() -> None:
        assert (node(), is_alive(), nodes()) == ("nonode@nohost", False, [])
        assert await ping("bilbo") == "pang"

    await at_gandalf(shared, main)
    async with open_runtime() as runtime:
        await run_main(runtime, alone)


async def test_s001_3_dist_demo(shared: Cluster) -> None:
    async def main() -> None:
        pid = await dist_demo.start("bilbo")
        assert pid.node == "bilbo"
        theirs = await dist_demo.rpc(pid, "os", "getpid", [])
        assert theirs != os.getpid()
        assert theirs in shared["bilbo"].workers()
        assert await dist_demo.rpc(pid, "math", "gcd", [12, 18]) == 6
        match await dist_demo.rpc(pid, "math", "sqrt", [-1]):
            case ("EXIT", ("ValueError", str())):
                pass
            case other:
                raise AssertionError(other)
        left = await dist_demo.rpc(pid, "drupelet", "exit", ["bang"])
        assert left == ("EXIT", "bang")  # as `catch exit(bang)`
        assert await dist_demo.rpc(pid, "os", "getpid", []) == theirs  # it lives on
        exit(pid, "boom")
        with pytest.raises(ProcessDown):
            await dist_demo.rpc(pid, "os", "getpid", [])
        assert await rpc.call("bilbo", "dist_demo", "demo", ["bilbo", "os", "getpid", []]) == theirs

    await at_gandalf(shared, main)


async def test_s001_3_exit_reasons(shared: Cluster, bifs: ModuleType) -> None:
    """As OTP gives them: to links that trap, to links that do not, and to monitors."""

    async def watched(reason: object) -> None:
        await spawn_link(bifs.end, reason, node="bilbo")
        await receive()

    async def main() -> None:
        trap_exit(True)
        for reason in ("boom", "bang", ("shutdown", 3), "normal"):
            pid = await spawn_link(bifs.end, reason, node="bilbo")  # ends by itself
            assert await receive(timeout=5) == Exit(pid, reason)
            pid, ref = await spawn_monitor(bifs.end, reason, node="bilbo")
            assert await receive(timeout=5) == Down(ref, pid, reason)
        for sent, told in (("boom", "boom"), ("bang", "bang"), ("kill", "killed")):
            pid = await spawn_link(bifs.serve, node="bilbo")  # ended by a signal
            ref = monitor(pid)
            exit(pid, sent)
            ends = [await receive(timeout=5), await receive(timeout=5)]
            assert Exit(pid, told) in ends
            assert Down(ref, pid, told) in ends
        pid = await spawn(bifs.serve, node="bilbo")
        exit(pid, "normal")  # from another process: ignored
        assert await ask(pid, "alive") == "alive"
        link(pid)
        for reason in ("boom", "bang"):  # through one that does not trap, back to here
            pid, ref = await spawn_monitor(watched, reason)
            assert await receive(timeout=5) == Down(ref, pid, reason)
        pid, ref = await spawn_monitor(bifs.crash, node="bilbo")
        assert await receive(timeout=5) == Down(ref, pid, ("ValueError", "bad"))
        ref = monitor(pid)  # of one that was there
        assert await receive(timeout=5) == Down(ref, pid, "noproc")
        link(pid)
        assert await receive(timeout=5) == Exit(pid, "noproc")

    await at_gandalf(shared, main)


# -- S001-5, as processes see it


async def nothing_comes() -> None:
    with pytest.raises(ReceiveTimeout):
        await receive(timeout=QUIET_S)


async def test_s001_5_a_killed_node(own: Cluster, bifs: ModuleType) -> None:
    async def main() -> None:
        trap_exit(True)
        pid = await spawn_link(bifs.serve, "server", node="bilbo")
        by_pid, by_name = monitor(pid), monitor(("server", "bilbo"))
        await monitor_node("bilbo")
        await monitor_node("bilbo")
        await monitor_node("bilbo", False)  # undoes one of the two
        started = time.monotonic()
        own["bilbo"].signal(signal.SIGKILL)
        assert isinstance(await receive(NodeDown, timeout=20), NodeDown)
        took_s = time.monotonic() - started
        print(f"NodeDown {took_s * 1000:.1f} ms after kill -9")
        assert took_s <= KILLED_S
        rest = [await receive(timeout=5) for _ in range(3)]
        assert Exit(pid, "noconnection") in rest
        assert Down(by_pid, pid, "noconnection") in rest
        assert Down(by_name, ("server", "bilbo"), "noconnection") in rest
        await nothing_comes()  # each was told once
        assert nodes() == []
        own["bilbo"].wait()
        own["bilbo"].start()
        await own["gandalf"].wait_up("bilbo")
        assert await ping("bilbo") == "pong"
        ref = monitor(pid)  # of an earlier life
        assert await receive(timeout=5) == Down(ref, pid, "noproc")
        await send(pid, (self(), "nobody"))
        with pytest.raises(ProcessDown, match="noproc"):
            await ask(pid, 1)
        newer = await spawn(bifs.serve, node="bilbo")
        assert (newer.node, newer.incarnation != pid.incarnation) == ("bilbo", True)
        await nothing_comes()

    await at_gandalf(own, main)


async def test_s001_5_a_silent_node(own: Cluster, bifs: ModuleType) -> None:
    """And the stopped side learns that it was declared dead: its processes are told as ours are."""
    told: list[object] = []
    watching = trio.Event()

    async def their_side(pid: Pid) -> None:
        ref = monitor(pid)
        await monitor_node("gandalf")
        assert await ask(pid, "there") == "there"
        watching.set()
        told.extend([await receive(timeout=30), await receive(timeout=5)])
        assert Down(ref, pid, "noconnection") in told
        await nothing_comes()

    async def main() -> None:
        ours = await spawn(bifs.serve)
        pid, ref = await spawn_monitor(bifs.serve, node="bilbo")
        await monitor_node("bilbo")
        async with open_attached(str(own["bilbo"].socket_path)) as (_, theirs):
            there = theirs.start(their_side, (ours,))
            await watching.wait()
            started = time.monotonic()
            own["bilbo"].signal(signal.SIGSTOP)
            assert isinstance(await receive(NodeDown, timeout=20), NodeDown)
            took_s = time.monotonic() - started
            print(f"NodeDown {took_s:.2f} s after SIGSTOP")
            assert took_s <= SILENT_S
            assert await receive(timeout=5) == Down(ref, pid, "noconnection")
            own["bilbo"].signal(signal.SIGCONT)
            assert await theirs.join(there) == "normal"
            assert [type(each) for each in told if not isinstance(each, Down)] == [NodeDown]
        await own["gandalf"].wait_up("bilbo")
        assert own["bilbo"].status()["declared_down_count"] == 1
        await nothing_comes()  # what was told once stays told

    await at_gandalf(own, main)


async def test_s001_5_flag_false_stops_messages(own: Cluster) -> None:
    async def main() -> None:
        await monitor_node("bilbo")
        await monitor_node("bilbo", False)
        own["bilbo"].kill()
        await own["gandalf"].wait_up("bilbo", up=False)
        await nothing_comes()
        assert nodes() == []
        await monitor_node("bilbo")  # it is down already: told at once
        assert isinstance(await receive(timeout=10), NodeDown)

    await at_gandalf(own, main)


async def test_disconnect_node(own: Cluster, bifs: ModuleType) -> None:
    async def main() -> None:
        pid, ref = await spawn_monitor(bifs.serve, node="bilbo")
        await monitor_node("bilbo")
        assert await disconnect_node("bilbo") is True
        assert isinstance(await receive(NodeDown, timeout=5), NodeDown)
        assert await receive(timeout=5) == Down(ref, pid, "noconnection")
        assert await disconnect_node("sauron") is False

    await at_gandalf(own, main)
