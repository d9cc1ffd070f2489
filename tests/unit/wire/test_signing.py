"""Signing: only the signer made it, and only for this purpose."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.errors import RemoteProtocolError
from drupelet.wire import sodium
from drupelet.wire.bundles import Bundle, encode_bundle
from drupelet.wire.limits import BUNDLE_BYTES_MAX
from drupelet.wire.signing import (
    BUNDLE_DOMAIN,
    Signed,
    open_bundle,
    sign,
    sign_bundle,
    verify,
)

SEED = bytes(range(32))
KVS = Bundle(mission="kvs", load=("kvs",), modules={"kvs": b"x = 1\n"}, sequence=3)


def test_there_and_back() -> None:
    signed = sign_bundle(SEED, KVS)
    assert open_bundle(signed) == KVS
    assert signed.key == sodium.ed25519_public(SEED)


def test_another_signer_a_flipped_bit_and_another_domain() -> None:
    signed = sign_bundle(SEED, KVS)
    other = sodium.ed25519_public(bytes(32))
    wrong = [
        replace(signed, key=other),
        replace(signed, key=b""),
        replace(signed, signature=signed.signature[:-1]),
        replace(signed, signature=sodium.sign(SEED, signed.content)),
        sign(SEED, b"drupelet/static/1", signed.content),
        sign(SEED, b"", BUNDLE_DOMAIN + signed.content),
        replace(signed, content=encode_bundle(replace(KVS, sequence=4))),
    ]
    for place in range(0, len(signed.content), 7):
        flipped = bytearray(signed.content)
        flipped[place] ^= 1
        wrong.append(replace(signed, content=bytes(flipped)))
    for each in wrong:
        with pytest.raises(RemoteProtocolError, match="does not verify"):
            open_bundle(each)


def test_maxima() -> None:
    assert verify(sign(SEED, b"d", bytes(7)), b"d", 7) is None
    with pytest.raises(RemoteProtocolError, match="8 bytes; at most 7"):
        verify(sign(SEED, b"d", bytes(8)), b"d", 7)
    with pytest.raises(RemoteProtocolError, match=f"at most {BUNDLE_BYTES_MAX}"):
        open_bundle(sign(SEED, BUNDLE_DOMAIN, bytes(BUNDLE_BYTES_MAX + 1)))


def test_a_wrong_bundle_of_a_true_signer() -> None:
    with pytest.raises(RemoteProtocolError, match="stand in"):
        open_bundle(sign_bundle(SEED, KVS), {"kvs"})
    with pytest.raises(ValueError, match="no mission name"):
        sign_bundle(SEED, replace(KVS, mission="/"))


@given(st.binary(max_size=200))
def test_nothing_else_escapes(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        open_bundle(Signed(data, data[:32], data[-64:]))
