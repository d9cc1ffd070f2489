"""Two and three runtimes back to back: every signal crosses as bytes that are cut anywhere."""

from __future__ import annotations

from typing import cast

import pytest
import trio

from drupelet import process as api
from drupelet.errors import (
    MailboxFull,
    NoConnection,
    ProcessDown,
    ProcessExit,
    RemoteProtocolError,
    Timeout,
)
from drupelet.process import (
    Down,
    Exit,
    Mailbox,
    Pid,
    ReceiveTimeout,
    ask,
    demonitor,
    link,
    monitor,
    receive,
    register,
    self,
    send,
    send_nowait,
    spawn,
    trap_exit,
    unlink,
)
from drupelet.process import exit as exit_
from drupelet.process.kernel import SYSTEM_LIMIT
from drupelet.wire.codec import dumps
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import encode_signal
from tests.unit.process.wires import (
    INCARNATION,
    on,
    open_wires,
    settle,
    start,
    virtual,
)

SEEDS = range(8)


async def wait_for_messages(count: int, to: Pid) -> None:
    for number in range(count):
        await send(to, (self(), number))


@pytest.mark.parametrize("seed", SEEDS)
def test_messages_arrive_in_order_from_each_sender(seed: int) -> None:
    async def main() -> None:
        async with open_wires(seed) as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")

            async def collect() -> None:
                for sender in [await spawn(wait_for_messages, 40, self()) for _ in range(3)]:
                    far.append(sender)
                near = alice_senders
                near.extend(far)
                seen: dict[Pid, list[int]] = {}
                for _ in range(5 * 40):
                    pid, number = await receive()
                    seen.setdefault(pid, []).append(number)
                assert len(seen) == 5
                assert all(numbers == list(range(40)) for numbers in seen.values())

            far: list[Pid] = []
            alice_senders: list[Pid] = []
            collector = bob.start(collect, ())
            for _ in range(2):
                alice.start(wait_for_messages, (40, collector.pid))
            assert await bob.join(collector) == "normal"

    virtual(main)


@pytest.mark.parametrize("seed", SEEDS)
def test_ask_link_and_monitor_from_another_node(seed: int) -> None:
    async def main() -> None:
        async with open_wires(seed) as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            server = await start(bob)

            async def client() -> None:
                trap_exit(True)
                assert await ask(server, [1, {"a": (2, None)}]) == [1, {"a": (2, None)}]
                refs = [monitor(server), monitor(server)]
                undone = monitor(server)
                link(server)
                assert demonitor(undone)
                await send(server, ("end", ("why", 3)))
                messages = [await receive() for _ in range(3)]
                assert messages[0] == Exit(server, ("why", 3))
                assert {message.ref for message in messages[1:]} == set(refs)
                assert all(m.pid == server and m.reason == ("why", 3) for m in messages[1:])
                with pytest.raises(ReceiveTimeout):
                    await receive(timeout=10)
                with pytest.raises(ProcessDown) as caught:
                    await ask(server, 1)
                assert caught.value.reason == "noproc"

            await on(alice, client)
            assert not bob.processes and not alice.asks

    virtual(main)


def test_a_monitor_of_what_is_not_there_is_told_once() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice = await wires.attach("alice")
            bob = await wires.attach("bob")

            async def client() -> None:
                trap_exit(True)
                targets = [
                    bob.pid.__class__("bob", INCARNATION, bob.pid.number + 999),
                    Pid("bob", INCARNATION - 1, bob.pid.number + 1),
                    Pid("bob", INCARNATION, 99 << wire.SERIAL_SHIFT | 1),
                    ("nobody", "bob"),
                    "nobody",
                ]
                for target in targets:
                    ref = monitor(target)
                    down = await receive(timeout=1)
                    assert (down.ref, down.reason) == (ref, "noproc")
                    if isinstance(target, Pid):
                        link(target)
                        assert await receive(timeout=1) == Exit(target, "noproc")
                for nobody in (Pid("carol", 1, 1), ("x", "carol")):
                    monitor(nobody)
                    assert (await receive(timeout=1)).reason == "noconnection"
                    with pytest.raises(NoConnection):
                        await ask(nobody, 1)
                with pytest.raises(ReceiveTimeout):
                    await receive(timeout=10)

            await on(alice, client)

    virtual(main)


