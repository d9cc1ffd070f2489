"""core/membership.py: which links stay, who is up, whom to dial."""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.core import membership as module
from drupelet.core.addresses import key_prefix_of
from drupelet.core.candidates import Candidate
from drupelet.core.clones import SETTLED_S
from drupelet.core.effects import (
    CloseLink,
    DeclaredDown,
    Dial,
    MembershipEffect,
    NodeDown,
    NodeUp,
    SendGossip,
    UseLink,
)
from drupelet.core.membership import Membership, PeerInfo
from drupelet.errors import REASONS
from drupelet.wire import limits
from drupelet.wire.messages.membership import Gossip, GossipNode

ALICE, BOB, CAROL = b"a" * 32, b"b" * 32, b"c" * 32
BOBS_HOST = "10.0.0.2"


def machine(key: bytes = ALICE, name: str = "alice", seed: int = 17) -> Membership:
    return Membership(key, name, Random(seed).random)


def peer(
    key: bytes = BOB,
    name: str = "bob",
    incarnation: int = 1,
    host: str = BOBS_HOST,
    port: int = 4370,
) -> PeerInfo:
    return PeerInfo(key=key, name=name, incarnation=incarnation, host=host, port=port)


def hint(
    host: str = BOBS_HOST, source: str = "static", name: str = "bob", key_prefix: str = ""
) -> Candidate:
    return Candidate(source=source, host=host, port=4370, name=name, key_prefix=key_prefix)


def fire(membership: Membership, until: float) -> list[MembershipEffect]:
    """Fire every timer up to `until`; the effects."""
    effects = membership.take_effects()
    while (now := membership.next_timer()) <= until:
        membership.handle_timer(now)
        assert membership.next_timer() > now
        effects += membership.take_effects()
    return effects


def of_kind(effects: list[MembershipEffect], *kinds: type) -> list[MembershipEffect]:
    return [effect for effect in effects if isinstance(effect, kinds)]


# -- dialling


def test_addresses_of_one_name_and_all() -> None:
    membership = machine()
    hints = [hint(), hint("10.0.0.3", name="carol"), hint("10.0.0.4", name="", key_prefix="k" * 16)]
    for each in hints:
        membership.candidate(each, 0.0)
    assert membership.candidates_of("carol") == hints[1:2]
    assert membership.candidates_of("") == hints


def test_a_candidate_is_dialled_and_its_link_puts_it_to_sleep() -> None:
    alice = machine()
    alice.candidate(hint(), 0.0)
    assert fire(alice, 1.0) == [Dial(host=BOBS_HOST, port=4370, name="bob")]
    assert alice.link_up(1, peer(), True, 1.0) is None
    assert alice.take_effects() == [
        NodeUp(name="bob", key=BOB, incarnation=1),
        UseLink("bob", 1),
    ]
    alice.candidate(hint(), 2.0)
    assert fire(alice, 1e6) == []
    assert alice.link_of("bob") == alice.link_of(f"bob@{BOBS_HOST}") == 1
    assert alice.link_of("bob@10.9.9.9") is None
    assert alice.link_of("carol") is None


def test_a_lost_node_is_dialled_again_for_ever_within_the_cap() -> None:
    alice = machine()
    alice.candidate(hint(), 0.0)
    fire(alice, 1.0)
    alice.link_up(1, peer(), True, 1.0)
    alice.link_down(1, "down", 100.0)
    assert of_kind(alice.take_effects(), NodeDown) == [
        NodeDown(name="bob", key=BOB, incarnation=1, reason="down")
    ]
    now = 100.0
    for _ in range(200):
        due = alice.next_timer()
        assert now < due <= now + 30.2
        now = due
        assert of_kind(fire(alice, now), Dial)
        alice.dial_failed(BOBS_HOST, 4370, "no_route", now)
    assert alice.reason("bob") == "no_route"


def test_a_dial_without_an_answer_ends() -> None:
    alice = machine()
    alice.candidate(hint(), 0.0)
    assert len(fire(alice, module.DIAL_S - 1)) == 1
    assert of_kind(fire(alice, module.DIAL_S + 2), Dial)
    assert alice.reason("bob") == "silent"


