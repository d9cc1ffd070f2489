"""Grants at the door: rights, rates, revocation and bounds."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from drupelet.core import grants as core
from drupelet.core.grants import Grants, Issued, Quota, Right
from drupelet.errors import NotPermitted, RateLimited, RemoteError, Revoked
from drupelet.wire import sodium
from drupelet.wire.grants import Grant, Link, Terms, issue, narrow

ALICE, ANNE, BOB, CHARLIE, DAVE, EVE = (bytes([number]) * 32 for number in range(1, 7))
KEY = {seed: sodium.ed25519_public(seed) for seed in (ALICE, ANNE, BOB, CHARLIE, DAVE, EVE)}
_nonces = random.Random(17)


def nonce() -> bytes:
    return _nonces.randbytes(8)


class Node:
    """Alice's node, of which Anne's is a member."""

    def __init__(self, quota: Quota | None = None) -> None:
        self.grants = Grants(KEY[ALICE], lambda key: key == KEY[ANNE], quota or Quota())
        self.kept: list[Issued] = []

    def grant(self, terms: Terms, holder: bytes = BOB, mission: str = "kitchen") -> Grant:
        sequence = self.grants.next_sequence
        made = issue(ALICE, KEY[holder], mission, terms, nonce(), sequence=sequence)
        self.kept.append(self.grants.issued(made, 0.0))
        return made

    def right(self, grant: Grant, holder: bytes = BOB, now: float = 0.0) -> Right:
        return self.grants.present(grant.data, {KEY[holder]}, now)

    def calls(self, right: Right, times: list[float], function: str = "boil") -> int:
        """How many calls at these times go through; each ends at once."""
        gone = 0
        for now in times:
            try:
                self.grants.finish(self.grants.admit(right, function, 10, now))
                gone += 1
            except RateLimited as error:
                assert error.retry_after_s > 0
        return gone


def hand_on(grant: Grant, signer: bytes, holder: bytes, terms: Terms | None = None) -> Grant:
    return narrow(grant, signer, KEY[holder], terms or Terms(), nonce())


def test_who_has_a_grant_calls_what_it_names_and_nothing_else() -> None:
    node = Node()
    right = node.right(node.grant(Terms(functions=("temp",))))
    node.grants.finish(node.grants.admit(right, "temp", 0, 1.0))
    for function in ("boil", "wipe", "os.system", "__import__", "temp.__globals__", "no_such"):
        with pytest.raises(NotPermitted) as caught:
            node.grants.admit(right, function, 0, 1.0)
        assert str(caught.value) == "not permitted"
    node.grants.finish(node.grants.admit(right, "temp", 0, 1.0))


def test_others_have_nothing() -> None:
    node = Node()
    data = node.grant(Terms()).data
    for keys in (set(), {KEY[CHARLIE]}, {KEY[ALICE]}):
        with pytest.raises(NotPermitted):
            node.grants.present(data, keys, 0.0)
    assert node.grants.present(data, {KEY[CHARLIE], KEY[BOB]}, 0.0).caller == KEY[BOB]


def test_only_we_and_members_grant() -> None:
    node = Node()
    for signer, good in ((ANNE, True), (EVE, False), (BOB, False)):
        grant = issue(signer, KEY[BOB], "kitchen", Terms(), nonce(), sequence=1)
        if good:
            node.grants.admit(node.right(grant), "boil", 0, 0.0)
        else:
            with pytest.raises(NotPermitted):
                node.right(grant)
    with pytest.raises(NotPermitted):
        node.grants.present(b"junk", {KEY[BOB]}, 0.0)


def test_what_we_do_not_know_of_our_own_does_not_count() -> None:
    """A file that was signed and never kept, or whose time is over."""
    unknown = issue(ALICE, KEY[BOB], "kitchen", Terms(), nonce(), sequence=1)
    with pytest.raises(Revoked):
        Node().right(unknown)


def test_the_rate_and_the_burst() -> None:
    node = Node()
    right = node.right(node.grant(Terms(rate=(10, 1), burst=10)))
    assert node.calls(right, [number / 100 for number in range(1_000)]) == 109
    with pytest.raises(RateLimited) as caught:
        while True:
            node.grants.finish(node.grants.admit(right, "boil", 0, 20.0))
    assert caught.value.retry_after_s == pytest.approx(0.1)


def test_ten_that_were_handed_on_have_one_rate_together() -> None:
    node = Node()
    grant = node.grant(Terms(rate=(10, 1), burst=10, delegable=2))
    rights = [node.right(grant)]
    for _ in range(10):
        rights.append(node.right(hand_on(grant, BOB, CHARLIE), CHARLIE))
    gone = 0
    for number in range(1_000):
        gone += node.calls(rights[number % len(rights)], [number / 100])
    assert gone == 109


def test_a_link_has_a_rate_of_its_own_too() -> None:
    node = Node()
    grant = node.grant(Terms(rate=(10, 1), delegable=1))
    slow = node.right(hand_on(grant, BOB, CHARLIE, Terms(rate=(1, 1), burst=1)), CHARLIE)
    assert node.calls(slow, [0.0, 0.5, 1.0, 1.5, 2.0]) == 3
    assert node.calls(node.right(grant), [2.0] * 20) == 9  # ten, and one of them Charlie's


def test_presenting_again_does_not_rest_a_rate() -> None:
    node = Node()
    grant = node.grant(Terms(rate=(1, 60)))
    assert node.calls(node.right(grant), [1.0, 1.0]) == 1
    assert node.calls(node.right(grant, now=2.0), [2.0]) == 0


def test_a_call_that_is_refused_costs_nothing() -> None:
    node = Node()
    grant = node.grant(Terms(rate=(100, 60), delegable=1))
    tail = node.right(hand_on(grant, BOB, CHARLIE, Terms(rate=(1, 3_600))), CHARLIE)
    assert node.calls(tail, [0.0] * 500) == 1
    assert node.calls(node.right(grant), [0.0] * 500) == 99


def test_how_many_run_at_the_same_time() -> None:
    node = Node()
    grant = node.grant(Terms(concurrent=2, delegable=1))
    tail = node.right(hand_on(grant, BOB, CHARLIE, Terms(concurrent=1)), CHARLIE)
    right = node.right(grant)
    first = node.grants.admit(tail, "boil", 0, 0.0)
    with pytest.raises(RateLimited):
        node.grants.admit(tail, "boil", 0, 0.0)
    second = node.grants.admit(right, "boil", 0, 0.0)
    with pytest.raises(RateLimited):
        node.grants.admit(right, "boil", 0, 0.0)
    node.grants.finish(first)
    node.grants.finish(first)
    third = node.grants.admit(right, "boil", 0, 0.0)
    with pytest.raises(RateLimited):
        node.grants.admit(tail, "boil", 0, 0.0)
    node.grants.finish(second)
    node.grants.finish(third)
    node.grants.admit(tail, "boil", 0, 0.0)


def test_the_owners_own_limits() -> None:
    quota = Quota(caller_rate=(5, 1), mission_rate=(8, 1), node_rate=(9, 1), concurrent=2)
    node = Node(quota)
    bob, charlie = (
        node.right(node.grant(Terms())),
        node.right(node.grant(Terms(), CHARLIE), CHARLIE),
    )
    garden = node.right(node.grant(Terms(), DAVE, "garden"), DAVE)
    assert node.calls(bob, [0.0] * 9) == 5
    assert node.calls(charlie, [0.0] * 9) == 3  # the mission's
    assert node.calls(garden, [0.0] * 9) == 1  # the node's
    running = [node.grants.admit(garden, "boil", 0, 5.0) for _ in range(2)]
    with pytest.raises(RateLimited):
        node.grants.admit(bob, "boil", 0, 5.0)
    node.grants.finish(running[0])
    node.grants.admit(bob, "boil", 0, 5.0)


def test_bytes_of_arguments() -> None:
    node = Node()
    right = node.right(node.grant(Terms(bytes=100)))
    node.grants.admit(right, "boil", 100, 0.0)
    with pytest.raises(NotPermitted, match="the grant allows 100"):
        node.grants.admit(right, "boil", 101, 0.0)


def test_its_time_is_over_also_for_calls_on_an_open_connection() -> None:
    node = Node()
    grant = node.grant(Terms(expires_s=60, delegable=1))
    right, tail = node.right(grant), node.right(hand_on(grant, BOB, CHARLIE), CHARLIE)
    node.grants.admit(right, "boil", 0, 59.9)
    for each in (right, tail):
        with pytest.raises(Revoked, match="expired"):
            node.grants.admit(each, "boil", 0, 60.0)
    with pytest.raises(Revoked, match="expired"):
        node.right(grant, now=61.0)
    assert node.grants.in_force(61.0) == []


def test_a_link_that_was_handed_on_lives_from_its_first_use() -> None:
    node = Node()
    grant = node.grant(Terms(expires_s=1_000, delegable=1))
    tail = hand_on(grant, BOB, CHARLIE, Terms(expires_s=10))
    right = node.right(tail, CHARLIE, now=500.0)
    node.grants.admit(right, "boil", 0, 509.0)
    with pytest.raises(Revoked, match="expired"):
        node.grants.admit(right, "boil", 0, 510.0)
    with pytest.raises(Revoked, match="expired"):
        node.right(tail, CHARLIE, now=600.0)
    node.grants.admit(node.right(grant, now=600.0), "boil", 0, 600.0)


def test_revoking_the_first_link_ends_everything_under_it() -> None:
    node = Node()
    grant, other = node.grant(Terms(delegable=2)), node.grant(Terms())
    tail = hand_on(grant, BOB, CHARLIE)
    rights = [node.right(grant), node.right(tail, CHARLIE)]
    tickets = [node.grants.admit(right, "boil", 0, 0.0) for right in rights]
    kept = node.grants.admit(node.right(other), "boil", 0, 0.0)
    revocation = node.grants.revoke(grant.id, 1.0)
    assert list(revocation.tickets) == tickets
    for right in rights:
        with pytest.raises(Revoked):
            node.grants.admit(right, "boil", 0, 1.0)
    for each, holder in ((grant, BOB), (tail, CHARLIE)):
        with pytest.raises(Revoked):
            node.right(each, holder)
    node.grants.admit(node.right(other), "boil", 0, 1.0)
    for ticket in (*tickets, kept):
        node.grants.finish(ticket)


def test_revoking_the_middle_ends_the_tail_alone() -> None:
    node = Node()
    grant = node.grant(Terms(delegable=3))
    middle = hand_on(grant, BOB, CHARLIE, Terms(delegable=2))
    end = hand_on(middle, CHARLIE, DAVE)
    node.right(end, DAVE)
    node.grants.revoke(middle.id, 0.0)
    for each, holder in ((middle, CHARLIE), (end, DAVE)):
        with pytest.raises(Revoked):
            node.right(each, holder)
    node.right(grant)


def test_revoking_a_key_and_granting_again() -> None:
    node = Node()
    grant = node.grant(Terms(delegable=2))
    tail = hand_on(grant, BOB, CHARLIE)
    unseen = hand_on(grant, BOB, CHARLIE)
    ticket = node.grants.admit(node.right(tail, CHARLIE), "boil", 0, 0.0)
    assert node.grants.revoke(KEY[CHARLIE], 0.0).tickets == (ticket,)
    for each in (tail, unseen):
        with pytest.raises(Revoked):
            node.right(each, CHARLIE)
    node.right(grant)
    again = node.grant(Terms(delegable=1), CHARLIE)
    node.grants.admit(node.right(again, CHARLIE), "boil", 0, 0.0)
    node.right(hand_on(again, CHARLIE, DAVE), DAVE)


def test_revoking_a_mission() -> None:
    node = Node()
    kitchen, garden = node.grant(Terms()), node.grant(Terms(), BOB, "garden")
    node.grants.revoke("kitchen", 0.0)
    with pytest.raises(Revoked):
        node.right(kitchen)
    node.right(garden)
    for what, words in (
        ("kitchen", "or mission of which one counts"),
        (kitchen.id, "is revoked already"),
        (bytes(16), "is no grant in force here"),
    ):
        with pytest.raises(KeyError, match=words):
            node.grants.revoke(what, 0.0)


def test_revoking_a_mission_leaves_what_a_member_granted() -> None:
    """A member's mission may have the same name; and only some of its grants were seen here."""
    node = Node()
    own = node.grant(Terms())
    annes = issue(ANNE, KEY[BOB], "kitchen", Terms(), nonce(), sequence=1)
    node.right(annes)
    assert node.grants.revoke("kitchen", 0.0).ids == {own.id}
    node.right(annes)
    with pytest.raises(KeyError, match="of which one counts"):
        node.grants.revoke("kitchen", 0.0)


