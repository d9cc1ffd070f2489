"""Proxy pids: from whom they count, when they end, and how many there are."""

from __future__ import annotations

import random
from math import inf

import pytest

from drupelet.core import proxies as core
from drupelet.core.proxies import LIFETIME_S, Gone, Held, Proxies
from drupelet.wire.grants import Terms
from drupelet.wire.ids import Pid
from drupelet.wire.limits import PROXIES_PER_KEY_MAX, PROXY_MESSAGES_MAX, PROXY_WATCHERS_MAX
from tests.unit.core.test_grants import Node

BOB, EVE = b"b" * 32, b"e" * 32
PID, OTHER = Pid("alice", 1, 42), Pid("alice", 1, 43)


def secret(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_it_counts_from_its_holder_only() -> None:
    proxies = Proxies()
    assert proxies.give(secret(1), PID, BOB, 0.0) == secret(1)
    assert proxies.take(secret(1), BOB, 1.0) == PID
    assert proxies.take(secret(1), EVE, 1.0) is None
    assert proxies.take(secret(2), BOB, 1.0) is None
    assert (proxies.sent_count, proxies.forged_count) == (1, 2)


def test_a_million_guesses_hit_nothing() -> None:
    dice = random.Random(17)
    proxies = Proxies()
    for number in range(1_000):
        proxies.give(dice.randbytes(16), Pid("alice", 1, number), BOB, 0.0)
    take = proxies.take
    assert all(take(dice.randbytes(16), BOB, 1.0) is None for _ in range(1_000_000))
    assert proxies.forged_count == 1_000_000


def test_messages_at_the_maximum_and_one_above() -> None:
    proxies = Proxies()
    proxies.give(secret(1), PID, BOB, 0.0)
    for _ in range(PROXY_MESSAGES_MAX):
        assert proxies.spent(secret(1)) == []
        assert proxies.take(secret(1), BOB, 1.0) == PID
    assert proxies.spent(secret(1)) == [Gone(secret(1), BOB, "expired")]  # its holder is told
    assert proxies.spent(secret(2)) == []
    assert proxies.take(secret(1), BOB, 1.0) is None
    assert proxies.give(secret(2), PID, BOB, 1.0) == secret(1)  # asking again does not renew it
    assert proxies.take(secret(1), BOB, 1.0) is None


def test_its_time() -> None:
    proxies = Proxies()
    assert proxies.next_timer() == inf
    proxies.give(secret(1), PID, BOB, 5.0)
    proxies.give(secret(2), OTHER, BOB, 6.0)
    assert proxies.next_timer() == 5.0 + LIFETIME_S
    assert proxies.take(secret(1), BOB, 5.0 + LIFETIME_S) is None
    assert proxies.expire(4.0 + LIFETIME_S) == []
    assert proxies.expire(5.0 + LIFETIME_S) == [Gone(secret(1), BOB, "expired")]
    assert proxies.take(secret(2), BOB, 5.0 + LIFETIME_S) == OTHER
    assert proxies.give(secret(3), PID, BOB, 700.0) == secret(3)
    assert proxies.give(secret(4), OTHER, BOB, 700.0) == secret(4)  # the old one is over
    assert len(proxies) == 2
    assert proxies.next_timer() == 700.0 + LIFETIME_S


def test_it_ends_with_its_process_and_every_holder_is_told() -> None:
    proxies = Proxies()
    proxies.give(secret(1), PID, BOB, 0.0)
    proxies.give(secret(2), PID, EVE, 0.0)
    proxies.give(secret(3), OTHER, BOB, 0.0)
    assert proxies.process_gone(PID) == [
        Gone(secret(1), BOB, "noproc"), Gone(secret(2), EVE, "noproc")
    ]  # fmt: skip
    assert proxies.process_gone(PID) == []
    assert proxies.take(secret(1), BOB, 1.0) is None
    assert proxies.runtime_gone([PID, OTHER]) == [Gone(secret(3), BOB, "noproc")]
    assert len(proxies) == 0


def test_it_ends_with_its_holder() -> None:
    proxies = Proxies()
    proxies.give(secret(1), PID, BOB, 0.0)
    proxies.give(secret(2), PID, EVE, 0.0)
    proxies.peer_gone(BOB)
    proxies.peer_gone(BOB)
    assert proxies.take(secret(1), BOB, 1.0) is None
    assert proxies.revoke(EVE) == [Gone(secret(2), EVE, "revoked")]
    assert proxies.revoke(EVE) == []
    assert (len(proxies), proxies.given_to(EVE)) == (0, 0)


def test_proxies_of_a_key_at_the_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "PROXIES_PER_KEY_MAX", 3)
    proxies = Proxies()
    for number in range(3):
        assert proxies.give(secret(number), Pid("alice", 1, number), BOB, 0.0)
    assert proxies.give(secret(9), PID, BOB, 0.0) is None
    assert proxies.give(secret(9), Pid("alice", 1, 2), BOB, 0.0) == secret(2)
    assert proxies.give(secret(9), PID, EVE, 0.0) == secret(9)
    proxies.process_gone(Pid("alice", 1, 0))
    assert proxies.give(secret(8), PID, BOB, 0.0) == secret(8)


