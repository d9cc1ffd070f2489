"""Relays in step: what is told, and where mail goes."""

from __future__ import annotations

import math
import random

import pytest

from drupelet.core import relay_peers as rules
from drupelet.core.relay import ANNOUNCED_S, Account, Accounts, Catalogue, Standing
from drupelet.core.relay_peers import (
    AWAY_S,
    LINGER_S,
    RETRY_S,
    STUCK_S,
    Peers,
    Told,
    of_peer,
    to_peer,
)
from drupelet.wire import sodium
from drupelet.wire.announcements import (
    decode_announcement,
    encode_announcement,
    encode_offers,
)
from drupelet.wire.limits import (
    RELAY_PEER_BATCH_BYTES_MAX,
    RELAY_PEER_BATCH_MESSAGES,
)
from drupelet.wire.relay import RelayRefused
from drupelet.wire.relay_peers import (
    PeerAccount,
    PeerAnnounce,
    PeerPresent,
    PeerWithdraw,
    decode_batch,
    encode_batch,
    keys_in,
)
from tests.people import ALICE, BOB

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32  # relays
NODE = sodium.ed25519_public(ALICE.key_seed)
OTHER = sodium.ed25519_public(BOB.key_seed)
RUN, THEIRS = b"r" * 16, b"t" * 16


def account(number: int) -> Account:
    return Account(
        key=number.to_bytes(32, "big"), name="node", email="", standing=Standing.APPROVED
    )


def announced(sequence: int, run: bytes = RUN, *, with_offers: bool = True) -> bytes:
    return encode_announcement(
        ALICE.key_seed,
        name="node",
        boot_key=bytes(32),
        token=bytes(16),
        run=run,
        sequence=sequence,
        offers=encode_offers(NODE, {"kitchen": (OTHER,), "light": ()}),
        with_offers=with_offers,
    )


def linked(peers: Peers, *keys: bytes) -> None:
    for key in keys:
        peers.linked(key, 0, [], [])


def here(peers: Peers, peer: bytes, *keys: bytes, now: float = 0.0) -> None:
    peers.entered(peer, THEIRS, now)
    said = PeerPresent(fresh=False, come=b"".join(keys), gone=b"")
    peers.hear_presence(peer, said, keys)


# -- what is told


def test_an_account_is_the_same_at_the_peer() -> None:
    one = Account(key=NODE, name="n", email="a@b", standing=Standing.DENIED, lifts=2, version=9)
    assert of_peer(to_peer(4, one)) == one


def test_accounts_are_told_from_where_the_peer_has_them_and_once() -> None:
    accounts, catalogue = Accounts(map(account, range(600))), Catalogue(RUN)
    peers = Peers([A])
    last = accounts.since(0, 600)[99][0]
    peers.linked(A, last, [], [])
    told: list[Account] = []
    while batch := peers.batch(A, accounts, catalogue, 0.0):
        decode_batch(encode_batch(0, [one.data for one in batch]))
        for one in batch:
            if isinstance(one.message, PeerAccount):
                told.append(of_peer(one.message))
            # one that is refused does not hold up the others
            peers.answered(A, one, "busy" if one.message == batch[0].message else "")
    assert told == [account(number) for number in range(100, 600)]


def test_an_answer_that_did_not_come_is_asked_for_again() -> None:
    accounts, catalogue, peers = Accounts([account(1)]), Catalogue(RUN), Peers([A])
    peers.linked(A, 0, [], [])
    first = peers.batch(A, accounts, catalogue, 0.0)
    peers.unlinked(A)
    peers.linked(A, 0, [], [])
    assert peers.batch(A, accounts, catalogue, 0.0) == first