def test_it_holds_after_a_start() -> None:
    node = Node()
    gone, left = node.grant(Terms()), node.grant(Terms(expires_s=100))
    tail = hand_on(node.grant(Terms(delegable=1)), BOB, CHARLIE)
    revoked = [node.grants.revoke(gone.id, 40.0), node.grants.revoke(KEY[CHARLIE], 40.0)]
    issued = node.grants.in_force(40.0)
    assert [each.left_s for each in issued] == [60.0, float("inf")]
    after = Node()
    assert after.grants.restore(issued, revoked, 1.0) == []
    for each, holder in ((gone, BOB), (tail, CHARLIE)):
        with pytest.raises(Revoked):
            after.right(each, holder, now=1.0)
    after.right(left, now=60.0)
    with pytest.raises(Revoked, match="expired"):
        after.right(left, now=61.0)
    assert after.grants.next_sequence == node.grants.next_sequence == 4
    assert "does not count" in after.grants.restore([Issued(data=b"x", left_s=1.0)], [], 1.0)[0]


def test_a_member_tells_of_a_revocation() -> None:
    """Anne's node revokes; Alice's, where Bob calls, hears of it."""
    node = Node()
    anne = Grants(KEY[ANNE], lambda key: False)
    grant = issue(ANNE, KEY[BOB], "kitchen", Terms(), nonce(), sequence=anne.next_sequence)
    anne.issued(grant, 0.0)
    own = node.right(node.grant(Terms()))
    right = node.right(grant)
    ticket = node.grants.admit(right, "boil", 0, 0.0)
    assert node.grants.merge(anne.revoke(KEY[BOB], 0.0)).tickets == (ticket,)
    with pytest.raises(Revoked):
        node.grants.admit(right, "boil", 0, 0.0)
    node.grants.admit(own, "boil", 0, 0.0)


