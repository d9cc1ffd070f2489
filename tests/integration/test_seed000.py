"""Seed 000, the resource allocator: S000-1 to S000-6 on real daemons, workers and programs.

The server is the bundled mission `resa` in a worker of gandalf. A client is a program of its own at
a node (`open_attached`, as `drupelet shell` is one), with the client's functions of `resa` and
nothing else.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from drupelet import (
    Down,
    Pid,
    ProcessDown,
    Request,
    ask,
    exit,
    flush,
    is_alive,
    monitor,
    net_kernel,
    node,
    processes,
    receive,
    register,
    reply,
    self,
    send,
    spawn,
    whereis,
)
from drupelet.bundled import resa
from drupelet.cli.attached import open_attached
from drupelet.process.running import open_runtime, run_main
from drupelet.process.tracing import Events, TraceEvent, trace
from drupelet.wire.ids import Ref
from tests.integration.cluster import Cluster, RealNode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

KILLED_S = 0.1  # free again after kill -9
SILENT_S = 5.0  # free again after SIGSTOP
RESA = {"resa": ("start", "counts")}
ONE = "ab.12.0"
TWO = "cd.34.0"

# S000-1, in its order: what the client calls, and what it gets.
SCRIPT: list[tuple[str, object]] = [
    ("allocate", "disconnected"),
    ("connect", "connected"),
    ("connect", "already_connected"),
    ("allocate", ("allocated", ONE)),
    ("allocate", "no"),
    ("free", ("freed", ONE)),
    ("free", ("error", "not_allocated")),
    ("disconnect", "disconnected"),
    ("disconnect", "already_disconnected"),
]
REQUESTS = {
    "connect": "connect",
    "disconnect": "disconnect",
    "allocate": "allocate_resource",
    "free": ("free_resource", ONE),
}


def start_pair(directory: Path, *order: str) -> Cluster:
    """gandalf and bilbo, started in that order; each knows the other's address."""
    cluster = Cluster(directory)
    gandalf = cluster.add("gandalf", missions=dict(RESA))
    bilbo = cluster.add("bilbo", gandalf, missions={})
    gandalf.peers = (f"bilbo@127.0.0.1:{bilbo.port}",)
    for name in order:
        cluster[name].start()
    return cluster


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes for the tests that end none."""
    with start_pair(tmp_path_factory.mktemp("seed000"), "gandalf", "bilbo") as cluster:
        yield cluster


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cluster]:
    with start_pair(tmp_path, "gandalf", "bilbo") as cluster:
        yield cluster


async def at(where: RealNode, main: Callable[..., Awaitable[object]], *args: object) -> object:
    """``main(*args)`` as the first process of a program at a node."""
    async with open_attached(str(where.socket_path)) as (_, runtime):
        return await run_main(runtime, main, *args)


@asynccontextmanager
async def serving(cluster: Cluster, *resources: str) -> AsyncIterator[None]:
    """The server runs, with these resources."""
    gandalf = cluster["gandalf"]
    await gandalf.wait_up("bilbo")
    await cluster["bilbo"].wait_up("gandalf")
    with gandalf.connect() as client:
        assert client.call("", "resa", "start", list(resources)) == "started"
    try:
        yield
    finally:
        with trio.move_on_after(5, shield=True):
            await at(gandalf, stop_server)


async def stop_server() -> None:
    pid = await whereis(resa.SERVER, "gandalf")
    if pid is not None:
        ref = monitor(pid)
        exit(pid, "kill")
        await receive(lambda message: isinstance(message, Down) and message.ref == ref)


async def follow_script() -> list[object]:
    """S000-1 as a client; what it got."""
    answers = []
    for step, _ in SCRIPT:
        call = getattr(resa, step)
        answers.append(await (call("gandalf", ONE) if step == "free" else call("gandalf")))
    return answers


# -- S000-1, S000-2, S000-3


@pytest.mark.parametrize("client", ["bilbo", "gandalf"])
async def test_s000_1_allocate_and_free(shared: Cluster, client: str) -> None:
    async with serving(shared, ONE):
        wanted = [answer for _, answer in SCRIPT]
        assert await at(shared[client], follow_script) == wanted


@pytest.mark.parametrize(
    ("resources", "answer"),
    [
        ("ab.12.0", "expected_data_type_list"),
        ({"ab.12.0": 1}, "expected_data_type_list"),
        (None, "expected_data_type_list"),
        ([], "expected_non_empty_Free_list"),
    ],
)
def test_s000_1_a_wrong_start(shared: Cluster, resources: object, answer: str) -> None:
    with shared["gandalf"].connect() as client:
        assert client.call("", "resa", "start", resources) == answer


async def function_pids(function: str) -> list[Pid]:
    """The processes of gandalf that run that function of the mission."""
    return [each["pid"] for each in await processes("gandalf") if each["function"] == function]


async def inner() -> tuple[Pid, Pid, Pid]:
    """(server, handler, stats provider), as only `ps` tells."""
    found = [await function_pids(f"resa.{name}") for name in ("serve", "handle", "provide_stats")]
    (server,), (handler,), (provider,) = found
    assert await whereis(resa.SERVER, "gandalf") == server
    return server, handler, provider


async def test_s000_2_stats_by_delegation(shared: Cluster) -> None:
    async def client() -> None:
        server, handler, provider = await inner()
        assert await resa.connect("gandalf") == "connected"
        assert await resa.allocate("gandalf") == ("allocated", ONE)
        async with trace(server, handler, provider) as inside, trace(self()) as outside:
            answer = await resa.stats("gandalf")
            assert answer == ("stats", {"free": 1, "allocated": 1})
            seen = await read(inside, 8)
            replies = [(one.pid, one.peer) for one in seen if one.kind == "reply"]
            assert replies == [(handler, provider), (provider, self())]  # the server gives none
            # all that the client ever sees: the server's name, and an answer without a pid
            mine = [(one.kind, one.message, one.peer) for one in outside.read()]
        address = (resa.SERVER, "gandalf")
        assert mine == [("ask", "stats", address), ("answer", answer, address)]

    async with serving(shared, ONE, TWO):
        await at(shared["bilbo"], client)


async def test_s000_3_hidden_internals(shared: Cluster) -> None:
    """By name and by guessed pid, each internal message: nothing changes, nothing is told."""

    async def client() -> None:
        server, handler, provider = await inner()
        guessed = [Pid("gandalf", server.incarnation, server.number + step) for step in range(8)]
        assert {server, handler, provider} <= set(guessed)  # a pid is no secret
        assert await resa.connect("gandalf") == "connected"
        assert await resa.allocate("gandalf") == ("allocated", ONE)
        caller = (self(), Ref("bilbo", self().incarnation, 1))
        for key in (None, b"", bytes(16), "key"):
            messages: list[object] = [
                (key, "allocate_resource", caller),
                (key, "free_resource", caller, ONE),
                (key, "disconnect", caller),
                (key, "answer", caller, ("allocated", TWO)),
                (key, "stats", caller),
                (key, "server_request_data"),
                ("allocate_resource", self()),
                ("server_request_data", self()),
                Down(Ref("bilbo", 1, 1), self(), "forged"),
            ]
            for message in messages:
                await send((resa.SERVER, "gandalf"), message)
                for to in guessed:
                    await send(to, message)
            for request in ((key, "server_request_data"), "server_request_data", messages[0]):
                for asked in ((resa.SERVER, "gandalf"), server, handler, provider):
                    assert await ask(asked, request) == "refused"
        assert await resa.stats("gandalf") == ("stats", {"free": 1, "allocated": 1})
        assert await resa.free("gandalf", ONE) == ("freed", ONE)
        assert await flush() == []  # no data came either

    async with serving(shared, ONE, TWO):
        gandalf = shared["gandalf"]
        before = len(gandalf.log)
        await at(shared["bilbo"], client)
        with trio.fail_after(20):  # what a worker logs comes through a pipe
            for place in ("server", "handler", "stats"):
                words = f"resa_refused at={place} "
                while words not in gandalf.log[before:]:  # noqa: ASYNC110  (a file has no event)
                    await trio.sleep(0.02)


# -- S000-4


@asynccontextmanager
async def holding(where: RealNode) -> AsyncIterator[Pid]:
    """Client A has the resource, and lives."""
    async with open_attached(str(where.socket_path)) as (_, runtime):
        held = trio.Event()

        async def client() -> None:
            assert await resa.connect("gandalf") == "connected"
            assert await resa.allocate("gandalf") == ("allocated", ONE)
            held.set()
            await receive()

        process = runtime.start(client, ())
        with trio.fail_after(10):
            await held.wait()
        yield process.pid


async def wait_freed(handler: Pid, events: Events, owner: Pid) -> float:
    """Until the resource of `owner` can be allocated again; when that was."""
    async for event in events:
        if event.kind == "receive" and isinstance(event.message, Down):
            assert (event.pid, event.message.pid) == (handler, owner)
            assert await resa.allocate("gandalf") == ("allocated", ONE)
            return time.monotonic()
    raise AssertionError("the handler has ended")


@pytest.mark.parametrize(
    ("number", "limit_s"), [(signal.SIGKILL, KILLED_S), (signal.SIGSTOP, SILENT_S)]
)
async def test_s000_4_a_dead_nodes_resources_are_free_again(
    own: Cluster, number: signal.Signals, limit_s: float
) -> None:
    """Client A's node ends (kill -9) or falls silent (SIGSTOP); client B is at the server's."""

    async def other(owner: Pid) -> None:
        _, handler, _ = await inner()
        assert await resa.connect("gandalf") == "connected"
        assert await resa.allocate("gandalf") == "no"
        assert await resa.free("gandalf", ONE) == ("error", "not_allocated")
        async with trace(handler) as events:
            started = time.monotonic()
            own["bilbo"].signal(number)
            with trio.fail_after(20):
                took_s = await wait_freed(handler, events, owner) - started
        print(f"free again {took_s * 1000:.1f} ms after {number.name} of the client's node")
        assert took_s <= limit_s
        assert await resa.stats("gandalf") == ("stats", {"free": 0, "allocated": 1})

    async with serving(own, ONE), holding(own["bilbo"]) as owner:
        await at(own["gandalf"], other, owner)


CLIENT = """
import sys
from drupelet.bundled import resa
from drupelet import net_kernel, run
async def main():
    await net_kernel.start(sys.argv[1])
    print(await resa.connect("gandalf"), await resa.allocate("gandalf"), flush=True)
    sys.stdin.read()
