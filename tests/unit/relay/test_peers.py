"""What another relay may say, and what comes of it; two real processes: tests/integration."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from drupelet.core.relay import Account, Standing
from drupelet.core.relay_peers import Peers, to_peer
from drupelet.errors import RemoteProtocolError
from drupelet.relay import peers as module
from drupelet.relay.config import PeerConfig
from drupelet.relay.listening import Server, open_listeners
from drupelet.relay.peer_http import connect
from drupelet.relay.peers import CONNECTING, IN_STEP, Peering
from drupelet.relay.service import Relay
from drupelet.relay.store import Store
from drupelet.relay.web import Web
from drupelet.store.identity import Identity
from drupelet.wire import relay as wire
from drupelet.wire.relay import Refused, RelayRefused
from drupelet.wire.relay_peers import (
    PeerAnnounce,
    PeerMail,
    PeerMessage,
    PeerPresent,
    PeerRegister,
    PeerWithdraw,
    decode_account,
    decode_answers,
    decode_login,
    encode_batch,
    encode_peer,
    open_welcome,
    peer_login,
)
from tests.unit.relay.nodes import ALICE, BOB, FREE, NAME, TRUDY, Node, approved, node, refused

ME, OTHER, THIRD = node(90), node(91), node(92)  # relays
NONCE, THEIR_NONCE, RUN, CODE = b"n" * 32, b"t" * 32, b"r" * 16, b"i" * 16
NOWHERE = "http://127.0.0.1:1"
MAIL = PeerMail(
    to=ALICE.key,
    sender=BOB.key,
    kind=wire.MESSAGE,
    id=bytes(16),
    re=None,
    receipt=False,
    left_s=60,
    body=b"sealed",
)


class Hearing:
    """A relay, and another one's word to it without a network."""

    def __init__(self, relay: Relay, peering: Peering) -> None:
        self.relay = relay
        self.peering = peering
        self.session = b""

    def login(self, who: Node = OTHER, *, nonce: bytes = NONCE, **changed: Any) -> int:
        said = {"audience": NAME, "run": RUN, **changed}
        data = peer_login(who.seed, who.key, said["audience"], nonce, THEIR_NONCE, said["run"])
        welcome = self.peering.welcome(decode_login(data), NONCE)
        assert open_welcome(welcome.value(), ME.key, who.key, THEIR_NONCE) == welcome
        self.session = welcome.session
        return welcome.number

    async def say(self, *messages: PeerMessage) -> list[Any]:
        """For each what was answered: the code of a refusal, or a value."""
        batch = encode_batch(0, [encode_peer(message) for message in messages])
        answers = await self.peering.hear(self.session, batch)
        return [
            answer.code if isinstance(answer, Refused) else answer.value
            for answer in decode_answers(answers, len(messages))
        ]


@asynccontextmanager
async def hearing(directory: Path, *nodes: Node, accounts: bool = True) -> AsyncIterator[Hearing]:
    store = Store(directory)
    approved(store, *nodes)
    configs = [
        PeerConfig(url=NOWHERE, key=OTHER.key, accounts=accounts),
        PeerConfig(url=NOWHERE, key=THIRD.key),
    ]
    relay = Relay(
        store,
        names=[NAME],
        entropy=os.urandom,
        rates=FREE,
        peers=Peers(config.key for config in configs),
    )
    peering = Peering(
        relay,
        configs,
        Identity(public_key=ME.key, seed=ME.seed),
        entropy=os.urandom,
        random=random.random,
    )
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.run)
            yield Hearing(relay, peering)
            nursery.cancel_scope.cancel()
    finally:
        store.close()


def account(number: int, standing: Standing = Standing.APPROVED) -> Account:
    return Account(key=node(number).key, name="node", email="", standing=standing)


# -- who it is


