"""core/membership.py, duplicates: two real machines, every order of events."""

from __future__ import annotations

from collections import deque
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.core.effects import CloseLink, MembershipEffect, NodeDown, NodeUp, UseLink
from drupelet.core.membership import LINGER_S, Membership, PeerInfo

ALICE, BOB = b"a" * 32, b"b" * 32


class Pair:
    """Two machines and links between them whose events arrive in any order that a network allows.

    Each side of a link has a queue of what happens to it: "up", then perhaps "down". What one side
    closes comes to the other behind whatever is still under way.
    """

    def __init__(self, keys: tuple[bytes, bytes]) -> None:
        self.machines = [Membership(keys[0], "n0", Random(1).random)]
        self.machines.append(Membership(keys[1], "n1", Random(2).random))
        self.keys = keys
        self.queues: dict[tuple[int, int], deque[str]] = {}
        self.opener: dict[int, int] = {}
        self.alive: set[tuple[int, int]] = set()  # (link, side) that the side counts as a link
        self.closed: set[int] = set()
        self.events: list[list[MembershipEffect]] = [[], []]

    def open(self, opener: int) -> None:
        link = len(self.opener) + 1
        self.opener[link] = opener
        for side in (0, 1):
            self.queues[link, side] = deque(["up"])

    def break_one_way(self, link: int, side: int) -> None:
        """One side notices that the link is gone; the other does not (yet)."""
        self.queues[link, side].append("closed")

    def ready(self) -> list[tuple[int, int]]:
        return [each for each, queue in self.queues.items() if queue]

    def step(self, each: tuple[int, int], now: float) -> None:
        link, side = each
        what = self.queues[each].popleft()
        machine_ = self.machines[side]
        if what == "up":
            other = 1 - side
            info = PeerInfo(
                key=self.keys[other], name=f"n{other}", incarnation=1, host=f"h{link}", port=1
            )
            if machine_.link_up(link, info, self.opener[link] == side, now) is None:
                self.alive.add(each)
        elif each in self.alive:
            self.alive.discard(each)
            machine_.link_down(link, what, now)
        self.perform(side)

    def perform(self, side: int) -> None:
        for effect in self.machines[side].take_effects():
            if isinstance(effect, CloseLink):
                self.alive.discard((effect.link_id, side))
                if effect.link_id not in self.closed:
                    self.closed.add(effect.link_id)
                    self.queues[effect.link_id, 1 - side].append(effect.reason)
            elif isinstance(effect, NodeUp | NodeDown):
                self.events[side].append(effect)

    def settle(self, now: float) -> None:
        for _ in range(20):
            now += 0.5
            for side in (0, 1):
                if self.machines[side].next_timer() <= now:
                    self.machines[side].handle_timer(now)
                self.perform(side)
            while self.ready():
                self.step(self.ready()[0], now)


def check_one_link(pair: Pair) -> None:
    mine = {link for link, side in pair.alive if side == 0}
    yours = {link for link, side in pair.alive if side == 1}
    assert mine == yours
    assert len(mine) == 1
    for side in (0, 1):
        assert pair.machines[side].link_of(f"n{1 - side}") == next(iter(mine))
        kinds = [type(event) for event in pair.events[side]]
        assert kinds == ([NodeUp, NodeDown] * len(kinds))[: len(kinds)]
        assert len(kinds) % 2 == 1


@settings(max_examples=500, deadline=None)
@given(
    swap=st.booleans(),
    openers=st.lists(st.integers(0, 1), min_size=1, max_size=4),
    choices=st.lists(st.integers(0, 1000), min_size=16, max_size=16),
    gaps=st.lists(st.sampled_from([0.0, 0.0, 0.01, 0.5]), min_size=16, max_size=16),
)
def test_both_sides_keep_exactly_the_same_one_link(
    swap: bool, openers: list[int], choices: list[int], gaps: list[float]
) -> None:
    """Up to four dials that cross, in every order of their eight "up" events and the closings."""
    pair = Pair((BOB, ALICE) if swap else (ALICE, BOB))
    for opener in openers:
        pair.open(opener)
    now = 0.0
    for choice, gap in zip(choices, gaps, strict=True):
        ready = pair.ready()
        if not ready:
            break
        now += gap / 2  # all within the time of a handshake
        pair.step(ready[choice % len(ready)], now)
    while pair.ready():
        pair.step(pair.ready()[0], now)
    pair.settle(now)
    check_one_link(pair)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("opener", [0, 1])
