"""send_after and its timers: when a message is sent, to whom, and when it is not."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest
import trio
import trio.lowlevel

from drupelet.errors import MailboxFull, NotSendable
from drupelet.process import (
    Mailbox,
    Pid,
    cancel_timer,
    exit,
    flush,
    later,
    process_info,
    read_timer,
    receive,
    register,
    self,
    send_after,
    send_nowait,
    spawn,
)
from drupelet.process.current import this_runtime
from tests.unit.process.values import alone


async def waits() -> None:
    await receive("never")


async def ended() -> Pid:
    pid = await spawn(waits)
    exit(pid, "kill")
    while process_is_there(pid):
        await trio.lowlevel.checkpoint()
    return pid


def process_is_there(pid: Pid) -> bool:
    return this_runtime().find(pid) is not None


def test_messages_come_by_their_time_and_in_their_order() -> None:
    async def main() -> list[object]:
        for number, seconds in enumerate([0.3, 0.1, 0.2, 0.1]):
            send_after(seconds, self(), number)
        await trio.sleep(1)
        return await flush()

    assert alone(main) == [1, 3, 2, 0]


def test_it_is_the_message_of_the_moment_when_it_was_asked_for() -> None:
    async def main() -> object:
        message = [1]
        send_after(1, self(), message)
        message.append(2)
        return await receive()

    assert alone(main) == [1]


def test_a_name_may_come_until_then() -> None:
    async def main() -> object:
        send_after(1, "latecomer", "tick")
        send_after(1, "nobody", "tick")
        await register("latecomer")
        return await receive(timeout=2)

    assert alone(main) == "tick"


def test_the_seconds_that_are_left() -> None:
    async def main() -> list[object]:
        timer = send_after(5, self(), "tick")
        await trio.sleep(2)
        seen: list[object] = [read_timer(timer), cancel_timer(timer), cancel_timer(timer)]
        await trio.sleep(9)
        return [*seen, read_timer(timer), await flush(), len(this_runtime().sends_due)]

    left, cancelled, *others = alone(main)
    assert left == cancelled == pytest.approx(3)
    assert others == [None, None, [], 0]


def test_a_timer_that_fired_is_over() -> None:
    async def main() -> object:
        timer = send_after(0, self(), "tick")
        await receive("tick")
        return (read_timer(timer), cancel_timer(timer))

    assert alone(main) == (None, None)


@pytest.mark.parametrize("look", [read_timer, cancel_timer])
def test_the_timer_of_one_that_has_ended_is_over(look: Any) -> None:
    async def main() -> None:
        timers = [send_after(60, await ended(), "tick")]
        pid = await spawn(waits)
        timers.append(send_after(60, pid, "tick"))
        assert read_timer(timers[1]) == 60
        exit(pid, "kill")
        while process_is_there(pid):
            await trio.lowlevel.checkpoint()
        assert [look(timer) for timer in timers] == [None, None]
        runtime = this_runtime()
        assert (len(runtime.sends_due), len(runtime.timers)) == (0, 0)

    alone(main)


def test_one_for_a_process_that_ended_goes_nowhere() -> None:
    async def main() -> int:
        send_after(1, await ended(), "tick")
        await trio.sleep(2)
        return len(this_runtime().sends_due)

    assert alone(main) == 0


@pytest.mark.parametrize("seconds", [-1, -0.001, inf, nan, 10**400])
def test_a_time_that_never_comes_is_refused(seconds: float) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="seconds"):
            send_after(seconds, self(), "tick")
        assert not this_runtime().sends_due

    alone(main)


def test_what_cannot_be_sent_is_refused_in_the_sender() -> None:
    async def main() -> None:
        with pytest.raises(NotSendable):
            send_after(1, self(), main)
        assert not this_runtime().sends_due

    alone(main)


@pytest.mark.parametrize(
    ("policy", "left"), [("block", [1]), ("drop_new", [1]), ("drop_old", ["tick"])]
)
def test_nobody_waits_for_room_in_a_full_mailbox(policy: str, left: list[object]) -> None:
    async def main() -> None:
        got: list[object] = []

        async def slow() -> None:
            await trio.sleep(2)
            got.extend(await flush())

        pid = await spawn(slow, mailbox=Mailbox(limit=1, policy=policy))
        send_nowait(pid, 1)
        send_after(1, pid, "tick")
        await trio.sleep(1.5)
        assert process_info(pid)["dropped"] == 1
        await trio.sleep(1)
        assert got == left

    alone(main)


def test_there_is_a_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(later, "TIMERS_MAX", 3)

    async def main() -> object:
        timers = [send_after(60, self(), number) for number in range(3)]
        with pytest.raises(MailboxFull, match="3 messages wait for their time"):
            send_after(60, self(), "one too many")
        cancel_timer(timers[0])
        send_after(0, self(), "room")
        return await receive()

    assert alone(main) == "room"