@pytest.mark.parametrize("seed", range(20))
def test_tables_agree_after_any_history(seed: int) -> None:
    dice = random.Random(seed)
    proxies = Proxies()
    pids = [Pid("alice", 1, number) for number in range(8)]
    keys = [bytes([number]) * 32 for number in range(4)]
    now, last = 0.0, 0
    alive: dict[bytes, tuple[Pid, bytes, float]] = {}
    for _ in range(800):
        now += dice.choice([0.0, 1.0, 60.0])
        step = dice.random()
        pid, key = dice.choice(pids), dice.choice(keys)
        if step < 0.4:
            last += 1
            got = proxies.give(secret(last), pid, key, now)
            alive = {s: v for s, v in alive.items() if v[:2] != (pid, key) or v[2] > now}
            if got == secret(last):
                alive[got] = (pid, key, now + LIFETIME_S)
        elif step < 0.6 and alive:
            chosen = dice.choice(sorted(alive))
            owner, holder, deadline = alive[chosen]
            taken = proxies.take(chosen, key, now)
            assert taken == (owner if key == holder and now < deadline else None)
        elif step < 0.7:
            ended = proxies.process_gone(pid)
            assert {gone.secret for gone in ended} == {s for s, v in alive.items() if v[0] == pid}
            alive = {s: v for s, v in alive.items() if v[0] != pid}
        elif step < 0.75:
            proxies.peer_gone(key)
            alive = {s: v for s, v in alive.items() if v[1] != key}
        elif step < 0.9:
            over = {gone.secret for gone in proxies.expire(now)}
            assert over == {s for s, v in alive.items() if v[2] <= now}
            alive = {s: v for s, v in alive.items() if v[2] > now}
        assert len(proxies) == len(alive)
        assert sum(map(proxies.given_to, keys)) == len(alive)


def test_a_pid_that_comes_back_is_known_from_its_holder_alone() -> None:
    proxies = Proxies()
    proxies.give(secret(1), PID, BOB, 0.0)
    assert proxies.given(secret(1), BOB, 1.0) == PID
    assert proxies.given(secret(1), EVE, 1.0) is None
    assert proxies.given(secret(2), BOB, 1.0) is None
    assert proxies.given(secret(1), BOB, LIFETIME_S) is None
    assert (proxies.sent_count, proxies.forged_count) == (0, 0)


def test_held_from_who_gave_it_and_nobody_else() -> None:
    held = Held()
    assert held.keep(secret(1), BOB)
    assert held.keep(secret(1), BOB)
    assert not held.keep(secret(1), EVE)
    assert held.key_of(secret(1)) == BOB
    assert held.watch(secret(1), PID, 7) == ""
    assert held.watch(secret(1), OTHER, 8) == ""
    assert held.watch(secret(2), PID, 9) == "noproc"
    held.unwatch(secret(1), OTHER, 8)
    held.unwatch(secret(2), OTHER, 8)
    assert held.end(secret(1), EVE) == []
    assert held.end(secret(1), BOB) == [(PID, 7)]
    assert held.end(secret(1), BOB) == []
    assert (len(held), held.key_of(secret(1))) == (0, None)


def test_held_ends_with_its_givers_link() -> None:
    held = Held()
    for number, key in ((1, BOB), (2, BOB), (3, EVE)):
        held.keep(secret(number), key)
        held.watch(secret(number), PID, number)
    assert held.peer_gone(BOB) == [(PID, 1), (PID, 2)]
    assert held.peer_gone(BOB) == []
    assert (len(held), held.key_of(secret(3))) == (1, EVE)


