"""The Noise engine against published vectors, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.wire import noise, sodium
from drupelet.wire.noise import CipherState, HandshakeState

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "noise.json").read_text()
)["vectors"]
VECTOR_COUNT = 40

ALICE, BOB = b"A" * 32, b"B" * 32
ALICE_EPHEMERAL, BOB_EPHEMERAL = b"a" * 32, b"b" * 32
PSK = b"p" * 32


def _sides(vector: dict[str, Any]) -> tuple[HandshakeState, HandshakeState]:
    sides = []
    for side in ("init", "resp"):
        static, ephemeral, remote = (
            bytes.fromhex(vector[f"{side}_{field}"]) if f"{side}_{field}" in vector else None
            for field in ("static", "ephemeral", "remote_static")
        )
        sides.append(
            HandshakeState(
                vector["protocol_name"],
                initiator=side == "init",
                prologue=bytes.fromhex(vector[f"{side}_prologue"]),
                s=static,
                e=ephemeral,
                rs=remote,
                psks=[bytes.fromhex(psk) for psk in vector.get(f"{side}_psks", [])],
            )
        )
    return sides[0], sides[1]


def _pair(
    name: str = "Noise_XX_25519_ChaChaPoly_BLAKE2s", **changes: Any
) -> tuple[HandshakeState, HandshakeState]:
    common = {"psks": (PSK,) * name.count("psk")} | changes
    return (
        HandshakeState(name, initiator=True, s=ALICE, e=ALICE_EPHEMERAL, **common),
        HandshakeState(name, initiator=False, s=BOB, e=BOB_EPHEMERAL, **common),
    )


def test_the_vectors_file_is_whole() -> None:
    assert len(VECTORS) == VECTOR_COUNT
    assert sum(len(vector["messages"]) for vector in VECTORS) == 222


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['source']}-{v['protocol_name']}")
def test_vector(vector: dict[str, Any]) -> None:
    initiator, responder = _sides(vector)
    sender, receiver = initiator, responder
    messages = vector["messages"]
    position = 0
    while not initiator.finished:
        payload = bytes.fromhex(messages[position]["payload"])
        ciphertext = bytes.fromhex(messages[position]["ciphertext"])
        assert sender.write_message(payload) == ciphertext
        assert receiver.read_message(ciphertext) == payload
        sender, receiver = receiver, sender
        position += 1
    assert responder.finished
    assert initiator.handshake_hash == responder.handshake_hash
    if "handshake_hash" in vector:
        assert initiator.handshake_hash.hex() == vector["handshake_hash"]
    one_way = position == 1
    assert position < len(messages), "a vector without transport messages proves half"
    to_responder, to_initiator = initiator.split()
    from_initiator, from_responder = responder.split()
    for number in range(position, len(messages)):
        payload = bytes.fromhex(messages[number]["payload"])
        ciphertext = bytes.fromhex(messages[number]["ciphertext"])
        by_initiator = one_way or number % 2 == 0
        out, into = (
            (to_responder, from_initiator) if by_initiator else (from_responder, to_initiator)
        )
        assert out.encrypt(payload) == ciphertext
        assert into.decrypt(ciphertext) == payload


PATTERNS = tuple(noise._PATTERNS)


@pytest.mark.parametrize("hash_name", ["BLAKE2s", "BLAKE2b", "SHA256", "SHA512"])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("modifier", ["", "psk0", "psk1", "psk0+psk1"])
def test_every_pattern_reaches_one_hash_and_crossed_keys(
    pattern: str, modifier: str, hash_name: str
) -> None:
    name = f"Noise_{pattern}{modifier}_25519_ChaChaPoly_{hash_name}"
    known_initiator, known_responder, table = noise._PATTERNS[pattern]
    psks = (PSK, b"q" * 32)[: modifier.count("psk")]
    initiator = HandshakeState(
        name,
        initiator=True,
        s=ALICE,
        e=ALICE_EPHEMERAL,
        rs=sodium.x25519_public(BOB) if known_responder else None,
        psks=psks,
    )
    responder = HandshakeState(
        name,
        initiator=False,
        s=BOB,
        e=BOB_EPHEMERAL,
        rs=sodium.x25519_public(ALICE) if known_initiator else None,
        psks=psks,
    )
    sides = [initiator, responder]
    for number in range(table.count("|") + 1):
        payload = bytes((number,)) * number
        assert sides[1].read_message(sides[0].write_message(payload)) == payload
        sides.reverse()
    assert initiator.handshake_hash == responder.handshake_hash
    first, second = initiator.split()
    third, fourth = responder.split()
    assert third.decrypt(first.encrypt(b"there", b"ad"), b"ad") == b"there"
    assert second.decrypt(fourth.encrypt(b"back")) == b"back"
    if "s" in table.split("|")[0].split():
        assert responder.remote_static == sodium.x25519_public(ALICE)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Noise_XX_25519_ChaChaPoly_BLAKE2s ",
        "noise_XX_25519_ChaChaPoly_BLAKE2s",
        "Noise_XX_25519_ChaChaPoly_MD5",
        "Noise_XX_25519_AESGCM_SHA256",
        "Noise_XX_448_ChaChaPoly_SHA512",
        "Noise_ZZ_25519_ChaChaPoly_SHA256",
        "Noise_XXfallback_25519_ChaChaPoly_SHA256",
        "Noise_XXpsk_25519_ChaChaPoly_SHA256",
        "Noise_XXpsk4_25519_ChaChaPoly_SHA256",
        "Noise_XXpsk0+psk0_25519_ChaChaPoly_SHA256",
        "Noise_XXpsk0+_25519_ChaChaPoly_SHA256",
        "Noise_XXpsk\u0663_25519_ChaChaPoly_SHA256",
    ],
)
def test_unknown_names_raise_value_error(name: str) -> None:
    with pytest.raises(ValueError, match=r"Noise protocol|psk"):
        HandshakeState(name, initiator=True, s=ALICE, e=BOB)


def test_missing_and_misshapen_keys_raise_value_error() -> None:
    xx, ik = "Noise_XX_25519_ChaChaPoly_BLAKE2s", "Noise_IK_25519_ChaChaPoly_BLAKE2s"
    for keys in (
        {"e": ALICE},
        {"s": ALICE},
        {"s": ALICE, "e": b"short"},
        {"s": ALICE[:31], "e": ALICE},
        {"s": ALICE, "e": ALICE, "rs": ALICE},
        {"s": ALICE, "e": ALICE, "psks": (PSK,)},
    ):
        with pytest.raises(ValueError):
            HandshakeState(xx, initiator=True, **keys)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs rs"):
        HandshakeState(ik, initiator=True, s=ALICE, e=ALICE)
    with pytest.raises(ValueError, match="needs s"):
        HandshakeState(ik, initiator=False, e=ALICE)
    with pytest.raises(ValueError, match="a psk is 32 bytes"):
        HandshakeState(
            "Noise_NNpsk0_25519_ChaChaPoly_SHA256", initiator=True, e=ALICE, psks=(b"x" * 31,)
        )


def test_every_flipped_byte_of_every_message_is_refused() -> None:
    """XXpsk0 authenticates from the first byte on."""
    name = "Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s"
    for number in range(3):
        size = len(_messages(name)[number])
        for place in range(size):
            sides = list(_pair(name))
            for step, message in enumerate(_messages(name)[: number + 1]):
                sides[0].write_message(b"payload")
                if step < number:
                    sides[1].read_message(message)
                    sides.reverse()
            damaged = bytearray(_messages(name)[number])
            damaged[place] ^= 0x40 if place % 2 else 1
            with pytest.raises(RemoteProtocolError):
                sides[1].read_message(bytes(damaged))
            with pytest.raises(LocalProtocolError):
                sides[1].read_message(_messages(name)[number])


def _messages(name: str, found: dict[str, list[bytes]] = {}) -> list[bytes]:  # noqa: B006 - a memo
    if name not in found:
        sides = list(_pair(name))
        found[name] = []
        for _ in range(3):
            found[name].append(sides[0].write_message(b"payload"))
            sides[1].read_message(found[name][-1])
            sides.reverse()
    return found[name]


def test_short_and_long_messages_are_refused() -> None:
    for length in (0, 1, 31, 65_536):
        _, responder = _pair()
        with pytest.raises(RemoteProtocolError):
            responder.read_message(bytes(length))


def test_the_largest_payload_passes_and_one_more_does_not() -> None:
    initiator, responder = _pair()
    payload = bytes(65_535 - 32)
    assert responder.read_message(initiator.write_message(payload)) == payload
    initiator, _ = _pair()
    with pytest.raises(LocalProtocolError):
        initiator.write_message(payload + b"1")


LOW_ORDER_POINTS = (
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
)


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=lambda point: point.hex()[:8])
def test_low_order_points_are_refused(point: bytes) -> None:
    initiator, responder = _pair()
    initiator.write_message()
    responder.read_message(point)
    with pytest.raises(RemoteProtocolError, match="unusable public key"):
        responder.write_message()
    with pytest.raises(LocalProtocolError):
        responder.write_message()


def test_turns_are_kept() -> None:
    initiator, responder = _pair()
    with pytest.raises(LocalProtocolError, match="turn"):
        responder.write_message()
    with pytest.raises(LocalProtocolError, match="turn"):
        initiator.read_message(bytes(32))
    with pytest.raises(LocalProtocolError, match="not finished"):
        _ = initiator.handshake_hash
    with pytest.raises(LocalProtocolError):
        initiator.split()
    for _ in range(3):
        responder.read_message(initiator.write_message())
        initiator, responder = responder, initiator
    responder.split()
    with pytest.raises(LocalProtocolError):
        responder.split()
    with pytest.raises(LocalProtocolError, match="over"):
        responder.write_message()


def test_prologue_and_psk_bind() -> None:
    name = "Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s"
    message = _pair(name)[0].write_message()
    for changes in ({"prologue": b"other"}, {"psks": (b"P" * 32,)}):
        with pytest.raises(RemoteProtocolError):
            _pair(name, **changes)[1].read_message(message)
    _pair(name)[1].read_message(message)


def test_a_failed_decrypt_keeps_the_nonce() -> None:
    out, into = CipherState(PSK), CipherState(PSK)
    first, second = out.encrypt(b"first"), out.encrypt(b"second")
    for wrong in (second, first[:-1], first[:15], b"", first + b"0", bytes(65_536)):
        with pytest.raises(RemoteProtocolError):
            into.decrypt(wrong)
    with pytest.raises(RemoteProtocolError):
        into.decrypt(first, b"other associated data")
    assert into.decrypt(first) == b"first"
    assert into.decrypt(second) == b"second"
    with pytest.raises(RemoteProtocolError):
        into.decrypt(second)


def test_nonces_run_out() -> None:
    out, into = CipherState(PSK), CipherState(PSK)
    out._counter = into._counter = 2**64 - 2
    last = out.encrypt(b"last")
    assert into.decrypt(last) == b"last"
    with pytest.raises(LocalProtocolError):
        out.encrypt(b"one more")
    with pytest.raises(RemoteProtocolError):
        into.decrypt(last)


def test_rekey_changes_the_key_on_both_sides_alike() -> None:
    out, into = CipherState(PSK), CipherState(PSK)
    before = out.encrypt(b"1")
    into.decrypt(before)
    out.rekey()
    crossing = out.encrypt(b"2")
    with pytest.raises(RemoteProtocolError):
        into.decrypt(crossing)
    into.rekey()
    assert into.decrypt(crossing) == b"2"


def test_surrender_spends_the_state() -> None:
    state = CipherState(PSK)
    state.encrypt(b"x")
    assert state.surrender() == (PSK, 1)
    with pytest.raises(LocalProtocolError):
        state.surrender()
    with pytest.raises(LocalProtocolError):
        state.encrypt(b"x")
    with pytest.raises(RemoteProtocolError):
        state.decrypt(bytes(16))


def test_plaintext_bounds() -> None:
    out, into = CipherState(PSK), CipherState(PSK)
    largest = bytes(65_519)
    assert into.decrypt(out.encrypt(largest)) == largest
    with pytest.raises(LocalProtocolError):
        out.encrypt(largest + b"1")
    assert into.decrypt(out.encrypt(b"the refusal used no nonce")) == b"the refusal used no nonce"
    with pytest.raises(ValueError):
        CipherState(b"short")
