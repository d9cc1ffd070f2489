"""core/addresses.py: what is kept, what goes first, when each is due."""

from __future__ import annotations

from math import inf
from random import Random

import pytest

from drupelet.core.addresses import (
    BACKOFF_CAP_S,
    CLAIMED_S,
    FIRST_JITTER_S,
    HINTED_CAP_S,
    OTHERS_S,
    REPEATED_GAP_S,
    YIELD_S,
    AddressBook,
    key_prefix_of,
)
from drupelet.core.candidates import Candidate
from drupelet.wire import limits

ALICE = b"\x40" * 32
BOB = b"\x80" * 32


def hint(number: int = 1, source: str = "mdns", name: str = "", key_prefix: str = "") -> Candidate:
    return Candidate(
        source=source,
        host=f"10.0.{number // 256}.{number % 256}",
        port=4370,
        name=name,
        key_prefix=key_prefix,
    )


def book(own_key: bytes = ALICE) -> AddressBook:
    return AddressBook(own_key, Random(17).random)


def test_at_the_maximum_and_one_above() -> None:
    addresses = book()
    for number in range(limits.CANDIDATES_MAX):
        assert addresses.add(hint(number), float(number)) is not None
    assert addresses.evicted_count == 0
    assert addresses.add(hint(9999), 9999.0) is not None
    assert len(addresses) == limits.CANDIDATES_MAX
    assert addresses.evicted_count == 1
    assert addresses.find(hint(0).host, 4370) is None  # the longest unheard


def test_a_flood_of_mdns_never_evicts_what_is_worth_more() -> None:
    addresses = book()
    addresses.add(hint(1, "static"), 0.0)
    proved = addresses.add(hint(2), 0.0)
    assert proved is not None
    proved.key = BOB
    addresses.add(hint(3, "mapper"), 0.0)
    addresses.add(hint(4, "gossip"), 0.0)
    for number in range(1000, 3000):
        addresses.add(hint(number), float(number))
    assert len(addresses) == limits.CANDIDATES_MAX
    for number in (1, 2, 3, 4):
        assert addresses.find(hint(number).host, 4370) is not None


def test_a_newcomer_worse_than_all_is_refused() -> None:
    addresses = book()
    for number in range(limits.CANDIDATES_MAX):
        addresses.add(hint(number, "mapper"), 0.0)
    assert addresses.add(hint(9999, "mdns"), 1.0) is None
    assert addresses.refused_count == 1


def test_static_peers_only_are_never_evicted() -> None:
    addresses = book()
    for number in range(limits.CANDIDATES_MAX):
        addresses.add(hint(number, "static"), 0.0)
    assert addresses.add(hint(9999, "static"), 1.0) is None
    assert addresses.evicted_count == 0


def test_own_key_prefix_is_no_address() -> None:
    assert book().add(hint(key_prefix=key_prefix_of(ALICE)), 0.0) is None


def test_the_larger_key_lets_the_smaller_dial_first() -> None:
    small, large = sorted((ALICE, BOB), key=key_prefix_of)
    yielding = book(large).add(hint(key_prefix=key_prefix_of(small)), 0.0)
    first = book(small).add(hint(key_prefix=key_prefix_of(large)), 0.0)
    assert yielding is not None
    assert first is not None
    assert 0.0 <= first.dial_at <= FIRST_JITTER_S < YIELD_S <= yielding.dial_at


def test_backs_off_to_the_cap_for_ever() -> None:
    addresses = book()
    address = addresses.add(hint(1, "gossip"), 0.0)
    assert address is not None
    for _ in range(100):
        addresses.failed(address, "port_closed", 100.0)
        assert 100.0 < address.dial_at <= 100.0 + BACKOFF_CAP_S
    assert address.reason == "port_closed"


def test_a_repeated_hint_cuts_a_long_back_off_but_not_again_and_again() -> None:
    addresses = book()
    address = addresses.add(hint(), 0.0)
    assert address is not None
    address.dial_at = 130.0
    addresses.add(hint(), 100.0)
    assert address.dial_at <= 100.0 + FIRST_JITTER_S
    address.dial_at = 130.0
    addresses.add(hint(), 100.0 + REPEATED_GAP_S - 0.1)
    assert address.dial_at == 130.0
    addresses.add(hint(), 100.0 + REPEATED_GAP_S)
    assert address.dial_at < 130.0


def test_a_repeated_hint_leaves_a_linked_address_asleep() -> None:
    addresses = book()
    address = addresses.add(hint(key_prefix=key_prefix_of(BOB)), 0.0)
    assert address is not None
    address.key = BOB
    address.dial_at = inf
    addresses.add(hint(key_prefix=key_prefix_of(BOB)), 100.0)
    assert address.dial_at == inf
    addresses.wake(address, 100.0)
    assert 100.0 < address.dial_at < 101.0