@pytest.mark.parametrize("lost_by", [0, 1])
def test_a_half_open_link_yields_to_the_one_of_the_peer_that_lost_it(
    swap: bool, opener: int, lost_by: int
) -> None:
    """One side lost the link and dials; the other still believes in the old one: it must neither
    refuse the new link nor see the node go down."""
    pair = Pair((BOB, ALICE) if swap else (ALICE, BOB))
    pair.open(opener)
    for side in (0, 1):
        pair.step((1, side), 0.0)
    pair.break_one_way(1, lost_by)
    pair.step((1, lost_by), 100.0)
    pair.open(lost_by)
    for side in (0, 1):
        pair.step((2, side), 100.2)
    pair.settle(100.2)
    keeper = 1 - lost_by
    assert (2, keeper) in pair.alive
    assert pair.machines[keeper].link_of(f"n{lost_by}") == 2
    assert [type(event) for event in pair.events[keeper]] == [NodeUp]


def test_a_second_address_of_a_linked_node_costs_no_link() -> None:
    for keys in ((ALICE, BOB), (BOB, ALICE)):
        pair = Pair(keys)
        pair.open(0)
        for side in (0, 1):
            pair.step((1, side), 0.0)
        pair.open(0)  # an alias, found much later
        for side in (1, 0):
            pair.step((2, side), 100.0)
        while pair.ready():
            pair.step(pair.ready()[0], 100.01)
        pair.settle(100.0)
        check_one_link(pair)
        assert pair.machines[0].link_of("n1") == 1
        assert len(pair.events[0]) == len(pair.events[1]) == 1


def test_a_duplicate_closed_before_the_kept_link_is_greeted_is_no_down() -> None:
    """The decider accepted link 1 and closes its own link 2; the other one hears of that first."""
    bob = Membership(BOB, "bob", Random(1).random)
    alice = PeerInfo(key=ALICE, name="alice", incarnation=1, host="h", port=1)
    bob.link_up(2, alice, False, 0.0)
    bob.take_effects()
    bob.link_down(2, "duplicate", 0.001)
    assert bob.take_effects() == []
    assert bob.link_of("alice") is None
    assert bob.link_up(1, alice, True, 0.002) is None
    assert bob.take_effects() == [UseLink("alice", 1)]
    assert bob.link_of("alice") == 1


def test_a_duplicate_closed_and_no_other_link_is_down_soon() -> None:
    bob = Membership(BOB, "bob", Random(1).random)
    alice = PeerInfo(key=ALICE, name="alice", incarnation=1, host="h", port=1)
    bob.link_up(2, alice, False, 0.0)
    bob.take_effects()
    bob.link_down(2, "duplicate", 1.0)
    mallory = PeerInfo(key=b"m" * 32, name="alice", incarnation=1, host="h", port=1)
    assert bob.refusal(mallory) == "name_taken"
    assert bob.next_timer() == 1.0 + LINGER_S
    bob.handle_timer(1.0 + LINGER_S)
    assert bob.next_timer() > 1.0 + LINGER_S
    assert bob.take_effects() == [
        NodeDown(name="alice", key=ALICE, incarnation=1, reason="duplicate")
    ]


def test_a_new_start_while_the_old_one_lingers() -> None:
    bob = Membership(BOB, "bob", Random(1).random)
    alice = PeerInfo(key=ALICE, name="alice", incarnation=1, host="h", port=1)
    bob.link_up(2, alice, False, 0.0)
    bob.link_down(2, "duplicate", 1.0)
    bob.take_effects()
    again = PeerInfo(key=ALICE, name="alice", incarnation=9, host="h", port=1)
    assert bob.link_up(3, again, False, 1.1) is None
    kinds = [type(effect) for effect in bob.take_effects()]
    assert kinds == [NodeDown, NodeUp, UseLink]
