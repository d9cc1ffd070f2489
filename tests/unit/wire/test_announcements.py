"""Announcements: what comes out is what a node signed, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import RemoteProtocolError
from drupelet.wire import announcements, sodium
from drupelet.wire.announcements import (
    decode_announcement,
    decode_beacon,
    encode_announcement,
    encode_offers,
    encode_shown,
    holder_digest,
    holds,
)
from drupelet.wire.codec import dumps, loads
from drupelet.wire.limits import RELAY_HOLDERS_MAX, RELAY_MISSIONS_MAX
from tests.people import ALICE, BOB, MALLORY

NODE = sodium.ed25519_public(ALICE.key_seed)
HOLDER = sodium.ed25519_public(BOB.key_seed)
OTHER = sodium.ed25519_public(MALLORY.key_seed)
OFFERS = encode_offers(NODE, {"kitchen": (HOLDER,), "garden": ()})


def announced(**changed: Any) -> bytes:
    fields: dict[str, Any] = {
        "name": "gandalf@shire",
        "boot_key": bytes(31) + b"k",
        "token": bytes(15) + b"t",
        "run": bytes(15) + b"r",
        "sequence": 7,
        "offers": OFFERS,
    }
    return encode_announcement(ALICE.key_seed, **{**fields, **changed})


def test_round_trip() -> None:
    announcement = decode_announcement(announced())
    beacon = announcement.beacon
    assert (beacon.key, beacon.name, beacon.sequence) == (NODE, "gandalf@shire", 7)
    assert announcement.offers is not None
    assert holds(announcement.offers["kitchen"], holder_digest(NODE, HOLDER))
    assert not holds(announcement.offers["kitchen"], holder_digest(NODE, OTHER))
    assert announcement.offers["garden"] == b""
    assert decode_beacon(beacon.data) == beacon
    assert b"kitchen" not in beacon.data  # others do not see what is offered
    assert decode_announcement(announced(with_offers=False)).offers is None


def test_there_is_one_form_of_each_and_one_for_another_relay() -> None:
    for with_offers in (True, False):
        data = announced(with_offers=with_offers)
        found = decode_announcement(data)
        assert encode_shown(found.beacon.data, found.offers) == data
        with pytest.raises(RemoteProtocolError):
            decode_announcement(dumps(tuple(loads(data))))
        with pytest.raises(RemoteProtocolError):
            decode_beacon(dumps(tuple(loads(found.beacon.data))))


def test_a_digest_is_found_at_its_place_only() -> None:
    digest = holder_digest(NODE, HOLDER)
    across = b"x" * 8 + digest + b"y" * 8
    assert not holds(across, digest)
    assert holds(across + digest, digest)
    assert holds(digest, digest) and not holds(b"", digest)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_changed_is_refused(data: st.DataObject) -> None:
    good = announced()
    at = data.draw(st.integers(0, len(good) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = bytearray(good)
    changed[at] ^= 1 << bit
    with pytest.raises(RemoteProtocolError):
        decode_announcement(bytes(changed))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_junk_is_refused(junk: bytes) -> None:
    for decode in (decode_announcement, decode_beacon):
        with pytest.raises(RemoteProtocolError):
            decode(junk)


def test_offers_of_another_announcement_are_refused() -> None:
    content, signature, _ = loads(announced())
    with pytest.raises(RemoteProtocolError, match="others"):
        decode_announcement(dumps([content, signature, encode_offers(NODE, {})]))


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "no name!"},
        {"token": b"short"},
        {"boot_key": bytes(33)},
        {"run": b""},
        {"sequence": 0},
        {"sequence": 2**62},
        {"sequence": True},
        {"name": 5},
    ],
)
def test_what_is_no_beacon_is_not_made(changed: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        announced(**changed)


def test_the_longest_name_fits() -> None:
    name = "n" * 63 + "@" + "h" * 253
    assert decode_beacon(decode_announcement(announced(name=name)).beacon.data).name == name


def test_offers_at_the_maximum_and_one_above() -> None:
    keys = tuple(number.to_bytes(32, "big") for number in range(RELAY_HOLDERS_MAX + 1))
    most = encode_offers(NODE, {"kitchen": keys[:-1]})
    assert decode_announcement(announced(offers=most)).offers is not None
    with pytest.raises(ValueError, match="holders"):
        encode_offers(NODE, {"kitchen": keys})
    names: dict[str, tuple[bytes, ...]] = {f"m{i}": () for i in range(RELAY_MISSIONS_MAX)}
    encode_offers(NODE, names)
    with pytest.raises(ValueError, match="missions"):
        encode_offers(NODE, {**names, "more": ()})


def test_too_many_bytes() -> None:
    with pytest.raises(RemoteProtocolError, match="bytes"):
        decode_announcement(bytes(40_000))
    with pytest.raises(RemoteProtocolError, match="bytes"):
        decode_beacon(bytes(1_000))
    with pytest.raises(RemoteProtocolError, match="offers of"):
        announcements._decode_offers(bytes(32_769))