def test_another_key_at_a_proved_address_is_tried_and_the_proof_kept() -> None:
    addresses = book()
    address = addresses.add(hint(key_prefix=key_prefix_of(BOB)), 0.0)
    assert address is not None
    addresses.proved(address, BOB)
    addresses.rest(address, 0.0)
    assert address.dial_at == inf
    addresses.add(hint(key_prefix="q" * 16), 100.0)
    assert address.doubted
    assert address.key == BOB
    assert address.dial_at < 101.0


def test_a_mere_claim_rests_for_a_bounded_time() -> None:
    addresses = book()
    address = addresses.add(hint(key_prefix=key_prefix_of(BOB)), 0.0)
    assert address is not None
    addresses.rest(address, 0.0)
    assert address.dial_at == CLAIMED_S
    assert address.doubted
    addresses.wake(address, 1.0)
    assert address.dial_at < 2.0


def test_what_only_mdns_names_is_tried_seldom_until_it_is_proved() -> None:
    addresses = book()
    address = addresses.add(hint(), 0.0)
    assert address is not None
    spans = []
    for _ in range(100):
        addresses.failed(address, "no_route", 0.0)
        spans.append(address.dial_at)
    assert BACKOFF_CAP_S < max(spans) <= HINTED_CAP_S
    addresses.proved(address, BOB)
    for _ in range(100):
        addresses.failed(address, "no_route", 0.0)
        assert address.dial_at <= BACKOFF_CAP_S


def test_the_most_trusted_is_dialled_first_then_what_never_failed() -> None:
    addresses = book()
    hints = [hint(1), hint(2), hint(3, "gossip"), hint(4), hint(5, "static")]
    entries = [addresses.add(each, 0.0) for each in hints]
    assert all(entry is not None for entry in entries)
    known = [entry for entry in entries if entry is not None]
    addresses.proved(known[0], BOB)
    addresses.failed(known[3], "no_route", 0.0)
    first = sorted(known, key=lambda entry: entry.urgency(), reverse=True)
    assert [int(entry.host.rpartition(".")[2]) for entry in first] == [1, 5, 3, 2, 4]


@pytest.mark.parametrize(
    ("key", "prefix", "name", "leads"),
    [
        (BOB, "", "", True),
        (ALICE, key_prefix_of(BOB), "bob", False),
        (None, key_prefix_of(BOB), "other", True),
        (None, "q" * 16, "bob", False),
        (None, "", "bob", True),
        (None, "", "", False),
    ],
)
def test_proof_beats_claims(key: bytes | None, prefix: str, name: str, leads: bool) -> None:
    address = book().add(hint(name=name, key_prefix=prefix), 0.0)
    assert address is not None
    address.key = key
    assert address.leads_to(BOB, "bob") is leads


def test_a_node_of_another_cluster_is_left_alone_for_long() -> None:
    addresses = book()
    found = addresses.add(hint(1, key_prefix="b" * 16), 0.0)
    assert found is not None
    now, tries = 0.0, 0
    while now < 3_600.0:
        addresses.add(hint(1, key_prefix="b" * 16), now)  # mDNS says it again and again
        if now >= found.dial_at:
            tries += 1
            addresses.failed(found, "bad_cookie", now)
            assert OTHERS_S * 0.8 <= found.dial_at - now <= OTHERS_S * 1.2
        now += 5.0
    assert 20 <= tries <= 30


def test_what_a_person_named_is_tried_on_whatever_its_cookie() -> None:
    for source in ("static", "mapper", "gossip"):
        addresses = book()
        found = addresses.add(hint(1, source), 0.0)
        assert found is not None
        for _ in range(20):
            addresses.failed(found, "bad_cookie", 100.0)
            assert found.dial_at <= 100.0 + BACKOFF_CAP_S
    proved = book().add(hint(2), 0.0)
    assert proved is not None
    proved.key = BOB  # it was a member once
    addresses.failed(proved, "bad_cookie", 100.0)
    assert proved.dial_at <= 100.0 + BACKOFF_CAP_S


def test_with_another_cookie_they_are_tried_at_once() -> None:
    addresses = book()
    found, dead = addresses.add(hint(1), 0.0), addresses.add(hint(2), 0.0)
    assert found is not None and dead is not None
    addresses.failed(found, "bad_cookie", 1.0)
    for _ in range(9):
        addresses.failed(dead, "no_route", 1.0)
    later = dead.dial_at
    addresses.retry_others(2.0)
    assert 2.0 <= found.dial_at <= 2.0 + FIRST_JITTER_S + YIELD_S and dead.dial_at == later
