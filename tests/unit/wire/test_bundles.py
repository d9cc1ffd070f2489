"""Bundles: what is in one, and what is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.errors import RemoteProtocolError
from drupelet.wire.bundles import (
    Bundle,
    bundle_problem,
    content_of_kept,
    decode_bundle,
    encode_bundle,
    mission_problem,
    module_problem,
    sources_of,
)
from drupelet.wire.codec import dumps, loads
from drupelet.wire.limits import (
    BUNDLE_BYTES_MAX,
    BUNDLE_MODULE_BYTES_MAX,
    BUNDLE_MODULES_MAX,
    BUNDLE_SOURCE_BYTES_MAX,
    NAME_CHARS_MAX,
)

KVS = Bundle(mission="kvs", load=("kvs",), modules={"kvs": b"x = 1\n"}, sequence=3)
VECTORS = Path(__file__).parents[2] / "vectors" / "bad-inputs.json"
HOSTILE = json.loads(VECTORS.read_text())["paths"]


def test_there_and_back() -> None:
    assert decode_bundle(encode_bundle(KVS)) == KVS


def test_the_bytes_of_one() -> None:
    assert encode_bundle(KVS).hex() == (
        "a5"
        "646c6f6164" "81636b7673"
        "676d697373696f6e" "636b7673"
        "676d6f64756c6573" "a1636b7673" "4678203d20310a"
        "6776657273696f6e" "01"
        "6873657175656e6365" "03"
    )  # fmt: skip


def test_the_vectors_were_read() -> None:
    assert len(HOSTILE) == 33


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name: str) -> None:
    stem = name.removesuffix(".py")
    for hostile in (name, stem):
        assert module_problem(hostile)
        assert mission_problem(hostile)
        bundle = replace(KVS, load=(hostile,), modules={hostile: b""})
        with pytest.raises(ValueError, match="no module name|cannot be the name|too long"):
            encode_bundle(bundle)
        fields = loads(encode_bundle(KVS)) | {"load": [hostile], "modules": {hostile: b""}}
        with pytest.raises(RemoteProtocolError, match="bundle: "):
            decode_bundle(dumps(fields))
        with pytest.raises(RemoteProtocolError, match="bundle: "):
            decode_bundle(dumps(loads(encode_bundle(KVS)) | {"mission": hostile}))


@pytest.mark.parametrize(
    "name", ["_a", "__init__", "a.b", "kvs.py", "a-b", "1a", "é", "ａ", "a\n", 
             "drupelet", "SITE", "Nul", "com1", "LPT9", "a" * (NAME_CHARS_MAX + 1), 7, None, b"a"]
)  # fmt: skip
def test_no_module_names(name: object) -> None:
    assert module_problem(name)


@pytest.mark.parametrize("name", ["kvs", "Kitchen", "a1_b", "a" * NAME_CHARS_MAX, "match", "main"])
def test_module_names(name: str) -> None:
    assert module_problem(name) == ""


def test_no_name_that_stands_in_for_another() -> None:
    taken = sys.stdlib_module_names
    for name in ("os", "json", "sys", "asyncio"):
        assert "stand in" in module_problem(name, taken)
        assert module_problem(name) == ""
    content = encode_bundle(replace(KVS, load=("os",), modules={"os": b""}))
    with pytest.raises(RemoteProtocolError, match="stand in"):
        decode_bundle(content, taken)


@pytest.mark.parametrize(
    "name", ["node", "code", "process", "-x", "_x", "a/b", "a.b", "", "x" * 64]
)
def test_no_mission_names(name: str) -> None:
    assert mission_problem(name)


def _sized(*sizes: int) -> Bundle:
    modules = {f"m{number}": b"#" * size for number, size in enumerate(sizes)}
    return Bundle(mission="m", load=tuple(modules), modules=modules)


def test_maxima() -> None:
    most = BUNDLE_MODULE_BYTES_MAX
    for good in (_sized(*[0] * BUNDLE_MODULES_MAX), _sized(most), _sized(most, most, most, most)):
        assert decode_bundle(encode_bundle(good)) == good
    assert "1 to 64" in bundle_problem(_sized(*[0] * (BUNDLE_MODULES_MAX + 1)))
    assert "1 to 64" in bundle_problem(_sized())
    assert str(most + 1) in bundle_problem(_sized(most + 1))
    assert str(BUNDLE_SOURCE_BYTES_MAX + 1) in bundle_problem(_sized(most, most, most, most, 1))
    long = "m" * (NAME_CHARS_MAX - 2)
    modules = {f"{long}{number:02}": b"#" * (BUNDLE_SOURCE_BYTES_MAX // 64) for number in range(64)}
    largest = Bundle(mission="m" * 63, load=tuple(modules), modules=modules, sequence=2**62 - 1)
    assert len(encode_bundle(largest)) <= BUNDLE_BYTES_MAX
    assert decode_bundle(encode_bundle(largest)) == largest


def test_a_length_is_refused_before_anything_is_decoded() -> None:
    with pytest.raises(RemoteProtocolError, match=f"at most {BUNDLE_BYTES_MAX}"):
        decode_bundle(bytes(BUNDLE_BYTES_MAX + 1))
    with pytest.raises(RemoteProtocolError, match="malformed|after the value"):
        decode_bundle(bytes(BUNDLE_BYTES_MAX))


@pytest.mark.parametrize(
    "change",
    [
        {"load": []},
        {"load": ["kvs", "kvs"]},
        {"load": ["other"]},
        {"load": [1]},
        {"load": "kvs"},
        {"mission": 1},
        {"mission": "code"},
        {"modules": []},
        {"modules": {}},
        {"modules": {"kvs": "text"}},
        {"modules": {1: b""}},
        {"sequence": 0},
        {"sequence": -1},
        {"sequence": True},
        {"sequence": 1.0},
        {"sequence": 2**62},
        {"version": 2},
        {"version": True},
        {"more": 1},
    ],
)
def test_other_fields_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_bundle(dumps(loads(encode_bundle(KVS)) | change))


def test_other_encodings_of_the_same_value_are_refused() -> None:
    content = encode_bundle(KVS)
    longer = content.replace(b"hsequence\x03", b"hsequence\x18\x03")
    assert loads(longer) == loads(content)
    with pytest.raises(RemoteProtocolError, match="deterministic"):
        decode_bundle(longer)


def test_the_order_of_sources() -> None:
    bundle = Bundle(
        mission="m", load=("b", "a"), modules={"a": b"1", "b": b"2", "d": b"4", "c": b"3"}
    )
    assert sources_of(bundle) == [b"2", b"1", b"3", b"4"]


@given(st.binary(max_size=200))
def test_nothing_else_escapes(data: bytes) -> None:
    for decode in (decode_bundle, content_of_kept):
        with pytest.raises(RemoteProtocolError):
            decode(data)


def test_the_content_of_a_kept_bundle() -> None:
    assert content_of_kept(dumps({"content": b"c", "more": 1})) == b"c"
    with pytest.raises(RemoteProtocolError, match="kept"):
        content_of_kept(dumps({"content": "c"}))
