"""Plates, and the words of two that pair through a relay."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.errors import CallError, NotPermitted, RemoteError, RemoteProtocolError
from drupelet.wire import sodium
from drupelet.wire.codec import dumps
from drupelet.wire.limits import (
    GRANT_ADDRESSES_MAX,
    HOST_CHARS_MAX,
    NAME_CHARS_MAX,
    PAIR_MESSAGE_BYTES_MAX,
    PAIR_PLATES,
    PAIR_RELAYED_BYTES_MAX,
)
from drupelet.wire.pairing import CODE_LETTERS, ENTROPY_BYTES, make_code
from drupelet.wire.relayed_pairing import (
    ASK_DOMAIN,
    Ask,
    Met,
    decode_answer,
    decode_ask,
    decode_met,
    encode_answer,
    encode_ask,
    encode_met,
    plate_of,
    session_of,
)
from drupelet.wire.signing import sign
from tests.people import ALICE, BOB, MALLORY

SEEDS = {each.name: each.key_seed for each in (ALICE, BOB, MALLORY)}
KEYS = {name: sodium.ed25519_public(seed) for name, seed in SEEDS.items()}
RUN, RE, ISK = b"r" * 32, b"i" * 16, b"k" * 64
ASK = Ask(run=RUN, step="start", name="bob", payload=b"share")
MET = Met(name="alice", addresses=(("192.0.2.1", 4370),), payload=b"handed")


# -- plates


def test_codes_are_spread_over_the_plates_and_a_typing_error_changes_it() -> None:
    codes = [make_code(bytes(ENTROPY_BYTES - 4) + n.to_bytes(4, "big")) for n in range(40_000)]
    counts = Counter(map(plate_of, codes))
    assert set(counts) <= set(range(PAIR_PLATES))
    assert len(counts) > 0.99 * PAIR_PLATES
    assert max(counts.values()) < 40
    code = "ABCDEFGH"
    mistyped = [code[:at] + "Z" + code[at + 1 :] for at in range(CODE_LETTERS)]
    assert plate_of(code) not in map(plate_of, mistyped)


# -- words


def test_an_ask_is_heard_by_whom_it_is_for() -> None:
    said = encode_ask(SEEDS["bob"], KEYS["alice"], ASK)
    assert decode_ask(said, KEYS["bob"], KEYS["alice"]) == ASK
    for sender, own in (("mallory", "alice"), ("bob", "mallory")):
        with pytest.raises(RemoteProtocolError):
            decode_ask(said, KEYS[sender], KEYS[own])


def test_an_answer_is_to_one_ask_of_one_run() -> None:
    said = encode_answer(SEEDS["alice"], KEYS["bob"], RUN, RE, b"share")
    good = (KEYS["alice"], KEYS["bob"], RUN, RE)
    assert decode_answer(said, *good) == b"share"
    for at, wrong in enumerate((KEYS["mallory"], KEYS["mallory"], bytes(32), bytes(16))):
        with pytest.raises(RemoteProtocolError):
            decode_answer(said, *good[:at], wrong, *good[at + 1 :])
    with pytest.raises(RemoteProtocolError):  # an ask is no answer
        decode_answer(encode_ask(SEEDS["alice"], KEYS["bob"], ASK), *good)


@pytest.mark.parametrize("error", [NotPermitted(), RemoteError("wrong_code", "burnt")])
def test_a_refusal_is_told_as_it_was(error: CallError) -> None:
    said = encode_answer(SEEDS["alice"], KEYS["bob"], RUN, RE, error)
    with pytest.raises(type(error), match=str(error)):
        decode_answer(said, KEYS["alice"], KEYS["bob"], RUN, RE)


@pytest.mark.parametrize(
    "fields", [{1: b"x"}, {2: b"r"}, {3: "look"}, {4: ""}, {4: "a b"}, {5: None}, {6: 1}]
)
def test_other_asks_are_refused_though_signed(fields: dict[int, object]) -> None:
    good: dict[int, object] = {1: KEYS["alice"], 2: RUN, 3: "start", 4: "bob", 5: b"share"}
    for changed, holds in ((good, True), (good | fields, False)):
        content = dumps(changed)
        data = dumps([content, sign(SEEDS["bob"], ASK_DOMAIN, content).signature])
        if holds:
            assert decode_ask(data, KEYS["bob"], KEYS["alice"]) == ASK
        else:
            with pytest.raises(RemoteProtocolError):
                decode_ask(data, KEYS["bob"], KEYS["alice"])


@given(st.data())
def test_a_word_that_was_altered_is_refused(data: st.DataObject) -> None:
    said = bytearray(encode_ask(SEEDS["bob"], KEYS["alice"], ASK))
    said[data.draw(st.integers(0, len(said) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(RemoteProtocolError):
        decode_ask(bytes(said), KEYS["bob"], KEYS["alice"])


@given(st.binary(max_size=200))
def test_junk_is_refused(junk: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_ask(junk, KEYS["bob"], KEYS["alice"])
    with pytest.raises(RemoteProtocolError):
        decode_answer(junk, KEYS["alice"], KEYS["bob"], RUN, RE)
    with pytest.raises(RemoteProtocolError):
        decode_met(ISK, "step", junk)


def test_the_largest_grant_fits_and_one_byte_more_is_refused() -> None:
    most = Met(
        name="a" * NAME_CHARS_MAX,
        addresses=(("h" * HOST_CHARS_MAX, 65_535),) * GRANT_ADDRESSES_MAX,
        payload=bytes(PAIR_MESSAGE_BYTES_MAX),
    )
    said = encode_answer(SEEDS["alice"], KEYS["bob"], RUN, RE, encode_met(ISK, "step", most))
    assert len(said) <= PAIR_RELAYED_BYTES_MAX
    payload = decode_answer(said, KEYS["alice"], KEYS["bob"], RUN, RE)
    assert decode_met(ISK, "step", payload) == most
    with pytest.raises(RemoteProtocolError, match="too long"):
        decode_ask(bytes(PAIR_RELAYED_BYTES_MAX + 1), KEYS["bob"], KEYS["alice"])


# -- what is handed over


def test_what_is_handed_over_opens_in_its_run_and_step_only() -> None:
    box = encode_met(ISK, "step", MET)
    assert b"handed" not in box and b"192.0.2.1" not in box
    assert decode_met(ISK, "step", box) == MET
    for isk, step in ((b"l" * 64, "step"), (ISK, "done")):
        with pytest.raises(RemoteProtocolError, match="another code"):
            decode_met(isk, step, box)
    for at in (0, 31, 32, len(box) - 1):
        with pytest.raises(RemoteProtocolError):
            decode_met(ISK, "step", box[:at] + bytes([box[at] ^ 1]) + box[at + 1 :])


@pytest.mark.parametrize(
    "bad",
    [
        replace(MET, name=""),
        replace(MET, addresses=(("", 1),)),
        replace(MET, addresses=(("h", 0),)),
        replace(MET, addresses=(("h", 1),) * (GRANT_ADDRESSES_MAX + 1)),
    ],
)
def test_what_cannot_be_is_refused_from_who_has_the_code_too(bad: Met) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_met(ISK, "step", encode_met(ISK, "step", bad))


def test_the_session_has_both_keys_the_run_and_the_name() -> None:
    good = (RUN, KEYS["bob"], KEYS["alice"], "bob")
    sessions = {session_of(*good)}
    for at, other in enumerate((bytes(32), KEYS["mallory"], KEYS["mallory"], "eve")):
        sessions.add(session_of(*good[:at], other, *good[at + 1 :]))  # type: ignore[arg-type]
    sessions.add(session_of(RUN, KEYS["alice"], KEYS["bob"], "bob"))
    assert len(sessions) == 6
