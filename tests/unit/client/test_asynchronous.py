from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from drupelet.client import NodeDown, NodeUp, open_client
from drupelet.client.blocking import CALLS_AT_ONCE_MAX
from drupelet.errors import NoConnection, NotSendable, RemoteError, Timeout
from drupelet.net.sockets import NoDaemon
from drupelet.wire import limits
from drupelet.wire.codec import dumps
from drupelet.wire.frames import CALL, CANCEL, CAST, CLOSE, DATA, OPEN, REPLY, Frame, frame
from tests.unit.client.fake_daemon import FakeDaemon, Hangup, Silence


def silent(*_: object) -> object:
    raise Silence


def hang_up(*_: object) -> object:
    raise Hangup


def down(*_: object) -> object:
    raise NoConnection("down")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    functions = {
        "/echo/echo": lambda value: value,
        "gandalf/echo/echo": lambda value: value,
        "bilbo/echo/echo": lambda value: value,
        "frodo/echo/echo": down,
        "/echo/silent": silent,
        "/echo/hang_up": hang_up,
        "/node/nodes": lambda: [{"name": "bilbo", "state": "up"}, {"name": "sam", "state": "down"}],
        "/node/ping_node": lambda name: {"ok": False, "reason": "no_such_node"},
    }
    with FakeDaemon(tmp_path / "s", functions) as running:
        yield running


async def wait_frame(daemon: FakeDaemon, kind: int) -> Frame:
    return await trio.to_thread.run_sync(daemon.wait_frame, kind)


async def test_call_gives_the_value(daemon: FakeDaemon) -> None:
    async with open_client(str(daemon.path)) as node:
        assert (node.name, node.key) == ("gandalf", "k1")
        for value in (True, ("ok", "fine"), None, b"\0", {"a": [1, 2.5]}):
            assert await node.call("bilbo", "echo", "echo", value) == value
        assert await node.nodes() == [
            {"name": "bilbo", "state": "up"},
            {"name": "sam", "state": "down"},
        ]
        assert await node.ping("x") == {"ok": False, "reason": "no_such_node"}


async def test_many_tasks_at_once_each_get_their_own_answer(daemon: FakeDaemon) -> None:
    results: list[object] = [None] * 300

    async def caller(place: int) -> None:
        for _ in range(3):
            results[place] = await node.call("", "echo", "echo", place)

    async with open_client(str(daemon.path)) as node, trio.open_nursery() as nursery:
        for place in range(300):
            nursery.start_soon(caller, place)
    assert results == list(range(300))


async def test_large_bodies_go_both_ways_beside_small_calls(daemon: FakeDaemon) -> None:
    big = b"x" * (5 * 1024 * 1024)
    async with open_client(str(daemon.path)) as node, trio.open_nursery() as nursery:

        async def large() -> None:
            assert await node.call("", "echo", "echo", big, timeout=30.0) == big

        for _ in range(3):
            nursery.start_soon(large)
        for number in range(20):
            assert await node.call("", "echo", "echo", number) == number


async def test_errors_and_values_that_are_no_data(daemon: FakeDaemon) -> None:
    async with open_client(str(daemon.path)) as node:
        with pytest.raises(RemoteError) as raised:
            await node.call("", "kvs", "nonsense")
        assert raised.value.kind == "undef"
        with pytest.raises(NotSendable):
            await node.call("", "echo", "echo", print)
        with pytest.raises(NotSendable):
            await node.call("", "echo/x", "echo")
        with pytest.raises(Timeout) as late:
            await node.call("", "echo", "echo", 1, timeout=-1.0)
        assert not late.value.maybe_ran
        assert await node.call("", "echo", "echo", 1) == 1


async def test_a_daemon_that_never_answers_is_timed_out_by_the_sweeper(daemon: FakeDaemon) -> None:
    async with open_client(str(daemon.path)) as node:
        with pytest.raises(Timeout) as raised:
            await node.call("", "echo", "silent", timeout=0.01)
        assert raised.value.maybe_ran
        ident = (await wait_frame(daemon, CANCEL)).ident
        daemon.send(frame(REPLY, ident, b"\0" + dumps("late")))
        assert await node.call("", "echo", "echo", 1) == 1


async def test_a_nearer_deadline_wakes_the_sweeper(daemon: FakeDaemon) -> None:
    async with open_client(str(daemon.path)) as node, trio.open_nursery() as nursery:
        nursery.start_soon(node.call, "", "echo", "silent")
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(2.0), pytest.raises(Timeout):
            await node.call("", "echo", "silent", timeout=0.01)
        found = await node.call_many("", "echo", "silent", [[], []], timeout=0.01)
        assert [type(one) for one in found] == [Timeout, Timeout]
        nursery.cancel_scope.cancel()


async def test_a_cancelled_call_is_cancelled_there(daemon: FakeDaemon) -> None:
    async with open_client(str(daemon.path)) as node:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.call, "", "echo", "silent")
            nursery.start_soon(node.call_many, "", "echo", "silent", [[], []])
            idents = {(await wait_frame(daemon, CALL)).ident for _ in range(3)}
            nursery.cancel_scope.cancel()
        assert {(await wait_frame(daemon, CANCEL)).ident for _ in range(3)} == idents
        assert await node.call("", "echo", "echo", 1) == 1