def test_an_exit_signal_ends_the_linked_and_kill_cannot_be_trapped() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            server = await start(bob)

            async def trapper() -> None:
                trap_exit(True)
                while True:
                    await send(watcher, await receive())

            async def watching() -> None:
                for _ in range(4):
                    seen.append(await receive())

            seen: list[object] = []
            process = alice.start(watching, ())
            watcher = process.pid
            far = await start(bob, trapper)

            async def client() -> None:
                api.exit(far, "normal")
                api.exit(far, ("any", 1))
                link(server)
                await send(watcher, monitor(far))
                api.exit(far, "kill")
                await send(watcher, (await receive()).reason)
                api.exit("over")

            with pytest.raises(ProcessExit):
                await on(alice, client)
            await alice.join(process)
            exits = [each for each in seen if isinstance(each, Exit)]
            assert [each.reason for each in exits] == ["normal", ("any", 1)]
            assert "killed" in seen
            await settle()
            assert not bob.processes  # the server was linked to a client that ended with "over"

    virtual(main)


def test_unlink_comes_before_the_end() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            server = await start(bob)

            async def client() -> None:
                link(server)
                unlink(server)
                await send(server, ("end", "bad"))
                assert (await receive_down(server)).reason in ("bad", "noproc")

            async def receive_down(pid: Pid) -> Down:
                ref = monitor(pid)
                down = await receive(lambda m: isinstance(m, Down) and m.ref == ref, timeout=1)
                assert isinstance(down, Down)
                return down

            await on(alice, client)

    virtual(main)


@pytest.mark.parametrize("by_name", [True, False])
def test_a_slow_receiver_holds_a_sender_elsewhere_back(by_name: bool) -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")

            async def slow() -> None:
                if by_name:
                    await register("slow")
                for number in range(200):
                    assert await receive() == number
                    await go.wait()
                    most.append(len(process.messages or ()))

            go, most = trio.Event(), [0]
            process = bob.start(slow, (), mailbox=Mailbox(limit=10))
            await settle()
            to = ("slow", "bob") if by_name else process.pid

            async def sender() -> None:
                for number in range(200):
                    await send(to, number)
                    sent.append(number)

            sent: list[int] = []
            sending = alice.start(sender, ())
            await settle()
            assert alice.paused
            assert 10 < len(sent) < 120  # 10, and what was on its way
            with pytest.raises(MailboxFull):
                alice.send_or_raise(None, to, "more")
            go.set()
            assert await bob.join(process) == "normal"
            assert await alice.join(sending) == "normal"
            await settle()
            assert not alice.paused and process.dropped_count == 0
            assert wires.routed.count(wire.PAUSE) == wires.routed.count(wire.RESUME) > 0

    virtual(main)


@pytest.mark.parametrize("how", ["dies", "runtime", "node"])
def test_who_was_held_back_goes_on_when_the_slow_one_is_gone(how: str) -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            process = bob.start(trio.sleep_forever, (), mailbox=Mailbox(limit=5))

            async def sender() -> None:
                for number in range(200):
                    await send(process.pid, number)

            sending = alice.start(sender, ())
            await settle()
            assert alice.paused and sending.alive
            if how == "dies":
                bob.exit_process(process, "killed")
            elif how == "runtime":
                wires.kill(bob)
            else:
                wires.cut("alice", "bob")
            assert await alice.join(sending) == "normal"
            await settle()
            assert not alice.paused

    virtual(main)


def test_who_was_held_back_is_told_again_after_a_break() -> None:
    """The break made it forget; the receiver, who had no other relation with it, had not."""

    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            process = bob.start(trio.sleep_forever, (), mailbox=Mailbox(limit=5))

            async def sender() -> None:
                for number in range(200):
                    await send(process.pid, number)

            alice.start(sender, ())
            await settle()
            wires.cut("alice", "bob")
            await settle()
            assert process.silenced is None
            wires.heal("alice", "bob")
            sending = alice.start(sender, ())
            await settle()
            assert alice.paused and sending.alive

    virtual(main)


def test_an_end_as_noproc_ends_the_link_on_the_living_side_too() -> None:
    """Of a spawn that nobody waits for any more; its child had linked to its spawner besides."""

    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            spawner = alice.start(trio.sleep_forever, ())

            async def child() -> Exit:
                trap_exit(True)
                link(spawner.pid)
                return cast(Exit, await receive(Exit))

            process = bob.start(child, ())
            await settle()
            assert spawner.links == {process.pid}
            noproc = encode_signal(wire.EXIT, process.pid, spawner.pid, 0, dumps("noproc"))
            alice.transmit(noproc)
            await settle()
            assert not spawner.links and not bob.processes and spawner.alive

    virtual(main)


