"""Messages that are sent later: when, to whom, and what happens where they cannot go."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import MailboxFull, NotSendable
from drupelet.process import (
    Mailbox,
    Pid,
    Ref,
    cancel_timer,
    exit,
    flush,
    process_info,
    read_timer,
    receive,
    register,
    self,
    send_after,
    spawn,
    unregister,
)
from drupelet.process.current import this_runtime
from drupelet.wire.limits import VALUE_ITEMS_MAX
from tests.unit.process.values import alone
from tests.unit.process.wires import on, open_wires, settle, start, virtual


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 20), st.none() | st.integers(0, 20)), max_size=20))
def test_they_come_in_order_of_their_time_unless_they_are_cancelled(
    sends: list[tuple[int, int | None]],
) -> None:
    """(when it is due, when it is cancelled) of each."""

    async def main() -> None:
        me = self()
        started = trio.current_time()
        refs = [send_after(due / 10, me, number) for number, (due, _) in enumerate(sends)]
        expected = []
        for tenth in range(25):
            await trio.sleep(max(0.0, started + tenth / 10 + 0.05 - trio.current_time()))
            for number, (due, cancelled) in enumerate(sends):
                left = due / 10 - tenth / 10 - 0.05
                if cancelled == tenth:
                    told = cancel_timer(refs[number])
                    assert told == (pytest.approx(left) if left > 0 else None)
                    assert cancel_timer(refs[number]) is None
                gone = left <= 0 or (cancelled is not None and cancelled <= tenth)
                assert read_timer(refs[number]) == (None if gone else pytest.approx(left))
        for number, (due, cancelled) in sorted(enumerate(sends), key=lambda each: each[1][0]):
            if cancelled is None or cancelled >= due:
                expected.append(number)
        assert await flush() == expected
        assert not this_runtime().sends_due and len(this_runtime().timers) == 0

    alone(main)


TOO_LARGE = [0] * (VALUE_ITEMS_MAX + 1)
WRONG: list[tuple[Any, type[Exception], str]] = [
    (-1, ValueError, "can be sent in 0 seconds or more, not in -1"),
    (-1e-9, ValueError, "0 seconds or more"),
    (inf, ValueError, "0 seconds or more, not in inf"),
    (-inf, ValueError, "not in -inf"),
    (nan, ValueError, "NaN is no number of seconds"),
    (10**400, ValueError, "that many seconds never pass"),
    ("5", TypeError, "a time is a number of seconds, not '5'"),
    (None, TypeError, "a time is a number of seconds, not None"),
]


@pytest.mark.parametrize(("seconds", "error", "text"), WRONG)
def test_times_that_are_none(seconds: Any, error: type[Exception], text: str) -> None:
    async def main() -> None:
        with pytest.raises(error, match=text):
            send_after(seconds, self(), 1)
        assert not this_runtime().sends_due and len(this_runtime().timers) == 0

    alone(main)


@pytest.mark.parametrize("seconds", [0, 0.0, 1, 1e-9, 86_400 * 365, 1e300])
def test_times_that_may_be(seconds: float) -> None:
    async def main() -> None:
        ref = send_after(seconds, self(), "now")
        assert isinstance(ref, Ref)
        if seconds < 1e9:
            assert await receive() == "now"
            assert trio.current_time() == pytest.approx(seconds)
        else:
            assert cancel_timer(ref) == pytest.approx(seconds)

    alone(main)


def test_what_is_no_timer() -> None:
    async def main() -> None:
        unknown = Ref("gandalf", 1, 5)
        assert cancel_timer(unknown) is None and read_timer(unknown) is None
        for wrong in (None, 5, self()):
            for function in (cancel_timer, read_timer):
                with pytest.raises(TypeError, match="that takes a Ref, not"):
                    function(wrong)  # type: ignore[arg-type]

    alone(main)


def test_whoever_has_the_name_or_the_pid_then() -> None:
    async def main() -> None:
        me = self()
        send_after(1, "later", "by name")
        send_after(1, ("later", "nonode@nohost"), "by both")
        send_after(1, "never", "nobody")
        send_after(1, ("x", "bilbo"), "elsewhere")
        send_after(1, Pid("bilbo", 1, 1), "elsewhere")
        dying = await spawn(trio.sleep_forever)
        send_after(1, dying, "dead")
        await register("moves", dying)
        send_after(1, "moves", "moved")
        await trio.sleep(0.5)
        exit(dying, "kill")
        await settle()
        await register("later")
        await register("moves")
        assert [await receive(), await receive(), await receive()] == [
            "by name",
            "by both",
            "moved",
        ]
        await unregister("later")
        await trio.sleep(5)
        assert await flush() == [] and me == self()
        assert not this_runtime().sends_due

    alone(main)


def test_of_one_who_has_ended_no_time_is_left() -> None:
    async def main() -> None:
        pid = await spawn(trio.sleep_forever)
        refs = [send_after(5, pid, 1) for _ in range(2)]
        assert read_timer(refs[0]) == 5
        exit(pid, "kill")
        await settle()
        assert read_timer(refs[0]) is None and cancel_timer(refs[1]) is None
        assert len(this_runtime().timers) == 0

    alone(main)


def test_it_outlives_who_set_it() -> None:
    async def main() -> None:
        me = self()
        await spawn(lambda: send_after(1, me, "from the dead") and None)
        assert await receive() == "from the dead"

    alone(main)


@pytest.mark.parametrize(
    ("policy", "kept", "dropped"),
    [("block", [1], 1), ("drop_new", [1], 1), ("drop_old", ["timer"], 1), ("exit", None, 0)],
)
def test_nobody_waits_for_room_in_a_full_mailbox(
    policy: str, kept: list[object] | None, dropped: int
) -> None:
    async def main() -> None:
        pid = await spawn(trio.sleep_forever, mailbox=Mailbox(limit=1, policy=policy))
        send_after(1, pid, "timer")
        process = this_runtime().find(pid)
        assert process is not None
        this_runtime().put(process, 1)
        await trio.sleep(2)
        if kept is None:
            assert not process.alive and process.exit_reason == "mailbox_full"
        else:
            assert list(process.messages or ()) == kept
            assert process_info(pid)["dropped"] == dropped

    alone(main)


def test_as_many_as_may_wait_and_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drupelet.process.later.TIMERS_MAX", 3)

    async def main() -> None:
        refs = [send_after(1, self(), number) for number in range(3)]
        with pytest.raises(MailboxFull, match="3 messages wait for their time already"):
            send_after(1, self(), 3)
        cancel_timer(refs[1])
        send_after(1, self(), 3)
        assert [await receive() for _ in range(3)] == [0, 2, 3]
        send_after(1, self(), 4)
        assert await receive() == 4

    alone(main)


def test_to_elsewhere() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            got: list[object] = []

            async def collect() -> None:
                await register("oven")
                while True:
                    got.append((trio.current_time(), await receive()))

            far = await start(bob, collect)

            async def client() -> None:
                send_after(2, far, "pid")
                send_after(1, ("oven", "bob"), "name")
                cancelled = send_after(1, far, "never")
                assert cancel_timer(cancelled) == pytest.approx(1)
                with pytest.raises(NotSendable):
                    send_after(1, far, TOO_LARGE)  # too large for the way
                await trio.sleep(3)
                assert [message for _, message in got] == ["name", "pid"]

            await on(alice, client)

    virtual(main)


def test_one_that_becomes_too_large_on_its_way_is_dropped_and_counted() -> None:
    """Set for a name of this program, which is another program's when it is due."""

    async def main() -> None:
        async with open_wires() as wires:
            alice, other = await wires.attach("alice"), await wires.attach("alice")

            async def naming() -> None:
                await register("oven")
                await receive()

            here = alice.start(naming, ())
            await settle()

            async def client() -> None:
                send_after(1, "oven", TOO_LARGE)
                alice.exit_process(here, "killed")
                await settle()
                there = await start(other, naming)
                dropped = alice.dropped_count
                await trio.sleep(2)
                assert alice.dropped_count == dropped + 1
                send_after(1, "oven", "small")
                await trio.sleep(2)
                assert other.find(there) is None  # it got the one that fits

            await on(alice, client)

    virtual(main)
