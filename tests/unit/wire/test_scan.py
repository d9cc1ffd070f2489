"""Counting items before they are decoded: exact, bounded, and never slower than linear."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import RemoteProtocolError
from drupelet.wire import limits
from drupelet.wire.scan import scan

VALUES = st.recursive(
    st.one_of(
        st.integers(-(2**64), 2**64 - 1),
        st.text(max_size=300),
        st.binary(max_size=300),
        st.floats(),
        st.none(),
        st.booleans(),
        st.uuids(),
    ),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(), inner, max_size=30),
)


def count(value: object) -> int:
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(count, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(count, value))
    return 1


@settings(derandomize=True, deadline=None)
@given(VALUES)
def test_counts_at_the_maximum_and_one_above(value: object) -> None:
    data = cbor2.dumps(value)
    scan(data, count(value))
    if count(value) > 1:
        with pytest.raises(RemoteProtocolError):
            scan(data, count(value) - 1)


@settings(derandomize=True, deadline=None)
@given(VALUES, st.binary(min_size=1, max_size=9))
def test_the_end_is_the_end(value: object, more: bytes) -> None:
    data = cbor2.dumps(value)
    with pytest.raises(RemoteProtocolError):
        scan(data + more, 10_000)
    with pytest.raises(RemoteProtocolError):
        scan(data[:-1], 10_000)


@settings(derandomize=True, deadline=None, max_examples=500)
@given(st.binary(max_size=64))
def test_whatever_cbor2_takes_whole_passes(data: bytes) -> None:
    try:
        scan(data, 1_000)
    except RemoteProtocolError:
        if not data:
            return
        with pytest.raises((cbor2.CBORDecodeError, AssertionError)):
            cbor2.loads(b"\x82" + data + b"\x18\x2a", allow_indefinite=False)
            assert cbor2.loads(b"\x82" + data + b"\x18\x2a")[1] == 42


@pytest.mark.parametrize("head", ["9f", "5f", "7f", "bf", "1c", "3d", "5e", "dc", "fe", "ff"])
def test_indefinite_lengths_and_reserved_heads_are_refused(head: str) -> None:
    with pytest.raises(RemoteProtocolError):
        scan(bytes.fromhex(head) + bytes(100), 1_000)


@pytest.mark.parametrize("head", ["9b", "bb", "5b", "7b"])
def test_claims_beyond_the_data_are_refused_at_once(head: str) -> None:
    for size in (2**31, 2**63, 2**64 - 1):
        with pytest.raises(RemoteProtocolError):
            scan(bytes.fromhex(head) + size.to_bytes(8, "big") + bytes(100), 1_000)


def test_a_tag_and_its_content_are_one_item() -> None:
    scan(bytes.fromhex("d82550") + bytes(16), 1)
    scan(bytes.fromhex("82d88880c000"), 3)


def large_map(keys: list[bytes], value: bytes = b"\xf6") -> bytes:
    return b"\xb9" + len(keys).to_bytes(2, "big") + b"".join(key + value for key in keys)


def test_integer_keys_at_the_maximum_and_one_above() -> None:
    most = [cbor2.dumps(n - 4_000) for n in range(limits.MAP_INT_KEYS_MAX)]
    scan(large_map(most), limits.VALUE_ITEMS_MAX)
    scan(large_map([*most, b"\x61a"]), limits.VALUE_ITEMS_MAX)
    with pytest.raises(RemoteProtocolError, match="integer keys"):
        scan(large_map([*most, b"\x19\x7f\xff"]), limits.VALUE_ITEMS_MAX)


def test_large_maps_within_each_other_are_no_deeper_than_values() -> None:
    head = b"\xb9\x20\x01\x60"  # 8,193 entries; the first key is empty text
    with pytest.raises(RemoteProtocolError):
        scan(head * 100_000, 10**9)
    data = b"\xf6"
    for _ in range(limits.VALUE_DEPTH_MAX):
        data = b"\xb9\x20\x01" + b"\x60" + data + b"\x60\xf6" * 8_192
    scan(data, limits.VALUE_ITEMS_MAX * 2)
    with pytest.raises(RemoteProtocolError, match="deep"):
        scan(b"\xb9\x20\x01" + b"\x60" + data + b"\x60\xf6" * 8_192, limits.VALUE_ITEMS_MAX * 2)