@pytest.mark.parametrize(
    ("source", "maximum"), [("gossip", module.DIALS_MAX), ("mdns", module.DIALS_HINTED_MAX)]
)
def test_dials_under_way_at_the_maximum(source: str, maximum: int) -> None:
    alice = machine()
    for number in range(maximum + 1):
        alice.candidate(hint(f"10.1.0.{number}", source, name=""), 0.0)
    dialled = [each.host for each in fire(alice, 5.0) if isinstance(each, Dial)]
    assert len(dialled) == maximum
    assert alice.next_timer() > 5.0
    alice.dial_failed(dialled[0], 4370, "port_closed", 5.0)
    then = [each.host for each in fire(alice, 6.0) if isinstance(each, Dial)]
    assert len(then) == 1
    assert then[0] not in dialled


def test_a_forged_claim_cannot_hide_a_node() -> None:
    """Mallory says that Carol's address is Bob's, who is linked; Carol is dialled all the same."""
    alice = machine()
    alice.link_up(1, peer(), False, 0.0)
    forged = hint("10.0.0.3", "mdns", "bob", key_prefix_of(BOB))
    alice.candidate(forged, 1.0)
    assert of_kind(fire(alice, 30.0), Dial) == []
    alice.candidate(hint("10.0.0.3", "mdns", "carol", key_prefix_of(CAROL)), 30.0)
    assert [each.host for each in fire(alice, 31.0) if isinstance(each, Dial)] == ["10.0.0.3"]


def test_a_forged_claim_cannot_strand_the_address_of_a_member() -> None:
    alice = machine()
    alice.candidate(hint(), 0.0)
    fire(alice, 0.5)
    alice.link_up(1, peer(), True, 0.5)
    alice.take_effects()
    for second in range(1, 60):
        alice.candidate(hint(source="mdns", name="", key_prefix=key_prefix_of(CAROL)), second)
        for effect in fire(alice, second + 0.5):
            assert isinstance(effect, Dial)
            alice.link_up(100 + second, peer(), True, second + 0.5)
            assert of_kind(alice.take_effects(), CloseLink) == [
                CloseLink(100 + second, "duplicate")
            ]
    alice.link_down(1, "closed", 70.0)
    assert [each.host for each in fire(alice, 71.0) if isinstance(each, Dial)] == [BOBS_HOST]


def test_a_flood_of_hints_does_not_delay_a_member() -> None:
    alice = machine()
    alice.candidate(hint(), 0.0)
    fire(alice, 0.5)
    alice.link_up(1, peer(), True, 0.5)
    for number in range(limits.CANDIDATES_MAX * 2):
        alice.candidate(hint(f"172.16.{number // 256}.{number % 256}", "mdns", name=""), 1.0)
    fire(alice, 10.0)
    alice.link_down(1, "closed", 10.0)
    dials = [each.host for each in fire(alice, 10.5) if isinstance(each, Dial)]
    assert BOBS_HOST in dials


def test_wanted_dials_in_spite_of_the_back_off_once_a_second() -> None:
    alice = machine()
    alice.candidate(hint(), 0.0)
    fire(alice, 1.0)
    for attempt in range(8):
        alice.dial_failed(BOBS_HOST, 4370, "port_closed", 1.0 + attempt)
        alice.wanted("bob", 1.0 + attempt)
        alice.take_effects()
    now = 20.0
    alice.dial_failed(BOBS_HOST, 4370, "port_closed", now)
    assert alice.wanted("bob", now)
    assert len(of_kind(alice.take_effects(), Dial)) == 1
    alice.dial_failed(BOBS_HOST, 4370, "port_closed", now)
    assert not alice.wanted("bob", now + 0.9)
    assert alice.take_effects() == []
    assert alice.wanted("bob", now + module.WANTED_GAP_S)
    assert len(of_kind(alice.take_effects(), Dial)) == 1
    assert not alice.wanted("nobody", now)
    assert alice.reason("nobody") == "no_such_node"


