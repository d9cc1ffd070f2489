"""One writer for many tasks."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.relay.store import Store, StoreFailed
from drupelet.relay.writing import Writer
from drupelet.wire.limits import RELAY_WRITES_MAX
from drupelet.wire.relay import RelayRefused


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    yield opened
    opened.close()


async def test_what_comes_while_the_disk_is_busy_is_one_transaction(store: Store) -> None:
    writer, go, order = Writer(store), threading.Event(), list[int]()

    async def write(number: int) -> None:
        def job(store: Store) -> int:
            go.wait(10)
            order.append(number)
            return number

        assert await writer.write(job) == number

    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        async with trio.open_nursery() as writing:
            writing.start_soon(write, 0)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(1, 101):
                writing.start_soon(write, number)
                await trio.testing.wait_all_tasks_blocked()
            go.set()
        assert writer.transactions == 2
        assert order == list(range(101))  # in the order in which they came
        nursery.cancel_scope.cancel()


async def test_the_line_at_its_maximum_and_one_above(store: Store) -> None:
    writer = Writer(store)  # nobody writes yet
    done = []

    async def write() -> None:
        done.append(await writer.write(lambda store: None))

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as writing:
            for _ in range(RELAY_WRITES_MAX):
                writing.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(RelayRefused, match="^busy"):
                await writer.write(lambda store: None)
            nursery.start_soon(writer.run)
        assert len(done) == RELAY_WRITES_MAX
        nursery.cancel_scope.cancel()


async def test_when_it_stops_those_in_line_are_told(store: Store) -> None:
    writer = Writer(store)
    told = []

    async def write() -> None:
        with pytest.raises(RelayRefused, match="^busy: the relay is stopping"):
            await writer.write(lambda store: None)
        told.append(True)

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            scope.cancel()
            nursery.start_soon(write)
            nursery.start_soon(write)
            await trio.lowlevel.cancel_shielded_checkpoint()
            await writer.run()
    await write()
    assert len(told) == 3


async def test_a_disk_that_fails_ends_it(store: Store) -> None:
    writer = Writer(store)

    def failing(store: Store) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    async def write() -> None:
        with pytest.raises(RelayRefused, match="^busy"):
            await writer.write(failing)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        with pytest.raises(StoreFailed):
            await writer.run()


async def test_reads_do_not_wait_for_a_write(store: Store) -> None:
    writer, go = Writer(store), threading.Event()

    async def write() -> None:
        await writer.write(lambda store: go.wait(10))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        async with trio.open_nursery() as writing:
            writing.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            assert await writer.read(lambda store: store.accounts()) == []
            go.set()
        assert not await writer.changed()
        nursery.cancel_scope.cancel()