@pytest.mark.parametrize("is_local", [True, False])
def test_a_link_to_one_that_unwinds_tells_its_end_after_its_last_words(is_local: bool) -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")

            async def unwinds(friend: Pid) -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await trio.sleep(1)
                        await send(friend, "last")

            async def friend() -> list[object]:
                trap_exit(True)
                slow = (alice if is_local else bob).start(unwinds, (self(),))
                await settle()
                exit_(slow.pid, "kill")
                await settle()
                link(slow.pid)
                messages = [await receive(), await receive()]
                return [each.reason if isinstance(each, Exit) else each for each in messages]

            assert await on(alice, friend) == ["last", "killed"]

    virtual(main)


@pytest.mark.parametrize(
    ("policy", "kept", "dropped"),
    [
        ("drop_new", [0, 1, 2], 2),
        ("drop_old", [2, 3, 4], 2),
    ],
)
def test_a_full_mailbox_and_messages_from_elsewhere(
    policy: str, kept: list[int], dropped: int
) -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            process = bob.start(trio.sleep_forever, (), mailbox=Mailbox(limit=3, policy=policy))

            async def sender() -> None:
                for number in range(5):
                    await send(process.pid, number)

            await on(alice, sender)
            await settle()
            assert list(process.messages or ()) == kept
            assert process.dropped_count == dropped

    virtual(main)


def test_more_than_the_slack_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drupelet.process.mailboxes.SLACK", 4)

    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            process = bob.start(trio.sleep_forever, (), mailbox=Mailbox(limit=3))
            for number in range(8):
                body = dumps(number)
                alice.transmit(encode_signal(wire.SEND, process.pid, alice.pid, 0, body))
            await settle()
            assert list(process.messages or ()) == list(range(7))
            assert process.dropped_count == 1
            assert process.pid in alice.paused

    virtual(main)


def test_a_pause_beyond_the_maximum_is_not_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drupelet.process.incoming.PAUSED_MAX", 3)

    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            for number in range(1, 5):
                sender = Pid("bob", INCARNATION, bob.pid.number + number)
                bob.transmit(encode_signal(wire.PAUSE, alice.pid, sender))
            await settle()
            assert len(alice.paused) == 3
            assert alice.dropped_count == 1

    virtual(main)


def test_no_more_relations_than_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drupelet.process.incoming.RELATIONS_MAX", 2)

    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            server = await start(bob)

            async def client() -> None:
                trap_exit(True)
                monitor(server)
                link(server)
                with pytest.raises(ReceiveTimeout):
                    await receive(timeout=1)
                ref = monitor(server)
                assert await receive(timeout=1) == Down(ref, server, SYSTEM_LIMIT)
                unlink(server)
                ref = monitor(server)
                link(server)
                assert await receive(timeout=1) == Exit(server, SYSTEM_LIMIT)
                with pytest.raises(ProcessDown):
                    await ask(server, 1)

            await on(alice, client)

    virtual(main)


def test_a_body_that_is_no_value_costs_its_own_signal() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            server = await start(bob)
            kinds = (wire.SEND, wire.EXIT_SENT, wire.ASK, wire.SPAWN, wire.GONE, wire.PAUSE)
            for kind in (*kinds, wire.SPAWNED, wire.REPLY, wire.DOWN, wire.GROUP, wire.TRACE):
                bob.receive(encode_signal(kind, server, alice.pid, 5, b"\xff"))
            for body in (5, {"a": 1}, [5], [["a", 5]], ["state"], [None, 1, 2, 3], ["error", 1]):
                for kind in range(1, wire.KIND_MAX + 1):
                    if kind not in (wire.EXIT_SENT, wire.GONE):
                        bob.receive(encode_signal(kind, server, alice.pid, 5, dumps(body)))
            assert bob.stream_error_count >= 11

            async def client() -> object:
                return await ask(server, "still here")

            assert await on(alice, client) == "still here"

    virtual(main)


def test_what_is_no_signal_ends_the_stream() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice = await wires.attach("alice")
            for data in (b"\xff" * 60, b"\x00" * 60):
                with pytest.raises(RemoteProtocolError):
                    alice.receive(data)

    virtual(main)


def test_send_nowait_to_elsewhere_raises_where_send_waits() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            server = await start(bob)
            end = wires.nodes["alice"][0]

            async def client() -> None:
                send_nowait(server, (self(), 1))
                assert await receive() == (server, 1)
                end.congested = True
                with pytest.raises(MailboxFull):
                    send_nowait(server, (self(), 2))
                with trio.move_on_after(1) as scope:
                    await send(server, (self(), 3))
                assert scope.cancelled_caught
                with pytest.raises(Timeout) as caught:
                    await ask(server, 4, timeout=1)
                assert not caught.value.maybe_ran
                end.congested = False
                assert await ask(server, 5) == 5

            await on(alice, client)

    virtual(main)
