"""Messages between a node and a relay."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import RemoteProtocolError
from drupelet.wire import relay, sodium
from drupelet.wire.codec import dumps, loads
from drupelet.wire.limits import (
    MAILBOX_KEPT_S,
    PAIR_PLATES,
    PAIR_RELAYED_BYTES_MAX,
    RELAY_FRAME_BYTES_MAX,
    RELAY_MESSAGE_BYTES_MAX,
)
from tests.people import ALICE, BOB

KEY = sodium.ed25519_public(ALICE.key_seed)
ID = bytes(range(16))
NONCE = bytes(range(32))
SEND = relay.Send(ref=1, to=KEY, id=ID, re=None, kept_s=60, receipt=True, body=b"sealed")
PAIR = relay.Pair(ref=10, to=KEY, plate=7, id=ID, re=None, body=b"signed")

FROM_NODE: list[relay.FromNode] = [
    relay.Login(ref=1, key=KEY, audience="relay.example", signature=bytes(64)),
    relay.Register(
        ref=1, key=KEY, audience="r", signature=bytes(64), name="a", invite=ID, email=None
    ),
    relay.Register(
        ref=1, key=KEY, audience="r", signature=bytes(64), name="a", invite=None, email="a@b"
    ),
    relay.Announce(ref=2, announcement=b"x"),
    SEND,
    relay.Ack(ref=4, number=9),
    relay.Catalogue(ref=5, after=b""),
    relay.Catalogue(ref=5, after=KEY),
    relay.Find(ref=6, node=KEY, grant=b""),
    relay.Withdraw(ref=7),
    relay.ShowPlate(ref=8, plate=PAIR_PLATES - 1, kept_s=300),
    relay.ShowPlate(ref=8, plate=None, kept_s=300),
    relay.FindPlate(ref=9, plate=0),
    PAIR,
]
FROM_RELAY: list[relay.FromRelay] = [
    relay.Hello(version=1, nonce=NONCE, run=ID),
    relay.Done(ref=1, value=[KEY, "x"]),
    relay.Refused(ref=1, code="denied", text="", retry_after_ms=0),
    relay.Deliver(number=1, kind=relay.RECEIPT, sender=KEY, id=ID, re=ID, body=b""),
]


def test_round_trips() -> None:
    for said in FROM_NODE:
        assert relay.decode_from_node(relay.encode(said)) == said
        with pytest.raises(RemoteProtocolError):
            relay.decode_from_relay(relay.encode(said))
    for told in FROM_RELAY:
        assert relay.decode_from_relay(relay.encode(told)) == told
        with pytest.raises(RemoteProtocolError):
            relay.decode_from_node(relay.encode(told))


def test_a_field_too_many_or_too_few_is_refused() -> None:
    for said in FROM_NODE:
        parts = loads(relay.encode(said))
        for changed in ([*parts, None], parts[:-1], tuple(parts)):
            with pytest.raises(RemoteProtocolError, match="malformed"):
                relay.decode_from_node(dumps(changed))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*FROM_NODE]), st.data())
def test_a_field_of_another_kind_is_refused(said: relay.FromNode, data: st.DataObject) -> None:
    parts = loads(relay.encode(said))
    at = data.draw(st.integers(0, len(parts) - 1))
    parts[at] = data.draw(st.sampled_from([1.5, {}, [], "x" * 600, -1, bytes(7_000) * 40]))
    with pytest.raises(RemoteProtocolError):
        relay.decode_from_node(dumps(parts))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100))
def test_junk_is_refused(junk: bytes) -> None:
    for decode in (relay.decode_from_node, relay.decode_from_relay):
        with pytest.raises(RemoteProtocolError):
            decode(junk)


def test_bounds_at_the_maximum_and_one_above() -> None:
    for field, top in (("kept_s", MAILBOX_KEPT_S), ("ref", 2**63 - 1)):
        most = dataclasses.replace(SEND, **{field: top})
        assert relay.decode_from_node(relay.encode(most)) == most
    parts = loads(relay.encode(SEND))
    with pytest.raises(RemoteProtocolError, match="kept_s"):
        relay.decode_from_node(dumps([*parts[:5], MAILBOX_KEPT_S + 1, *parts[6:]]))
    body = bytes(RELAY_MESSAGE_BYTES_MAX)
    most = dataclasses.replace(SEND, body=body)
    assert relay.decode_from_node(relay.encode(most)) == most
    with pytest.raises(RemoteProtocolError, match="body"):
        relay.decode_from_node(relay.encode(dataclasses.replace(SEND, body=body + b"x")))
    with pytest.raises(RemoteProtocolError, match="at most"):
        relay.decode_from_node(bytes(RELAY_FRAME_BYTES_MAX + 1))


def test_plates_and_words_of_a_pairing_have_bounds() -> None:
    for said in (
        relay.ShowPlate(ref=1, plate=PAIR_PLATES, kept_s=1),
        relay.FindPlate(ref=1, plate=PAIR_PLATES),
        relay.FindPlate(ref=1, plate=-1),
        relay.FindPlate(ref=1, plate=None),
    ):  # type: ignore[arg-type]
        with pytest.raises(RemoteProtocolError, match="malformed plate"):
            relay.decode_from_node(relay.encode(said))
    body = bytes(PAIR_RELAYED_BYTES_MAX)
    most = dataclasses.replace(PAIR, body=body)
    assert relay.decode_from_node(relay.encode(most)) == most
    with pytest.raises(RemoteProtocolError, match="body"):
        relay.decode_from_node(relay.encode(dataclasses.replace(PAIR, body=body + b"x")))


def test_an_invite_or_an_address_not_both() -> None:
    for invite, email in ((None, None), (ID, "a@b")):
        said = relay.Register(
            ref=1, key=KEY, audience="r", signature=bytes(64), name="", invite=invite, email=email
        )
        with pytest.raises(RemoteProtocolError, match="invite"):
            relay.decode_from_node(relay.encode(said))


def test_a_proof_is_for_one_purpose_relay_nonce_and_key() -> None:
    proof = relay.prove(ALICE.key_seed, "login", "relay.example", NONCE)
    relay.check_proof(KEY, proof, "login", "relay.example", NONCE)
    bob = sodium.ed25519_public(BOB.key_seed)
    for wrong in (
        (bob, proof, "login", "relay.example", NONCE),
        (KEY, proof, "register", "relay.example", NONCE),
        (KEY, proof, "login", "mallory.example", NONCE),
        (KEY, proof, "login", "relay.example", bytes(32)),
        (KEY, bytes(64), "login", "relay.example", NONCE),
    ):
        with pytest.raises(RemoteProtocolError):
            relay.check_proof(*wrong)


def test_a_refusal_says_its_code() -> None:
    refusal = relay.RelayRefused("rate_limited", "slowly", 2.5)
    assert str(refusal) == "rate_limited: slowly" and refusal.retry_after_s == 2.5
    assert str(relay.RelayRefused("denied")) == "denied"
