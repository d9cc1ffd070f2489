"""One guess, one winner, five minutes."""

from __future__ import annotations

import hashlib
from math import inf

import pytest

from drupelet.core.pairing import Pairing
from drupelet.errors import RemoteProtocolError
from drupelet.wire.cpace import CPace
from drupelet.wire.limits import PAIR_CONFIRM_S, PAIR_RUNS_MAX, PAIR_S
from drupelet.wire.pairing import begin

CODE, WRONG = "ABCDEFGH", "ABCDEFGJ"
ALICE, BOB = b"a" * 32, b"b" * 32
NOW = 1_000.0


def private(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


class Joiner:
    """The other side of one run."""

    def __init__(self, pairing: Pairing, session: bytes, code: str = CODE, number: int = 7) -> None:
        self.session = session
        self.run: CPace = begin(
            code, session=session, own_key=BOB, private=private(number), initiator=True
        )
        self.share = pairing.start(session, BOB, self.run.public, private(number + 100), NOW)
        if self.share is not None:
            self.run.receive(self.share, ALICE)

    def prove(self, pairing: Pairing, now: float = NOW) -> bytes | None:
        return pairing.prove(self.session, self.run.proof(), now)


@pytest.fixture
def pairing() -> Pairing:
    return Pairing(CODE, ALICE, NOW)


def test_the_right_code(pairing: Pairing) -> None:
    joiner = Joiner(pairing, b"1")
    proof = joiner.prove(pairing)
    assert proof is not None
    assert joiner.run.proves(proof)
    assert pairing.state == "proved"
    assert pairing.isk == joiner.run.isk
    assert not pairing.confirm(b"2", NOW)
    assert pairing.confirm(b"1", NOW)
    assert (pairing.state, pairing.next_timer()) == ("paired", inf)
    assert (pairing.isk, pairing.code) == (b"", "")
    assert not pairing.confirm(b"1", NOW)


def test_one_wrong_guess_burns_the_code_also_for_who_is_under_way(pairing: Pairing) -> None:
    right = Joiner(pairing, b"1")
    assert Joiner(pairing, b"2", WRONG, 8).prove(pairing) is None
    assert pairing.state == "burnt"
    assert right.prove(pairing) is None
    assert Joiner(pairing, b"3").share is None
    assert (pairing.left_s(NOW), pairing.next_timer()) == (0.0, inf)


def test_proved_it_is_good_for_nobody_else(pairing: Pairing) -> None:
    first, second = Joiner(pairing, b"1"), Joiner(pairing, b"2", number=8)
    assert first.prove(pairing)
    assert second.prove(pairing) is None
    assert pairing.state == "proved"
    assert Joiner(pairing, b"3").share is None


def test_replays(pairing: Pairing) -> None:
    joiner = Joiner(pairing, b"1")
    share = joiner.run.public
    assert pairing.start(b"1", BOB, share, private(3), NOW) is None  # once for each link
    tag = joiner.run.proof()
    assert pairing.prove(b"2", tag, NOW) is None  # no run there: no guess
    assert pairing.state == "open"
    assert pairing.start(b"2", BOB, share, private(4), NOW)
    assert pairing.prove(b"2", tag, NOW) is None  # another link's proof is a wrong one
    assert pairing.state == "burnt"


def test_a_share_for_another_key_is_worth_nothing(pairing: Pairing) -> None:
    run = begin(CODE, session=b"1", own_key=BOB, private=private(1), initiator=True)
    share = pairing.start(b"1", b"m" * 32, run.public, private(2), NOW)
    assert share is not None
    run.receive(share, ALICE)
    assert pairing.prove(b"1", run.proof(), NOW) is None
    assert pairing.state == "burnt"


def test_shares_that_cannot_be_are_no_guess(pairing: Pairing) -> None:
    for share in (bytes(32), b"\xff" * 32, b"short"):
        with pytest.raises(RemoteProtocolError):
            pairing.start(b"1", BOB, share, private(1), NOW)
    assert pairing.state == "open"
    assert Joiner(pairing, b"2").prove(pairing)


def test_a_flood_of_shares_leaves_the_newest_runs(pairing: Pairing) -> None:
    first = Joiner(pairing, b"first")
    for number in range(PAIR_RUNS_MAX - 1):
        assert Joiner(pairing, b"f%d" % number, WRONG, 50 + number).share
    assert len(pairing._runs) == PAIR_RUNS_MAX
    assert Joiner(pairing, b"last", WRONG, 90).share  # one above: the oldest goes
    assert len(pairing._runs) == PAIR_RUNS_MAX
    assert first.prove(pairing) is None
    assert pairing.state == "open"
    for number in range(3 * PAIR_RUNS_MAX):
        assert Joiner(pairing, b"g%d" % number, WRONG, 200 + number).share
    assert len(pairing._runs) == PAIR_RUNS_MAX
    assert Joiner(pairing, b"again").prove(pairing)


def test_five_minutes(pairing: Pairing) -> None:
    joiner = Joiner(pairing, b"1")
    assert pairing.next_timer() == NOW + PAIR_S
    assert pairing.left_s(NOW + 100) == PAIR_S - 100
    pairing.handle_timer(NOW + PAIR_S - 0.001)
    assert pairing.state == "open"
    assert joiner.prove(pairing, NOW + PAIR_S) is None
    assert pairing.state == "expired"
    pairing.cancel()
    assert pairing.state == "expired"


def test_who_does_not_confirm(pairing: Pairing) -> None:
    joiner = Joiner(pairing, b"1")
    assert joiner.prove(pairing, NOW + PAIR_S - 1)  # the last second is enough
    assert pairing.next_timer() == NOW + PAIR_S - 1 + PAIR_CONFIRM_S
    assert not pairing.confirm(b"1", NOW + PAIR_S - 1 + PAIR_CONFIRM_S)
    assert pairing.state == "unconfirmed"


def test_cancelled(pairing: Pairing) -> None:
    joiner = Joiner(pairing, b"1")
    pairing.cancel()
    assert joiner.prove(pairing) is None
    assert pairing.state == "cancelled"
