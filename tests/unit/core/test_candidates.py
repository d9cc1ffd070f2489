"""The candidate window: what passes, at the maximum and one above."""

from __future__ import annotations

import math
import random

from drupelet.core.candidates import Candidate, CandidateWindow
from drupelet.wire import limits

OWN = "o" * 16


def candidate(number: int, key_prefix: str = "k" * 16) -> Candidate:
    return Candidate(
        source="mdns", host=f"10.0.0.{number}", port=4370, name="bilbo", key_prefix=key_prefix
    )


def offer(window: CandidateWindow, origin: str, given: Candidate, now: float) -> bool:
    window.receive(origin, given, now)
    return window.take_effects() == [given]


def test_own_instance_never_passes() -> None:
    window = CandidateWindow(OWN)
    assert not offer(window, "", candidate(1, OWN), 0.0)
    assert window.statistics().own_count == 1


def test_the_same_address_passes_once_in_a_window_and_again_after_it() -> None:
    window = CandidateWindow(OWN)
    assert offer(window, "", candidate(1), 5.0)
    assert not offer(window, "", candidate(1), 5.0 + limits.CANDIDATE_WINDOW_S - 0.001)
    assert offer(window, "", candidate(1), 5.0 + limits.CANDIDATE_WINDOW_S)
    assert window.statistics().repeated_count == 1


def test_at_most_64_in_a_window() -> None:
    window = CandidateWindow(OWN)
    passed = [offer(window, "", candidate(number), 0.0) for number in range(65)]
    assert passed == [True] * 64 + [False]
    assert not offer(window, "", candidate(70), 9.999)
    assert offer(window, "", candidate(70), 10.0)
    assert window.statistics().over_window_count == 2


def test_one_origin_takes_at_most_its_share() -> None:
    window = CandidateWindow(OWN)
    share = limits.CANDIDATES_PER_ORIGIN_MAX
    passed = [offer(window, "mallory", candidate(number), 0.0) for number in range(share + 1)]
    assert passed == [True] * share + [False]
    assert offer(window, "frodo", candidate(200), 0.0)
    assert offer(window, "mallory", candidate(201), 10.0)
    assert window.statistics().over_origin_count == 1


def test_any_flood_stays_within_every_window(seed: int) -> None:
    source = random.Random(seed)
    window = CandidateWindow(OWN)
    now, times = 0.0, []
    for _ in range(5_000):
        now += source.expovariate(200.0)
        given = candidate(source.randrange(250), f"{source.randrange(10**9):016d}")
        if offer(window, source.choice(["", "a", "b", "c", "d", "e"]), given, now):
            times.append(now)
    span_s = limits.CANDIDATE_WINDOW_S
    assert len(times) > limits.CANDIDATES_PER_WINDOW_MAX
    for at in times:
        within = sum(at <= time < at + span_s for time in times)
        assert within <= limits.CANDIDATES_PER_WINDOW_MAX
    assert len(window._passed) <= limits.CANDIDATES_PER_WINDOW_MAX
    assert window.next_timer() == math.inf