def test_who_is_here_is_told_anew_on_each_connection_and_then_the_changes() -> None:
    accounts, catalogue, peers = Accounts(), Catalogue(RUN), Peers([A])
    many = [number.to_bytes(32, "big") for number in range(RELAY_PEER_BATCH_MESSAGES + 1)]
    for key in many:
        peers.came(key)
    peers.linked(A, 0, [], [])
    [first], [second] = (peers.batch(A, accounts, catalogue, 0.0) for _ in range(2))
    assert isinstance(first.message, PeerPresent) and isinstance(second.message, PeerPresent)
    assert (first.message.fresh, second.message.fresh) == (True, False)
    assert keys_in(first.message.come + second.message.come) == many
    assert peers.batch(A, accounts, catalogue, 0.0) == []
    peers.left(many[0], 0.0)
    peers.came(many[0])  # the next poll
    assert peers.handle_timer(LINGER_S) == [] and not peers.batch(A, accounts, catalogue, 0.0)
    peers.left(many[0], 5.0)
    assert peers.next_timer() == 5.0 + LINGER_S
    assert peers.handle_timer(5.0 + LINGER_S) == [many[0]] and peers.next_timer() == math.inf
    [gone] = peers.batch(A, accounts, catalogue, 0.0)
    assert gone.message == PeerPresent(fresh=False, come=b"", gone=many[0])


def test_announcements_travel_with_their_age_and_offers_once() -> None:
    accounts, catalogue, peers = Accounts(), Catalogue(RUN), Peers([A])
    theirs = Catalogue(THEIRS)
    theirs.begin(B, RUN)

    def tell(now: float) -> list[str]:
        """What the peer answers."""
        refusals = []
        for told in peers.batch(A, accounts, catalogue, now):
            refusal = ""
            if isinstance(told.message, PeerAnnounce):
                found = decode_announcement(told.message.announcement)
                try:
                    theirs.announce_from(B, found, told.message.age_ms / 1_000, now)
                except RelayRefused as error:
                    refusal = error.code
            elif isinstance(told.message, PeerWithdraw):
                theirs.withdraw_from(B, told.message.key)
            peers.answered(A, told, refusal)
            refusals.append(refusal)
        return refusals

    data = announced(1)
    catalogue.announce(NODE, decode_announcement(data), 0.0)
    peers.linked(A, 0, catalogue.own_keys(), [])
    [_, said] = peers.batch(A, accounts, catalogue, 4.0)
    assert said.message == PeerAnnounce(announcement=data, age_ms=4_000)
    peers.linked(A, 0, catalogue.own_keys(), [])
    assert tell(4.0) == ["", ""]
    assert theirs.find(OTHER, NODE, b"", 4.0) == catalogue.find(OTHER, NODE, b"", 4.0)
    catalogue.announce(NODE, decode_announcement(announced(2, with_offers=False)), 10.0)
    peers.announced(NODE)
    [said] = peers.batch(A, accounts, catalogue, 10.0)
    assert said.message == PeerAnnounce(announcement=announced(2, with_offers=False), age_ms=0)
    theirs.forget(NODE)  # it has lost the offers
    peers.announced(NODE)
    assert tell(10.0) == ["offers_wanted"] and tell(10.0) == [""]
    # gone at both at the same time, however late the peer heard of it
    assert theirs.seen_by(OTHER, b"", 10.0 + ANNOUNCED_S - 0.01)
    assert not theirs.seen_by(OTHER, b"", 10.0 + ANNOUNCED_S)
    assert not catalogue.seen_by(OTHER, b"", 10.0 + ANNOUNCED_S)
    catalogue.announce(NODE, decode_announcement(announced(3)), 50.0)
    peers.announced(NODE)
    assert tell(50.0) == ["offers_wanted"]  # over, so they went as well
    assert tell(50.0) == [""] and theirs.seen_by(OTHER, b"", 50.0)
    catalogue.withdraw(NODE)
    peers.withdrawn(NODE)
    assert tell(50.0) == [""] and not theirs.seen_by(OTHER, b"", 50.0)
    peers.announced(NODE)  # over before it was told
    assert tell(99.0) == []


