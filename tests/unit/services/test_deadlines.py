"""One timer for all tables: who is asked when, in virtual time."""

from __future__ import annotations

from math import inf

import pytest
import trio
import trio.testing

from drupelet.services.deadlines import GAP_PER_MEMBER_S, Deadlines


class Table:
    """Due at each of `times`; notes when it was told."""

    def __init__(self, *times: float) -> None:
        self.times = sorted(times)
        self.told: list[float] = []
        self.asked = 0
        self.again_s: float | None = None

    def next_timer(self) -> float:
        self.asked += 1
        return self.times[0] if self.times else inf

    def handle_timer(self, now: float) -> None:
        assert self.times[0] <= now
        while self.times and self.times[0] <= now:
            self.times.pop(0)
        self.told.append(now)
        if self.again_s is not None:
            self.times.append(now + self.again_s)
            self.again_s = None


@pytest.fixture
def deadlines(nursery: trio.Nursery) -> Deadlines:
    made = Deadlines()
    nursery.start_soon(made.run)
    return made


def add(deadlines: Deadlines, table: Table) -> None:
    deadlines.add(table)
    if table.next_timer() < deadlines.wakes_at:
        deadlines.arm(table.next_timer())


async def test_each_is_told_at_its_time(
    deadlines: Deadlines, autojump_clock: trio.testing.MockClock
) -> None:
    start = trio.current_time()
    early, late = Table(start + 1), Table(start + 2, start + 5)
    add(deadlines, late)
    add(deadlines, early)
    await trio.sleep(10)
    assert early.told == pytest.approx([start + 1])
    assert late.told == pytest.approx([start + 2, start + 5])
    assert deadlines.wakes_at == inf


async def test_an_earlier_deadline_wakes_earlier(
    deadlines: Deadlines, autojump_clock: trio.testing.MockClock
) -> None:
    start = trio.current_time()
    table = Table(start + 60)
    add(deadlines, table)
    await trio.sleep(1)
    table.times.insert(0, start + 3)
    deadlines.arm(start + 3)
    await trio.sleep(3)
    assert table.told == pytest.approx([start + 3])
    assert deadlines.wakes_at == pytest.approx(start + 60)


async def test_arming_while_deadlines_are_dealt_with_is_not_lost(
    deadlines: Deadlines, autojump_clock: trio.testing.MockClock
) -> None:
    start = trio.current_time()
    table = Table(start + 1)
    table.again_s = 0.5
    add(deadlines, table)
    await trio.sleep(5)
    assert table.told == pytest.approx([start + 1, start + 1.5])


async def test_who_is_discarded_is_not_told(
    deadlines: Deadlines, autojump_clock: trio.testing.MockClock
) -> None:
    table = Table(trio.current_time() + 1)
    add(deadlines, table)
    deadlines.discard(table)
    deadlines.discard(table)
    await trio.sleep(2)
    assert table.told == []


async def test_one_that_ends_another_while_it_is_told(
    deadlines: Deadlines, autojump_clock: trio.testing.MockClock
) -> None:
    start = trio.current_time()
    second = Table(start + 9)

    class Ender(Table):
        def handle_timer(self, now: float) -> None:
            super().handle_timer(now)
            deadlines.discard(second)

    add(deadlines, second)
    add(deadlines, Ender(start + 1))
    await trio.sleep(20)
    assert second.told == []
    assert deadlines.wakes_at == inf


async def test_what_is_due_already_does_not_spin(
    deadlines: Deadlines, autojump_clock: trio.testing.MockClock
) -> None:
    table = Table(trio.current_time() - 1)
    add(deadlines, table)
    await trio.sleep(1)
    assert len(table.told) == 1
    assert table.asked < 20


async def test_armed_before_it_runs(autojump_clock: trio.testing.MockClock) -> None:
    deadlines = Deadlines()
    table = Table(trio.current_time() + 1)
    add(deadlines, table)
    with trio.move_on_after(3):
        await deadlines.run()
    assert len(table.told) == 1


async def test_a_thousand_that_are_due_one_after_the_other_are_told_together(
    deadlines: Deadlines, autojump_clock: trio.testing.MockClock
) -> None:
    start = trio.current_time()
    gap_s = 1_000 * GAP_PER_MEMBER_S
    tables = [Table(start + 1 + number * 1e-4) for number in range(1_000)]
    for table in tables:
        add(deadlines, table)
        table.asked = 0
    await trio.sleep(3)
    for number, table in enumerate(tables):
        assert len(table.told) == 1
        assert 0 <= table.told[0] - (start + 1 + number * 1e-4) <= gap_s * 1.001
        assert table.asked <= 2 * (0.1 / gap_s + 2)  # not once for each of the others
