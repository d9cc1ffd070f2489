"""The relay's decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from drupelet.core import relay as rules
from drupelet.core.relay import (
    ANNOUNCED_S,
    MESSAGE_OVERHEAD_BYTES,
    Account,
    Accounts,
    Allowances,
    Catalogue,
    Mailboxes,
    Rate,
    Standing,
)
from drupelet.wire import sodium
from drupelet.wire.announcements import (
    Announcement,
    decode_announcement,
    encode_announcement,
    encode_offers,
)
from drupelet.wire.grants import Terms, issue, narrow
from drupelet.wire.limits import MAILBOX_BYTES_MAX, MAILBOX_MESSAGES_MAX, RELAY_VERSION_TOP
from drupelet.wire.relay import RelayRefused
from tests.people import ALICE, BOB, MALLORY

NODE = sodium.ed25519_public(ALICE.key_seed)
HOLDER = sodium.ed25519_public(BOB.key_seed)
STRANGER = sodium.ed25519_public(MALLORY.key_seed)
RUN = b"r" * 16


def refused(code: str) -> pytest.RaisesExc[RelayRefused]:
    return pytest.raises(RelayRefused, match=f"^{code}")


# -- accounts


def test_the_three_refusals_are_distinct() -> None:
    accounts = Accounts()
    with refused("not_registered"):
        accounts.admit(NODE)
    asked = accounts.application(NODE, "alice", "a@example.org", invited=False)
    accounts.put(asked)
    with refused("not_verified"):
        accounts.admit(NODE)
    assert not accounts.may_receive(NODE)
    accounts.load([Account(key=NODE, name="alice", email="", standing=Standing.DENIED)])
    with refused("denied"):
        accounts.admit(NODE)
    with refused("denied"):  # an invite does not undo the owner's word
        accounts.application(NODE, "alice", "", invited=True)
    accounts.put(Account(key=NODE, name="alice", email="", standing=Standing.APPROVED))
    assert accounts.admit(NODE).name == "alice" and accounts.may_receive(NODE)
    assert len(accounts) == 1 and accounts.get(HOLDER) is None


def test_an_invite_approves_and_nothing_takes_approval_away() -> None:
    accounts = Accounts()
    made = accounts.application(NODE, "alice", "", invited=True)
    assert made.standing is Standing.APPROVED
    accounts.put(made)
    assert accounts.application(NODE, "mallory", "m@x", invited=False) is made
    waiting = accounts.application(HOLDER, "bob", "b@x", invited=False)
    accounts.put(waiting)
    assert accounts.application(HOLDER, "bob", "", invited=True).standing is Standing.APPROVED


def test_accounts_at_the_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "RELAY_PENDING_MAX", 2)
    monkeypatch.setattr(rules, "RELAY_ACCOUNTS_MAX", 3)
    accounts = Accounts()
    for number in range(2):
        accounts.put(accounts.application(bytes([number]) * 32, "n", "a@b", invited=False))
    with refused("busy"):
        accounts.application(NODE, "n", "a@b", invited=False)
    accounts.put(accounts.application(NODE, "n", "", invited=True))
    with refused("busy"):
        accounts.application(HOLDER, "n", "", invited=True)


def test_changes_have_numbers_for_those_who_keep_in_step() -> None:
    accounts = Accounts([_account(number, Standing.PENDING) for number in range(4)])
    assert [one.key[0] for _, one in accounts.since(0, 10)] == [0, 1, 2, 3]
    [(second, _)] = accounts.since(1, 1)
    accounts.put(_account(1, Standing.PENDING))  # no change
    accounts.put(_account(0, Standing.APPROVED))
    assert [(n > second, one.key[0]) for n, one in accounts.since(second, 10)] == [
        (True, 2),
        (True, 3),
        (True, 0),
    ]
    assert accounts.since(accounts.since(0, 10)[-1][0], 10) == []
    accounts.load([_account(0, Standing.APPROVED), _account(3, Standing.DENIED)])
    assert [one.key[0] for _, one in accounts.since(0, 10)] == [0, 3] and len(accounts) == 2


def _account(number: int, standing: Standing) -> Account:
    return Account(key=bytes([number]) * 32, name="n", email="", standing=standing)


def test_a_denial_counts_until_somebody_who_has_seen_it_lifts_it() -> None:
    first = _account(0, Standing.PENDING).after(None)
    denied = _account(0, Standing.DENIED).after(first)
    approved = first
    for name in "abcdef":  # the other relay's owner, who has not heard of it
        approved = replace(_account(0, Standing.APPROVED), name=name).after(approved)
    assert denied.rank > approved.rank
    lifted = _account(0, Standing.APPROVED).after(denied)
    assert lifted.rank > denied.rank and lifted.after(lifted) is lifted
    top = replace(denied, lifts=RELAY_VERSION_TOP, version=RELAY_VERSION_TOP)
    counted = _account(0, Standing.APPROVED).after(top)
    assert (counted.lifts, counted.version) == (RELAY_VERSION_TOP, RELAY_VERSION_TOP)


@given(
    st.lists(
        st.tuples(
            st.sampled_from((0, 1)),
            st.one_of(st.none(), st.tuples(st.sampled_from(list(Standing)), st.sampled_from("ab"))),
        )
    )
)
def test_two_relays_end_with_the_same_account(steps: list[tuple[int, Any]]) -> None:
    """A step: one relay is written by its owner, or hears what the other has now."""
    relays: list[Account | None] = [None, None]

    def hears(at: int) -> None:
        known = [one for one in relays if one is not None]
        relays[at] = max(known, key=lambda one: one.rank, default=None)

    for at, written in steps:
        if written is None:
            hears(at)
        else:
            standing, name = written
            known = relays[at]
            now = replace(_account(0, standing), name=name).after(known)
            assert known is None or now is known or now.rank > known.rank
            assert now.standing is standing
            relays[at] = now
    hears(0)
    hears(1)
    assert relays[0] == relays[1]


# -- the catalogue


def announcement(
    sequence: int,
    *,
    seed: bytes = ALICE.key_seed,
    run: bytes = RUN,
    holders: Mapping[str, tuple[bytes, ...]] | None = None,
    with_offers: bool = True,
) -> Announcement:
    key = sodium.ed25519_public(seed)
    offers = encode_offers(key, {"kitchen": (HOLDER,)} if holders is None else holders)
    return decode_announcement(
        encode_announcement(
            seed,
            name="node",
            boot_key=b"k" * 32,
            token=b"t" * 16,
            run=run,
            sequence=sequence,
            offers=offers,
            with_offers=with_offers,
        )
    )


def test_an_asker_sees_exactly_what_his_key_matches() -> None:
    catalogue = Catalogue(RUN)
    holders = {"kitchen": (HOLDER, STRANGER), "garden": (HOLDER,), "cellar": (STRANGER,)}
    catalogue.announce(NODE, announcement(1, holders=holders), 0.0)
    [(key, name, beacon, missions)] = catalogue.seen_by(HOLDER, b"", 1.0)
    assert (key, name, missions) == (NODE, "node", ["garden", "kitchen"])
    assert catalogue.find(HOLDER, NODE, b"", 1.0) == (NODE, "node", beacon, missions)
    assert catalogue.seen_by(STRANGER, b"", 1.0)[0][3] == ["cellar", "kitchen"]
    assert catalogue.seen_by(NODE, b"", 1.0) == []
    for node in (NODE, HOLDER):  # there and not for you, or not there: the same
        with pytest.raises(RelayRefused) as error:
            catalogue.find(NODE, node, b"", 1.0)
        assert str(error.value) == "not_found"


def test_who_shows_a_grant_finds_its_node() -> None:
    catalogue = Catalogue(RUN)
    catalogue.announce(NODE, announcement(1), 0.0)
    grant = issue(ALICE.key_seed, HOLDER, "kitchen", Terms(delegable=1), bytes(8), sequence=1)
    narrowed = narrow(grant, BOB.key_seed, STRANGER, Terms(), bytes(8)).data
    assert catalogue.find(STRANGER, NODE, narrowed, 0.0)[3] == ["kitchen"]
    other = issue(ALICE.key_seed, HOLDER, "cellar", Terms(), bytes(8), sequence=2).data
    forged = issue(MALLORY.key_seed, STRANGER, "kitchen", Terms(), bytes(8), sequence=1).data
    for useless in (b"", other, forged):
        with refused("not_found"):
            catalogue.find(STRANGER, NODE, useless, 0.0)
    with refused("malformed"):
        catalogue.find(STRANGER, NODE, b"junk", 0.0)


def test_a_node_that_is_silent_is_gone_after_its_time() -> None:
    catalogue = Catalogue(RUN)
    catalogue.announce(NODE, announcement(1), 100.0)
    assert catalogue.seen_by(HOLDER, b"", 100.0 + ANNOUNCED_S - 0.001)
    assert not catalogue.seen_by(HOLDER, b"", 100.0 + ANNOUNCED_S)
    assert len(catalogue) == 0
    catalogue.announce(NODE, announcement(2), 200.0)
    catalogue.withdraw(NODE)
    catalogue.withdraw(NODE)
    assert not catalogue.seen_by(HOLDER, b"", 200.0)


def test_a_replay_is_refused_whenever_it_comes() -> None:
    catalogue = Catalogue(RUN)
    old, new = announcement(4), announcement(5)
    catalogue.announce(NODE, old, 0.0)
    catalogue.announce(NODE, new, 10.0)
    for now in (
        10.0,
        60.0,
        1e9,
        0.0,
    ):  # also after it has been forgotten, and with a clock set back
        for again in (old, new):
            with refused("replayed: last: 5"):
                catalogue.announce(NODE, again, now)
    with refused("replayed"):
        catalogue.announce(NODE, announcement(6, run=b"q" * 16), 60.0)
    with refused("denied"):
        catalogue.announce(STRANGER, announcement(6), 60.0)


def test_offers_are_sent_once() -> None:
    catalogue = Catalogue(RUN)
    with refused("offers_wanted"):
        catalogue.announce(NODE, announcement(1, with_offers=False), 0.0)
    catalogue.announce(NODE, announcement(1), 0.0)
    catalogue.announce(NODE, announcement(2, with_offers=False), 20.0)
    assert catalogue.seen_by(HOLDER, b"", 45.0)[0][3] == ["kitchen"]
    with refused("offers_wanted"):
        catalogue.announce(NODE, announcement(3, holders={}, with_offers=False), 45.0)
    catalogue.announce(NODE, announcement(3, holders={}), 45.0)
    assert not catalogue.seen_by(HOLDER, b"", 45.0)


def test_the_catalogue_comes_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_PAGE", 3)
    catalogue = Catalogue(RUN)
    keys = set()
    for number in range(8):
        seed = bytes([number]) * 32
        keys.add(sodium.ed25519_public(seed))
        catalogue.announce(sodium.ed25519_public(seed), announcement(1, seed=seed), 0.0)
    seen: list[bytes] = []
    while page := catalogue.seen_by(HOLDER, seen[-1] if seen else b"", 0.0):
        assert len(page) <= 3
        seen += [entry[0] for entry in page]
    assert seen == sorted(keys)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 20)), max_size=30))
def test_sequences_only_rise(steps: list[tuple[int, int]]) -> None:
    catalogue, last, now = Catalogue(RUN), 0, 0.0
    for sequence, wait_s in steps:
        now += wait_s
        try:
            catalogue.announce(NODE, _ANNOUNCED[sequence], now)
        except RelayRefused as refusal:
            assert refusal.code == "replayed" and sequence <= last
        else:
            assert sequence > last
            last = sequence


_ANNOUNCED = {sequence: announcement(sequence) for sequence in range(1, 7)}


# -- mailboxes


def test_a_mailbox_at_its_maximum_and_one_above() -> None:
    boxes = Mailboxes()
    for number in range(MAILBOX_MESSAGES_MAX):
        boxes.admit(bytes([number % 2]) * 32, NODE, 10)
    with refused("mailbox_full"):
        boxes.admit(STRANGER, NODE, 10)
    assert boxes.waiting(NODE) == (1_000, 1_000 * (10 + MESSAGE_OVERHEAD_BYTES))
    boxes.release(bytes(32), NODE, 10)
    boxes.admit(STRANGER, NODE, 10)
    assert boxes.total == 1_000


def test_bytes_count_as_well_and_one_sender_takes_half() -> None:
    boxes = Mailboxes()
    half = MAILBOX_BYTES_MAX // 2 - MESSAGE_OVERHEAD_BYTES
    assert not boxes.has_room(HOLDER, NODE, half + 1)
    assert boxes.waiting(NODE) == (0, 0)
    assert boxes.has_room(HOLDER, NODE, half)
    with refused("mailbox_full: half"):
        boxes.admit(HOLDER, NODE, 0)
    boxes.admit(STRANGER, NODE, half)
    with refused("mailbox_full$"):
        boxes.admit(NODE, NODE, 0)
    boxes.admit(HOLDER, STRANGER, 0)  # another mailbox


class MailboxMachine(RuleBasedStateMachine):
    """Against a list of what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes = Mailboxes()
        self.inside: list[tuple[bytes, bytes, int]] = []

    @rule(
        sender=st.sampled_from([NODE, HOLDER]),
        to=st.sampled_from([NODE, HOLDER]),
        size=st.sampled_from([0, 100_000, 262_144]),
    )
    def admit(self, sender: bytes, to: bytes, size: int) -> None:
        if self.boxes.has_room(sender, to, size):
            self.inside.append((sender, to, size))

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.inside) - 1))
        self.boxes.release(*self.inside.pop(at))

    @invariant()
    def counts_hold(self) -> None:
        for to in (NODE, HOLDER):
            sizes = [size + MESSAGE_OVERHEAD_BYTES for _, key, size in self.inside if key == to]
            assert self.boxes.waiting(to) == (len(sizes), sum(sizes))
            assert sum(sizes) <= MAILBOX_BYTES_MAX
        assert self.boxes.total == len(self.inside)


