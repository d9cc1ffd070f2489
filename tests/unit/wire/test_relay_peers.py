"""Messages between two relays."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import RemoteProtocolError
from drupelet.wire import relay_peers as wire
from drupelet.wire import sodium
from drupelet.wire.codec import dumps, loads
from drupelet.wire.limits import (
    MAILBOX_KEPT_S,
    RELAY_MESSAGE_BYTES_MAX,
    RELAY_PEER_BATCH_BYTES_MAX,
    RELAY_PEER_BATCH_MESSAGES,
    RELAY_VERSION_TOP,
)
from drupelet.wire.relay import Done, Hello, Refused, check_proof, encode
from tests.people import ALICE, BOB

KEY, OTHER = sodium.ed25519_public(ALICE.key_seed), sodium.ed25519_public(BOB.key_seed)
ID, NONCE, MINE = bytes(16), bytes(32), b"m" * 32
ACCOUNT = wire.PeerAccount(
    number=1, key=KEY, name="alice", email="a@b", standing=1, lifts=0, version=1
)
MAIL = wire.PeerMail(
    to=KEY, sender=OTHER, kind=0, id=ID, re=None, receipt=True, left_s=60, body=b"sealed"
)
MESSAGES: list[wire.PeerMessage] = [
    ACCOUNT,
    wire.PeerAnnounce(announcement=b"x", age_ms=3),
    wire.PeerWithdraw(key=KEY),
    wire.PeerPresent(fresh=True, come=KEY + OTHER, gone=b""),
    MAIL,
    wire.PeerRegister(key=KEY, name="bob@shire", code=ID),
]


def said(*messages: wire.PeerMessage) -> bytes:
    return wire.encode_batch(5, [wire.encode_peer(message) for message in messages])


def changed(message: Any, **fields: Any) -> bytes:
    return said(dataclasses.replace(message, **fields))


def test_a_batch_comes_back_as_it_was() -> None:
    batch = wire.decode_batch(said(*MESSAGES))
    assert (batch.idle_ms, batch.messages) == (5, MESSAGES)
    assert wire.decode_batch(said()).messages == []
    assert wire.keys_in(KEY + OTHER) == [KEY, OTHER]


def test_every_field_has_its_bounds() -> None:
    for good in (
        changed(ACCOUNT, name=""),  # judged before it came
        changed(ACCOUNT, standing=2, lifts=RELAY_VERSION_TOP, version=RELAY_VERSION_TOP),
        changed(MAIL, left_s=MAILBOX_KEPT_S, body=bytes(RELAY_MESSAGE_BYTES_MAX)),
        changed(MESSAGES[3], come=bytes(32 * RELAY_PEER_BATCH_MESSAGES)),
    ):
        wire.decode_batch(good)
    for bad in (
        changed(ACCOUNT, number=0),
        changed(ACCOUNT, name="two words"),
        changed(ACCOUNT, email="a\x1b[2J@b"),
        changed(ACCOUNT, standing=3),
        changed(ACCOUNT, lifts=RELAY_VERSION_TOP + 1),
        changed(ACCOUNT, version=RELAY_VERSION_TOP + 1),
        changed(ACCOUNT, version=0),
        changed(MESSAGES[1], age_ms=-1),
        changed(MESSAGES[3], come=bytes(31)),
        changed(MESSAGES[3], gone=bytes(32 * (RELAY_PEER_BATCH_MESSAGES + 1))),
        changed(MESSAGES[3], fresh=1),
        changed(MAIL, left_s=MAILBOX_KEPT_S + 1),
        changed(MAIL, body=bytes(RELAY_MESSAGE_BYTES_MAX + 1)),
        changed(MAIL, kind=4),
        changed(MESSAGES[5], code=bytes(15)),
        said(MAIL)[:-1],
        dumps([5, [3]]),
        dumps((5, [wire.encode_peer(MAIL)])),  # a tuple has a tag: the same batch in other bytes
        dumps([5, [dumps(tuple(loads(wire.encode_peer(MAIL))))]]),
        dumps([-1, []]),
        dumps([True, []]),
        dumps([5, [encode(Done(ref=0, value=None))]]),
        dumps([5, [wire.encode_peer(_login())]]),
    ):
        with pytest.raises(RemoteProtocolError):
            wire.decode_batch(bad)


def test_a_batch_at_its_maximum_and_one_above() -> None:
    one = wire.encode_peer(wire.PeerWithdraw(key=KEY))
    full = [one] * RELAY_PEER_BATCH_MESSAGES
    assert len(wire.decode_batch(wire.encode_batch(0, full)).messages) == len(full)
    with pytest.raises(RemoteProtocolError, match="batch of 257 messages"):
        wire.decode_batch(dumps([0, [*full, one]]))
    with pytest.raises(RemoteProtocolError, match="batch of"):
        wire.decode_batch(bytes(RELAY_PEER_BATCH_BYTES_MAX + 1))
    largest = wire.encode_peer(dataclasses.replace(MAIL, body=bytes(RELAY_MESSAGE_BYTES_MAX)))
    assert len(wire.encode_batch(0, [largest])) < RELAY_PEER_BATCH_BYTES_MAX


def test_answers_belong_to_their_batch() -> None:
    answers: list[wire.Answer] = [
        Done(ref=0, value=[KEY]),
        Refused(ref=1, code="not_found", text="", retry_after_ms=0),
    ]
    data = wire.encode_answers(answers)
    assert wire.decode_answers(data, 2) == answers
    hello = encode(Hello(version=1, nonce=NONCE, run=ID))
    for bad, count in ((data, 1), (data, 3), (dumps([hello]), 1), (dumps([1]), 1), (b"\x01", 0)):
        with pytest.raises(RemoteProtocolError):
            wire.decode_answers(bad, count)


def _login() -> wire.PeerLogin:
    return wire.decode_login(wire.peer_login(ALICE.key_seed, KEY, "relay.example", NONCE, MINE, ID))


def test_each_of_the_two_proves_its_key_to_the_other() -> None:
    login = _login()
    check_proof(KEY, login.signature, wire.PURPOSE, "relay.example", NONCE)
    with pytest.raises(RemoteProtocolError):  # a node's login is no peer's
        check_proof(KEY, login.signature, "login", "relay.example", NONCE)
    proof = wire.welcome_proof(BOB.key_seed, login)
    welcome = wire.Welcome(session=bytes(32), proof=proof, number=7)
    value = loads(dumps(welcome.value()))
    assert wire.open_welcome(value, OTHER, KEY, MINE) == welcome
    for peer, key, nonce in (
        (KEY, KEY, MINE),  # not whom we wanted
        (OTHER, OTHER, MINE),  # said to another
        (OTHER, KEY, NONCE),  # said before
    ):
        with pytest.raises(RemoteProtocolError):
            wire.open_welcome(value, peer, key, nonce)
    for bad in (None, value[:2], [*value, 1], [bytes(31), proof, 7], [bytes(32), proof, -1]):
        with pytest.raises(RemoteProtocolError):
            wire.open_welcome(bad, OTHER, KEY, MINE)


def test_ages_are_never_told_too_young() -> None:
    assert [wire.age_ms(age) for age in (-1.0, 0.0, 0.0011, 1e9)] == [0, 0, 2, 60_000]


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_nothing_but_a_refusal_comes_of_junk(data: bytes) -> None:
    for decode in (wire.decode_batch, wire.decode_login):
        with pytest.raises(RemoteProtocolError):
            decode(dumps([1, [data]]) if data[:1] < b"\x80" else data)