def test_two_revocations_of_a_key_keep_the_later() -> None:
    node = Node()
    node.grant(Terms())
    early = node.grants.revoke(KEY[BOB], 0.0)
    second = node.grant(Terms())
    node.grants.revoke(KEY[BOB], 0.0)
    node.grants.merge(early)
    with pytest.raises(Revoked):
        node.right(second)


def test_links_under_a_grant_at_the_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "GRANTS_NARROWED_MAX", 3)
    node = Node()
    grant = node.grant(Terms(delegable=1))
    tails = [hand_on(grant, BOB, CHARLIE, Terms(rate=(1, 60))) for _ in range(4)]
    rights = [node.right(tail, CHARLIE) for tail in tails[:3]]
    for right in rights:
        node.grants.finish(node.grants.admit(right, "boil", 0, 0.0))
    with pytest.raises(RateLimited):
        node.right(tails[3], CHARLIE, now=1.0)
    other = node.grant(Terms(delegable=1))
    node.right(hand_on(other, BOB, DAVE), DAVE, now=1.0)
    node.right(tails[3], CHARLIE, now=60.0)  # the first has rested
    with pytest.raises(RateLimited):
        node.grants.admit(rights[1], "boil", 0, 1.0)


def test_tables_at_their_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "GRANTS_ISSUED_MAX", 2)
    monkeypatch.setattr(core, "GRANT_CALLERS_MAX", 2)
    monkeypatch.setattr(core, "GRANTS_REVOKED_MAX", 1)
    monkeypatch.setattr(core, "CACHE_MAX", 1)
    node = Node()
    first = node.grant(Terms(expires_s=5, delegable=1))
    node.grant(Terms())
    with pytest.raises(ValueError, match="2 grants are in force"):
        node.grant(Terms())
    foreign = issue(ANNE, KEY[BOB], "kitchen", Terms(), nonce(), sequence=1)
    with pytest.raises(RateLimited):
        node.right(foreign)
    for holder in (CHARLIE, DAVE, EVE):
        node.grants.admit(node.right(hand_on(first, BOB, holder), holder), "boil", 0, 0.0)
    assert len(node.grants._callers) == 2
    assert len(node.grants._checked) == 1
    node.grants.revoke(first.id, 1.0)
    with pytest.raises(KeyError, match="too many"):
        node.grants.revoke(KEY[BOB], 1.0)


