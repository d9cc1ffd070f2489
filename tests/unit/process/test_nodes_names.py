"""A runtime's share in its node: names, watched nodes, who holds it back, and its daemon's end."""

from __future__ import annotations

import sys

import pytest
import trio

from drupelet.errors import MailboxFull, NameTaken, NoConnection, ProcessDown, ProcessExit, Timeout
from drupelet.process import (
    Down,
    NodeDown,
    Pid,
    ReceiveTimeout,
    ask,
    exit,
    flush,
    link,
    monitor,
    monitor_node,
    nodes,
    receive,
    register,
    registered,
    self,
    send,
    send_nowait,
    spawn_link,
    unregister,
    whereis,
)
from drupelet.process.nodes import Nodes, function_address, resolve_loaded
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import encode_signal
from tests.unit.process.wires import INCARNATION, on, open_wires, serve, settle, start, virtual

# -- names


def test_a_name_is_of_the_whole_node() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            one, two = await wires.attach("alice"), await wires.attach("alice")
            bob = await wires.attach("bob")
            server, other = await start(one), await start(two)

            async def here() -> None:
                await register("oven", server)
                await register("other")
                assert await registered() == ["other", "oven"]
                assert await whereis("oven") == server

            async def neighbour() -> None:
                assert await whereis("oven") == server and await whereis("x") is None
                with pytest.raises(NameTaken, match=f"'oven' is the name of {server}"):
                    await register("oven", other)
                assert two.names == {}
                with pytest.raises(ProcessDown):
                    await unregister("oven")  # it is not ours
                with pytest.raises(ProcessDown):
                    await register("more", server)
                assert await registered() == ["oven"]  # `here` has ended, and with it "other"
                assert await ask("oven", 1) == 1
                await register("mine", other)

            async def far() -> None:
                assert await whereis("oven", "alice") == server
                assert await whereis("mine", "alice") == other
                assert await whereis("oven") is None and await registered() == []
                assert await ask(("oven", "alice"), 2) == 2
                await register("oven")  # on another node it is another
                with pytest.raises(NoConnection):
                    await whereis("oven", "carol")

            await on(one, here)
            await on(two, neighbour)
            await on(bob, far)
            one.exit_process(one.processes[server.number], "killed")
            await settle()
            assert wires.names == {"alice": {"mine": other}, "bob": {}}

            async def heir() -> None:
                await register("oven")
                assert await whereis("oven") == self()

            await on(two, heir)

    virtual(main)


def test_a_daemon_that_does_not_answer_leaves_no_name() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice = await wires.attach("alice")

            async def client() -> None:
                with pytest.raises(Timeout):
                    await register("oven")
                with trio.move_on_after(1) as scope:
                    await register("cancelled")
                assert scope.cancelled_caught
                assert alice.names == {}
                await settle()
                assert wires.names == {"alice": {}}

            original = wires._to_pid
            wires._to_pid = lambda signal, own: None  # type: ignore[method-assign]
            await on(alice, client)
            wires._to_pid = original  # type: ignore[method-assign]

    virtual(main)


def test_an_heir_keeps_the_name_when_a_registration_of_the_dead_fails_late() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice = await wires.attach("alice")
            dying, heir = await start(alice), await start(alice)

            async def registers() -> None:
                with pytest.raises(Timeout):
                    await register("oven", dying)

            async def inherits() -> None:
                await register("oven", heir)
                assert await whereis("oven") == heir

            original = wires._to_pid
            wires._to_pid = lambda signal, own: None  # type: ignore[method-assign]
            first = alice.start(registers, ())
            await settle()
            alice.exit_process(alice.processes[dying.number], "killed")
            await settle()
            wires._to_pid = original  # type: ignore[method-assign]
            await on(alice, inherits)
            assert await alice.join(first) == "normal"
            await settle()
            assert wires.names["alice"] == {"oven": heir}
            assert alice.names["oven"].pid == heir

    virtual(main)


def test_one_that_dies_while_it_is_registered() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice = await wires.attach("alice")
            dying = await start(alice)

            async def registers() -> None:
                with pytest.raises(NameTaken, match="is not alive"):
                    await register("oven", dying)

            first = alice.start(registers, ())
            while not alice.names:
                await trio.lowlevel.checkpoint()
            alice.exit_process(alice.processes[dying.number], "killed")
            assert await alice.join(first) == "normal"
            await settle()
            assert wires.names["alice"] == {} and alice.names == {}

    virtual(main)


# -- watched nodes


def test_one_node_down_for_each_time_that_it_was_asked_for() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, _ = await wires.attach("alice"), await wires.attach("bob")

            async def client() -> None:
                await settle()
                assert nodes() == ["bob"]
                for _ in range(3):
                    await monitor_node("bob")
                await monitor_node("bob", False)
                await monitor_node("carol", False)  # was not watched
                await monitor_node("alice")  # ourselves: we do not go
                wires.cut("alice", "bob")
                downs = [await receive(timeout=1) for _ in range(2)]
                assert downs == [NodeDown("bob", "noconnection")] * 2
                with pytest.raises(ReceiveTimeout):
                    await receive(timeout=10)
                assert nodes() == []
                for far in ("bob", "carol"):
                    await monitor_node(far)
                    down = await receive(timeout=0)
                    assert isinstance(down, NodeDown) and down.node == far

            await on(alice, client)
            assert not alice.node_watchers

    virtual(main)