run(main)
"""


def open_program(source: str, where: RealNode) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", source, str(where.socket_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def test_s000_4_a_dead_programs_resources_are_free_again(shared: Cluster) -> None:
    """Client A's program alone is killed; its node lives."""

    async def other() -> None:
        _, handler, _ = await inner()
        assert await resa.connect("gandalf") == "connected"
        with open_program(CLIENT, shared["bilbo"]) as program:
            assert program.stdout is not None
            line = await trio.to_thread.run_sync(program.stdout.readline)
            assert line == f"connected ('allocated', '{ONE}')\n"
            assert await resa.free("gandalf", ONE) == ("error", "not_allocated")
            async with trace(handler) as events:
                started = time.monotonic()
                program.kill()
                with trio.fail_after(20):
                    async for event in events:
                        if isinstance(event.message, Down):
                            break
                assert await resa.allocate("gandalf") == ("allocated", ONE)
                took_s = time.monotonic() - started
        print(f"free again {took_s * 1000:.1f} ms after kill -9 of the client's program")
        assert took_s <= KILLED_S

    async with serving(shared, ONE):
        await at(shared["gandalf"], other)


# -- S000-5


async def read(events: Events, count: int) -> list[TraceEvent]:
    """The next `count` events."""
    found: list[TraceEvent] = []
    with trio.fail_after(10):
        while len(found) < count:
            found.append(await anext(events))
    return found