async def test_only_a_relay_of_the_configuration_that_proves_its_key(tmp_path: Path) -> None:
    async with hearing(tmp_path) as one:
        for bad in (
            {"who": TRUDY},
            {"nonce": THEIR_NONCE},  # another connection's
            {"audience": "mallory.test"},  # made for another relay
            {"run": one.relay.run_id},  # ours: it would replay our nodes to us
        ):
            with refused("denied"):
                one.login(**bad)
        for session in (b"", bytes(32)):
            one.session = session
            with refused("denied: log in again"):
                await one.say()
        one.login()
        assert await one.say() == []
        first = one.session
        one.login(THIRD)
        assert await one.say() == []
        one.login()
        one.session, second = first, one.session
        with refused("denied: log in again"):  # what is still under way of its last connection
            await one.say()
        one.session = second
        assert await one.say() == []
        with pytest.raises(RemoteProtocolError):
            await one.peering.hear(second, b"junk")


# -- accounts


async def test_its_accounts_are_taken_over_by_their_order(tmp_path: Path) -> None:
    async with hearing(tmp_path, ALICE) as one:
        assert one.login() == 0
        denied = account(1, Standing.DENIED)
        pending = account(7, Standing.PENDING)
        with one.relay.line(ALICE.key) as line:
            said = [to_peer(number, each) for number, each in ((1, pending), (2, denied))]
            assert await one.say(*said, replace(said[0], number=3, version=9)) == [None] * 3
            assert line.ended  # it is denied
        assert one.relay.accounts.get(ALICE.key) == denied
        assert one.relay.accounts.get(pending.key) == replace(pending, version=9)
        assert await one.say(to_peer(4, account(1))) == [None]
        assert one.relay.accounts.get(ALICE.key) == denied  # an approval that had not heard of it
        assert one.login() == 4  # from there on
        assert one.login(run=b"x" * 16) == 0
        on_disk = await one.relay.writer.read(lambda store: store.accounts())
        assert {each.key: each for each in on_disk} == {
            denied.key: denied,
            pending.key: replace(pending, version=9),
        }


async def test_accounts_of_a_peer_at_the_maximum_and_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RELAY_ACCOUNTS_MAX", 2)
    async with hearing(tmp_path, ALICE) as one:
        one.login()
        said = [to_peer(number, account(number)) for number in (1, 2, 3)]
        assert await one.say(*said, said[1]) == [None, None, "busy", None]
        assert len(one.relay.accounts) == 2


async def test_its_word_on_accounts_counts_only_where_the_owner_says_so(tmp_path: Path) -> None:
    async with hearing(tmp_path, ALICE, accounts=False) as one:
        await one.relay.writer.write(lambda store: store.add_invite(CODE, 1))
        one.login()
        register = PeerRegister(key=BOB.key, name="bob", code=CODE)
        denied = to_peer(1, account(1, Standing.DENIED))
        assert await one.say(denied, to_peer(2, account(2)), register) == [None, None, "bad_invite"]
        assert len(one.relay.accounts) == 1
        one.relay.accounts.admit(ALICE.key)


async def test_an_invite_that_it_is_asked_about_is_used_up(tmp_path: Path) -> None:
    async with hearing(tmp_path) as one:
        await one.relay.writer.write(lambda store: store.add_invite(CODE, 1))
        one.login()
        bob, trudy = (PeerRegister(key=who.key, name="n", code=CODE) for who in (BOB, TRUDY))
        [value] = await one.say(bob)
        assert decode_account(value).key == BOB.key and decode_account(value).standing == 1
        one.relay.accounts.admit(BOB.key)  # the peer may die now: the account is there
        assert await one.say(trudy) == ["bad_invite"]


# -- nodes


async def test_it_can_neither_forge_nor_replay_announcements(tmp_path: Path) -> None:
    async with hearing(tmp_path, ALICE, BOB) as one:
        one.login()

        def said(data: bytes, age_ms: int = 0) -> PeerAnnounce:
            return PeerAnnounce(announcement=data, age_ms=age_ms)

        good = ALICE.announcement(RUN, 2, BOB)
        broken = good[:80] + bytes([good[80] ^ 1]) + good[81:]
        for bad, code in (
            (broken, "malformed"),
            (b"junk", "malformed"),
            (TRUDY.announcement(RUN, 1, BOB), "not_registered"),
            (ALICE.announcement(one.relay.run_id, 1, BOB), "replayed"),  # said to us
            (ALICE.announcement(b"x" * 16, 1, BOB), "replayed"),
        ):
            assert await one.say(said(bad)) == [code]
        assert await one.say(said(good), said(good)) == [None, "replayed"]
        find = wire.Find(ref=0, node=ALICE.key, grant=b"")
        entry = await one.relay.answer(BOB.key, find)
        assert entry[0] == ALICE.key and entry[3] == ["kitchen"]
        one.login(THIRD, run=b"3" * 16)  # another peer cannot say it either, nor take it back
        assert await one.say(said(good), PeerWithdraw(key=ALICE.key)) == ["replayed", None]
        assert await one.relay.answer(BOB.key, find) == entry
        one.login()
        assert await one.say(PeerWithdraw(key=ALICE.key)) == [None]
        with refused("not_found"):
            await one.relay.answer(BOB.key, find)
        old = said(ALICE.announcement(RUN, 3, BOB), 30_000)
        assert await one.say(old) == [None]
        with refused("not_found"):  # it was over when it came
            await one.relay.answer(BOB.key, find)


