"""What the relay does with each message; with a real file, without sockets."""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.core.relay import Account, Standing
from drupelet.relay.service import CHANGES_S, Relay
from drupelet.relay.store import FILE_NAME, Store
from drupelet.wire import relay as wire
from drupelet.wire.limits import (
    MAILBOX_KEPT_S,
    MAILBOX_MESSAGES_MAX,
    RELAY_LINKS_PER_ACCOUNT_MAX,
    RELAY_WINDOW_MESSAGES,
)
from drupelet.wire.relay import RelayRefused
from tests.unit.relay.nodes import ALICE, BOB, FREE, NAME, TRUDY, approved, node, send

NONCE = b"n" * 32
CODE = b"i" * 16


def refused(code: str) -> pytest.RaisesExc[RelayRefused]:
    return pytest.raises(RelayRefused, match=f"^{code}")


@asynccontextmanager
async def running(directory: Path, *nodes: Any, **options: Any) -> AsyncIterator[Relay]:
    store = Store(directory)
    try:
        approved(store, *nodes)
        relay = Relay(store, names=[NAME], entropy=os.urandom, **{"rates": FREE, **options})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.run)
            yield relay
            nursery.cancel_scope.cancel()
    finally:
        store.close()


async def enter(relay: Relay, message: Any) -> bytes:
    return await relay.enter(message, NONCE, "192.0.2.1")


# -- who comes in (S004-9)


async def test_the_refusals_of_a_login_are_distinct(tmp_path: Path) -> None:
    async with running(tmp_path, ALICE) as relay:
        with refused("not_registered"):
            await enter(relay, BOB.login(NONCE))
        with refused("not_verified"):
            await enter(relay, BOB.register(NONCE, email="bob@example.org"))
        with refused("not_verified"):
            await enter(relay, BOB.login(NONCE))
        assert await enter(relay, ALICE.login(NONCE)) == ALICE.key
        for bad in (
            ALICE.login(b"x" * 32),  # another connection's
            ALICE.login(NONCE, audience="mallory.test"),  # made for another relay
            wire.Login(ref=0, key=ALICE.key, audience=NAME, signature=bytes(64)),
            wire.Login(ref=0, key=TRUDY.key, audience=NAME, signature=bytes(64)),  # not a word more
        ):
            with refused("denied"):
                await enter(relay, bad)
        assert relay.counts["bad_signatures"] == 3


async def test_an_invite_lets_in_once(tmp_path: Path) -> None:
    async with running(tmp_path) as relay:
        await relay.writer.write(lambda store: store.add_invite(CODE, 1))
        assert await enter(relay, BOB.register(NONCE, invite=CODE)) == BOB.key
        assert await enter(relay, BOB.login(NONCE)) == BOB.key
        with refused("bad_invite"):
            await enter(relay, TRUDY.register(NONCE, invite=CODE))
        with refused("not_registered"):
            await enter(relay, TRUDY.login(NONCE))
        with refused("malformed"):
            await enter(relay, TRUDY.register(NONCE, email="nonsense"))


async def test_the_owners_word_is_heard_while_it_runs(tmp_path: Path) -> None:
    async with running(tmp_path, ALICE) as relay:
        with refused("not_verified"):
            await enter(relay, BOB.register(NONCE, email="bob@example.org"))
        owner = Store(tmp_path)
        approved(owner, BOB)
        with trio.fail_after(10 * CHANGES_S):
            while True:
                try:
                    await enter(relay, BOB.login(NONCE))
                    break
                except RelayRefused:
                    await relay.writer.read(lambda store: None)
        await relay.answer(ALICE.key, send(BOB))
        with relay.line(BOB.key) as line:
            denied = Account(key=BOB.key, name="", email="", standing=Standing.DENIED)
            owner.commit([lambda store: store.put_account(denied)])
            owner.close()
            with trio.fail_after(10 * CHANGES_S):
                while not line.ended:
                    await line.next()
        with refused("denied"):
            await relay.answer(BOB.key, send(ALICE))
        with refused("denied"):
            await enter(relay, BOB.login(NONCE))
        with refused("denied"), relay.line(BOB.key):
            pass
        with refused("not_found"):
            await relay.answer(ALICE.key, send(BOB))
        await relay.reload()
        assert relay.gauges()["waiting_messages"] == 0