def test_members_revocations_leave_room_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "GRANTS_REVOKED_MAX", 4)
    node = Node()
    own = node.grant(Terms())
    told = core.Revocation(
        issuer=KEY[ANNE], ids=frozenset({b"1" * 16, b"2" * 16}), keys=frozenset(), sequence=1
    )
    for _ in range(3):  # the same again takes no more room
        node.grants.merge(told)
    with pytest.raises(RemoteError, match="too many revocations"):
        node.grants.merge(replace(told, ids=frozenset({b"3" * 16})))
    node.grants.revoke(own.id, 0.0)
    with pytest.raises(Revoked):
        node.right(own)


def test_our_own_are_issued_once_each() -> None:
    node = Node()
    grant = node.grant(Terms(delegable=1))
    for wrong in (
        hand_on(grant, BOB, CHARLIE),
        issue(BOB, KEY[EVE], "kitchen", Terms(), nonce(), sequence=1),
    ):
        with pytest.raises(ValueError, match="own"):
            node.grants.issued(wrong, 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_any_history_keeps_the_promises(seed: int) -> None:
    """Random grants, hand-ons, calls and revocations against a ledger that knows only the rules."""
    dice = random.Random(seed)
    node = Node()
    seeds = [BOB, CHARLIE, DAVE, EVE]
    chains: list[tuple[Grant, bytes]] = []
    dead_ids: set[bytes] = set()
    dead_keys: dict[bytes, int] = {}
    gone: dict[bytes, list[float]] = {}
    running: list[tuple[int, Grant]] = []
    now = 0.0
    for _ in range(600):
        now += dice.choice([0.0, 0.01, 0.3])
        step = dice.random()
        if step < 0.1 or not chains:
            holder = dice.choice(seeds)
            terms = Terms(rate=(dice.randint(1, 5), 1), concurrent=3, delegable=dice.randint(0, 3))
            chains.append((node.grant(terms, holder), holder))
        elif step < 0.25:
            grant, signer = dice.choice(chains)
            if grant.terms.delegable:
                holder = dice.choice(seeds)
                depth = Terms(delegable=grant.terms.delegable - 1)
                chains.append((hand_on(grant, signer, holder, depth), holder))
        elif step < 0.3 and running:
            ticket, _ = running.pop(dice.randrange(len(running)))
            node.grants.finish(ticket)
        elif step < 0.32:
            grant, _ = dice.choice(chains)
            if dice.random() < 0.5:
                try:
                    revocation = node.grants.revoke(dice.choice(grant.links).id, now)
                except KeyError:
                    continue
                dead_ids |= revocation.ids
            else:
                revocation = node.grants.revoke(KEY[dice.choice(seeds)], now)
                for key in revocation.keys:
                    dead_keys[key] = revocation.sequence
            under = {t for t, each in running if is_dead(each, dead_ids, dead_keys)}
            assert set(revocation.tickets) == under
            for ticket in revocation.tickets:
                node.grants.finish(ticket)
            running = [each for each in running if each[0] not in under]
        else:
            grant, holder = dice.choice(chains)
            try:
                right = node.right(grant, holder, now)
                ticket = node.grants.admit(right, "boil", 0, now)
            except Revoked:
                assert is_dead(grant, dead_ids, dead_keys)
                continue
            except RateLimited:
                continue
            assert not is_dead(grant, dead_ids, dead_keys)
            running.append((ticket, grant))
            for link in grant.links:
                gone.setdefault(link.id, []).append(now)
                live = [t for t, each in running if link.id in {e.id for e in each.links}]
                assert link.terms.concurrent is None or len(live) <= link.terms.concurrent
    assert gone
    rates = {link.id: link.terms.rate for grant, _ in chains for link in grant.links}
    for ident, times in gone.items():
        rate = rates[ident]
        if rate is not None:
            for index, begin in enumerate(times):
                for last in range(index, len(times)):
                    most = rate[0] + rate[0] * (times[last] - begin) + 1e-6
                    assert last - index + 1 <= most


def is_dead(grant: Grant, ids: set[bytes], keys: dict[bytes, int]) -> bool:
    return any(link.id in ids or keys.get(link.holder, 0) >= grant.sequence for link in grant.links)


def pairs(right: Right) -> list[tuple[Link, core._Link]]:
    return list(zip(right.grant.links, right.links, strict=True))


@pytest.mark.parametrize(("callers", "links"), [(2, 100), (100, 2), (2, 2)])
def test_what_was_looked_up_for_a_right_is_what_a_new_one_would_find(
    monkeypatch: pytest.MonkeyPatch, callers: int, links: int
) -> None:
    monkeypatch.setattr(core, "GRANT_CALLERS_MAX", callers)
    monkeypatch.setattr(core, "GRANTS_NARROWED_MAX", links)
    node = Node(Quota(caller_rate=(5, 1)))
    root = node.grant(Terms(delegable=2, expires_s=50), holder=ANNE)
    dice = random.Random(5)
    rights = []
    for holder in (BOB, CHARLIE, DAVE, EVE):
        made = hand_on(root, ANNE, holder, Terms(delegable=1))
        rights.append((node.right(made, holder), made, holder))
    refused = 0
    for step in range(2_000):
        now = step / 40
        right, made, holder = dice.choice(rights)
        for each in (right, node.right(made, holder, now)):
            try:
                node.grants.finish(node.grants.admit(each, "boil", 0, now))
            except RateLimited:
                refused += 1
        for each, _, _ in rights:
            if each.looked_up == node.grants._changes:
                known = node.grants._roots[root.id].links
                assert all(known[link.id] is its for link, its in pairs(each))
                assert node.grants._callers[each.caller] is each.buckets[0]
    assert refused > 100
    with pytest.raises(Revoked):
        node.grants.admit(rights[0][0], "boil", 0, 50.0)
