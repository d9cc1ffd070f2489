"""What lives under grants, and how it is found from any link of their chains."""

from __future__ import annotations

import random

import pytest

from drupelet.core import holdings as core
from drupelet.core.grants import FULL_S
from drupelet.core.holdings import Holdings
from drupelet.errors import RateLimited
from drupelet.wire.grants import Terms
from tests.unit.core.test_grants import BOB, CHARLIE, KEY, Node, hand_on


def test_what_is_held_is_found_under_its_grant_until_it_is_dropped() -> None:
    node = Node()
    grant, other = node.grant(Terms()), node.grant(Terms())
    holdings = Holdings()
    first, second = holdings.hold(grant), holdings.hold(grant, b"a proxy")
    third = holdings.hold(other, "a call")
    holdings.name(first, "another call")
    assert [holdings.what(each) for each in (first, second, third)] == [
        "another call", b"a proxy", "a call",
    ]  # fmt: skip
    assert holdings.under(lambda each: each.id == grant.id) == (first, second)
    assert holdings.under(lambda each: True) == (first, second, third)
    holdings.drop(first)
    holdings.drop(first)
    holdings.name(first, "late news")
    assert holdings.what(first) is None
    assert holdings.under(lambda each: each.id == grant.id) == (second,)
    holdings.drop(second)
    assert holdings.under(lambda each: each.id == grant.id) == ()
    assert len(holdings) == 1
    assert holdings.hold(grant) > third  # a ticket is given once


def test_a_middle_link_takes_all_that_lives_behind_it() -> None:
    node = Node()
    grant = node.grant(Terms(delegable=2))
    middle = hand_on(grant, BOB, CHARLIE, Terms(delegable=1))
    last = hand_on(middle, CHARLIE, BOB)
    holdings = node.grants.holdings
    held = {each.id: holdings.hold(each, "proxy") for each in (grant, middle, last)}
    node.right(last)
    assert node.grants.revoke(middle.id, 0.0).tickets == (held[middle.id], held[last.id])
    assert node.grants.revoke(KEY[BOB], 0.0).tickets == tuple(held.values())


def test_a_call_that_was_named_stays_after_its_end() -> None:
    node = Node()
    right = node.right(node.grant(Terms(concurrent=1)))
    first = node.grants.admit(right, "boil", 0, 0.0)
    node.grants.holdings.name(first, "in a worker")
    with pytest.raises(RateLimited):
        node.grants.admit(right, "boil", 0, 0.0)
    node.grants.finish(first)  # it was answered: it counts no more, and something of it runs
    second = node.grants.admit(right, "boil", 0, 0.0)
    assert node.grants.revoke(right.grant.id, 0.0).tickets == (first, second)
    node.grants.holdings.drop(first)
    node.grants.finish(second)
    assert len(node.grants.holdings) == 0


def test_at_the_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "HOLDINGS_MAX", 3)
    node = Node()
    right = node.right(node.grant(Terms()))
    tickets = [node.grants.admit(right, "boil", 0, 0.0) for _ in range(3)]
    with pytest.raises(RateLimited) as caught:
        node.grants.admit(right, "boil", 0, 0.0)
    assert caught.value.retry_after_s == FULL_S
    node.grants.finish(tickets[0])
    node.grants.admit(right, "boil", 0, 0.0)


def test_against_a_plain_list() -> None:
    node, dice = Node(), random.Random(17)
    grants = [node.grant(Terms()) for _ in range(8)]
    holdings = Holdings()
    model: dict[int, bytes] = {}
    for _ in range(2_000):
        if dice.random() < 0.6:
            grant = dice.choice(grants)
            model[holdings.hold(grant, "x")] = grant.id
        elif model:
            ticket = dice.choice(list(model))
            holdings.drop(ticket)
            del model[ticket]
        dead = {each.id for each in grants if dice.random() < 0.3}
        expected = tuple(ticket for ticket, ident in model.items() if ident in dead)
        assert holdings.under(lambda each, dead=dead: each.id in dead) == expected  # type: ignore[misc]
        assert len(holdings) == len(model)