# -- mailboxes


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
    caplog.set_level("DEBUG", "drupelet.relay.service")
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
        relay._started -= 5  # five seconds later
        await relay.expire()
        with relay.line(ALICE.key) as line:
            got: list[Any] = []
            while len(got) < 2:
                got += await line.next()
        assert [(one.kind, one.re, one.sender) for one in got] == [
            (wire.RECEIPT, taken.id, BOB.key),
            (wire.EXPIRED, over.id, BOB.key),
        ]
        relay._started -= MAILBOX_KEPT_S + 1
        await relay.expire()
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


# -- lines


async def test_the_oldest_of_too_many_lines_ends(tmp_path: Path) -> None:
    async with running(tmp_path, ALICE) as relay:
        lines = [relay.line(ALICE.key) for _ in range(RELAY_LINKS_PER_ACCOUNT_MAX + 1)]
        opened = [line.__enter__() for line in lines]
        assert [line.ended for line in opened] == [True] + [False] * RELAY_LINKS_PER_ACCOUNT_MAX
        assert await opened[0].next() == []
        assert relay.gauges()["lines"] == RELAY_LINKS_PER_ACCOUNT_MAX
        for line in lines:
            line.__exit__(None, None, None)
        assert relay.gauges()["lines"] == 0


async def test_lines_at_the_maximum_and_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drupelet.relay.service.RELAY_LINKS_MAX", 1)
    async with running(tmp_path, ALICE, BOB) as relay:
        with relay.line(ALICE.key):
            with refused("busy"), relay.line(BOB.key):
                pass
        with relay.line(BOB.key):
            pass


# -- the catalogue


async def test_announced_found_and_withdrawn(tmp_path: Path) -> None:
    async with running(tmp_path, ALICE, BOB, TRUDY) as relay:
        data = ALICE.announcement(relay.run_id, 1, BOB)
        await relay.answer(ALICE.key, wire.Announce(ref=0, announcement=data))
        with refused("replayed"):
            await relay.answer(ALICE.key, wire.Announce(ref=0, announcement=data))
        with refused("denied"):
            await relay.answer(TRUDY.key, wire.Announce(ref=0, announcement=data))
        with refused("malformed"):
            await relay.answer(ALICE.key, wire.Announce(ref=0, announcement=data[:-1]))
        [entry] = await relay.answer(BOB.key, wire.Catalogue(ref=0, after=b""))
        assert (entry[0], entry[3]) == (ALICE.key, ["kitchen"])
        assert await relay.answer(BOB.key, wire.Find(ref=0, node=ALICE.key, grant=b"")) == entry
        assert await relay.answer(TRUDY.key, wire.Catalogue(ref=0, after=b"")) == []
        with refused("not_found"):
            await relay.answer(TRUDY.key, wire.Find(ref=0, node=ALICE.key, grant=b""))
        await relay.answer(ALICE.key, wire.Withdraw(ref=0))
        assert await relay.answer(BOB.key, wire.Catalogue(ref=0, after=b"")) == []
        with refused("malformed"):
            await relay.answer(BOB.key, BOB.login(NONCE))


async def test_an_announcement_for_one_life_of_the_relay_is_none_for_the_next(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, ALICE) as relay:
        data = ALICE.announcement(relay.run_id, 1)
    async with running(tmp_path, ALICE) as relay:
        with refused("replayed"):
            await relay.answer(ALICE.key, wire.Announce(ref=0, announcement=data))


# -- how often (S004-4's way through the relay has its own limit at the callee)


async def test_each_account_has_its_own_rate(tmp_path: Path) -> None:
    async with running(tmp_path, ALICE, BOB, rates={}) as relay:
        refusals = 0
        for _ in range(30):
            try:
                await relay.answer(ALICE.key, wire.Catalogue(ref=0, after=b""))
            except RelayRefused as refusal:
                assert refusal.code == "rate_limited" and refusal.retry_after_s > 0
                refusals += 1
        assert 1 <= refusals <= 10
        await relay.answer(BOB.key, wire.Catalogue(ref=0, after=b""))