async def test_the_end_of_the_connection_fails_every_call(daemon: FakeDaemon) -> None:
    failed: list[NoConnection] = []

    async def caller(function: str) -> None:
        with pytest.raises(NoConnection) as raised:
            await node.call("", "echo", function)
        failed.append(raised.value)

    async with open_client(str(daemon.path)) as node:
        events = node.monitor_nodes()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller, "silent")
            nursery.start_soon(caller, "silent")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(caller, "hang_up")
        assert [(one.reason, one.maybe_ran) for one in failed] == [("closed", True)] * 3
        with pytest.raises(NoConnection) as raised:
            await node.call("", "echo", "echo", 1)
        assert not raised.value.maybe_ran
        with pytest.raises(NoConnection):
            await anext(events)


async def test_call_many_and_multicall(daemon: FakeDaemon) -> None:
    count = CALLS_AT_ONCE_MAX + 1
    async with open_client(str(daemon.path)) as node:
        found = await node.call_many("", "echo", "echo", [[n] for n in range(count)])
        assert found == list(range(count))
        assert await node.call_many("", "echo", "echo", []) == []
        assert await node.multicall(None, "echo", "echo", 7) == {"gandalf": 7, "bilbo": 7}
        some = await node.multicall(["bilbo", "frodo"], "echo", "echo", 7)
        assert some["bilbo"] == 7
        assert isinstance(some["frodo"], NoConnection)
        with pytest.raises(NotSendable, match="list of names"):
            await node.multicall("all", "echo", "echo", 7)


def test_other_loops_are_told_what_to_use() -> None:
    async def use() -> None:
        async with open_client():
            raise AssertionError("no trio, and yet a client")

    with pytest.raises(RuntimeError, match=r"client\.connect"):
        asyncio.run(use())


async def test_calls_beyond_the_maximum_are_refused(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CALLS_PER_LINK_MAX", 2)
    async with open_client(str(daemon.path)) as node:
        found = await node.call_many("", "echo", "echo", [[1], [2], [3]])
        assert found[:2] == [1, 2]
        assert isinstance(found[2], NoConnection)
        assert found[2].reason == "overloaded"


async def test_a_cast_just_before_the_end_is_sent(daemon: FakeDaemon) -> None:
    async with open_client(str(daemon.path)) as node:
        for _ in range(3):
            await node.cast("bilbo", "echo", "echo", b"x" * 30_000)
    for _ in range(3):
        assert (await wait_frame(daemon, CAST)).ident == 0


async def test_monitor_nodes(daemon: FakeDaemon) -> None:
    async with open_client(str(daemon.path)) as node:
        events = node.monitor_nodes()
        ident = (await wait_frame(daemon, OPEN)).ident
        up = {"event": "up", "name": "bilbo", "key": "k2", "reason": ""}
        gone = {"event": "down", "name": "bilbo", "key": "k2", "reason": "closed"}
        daemon.send(frame(DATA, ident, b"\1" + dumps(up)) + frame(DATA, ident, b"\1" + dumps(gone)))
        assert await anext(events) == NodeUp(name="bilbo", key="k2")
        assert await anext(events) == NodeDown(name="bilbo", key="k2", reason="closed")
        async with trio.open_nursery() as nursery:

            async def reader() -> None:
                assert [event async for event in events] == []

            nursery.start_soon(reader)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await anext(events)
            await events.aclose()
        assert (await wait_frame(daemon, CLOSE)).ident == ident


async def test_what_the_body_raises_passes_as_it_is(daemon: FakeDaemon) -> None:
    with pytest.raises(KeyError):
        async with open_client(str(daemon.path)):
            raise KeyError("x")
    with trio.move_on_after(0.01) as scope:
        async with open_client(str(daemon.path)):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_no_daemon_and_a_silent_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoDaemon):
        async with open_client(str(tmp_path / "none")):
            pass
    monkeypatch.setattr("drupelet.client.asynchronous.HELLO_S", 0.01)
    with FakeDaemon(tmp_path / "s", hello=None), pytest.raises(NoDaemon, match="silent"):
        async with open_client(str(tmp_path / "s")):
            pass


async def test_idempotency_keys(daemon: FakeDaemon) -> None:
    daemon.functions["/once/ask"] = lambda node, target, key, args: dumps([target, key, args])
    posted: list[object] = []
    daemon.functions["/once/post"] = lambda *args: posted.append(args)
    async with open_client(daemon.path) as node:
        asked = await node.call("bilbo", "echo", "echo", 1, idempotency_key=b"k" * 16)
        assert asked == ["echo/echo", b"k" * 16, dumps([1])]
        await node.cast("bilbo", "echo", "echo", 1, idempotency_key=b"k" * 16)
        assert posted == [("bilbo", "echo/echo", b"k" * 16, dumps([1]))]