test_mailboxes_count_what_is_in_them = MailboxMachine.TestCase


# -- how often


def test_each_account_and_each_kind_has_its_own_bucket() -> None:
    allowances = Allowances(
        {"send": Rate(count=10, period_s=1, burst=2), "ask": Rate(count=1, period_s=1, burst=1)}
    )
    allowances.charge(NODE, "send", 0.0)
    allowances.charge(NODE, "send", 0.0)
    with refused("rate_limited") as error:
        allowances.charge(NODE, "send", 0.0)
    assert error.value.retry_after_s == pytest.approx(0.1)
    allowances.charge(NODE, "ask", 0.0)
    allowances.charge(HOLDER, "send", 0.0)
    allowances.charge(NODE, "send", 0.1)


def test_a_thousand_in_ten_seconds_at_10_a_second() -> None:
    allowances = Allowances({"send": Rate(count=10, period_s=1, burst=10)})
    ran = 0
    for number in range(1_000):
        try:
            allowances.charge(NODE, "send", number / 100)
        except RelayRefused:
            continue
        ran += 1
    assert 100 <= ran <= 110


def test_buckets_that_have_rested_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_SWEEP", 8)
    allowances = Allowances({"send": Rate(count=1, period_s=1, burst=1)})
    for number in range(1_000):
        allowances.charge(number.to_bytes(32, "big"), "send", float(number))
    assert len(allowances) <= 16
    monkeypatch.setattr(rules, "RELAY_ACCOUNTS_MAX", 4)
    crowd = Allowances({"send": Rate(count=1, period_s=1_000, burst=1)})
    with refused("busy"):  # 16 that have not rested
        for number in range(100):
            crowd.charge(number.to_bytes(32, "big"), "send", 0.0)
    assert len(crowd) == 16
