"""CPace against the draft's vectors, and every way in which the two sides may not agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.wire import cpace, sodium
from drupelet.wire.cpace import CPace

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "cpace.json").read_text()
)
RUN = {name: bytes.fromhex(value) for name, value in VECTORS["G_X25519"].items()}
INVALID = [bytes.fromhex(value) for value in VECTORS["X25519_points"].values()]
LADDER = VECTORS["scalar_mult_vfy"]

PRIME = 2**255 - 19
CURVE_A = 486_662


def elligator2(uniform: bytes) -> bytes:
    """RFC 9380, section 6.7.1, with Python's integers: the draft's way to the generator."""
    r = int.from_bytes(uniform, "little") & (2**255 - 1)
    u = -CURVE_A * pow(1 + 2 * r * r, PRIME - 2, PRIME) % PRIME
    if pow(u**3 + CURVE_A * u * u + u, (PRIME - 1) // 2, PRIME) == PRIME - 1:
        u = (-u - CURVE_A) % PRIME
    return u.to_bytes(32, "little")


def _side(initiator: bool, /, **changes: Any) -> CPace:
    arguments: dict[str, Any] = {
        "password": RUN["PRS"],
        "channel": RUN["CI"],
        "session": RUN["sid"],
        "private": RUN["ya" if initiator else "yb"],
        "initiator": initiator,
        "associated": RUN["ADa" if initiator else "ADb"],
    }
    arguments.update(changes)
    return CPace(arguments.pop("password"), **arguments)


def _agree(one: CPace, two: CPace) -> bool:
    one.receive(two.public, RUN["ADb"])
    two.receive(one.public, RUN["ADa"])
    proved = two.proves(one.proof())
    assert one.proves(two.proof()) == proved == (one.isk == two.isk)
    return proved


def test_the_drafts_run() -> None:
    one, two = _side(True), _side(False)
    assert one.public == RUN["Ya"]
    assert two.public == RUN["Yb"]
    assert _agree(one, two)
    assert one.isk == two.isk == RUN["ISK_IR"]


def test_the_drafts_generator() -> None:
    text = cpace.generator_string(RUN["PRS"], RUN["CI"], RUN["sid"])
    uniform = cpace._sha512(text)[:32]
    assert elligator2(uniform) == RUN["g"]
    assert sodium.x25519(RUN["ya"], RUN["g"]) == sodium.x25519_hashed(RUN["ya"], uniform)


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_libsodiums_way_is_elligators(private: bytes, uniform: bytes) -> None:
    if (int.from_bytes(uniform, "little") & (2**255 - 1)) % PRIME == 0:
        return  # see the next test
    expected = sodium.x25519(private, elligator2(uniform))
    assert sodium.x25519_hashed(private, uniform) == expected


def test_a_hash_without_a_point_is_ours_to_report() -> None:
    with pytest.raises(LocalProtocolError):
        sodium.x25519_hashed(b"s" * 32, bytes(32))  # maps to the point of order 2
    with pytest.raises(LocalProtocolError):
        sodium.x25519_hashed(b"s" * 31, b"u" * 32)


@pytest.mark.parametrize("length", [0, 1, 8, 127, 128, 300, 20_000])
def test_lengths_are_leb128(length: int) -> None:
    encoded = cpace.prepend_length(bytes(length))
    value = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(encoded[: -length or None]))
    assert value == length
    assert len(encoded) - length == (1 if length < 128 else 2 if length < 16_384 else 3)


@pytest.mark.parametrize("length", [0, 8, 109, 117, 118, 200])
def test_the_password_fills_a_block(length: int) -> None:
    text = cpace.generator_string(b"p" * length, b"channel", b"session")
    assert text.index(b"\x07channel") >= 128


@pytest.mark.parametrize("place", range(len(INVALID)))
def test_invalid_points_are_refused(place: int) -> None:
    for initiator in (True, False):
        side = _side(initiator)
        with pytest.raises(RemoteProtocolError):
            side.receive(INVALID[place])
        with pytest.raises(RemoteProtocolError):
            side.receive(RUN["Yb" if initiator else "Ya"])  # failed once, failed for good
        with pytest.raises(LocalProtocolError):
            side.proof()


def test_scalar_multiplication_aborts_at_the_neutral_element() -> None:
    scalar = bytes.fromhex(LADDER["s"])
    zeros = 0
    for point, product in zip(
        LADDER["u"].values(), LADDER["q_all_zero_means_abort"].values(), strict=True
    ):
        if int(product, 16):
            assert sodium.x25519(scalar, bytes.fromhex(point)).hex() == product
        else:
            zeros += 1
            with pytest.raises(RemoteProtocolError):
                sodium.x25519(scalar, bytes.fromhex(point))
    assert zeros == 7


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_share_has_32_bytes(length: int) -> None:
    with pytest.raises(RemoteProtocolError):
        _side(True).receive(bytes(range(length)))


def test_the_largest_coordinate_passes_and_the_next_does_not() -> None:
    _side(True).receive((PRIME - 3).to_bytes(32, "little"))  # prime - 1, - 2 are of low order
    with pytest.raises(RemoteProtocolError, match="no coordinate"):
        _side(True).receive(PRIME.to_bytes(32, "little"))


def test_our_own_share_and_a_second_one_are_refused() -> None:
    one = _side(True)
    with pytest.raises(RemoteProtocolError, match="came back"):
        one.receive(one.public, RUN["ADb"])
    two = _side(False)
    two.receive(RUN["Ya"])
    with pytest.raises(RemoteProtocolError, match="second"):
        two.receive(RUN["Ya"])


@pytest.mark.parametrize(
    "changes",
    [
        {"password": b"password"},
        {"password": b""},
        {"channel": b"another"},
        {"session": b"another"},
        {"associated": b"another"},
        {"initiator": True},
    ],
)
def test_any_difference_gives_another_key(changes: dict[str, Any]) -> None:
    assert not _agree(_side(True), _side(False, **changes))


def test_the_proof_of_one_side_is_not_that_of_the_other() -> None:
    one, two = _side(True), _side(False)
    assert _agree(one, two)
    assert not one.proves(one.proof())
    assert not two.proves(two.proof())
    for tag in (b"", two.proof()[:-1], two.proof() + b"0"):
        assert not one.proves(tag)


def test_nothing_before_the_peers_share() -> None:
    one = _side(True)
    for early in (one.proof, lambda: one.proves(b""), lambda: one.isk):
        with pytest.raises(LocalProtocolError):
            early()


def test_the_password_shows_nowhere() -> None:
    one = CPace(b"ABXy45", channel=b"", session=b"", private=b"1" * 32, initiator=True)
    held = [getattr(one, name) for name in CPace.__slots__]
    assert b"ABXy45" not in b"".join(value for value in held if isinstance(value, bytes))
    assert "ABXy45" not in repr(one)


@given(
    st.binary(max_size=40),
    st.binary(max_size=40),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
)
@settings(max_examples=50, deadline=None)
def test_equal_passwords_and_no_others(
    password: bytes, other: bytes, private: bytes, peers: bytes
) -> None:
    if private == peers:
        return
    one = _side(True, password=password, private=private)
    two = _side(False, password=other, private=peers)
    if one.public != two.public:  # scalars may differ in bits that X25519 does not look at
        assert _agree(one, two) == (password == other)
