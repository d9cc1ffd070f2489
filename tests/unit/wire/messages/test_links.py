"""Link messages: round trip, every field's bound, nothing but RemoteProtocolError."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.wire import codec, limits
from drupelet.wire.messages.links import (
    CAPABILITIES_MAX,
    CAPABILITY_CHARS_MAX,
    INCARNATION_MAX,
    REASON_CHARS_MAX,
    SOFTWARE_CHARS_MAX,
    VERSION_MAX,
    VERSIONS_COUNT_MAX,
    PeerIntroduction,
    Refusal,
    Welcome,
    decode_answer,
    decode_welcome,
    encode_introduction,
    encode_refusal,
    encode_welcome,
)

INTRODUCTION = PeerIntroduction(
    key=b"k" * 32,
    signature=b"s" * 64,
    name="gandalf",
    incarnation=7,
    port=4370,
    versions=(1,),
    software="0.1.0",
    capabilities=("zstd",),
)
LARGEST = PeerIntroduction(
    key=b"\xff" * 32,
    signature=b"\xff" * 64,
    name="n" * limits.NAME_CHARS_MAX + "@" + "h" * limits.HOST_CHARS_MAX,
    incarnation=INCARNATION_MAX,
    port=65_535,
    versions=(VERSION_MAX,) * VERSIONS_COUNT_MAX,
    software="v" * SOFTWARE_CHARS_MAX,
    capabilities=("c" * CAPABILITY_CHARS_MAX,) * CAPABILITIES_MAX,
    expect=b"\xff" * 32,
)


@pytest.mark.parametrize("message", [INTRODUCTION, LARGEST, replace(INTRODUCTION, port=0)])
def test_introduction_round_trip(message: PeerIntroduction) -> None:
    assert decode_answer(encode_introduction(message)) == message


def test_the_largest_introduction_fits_its_handshake_message() -> None:
    overhead = 2 + 32 + (32 + 16) + 16  # length, e, s with tag, the payload's tag
    assert len(encode_introduction(LARGEST)) + overhead <= limits.HANDSHAKE_BYTES_MAX


def test_refusal_round_trip() -> None:
    message = Refusal("version", (1, 2))
    assert decode_answer(encode_refusal(message)) == message


WRONG_FIELDS: list[dict[str, Any]] = [
    {"key": b"k" * 31},
    {"key": b"k" * 33},
    {"key": "k" * 32},
    {"signature": b"s" * 63},
    {"signature": b"s" * 65},
    {"name": ""},
    {"name": "n" * (limits.NAME_CHARS_MAX + 1)},
    {"name": "-dash"},
    {"name": "a/b"},
    {"name": "new\nline"},
    {"name": "gand\u0430lf"},
    {"name": b"gandalf"},
    {"incarnation": -1},
    {"incarnation": True},
    {"incarnation": 1.0},
    {"port": -1},
    {"port": 65_536},
    {"port": False},
    {"versions": []},
    {"versions": [1] * (VERSIONS_COUNT_MAX + 1)},
    {"versions": [-1]},
    {"versions": [VERSION_MAX + 1]},
    {"versions": [True]},
    {"versions": ["1"]},
    {"software": ""},
    {"software": "v" * (SOFTWARE_CHARS_MAX + 1)},
    {"software": "\x1b[31m"},
    {"software": "0.1.0\u00e9"},
    {"capabilities": ["c"] * (CAPABILITIES_MAX + 1)},
    {"capabilities": ["c" * (CAPABILITY_CHARS_MAX + 1)]},
    {"capabilities": [""]},
    {"capabilities": [1]},
    {"capabilities": "zstd"},
    {"expect": b"k" * 31},
    {"expect": None},
    {"unknown": 1},
]


@pytest.mark.parametrize("wrong", WRONG_FIELDS, ids=repr)
def test_every_wrong_field_is_refused(wrong: dict[str, Any]) -> None:
    fields = codec.loads(encode_introduction(INTRODUCTION))
    decode_answer(codec.dumps(fields))
    with pytest.raises(RemoteProtocolError):
        decode_answer(codec.dumps(fields | wrong))


@pytest.mark.parametrize("missing", sorted(codec.loads(encode_introduction(INTRODUCTION))))
def test_every_field_is_needed(missing: str) -> None:
    fields = codec.loads(encode_introduction(INTRODUCTION))
    del fields[missing]
    with pytest.raises(RemoteProtocolError):
        decode_answer(codec.dumps(fields))


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"port": 65_536}, {"incarnation": -1}, {"software": "v" * 65}], ids=repr
)
def test_our_own_wrong_introduction_is_our_fault(wrong: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        encode_introduction(replace(INTRODUCTION, **wrong))


@pytest.mark.parametrize(
    "fields",
    [
        {"refused": "no such word", "versions": [1]},
        {"refused": "version", "versions": []},
        {"refused": "version"},
        {"refused": 1, "versions": [1]},
        {"refused": "version", "versions": [1], "more": 1},
        [],
        "version",
        None,
    ],
    ids=repr,
)
def test_wrong_refusals_are_refused(fields: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_answer(codec.dumps(fields))


@pytest.mark.parametrize(
    "message",
    [
        Welcome(ring="member"),
        Welcome(ring="stranger", refused="name_taken"),
        Welcome(
            ring="member", declared_down_incarnation=INCARNATION_MAX, declared_down_reason="silent"
        ),
        Welcome(ring="member", refused="r" * REASON_CHARS_MAX),
    ],
    ids=repr,
)
def test_welcome_round_trip(message: Welcome) -> None:
    assert decode_welcome(encode_welcome(message)) == message


@pytest.mark.parametrize(
    "wrong",
    [
        {"ring": "operator"},
        {"ring": 1},
        {"refused": "r" * (REASON_CHARS_MAX + 1)},
        {"refused": ""},
        {"refused": 1},
        {"declared_down_incarnation": 5},
        {"declared_down_reason": "down"},
        {"declared_down_incarnation": -1, "declared_down_reason": "down"},
        {"declared_down_incarnation": True, "declared_down_reason": "down"},
        {"declared_down_incarnation": 1.5, "declared_down_reason": "down"},
        {"more": 1},
    ],
    ids=repr,
)
def test_every_wrong_welcome_is_refused(wrong: dict[str, Any]) -> None:
    fields = codec.loads(encode_welcome(Welcome(ring="member")))
    with pytest.raises(RemoteProtocolError):
        decode_welcome(codec.dumps(fields | wrong))


SCALARS = (
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4) | st.binary(max_size=4)
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.sampled_from([*codec.loads(encode_introduction(LARGEST)), "refused", "ring"]),
        SCALARS | st.lists(SCALARS, max_size=3),
    ),
    st.booleans(),
)
def test_any_map_is_decoded_or_refused(fields: dict[str, object], complete: bool) -> None:
    base = codec.loads(encode_introduction(INTRODUCTION)) if complete else {}
    for decode in (decode_answer, decode_welcome):
        with contextlib.suppress(RemoteProtocolError):
            decode(codec.dumps(base | fields))
