"""How a process waits: receive and its timeouts, turns, ask, become, order of arrival."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from drupelet.errors import (
    MailboxFull,
    NoConnection,
    ProcessDown,
    ReceiveTimeout,
    Timeout,
)
from drupelet.process import (
    ANY,
    Down,
    Mailbox,
    Pid,
    Request,
    ask,
    become,
    exit,
    flush,
    monitor,
    receive,
    reply,
    self,
    send,
    send_after,
    send_nowait,
    spawn,
    spawn_monitor,
)
from drupelet.process.current import this_runtime
from drupelet.process.runtime import BREATH
from tests.unit.process.values import alone
from tests.unit.process.wires import settle

Main = Callable[[], Awaitable[None]]


async def nothing() -> None:
    pass


# -- receive


@pytest.mark.parametrize("code", [False, True])
@pytest.mark.parametrize("first", ["timer", "receive"])
def test_a_message_at_the_instant_of_the_timeout_is_not_lost(code: bool, first: str) -> None:
    async def main() -> None:
        me = self()
        wanted = (lambda m: m == "now") if code else "now"
        got: list[object] = []

        async def wait() -> None:
            try:
                got.append(await receive(wanted, timeout=1))
            except ReceiveTimeout:
                got.append("timeout")

        async with trio.open_nursery() as nursery:
            if first == "timer":
                send_after(1, me, "now")
                nursery.start_soon(wait)
            else:
                nursery.start_soon(wait)
                await settle()
                send_after(1, me, "now")
        left = await flush()
        assert (got, left) == ((["now"], []) if first == "timer" else (["timeout"], ["now"]))

    alone(main)


@pytest.mark.parametrize("seconds", [0, -1, -0.0, 0.0, float("-inf")])
def test_a_timeout_that_is_over_looks_and_does_not_wait(seconds: float) -> None:
    async def main() -> None:
        me = self()
        started = trio.current_time()
        with pytest.raises(ReceiveTimeout, match="no message that fits within"):
            await receive(timeout=seconds)
        await send(me, 1)
        await send(me, 2)
        assert await receive(2, timeout=seconds) == 2
        with pytest.raises(ReceiveTimeout):
            await receive(2, timeout=seconds)
        assert await receive(timeout=seconds) == 1
        assert trio.current_time() == started

    alone(main)


def test_messages_that_do_not_fit_do_not_put_off_the_timeout() -> None:
    async def main() -> None:
        me = self()
        for code in (False, True):
            started = trio.current_time()
            for tenth in range(1, 30):
                send_after(tenth / 10, me, "other")
            with pytest.raises(ReceiveTimeout, match="within 2 s"):
                await receive((lambda m: m == "wanted") if code else "wanted", timeout=2)
            assert trio.current_time() - started == pytest.approx(2)
            await trio.sleep(5)
            assert await flush() == ["other"] * 29

    alone(main)


def test_a_receive_that_is_cancelled_takes_nothing() -> None:
    async def main() -> None:
        me = self()
        with trio.move_on_after(1) as scope:
            await receive("wanted", timeout=50)
        assert scope.cancelled_caught
        await send(me, "wanted")
        await send(me, "second")
        assert await receive() == "wanted"
        with trio.CancelScope() as scope:  # handed over, then cancelled before its turn
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    got.append(await receive("third"))

                got: list[object] = []
                nursery.start_soon(wait)
                await settle()
                send_nowait(me, "third")
                scope.cancel()
        assert got + await flush() == ["third", "second"]

    alone(main)


def test_two_tasks_of_a_process_cannot_both_wait() -> None:
    async def main() -> None:
        me = self()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, "first")
            await settle()
            with pytest.raises(RuntimeError, match="another task of this process is in receive"):
                await receive("second")
            await send(me, "second")
            assert await receive("second") == "second"  # this one need not wait
            await send(me, "first")

    alone(main)


def test_a_pattern_is_checked_before_it_is_waited_for() -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="is no pattern"):
            await receive(list[int], timeout=5)
        with pytest.raises(TypeError, match="a time is a number of seconds, not '5'"):
            await receive(timeout="5")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a time is a number of seconds, not None"):
            await receive(timeout=None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="NaN"):
            await receive(timeout=float("nan"))
        with pytest.raises(ValueError, match="never pass"):
            await receive(timeout=10**400)
        await send(self(), 1)
        with pytest.raises(TypeError):  # also when there is a message
            await receive(timeout="5")  # type: ignore[arg-type]
        assert await receive(timeout=10**300) == 1
        assert len(this_runtime().timers) == 0

    alone(main)


def test_who_only_sends_or_receives_lets_others_run() -> None:
    async def main() -> None:
        turns: list[str] = []

        async def other() -> None:
            turns.append("other")

        async def busy() -> None:
            me = self()
            await spawn(other)
            for _ in range(BREATH):
                await send(me, 1)
                await receive()
            turns.append("busy")

        pid, ref = await spawn_monitor(busy)
        assert await receive() == Down(ref, pid, "normal")
        assert turns == ["other", "busy"]

    alone(main)


@pytest.mark.parametrize("task_is_a_process", [True, False])
def test_an_endless_sender_can_be_killed(task_is_a_process: bool) -> None:
    async def main() -> None:
        sink = await spawn(trio.sleep_forever, mailbox=Mailbox(policy="drop_old"))

        async def endless() -> None:
            while True:
                await send(sink, 1)

        pid, ref = await spawn_monitor(endless)
        await settle_soon()
        exit(pid, "kill")
        assert await receive() == Down(ref, pid, "killed")

    async def settle_soon() -> None:
        for _ in range(5):
            await trio.lowlevel.checkpoint()

    alone(main)


# -- ask


def test_an_ask_that_is_cancelled_or_too_late_leaves_nothing_in_the_mailbox() -> None:
    async def main() -> None:
        async def slow() -> None:
            while True:
                request = await receive(Request)
                await trio.sleep(3)
                await reply(request.caller, request.request)

        pid = await spawn(slow)
        with trio.move_on_after(1) as scope:
            await ask(pid, "first")
        assert scope.cancelled_caught
        with pytest.raises(Timeout) as caught:
            await ask(pid, "second", timeout=1)
        assert caught.value.maybe_ran
        await trio.sleep(20)
        assert await flush() == []
        assert await ask(pid, "third") == "third"
        process = this_runtime().find(pid)
        assert process is not None and not process.watchers and len(this_runtime().asks) == 1

    alone(main)  # the one that is left is that of who waits for the first process


def test_what_an_asker_is_told() -> None:
    async def main() -> None:
        async def dies() -> None:
            await receive()
            raise ValueError("in it")

        async def ignores() -> None:
            await receive("never")

        for function, kind in ((dies, ("ValueError", "in it")), (nothing, "noproc")):
            pid = await spawn(function)
            await settle()
            with pytest.raises(ProcessDown) as caught:
                await ask(pid, 1)
            assert caught.value.reason == kind
        with pytest.raises(ProcessDown, match="'calling_self'"):
            await ask(self(), 1)
        with pytest.raises(
            ProcessDown, match="there is no such process, or not any more: 'noproc'"
        ):
            await ask("nobody", 1)
        with pytest.raises(ProcessDown):
            await ask(("nobody", "nonode@nohost"), 1)
        with pytest.raises(NoConnection, match="alone"):
            await ask(("x", "bilbo"), 1)
        with pytest.raises(NoConnection, match="alone"):
            await ask(Pid("bilbo", 1, 1), 1)
        pid = await spawn(ignores)
        for timeout in (0, -5, 0.5):
            with pytest.raises(Timeout):
                await ask(pid, 1, timeout=timeout)
        for wrong in ("1", None):
            with pytest.raises(TypeError, match="a time is a number of seconds"):
                await ask(pid, 1, timeout=wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="NaN"):
            await ask(pid, 1, timeout=float("nan"))
        with pytest.raises(TypeError, match="a function is code"):
            await ask(pid, lambda: None)
        with pytest.raises(TypeError, match="a process is a Pid, a name or"):
            await ask(5, 1)  # type: ignore[arg-type]

    alone(main)


def test_an_ask_to_a_full_mailbox() -> None:
    async def main() -> None:
        async def full(policy: str) -> Pid:
            pid = await spawn(trio.sleep_forever, mailbox=Mailbox(limit=1, policy=policy))
            await send(pid, "first")
            return pid

        pid = await full("block")
        with pytest.raises(Timeout) as caught:
            await ask(pid, 1, timeout=2)
        assert not caught.value.maybe_ran
        with pytest.raises(MailboxFull, match="has 1 messages"):
            await ask(await full("drop_new"), 1)
        with pytest.raises(ProcessDown, match="mailbox_full"):
            await ask(await full("exit"), 1)
        pid = await full("drop_old")
        with pytest.raises(Timeout) as caught:
            await ask(pid, 1, timeout=2)
        assert caught.value.maybe_ran
        process = this_runtime().find(pid)
        assert process is not None
        assert [type(each) for each in process.messages or ()] == [Request]

    alone(main)


@pytest.mark.parametrize("ends", [False, True])
def test_an_ask_waits_for_room(ends: bool) -> None:
    async def main() -> None:
        async def later() -> None:
            await trio.sleep(2)
            if ends:
                exit("over")
            assert await receive() == "first"
            request = await receive()
            await reply(request.caller, "answer")

        pid = await spawn(later, mailbox=Mailbox(limit=1))
        await send(pid, "first")
        if ends:
            with pytest.raises(ProcessDown, match="over"):
                await ask(pid, 1)
        else:
            assert await ask(pid, 1) == "answer"
        assert trio.current_time() == pytest.approx(2)

    alone(main)


def test_another_process_may_answer_and_only_the_first_answer_counts() -> None:
    async def main() -> None:
        async def helper(caller: Any) -> None:
            await reply(caller, "helper")
            await reply(caller, "again")

        async def server() -> None:
            request = await receive()
            await spawn(helper, request.caller)
            await receive("end")

        pid = await spawn(server)
        assert await ask(pid, 1) == "helper"
        await settle()
        assert await flush() == []
        process = this_runtime().find(pid)
        assert process is not None and not process.watchers

    alone(main)


def test_an_asker_that_is_killed_is_forgotten() -> None:
    async def main() -> None:
        server = await spawn(trio.sleep_forever)
        asker = await spawn(ask, server, 1)
        await settle()
        process = this_runtime().find(server)
        assert process is not None and len(process.watchers or ()) == 1
        exit(asker, "kill")
        await settle()
        assert not process.watchers

    alone(main)


# -- become


@pytest.mark.parametrize("in_nursery", [False, True])
def test_become_leaves_the_function_and_keeps_the_process(in_nursery: bool) -> None:
    async def main() -> None:
        async def second(number: int) -> None:
            await send(report, (self(), number, await receive()))

        async def first() -> None:
            if not in_nursery:
                become(second, 5)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                become(second, 5)

        report = self()
        pid, ref = await spawn_monitor(first)
        await send(pid, "kept")
        assert await receive() == (pid, 5, "kept")
        assert await receive() == Down(ref, pid, "normal")

    alone(main)


def test_become_for_ever_can_be_killed() -> None:
    async def main() -> None:
        async def again() -> None:
            await trio.lowlevel.checkpoint()
            become(again)

        pid, ref = await spawn_monitor(again)
        await trio.lowlevel.checkpoint()
        exit(pid, "kill")
        assert await receive() == Down(ref, pid, "killed")

    alone(main)


# -- fifo


def test_messages_of_one_sender_arrive_in_order_and_before_its_end() -> None:
    async def main() -> None:
        async def sender(to: Pid, count: int) -> None:
            for number in range(count):
                await send(to, (self(), number))
            exit("done")

        async def collector(report: Pid) -> None:
            seen: dict[Pid, list[int]] = {}
            ended = 0
            while ended < 4:
                match await receive():
                    case Down(pid=pid, reason="done"):
                        assert seen.pop(pid) == list(range(50))  # type: ignore[arg-type]
                        ended += 1
                    case (Pid() as pid, int(number)):
                        seen.setdefault(pid, []).append(number)
                    case pids:
                        for pid in pids:
                            monitor(pid)
            await send(report, ("done", seen))

        pid = await spawn(collector, self(), mailbox=Mailbox(limit=7))
        senders = [await spawn(sender, pid, 50) for _ in range(4)]
        send_nowait(pid, senders)
        assert await receive(("done", ANY), timeout=5) == ("done", {})

    alone(main)


@pytest.mark.parametrize("code", [False, True])
def test_an_ask_that_is_waited_for_comes_by_a_full_mailbox(code: bool) -> None:
    """A server that takes requests only, and a mailbox full of other messages."""

    async def main() -> None:
        async def server() -> None:
            while True:
                request = await receive((lambda m: isinstance(m, Request)) if code else Request)
                await reply(request.caller, request.request)

        for asked_first in (False, True):
            pid = await spawn(server, mailbox=Mailbox(limit=1))
            await settle()
            await send(pid, "other")
            if asked_first:  # the server is busy, and looks at the parked when it is not
                await trio.lowlevel.checkpoint()
            else:
                await settle()
            assert await ask(pid, 1, timeout=5) == 1
            assert await ask(pid, 2, timeout=5) == 2
            exit(pid, "kill")

    alone(main)


def test_an_ask_that_waits_for_room_and_is_given_up_never_comes() -> None:
    async def main() -> None:
        pid = await spawn(trio.sleep_forever, mailbox=Mailbox(limit=1))
        process = this_runtime().find(pid)
        assert process is not None
        await send(pid, "first")
        asker = await spawn(ask, pid, "killed")
        await settle()
        assert len(process.senders or ()) == 1 and len(process.watchers or ()) == 1
        exit(asker, "kill")
        await settle()
        assert not process.senders and not process.watchers
        with trio.move_on_after(1):
            await ask(pid, "cancelled")
        for seconds in (0, -3, 1):
            with pytest.raises(Timeout) as caught:
                await ask(pid, "too late", timeout=seconds)
            assert not caught.value.maybe_ran
        assert not process.senders and not process.watchers
        assert this_runtime().take(process, None) == "first"
        assert not process.messages

    alone(main)


def test_asks_and_messages_that_wait_for_room_come_in_by_turns() -> None:
    async def main() -> None:
        got: list[object] = []

        async def server() -> None:
            await trio.sleep(1)
            for _ in range(5):
                match await receive():
                    case Request(caller, request):
                        got.append(request)
                        await reply(caller, request)
                    case message:
                        got.append(message)

        pid = await spawn(server, mailbox=Mailbox(limit=1))
        await send(pid, 0)
        for number in range(1, 5):
            await spawn(send if number % 2 else ask, pid, number)
            await settle()
        await trio.sleep(2)
        assert got == [0, 1, 2, 3, 4]

    alone(main)