def test_a_batch_has_room_for_mail() -> None:
    accounts, catalogue, peers = Accounts(), Catalogue(RUN), Peers([A])
    nodes = [number.to_bytes(32, "big") for number in range(2 * RELAY_PEER_BATCH_MESSAGES)]
    peers.linked(A, 0, [], [])
    for node in nodes:
        peers.withdrawn(node)
    seen: list[Told] = []
    while batch := peers.batch(A, accounts, catalogue, 0.0):
        assert len(batch) < RELAY_PEER_BATCH_MESSAGES
        assert sum(len(one.data) for one in batch) < RELAY_PEER_BATCH_BYTES_MAX // 2
        seen += batch
    assert [one.message for one in seen[1:]] == [PeerWithdraw(key=node) for node in nodes]


# -- a peer's announcements


def test_a_peers_announcements_are_its_nodes_own() -> None:
    catalogue = Catalogue(RUN)
    with pytest.raises(RelayRefused, match="denied"):
        catalogue.begin(B, RUN)  # so nothing said to us can be said again by it
    catalogue.begin(B, THEIRS)
    for replay in (announced(1), announced(1, b"x" * 16)):  # over our run, and another's
        with pytest.raises(RelayRefused, match="replayed"):
            catalogue.announce_from(B, decode_announcement(replay), 0.0, 0.0)
    good = decode_announcement(announced(1, THEIRS))
    catalogue.announce_from(B, good, 0.0, 0.0)
    for now in (0.0, 60.0):
        with pytest.raises(RelayRefused, match="replayed"):
            catalogue.announce_from(B, good, 0.0, now)
    catalogue.begin(B, THEIRS)  # a new connection of the same relay: still a replay
    with pytest.raises(RelayRefused, match="replayed"):
        catalogue.announce_from(B, good, 0.0, 60.0)
    catalogue.begin(B, b"u" * 16)  # it has started anew
    with pytest.raises(RelayRefused, match="replayed"):
        catalogue.announce_from(B, good, 0.0, 60.0)
    assert len(catalogue) == 0


def test_a_node_at_both_is_shown_as_it_announced_itself_last() -> None:
    catalogue = Catalogue(RUN)
    catalogue.begin(B, THEIRS)
    own, theirs = decode_announcement(announced(1)), decode_announcement(announced(9, THEIRS))
    catalogue.announce(NODE, own, 0.0)
    catalogue.announce_from(B, theirs, 0.0, 5.0)
    assert catalogue.find(OTHER, NODE, b"", 5.0)[2] == theirs.beacon.data
    assert len(catalogue) == 1 and len(catalogue.seen_by(OTHER, b"", 5.0)) == 1
    catalogue.withdraw_from(B, NODE)
    assert catalogue.find(OTHER, NODE, b"", 5.0)[2] == own.beacon.data
    catalogue.announce_from(B, decode_announcement(announced(10, THEIRS)), 29.0, 5.0)
    assert catalogue.find(OTHER, NODE, b"", 5.5)[2] == own.beacon.data  # an old one, told late
    catalogue.forget(NODE)
    assert catalogue.keys() == set()


def test_the_time_on_the_way_counts_as_age() -> None:
    peers = Peers([A])
    peers.entered(A, RUN, 95.0)
    assert peers.heard(A, 1.0, 100.0) == 4.0  # after its login
    peers[A].answered_at = 100.0
    assert peers.heard(A, 2.0, 105.0) == 3.0
    assert peers.heard(A, 9.0, 105.0) == 0.0  # a peer that lies makes nobody younger


def test_changes_are_counted_within_a_run_of_the_peer() -> None:
    peers = Peers([A])
    assert peers.entered(A, RUN, 0.0) == 0
    peers[A].number = 7
    assert peers.entered(A, RUN, 0.0) == 7
    assert peers.entered(A, THEIRS, 0.0) == 0 and peers.entered(A, RUN, 0.0) == 0


# -- mail


