"""The bytes of words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.errors import RemoteProtocolError
from drupelet.wire import sodium
from drupelet.wire.codec import dumps
from drupelet.wire.limits import FRAGMENT_BYTES_MAX, WORD_BYTES_MAX
from drupelet.wire.signing import sign
from drupelet.wire.words import (
    PREFIX,
    WORD_DOMAIN,
    Word,
    _key,
    decode_word,
    encode_word,
    id_of,
    is_word,
    word_id,
)
from tests.people import ALICE, BOB, MALLORY

SEEDS = {each.name: each.key_seed for each in (ALICE, BOB, MALLORY)}
KEYS = {name: sodium.ed25519_public(seed) for name, seed in SEEDS.items()}
SECRET, SALT = b"s" * 16, b"a" * 16
WORD = Word(boot=b"b" * 16, number=7, cast=b"grants/send and so on")


def said(word: Word = WORD, **changed: bytes) -> bytes:
    fields = {"seed": SEEDS["bob"], "secret": SECRET, "to": KEYS["alice"], "salt": SALT}
    return encode_word(word=word, **{**fields, **changed})


def test_a_word_is_opened_by_whom_it_is_for() -> None:
    data = said()
    assert is_word(data) and id_of(data) == word_id(SECRET, KEYS["alice"])
    assert decode_word(data, SECRET, KEYS["bob"], KEYS["alice"]) == WORD
    assert WORD.cast not in data and SECRET not in data and KEYS["bob"] not in data
    for secret, sender, own in (
        (bytes(16), "bob", "alice"),
        (SECRET, "mallory", "alice"),  # the relay says that another sent it
        (SECRET, "bob", "mallory"),
        (SECRET, "alice", "bob"),  # ours, sent back
    ):
        with pytest.raises(RemoteProtocolError):
            decode_word(data, secret, KEYS[sender], KEYS[own])


def test_who_learned_the_secret_is_not_the_holder() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_word(said(seed=SEEDS["mallory"]), SECRET, KEYS["bob"], KEYS["alice"])


def test_each_word_has_a_key_of_its_own() -> None:
    keys = {_key(SECRET, KEYS[to], salt) for to in ("alice", "bob") for salt in (SALT, bytes(16))}
    assert len(keys) == 4
    assert word_id(SECRET, KEYS["alice"]) != word_id(SECRET, KEYS["bob"])


@given(st.data())
def test_a_word_that_was_altered_is_refused(data: st.DataObject) -> None:
    word = bytearray(said())
    word[data.draw(st.integers(0, len(word) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(RemoteProtocolError):
        decode_word(bytes(word), SECRET, KEYS["bob"], KEYS["alice"])


@given(st.binary(max_size=200))
def test_junk_is_refused(junk: bytes) -> None:
    for data in (junk, PREFIX + junk, PREFIX + word_id(SECRET, KEYS["alice"]) + junk):
        assert len(id_of(data)) in (0, 16)
        with pytest.raises(RemoteProtocolError):
            decode_word(data, SECRET, KEYS["bob"], KEYS["alice"])


@pytest.mark.parametrize(
    "fields",
    [{1: b"x"}, {2: b"b"}, {3: 0}, {3: True}, {3: -1}, {4: None}, {5: 1}],
)
def test_what_cannot_be_is_refused_though_signed(fields: dict[int, object]) -> None:
    good: dict[int, object] = {1: KEYS["alice"], 2: WORD.boot, 3: WORD.number, 4: WORD.cast}
    for changed, holds in ((good, True), (good | fields, False)):
        content = dumps(changed)
        text = dumps([content, sign(SEEDS["bob"], WORD_DOMAIN, content).signature])
        box = sodium.encrypt(_key(SECRET, KEYS["alice"], SALT), 0, text)
        data = PREFIX + word_id(SECRET, KEYS["alice"]) + SALT + box
        if holds:
            assert decode_word(data, SECRET, KEYS["bob"], KEYS["alice"]) == WORD
        else:
            with pytest.raises(RemoteProtocolError):
                decode_word(data, SECRET, KEYS["bob"], KEYS["alice"])


def test_the_largest_fits_and_one_byte_more_is_refused() -> None:
    most = replace(WORD, cast=bytes(FRAGMENT_BYTES_MAX), number=2**63 - 1)
    data = said(most)
    assert len(data) <= WORD_BYTES_MAX
    assert decode_word(data, SECRET, KEYS["bob"], KEYS["alice"]) == most
    with pytest.raises(RemoteProtocolError, match="too long"):
        decode_word(data + bytes(WORD_BYTES_MAX), SECRET, KEYS["bob"], KEYS["alice"])
