"""Whose a plate is, for how long, and who may send to whom."""

from __future__ import annotations

import pytest

from drupelet.core.plates import Plates
from drupelet.wire.limits import RELAY_PLATES_MAX
from drupelet.wire.relay import RelayRefused

ALICE, BOB, TRUDY = b"a" * 32, b"b" * 32, b"t" * 32
NOW = 1_000.0


def refused(code: str) -> pytest.RaisesExc[RelayRefused]:
    return pytest.raises(RelayRefused, match=f"^{code}")


@pytest.fixture
def plates() -> Plates:
    return Plates()


def test_a_plate_is_found_for_its_time(plates: Plates) -> None:
    plates.show(ALICE, 7, 300, NOW)
    assert plates.find(7, NOW + 299) == ALICE
    with refused("not_found"):
        plates.find(8, NOW)
    with refused("not_found"):
        plates.find(7, NOW + 300)
    assert len(plates) == 0
    plates.show(BOB, 7, 300, NOW + 300)  # it is free again


def test_a_plate_is_one_accounts_and_an_account_has_one(plates: Plates) -> None:
    plates.show(ALICE, 7, 300, NOW)
    with refused("taken"):
        plates.show(BOB, 7, 300, NOW)
    plates.show(ALICE, 7, 300, NOW + 100)  # the same again: its time begins anew
    assert plates.find(7, NOW + 399) == ALICE
    plates.show(ALICE, 8, 300, NOW + 100)  # another code, in the place of the first
    assert len(plates) == 1
    with refused("not_found"):
        plates.find(7, NOW + 100)
    plates.take_back(ALICE)
    plates.take_back(ALICE)
    with refused("not_found"):
        plates.find(8, NOW + 100)


def test_who_may_send_to_whom(plates: Plates) -> None:
    plates.show(ALICE, 7, 300, NOW)
    plates.admit(BOB, ALICE, 7, NOW)
    plates.admit(ALICE, BOB, None, NOW)  # she answers
    for sender, to, plate in (
        (BOB, ALICE, 8),  # he knows her key, and not her code
        (BOB, ALICE, None),
        (ALICE, BOB, 7),
        (BOB, TRUDY, 7),
        (TRUDY, BOB, None),
    ):
        with refused("not_found"):
            plates.admit(sender, to, plate, NOW)
    for sender, to, plate in ((BOB, ALICE, 7), (ALICE, BOB, None)):
        with refused("not_found"):
            plates.admit(sender, to, plate, NOW + 300)


def test_a_full_table_refuses_and_drops_nobody(plates: Plates) -> None:
    keys = [number.to_bytes(32, "big") for number in range(RELAY_PLATES_MAX)]
    for plate, key in enumerate(keys):
        plates.show(key, plate, 300, NOW)
    with refused("busy"):
        plates.show(ALICE, 4_000, 300, NOW)
    plates.show(keys[0], 4_000, 300, NOW)  # whoever is in stays in, with a new code too
    assert plates.find(RELAY_PLATES_MAX - 1, NOW) == keys[-1]
    assert len(plates) == RELAY_PLATES_MAX
    plates.show(ALICE, 4_001, 300, NOW + 300)
    assert len(plates) == 1
