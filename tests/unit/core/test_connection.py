"""core/connection.py: keepalive, being stopped, orderly end."""

from __future__ import annotations

from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.core.connection import (
    GOODBYE_S,
    LATE_IN_A_ROW_MAX,
    PINGS_MAX,
    Connection,
    State,
)
from drupelet.core.effects import Dead, SendGoodbye, SendPing


def run_until_dead(connection: Connection, end: float) -> tuple[float, list[object]]:
    """Fire each timer exactly when it is due; return (when dead or `end`, all effects)."""
    effects: list[object] = []
    while (now := connection.next_timer()) <= end:
        connection.handle_timer(now)
        assert connection.next_timer() > now
        effects += connection.take_effects()
        if connection.state is State.CLOSED:
            return now, effects
    return end, effects


def test_silence_is_four_pings_then_death_within_five_seconds() -> None:
    connection = Connection(100.0)
    now, effects = run_until_dead(connection, 200.0)
    assert effects == [SendPing(1), SendPing(2), SendPing(3), SendPing(4), Dead("down")]
    assert now == 104.5
    assert connection.next_timer() == inf


def test_traffic_needs_no_ping() -> None:
    connection = Connection(0.0)
    for tenth in range(1, 300):
        now = tenth / 10
        connection.last_received = now
        connection.handle_timer(now)
        assert connection.take_effects() == []


def test_an_answered_ping_keeps_the_link_and_measures_it() -> None:
    connection = Connection(0.0)
    for second in range(1, 60):
        connection.handle_timer(connection.next_timer())
        for effect in connection.take_effects():
            assert isinstance(effect, SendPing)
            assert connection.pong(effect.token, connection.last_received + 1.25) is not None
        assert second
    assert connection.state is State.OPEN
    assert connection.round_trip_s is not None
    assert connection.statistics().round_trip_min_s == 0.25


def test_pong_of_an_unknown_token_is_ignored() -> None:
    connection = Connection(0.0)
    token = connection.ping(1.0)
    assert connection.pong(token, 1.5) == 0.5
    assert connection.pong(token, 1.6) is None
    assert connection.pong(2**64 - 1, 1.6) is None
    assert connection.round_trip_s == 0.5


def test_tokens_are_kept_up_to_the_maximum_and_not_one_above() -> None:
    connection = Connection(0.0)
    tokens = [connection.ping(0.0) for _ in range(PINGS_MAX + 1)]
    assert connection.pong(tokens[0], 1.0) is None
    assert connection.pong(tokens[1], 1.0) == 1.0


def test_a_stopped_process_looks_again_before_it_judges() -> None:
    connection = Connection(0.0)
    connection.handle_timer(600.0)  # SIGSTOP for ten minutes; the peer's bytes wait unread
    assert connection.take_effects() == [SendPing(1)]
    assert connection.next_timer() == 601.0
    connection.received(600.01)
    connection.handle_timer(601.0)
    assert connection.state is State.OPEN


def test_a_stopped_process_whose_peer_is_gone_notices_one_interval_later() -> None:
    connection = Connection(0.0)
    connection.handle_timer(600.0)
    connection.take_effects()
    connection.handle_timer(601.0)
    assert connection.take_effects() == [Dead("down")]


def test_a_machine_that_is_always_late_still_notices() -> None:
    connection = Connection(0.0)
    looks = 0
    while connection.state is State.OPEN:
        connection.handle_timer(connection.next_timer() + 30.0)
        looks += 1
    assert looks == LATE_IN_A_ROW_MAX + 1


def test_goodbye_waits_for_the_peer_for_a_bounded_time() -> None:
    connection = Connection(0.0)
    connection.goodbye("stopping", 5.0)
    connection.goodbye("again", 5.1)
    assert connection.take_effects() == [SendGoodbye("stopping")]
    assert connection.state is State.CLOSING
    assert connection.next_timer() == 5.0 + GOODBYE_S
    connection.handle_timer(5.0 + GOODBYE_S)
    assert connection.take_effects() == [Dead("stopping")]
    assert connection.next_timer() == inf


def test_the_peers_goodbye_closes_at_once_with_its_reason() -> None:
    connection = Connection(0.0)
    connection.goodbye_received("stopping", 1.0)
    assert connection.take_effects() == [Dead("stopping")]
    connection.closed()
    assert connection.take_effects() == []
    assert connection.reason == "stopping"


def test_a_goodbye_that_is_answered_keeps_our_reason() -> None:
    connection = Connection(0.0)
    connection.goodbye("duplicate", 1.0)
    connection.goodbye_received("stopping", 1.1)
    assert connection.take_effects() == [SendGoodbye("duplicate"), Dead("duplicate")]


def test_end_of_file_is_closed() -> None:
    connection = Connection(0.0)
    connection.closed()
    assert connection.take_effects() == [Dead("closed")]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0.01, 4.0), max_size=30), st.floats(0.0, 0.4))
def test_dead_between_four_and_five_seconds_after_the_last_byte(
    gaps: list[float], lag_s: float
) -> None:
    """Whatever the traffic before, and with timers that fire up to 0.4 s late."""
    connection = Connection(0.0)
    now = 0.0
    for gap in gaps:
        until = now + gap
        while connection.next_timer() + lag_s < until:
            now = connection.next_timer() + lag_s
            connection.handle_timer(now)
            assert connection.next_timer() > now
        now = until
        connection.received(now)
    assert connection.state is State.OPEN
    last = now
    while connection.state is State.OPEN:
        now = connection.next_timer() + lag_s
        connection.handle_timer(now)
    assert last + 4.0 < now <= last + 5.0