def test_as_often_as_may_be_and_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[Nodes.__module__], "NODE_WATCHES_MAX", 2)

    async def main() -> None:
        async with open_wires() as wires:
            alice, _ = await wires.attach("alice"), await wires.attach("bob")

            async def client() -> None:
                await monitor_node("bob")
                await monitor_node("bob")
                with pytest.raises(ValueError, match="2 NodeDown of bob to one process are enough"):
                    await monitor_node("bob")
                await monitor_node("bob", False)
                await monitor_node("bob")
                wires.cut("alice", "bob")
                await settle()
                assert len(await flush()) == 2

            await on(alice, client)

    virtual(main)


# -- who holds us back


@pytest.mark.parametrize("who", ["process", "runtime", "node"])
def test_who_asks_to_hold_back_is_heeded_until_he_takes_more(who: str) -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            server = await start(bob)
            sender = {
                "process": server,
                "runtime": bob.pid,
                "node": Pid("bob", INCARNATION, 0),
            }[who]

            async def client() -> None:
                bob.transmit(encode_signal(wire.PAUSE, alice.pid, sender))
                await settle()
                with pytest.raises(MailboxFull, match="takes no more for now"):
                    send_nowait(server, (self(), 1))
                with trio.move_on_after(1) as scope:
                    await send(server, (self(), 2))
                assert scope.cancelled_caught
                for seconds in (1, 0, -1):
                    with pytest.raises(Timeout) as caught:
                        await ask(server, 3, timeout=seconds)
                    assert not caught.value.maybe_ran
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send, server, (self(), 4))
                    await settle()
                    bob.transmit(encode_signal(wire.RESUME, alice.pid, sender))
                assert await receive(timeout=1) == (server, 4)
                assert await ask(server, 5) == 5

            await on(alice, client)
            assert not alice.paused

    virtual(main)


# -- the daemon's end


def test_who_is_held_back_or_waits_when_the_daemon_goes() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            server = await start(bob, trio.sleep_forever)
            ended: list[str] = []

            async def sends() -> None:
                await send(server, 1)
                ended.append("send")

            async def asks() -> None:
                with pytest.raises(NoConnection):
                    await ask(server, 1, timeout=50)
                ended.append("ask")

            async def asks_a_name() -> None:
                with pytest.raises(NoConnection):
                    await ask(("oven", "bob"), 1, timeout=50)
                ended.append("ask a name")

            bob.transmit(encode_signal(wire.PAUSE, alice.pid, server))
            await settle()
            processes = [alice.start(each, ()) for each in (sends, asks, asks_a_name)]
            wires.lose = lambda signal: signal.kind == wire.ASK
            await settle()
            alice.detached()
            for process in processes:
                assert await alice.join(process) == "normal"
            assert sorted(ended) == ["ask", "ask a name", "send"]
            assert not alice.asks and not alice.paused and not alice.nodes and not alice.runtimes

    virtual(main)


# -- spawns


async def child(spawner: Pid) -> None:
    monitor(spawner)
    await receive("never")


def test_a_spawner_that_was_given_up_before_the_answer_came() -> None:
    """Its end was told already: the child that is linked to it must hear of it too."""

    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")

            async def spawner() -> None:
                with trio.CancelScope(shield=True), pytest.raises(ProcessExit):
                    await spawn_link(child, self(), node="bob")
                    await receive()

            process = alice.start(spawner, ())
            while not any(ask.is_spawn for ask in alice.asks.values()):
                await trio.lowlevel.checkpoint()
            alice.end(process, "given up")
            await settle()
            assert not bob.processes and not any(ask.is_spawn for ask in alice.asks.values())

    virtual(main)


def test_what_other_nodes_can_start() -> None:
    assert function_address(child) == (child.__module__, "child")
    assert resolve_loaded(serve.__module__, "serve", b"") is serve
    assert function_address("kvs:Store.loop") == ("kvs", "Store.loop")
    for text in ("kvs", ":loop", "kvs:", ""):
        with pytest.raises(ValueError, match='write "module:function"'):
            function_address(text)


# -- requests to the runtime


def test_what_a_runtime_answers_about_itself() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            server = await start(bob)

            async def client() -> None:
                shown = await ask(bob.pid, ["processes"])
                assert [each["pid"] for each in shown] == [server]
                assert await ask(bob.pid, ["nonsense"]) is None
                link(server)
                exit(server, "over")
                await receive()

            process = alice.start(client, ())
            assert await alice.join(process) == "over"
            await settle()
            assert not bob.processes

    virtual(main)


def test_a_monitor_by_name_ends_with_the_runtime_that_had_the_name() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice = await wires.attach("alice")
            one, two = await wires.attach("bob"), await wires.attach("bob")
            first, second = await start(one), await start(two)

            async def name(which: str, pid: Pid) -> None:
                await register(which, pid)

            await on(one, name, "first", first)
            await on(two, name, "second", second)

            async def client() -> None:
                ref = monitor(("first", "bob"))
                kept = monitor(("second", "bob"))

                await settle()
                wires.kill(one, "crashed")
                assert await receive(timeout=1) == Down(ref, ("first", "bob"), "crashed")
                with pytest.raises(ReceiveTimeout):
                    await receive(timeout=5)
                exit(second, "over")
                assert await receive(timeout=1) == Down(kept, ("second", "bob"), "over")

            await on(alice, client)

    virtual(main)
