"""Timers against a model: what is due runs once, in order, and what was cancelled never."""

from __future__ import annotations

from decimal import Decimal
from math import inf, nan
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from drupelet.process import timers as module
from drupelet.process.timers import Timers, check_seconds

OPERATIONS = st.lists(
    st.tuples(st.just("add"), st.integers(-2, 12))
    | st.tuples(st.just("cancel"), st.integers(0, 30))
    | st.tuples(st.just("sleep"), st.integers(0, 4)),
    max_size=40,
)


def virtual(main: Any) -> None:
    async def whole() -> None:
        timers = Timers()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timers.run)
            await main(timers)
            nursery.cancel_scope.cancel()

    trio.run(whole, clock=MockClock(autojump_threshold=0))


@settings(max_examples=80)
@given(OPERATIONS, st.sampled_from([0, 2, 512]))
def test_what_is_due_runs_in_order_and_once(
    operations: list[tuple[str, int]], rebuilt_from: int
) -> None:
    async def main(timers: Timers) -> None:
        ran: list[int] = []
        entries: list[Any] = []
        due: dict[int, float] = {}
        expected: list[int] = []
        start = trio.current_time()

        def pass_time() -> None:
            now = trio.current_time()
            for number in sorted((n for n in due if due[n] <= now), key=lambda n: (due[n], n)):
                expected.append(number)
                del due[number]

        for kind, argument in operations:
            if kind == "add":
                deadline = start + argument
                number = len(entries)
                entries.append(timers.add(deadline, lambda number=number: ran.append(number)))
                due[number] = deadline
            elif kind == "cancel" and entries:
                number = argument % len(entries)
                assert timers.cancel(entries[number]) == (number in due)
                assert not timers.cancel(entries[number])
                due.pop(number, None)
            elif kind == "sleep":
                # what is due now, then second by second: between two steps nothing is added
                for _ in range(argument):
                    await trio.testing.wait_all_tasks_blocked()
                    pass_time()
                    await trio.sleep(1)
            if kind == "sleep":
                await trio.testing.wait_all_tasks_blocked()
                pass_time()
                assert ran == expected
            elif not any(deadline <= trio.current_time() for deadline in due.values()):
                assert len(timers) == len(due)
        await trio.sleep(20)
        pass_time()
        assert ran == expected and len(timers) == 0

    before, module._CLEARED_MIN = module._CLEARED_MIN, rebuilt_from  # type: ignore[misc]
    try:
        virtual(main)
    finally:
        module._CLEARED_MIN = before  # type: ignore[misc]


def test_those_that_were_cancelled_do_not_stay() -> None:
    async def main(timers: Timers) -> None:
        for _ in range(20):
            entries = [timers.add(trio.current_time() + 1e6, lambda: None) for _ in range(1_000)]
            for entry in entries:
                timers.cancel(entry)
        assert len(timers) == 0 and len(timers._heap) <= 2 * module._CLEARED_MIN

    virtual(main)


def test_an_action_may_set_and_cancel_others() -> None:
    async def main(timers: Timers) -> None:
        ran: list[str] = []
        now = trio.current_time()

        def first() -> None:
            ran.append("first")
            timers.cancel(same_time)
            timers.add(now + 1, lambda: ran.append("at once"))
            timers.add(now + 2, lambda: ran.append("later"))

        timers.add(now + 1, first)
        same_time = timers.add(now + 1, lambda: ran.append("never"))
        await trio.sleep(1.5)
        assert ran == ["first", "at once"]
        await trio.sleep(1)
        assert ran == ["first", "at once", "later"]

    virtual(main)


def test_it_sleeps_until_the_first_and_is_woken_for_an_earlier_one() -> None:
    async def main(timers: Timers) -> None:
        ran: list[float] = []
        now = trio.current_time()
        for after in (5, 3, 4, 1, 2):
            await trio.testing.wait_all_tasks_blocked()
            timers.add(
                now + after, lambda after=after: ran.append((trio.current_time() - now, after))
            )  # type: ignore[arg-type, misc]
        timers.add(inf, lambda: ran.append(inf))
        await trio.sleep(10)
        assert ran == [(each, each) for each in (1, 2, 3, 4, 5)]

    virtual(main)


@pytest.mark.parametrize("seconds", [0, 1, -1, 0.5, True, inf, -inf, 2**1000, 1e308])
def test_numbers_of_seconds(seconds: float) -> None:
    assert check_seconds(seconds) == seconds
    assert type(check_seconds(seconds)) is float


@pytest.mark.parametrize("seconds", [None, "5", b"5", [5], Decimal(5), 5j])
def test_no_number_of_seconds(seconds: object) -> None:
    with pytest.raises(TypeError, match="a time is a number of seconds, not"):
        check_seconds(seconds)


def test_numbers_that_are_no_time() -> None:
    with pytest.raises(ValueError, match="NaN is no number of seconds"):
        check_seconds(nan)
    with pytest.raises(ValueError, match=r"never pass; math\.inf waits for ever"):
        check_seconds(10**400)
