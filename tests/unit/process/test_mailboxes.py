"""Full mailboxes: each policy against a model, and that nobody is locked out or in."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import MailboxFull, NotSendable
from drupelet.process import (
    ANY,
    Down,
    Exit,
    Mailbox,
    Pid,
    ReceiveTimeout,
    flush,
    monitor,
    open_scope,
    process_info,
    receive,
    register,
    self,
    send,
    send_after,
    send_nowait,
    spawn,
)
from drupelet.process.current import this_process, this_runtime
from drupelet.process.mailboxes import LOOK
from drupelet.process.table import SLACK, WAITED
from drupelet.wire.ids import Ref
from tests.unit.process.values import Sans, alone
from tests.unit.process.wires import on, open_wires, settle, virtual

OPERATIONS = st.lists(
    st.tuples(st.just("send"), st.integers(0, 9))
    | st.tuples(st.just("notice"), st.just(0))
    | st.tuples(st.just("take"), st.none() | st.integers(0, 9)),
    max_size=40,
)


@settings(max_examples=80)
@given(st.sampled_from(["block", "drop_new", "drop_old", "exit"]), st.integers(1, 4), OPERATIONS)
def test_every_policy_does_what_its_model_does(
    policy: str, limit: int, operations: list[tuple[str, Any]]
) -> None:
    async def main() -> None:
        runtime = this_runtime()
        pid = await spawn(trio.sleep_forever, mailbox=Mailbox(limit=limit, policy=policy))
        process = runtime.find(pid)
        assert process is not None
        model: deque[object] = deque()
        dropped = 0
        alive = True
        for kind, argument in operations:
            if kind == "notice" and alive:  # always taken, never dropped
                runtime.put(process, Exit(pid, argument))
                model.append(Exit(pid, argument))
            elif kind == "send":
                if not alive or len(model) < limit:
                    send_nowait(pid, argument)
                    if alive:
                        model.append(argument)
                elif policy == "block":
                    with pytest.raises(MailboxFull, match=f"has {limit:,} messages"):
                        send_nowait(pid, argument)
                else:
                    send_nowait(pid, argument)
                    oldest = next((each for each in model if not isinstance(each, Exit)), None)
                    if policy == "exit":
                        alive = False
                    else:
                        dropped += 1
                        if policy == "drop_old" and oldest is not None:
                            model.remove(oldest)
                            model.append(argument)
            elif kind == "take" and alive:
                expected: object = LOOK
                for message in model:
                    if argument is None or message == argument:
                        expected = message
                        model.remove(message)
                        break
                assert runtime.take(process, argument) == expected
            if alive:
                assert list(process.messages or ()) == list(model)
                assert process.dropped_count == dropped
                assert process.alive
        assert process.alive == alive
        if not alive:
            assert await runtime.join(process) == "mailbox_full"

    alone(main)


@settings(max_examples=60)
@given(
    st.integers(1, 3),
    st.lists(st.integers(0, 3), min_size=1, max_size=24),
    st.sampled_from(["data", "code", "both"]),
)
def test_a_receive_gets_what_any_sender_has_next(limit: int, order: list[int], kind: str) -> None:
    """In any order of senders, however small the mailbox: else both would wait for ever."""

    async def sender(to: Pid, who: int) -> None:
        for number in range(order.count(who)):
            await send(to, (who, number))

    async def receiver() -> None:
        process = this_process()
        seen = [0] * 4
        for step, who in enumerate(order):
            pattern: object = (who, ANY)
            if kind == "code" or (kind == "both" and step % 2):
                pattern = lambda m, who=who: m[0] == who  # noqa: E731
            assert await receive(pattern, timeout=100) == (who, seen[who])
            seen[who] += 1
            assert len(process.messages or ()) <= limit
        assert await flush() == [] and not process.senders

    async def main() -> None:
        pid = await spawn(receiver, mailbox=Mailbox(limit=limit))
        ref = monitor(pid)
        for who in range(4):
            await spawn(sender, pid, who)
        assert await receive() == Down(ref, pid, "normal")

    alone(main)


def test_a_sender_that_gives_up_has_sent_nothing() -> None:
    async def main() -> None:
        pid = await spawn(trio.sleep_forever, mailbox=Mailbox(limit=1))
        await send(pid, 1)
        process = this_runtime().find(pid)
        assert process is not None
        with trio.move_on_after(5) as scope:
            await send(pid, 2)
        assert scope.cancelled_caught and not process.senders
        assert this_runtime().take(process, None) == 1
        await send(pid, 3)
        assert list(process.messages or ()) == [3]

    alone(main)


def test_senders_come_in_by_turns_and_go_on_when_the_receiver_ends() -> None:
    async def sender(to: Pid, first: int, report: Pid) -> None:
        await send(to, first)
        await send(report, first)

    async def main() -> None:
        pid = await spawn(trio.sleep_forever, mailbox=Mailbox(limit=1))
        process = this_runtime().find(pid)
        assert process is not None
        await send(pid, 0)
        for number in range(1, 5):
            await spawn(sender, pid, number, self())
            await settle()
        for number in range(3):
            assert this_runtime().take(process, None) == number
        assert {await receive(), await receive(), await receive()} == {1, 2, 3}
        with pytest.raises(ReceiveTimeout):
            await receive(timeout=1)
        this_runtime().exit_process(process, "killed")
        assert await receive(timeout=1) == 4

    alone(main)


def test_a_process_cannot_wait_for_room_in_its_own_mailbox() -> None:
    async def main() -> None:
        async def full() -> None:
            me = self()
            for number in range(3):
                await send(me, number)
            with pytest.raises(MailboxFull, match="own mailbox is full"):
                await send(me, 3)
            with pytest.raises(MailboxFull, match="has 3 messages"):
                send_nowait(me, 3)

        pid = await spawn(full, mailbox=Mailbox(limit=3))
        ref = monitor(pid)
        assert await receive() == Down(ref, pid, "normal")

    alone(main)


def test_another_task_that_empties_the_mailbox_hides_nothing_from_who_waits() -> None:
    """What a selective receive has looked at is counted; others may take it meanwhile."""

    async def main() -> None:
        me = self()
        process = this_process()
        async with trio.open_nursery() as nursery:
            for number in range(5):
                send_nowait(me, number)
            found: list[object] = []

            async def wait() -> None:
                found.append(await receive(lambda m: m == "wanted", timeout=50))

            nursery.start_soon(wait)
            await settle()
            assert this_runtime().take(process, 3) == 3
            assert await flush() == [0, 1, 2, 4]
            send_nowait(me, "wanted")
            await settle()
            assert found == ["wanted"]

    alone(main)


def test_the_oldest_that_is_dropped_was_looked_at() -> None:
    async def waiter(report: Pid) -> None:
        await send(report, await receive(lambda m: m == "wanted"))

    async def main() -> None:
        pid = await spawn(waiter, self(), mailbox=Mailbox(limit=3, policy="drop_old"))
        for number in range(10):
            await send(pid, number)
            await settle()
        assert process_info(pid)["dropped"] == 7
        await send(pid, "wanted")
        assert await receive(timeout=1) == "wanted"

    alone(main)


def test_a_pattern_s_error_is_the_receiver_s() -> None:
    """Not the sender's, nor a timer's; the message stays."""

    async def main() -> None:
        report = self()

        async def receiver(pattern: object) -> None:
            with pytest.raises((KeyError, TypeError)):
                await receive(pattern)
            process = this_process()
            await send(report, list(process.messages or ()))

        for pattern in (lambda m: m["key"], ("x", lambda m: m["key"])):
            for later in (False, True):
                pid = await spawn(receiver, pattern)
                await settle()
                if later:
                    send_after(1, pid, ("x", {}))
                else:
                    await send(pid, ("x", {}))
                assert await receive() == [("x", {})]

    alone(main)


def test_what_comes_while_a_receiver_looks() -> None:
    """Woken by one message, it sees all that came before its turn."""

    async def receiver(report: Pid) -> None:
        await send(report, await receive(lambda m: m == 3))

    async def main() -> None:
        pid = await spawn(receiver, self())
        await settle()
        for number in range(4):
            send_nowait(pid, number)
        assert await receive(timeout=1) == 3

    alone(main)


def test_exit_signals_for_who_traps_them_have_a_maximum() -> None:
    kernel = Sans()
    process = kernel.new_process(None, Mailbox(limit=1))
    process.trap_exit = True
    for _ in range(1 + SLACK):
        kernel.send_exit(kernel.pid, process.pid, "x")
    assert len(process.messages or ()) == 1 + SLACK and process.dropped_count == 0
    kernel.send_exit(kernel.pid, process.pid, "x")
    assert len(process.messages or ()) == 1 + SLACK and process.dropped_count == 1
    assert process.alive


# -- from elsewhere

PID = Pid("bilbo", 1, (5 << 40) + 7)


def test_from_elsewhere_the_slack_is_taken_and_one_more_is_not() -> None:
    kernel = Sans()
    kernel.attach("gandalf", 1, 3)
    process = kernel.new_process(None, Mailbox(limit=2))
    for number in range(2 + SLACK):
        kernel.deliver(process, number, PID)
    assert len(process.messages or ()) == 2 + SLACK and process.dropped_count == 0
    assert len(kernel.signals) == 1  # one PAUSE, to its runtime
    assert kernel.signals[0].to_number == 5 << 40
    kernel.deliver(process, "more", PID)
    assert len(process.messages or ()) == 2 + SLACK and process.dropped_count == 1
    while len(process.messages or ()) > 1:
        assert len(kernel.signals) == 1
        kernel.take(process, None)
    assert len(kernel.signals) == 2  # RESUME, at half


def test_who_waits_for_something_else_takes_more_before_it_holds_others_back() -> None:
    kernel = Sans()
    kernel.attach("gandalf", 1, 3)
    process = kernel.new_process(None, Mailbox(limit=2))
    process.waiting, process.wanted = "task", "wanted"
    for number in range(2 + WAITED):
        kernel.deliver(process, number, PID)
    assert kernel.signals == []
    kernel.deliver(process, 0, PID)
    assert len(kernel.signals) == 1
    kernel.deliver(process, "wanted", PID)
    assert kernel.woken == [("task", "wanted")]


@pytest.mark.parametrize("code", [False, True])
def test_a_reply_by_hand_comes_through_a_full_mailbox_from_elsewhere(code: bool) -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")

            async def answerer() -> None:
                asker = await receive()
                await send(asker, "answer")

            async def flooder(to: Pid) -> None:
                while True:
                    await send(to, "flood")

            async def asker() -> object:
                await trio.sleep(10)
                await send(far, self())
                wanted = (lambda m: m == "answer") if code else "answer"
                return await receive(wanted, timeout=100)

            far = bob.start(answerer, ()).pid
            process = alice.start(asker, (), mailbox=Mailbox(limit=5))
            flooding = bob.start(flooder, (process.pid,))
            await settle()
            assert bob.paused
            assert await alice.join(process) == "normal"
            bob.exit_process(flooding, "killed")

    virtual(main)


def test_a_message_that_is_waited_for_comes_into_a_full_mailbox() -> None:
    async def receiver(report: Pid) -> None:
        await send(report, await receive("wanted", timeout=5))

    async def main() -> None:
        for _ in range(2):
            pid = await spawn(receiver, self(), mailbox=Mailbox(limit=2))
            await send(pid, 1)
            await send(pid, 2)
            await settle()
            with pytest.raises(MailboxFull):
                send_nowait(pid, 3)
            send_nowait(pid, "wanted")
            assert await receive(timeout=1) == "wanted"

    alone(main)


def test_what_is_no_data_does_not_come_in() -> None:
    async def main() -> None:
        async with open_scope() as scope:
            pid = await spawn(trio.sleep_forever, scope=scope, mailbox=Mailbox(limit=1))
            for _ in range(2):  # room, and no room
                with pytest.raises(NotSendable, match=r"\[1\]: a function is code"):
                    await send(pid, ("x", lambda: None))
                with pytest.raises(NotSendable):
                    send_nowait(pid, object())
                assert process_info(pid)["messages"] in (0, 1)
                if not process_info(pid)["messages"]:
                    await send(pid, 1)
            scope.cancel()

    alone(main)


def test_a_receiver_elsewhere_and_one_here_trace_the_parked_once() -> None:
    async def main() -> None:
        runtime = this_runtime()
        pid = await spawn(trio.sleep_forever, mailbox=Mailbox(limit=1))
        process = runtime.find(pid)
        assert process is not None
        seen: list[tuple[str, object]] = []
        runtime.set_tracer(
            process, lambda _, kind, message, peer: seen.append((kind, message)), True
        )
        async with trio.open_nursery() as nursery:
            await send(pid, 1)
            nursery.start_soon(send, pid, 2)
            nursery.start_soon(send, pid, ("wanted", 3))
            await settle()
            assert runtime.take(process, ("wanted", ANY)) == ("wanted", 3)
            assert runtime.take(process, None) == 1
            assert runtime.take(process, None) == 2
        assert seen == [("receive", 1), ("receive", ("wanted", 3)), ("receive", 2)]

    alone(main)


def test_a_down_is_never_dropped() -> None:
    kernel = Sans()
    process = kernel.new_process(None, Mailbox(limit=1, policy="drop_old"))
    down = Down(Ref("gandalf", 1, 2), PID, "normal")
    kernel.put(process, down)
    kernel.overflow(process, "new")
    assert list(process.messages or ()) == [down] and process.dropped_count == 1


@pytest.mark.parametrize("how", ["a newer name", "after a heal"])
def test_a_flood_is_held_back_by_whatever_name_and_again_after_a_break(how: str) -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            process = bob.start(trio.sleep_forever, (), mailbox=Mailbox(limit=5))
            sent: list[int] = []

            async def name() -> None:
                await register("oven", process.pid)

            async def flooder(to: Any, count: int) -> None:
                for number in range(count):
                    await send(to, number)
                    sent.append(number)

            first = alice.start(flooder, (process.pid, 100))
            await settle()
            assert alice.paused and first.alive
            if how == "a newer name":
                await on(bob, name)
                second = alice.start(flooder, (("oven", "bob"), 1_000))
            else:
                wires.cut("alice", "bob")
                await settle()
                assert not alice.paused
                wires.heal("alice", "bob")
                second = alice.start(flooder, (process.pid, 1_000))
            await settle()
            assert second.alive and len(sent) < 400
            count = len(sent)
            while process.messages or second.alive:
                bob.take(process, None)
                await settle()
            assert len(sent) > count and process.dropped_count == 0
            assert not alice.paused and not process.silenced

    virtual(main)
