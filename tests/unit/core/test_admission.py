"""core/admission.py: limits of strangers, penalties, what counts as one address."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.core.admission import PENALTY_FIRST_S, PENALTY_MAX_S, Admission, Refusal, group_of
from drupelet.wire import limits


def fail(admission: Admission, address: str, now: float) -> None:
    assert admission.admit(address, now) is None
    admission.finished(address, False, now)


def test_per_address_at_the_maximum_and_one_above() -> None:
    admission = Admission()
    for _ in range(limits.UNAUTHENTICATED_PER_ADDRESS_MAX):
        assert admission.admit("192.0.2.1", 0.0) is None
    assert admission.admit("192.0.2.1", 0.0) is Refusal.ADDRESS
    assert admission.admit("192.0.2.2", 0.0) is None
    admission.finished("192.0.2.1", True, 1.0)
    assert admission.admit("192.0.2.1", 1.0) is None
    assert admission.statistics().refused_address_count == 1


def test_in_all_at_the_maximum_and_one_above() -> None:
    admission = Admission()
    for number in range(limits.UNAUTHENTICATED_MAX):
        assert admission.admit(f"192.0.2.{number}", 0.0) is None
    assert admission.admit("198.51.100.1", 0.0) is Refusal.TOTAL
    admission.finished("192.0.2.3", True, 0.0)
    assert admission.admit("198.51.100.1", 0.0) is None


def test_penalty_doubles_to_its_cap_and_success_clears_it() -> None:
    admission = Admission()
    now = 0.0
    spans: list[float] = []
    for _ in range(9):
        fail(admission, "192.0.2.1", now)
        span = next(s for s in (1, 2, 4, 8, 16, 32, 60) if not _refused(admission, now + s))
        assert _refused(admission, now + span - 0.001)
        spans.append(span)
        now += span
    assert spans == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert admission.admit("192.0.2.1", now) is None
    admission.finished("192.0.2.1", True, now)
    assert admission.statistics().penalty_addresses == 0
    fail(admission, "192.0.2.1", now)
    assert not _refused(admission, now + PENALTY_FIRST_S)


def _refused(admission: Admission, now: float) -> bool:
    refusal = admission.admit("192.0.2.1", now)
    if refusal is None:
        # Undo without clearing the penalty: the count of those under way only.
        admission._under_way.clear()
        admission._total = 0
    return refusal is Refusal.PENALTY


def test_while_a_code_is_shown_penalties_do_not_count_and_the_bounds_do() -> None:
    admission = Admission()
    fail(admission, "192.0.2.1", 0.0)
    fail(admission, "192.0.2.1", 1.0)
    assert _refused(admission, 1.5)
    admission.forgiving_until = 2.0
    for _ in range(limits.UNAUTHENTICATED_PER_ADDRESS_MAX):
        assert admission.admit("192.0.2.1", 1.5) is None
    assert admission.admit("192.0.2.1", 1.5) is Refusal.ADDRESS
    assert admission.admit("192.0.2.1", 2.0) is Refusal.PENALTY


def test_an_old_sin_is_forgotten() -> None:
    admission = Admission()
    for now in (0.0, 1.0, 3.0):
        fail(admission, "192.0.2.1", now)
    later = 3.0 + 4.0 + PENALTY_MAX_S
    fail(admission, "192.0.2.1", later)
    assert not _refused(admission, later + PENALTY_FIRST_S)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "127.9.9.9", "::ffff:127.0.0.1"])
def test_loopback_is_never_refused_for_more_than_a_second(address: str) -> None:
    admission = Admission()
    for second in range(20):
        fail(admission, address, float(second))
        assert admission.admit(address, second + 0.5) is Refusal.PENALTY


def test_penalty_table_at_the_maximum_and_one_above_drops_the_oldest() -> None:
    admission = Admission()
    for number in range(limits.PENALTY_ADDRESSES_MAX + 1):
        fail(admission, f"10.0.{number // 256}.{number % 256}", 0.0)
    assert admission.statistics().penalty_addresses == limits.PENALTY_ADDRESSES_MAX
    assert admission.admit("10.0.0.0", 0.0) is None
    assert admission.admit("10.0.0.1", 0.0) is Refusal.PENALTY


def test_a_refused_stranger_costs_no_memory() -> None:
    admission = Admission()
    fail(admission, "192.0.2.1", 0.0)
    for _ in range(1000):
        assert admission.admit("192.0.2.1", 0.5) is Refusal.PENALTY
    statistics = admission.statistics()
    assert statistics.under_way == 0
    assert statistics.refused_penalty_count == 1000


def test_what_counts_as_one_address() -> None:
    assert group_of("2001:db8:1:2::1") == group_of("2001:db8:1:2:ffff::9")
    assert group_of("2001:db8:1:2::1") != group_of("2001:db8:1:3::1")
    assert group_of("fe80::1%eth0") != group_of("fe80::1%eth1")
    assert group_of("::ffff:192.0.2.7") == group_of("192.0.2.7") == ("192.0.2.7", False)
    assert group_of("not an address") == ("not an address", False)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", "d", "e"]), st.booleans(), st.booleans()),
        max_size=200,
    )
)
def test_counts_never_leak(steps: list[tuple[str, bool, bool]]) -> None:
    admission = Admission()
    under_way: list[str] = []
    for number, (address, enter, ok) in enumerate(steps):
        now = number / 10
        if enter:
            if admission.admit(address, now) is None:
                under_way.append(address)
        elif address in under_way:
            under_way.remove(address)
            admission.finished(address, ok, now)
        assert admission.statistics().under_way == len(under_way)
        assert max((under_way.count(a) for a in under_way), default=0) <= 8
        assert len(under_way) <= limits.UNAUTHENTICATED_MAX