def test_an_address_that_leads_to_ourselves_is_left_alone() -> None:
    alice = machine()
    alice.candidate(hint(name=""), 0.0)
    fire(alice, 1.0)
    me = peer(ALICE, "alice")
    assert alice.link_up(1, me, True, 1.0) == "self"
    assert alice.link_up(2, me, False, 1.0) == "self"
    assert alice.take_effects() == [CloseLink(1, "self"), CloseLink(2, "self")]
    alice.candidate(hint(name=""), 3.0)
    assert fire(alice, 200.0) == []
    alice.dial_failed(BOBS_HOST, 4370, "self", 200.0)
    assert alice.nodes() == []


def test_a_dial_refused_as_self_is_left_alone_too() -> None:
    alice = machine()
    alice.candidate(hint(name=""), 0.0)
    fire(alice, 1.0)
    alice.dial_failed(BOBS_HOST, 4370, "self", 1.0)
    assert fire(alice, 290.0) == []


def test_another_node_at_that_address_is_kept_and_the_reason_told() -> None:
    alice = machine()
    alice.candidate(hint(name="bob"), 0.0)
    fire(alice, 1.0)
    assert alice.link_up(1, peer(CAROL, "carol"), True, 1.0) is None
    assert alice.link_of("carol") == 1
    assert alice.reason("bob") == "wrong_node"


# -- names and incarnations


def test_a_name_belongs_to_one_key_at_a_time() -> None:
    alice = machine()
    assert alice.link_up(1, peer(BOB, "bob"), False, 0.0) is None
    assert alice.refusal(peer(CAROL, "bob")) == "name_taken"
    assert alice.link_up(2, peer(CAROL, "bob"), False, 0.0) == "name_taken"
    assert alice.link_up(3, peer(CAROL, "alice"), False, 0.0) == "name_taken"
    assert of_kind(alice.take_effects(), CloseLink) == [
        CloseLink(2, "name_taken"),
        CloseLink(3, "name_taken"),
    ]
    alice.link_down(1, "down", 10.0)
    assert alice.link_up(4, peer(CAROL, "bob"), False, 10.0) is None
    assert [(node.name, node.key, node.state) for node in alice.nodes()] == [("bob", CAROL, "up")]


def test_who_is_refused_as_superseded_has_a_clone() -> None:
    alice = machine()
    alice.candidate(hint(), 0.0)
    fire(alice, 1.0)
    alice.dial_failed(BOBS_HOST, 4370, "superseded", 1.0)
    assert alice.clones.refusing(1.0) == [BOBS_HOST]
    assert alice.clones.seen(1.0) == []  # it is our own


def test_a_new_start_replaces_the_old_one_which_never_comes_back() -> None:
    alice = machine()
    alice.link_up(1, peer(incarnation=7), False, 0.0)
    alice.take_effects()
    assert alice.link_up(2, peer(incarnation=3), False, 1.0) is None
    assert alice.take_effects() == [
        CloseLink(1, "superseded"),
        NodeDown(name="bob", key=BOB, incarnation=7, reason="superseded"),
        NodeUp(name="bob", key=BOB, incarnation=3),
        UseLink("bob", 2),
    ]
    assert alice.link_up(3, peer(incarnation=7), False, 2.0) == "superseded"
    assert alice.take_effects() == [CloseLink(3, "superseded")]
    assert alice.clones.seen(2.0) == []  # it may have been under way
    assert alice.link_up(4, peer(incarnation=7), False, 2.0 + SETTLED_S) == "superseded"
    assert alice.take_effects() == [CloseLink(4, "superseded")]
    assert alice.clones.of(BOB, 2.0 + SETTLED_S)  # it lives: a copied card
    alice.link_down(1, "closed", 3.0)
    assert alice.take_effects() == []


def test_a_stopped_peer_comes_back_with_its_incarnation_and_is_told() -> None:
    alice = machine()
    alice.link_up(1, peer(incarnation=7), False, 0.0)
    assert alice.declared_down(BOB, 7) is None
    alice.link_down(1, "down", 10.0)
    assert alice.declared_down(BOB, 7) == "down"
    assert alice.declared_down(BOB, 8) is None
    assert alice.declared_down(CAROL, 7) is None
    assert alice.link_up(2, peer(incarnation=7), False, 11.0) is None
    assert alice.declared_down(BOB, 7) is None