def test_held_and_watchers_at_the_maximum_and_one_above() -> None:
    held = Held()
    assert all(held.keep(secret(number), BOB) for number in range(PROXIES_PER_KEY_MAX))
    assert not held.keep(secret(PROXIES_PER_KEY_MAX), BOB)
    assert held.keep(secret(PROXIES_PER_KEY_MAX), EVE)
    assert held.keep(secret(0), BOB)
    for ref in range(PROXY_WATCHERS_MAX):
        assert held.watch(secret(0), PID, ref) == ""
    assert held.watch(secret(0), PID, PROXY_WATCHERS_MAX) == "system_limit"
    held.end(secret(1), BOB)
    assert held.keep(secret(PROXIES_PER_KEY_MAX + 1), BOB)


def test_proxies_of_all_together_at_the_maximum_and_one_above(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(core, "PROXIES_MAX", 2)
    proxies, held = Proxies(), Held()
    for number, key in enumerate((BOB, EVE)):
        assert proxies.give(secret(number), PID, key, 0.0)
        assert held.keep(secret(number), key)
    third = b"t" * 32
    assert proxies.give(secret(9), PID, third, 0.0) is None
    assert not held.keep(secret(9), third)
    assert proxies.give(secret(9), PID, BOB, 0.0) == secret(0)
    assert held.keep(secret(0), BOB)
    proxies.peer_gone(EVE)
    held.peer_gone(EVE)
    assert proxies.give(secret(9), PID, third, 0.0) == secret(9)
    assert held.keep(secret(9), third)
    assert (len(proxies), len(held), proxies.given_to(third)) == (2, 2, 1)


# -- the grants under which they were given


def test_it_ends_with_the_last_of_its_grants() -> None:
    node = Node()
    first, second, other = (node.grant(Terms()) for _ in range(3))
    proxies = Proxies(node.grants.holdings)
    assert proxies.give(secret(1), PID, BOB, 0.0, first) == secret(1)
    assert proxies.give(secret(2), PID, BOB, 0.0, second) == secret(1)  # the same, under both
    assert proxies.give(secret(3), PID, BOB, 0.0, first) == secret(1)
    assert proxies.give(secret(4), OTHER, BOB, 0.0, other) == secret(4)
    assert len(node.grants.holdings) == 3
    assert proxies.withdraw(node.grants.revoke(first.id, 0.0).tickets) == []
    assert proxies.take(secret(1), BOB, 1.0) == PID
    gone = proxies.withdraw(node.grants.revoke(second.id, 0.0).tickets)
    assert gone == [Gone(secret(1), BOB, "revoked")]
    assert proxies.take(secret(1), BOB, 1.0) is None
    assert proxies.take(secret(4), BOB, 1.0) == OTHER
    assert proxies.process_gone(OTHER) == [Gone(secret(4), BOB, "noproc")]
    assert len(node.grants.holdings) == 0
    assert node.grants.revoke(other.id, 0.0).tickets == ()


def test_one_that_came_in_a_message_ends_with_the_last_right() -> None:
    node = Node()
    grant = node.grant(Terms())
    proxies = Proxies(node.grants.holdings)
    proxies.give(secret(1), PID, BOB, 0.0)
    proxies.give(secret(2), PID, BOB, 0.0, grant)
    proxies.give(secret(3), OTHER, BOB, 0.0, grant)
    proxies.give(secret(4), OTHER, BOB, 0.0)  # both know it already
    tickets = node.grants.revoke(grant.id, 0.0).tickets
    assert proxies.withdraw(tickets) == proxies.withdraw(tickets) == []
    assert len(node.grants.holdings) == 0
    assert [each.reason for each in proxies.revoke(BOB)] == ["revoked"] * 2


def test_nothing_is_given_when_all_that_lives_under_grants_is_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("drupelet.core.holdings.HOLDINGS_MAX", 1)
    node = Node()
    grant = node.grant(Terms())
    proxies = Proxies(node.grants.holdings)
    assert proxies.give(secret(1), PID, BOB, 0.0, grant) == secret(1)
    assert proxies.give(secret(2), OTHER, BOB, 0.0, grant) is None
    assert proxies.given_to(BOB) == 1
