"""libsodium's border: one answer by both ways, every failure a RemoteProtocolError."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.wire import sodium

KEY = bytes(range(32))


def test_the_fast_way_is_in_use() -> None:
    """If a new PyNaCl lacks the compiled module's names, this says so instead of a slow node."""
    assert sodium.FAST


def test_rfc_8439_vector() -> None:
    """Appendix A.5: its nonce starts with four zero bytes, as Noise's does."""
    key = bytes.fromhex("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0")
    counter = int.from_bytes(bytes.fromhex("0102030405060708"), "little")
    ad = bytes.fromhex("f33388860000000000004e91")
    ciphertext = bytes.fromhex(
        "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d"
        "26b0bdb7b73c321b0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1"
        "ff37c8559797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b"
        "5216cde7a4e99040c5a40433225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a0d072b04b3564eea"
        "1b422273f548271a0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a1049e617d91d36"
        "1094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b02709beead9d67890cbb22392336"
        "fea1851f38"
    )
    plaintext = sodium.decrypt(key, counter, ciphertext, ad)
    assert plaintext.startswith(b"Internet-Drafts are draft documents")
    assert sodium.encrypt(key, counter, plaintext, ad) == ciphertext


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 100, 4_096, 65_518, 65_519])
@pytest.mark.parametrize("counter", [0, 1, 2**32, 2**64 - 1])
def test_both_ways_give_one_answer(length: int, counter: int) -> None:
    plaintext = bytes(number % 251 for number in range(length))
    record = sodium.encrypt(KEY, counter, plaintext, b"ad", b"prefix")
    assert record == sodium.portable_encrypt(KEY, counter, plaintext, b"ad", b"prefix")
    ciphertext = record[6:]
    for function in (sodium.decrypt, sodium.portable_decrypt):
        assert function(KEY, counter, ciphertext, b"ad") == plaintext
        for wrong in (ciphertext[:-1], b"\xff" + ciphertext, ciphertext[:15], b""):
            with pytest.raises(RemoteProtocolError):
                function(KEY, counter, wrong, b"ad")
        with pytest.raises(RemoteProtocolError):
            function(KEY, counter, ciphertext, b"other")


def test_one_byte_too_many() -> None:
    for function in (sodium.encrypt, sodium.portable_encrypt):
        with pytest.raises(LocalProtocolError):
            function(KEY, 0, bytes(65_520))
    for function in (sodium.decrypt, sodium.portable_decrypt):
        with pytest.raises(RemoteProtocolError):
            function(KEY, 0, bytes(65_536))


def test_threads_do_not_meet_in_a_buffer() -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        plaintext = bytes((number,)) * 20_000
        for counter in range(200):
            ciphertext = sodium.encrypt(KEY, counter, plaintext)
            if sodium.decrypt(KEY, counter, ciphertext) != plaintext:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_x25519_of_rfc_7748_section_6_1() -> None:
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert sodium.x25519_public(alice).hex().startswith("8520f0098930a754748b7ddcb43ef75a")
    assert sodium.x25519(alice, sodium.x25519_public(bob)).hex() == shared
    assert sodium.x25519(bob, sodium.x25519_public(alice)).hex() == shared


@pytest.mark.parametrize("peer", [bytes(32), b"\1" + bytes(31), b"", b"x" * 31, b"x" * 33])
def test_exchange_refuses_useless_peers(peer: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        sodium.x25519(KEY, peer)


def test_our_own_wrong_keys_are_our_fault() -> None:
    for function in (sodium.x25519_public, sodium.ed25519_public):
        with pytest.raises(LocalProtocolError):
            function(b"short")


def test_signatures() -> None:
    public = sodium.ed25519_public(KEY)
    signature = sodium.sign(KEY, b"message")
    sodium.verify(public, b"message", signature)
    for arguments in (
        (public, b"Message", signature),
        (public, b"message", signature[:-1]),
        (public, b"message", signature + b"0"),
        (public, b"message", b""),
        (sodium.ed25519_public(bytes(32)), b"message", signature),
        (public[:-1], b"message", signature),
        (public + b"0", b"message", signature),
        (b"", b"message", signature),
        (bytes(32), b"message", bytes(64)),
    ):
        with pytest.raises(RemoteProtocolError):
            sodium.verify(*arguments)


@given(st.binary(max_size=300), st.integers(0, 63), st.integers(1, 255))
def test_both_ways_to_verify_agree(message: bytes, place: int, flip: int) -> None:
    public = sodium.ed25519_public(KEY)
    signature = sodium.sign(KEY, message)
    broken = bytearray(signature)
    broken[place] ^= flip
    for signed in (signature + message, bytes(broken) + message, signature + message + b"x"):
        try:
            portable = sodium.portable_opens(signed, public)
        except sodium._FAILURES:
            portable = False
        assert sodium._opens(signed, public) is portable is (signed == signature + message)