# -- mail


async def test_mail_is_taken_for_who_is_here_once(tmp_path: Path) -> None:
    async with hearing(tmp_path, ALICE, BOB) as one:
        one.login()
        assert await one.say(MAIL) == ["not_found"]  # she is not here: it stays where it is
        with one.relay.line(ALICE.key) as line:
            stranger = replace(MAIL, to=TRUDY.key)
            other = replace(MAIL, id=b"2" * 16)
            assert await one.say(MAIL, MAIL, stranger, other) == [None, None, "not_found", None]
            got = [message.id for message in await line.next()]
            assert got == [MAIL.id, other.id]
            assert one.relay.gauges()["waiting_messages"] == 2
        assert await one.say(replace(MAIL, id=b"3" * 16)) == [None]  # between two polls
    async with hearing(tmp_path) as one:  # another life: it was durable
        assert one.relay.gauges()["waiting_messages"] == 3


async def test_a_peer_fills_no_mailbox_beyond_its_bounds(tmp_path: Path) -> None:
    async with hearing(tmp_path, ALICE, BOB) as one:
        one.login()
        with one.relay.line(ALICE.key):
            codes: list[Any] = []
            for number in range(3):
                mail = [
                    replace(MAIL, id=bytes([number, place]) * 8, body=b"") for place in range(250)
                ]
                codes += await one.say(*mail)
        assert codes == [None] * 500 + ["mailbox_full"] * 250


# -- what is asked of it


async def test_an_invite_of_nobody_is_no_secret_of_who_is_away(tmp_path: Path) -> None:
    async with hearing(tmp_path) as one:
        register = BOB.register(NONCE, invite=CODE)
        with refused("busy: the relay that may know this invite is away"):
            await one.relay.enter(register, NONCE, "192.0.2.1")


@asynccontextmanager
async def served(directory: Path, who: Node, listener: Any, peer: PeerConfig) -> AsyncIterator[Any]:
    """A relay that serves at `listener` and keeps in step with one other."""
    store = Store(directory)
    relay = Relay(
        store, names=["127.0.0.1"], entropy=os.urandom, rates=FREE, peers=Peers([peer.key])
    )
    identity = Identity(public_key=who.key, seed=who.seed)
    peering = Peering(relay, [peer], identity, entropy=os.urandom, random=random.random)
    server = Server(Web(relay, entropy=os.urandom, peering=peering).app)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.run)
            nursery.start_soon(peering.run)
            nursery.start_soon(server.serve, [listener])
            yield relay, peering
            nursery.cancel_scope.cancel()
    finally:
        store.close()


