"""What the relay does with each message; with a real file, without sockets."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.core.relay import Account, Standing
from drupelet.relay.service import CHANGES_S, Relay
from drupelet.relay.store import Store
from drupelet.wire import relay as wire
from drupelet.wire.relay import RelayRefused
from tests.unit.relay.nodes import (
    ALICE,
    BOB,
    NAME,
    TRUDY,
    approved,
    node,
    refused,
    running,
    send,
)

NONCE = b"n" * 32
CODE = b"i" * 16


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
