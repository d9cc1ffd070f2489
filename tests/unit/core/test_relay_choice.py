"""core/relay_choice.py: which relay, by which way, after how long."""

from __future__ import annotations

import random

from drupelet.core.relay_choice import (
    CUT_S,
    LONGEST_S,
    POLL_LONGEST_S,
    POLL_S,
    REFUSED_LONGEST_S,
    STEADY_S,
    By,
    End,
    RelayChoice,
)


def choice(count: int = 1) -> RelayChoice:
    return RelayChoice(count, random.Random(17).random)


def test_the_first_at_once_by_websocket() -> None:
    attempt = choice(3).next(0.0)
    assert (attempt.place, attempt.by, attempt.wait_s) == (0, By.WEBSOCKET, 0.0)


def test_all_are_tried_before_a_delay_and_the_delay_grows_to_its_cap() -> None:
    made, waits = choice(3), []
    for number in range(30):
        attempt = made.next(0.0)
        assert attempt.place == number % 3
        assert (attempt.wait_s == 0.0) is (number == 0 or number % 3 != 0)
        waits.append(attempt.wait_s)
        made.ended(End.GONE, 0.0)
    assert 0.25 <= waits[3] <= 0.5
    assert max(waits) > LONGEST_S / 4 and max(waits) <= LONGEST_S


def test_what_works_is_kept_and_tried_once_more_when_it_ends() -> None:
    made = choice(2)
    made.ended(End.GONE, 0.0)
    made.up(1.0)
    made.ended(End.GONE, 1.0 + STEADY_S)
    again = made.next(12.0)
    assert again.place == 1 and 0.25 <= again.wait_s <= 0.5
    made.ended(End.GONE, 12.5)
    attempt = made.next(12.5)
    assert attempt.place == 0 and attempt.wait_s == 0.0  # at once


def test_a_silent_relay_is_left_at_once() -> None:
    made = choice(2)
    made.up(0.0)
    made.ended(End.SILENT, 1_000.0)
    attempt = made.next(1_000.0)
    assert (attempt.place, attempt.by, attempt.wait_s) == (1, By.WEBSOCKET, 0.0)


def test_a_relay_that_lets_us_in_and_falls_is_left() -> None:
    made = choice(2)
    made.up(0.0)
    made.ended(End.GONE, STEADY_S - 0.1)
    assert made.next(10.0).place == 1


def test_with_one_relay_the_delay_grows_while_it_lets_us_in_and_falls() -> None:
    made, waits = choice(), []
    for number in range(20):
        made.up(float(number))
        made.ended(End.GONE, float(number))
        waits.append(made.next(float(number)).wait_s)
    assert max(waits[10:]) > LONGEST_S / 2  # no tight loop
    made.up(100.0)
    made.ended(End.GONE, 100.0 + STEADY_S)
    assert made.next(111.0).wait_s <= 0.5


def test_where_no_websocket_passes_the_poll_is_used_at_once_and_for_longer_each_time() -> None:
    made, now, spans = choice(2), 0.0, []
    for _ in range(6):
        assert made.next(now).by is By.WEBSOCKET
        made.ended(End.NOT_PASSED, now)
        attempt = made.next(now)
        assert (attempt.place, attempt.by, attempt.wait_s) == (0, By.LONG_POLL, 0.0)
        made.up(now)
        spans.append(made.turn_at() - now)
        now = made.turn_at()
        made.ended(End.TURNED, now)
    assert spans == [POLL_S, 2 * POLL_S, 4 * POLL_S, 8 * POLL_S, POLL_LONGEST_S, POLL_LONGEST_S]


def test_each_relay_has_its_own_way() -> None:
    made = choice(2)
    made.ended(End.NOT_PASSED, 0.0)
    made.up(0.0)
    made.ended(End.GONE, 5.0)
    assert (made.next(5.0).place, made.next(5.0).by) == (1, By.WEBSOCKET)
    made.ended(End.GONE, 5.0)
    assert (made.next(5.0).place, made.next(5.0).by) == (0, By.LONG_POLL)


def test_a_relay_that_is_down_behind_its_proxy_is_not_polled_when_it_is_back() -> None:
    """The proxy refuses the upgrade, and the poll after it."""
    made = choice()
    for _ in range(20):
        assert made.next(0.0).by is By.WEBSOCKET
        made.ended(End.NOT_PASSED, 0.0)
        assert made.next(0.0).by is By.LONG_POLL and made.next(0.0).wait_s == 0.0
        made.ended(End.GONE, 0.0)
        assert made.next(0.0).wait_s > 0.0
    made.ended(End.NOT_PASSED, 0.0)
    made.up(0.0)
    assert made.turn_at() == POLL_S


def test_two_cuts_in_a_row_are_a_proxy_and_one_is_not() -> None:
    made = choice(2)
    made.up(0.0)
    made.ended(End.CUT, 5.0)
    once = made.next(5.0)
    assert (once.place, once.by) == (0, By.WEBSOCKET) and once.wait_s > 0
    made.up(6.0)
    made.ended(End.CUT, 6.0 + CUT_S - 1)
    twice = made.next(70.0)
    assert (twice.place, twice.by) == (0, By.LONG_POLL)


def test_a_cut_after_a_long_time_is_no_proxy() -> None:
    made = choice()
    for start in (0.0, 100.0, 200.0, 300.0):
        made.up(start)
        made.ended(End.CUT, start + CUT_S)
        assert made.next(start + CUT_S).by is By.WEBSOCKET
        made.up(start + 70)
        made.ended(End.CUT, start + 71)  # one, in between
        assert made.next(start + 71).by is By.WEBSOCKET


def test_a_killed_relay_is_cut_and_then_gone_so_the_next_one_is_taken() -> None:
    made = choice(2)
    made.up(0.0)
    made.ended(End.CUT, 300.0)
    assert made.next(300.0).place == 0
    made.ended(End.GONE, 300.5)
    attempt = made.next(300.5)
    assert (attempt.place, attempt.by, attempt.wait_s) == (1, By.WEBSOCKET, 0.0)


def test_a_refusal_is_asked_again_seldom_and_the_relay_may_name_the_time() -> None:
    made, waits = choice(), []
    for _ in range(20):
        made.ended(End.REFUSED, 0.0)
        waits.append(made.next(0.0).wait_s)
    assert 2.0 <= waits[0] <= 4.0
    assert REFUSED_LONGEST_S / 4 < max(waits) <= REFUSED_LONGEST_S
    made.ended(End.REFUSED, 0.0, 90.0)
    assert made.next(0.0).wait_s == 90.0


def test_nodes_of_a_restarted_relay_do_not_come_at_once() -> None:
    generator = random.Random(17)
    waits = []
    for _ in range(500):
        made = RelayChoice(1, generator.random)
        made.up(0.0)
        made.ended(End.CUT, 100.0)
        waits.append(made.next(100.0).wait_s)
    assert min(waits) >= 0.25 and max(waits) <= 0.5 and max(waits) - min(waits) > 0.24