def test_a_closed_link_is_no_declaration_of_death() -> None:
    alice = machine()
    alice.link_up(1, peer(), False, 0.0)
    alice.link_down(1, "closed", 10.0)
    assert alice.declared_down(BOB, 1) is None


def test_we_are_told_that_we_were_declared_dead() -> None:
    alice = machine()
    alice.declared_down_by("bob", BOB, "down", 1.0)
    assert alice.take_effects() == [DeclaredDown(name="bob", key=BOB, reason="down")]
    assert alice.statistics().declared_down_count == 1


# -- limits


def test_links_at_the_maximum_and_one_above() -> None:
    alice = machine()
    for number in range(module.LINKS_MAX):
        key = number.to_bytes(32, "big")
        assert alice.link_up(number, peer(key, f"n{number}"), False, 0.0) is None
    assert alice.link_up(9999, peer(BOB, "bob"), False, 0.0) == "overloaded"
    alice.link_down(0, "closed", 1.0)
    assert alice.link_up(9998, peer(BOB, "bob"), False, 1.0) is None


def test_links_of_one_peer_at_the_maximum_and_one_above() -> None:
    carol = machine(CAROL, "carol")  # the larger key: it keeps what the peer opens
    for number in range(module.LINKS_PER_PEER_MAX):
        assert carol.link_up(number, peer(), False, 0.0) is None
    assert carol.link_up(99, peer(), False, 0.0) == "duplicate"


def test_members_at_the_maximum_and_one_above() -> None:
    alice = machine()
    for number in range(module.MEMBERS_MAX + 1):
        key = number.to_bytes(32, "big")
        alice.link_up(number, peer(key, f"n{number}", host=f"h{number}"), False, float(number))
        alice.link_down(number, "closed", float(number))
    nodes = alice.nodes()
    assert len(nodes) == module.MEMBERS_MAX
    assert "n0" not in [node.name for node in nodes]
    assert alice.statistics().addresses <= limits.CANDIDATES_MAX


def test_only_so_many_members_are_dialled() -> None:
    alice = machine()
    for number in range(module.LINKS_WANTED_MAX):
        key = number.to_bytes(32, "big")
        alice.link_up(number, peer(key, f"n{number}", host=f"h{number}"), False, 0.0)
    alice.candidate(hint(name="late"), 1.0)
    assert of_kind(fire(alice, 60.0), Dial) == []
    assert alice.next_timer() == inf
    alice.link_down(0, "closed", 60.0)
    assert of_kind(fire(alice, 60.0), Dial)


# -- gossip


def test_gossip_tells_of_the_others_once_a_second_at_most() -> None:
    alice = machine()
    alice.link_up(1, peer(BOB, "bob", host="10.0.0.2"), False, 0.0)
    assert of_kind(fire(alice, 1.0), SendGossip) == []
    alice.link_up(2, peer(CAROL, "carol", host="10.0.0.3"), False, 1.0)
    bob = GossipNode(name="bob", key=BOB, host="10.0.0.2", port=4370)
    carol = GossipNode(name="carol", key=CAROL, host="10.0.0.3", port=4370)
    sent = of_kind(fire(alice, 2.0), SendGossip)
    assert sorted(sent, key=repr) == [
        SendGossip(1, Gossip((carol,))),
        SendGossip(2, Gossip((bob,))),
    ]
    for number in range(10):
        key = number.to_bytes(32, "big")
        alice.link_up(10 + number, peer(key, f"n{number}", host=f"h{number}"), False, 2.0)
    to_bob = [e for e in fire(alice, 3.5) if isinstance(e, SendGossip) and e.link_id == 1]
    assert len(to_bob) == 1
    assert len(to_bob[0].message.nodes) == 11


def test_gossip_names_at_most_its_maximum() -> None:
    alice = machine()
    for number in range(limits.GOSSIP_NODES_MAX + 2):
        key = number.to_bytes(32, "big")
        alice.link_up(number, peer(key, f"n{number}", host=f"h{number}"), False, 0.0)
    sizes = {len(e.message.nodes) for e in fire(alice, 5.0) if isinstance(e, SendGossip)}
    assert sizes == {limits.GOSSIP_NODES_MAX}