# -- codes that are shown for pairing


def pair(to: bytes, plate: int | None, **changed: Any) -> wire.Pair:
    fields: dict[str, Any] = {"ref": 0, "re": None, "body": b"words"}
    return wire.Pair(to=to, plate=plate, **{**fields, "id": os.urandom(16), **changed})


async def test_two_that_pair_find_each_other_by_a_plate(tmp_path: Path) -> None:
    async with running(tmp_path, ALICE, BOB) as relay:
        with refused("not_found"):
            await relay.answer(BOB.key, wire.FindPlate(ref=0, plate=7))
        await relay.answer(ALICE.key, wire.ShowPlate(ref=0, plate=7, kept_s=300))
        assert relay.gauges()["plates"] == 1
        found = await relay.answer(BOB.key, wire.FindPlate(ref=0, plate=7))
        assert found == [ALICE.key, "node"]
        asked = pair(ALICE.key, 7)
        await relay.answer(BOB.key, asked)
        await relay.answer(ALICE.key, pair(BOB.key, None, re=asked.id, body=b"answer"))
        for key, sender, re, body in (
            (ALICE.key, BOB.key, None, b"words"),
            (BOB.key, ALICE.key, asked.id, b"answer"),
        ):
            with relay.line(key) as line:
                [message] = await line.now()
            assert (message.sender, message.re, message.body) == (sender, re, body)
            assert message.kind == wire.PAIRING
        await relay.answer(ALICE.key, wire.ShowPlate(ref=0, plate=None, kept_s=1))
        for key, said in (
            (BOB.key, wire.FindPlate(ref=0, plate=7)),
            (BOB.key, pair(ALICE.key, 7)),
            (ALICE.key, pair(BOB.key, None)),
        ):
            with refused("not_found"):
                await relay.answer(key, said)


async def test_who_tries_one_plate_after_the_other_is_stopped(tmp_path: Path) -> None:
    async with running(tmp_path, ALICE, BOB, TRUDY) as relay:
        await relay.answer(ALICE.key, wire.ShowPlate(ref=0, plate=7, kept_s=300))
        for said in [wire.FindPlate(ref=0, plate=each) for each in range(100, 103)] + [
            pair(ALICE.key, 8),  # he knows her key, and tries words at once
            pair(ALICE.key, None),
        ]:
            with refused("not_found"):
                await relay.answer(BOB.key, said, "192.0.2.1")
        for said in (wire.FindPlate(ref=0, plate=7), pair(ALICE.key, 9)):
            with refused("rate_limited") as caught:
                await relay.answer(BOB.key, said, "192.0.2.1")
            assert 20 < caught.value.retry_after_s <= 30
        await relay.answer(BOB.key, pair(ALICE.key, 7))  # who has the code is not stopped by that
        others = [node(number) for number in range(10, 20)]
        await relay.writer.write(
            lambda store: [
                store.put_account(
                    Account(key=each.key, name="node", email="", standing=Standing.APPROVED)
                )
                for each in others
            ]
        )
        await relay.reload()
        codes = []
        for each, plate in itertools.product(others, range(20, 23)):  # many accounts, one address
            with pytest.raises(RelayRefused) as caught:
                await relay.answer(each.key, wire.FindPlate(ref=0, plate=plate), "192.0.2.1")
            codes.append(caught.value.code)
        assert codes == ["not_found"] * 15 + ["rate_limited"] * 15
        found = await relay.answer(TRUDY.key, wire.FindPlate(ref=0, plate=7), "192.0.2.2")
        assert found == [ALICE.key, "node"]


async def test_a_code_of_who_was_denied_is_not_found(tmp_path: Path) -> None:
    async with running(tmp_path, ALICE, BOB) as relay:
        await relay.answer(ALICE.key, wire.ShowPlate(ref=0, plate=7, kept_s=300))
        denied = Account(key=ALICE.key, name="node", email="", standing=Standing.DENIED)
        await relay.writer.write(lambda store: store.put_account(denied))
        await relay.reload()
        with refused("not_found"):
            await relay.answer(BOB.key, wire.FindPlate(ref=0, plate=7))
