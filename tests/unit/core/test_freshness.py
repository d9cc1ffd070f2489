"""Freshness: once each, for a minute of the callee's own time."""

from __future__ import annotations

import random

import pytest

from drupelet.core import freshness
from drupelet.core.freshness import KEPT_MAX, TOKEN_S, TOKENS_MAX, Freshness, Verdict


def token(number: int) -> bytes:
    return number.to_bytes(16, "big")


def started() -> Freshness:
    return Freshness(token(0), 100.0)


def test_a_request_counts_once() -> None:
    machine = started()
    assert machine.newest == token(0)
    assert machine.take(token(0), b"one") is Verdict.FRESH
    assert machine.take(token(0), b"one") is Verdict.REPLAYED
    assert machine.take(token(0), b"two") is Verdict.FRESH


def test_a_token_that_we_never_gave_is_stale() -> None:
    assert started().take(token(9), b"one") is Verdict.UNKNOWN
    assert Freshness(token(1), 0.0).take(token(0), b"one") is Verdict.UNKNOWN  # of another boot


def test_the_last_tokens_are_accepted_and_ids_are_kept_twice_as_long() -> None:
    machine = started()
    assert machine.take(token(0), b"early") is Verdict.FRESH
    for number in range(1, KEPT_MAX + 1):
        assert machine.next_timer() == 100.0 + number * TOKEN_S
        machine.rotate(token(number), 100.0 + number * TOKEN_S)
        assert machine.newest == token(number)
        stale = Verdict.STALE if number < KEPT_MAX else Verdict.UNKNOWN
        known = Verdict.REPLAYED if number < KEPT_MAX else Verdict.UNKNOWN
        assert machine.take(token(0), b"early") is known
        fresh = Verdict.FRESH if number < TOKENS_MAX else stale
        assert machine.take(token(0), b"late %d" % number) is fresh


def test_a_machine_that_slept_forgets_all_tokens() -> None:
    machine = started()
    number = 0
    now = 100.0 + 3_600
    while machine.next_timer() <= now:
        number += 1
        machine.rotate(token(number), now)
    assert TOKENS_MAX <= number <= KEPT_MAX + 1
    assert machine.take(token(0), b"one") is Verdict.UNKNOWN
    assert now < machine.next_timer() <= now + TOKEN_S


def test_ids_at_the_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "REPLAY_IDS_MAX", 3)
    machine = started()
    for ident in (b"a", b"b", b"c"):
        assert machine.take(token(0), ident) is Verdict.FRESH
    assert machine.take(token(0), b"d") is Verdict.FULL
    assert machine.take(token(0), b"a") is Verdict.REPLAYED
    for number in range(1, KEPT_MAX):
        machine.rotate(token(number), 0.0)
    assert machine.take(machine.newest, b"d") is Verdict.FULL
    machine.rotate(token(99), 0.0)
    assert machine.take(machine.newest, b"d") is Verdict.FRESH


@pytest.mark.parametrize("seed", range(10))
def test_no_history_accepts_a_request_twice(seed: int) -> None:
    dice = random.Random(seed)
    machine = started()
    given = [token(0)]
    accepted: set[tuple[bytes, bytes]] = set()
    now = 100.0
    for _ in range(2_000):
        now += dice.choice([0.0, 1.0, 5.0, 40.0]) * dice.random()
        while machine.next_timer() <= now:
            given.append(token(len(given)))
            machine.rotate(given[-1], now)
        request = (dice.choice(given[-15:]), b"%d" % dice.randrange(30))
        verdict = machine.take(*request)
        if verdict is Verdict.FRESH:
            assert request not in accepted
            assert request[0] in given[-TOKENS_MAX:]
            accepted.add(request)
        elif verdict is Verdict.REPLAYED:
            assert request in accepted
        elif verdict is Verdict.STALE:
            assert request not in accepted
    assert len(accepted) > 100
