"""core/backoff.py: bounded below, doubling, capped."""

from __future__ import annotations

import random

import pytest

from drupelet.core.backoff import Backoff


def test_is_never_zero_even_when_random_is() -> None:
    backoff = Backoff(0.2, 30.0, lambda: 0.0)
    assert [backoff.next_delay_s() for _ in range(20)] == [0.1] * 20


def test_ceiling_doubles_to_the_cap_and_reset_begins_again() -> None:
    backoff = Backoff(1.0, 5.0, lambda: 1.0)
    assert [backoff.next_delay_s() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    backoff.reset()
    assert backoff.next_delay_s() == 1.0


def test_same_seed_same_delays() -> None:
    first = Backoff(0.2, 30.0, random.Random(17).random)
    second = Backoff(0.2, 30.0, random.Random(17).random)
    delays = [first.next_delay_s() for _ in range(50)]
    assert delays == [second.next_delay_s() for _ in range(50)]
    assert all(0.1 <= delay <= 30.0 for delay in delays)
    assert len(set(delays)) == 50


@pytest.mark.parametrize(("base_s", "cap_s"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_refuses_bounds_that_could_spin(base_s: float, cap_s: float) -> None:
    with pytest.raises(ValueError, match="base_s"):
        Backoff(base_s, cap_s, lambda: 0.5)