def test_gossip_is_a_hint_like_any_other() -> None:
    alice = machine()
    alice.link_up(1, peer(BOB, "bob", host="10.0.0.2"), False, 0.0)
    alice.take_effects()
    nodes = (
        GossipNode(name="carol", key=CAROL, host="10.0.0.3", port=4370),
        GossipNode(name="alice", key=ALICE, host="10.0.0.1", port=4370),
        GossipNode(name="dave", key=b"d" * 32, host="", port=4371),
    )
    alice.receive(1, Gossip(nodes), 1.0)
    alice.receive(77, Gossip(nodes), 1.0)
    dials = of_kind(fire(alice, 2.0), Dial)
    assert {(d.host, d.port, d.name) for d in dials if isinstance(d, Dial)} == {
        ("10.0.0.3", 4370, "carol"),
        ("10.0.0.2", 4371, "dave"),
    }
    assert [node.name for node in alice.nodes()] == ["bob"]


@pytest.mark.parametrize(
    ("host", "receiver", "told"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "10.0.0.3", ""),
        ("::1", "10.0.0.3", ""),
        ("10.0.0.2", "127.0.0.1", "10.0.0.2"),
        ("fe80::1%eth0", "10.0.0.3", None),
    ],
)
def test_gossip_tells_addresses_that_mean_something_there(
    host: str, receiver: str, told: str | None
) -> None:
    alice = machine()
    alice.link_up(1, peer(BOB, "bob", host=host), False, 0.0)
    alice.link_up(2, peer(CAROL, "carol", host=receiver), False, 0.0)
    hosts = [
        node.host
        for effect in fire(alice, 2.0)
        if isinstance(effect, SendGossip) and effect.link_id == 2
        for node in effect.message.nodes
    ]
    assert hosts == ([] if told is None else [told])


# -- random histories


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_random_histories_keep_the_books(seed: int) -> None:
    """One NodeDown per NodeUp, alternating; timers move on; reasons have words; same seed, same
    effects."""
    first = _history(seed)
    assert first == _history(seed)
    state: dict[bytes, bool] = {}
    for effect in first:
        if isinstance(effect, NodeUp):
            assert not state.get(effect.key)
            state[effect.key] = True
        elif isinstance(effect, NodeDown):
            assert state[effect.key]
            assert effect.reason in REASONS
            state[effect.key] = False


def _history(seed: int) -> list[MembershipEffect]:
    random = Random(seed)
    mallory = machine(b"m" * 32, "mallory", seed)
    keys = [bytes([number]) * 32 for number in random.sample(range(256), 5)]
    links: dict[int, bytes] = {}
    everything: list[MembershipEffect] = []
    now = 0.0
    for number in range(60):
        now += random.choice([0.0, 0.01, 0.3, 2.0, 7.0])
        key = random.choice(keys)
        match random.randrange(5):
            case 0:
                mallory.candidate(
                    hint(f"h{random.randrange(9)}", "mdns", "", key_prefix_of(key)), now
                )
            case 1 | 2:
                info = peer(key, f"n{random.choice(key[:2]) % 4}", random.randrange(3), "h1")
                if mallory.link_up(number, info, random.random() < 0.5, now) is None:
                    links[number] = key
            case 3 if links:
                link = random.choice(sorted(links))
                del links[link]
                mallory.link_down(link, random.choice(["down", "closed"]), now)
            case _:
                if mallory.next_timer() <= now:
                    mallory.handle_timer(now)
                    assert mallory.next_timer() > now
        for effect in mallory.take_effects():
            everything.append(effect)
            if isinstance(effect, CloseLink):
                links.pop(effect.link_id, None)
                assert effect.reason in REASONS
        up = {node.name: node.link_id for node in mallory.nodes() if node.link_id is not None}
        assert all(mallory.link_of(name) == link for name, link in up.items())
        assert set(up.values()) <= set(links)
        assert len(up) == len(set(links.values()))
    return everything
