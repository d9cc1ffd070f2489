"""resa, the resource allocator of seed 000: S000-1, -2, -3, -4 and -5 in one runtime."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.bundled import resa
from drupelet.errors import ProcessDown
from drupelet.ladder import simulate
from drupelet.process import (
    Down,
    Pid,
    Ref,
    Request,
    ask,
    exit,
    flush,
    node,
    process_info,
    processes,
    receive,
    reply,
    self,
    send,
    send_nowait,
    spawn,
    whereis,
)
from drupelet.process.running import open_runtime
from drupelet.process.table import LIMIT
from drupelet.process.tracing import trace


async def obey() -> None:
    """A client: calls resa's functions when it is asked to."""
    while True:
        match await receive():
            case "end":
                return
            case Request(caller, (str(function), *args)):
                await reply(caller, await getattr(resa, function)(node(), *args))


class Client:
    """One client's process."""

    def __init__(self, pid: Pid) -> None:
        self.pid = pid

    async def do(self, function: str, *args: object) -> Any:
        return await ask(self.pid, (function, *args))

    async def end(self) -> None:
        exit(self.pid, "kill")
        await trio.testing.wait_all_tasks_blocked()


class Server:
    """resa on this node, and its three processes."""

    def __init__(self, pids: dict[str, Pid]) -> None:
        self.server = pids["serve"]
        self.handler = pids["handle"]
        self.stats = pids["provide_stats"]

    async def client(self) -> Client:
        return Client(await spawn(obey))

    async def connected(self) -> Client:
        client = await self.client()
        assert await client.do("connect") == "connected"
        return client


@asynccontextmanager
async def open_resa(*resources: str) -> AsyncIterator[Server]:
    async with open_runtime():
        assert await resa.start(list(resources or ("ab.12.0",))) == "started"
        await trio.testing.wait_all_tasks_blocked()
        pids = {}
        for each in await processes():
            pid = each["pid"]
            assert isinstance(pid, Pid)
            pids[str(each["function"]).rpartition(".")[2]] = pid
        yield Server(pids)


# -- S000-1: the words


async def test_allocate_and_free() -> None:
    async with open_resa("ab.12.0") as server:
        client = await server.client()
        for function, *args in (("allocate",), ("free", "ab.12.0")):
            assert await client.do(function, *args) == "disconnected"
        said = [
            await client.do(*words)
            for words in (
                ("connect",), ("connect",), ("allocate",), ("allocate",), ("free", "ab.12.0"),
                ("free", "ab.12.0"), ("disconnect",), ("disconnect",), ("allocate",),
            )
        ]  # fmt: skip
        assert said == [
            "connected", "already_connected", ("allocated", "ab.12.0"), "no", ("freed", "ab.12.0"),
            ("error", "not_allocated"), "disconnected", "already_disconnected", "disconnected",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ("ab.12.0", "expected_data_type_list"),
        (("a",), "expected_data_type_list"),
        ({"a": 1}, "expected_data_type_list"),
        (None, "expected_data_type_list"),
        ([], "expected_non_empty_Free_list"),
        (["a", 1], "expected_texts"),
        ([["a"]], "expected_texts"),
        (["a", "a"], "expected_different_resources"),
        ([str(n) for n in range(resa.RESOURCES_MAX + 1)], "expected_different_resources"),
        ([str(n) for n in range(resa.RESOURCES_MAX)], "started"),
    ],
    ids=str,
)
async def test_what_it_can_be_started_with(resources: Any, said: str) -> None:
    async with open_runtime():
        assert await resa.start(resources) == said
        assert (await whereis(resa.SERVER) is not None) is (said == "started")


async def test_a_second_start_changes_nothing() -> None:
    async with open_resa("a") as server:
        assert await resa.start(["b", "c"]) == "already_started"
        assert await resa.counts() == ("stats", {"free": 1, "allocated": 0})
        assert await whereis(resa.SERVER) == server.server


# -- S000-2: stats by delegation


async def test_the_provider_itself_answers() -> None:
    async with open_resa("a", "b") as server:
        client = await server.connected()
        await client.do("allocate")
        async with trace(server.server) as of_server, trace(server.stats) as of_stats:
            assert await client.do("stats") == ("stats", {"free": 1, "allocated": 1})
            assert [each.kind for each in of_server.read()] == ["receive", "send"]
            answers = [each for each in of_stats.read() if each.kind == "reply"]
        assert [each.peer for each in answers] == [client.pid]


# -- S000-3: hidden internals


