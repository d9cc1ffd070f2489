"""core/calls.py: ids, deadlines, limits; a model checks random histories."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.core import calls as calls_module
from drupelet.core.calls import SCAN_GAP_S, CallTable
from drupelet.errors import NoConnection
from drupelet.wire import limits


def test_ids_keep_their_parity() -> None:
    even, odd = CallTable(2), CallTable(1)
    assert [even.open("w", inf) for _ in range(3)] == [2, 4, 6]
    assert [odd.open("w", inf) for _ in range(3)] == [1, 3, 5]


@pytest.mark.parametrize("first", [0, 3, 4, -1])
def test_refuses_a_first_ident_that_is_no_parity(first: int) -> None:
    with pytest.raises(ValueError, match="first_ident"):
        CallTable(first)


def test_close_gives_the_waiter_once() -> None:
    table = CallTable(2)
    ident = table.open("waiter", 1.0)
    assert table.close(ident) == "waiter"
    assert table.close(ident) is None
    assert table.close(4711) is None
    assert table.statistics().late_count == 2


def test_full_at_the_maximum_and_one_above() -> None:
    table = CallTable(2, calls_max=3)
    idents = [table.open("w", inf) for _ in range(3)]
    with pytest.raises(NoConnection) as caught:
        table.open("w", inf)
    assert caught.value.reason == "overloaded"
    assert caught.value.maybe_ran is False
    assert table.statistics().refused_count == 1
    table.close(idents[1])
    table.open("w", inf)
    assert len(table) == 3


def test_holds_the_limit_of_a_link() -> None:
    table = CallTable(1)
    for _ in range(limits.CALLS_PER_LINK_MAX):
        table.open(None, inf)
    with pytest.raises(NoConnection):
        table.open(None, inf)
    assert len(table.drain()) == limits.CALLS_PER_LINK_MAX


def test_wraps_below_2_to_the_32_and_skips_ids_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "_IDENT_LIMIT", 10)
    table = CallTable(2, calls_max=4)
    assert [table.open(None, inf) for _ in range(4)] == [2, 4, 6, 8]
    table.close(6)
    assert table.open(None, inf) == 6
    table.close(2)
    assert table.open(None, inf) == 2
    assert 0 not in dict(table.drain())


def test_wraps_at_the_real_limit() -> None:
    table = CallTable(1)
    table._next_ident = 2**32 - 1
    assert table.open(None, inf) == 2**32 - 1
    assert table.open(None, inf) == 1
    table = CallTable(2)
    table._next_ident = 2**32 - 2
    assert table.open(None, inf) == 2**32 - 2
    assert table.open(None, inf) == 2


def test_expires_at_its_deadline_not_before() -> None:
    table = CallTable(2)
    first = table.open("first", 5.0)
    table.open("second", 7.0)
    assert table.next_timer() == 5.0
    assert table.expire(4.999) == []
    assert table.expire(5.0) == [(first, "first")]
    assert table.next_timer() == 7.0
    assert table.statistics().expired_count == 1


def test_closed_calls_leave_a_lower_bound_that_one_scan_mends() -> None:
    table = CallTable(2)
    table.close(table.open("gone", 5.0))
    table.open("stays", 50.0)
    assert table.next_timer() == 5.0
    assert table.expire(5.0) == []
    assert table.next_timer() == 50.0


def test_scans_are_at_least_a_gap_apart() -> None:
    table = CallTable(2)
    table.open("first", 1.0)
    table.expire(1.0)
    table.open("second", 1.001)
    assert table.next_timer() == 1.0 + SCAN_GAP_S
    assert table.expire(1.005) == []
    assert [waiter for _, waiter in table.expire(1.0 + SCAN_GAP_S)] == ["second"]


def test_endless_calls_need_no_timer() -> None:
    table = CallTable(2)
    table.open("w", inf)
    assert table.next_timer() == inf
    assert table.expire(1e12) == []


def test_drain_takes_all_once() -> None:
    table = CallTable(2)
    idents = [table.open(number, 1.0) for number in range(3)]
    assert table.drain() == list(zip(idents, range(3), strict=True))
    assert table.drain() == []
    assert table.next_timer() == inf


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("open"), st.floats(0, 10)),
            st.tuples(st.just("close"), st.integers(0, 40)),
            st.tuples(st.just("tick"), st.floats(0, 1)),
        ),
        max_size=80,
    )
)
def test_every_call_ends_once_and_about_in_time(steps: list[tuple[str, float]]) -> None:
    table = CallTable(1, calls_max=20)
    alive: dict[int, float] = {}
    now = 0.0
    for verb, number in steps:
        if verb == "open":
            if len(alive) == 20:
                continue
            ident = table.open(("waiter", now + number), now + number)
            assert ident not in alive
            assert ident % 2 == 1
            alive[ident] = now + number
        elif verb == "close":
            ident = int(number) * 2 + 1
            found = table.close(ident)
            assert found == (("waiter", alive.pop(ident)) if ident in alive else None)
        else:
            now += number
            for ident, _waiter in table.expire(now):
                assert alive.pop(ident) <= now
            assert all(deadline > now - SCAN_GAP_S for deadline in alive.values())
            assert table.next_timer() > now or table.next_timer() == inf
            assert table.next_timer() <= max(min(alive.values(), default=inf), now + SCAN_GAP_S)
    assert {ident for ident, _ in table.drain()} == set(alive)


def test_what_is_kept_holds_its_id_without_a_deadline() -> None:
    table = CallTable(2, calls_max=3)
    ident = table.open("lease", 1.0)
    assert table.expire(2.0) == [(ident, "lease")]
    table.keep(ident, "lease")
    assert table.expire(1e9) == []
    assert table.peek(ident) == "lease"
    table._next_ident = ident  # as after 2**31 calls
    assert table.open("other", inf) == ident + 2
    assert table.close(ident) == "lease"
    table.keep(ident, "lease")
    assert [each for _, each in table.drain()] == ["other", "lease"]
