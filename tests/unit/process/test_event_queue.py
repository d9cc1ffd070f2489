"""In which order a state machine's events come. Time is virtual."""

from __future__ import annotations

import functools
from collections.abc import Callable
from math import inf
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.process import ReceiveTimeout, receive, run
from drupelet.process.current import this_process, this_runtime
from drupelet.process.event_queue import Due, Event, EventQueue, Step, check_seconds
from drupelet.wire.limits import INSERTED_EVENTS_MAX, STATE_TIMEOUTS_MAX
from tests.unit.process.servers import virtual


def queued(test: Callable[[EventQueue], Any]) -> Any:
    async def main() -> Any:
        queue = EventQueue(this_process(), lambda caller: None)
        try:
            return await test(queue)
        finally:
            queue.cancel_all()

    return run(main, clock=virtual())


def step(
    *inserted: object, postponed: bool = False, timeouts: tuple[tuple[Any, ...], ...] = ()
) -> Step:
    made = Step()
    made.postponed = postponed
    made.inserted += [Event("internal", each) for each in inserted]
    for kind, seconds in timeouts:
        made.timeouts.append(
            functools.partial(EventQueue.set, kind=kind, seconds=seconds, content=kind)
        )
    return made


def taken(queue: EventQueue) -> list[object]:
    found = []
    while (event := queue.take()) is not None:
        found.append(event.content)
    return found


def test_the_order_of_one_step() -> None:
    async def test(queue: EventQueue) -> None:
        queue.finish(Event("cast", 1), step("a", postponed=True), changed=False)
        queue.finish(Event("cast", 2), step(postponed=True), changed=False)
        assert queue.postponed_count == 2
        zero = (("state_timeout", 0), (("timeout", "x"), 0))
        queue.finish(Event("cast", 3), step("b", "c", timeouts=zero), changed=True)
        assert len(queue) == 5
        assert taken(queue) == ["b", "c", 1, 2, "a", "state_timeout", ("timeout", "x")]
        assert queue.take() is None

    queued(test)


def test_a_step_that_asked_for_nothing() -> None:
    assert Step().empty
    assert not step("a").empty
    assert not step(postponed=True).empty
    assert not step(timeouts=(("timeout", 1),)).empty
    kept = Step()
    kept.taken = True
    assert not kept.empty


def test_an_event_timeout_of_0_comes_only_when_nothing_else_does() -> None:
    async def test(queue: EventQueue) -> None:
        now = (("timeout", 0),)
        queue.finish(None, step("a", timeouts=now), changed=False)
        event = queue.take()
        assert event is not None and event.content == "a"
        queue.finish(event, step(), changed=False)
        assert queue.take() is None
        queue.finish(None, step(timeouts=now), changed=False)
        assert queue.take() == Event("timeout", "timeout")

    queued(test)


def test_a_change_of_state_cancels_a_state_timeout_of_0_that_waits() -> None:
    async def test(queue: EventQueue) -> None:
        queue.finish(None, step("a", timeouts=(("state_timeout", 0),)), changed=False)
        event = queue.take()
        queue.finish(event, step(), changed=True)
        assert queue.take() is None

    queued(test)


def test_a_timeout_that_was_due_and_is_cancelled_is_taken_out_of_the_mailbox() -> None:
    async def test(queue: EventQueue) -> None:
        queue.set("state_timeout", 1, "late")
        queue.set(("timeout", "x"), 1, "kept")
        await trio.sleep(2)
        queue.cancel("state_timeout")
        due = await receive()
        assert isinstance(due, Due) and repr(due) == "<timeout ('timeout', 'x')>"
        assert queue.take_due(due) == Event(("timeout", "x"), "kept")
        assert queue.take_due(due) is None
        with pytest.raises(ReceiveTimeout):
            await receive(timeout=0)

    queued(test)


def test_setting_again_updating_and_cancelling() -> None:
    async def test(queue: EventQueue) -> None:
        before = len(this_runtime().timers)
        queue.set("state_timeout", 1, "first")
        queue.set("state_timeout", 9, "second")
        assert len(this_runtime().timers) == before + 1
        queue.update("state_timeout", "third")
        began = trio.current_time()
        event = queue.take_due(await receive())
        assert event == Event("state_timeout", "third")
        assert trio.current_time() - began == pytest.approx(9)
        queue.set("state_timeout", 1, "again")
        queue.set("state_timeout", inf, None)
        queue.cancel("state_timeout")
        assert len(this_runtime().timers) == before
        queue.update("state_timeout", "at once")
        queue.update("state_timeout", "at once, otherwise")
        assert taken(queue) == ["at once, otherwise"]

    queued(test)


def test_inserted_events_at_the_maximum_and_one_above() -> None:
    async def test(queue: EventQueue) -> None:
        most = INSERTED_EVENTS_MAX + this_process().limit
        queue.finish(None, step(*range(most)), changed=False)
        assert len(queue) == most
        with pytest.raises(RuntimeError, match="more than 10,000 inserted events"):
            queue.finish(None, step("one above"), changed=False)

    queued(test)


def test_timeouts_at_the_maximum_and_one_above() -> None:
    async def test(queue: EventQueue) -> None:
        for number in range(STATE_TIMEOUTS_MAX):
            queue.set(("timeout", number), 1, None)
        queue.set(("timeout", 0), 2, None)  # the same one
        with pytest.raises(RuntimeError, match="at most 1,024 timeouts"):
            queue.set(("timeout", "one above"), 1, None)

    queued(test)


@pytest.mark.parametrize("seconds", ["1", None, True, float("nan")])
def test_what_is_no_span_of_time(seconds: Any) -> None:
    with pytest.raises(ValueError, match="in seconds"):
        check_seconds(seconds)
    assert check_seconds(1) == 1
    assert check_seconds(inf) == inf
