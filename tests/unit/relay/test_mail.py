"""Mailboxes: with a real file, without sockets."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio

from drupelet.relay.store import FILE_NAME
from drupelet.wire import relay as wire
from drupelet.wire.limits import (
    MAILBOX_KEPT_S,
    MAILBOX_MESSAGES_MAX,
    RELAY_WINDOW_MESSAGES,
)
from tests.unit.relay.nodes import ALICE, BOB, refused, running, send


async def test_a_message_waits_on_the_disk_for_a_node_that_is_not_there(tmp_path: Path) -> None:
    async with running(tmp_path, ALICE, BOB) as relay:
        await relay.answer(ALICE.key, send(BOB, b"one"))
    async with running(tmp_path) as relay:  # another life
        assert relay.gauges()["waiting_messages"] == 1
        await relay.answer(ALICE.key, send(BOB, b"two"))
        with relay.line(BOB.key) as line:
            messages: list[Any] = []
            while len(messages) < 2:
                messages += await line.next()
            assert [message.body for message in messages] == [b"one", b"two"]
            await relay.answer(BOB.key, wire.Ack(ref=0, number=messages[0].number))
        with relay.line(BOB.key) as line:  # what was not acknowledged comes again
            assert [message.body for message in await line.next()] == [b"two"]


async def test_who_debugs_sees_each_message_by_its_ids_and_nothing_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "drupelet.relay.mail")
    async with running(tmp_path, ALICE, BOB) as relay:
        message = send(BOB, b"canary")
        await relay.answer(ALICE.key, message)
        with relay.line(BOB.key) as line:
            (delivered,) = await line.next()
        await relay.answer(BOB.key, wire.Ack(ref=0, number=delivered.number))
    ident, to = message.id.hex(), BOB.key.hex()[:16]
    assert caplog.messages == [
        f"accepted id={ident} re=none from={ALICE.key.hex()[:16]} to={to} bytes=6",
        f"delivered id={ident} to={to}",
        f"taken by={to} up_to={delivered.number} messages=1",
    ]


async def test_the_same_message_twice_is_one(tmp_path: Path) -> None:
    async with running(tmp_path, ALICE, BOB) as relay:
        message = send(BOB)
        await relay.answer(ALICE.key, message)
        await relay.answer(ALICE.key, message)
        assert relay.gauges()["waiting_messages"] == 1


async def test_a_full_mailbox_refuses_and_one_that_was_emptied_does_not(tmp_path: Path) -> None:
    async with running(tmp_path, ALICE, BOB) as relay:
        for _ in range(MAILBOX_MESSAGES_MAX // 2):
            await relay.answer(ALICE.key, send(BOB, b""))
        with refused("mailbox_full"):
            await relay.answer(ALICE.key, send(BOB, b""))
        await relay.answer(BOB.key, wire.Ack(ref=0, number=2**40))
        await relay.answer(ALICE.key, send(BOB, b""))


async def test_no_more_than_a_window_is_under_way(tmp_path: Path) -> None:
    async with running(tmp_path, ALICE, BOB) as relay:
        for _ in range(RELAY_WINDOW_MESSAGES + 10):
            await relay.answer(ALICE.key, send(BOB, b""))
        with relay.line(BOB.key) as line:
            first = await line.next()
            assert len(first) == RELAY_WINDOW_MESSAGES
            with trio.move_on_after(0.05) as scope:
                await line.next()
            assert scope.cancelled_caught
            await relay.answer(BOB.key, wire.Ack(ref=0, number=first[3].number))
            assert len(await line.next()) == 4


async def test_receipts_for_who_asks_when_taken_and_when_over(tmp_path: Path) -> None:
    async with running(tmp_path, ALICE, BOB) as relay:
        taken, over = send(BOB, receipt=True), send(BOB, receipt=True, kept_s=1)
        await relay.answer(ALICE.key, taken)
        await relay.answer(BOB.key, wire.Ack(ref=0, number=2**40))
        await relay.answer(ALICE.key, over)
        relay.mail._started -= 5  # five seconds later
        await relay.mail.expire()
        with relay.line(ALICE.key) as line:
            got: list[Any] = []
            while len(got) < 2:
                got += await line.next()
        assert [(one.kind, one.re, one.sender) for one in got] == [
            (wire.RECEIPT, taken.id, BOB.key),
            (wire.EXPIRED, over.id, BOB.key),
        ]
        relay.mail._started -= MAILBOX_KEPT_S + 1
        await relay.mail.expire()
        assert relay.gauges()["waiting_messages"] == 0  # receipts do not wait for ever either


async def test_a_broken_message_is_dropped_and_counted(tmp_path: Path) -> None:
    async with running(tmp_path, ALICE, BOB) as relay:
        await relay.answer(ALICE.key, send(BOB, b"one"))
        await relay.answer(ALICE.key, send(BOB, b"two"))
        with sqlite3.connect(tmp_path / FILE_NAME) as other:
            other.execute("UPDATE messages SET body = x'00' WHERE number = 1")
        other.close()
        with relay.line(BOB.key) as line:
            assert [message.body for message in await line.next()] == [b"two"]
        assert relay.counts["messages_corrupt"] == 1
        assert relay.gauges()["waiting_messages"] == 1


async def test_a_sender_who_hangs_up_leaves_the_counts_right(tmp_path: Path) -> None:
    async with running(tmp_path, ALICE, BOB) as relay:
        for _ in range(5):
            with trio.CancelScope() as scope:
                scope.cancel()
                await relay.answer(ALICE.key, send(BOB))
        waiting = await relay.writer.read(lambda store: list(store.waiting()))
        assert relay.gauges()["waiting_messages"] == len(waiting) == 5


# -- to and from another relay


async def test_what_waits_here_only_is_not_handed_over_and_holds_up_nothing(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, ALICE, BOB) as relay:
        await relay.mail.put(BOB.key, bytes(16), b"a PUT")  # its asker waits at this relay
        await relay.answer(ALICE.key, send(BOB, b"over", kept_s=1))
        await relay.answer(ALICE.key, send(BOB, b"one", kept_s=100))
        await relay.answer(ALICE.key, send(BOB, b"two"))
        relay.mail._started -= 5
        [(number, said)] = await relay.mail.to_hand_over(BOB.key, 1, 1_000)
        assert said.body == b"one" and 80 < said.left_s <= 95
        await relay.mail.handed_over([number, number])
        [(_, said)] = await relay.mail.to_hand_over(BOB.key, 1, 1_000)
        assert said.body == b"two"
        assert relay.gauges()["waiting_messages"] == 3
        assert await relay.mail.to_hand_over(ALICE.key, 1, 1_000) == []


async def test_what_is_taken_over_is_one_message_and_keeps_its_time(tmp_path: Path) -> None:
    async with running(tmp_path / "a", ALICE, BOB) as relay:
        await relay.answer(ALICE.key, send(BOB, receipt=True, kept_s=100))
        [(_, said)] = await relay.mail.to_hand_over(BOB.key, 64, 1_000)
    async with running(tmp_path / "b", ALICE, BOB) as relay:
        assert await relay.mail.take_over([said, said]) == ["", ""]
        assert relay.gauges()["waiting_messages"] == 1
        relay.mail._started -= 101
        await relay.mail.expire()
        with relay.line(ALICE.key) as line:  # the receipt of one that was over, at the other relay
            [told] = await line.next()
        assert (told.kind, told.re) == (wire.EXPIRED, said.id)