def test_mail_goes_where_its_recipient_is() -> None:
    peers = Peers([A, B])
    assert not peers.wanted(NODE)  # nowhere: it waits
    here(peers, A, NODE)
    assert not peers.wanted(NODE)  # no connection to hand it over
    peers.linked(A, 0, [], [NODE])
    assert peers.next_mail(A) == NODE
    peers.moved(A, NODE, "busy", 0.0)
    linked(peers, B)
    here(peers, B, NODE)
    assert peers.wanted(NODE)  # at two: the first has it
    assert peers.next_mail(B) is None
    assert peers.next_mail(A) == NODE and peers.next_mail(A) is None
    assert peers.may_move(A, NODE, 1, 0.0)
    peers.moved(A, NODE, "not_found", 0.0)  # it has just left
    assert peers.next_mail(A) is None and peers.next_mail(B) == NODE
    peers.moved(B, NODE, "", 0.0)
    assert peers.next_mail(B) == NODE  # until nothing is left
    peers.wanted(NODE)
    peers.hear_gone(B, [NODE])
    assert peers.next_mail(B) is None and not peers.wanted(NODE)


def test_at_which_peer_a_node_is() -> None:
    peers = Peers([A, B])
    assert peers.at(NODE) is None
    here(peers, B, NODE)
    assert peers.at(NODE) == B and peers.at(OTHER) is None
    here(peers, A, NODE)
    assert peers.at(NODE) == A  # at two: the first
    peers.hear_gone(A, [NODE])
    assert peers.at(NODE) == B
    peers.handle_timer(AWAY_S + 1.0)  # it fell silent: its word counts no more
    assert peers.at(NODE) is None


def test_a_link_that_breaks_leaves_the_mail_to_another() -> None:
    peers = Peers([A, B])
    linked(peers, A, B)
    here(peers, A, NODE, OTHER)
    here(peers, B, NODE)
    assert peers.wanted(NODE) and peers.wanted(OTHER)
    peers.unlinked(A)
    assert peers.next_mail(B) == NODE and peers.next_mail(A) is None


def test_who_is_here_is_served_here_unless_nothing_moves() -> None:
    peers = Peers([A])
    linked(peers, A)
    peers.came(NODE)
    here(peers, A, NODE)
    assert peers.wanted(NODE) and peers.next_mail(A) == NODE
    assert not peers.may_move(A, NODE, 7, 10.0)
    peers.heard(A, 0.0, 10.0)
    assert peers.next_timer() == 10.0 + STUCK_S < 10.0 + AWAY_S
    peers.handle_timer(10.0 + STUCK_S)
    assert peers.next_mail(A) == NODE
    assert not peers.may_move(A, NODE, 8, 15.0)  # 7 was taken meanwhile: it lives
    peers.handle_timer(20.0)
    assert peers.next_mail(A) == NODE and peers.may_move(A, NODE, 8, 20.0)
    peers.moved(A, NODE, "", 20.0)
    peers.empty(A, NODE)
    assert not peers[A].waiting


def test_a_mailbox_that_is_full_there_is_tried_again_later() -> None:
    peers = Peers([A])
    linked(peers, A)
    here(peers, A, NODE)
    peers.wanted(NODE)
    assert peers.next_mail(A) == NODE
    peers.moved(A, NODE, "mailbox_full", 1.0)
    assert peers.next_mail(A) is None and peers.next_timer() == 1.0 + RETRY_S
    peers.handle_timer(1.0 + RETRY_S)
    assert peers.next_mail(A) == NODE


def test_who_goes_from_one_relay_to_the_other_is_there_at_once() -> None:
    peers = Peers([A])
    linked(peers, A)
    peers.batch(A, Accounts(), Catalogue(RUN), 0.0)
    peers.came(NODE)
    peers.left(NODE, 0.0)
    here(peers, A, NODE)
    assert NODE not in peers.presence and peers.wanted(NODE)
    [told] = peers.batch(A, Accounts(), Catalogue(RUN), 0.0)
    assert told.message == PeerPresent(fresh=False, come=b"", gone=NODE)


