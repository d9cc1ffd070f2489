"""Plates: where at a relay somebody waits who shows a code for pairing.

Decides whose a plate is, for how long, and who may send words of a pairing to whom. A plate is a
number that follows from a code (`wire/pairing.py`): 12 of its 36 bits.

    plates.show(alice, 1234, 300, now)       # raises RelayRefused: taken, busy
    plates.find(1234, now)                   # alice; raises RelayRefused: not_found
    plates.admit(bob, alice, 1234, now)      # bob has found her; raises RelayRefused: not_found
    plates.admit(alice, bob, None, now)      # she answers

Rules
- An account has one plate, and a plate is one account's, so that words that name it reach one node.
- Who does not know the plate cannot send to who shows it, though he knows her key: else whoever
  knows a node's key could burn each of its codes.
- Nothing of it is on disk: a code lives for minutes, and its node shows it again.
"""

from __future__ import annotations

from typing import NamedTuple

from drupelet.wire.limits import RELAY_PLATES_MAX
from drupelet.wire.relay import RelayRefused


class _Shown(NamedTuple):
    key: bytes
    until: float


class Plates:
    """Those of one relay. `now`: monotonic seconds."""

    def __init__(self) -> None:
        self._shown: dict[int, _Shown] = {}
        self._plate_of: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._shown)

    def keys(self) -> list[bytes]:
        """Who waits somewhere."""
        return list(self._plate_of)

    def show(self, key: bytes, plate: int, kept_s: int, now: float) -> None:
        """`key` waits there from now on, and no more at its former one. Raises: `RelayRefused`."""
        self.expire(now)
        shown = self._shown.get(plate)
        if shown is not None and shown.key != key:
            raise RelayRefused("taken", "another node waits at that plate: make a new code")
        if len(self._shown) >= RELAY_PLATES_MAX and key not in self._plate_of:
            raise RelayRefused("busy", "too many nodes show a code", 5.0)
        self.take_back(key)
        self._shown[plate] = _Shown(key, now + kept_s)
        self._plate_of[key] = plate

    def take_back(self, key: bytes) -> None:
        """It waits no more."""
        plate = self._plate_of.pop(key, None)
        if plate is not None:
            del self._shown[plate]

    def find(self, plate: int, now: float) -> bytes:
        """Who waits there. Raises: `RelayRefused`."""
        self.expire(now)
        shown = self._shown.get(plate)
        if shown is None:
            raise RelayRefused("not_found")
        return shown.key

    def admit(self, sender: bytes, to: bytes, plate: int | None, now: float) -> None:
        """Whether `sender` may send words of a pairing. Raises: `RelayRefused`."""
        self.expire(now)
        if plate is None and sender in self._plate_of:
            return  # who shows a code answers
        if plate is None or self._plate_of.get(to) != plate:
            raise RelayRefused("not_found", "no code is shown there")

    def expire(self, now: float) -> None:
        """Forget those whose time is over: at most RELAY_PLATES_MAX are looked at."""
        for key in [shown.key for shown in self._shown.values() if shown.until <= now]:
            self.take_back(key)
