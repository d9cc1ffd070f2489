"""simulator/ledger.py: each rule can really be broken."""

from __future__ import annotations

import pytest

from drupelet.core.effects import NodeDown, NodeUp
from drupelet.simulator.ledger import LATE_S, InvariantError, Ledger, require

UP = NodeUp(name="bob", key=b"b", incarnation=7)
DOWN = NodeDown(name="bob", key=b"b", incarnation=7, reason="down")


@pytest.fixture
def ledger() -> Ledger:
    book = Ledger()
    book.opened(1, "alice.1", "bob")
    return book


def test_a_good_history(ledger: Ledger) -> None:
    for _ in range(3):
        ledger.event(1, UP, 0.0)
        ledger.event(1, DOWN, 1.0)
    ledger.declared(1, b"b", 7)
    assert ledger.untold == {}
    ledger.ran(1, "value")
    ledger.outcome(1, "value", value="value")
    ledger.close()
    assert (ledger.ups, ledger.downs, ledger.told) == (3, 3, 1)


def test_node_events_alternate(ledger: Ledger) -> None:
    with pytest.raises(InvariantError, match="without its NodeUp"):
        ledger.event(1, DOWN, 0.0)
    ledger.event(1, UP, 0.0)
    ledger.event(2, UP, 0.0)
    with pytest.raises(InvariantError, match="twice"):
        ledger.event(1, UP, 0.0)


def test_a_declaration_of_death_waits_to_be_told(ledger: Ledger) -> None:
    ledger.event(1, UP, 0.0)
    ledger.event(1, DOWN, 3.0)
    assert ledger.untold == {(1, b"b", 7): 3.0}


def test_at_most_once(ledger: Ledger) -> None:
    ledger.ran(1, "value")
    with pytest.raises(InvariantError, match="ran 2 times"):
        ledger.ran(1, "value")


def test_exactly_one_outcome(ledger: Ledger) -> None:
    with pytest.raises(InvariantError, match="no outcome"):
        ledger.close()
    ledger.outcome(1, "timeout")
    with pytest.raises(InvariantError, match="ended twice"):
        ledger.outcome(1, "timeout")


def test_an_outcome_by_the_deadline(ledger: Ledger) -> None:
    ledger.opened(2, "alice.1", "bob", 5.0)
    ledger.check_deadlines("alice.1", 5.0 + LATE_S)
    ledger.check_deadlines("carol.1", 9.0)
    with pytest.raises(InvariantError, match="late"):
        ledger.check_deadlines("alice.1", 5.1)
    ledger.outcome(2, "timeout")
    ledger.check_deadlines("alice.1", 9.0)


def test_a_process_that_is_gone_needs_no_outcome(ledger: Ledger) -> None:
    ledger.caller_gone("alice.1")
    ledger.close()


def test_no_wrong_value(ledger: Ledger) -> None:
    ledger.ran(1, "value")
    with pytest.raises(InvariantError, match="not 'value'"):
        ledger.outcome(1, "value", value="other")


def test_no_value_from_nowhere(ledger: Ledger) -> None:
    with pytest.raises(InvariantError, match="never ran"):
        ledger.outcome(1, "value", value=None)


def test_maybe_ran_is_honest_before_and_after(ledger: Ledger) -> None:
    ledger.opened(2, "alice.1", "bob")
    ledger.ran(1, "value")
    with pytest.raises(InvariantError, match="was told it did not"):
        ledger.outcome(1, "link_lost", maybe_ran=False)
    ledger.outcome(2, "no_connection", maybe_ran=False)
    with pytest.raises(InvariantError, match="was told it did not"):
        ledger.ran(2, "value")


def test_require() -> None:
    require(True, "fine")
    with pytest.raises(InvariantError, match="not fine"):
        require(False, "not fine")
