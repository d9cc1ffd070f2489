"""Clones: what makes it sure that two live nodes have one key, and what does not."""

from __future__ import annotations

from drupelet.core.clones import CLONES_MAX, FRESH_S, SETTLED_S, Clone, Clones
from drupelet.core.members import PeerInfo

OWN, OTHER = b"a" * 32, b"b" * 32


def peer(key: bytes = OTHER, incarnation: int = 7, host: str = "10.0.0.5") -> PeerInfo:
    return PeerInfo(key=key, name="bilbo", incarnation=incarnation, host=host, port=4370)


def test_a_replaced_start_that_comes_again_is_a_clone_but_not_a_late_link_of_it() -> None:
    clones = Clones(OWN)
    clones.refused("superseded", peer(), 100.0, 100.0 + SETTLED_S)
    assert clones.seen(200.0) == []
    clones.refused("superseded", peer(), 100.0, 100.1 + SETTLED_S)
    assert clones.seen(200.0) == [Clone(key=OTHER, host="10.0.0.5", at=100.1 + SETTLED_S)]
    assert (clones.of(OTHER, 200.0), clones.of(OWN, 200.0)) == ("10.0.0.5", "")


def test_other_refusals_say_nothing() -> None:
    clones = Clones(OWN)
    for word in ("name_taken", "overloaded"):
        clones.refused(word, peer(), 0.0, 1_000.0)
        clones.refused_by("10.0.0.5", word, 1_000.0)
    assert (clones.seen(1_000.0), clones.refusing(1_000.0)) == ([], [])


def test_our_own_key_is_ours_or_a_clones() -> None:
    clones = Clones(OWN)
    clones.refused("self", peer(OWN), 0.0, 1.0)  # we do not know which start we are
    clones.own_incarnation = 7
    clones.refused("self", peer(OWN), 0.0, 1.0)  # an address that leads to ourselves
    assert clones.of(OWN, 1.0) == ""
    clones.refused("self", peer(OWN, 8), 0.0, 1.0)
    assert clones.of(OWN, 1.0) == "10.0.0.5"


def test_a_member_refuses_us_or_tells() -> None:
    clones = Clones(OWN)
    clones.refused_by("10.0.0.9", "superseded", 1.0)
    assert clones.refusing(1.0) == ["10.0.0.9"]
    clones.told("10.0.0.6", 1.0)
    assert clones.of(OWN, 1.0) == "10.0.0.6"


def test_what_is_over_is_forgotten() -> None:
    clones = Clones(OWN)
    clones.refused("superseded", peer(), 0.0, 100.0)
    clones.refused_by("10.0.0.9", "superseded", 100.0)
    assert len(clones.seen(99.9 + FRESH_S)) == len(clones.refusing(99.9 + FRESH_S)) == 1
    assert (clones.seen(100.0 + FRESH_S), clones.refusing(100.0 + FRESH_S)) == ([], [])


def test_the_tables_are_bounded_and_the_oldest_goes() -> None:
    clones = Clones(OWN)
    for number in range(CLONES_MAX + 1):
        assert len(clones.seen(100.0)) == len(clones.refusing(100.0)) == number
        clones.refused("superseded", peer(number.to_bytes(32, "big")), 0.0, 100.0)
        clones.refused_by(str(number), "superseded", 100.0)
    assert len(clones.seen(100.0)) == len(clones.refusing(100.0)) == CLONES_MAX
    assert clones.of(bytes(32), 100.0) == ""
