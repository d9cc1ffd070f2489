"""Guests: three wrong passwords, and how many may be inside."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.core.guests import Guests, Turned
from drupelet.wire import limits

HERE, THERE = "192.0.2.1", "192.0.2.2"
WAIT_S = limits.CHAN_BACKOFF_S


def _address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def _wrong(guests: Guests, address: str, now: float, times: int = limits.CHAN_TRIES_MAX) -> None:
    for _ in range(times):
        guests.wrong(address, now)


def test_the_third_wrong_password_makes_its_address_wait() -> None:
    guests = Guests()
    for now in (0.0, 10.0):
        assert guests.knock(HERE, now) is None
        guests.wrong(HERE, now)
        guests.leave(HERE)
        assert guests.wait_s(HERE, now) == 0.0
    assert guests.knock(HERE, 20.0) is None
    guests.wrong(HERE, 20.0)
    guests.leave(HERE)
    assert guests.wait_s(HERE, 20.0) == WAIT_S
    assert guests.knock(HERE, 20.0 + WAIT_S - 0.001) is Turned.WAIT
    assert guests.knock(THERE, 20.0) is None
    assert guests.knock(HERE, 20.0 + WAIT_S) is None
    assert guests.statistics().turned_wait_count == 1


def test_after_the_wait_there_are_three_tries_again() -> None:
    guests = Guests()
    _wrong(guests, HERE, 0.0)
    _wrong(guests, HERE, WAIT_S, 2)
    assert guests.wait_s(HERE, WAIT_S) == 0.0
    guests.wrong(HERE, WAIT_S)
    assert guests.wait_s(HERE, WAIT_S) == WAIT_S


def test_wrong_ones_are_forgotten() -> None:
    guests = Guests()
    _wrong(guests, HERE, 0.0, 2)
    guests.wrong(HERE, WAIT_S)
    assert guests.wait_s(HERE, WAIT_S) == 0.0
    guests.wrong(HERE, 2 * WAIT_S - 0.001)
    guests.wrong(HERE, 2 * WAIT_S)
    assert guests.wait_s(HERE, 2 * WAIT_S) == WAIT_S


def test_a_right_password_clears_nothing() -> None:
    guests = Guests()
    _wrong(guests, HERE, 0.0, 2)
    assert guests.knock(HERE, 0.0) is None
    assert guests.enter(HERE)
    guests.close(HERE)
    guests.wrong(HERE, 1.0)
    assert guests.wait_s(HERE, 1.0) == WAIT_S


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_loopback_waits_as_well(address: str) -> None:
    guests = Guests()
    _wrong(guests, address, 0.0)
    assert guests.knock(address, WAIT_S - 1) is Turned.WAIT


def test_an_ipv6_network_is_one_address_and_a_mapped_one_its_own() -> None:
    guests = Guests()
    _wrong(guests, "2001:db8::1", 0.0)
    assert guests.wait_s("2001:db8::ffff:1", 0.0) == WAIT_S
    assert guests.wait_s("2001:db8:0:1::1", 0.0) == 0.0
    _wrong(guests, "::ffff:192.0.2.1", 0.0)
    assert guests.wait_s(HERE, 0.0) == WAIT_S


def test_without_a_password_at_the_maximum_and_one_above() -> None:
    guests = Guests()
    for _ in range(limits.UNAUTHENTICATED_PER_ADDRESS_MAX):
        assert guests.knock(HERE, 0.0) is None
    assert guests.knock(HERE, 0.0) is Turned.FULL
    for number in range(limits.UNAUTHENTICATED_MAX - limits.UNAUTHENTICATED_PER_ADDRESS_MAX):
        assert guests.knock(_address(number), 0.0) is None
    assert guests.knock(THERE, 0.0) is Turned.FULL
    guests.leave(HERE)
    assert guests.knock(THERE, 0.0) is None
    assert guests.statistics().turned_full_count == 2


def test_inside_at_the_maximum_and_one_above() -> None:
    guests = Guests()
    entered = 0
    for number in range(limits.CHAN_CONNECTIONS_MAX):
        address = _address(number // limits.CHAN_CONNECTIONS_PER_ADDRESS_MAX)
        assert guests.knock(address, 0.0) is None
        entered += guests.enter(address)
    assert entered == limits.CHAN_CONNECTIONS_MAX
    assert guests.knock(THERE, 0.0) is None
    assert not guests.enter(THERE)
    guests.close(_address(0))
    assert guests.enter(THERE)


def test_inside_per_address_at_the_maximum_and_one_above() -> None:
    guests = Guests()
    for _ in range(limits.CHAN_CONNECTIONS_PER_ADDRESS_MAX):
        assert guests.knock(HERE, 0.0) is None
        assert guests.enter(HERE)
    assert guests.knock(HERE, 0.0) is None
    assert not guests.enter(HERE)
    guests.leave(HERE)
    assert guests.knock(THERE, 0.0) is None
    assert guests.enter(THERE)


def test_the_table_of_wrong_passwords_at_the_maximum_and_one_above() -> None:
    guests = Guests()
    for number in range(limits.PENALTY_ADDRESSES_MAX):
        _wrong(guests, _address(number), 0.0)
    assert guests.wait_s(_address(0), 0.0) == WAIT_S
    guests.wrong(_address(1), 0.0)  # known: nobody goes
    assert guests.wait_s(_address(0), 0.0) == WAIT_S
    guests.wrong(THERE, 0.0)
    assert guests.statistics().wrong_addresses == limits.PENALTY_ADDRESSES_MAX
    assert guests.wait_s(_address(0), 0.0) == 0.0
    assert guests.wait_s(_address(1), 0.0) == WAIT_S


def test_what_was_not_counted_does_not_leave() -> None:
    guests = Guests()
    for end in (guests.leave, guests.close):
        with pytest.raises(AssertionError):
            end(HERE)
    assert guests.next_timer() == float("inf")


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 40.0)), max_size=60))
def test_never_more_than_three_looks_in_a_minute(steps: list[tuple[int, float]]) -> None:
    """A guesser who tries whenever it may: at most three in any span that ends in a wait."""
    guests, now = Guests(), 0.0
    looked: dict[str, list[float]] = {}
    for number, pause in steps:
        now += pause
        address = _address(number)
        if guests.wait_s(address, now) == 0.0:
            guests.wrong(address, now)
            looked.setdefault(address, []).append(now)
    for times in looked.values():
        for first, fourth in zip(times, times[limits.CHAN_TRIES_MAX :], strict=False):
            assert fourth - first >= WAIT_S