async def internals(to: Any, mine: Pid) -> None:
    """What a client could try, as messages and as requests."""
    guess = bytes(16)
    caller = (mine, Ref(node(), 0, 1))
    for message in (
        "allocate_resource", ("allocate_resource", mine), (guess, "allocate_resource", caller),
        (guess, "connect", caller), (guess, "free_resource", caller, "a"), (guess, "stats", caller),
        (guess, "server_request_data"), (guess, "answer", caller, "forged"), None, [], {}, 7,
        ("free_resource", ["a"]), (), (guess,), Down(caller[1], mine, "forged"),
    ):  # fmt: skip
        await send(to, message)
    for request in ((guess, "server_request_data"), "server_request_data", (guess, "stats"), None):
        assert await ask(to, request) == "refused"
    assert await ask(to, ("free_resource", ["a"])) == "refused"


async def test_internal_messages_from_outside_change_and_tell_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_resa("a", "b") as server:
        client = await server.connected()
        assert await client.do("allocate") == ("allocated", "a")
        for to in (resa.SERVER, server.server, server.handler, server.stats):
            caplog.clear()
            await internals(to, self())
            refusals = [each for each in caplog.messages if each.startswith("resa_refused at=")]
            assert len(refusals) == 21
            assert sum(f"from={self()}" in each for each in refusals) == 5
        assert await flush() == []
        assert await client.do("stats") == ("stats", {"free": 1, "allocated": 1})
        assert await client.do("free", "a") == ("freed", "a")


async def test_only_the_server_has_a_name() -> None:
    async with open_resa() as server:
        assert process_info(server.server)["names"] == [resa.SERVER]
        for pid in (server.handler, server.stats):
            assert not process_info(pid)["names"]


async def test_a_down_that_is_forged_frees_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with open_resa("a") as server:
        client = await server.connected()
        await client.do("allocate")
        for number in range(3):
            await send(server.handler, Down(Ref(node(), 0, number), client.pid, "forged"))
        assert await client.do("stats") == ("stats", {"free": 0, "allocated": 1})
        assert caplog.text.count("resa_refused at=handler kind=Down") == 3


async def flood(to: Any, message: object) -> None:
    while True:
        await send(to, message)