async def until_state(peering: Peering, state: str) -> None:
    with trio.fail_after(20):
        while True:
            [(_, _, now)] = peering.states()
            if now.startswith(state):
                return
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_two_find_each_other_and_one_with_another_key_is_not_believed(
    tmp_path: Path,
) -> None:
    async with open_listeners(["127.0.0.1:0"] * 2) as listeners:
        urls = [f"http://127.0.0.1:{one.socket.getsockname()[1]}" for one in listeners]
        to_other = PeerConfig(url=urls[1], key=OTHER.key)
        to_me = PeerConfig(url=urls[0], key=ME.key)
        async with served(tmp_path / "a", ME, listeners[0], to_other) as (mine, peering):
            assert peering.states() == [(OTHER.key, urls[1], CONNECTING)]
            async with served(tmp_path / "b", OTHER, listeners[1], to_me) as (theirs, other):
                await until_state(peering, IN_STEP)
                await until_state(other, IN_STEP)
                async with connect(urls[0]) as http:
                    status, metrics = await http.ask("GET", "/metrics")
                assert status == 200 and b"\ndrupelet_relay_peers_in_step 1\n" in metrics
                await mine.writer.write(lambda store: store.add_invite(CODE, 1))
                register = BOB.register(NONCE, invite=CODE)
                register = replace(
                    register,
                    audience="127.0.0.1",
                    signature=wire.prove(BOB.seed, "register", "127.0.0.1", NONCE),
                )
                assert await theirs.enter(register, NONCE, "192.0.2.1") == BOB.key
                mine.accounts.admit(BOB.key)
                with refused("bad_invite"):
                    await peering.ask(PeerRegister(key=TRUDY.key, name="t", code=CODE))
            await until_state(peering, "away: ")
            written = await mine.writer.read(lambda store: store.peers())
            assert written[0][:2] == (OTHER.key, urls[1])
    async with open_listeners(["127.0.0.1:0"] * 2) as listeners:
        urls = [f"http://127.0.0.1:{one.socket.getsockname()[1]}" for one in listeners]
        to_other = PeerConfig(url=urls[1], key=OTHER.key)
        to_me = PeerConfig(url=urls[0], key=ME.key)
        async with served(tmp_path / "a", ME, listeners[0], to_other) as (_, peering):
            async with served(tmp_path / "c", THIRD, listeners[1], to_me) as (_, third):
                await until_state(third, "away: denied")
                await until_state(peering, "away: the relay there has another key")


async def test_questions_at_the_maximum_and_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RELAY_PEER_QUESTIONS_MAX", 1)
    monkeypatch.setattr(module, "QUESTION_S", 0.05)
    async with hearing(tmp_path) as one:
        for link in one.peering._links.values():
            link.up = True  # a connection on which nothing is answered
        asked = PeerRegister(key=BOB.key, name="b", code=CODE)
        with refused("busy: the relay that may know"):
            await one.peering.ask(asked)
        with refused("busy: too many ask"):
            await one.peering.ask(asked)


async def test_what_waits_is_handed_over_and_then_gone(tmp_path: Path) -> None:
    async with open_listeners(["127.0.0.1:0"] * 2) as listeners:
        urls = [f"http://127.0.0.1:{one.socket.getsockname()[1]}" for one in listeners]
        to_other = PeerConfig(url=urls[1], key=OTHER.key)
        to_me = PeerConfig(url=urls[0], key=ME.key)
        for name in "ab":
            store = Store(tmp_path / name)
            approved(store, ALICE, BOB)
            store.close()
        async with (
            served(tmp_path / "a", ME, listeners[0], to_other) as (mine, _),
            served(tmp_path / "b", OTHER, listeners[1], to_me) as (theirs, _),
        ):
            bodies = [bytes([number]) * 60_000 for number in range(12)]
            for body in bodies:
                said = wire.Send(
                    ref=0,
                    to=ALICE.key,
                    id=os.urandom(16),
                    re=None,
                    kept_s=60,
                    receipt=False,
                    body=body,
                )
                sender = (BOB, ALICE)[body[0] % 2]  # one takes half of it at most
                await mine.answer(sender.key, said)
            with theirs.line(ALICE.key) as line, trio.fail_after(20):
                got: list[bytes] = []
                while len(got) < len(bodies):
                    got += [message.body for message in await line.next()]
            assert got == bodies
            with trio.fail_after(20):
                while mine.gauges()["waiting_messages"]:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            assert mine.counts["messages_handed_over"] == 12
            assert theirs.counts["messages_taken_over"] == 12


async def test_nothing_said_is_a_login_or_a_batch(tmp_path: Path) -> None:
    async with hearing(tmp_path) as one:
        with pytest.raises(RelayRefused):
            await one.peering.hear(b"", encode_batch(0, []))
        present = PeerPresent(fresh=True, come=ALICE.key, gone=BOB.key)
        one.login()
        assert await one.say(present) == [None]
        assert one.relay.peers[OTHER.key].present == {ALICE.key}
