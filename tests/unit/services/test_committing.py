"""Written first, done afterwards; many in one write."""

from __future__ import annotations

import threading
from collections.abc import Callable

import trio
import trio.testing

from drupelet.services import committing as module
from drupelet.services.committing import Committing


class Disk:
    """Writes when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = threading.Event()
        self.free.set()
        self.failure: OSError | None = None
        self.ticks = 0
        self.closed = 0
        self.committing = Committing[int](self.prepare, tick=self.tick, close=self.close)
        self.done: list[object] = []

    def prepare(self, items: list[int]) -> Callable[[], None]:
        def write() -> None:
            self.free.wait(10)
            if self.failure is not None:
                raise self.failure
            self.batches.append(items)

        return write

    def tick(self, up_s: float) -> None:
        self.ticks += 1

    def close(self, up_s: float) -> None:
        self.closed += 1

    def put(self, item: int) -> None:
        self.committing.put(item, lambda failure: self.done.append((item, failure)))


async def test_what_comes_while_it_writes_is_one_batch() -> None:
    disk = Disk()
    disk.free.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disk.committing.run)
        disk.put(1)
        while disk.committing._queue:
            await trio.testing.wait_all_tasks_blocked(0.001)
        for item in range(2, 7):
            disk.put(item)
        assert disk.done == []
        disk.free.set()
        while len(disk.done) < 6:
            await trio.testing.wait_all_tasks_blocked(0.001)
        nursery.cancel_scope.cancel()
    assert disk.batches == [[1], [2, 3, 4, 5, 6]]
    assert disk.done == [(item, None) for item in range(1, 7)] and disk.closed == 1


async def test_after_is_in_order_and_at_once_when_nothing_waits() -> None:
    disk = Disk()
    disk.committing.after(lambda: disk.done.append("now"))
    assert disk.done == ["now"]
    disk.put(1)
    disk.committing.after(lambda: disk.done.append("later"))
    disk.put(2)
    assert disk.done == ["now"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disk.committing.run)
        while len(disk.done) < 4:
            await trio.testing.wait_all_tasks_blocked(0.001)
        nursery.cancel_scope.cancel()
    assert disk.done == ["now", (1, None), "later", (2, None)]


async def test_a_failure_is_told_to_all_of_its_batch_and_it_goes_on() -> None:
    disk = Disk()
    disk.failure = OSError(28, "No space left on device")
    disk.put(1)
    disk.put(2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disk.committing.run)
        while len(disk.done) < 2:
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert disk.done == [(1, disk.failure), (2, disk.failure)]
        disk.failure = None
        disk.put(3)
        while len(disk.done) < 3:
            await trio.testing.wait_all_tasks_blocked(0.001)
        nursery.cancel_scope.cancel()
    assert disk.batches == [[3]]


async def test_a_batch_at_the_maximum_and_one_above() -> None:
    disk = Disk()
    for item in range(module.BATCH_MAX + 1):
        disk.put(item)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disk.committing.run)
        while len(disk.done) <= module.BATCH_MAX:
            await trio.testing.wait_all_tasks_blocked(0.001)
        nursery.cancel_scope.cancel()
    assert [len(batch) for batch in disk.batches] == [module.BATCH_MAX, 1]


async def test_what_was_put_before_the_end_is_written() -> None:
    disk = Disk()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disk.committing.run)
        await trio.testing.wait_all_tasks_blocked()
        disk.put(1)
        nursery.cancel_scope.cancel()
    assert disk.batches == [[1]] and disk.done == [(1, None)] and disk.closed == 1


async def test_it_says_how_late_it_is(mock_clock: trio.testing.MockClock) -> None:
    disk = Disk()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disk.committing.run)
        for count in (1, 2):
            await trio.testing.wait_all_tasks_blocked(0.001)
            mock_clock.jump(module.TICK_S)
            while disk.ticks < count:  # by a thread, which the clock does not know
                await trio.testing.wait_all_tasks_blocked(0.001)
        mock_clock.jump(module.TICK_S / 2)
        await trio.testing.wait_all_tasks_blocked(0.001)
        nursery.cancel_scope.cancel()
    assert disk.ticks == 2 and disk.committing.up_s >= module.TICK_S * 2.5