async def test_full_mailboxes_hold_nobody_up_for_ever(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the server would wait for room at the handler, and the handler at the server."""
    caplog.set_level(logging.CRITICAL, "resa")
    async with open_resa("a") as server:
        connect = Request((self(), Ref(node(), 0, 1)), "connect")
        flooders = []
        for to, message in ((resa.SERVER, connect), (server.handler, 0), (server.stats, 0)):
            for _ in range(LIMIT):
                send_nowait(to, message)
            flooders += [await spawn(flood, to, message) for _ in range(4)]
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        for pid in flooders:
            exit(pid, "kill")
        await trio.testing.wait_all_tasks_blocked()
        assert await resa.counts() == ("stats", {"free": 1, "allocated": 0})


# -- S000-4: ownership


@pytest.mark.parametrize("reason", ["kill", "normal", "boom"])
async def test_a_dead_clients_resources_come_free_at_once(reason: str) -> None:
    async with open_resa("a", "b") as server:
        first, second = await server.connected(), await server.connected()
        assert await first.do("allocate") == ("allocated", "a")
        assert await second.do("allocate") == ("allocated", "b")
        assert await second.do("allocate") == "no"
        if reason == "normal":
            await send(first.pid, "end")
        else:
            exit(first.pid, reason)
        await trio.testing.wait_all_tasks_blocked()
        assert await second.do("allocate") == ("allocated", "a")


@pytest.mark.parametrize(("dark", "seconds"), [(False, 0.1), (True, 5.0)])
def test_a_killed_nodes_resources_come_free_in_time(dark: bool, seconds: float) -> None:
    """Between simulated nodes; `dark`: nobody says that it is gone."""

    owned = trio.Event()

    async def own() -> None:
        assert await resa.connect("gandalf") == "connected"
        assert await resa.allocate("gandalf") == ("allocated", "a")
        owned.set()
        await receive()

    async def stay(cluster: Any) -> None:
        with suppress(RuntimeError):  # the node ends
            await cluster.on("bilbo", own)

    async def take() -> float:
        started = trio.current_time()
        assert await resa.connect("gandalf") == "connected"
        while await resa.allocate("gandalf") == "no":
            pass  # it takes some simulated time
        return trio.current_time() - started

    async def main(cluster: Any) -> None:
        await cluster.wait_connected()
        assert await cluster.on("gandalf", resa.start, ["a"]) == "started"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay, cluster)
            await owned.wait()
            cluster.kill("bilbo", dark=dark)
            assert await cluster.on("frodo", take) <= seconds
            nursery.cancel_scope.cancel()

    simulate(main, ("gandalf", "bilbo", "frodo"))


async def test_nobody_frees_anothers_resource() -> None:
    async with open_resa("a") as server:
        owner, other = await server.connected(), await server.connected()
        await owner.do("allocate")
        assert await other.do("free", "a") == ("error", "not_allocated")
        await other.do("disconnect")
        await other.end()
        assert await owner.do("stats") == ("stats", {"free": 0, "allocated": 1})
        assert await owner.do("disconnect") == "disconnected"
        assert await owner.do("stats") == ("stats", {"free": 1, "allocated": 0})


async def test_clients_at_the_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resa, "CLIENTS_MAX", 2)
    async with open_resa("a") as server:
        first, _ = await server.connected(), await server.connected()
        third = await server.client()
        assert await third.do("connect") == "too_many_clients"
        assert await third.do("allocate") == "disconnected"
        await first.end()
        assert await third.do("connect") == "connected"


async def test_the_three_end_together() -> None:
    async with open_resa() as server:
        client = await server.client()
        exit(server.stats, "kill")
        await trio.testing.wait_all_tasks_blocked()
        assert await whereis(resa.SERVER) is None
        with pytest.raises(ProcessDown):
            await client.do("connect")
        assert await resa.start(["b"]) == "started"


# -- S000-5: inside


async def test_the_internal_messages_in_their_order() -> None:
    async with open_resa("ab.12.0") as server:
        client = await server.client()
        names = {server.server: "server", server.handler: "handler", client.pid: "client"}
        async with trace(server.server, server.handler, client.pid) as events:
            for words in (("connect",), ("allocate",), ("free", "ab.12.0")):
                await client.do(*words)
            seen = [each for each in events.read() if each.kind in ("receive", "answer")]
    told = []
    for each in seen:
        message = each.message
        if isinstance(message, Request) and message.caller[0] not in names:
            continue  # from the test to its client
        words = message.request if isinstance(message, Request) else message
        if isinstance(words, tuple) and isinstance(words[0], bytes):
            words = (words[1], words[-1]) if words[1] == "answer" else words[1]
        told.append((names[each.pid], words))
    assert told == [
        ("server", "connect"),
        ("handler", "connect"),
        ("server", ("answer", "connected")),
        ("client", "connected"),
        ("server", "allocate_resource"),
        ("handler", "allocate_resource"),
        ("server", ("answer", ("allocated", "ab.12.0"))),
        ("client", ("allocated", "ab.12.0")),
        ("server", ("free_resource", "ab.12.0")),
        ("handler", "free_resource"),
        ("server", ("answer", ("freed", "ab.12.0"))),
        ("client", ("freed", "ab.12.0")),
    ]


# -- whatever clients do

RESOURCES = ("a", "b", "c")
WORDS = st.one_of(
    st.sampled_from(["connect", "disconnect", "allocate", "end"]).map(lambda word: (word,)),
    st.sampled_from([*RESOURCES, "d"]).map(lambda resource: ("free", resource)),
)


@settings(max_examples=100)
@given(steps=st.lists(st.tuples(st.integers(0, 2), WORDS), max_size=30))
def test_a_resource_has_one_owner_and_none_is_lost(
    steps: list[tuple[int, tuple[str, ...]]],
) -> None:
    """Against a model of one dict; the counts always add up."""

    async def main() -> None:
        async with open_resa(*RESOURCES) as server:
            clients = [await server.client() for _ in range(3)]
            connected: set[Pid] = set()
            owners: dict[str, Pid] = {}
            for index, (word, *args) in steps:
                client = clients[index]
                mine = [each for each, owner in owners.items() if owner == client.pid]
                if word == "end":
                    await client.end()
                    clients[index] = await server.client()
                else:
                    said = await client.do(word, *args)
                    there = client.pid in connected
                    match word, said:
                        case "connect", _:
                            assert said == ("already_connected" if there else "connected")
                            connected.add(client.pid)
                        case "disconnect", _:
                            assert said == ("disconnected" if there else "already_disconnected")
                        case _, "disconnected":
                            assert not there
                        case "allocate", ("allocated", resource):
                            assert there and resource not in owners
                            owners[resource] = client.pid
                        case "allocate", _:
                            assert (said, len(owners)) == ("no", len(RESOURCES))
                        case _, ("freed", resource):
                            assert resource == args[0] and resource in mine
                            del owners[resource]
                        case _:
                            assert said == ("error", "not_allocated") and args[0] not in mine
                if word in ("end", "disconnect"):
                    connected.discard(client.pid)
                    for each in mine:
                        del owners[each]
                free = len(RESOURCES) - len(owners)
                assert await resa.counts() == ("stats", {"free": free, "allocated": len(owners)})

    trio.run(main)