Seen = tuple[str, str, object, object]  # who, kind, message, peer


def expected_inside() -> list[Seen]:
    """The messages of S000-1 inside the server, in their order."""
    seen: list[Seen] = []
    for step, answer in SCRIPT:
        request = REQUESTS[step]
        words = request if isinstance(request, tuple) else (request,)
        order = ("KEY", words[0], "CALLER", *words[1:])
        back = ("KEY", "answer", "CALLER", answer)
        seen += [
            ("server", "receive", Request("CALLER", request), "client"),  # type: ignore[arg-type]
            ("server", "send", order, "handler"),
            ("handler", "receive", order, "server"),
        ]
        seen += [
            ("handler", "send", back, resa.SERVER),
            ("server", "receive", back, "handler"),
            ("server", "reply", answer, "client"),
        ]
    return seen


class Reader:
    """Events with names for pids, for the key and for who asked."""

    def __init__(self, names: dict[Pid, str]) -> None:
        self.names = names
        self.keys: set[bytes] = set()

    def plain(self, event: TraceEvent) -> Seen:
        peer = self.names.get(event.peer) if isinstance(event.peer, Pid) else event.peer
        return self.names[event.pid], event.kind, self._plain(event.message), peer

    def _plain(self, message: object) -> object:
        match message:
            case (Pid() as pid, Ref()) if self.names[pid] == "client":
                return "CALLER"
            case Request(caller, request):
                return Request(self._plain(caller), request)  # type: ignore[arg-type]
            case (bytes(key), *rest):
                self.keys.add(key)
                return ("KEY", *map(self._plain, rest))
        return message