def test_what_a_silent_peer_said_of_its_nodes_counts_no_more() -> None:
    peers = Peers([A])
    linked(peers, A)
    here(peers, A, NODE, now=5.0)
    assert peers.next_timer() == 5.0 + AWAY_S
    peers.heard(A, 0.0, 5.0 + AWAY_S - 0.1)
    late = peers[A].heard_at + AWAY_S
    peers.handle_timer(late)
    assert not peers.wanted(NODE) and peers.next_timer() == math.inf
    with pytest.raises(RelayRefused, match="log in again"):  # and say again who is there
        peers.heard(A, 0.0, late)


def test_nodes_of_a_peer_at_the_maximum_and_one_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "RELAY_ACCOUNTS_MAX", 2)
    peers = Peers([A])
    said = PeerPresent(fresh=True, come=NODE + OTHER + C, gone=b"")
    assert peers.hear_presence(A, said, [NODE, OTHER, C]) == [NODE, OTHER]
    assert peers.hear_presence(A, said, [C]) == [C]  # anew


class Two:
    """Two relays, one node that wanders, and what waits for it at each."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.relays = {A: Peers([B]), B: Peers([A])}
        self.boxes: dict[bytes, list[int]] = {A: [], B: []}
        self.at: bytes | None = None
        self.now = 0.0
        self.moves = self.stays = self.sent = 0
        for key in (A, B):
            self.link(key)

    def link(self, key: bytes) -> None:
        there = B if key == A else A
        self.relays[there].entered(key, RUN, self.now)
        self.relays[key].linked(there, 0, [], [NODE])

    def carry(self) -> None:
        """What each is to be told arrives."""
        for key, there in ((A, B), (B, A)):
            try:
                self.relays[there].heard(key, 0.0, self.now)
            except RelayRefused:
                self.relays[key].unlinked(there)
                self.link(key)
            for told in self.relays[key].batch(there, Accounts(), Catalogue(RUN), self.now):
                if isinstance(told.message, PeerPresent):
                    self.relays[there].hear_gone(key, keys_in(told.message.gone))
                    come = keys_in(told.message.come)
                    for node in self.relays[there].hear_presence(key, told.message, come):
                        self.relays[there].wanted(node)

    def hand_over(self) -> None:
        for key, there in ((A, B), (B, A)):
            peers, box = self.relays[key], self.boxes[key]
            while to := peers.next_mail(there):
                if box and peers.may_move(there, to, box[0], self.now):
                    taken = to in self.relays[there].presence
                    if taken:
                        self.moves += len(box)
                        self.boxes[there] += box
                        box.clear()
                    peers.moved(there, to, "" if taken else "not_found", self.now)

    def wander(self) -> None:
        if self.at is not None:
            self.relays[self.at].left(NODE, self.now)
        self.at = self.dice.choice((A, B))
        self.relays[self.at].came(NODE)
        self.stays += 1

    def send(self) -> None:
        self.sent += 1
        place = self.dice.choice((A, B))
        self.boxes[place].append(self.sent)
        self.relays[place].wanted(NODE)

    def passes(self, seconds: float) -> None:
        self.now += seconds
        if self.at is not None:
            self.boxes[self.at].clear()  # it takes what is there
        for peers in self.relays.values():
            for gone in peers.handle_timer(self.now):
                peers.wanted(gone)


def test_no_message_goes_to_and_fro_and_none_stays_behind() -> None:
    moves = 0
    for seed in range(200):
        two = Two(seed)
        for _ in range(60):
            two.dice.choice((two.wander, two.send, two.carry, two.hand_over))()
            two.passes(two.dice.random() * 4)
        for _ in range(5):
            two.carry()
            two.hand_over()
            two.passes(LINGER_S)
        assert two.at is None or two.boxes == {A: [], B: []}, f"seed {seed}"
        assert two.moves <= two.sent + two.stays, f"seed {seed}"
        moves += two.moves
    assert moves > 200
