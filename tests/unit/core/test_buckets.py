"""Buckets: never more than the rate and the burst, and never less than the rate."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.core.buckets import Bucket, charge


def run(bucket: Bucket, times: list[float]) -> int:
    """How many calls at these times go through."""
    gone = 0
    for now in times:
        if bucket.wait_s(now) == 0.0:
            bucket.take()
            gone += 1
    return gone


def test_a_thousand_calls_in_ten_seconds() -> None:
    """10 a second, 10 at once: 110 of 1,000, and as many when they come as ten streams."""
    times = [5.0 + number * 0.01 for number in range(1_000)]
    assert run(Bucket(10, 1, burst=10, now=5.0), times) == 109
    assert run(Bucket(10, 1, burst=10, now=5.0), [*times, 15.0]) == 110
    assert run(Bucket(10, 1, burst=10, now=5.0), sorted(times * 10)) == 109


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.integers(1, 50),
    st.sampled_from([1, 3, 60, 3_600]),
    st.integers(1, 30),
    st.lists(st.floats(0, 5_000), max_size=200),
)
def test_no_span_has_more_than_the_rate_and_the_burst(
    count: int, period_s: int, burst: int, times: list[float]
) -> None:
    bucket = Bucket(count, period_s, burst=burst, now=0.0)
    gone = []
    for now in sorted(times):
        wait_s = bucket.wait_s(now)
        if wait_s == 0.0:
            bucket.take()
            gone.append(now)
        else:
            assert 0 < wait_s <= period_s / count + 1e-6
    for first, begin in enumerate(gone):
        for last in range(first, len(gone)):
            assert last - first + 1 <= burst + count * (gone[last] - begin + 1e-6) / period_s + 1e-6


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 50), st.sampled_from([1, 7, 60]), st.integers(1, 5))
def test_who_waits_as_told_goes_through(count: int, period_s: int, burst: int) -> None:
    bucket = Bucket(count, period_s, burst=burst, now=100.0)
    now = 100.0
    for _ in range(burst + 20):
        now += bucket.wait_s(now) + 1e-9
        assert bucket.wait_s(now) == 0.0
        bucket.take()
    assert now - 100.0 == pytest.approx(20 * period_s / count, abs=1e-5)


def test_a_rate_that_does_not_divide_is_exact() -> None:
    bucket = Bucket(3, 7, burst=1, now=0.0)
    now = 0.0
    for _ in range(3_001):
        while wait_s := bucket.wait_s(now):
            now += wait_s + 1e-9  # a float of seconds is cut to nanoseconds
        bucket.take()
    assert now == pytest.approx(7_000, abs=1e-3)


def test_a_clock_that_does_not_go_forward_gives_nothing() -> None:
    bucket = Bucket(1, 1, burst=1, now=50.0)
    bucket.take()
    assert bucket.wait_s(49.0) == 1.0
    assert bucket.wait_s(50.0) == 1.0
    assert bucket.wait_s(50.5) == 0.5


def test_rested() -> None:
    bucket = Bucket(2, 1, burst=2, now=0.0)
    assert bucket.rested(0.0)
    bucket.take()
    assert not bucket.rested(0.25)
    assert bucket.rested(0.5)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 60), st.integers(1, 20)), min_size=1),
    st.lists(st.floats(0.0, 5.0), max_size=60),
)
def test_charging_is_looking_at_each_and_taking_from_all(
    rates: list[tuple[int, int, int]], steps: list[float]
) -> None:
    now = 0.0
    one, other = (
        [Bucket(count, period, burst=burst, now=now) for count, period, burst in rates]
        for _ in range(2)
    )
    for step in steps:
        now += step
        wait_s = max(bucket.wait_s(now) for bucket in one)
        if not wait_s:
            for bucket in one:
                bucket.take()
        assert charge(other, now) == wait_s