@pytest.mark.parametrize("order", [("gandalf", "bilbo"), ("bilbo", "gandalf")])
async def test_s000_5_an_integration_test_sees_inside(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    """Server node and client node, in any order; the exact messages of S000-1, in order."""
    with start_pair(tmp_path, *order) as cluster:

        async def client() -> None:
            server, handler, _ = await inner()
            reader = Reader({server: "server", handler: "handler", self(): "client"})
            async with trace(server, handler) as inside, trace(self()) as mine:
                assert await follow_script() == [answer for _, answer in SCRIPT]
                events = await read(inside, 6 * len(SCRIPT))
                outside = mine.read()
            seen = [reader.plain(event) for event in events]
            assert seen == expected_inside(), seen
            assert len(reader.keys) == 1
            address = (resa.SERVER, "gandalf")
            assert [(one.kind, one.message, one.peer) for one in outside] == [
                event
                for step, answer in SCRIPT
                for event in (("ask", REQUESTS[step], address), ("answer", answer, address))
            ]

        async def too_early() -> None:
            with pytest.raises(ProcessDown, match="noproc"):
                await resa.connect("gandalf")

        await cluster["bilbo"].wait_up("gandalf")
        await at(cluster["bilbo"], too_early)  # the client may come before the server, too
        async with serving(cluster, ONE):
            await at(cluster["bilbo"], client)


# -- S000-6


async def test_s000_6_distribution_on_and_off(shared: Cluster) -> None:
    async def serve() -> None:
        await register("local")
        while True:
            match await receive():
                case Request(caller, value):
                    await reply(caller, (node(), value))

    async def far(there: Pid) -> None:
        """On the other node, while this program is part of the first."""
        assert await ask(("local", "gandalf"), 1) == ("gandalf", 1)
        monitor(("local", "gandalf"))
        await send(there, self())
        down = await receive(Down, timeout=10)
        assert down.reason == "noconnection"

    async def main() -> None:
        assert (is_alive(), node()) == (False, "nonode@nohost")
        pid = await spawn(serve)
        assert await ask(pid, 0) == ("nonode@nohost", 0)
        for _ in range(2):  # on and off, and again
            assert await net_kernel.start(shared["gandalf"].socket_path) == "gandalf"
            assert (is_alive(), node(), self().node) == (True, "gandalf", "nonode@nohost")
            assert await ask(pid, 1) == ("gandalf", 1)
            async with trio.open_nursery() as nursery:
                joined = await spawn(send, self(), "not of interest")
                assert joined.node == "gandalf"
                assert await receive(timeout=5) == "not of interest"
                helper = await spawn(forward, self())
                nursery.start_soon(at, shared["bilbo"], far, helper)
                await receive(timeout=10)
                assert await net_kernel.stop() is True
            assert (is_alive(), node()) == (False, "nonode@nohost")
            assert await ask(pid, 2) == ("nonode@nohost", 2)  # local processes still answer
            assert await ask("local", 3) == ("nonode@nohost", 3)
        assert await net_kernel.stop() is False

    async def forward(to: Pid) -> None:
        await send(to, await receive())

    with trio.fail_after(30):
        async with open_runtime() as runtime:
            await run_main(runtime, main)
