"""Pairing: whether a code is still good, and who has proved it.

Decides, for one code that this node shows: who may try, that the first wrong try ends it, and when
it is too late.

Rules
- One guess. The side that joins proves first; a proof that does not hold burns the code, whoever
  sent it, and every try under way with it. The next try needs a new code.
- A share without a proof is no guess: nothing that this node said before the proof tells whether a
  code was right. So links that are cut, and nodes that only ask, cost nothing.
- A link (or a run through a relay) tries once at a time. PAIR_RUNS_MAX of them may be between share
  and proof; the oldest goes first.
- A code is good for PAIR_S. Proved, it is good for nobody else; the other side then has
  PAIR_CONFIRM_S to say that it has kept what it was given.

Rejected: three tries, as with a card's PIN (a code costs nothing to make); burning at the first
share (anybody on the network could then end a pairing without even a guess).
"""

from __future__ import annotations

from math import inf
from typing import Final

from drupelet.wire.cpace import CPace
from drupelet.wire.limits import PAIR_CONFIRM_S, PAIR_RUNS_MAX, PAIR_S
from drupelet.wire.pairing import begin

OPEN: Final = "open"
PROVED: Final = "proved"  # the code was right; the other side has not confirmed yet
PAIRED: Final = "paired"
BURNT: Final = "burnt"
EXPIRED: Final = "expired"
UNCONFIRMED: Final = "unconfirmed"
CANCELLED: Final = "cancelled"


class Pairing:
    """One code. `session` names a run: the hash of its link's handshake, or what stands for it."""

    __slots__ = ("_code", "_ends_at", "_own_key", "_runs", "_winner", "isk", "state")

    def __init__(self, code: str, own_key: bytes, now: float) -> None:
        self.state = OPEN
        self.isk = b""  # while it is proved and not confirmed: the key that both have
        self._code = code
        self._own_key = own_key
        self._ends_at = now + PAIR_S
        self._runs: dict[bytes, CPace] = {}  # by session, oldest first
        self._winner = b""

    @property
    def code(self) -> str:
        """While it is good."""
        return self._code

    def left_s(self, now: float) -> float:
        """For how long it is good yet."""
        return max(0.0, self._ends_at - now) if self.state == OPEN else 0.0

    def start(
        self, session: bytes, peer_key: bytes, share: bytes, private: bytes, now: float
    ) -> bytes | None:
        """The other side's share: ours, or None when this link may not try.

        Raises: `RemoteProtocolError` for a share that cannot be.
        """
        self.handle_timer(now)
        if self.state != OPEN or session in self._runs:
            return None
        run = begin(
            self._code, session=session, own_key=self._own_key, private=private, initiator=False
        )
        run.receive(share, peer_key)
        while len(self._runs) >= PAIR_RUNS_MAX:
            del self._runs[next(iter(self._runs))]
        self._runs[session] = run
        return run.public

    def prove(self, session: bytes, proof: bytes, now: float) -> bytes | None:
        """Our own proof when theirs holds; else None, and when it was a guess the code is burnt."""
        self.handle_timer(now)
        run = self._runs.pop(session, None)
        if run is None or self.state != OPEN:
            return None
        holds = run.proves(proof)
        self._end(PROVED if holds else BURNT)
        if not holds:
            return None
        self._winner, self.isk = session, run.isk
        self._ends_at = now + PAIR_CONFIRM_S
        return run.proof()

    def confirm(self, session: bytes, now: float) -> bool:
        """The other side has kept what it was given."""
        self.handle_timer(now)
        if self.state != PROVED or session != self._winner:
            return False
        self._end(PAIRED)
        return True

    def cancel(self) -> None:
        """Nobody waits any more."""
        if self.state in (OPEN, PROVED):
            self._end(CANCELLED)

    def next_timer(self) -> float:
        """When it is too late."""
        return self._ends_at if self.state in (OPEN, PROVED) else inf

    def handle_timer(self, now: float) -> None:
        """Too late, perhaps."""
        if now >= self.next_timer():
            self._end(EXPIRED if self.state == OPEN else UNCONFIRMED)

    def _end(self, state: str) -> None:
        self.state = state
        self._code, self.isk = "", b""
        self._runs.clear()
