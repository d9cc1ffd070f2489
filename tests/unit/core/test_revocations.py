"""What a member tells of its revocations to one that was away."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.core.grants import Revocation
from drupelet.core.revocations import PIECE_MAX, digest, from_piece, pieces
from drupelet.errors import RemoteError
from drupelet.wire.codec import dumps, loads

ALICE = b"a" * 32


def ids(*found: bytes) -> Revocation:
    return Revocation(issuer=ALICE, ids=frozenset(found), keys=frozenset(), sequence=5)


def key(found: bytes, sequence: int) -> Revocation:
    return Revocation(issuer=ALICE, ids=frozenset(), keys=frozenset({found}), sequence=sequence)


def test_who_heard_the_same_has_the_same_digest_whatever_the_order() -> None:
    one, two, three = ids(b"1" * 16), ids(b"2" * 16, b"1" * 16), key(b"k" * 32, 3)
    assert digest([one, two, three]) == digest([three, two]) != digest([one, three])
    assert digest([three]) != digest([key(b"k" * 32, 4)])
    assert digest([three, key(b"k" * 32, 4)]) == digest([key(b"k" * 32, 4)])
    assert digest([]) == digest([])


def test_pieces_hold_all_of_it_and_no_more_than_fits() -> None:
    dice = random.Random(17)
    told = [ids(*(dice.randbytes(16) for _ in range(PIECE_MAX)))]
    told += [key(dice.randbytes(32), number) for number in range(10)]
    parts = [loads(dumps(each)) for each in pieces(told)]
    assert [len(each[0]) + len(each[1]) for each in parts] == [PIECE_MAX, 10]  # type: ignore[index]
    heard = [each for part in parts for each in from_piece(ALICE, part)]
    assert digest(heard) == digest(told)
    assert max(len(dumps(each)) for each in parts) < 65_000
    assert list(pieces([])) == []


@pytest.mark.parametrize(
    "piece",
    [
        None, [], [[]], [[b"1" * 15], []], [["1" * 16], []], [[], [b"k" * 32]],
        [[], [[b"k" * 31, 1]]], [[], [[b"k" * 32, -1]]], [[], [[b"k" * 32, 2**63]]],
        [[], [[b"k" * 32, "1"]]], [[b"1" * 16] * (PIECE_MAX + 1), []],
    ],
)  # fmt: skip
def test_bad_pieces_are_refused(piece: object) -> None:
    with pytest.raises(RemoteError, match="badarg"):
        from_piece(ALICE, piece)


@given(st.recursive(st.none() | st.integers() | st.binary(max_size=40), st.lists, max_leaves=20))
def test_noise_is_refused_in_the_same_way(noise: object) -> None:
    try:
        from_piece(ALICE, noise)
    except RemoteError as error:
        assert error.kind == "badarg"
