"""The order of words, and who is still there."""

from __future__ import annotations

from drupelet.core.words import BOOTS_MAX, GONE_S, TICK_S, Peers
from drupelet.wire.limits import WORD_PEERS_MAX

BOB, EVE = b"b" * 32, b"e" * 32
NOW = 1_000.0


def boot(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_a_word_counts_once_and_in_order() -> None:
    peers = Peers()
    assert not peers.takes(BOB, boot(1), 1)  # nobody has met him
    assert peers.meet(BOB) and peers.meet(BOB)
    taken = [number for number in (1, 2, 2, 1, 5, 4, 6) if peers.takes(BOB, boot(1), number)]
    assert taken == [1, 2, 5, 6]  # a gap is not waited for; what is late is not heard
    assert not peers.takes(EVE, boot(1), 7)


def test_a_new_boot_counts_anew_and_the_former_is_silent() -> None:
    peers = Peers()
    peers.meet(BOB)
    for number in range(BOOTS_MAX + 1):
        assert peers.takes(BOB, boot(number), 9 - number)
    for number in range(BOOTS_MAX):
        assert not peers.takes(BOB, boot(number), 1_000)
    assert not peers.takes(BOB, boot(BOOTS_MAX + 1), 1_000)  # too many in so short a time
    assert peers.takes(BOB, boot(BOOTS_MAX), 10)
    peers.forget(BOB)
    peers.meet(BOB)
    assert peers.takes(BOB, boot(BOOTS_MAX + 1), 1)


def test_our_own_numbers_rise() -> None:
    peers = Peers()
    assert [peers.next_number() for _ in range(3)] == [1, 2, 3]


def test_who_is_watched_is_asked_and_is_gone_when_silent() -> None:
    peers = Peers()
    peers.meet(BOB)
    peers.meet(EVE)
    assert peers.tick([], NOW) == ([], [])
    assert peers.tick([BOB], NOW) == ([BOB], [])
    assert peers.takes(BOB, boot(1), 1)
    at = NOW
    while at < NOW + GONE_S:
        at += TICK_S
        assert peers.tick([BOB], at) == ([BOB], [])
    assert peers.tick([BOB], at + TICK_S) == ([], [BOB])
    assert peers.takes(BOB, boot(1), 2)  # it speaks after all
    assert peers.tick([BOB], at + 2 * TICK_S) == ([BOB], [])
    assert peers.tick([], at + 3 * TICK_S) == ([], [])  # not watched for a while: it begins anew
    assert peers.tick([BOB], at + 9 * TICK_S) == ([BOB], [])


def test_the_table_has_a_maximum() -> None:
    peers = Peers()
    for number in range(WORD_PEERS_MAX):
        assert peers.meet(number.to_bytes(32, "big"))
    assert len(peers) == WORD_PEERS_MAX
    assert not peers.meet(BOB) and BOB not in peers
    peers.forget((0).to_bytes(32, "big"))
    assert peers.meet(BOB)
