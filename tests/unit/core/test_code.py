"""Which version of a mission's code a node runs."""

from __future__ import annotations

import hashlib
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.core.code import (
    NO_FILES,
    Code,
    Verdict,
    Version,
    bundle_digest,
    code_digest,
)
from drupelet.wire.bundles import Bundle
from drupelet.wire.limits import SHIPPED_MISSIONS_MAX

A, B, C = (bytes([n]) * 16 for n in (1, 2, 3))


def version(
    sequence: int, digest: bytes, replaced: bytes = NO_FILES, mission: str = "kvs"
) -> Version:
    return Version(
        mission=mission, sequence=sequence, digest=digest, shipper=bytes(32), replaced=replaced
    )


def holding(*versions: Version) -> Code:
    code = Code()
    for each in versions:
        code.keep(each)
    return code


def test_digests() -> None:
    assert code_digest([b"a", b"b"]) == hashlib.blake2b(b"ab", digest_size=16).digest()
    bundle = Bundle(mission="m", load=("b",), modules={"a": b"1", "b": b"2", "c": b"3"})
    assert bundle_digest(bundle) == code_digest([b"2", b"1", b"3"])


@pytest.mark.parametrize(
    ("sequence", "digest", "verdict"),
    [
        (4, B, Verdict.KNOWN),
        (5, A, Verdict.LOAD),
        (5, B, Verdict.LOAD),
        (4, C, Verdict.LOAD),
        (4, A, Verdict.STALE),
        (3, C, Verdict.STALE),
        (3, B, Verdict.STALE),
    ],
)
def test_verdicts(sequence: int, digest: bytes, verdict: Verdict) -> None:
    code = holding(version(4, B))
    assert code.judge("kvs", sequence, digest) is verdict
    assert code.judge("other", sequence, digest) is Verdict.LOAD
    assert code.current("kvs") == version(4, B)


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from([A, B, C])), max_size=4))
def test_the_order_of_arrival_does_not_matter(bundles: list[tuple[int, bytes]]) -> None:
    ends = set()
    for order in permutations(bundles):
        code = Code()
        for sequence, digest in order:
            if code.judge("kvs", sequence, digest) is Verdict.LOAD:
                code.keep(version(sequence, digest))
        ends.add(code.current("kvs"))
    assert len(ends) == 1


def test_no_more_missions_than_the_maximum() -> None:
    code = holding(*(version(1, A, mission=f"m{n}") for n in range(SHIPPED_MISSIONS_MAX - 1)))
    assert code.judge("one", 1, A) is Verdict.LOAD
    code.keep(version(1, A, mission="one"))
    assert code.judge("more", 1, A) is Verdict.FULL
    assert code.judge("one", 2, A) is Verdict.LOAD
    code.drop("one")
    code.drop("one")
    assert code.judge("more", 1, A) is Verdict.LOAD
    assert len(code.versions()) == SHIPPED_MISSIONS_MAX - 1


def test_the_operators_file_wins_when_it_changed() -> None:
    code = holding(version(4, B, replaced=A))
    assert code.file_wins("kvs", A) is None
    assert code.file_wins("kvs", C) == version(4, B, replaced=A)
    assert code.file_wins("kvs", NO_FILES) == version(4, B, replaced=A)
    assert code.file_wins("other", C) is None
    assert holding(version(4, B)).file_wins("kvs", NO_FILES) is None
    assert holding(version(4, B)).file_wins("kvs", A) == version(4, B)


def test_the_next_number_is_above_all() -> None:
    code = holding(version(4, B))
    assert code.next_sequence("kvs", []) == 5
    assert code.next_sequence("kvs", [3, 9, 7]) == 10
    assert code.next_sequence("other", []) == 1
    assert code.next_sequence("other", [0]) == 1


def test_versions_by_mission() -> None:
    versions = [version(1, A, mission=name) for name in ("b", "a")]
    assert [each.mission for each in holding(*versions).versions()] == ["a", "b"]
