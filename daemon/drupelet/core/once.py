"""Once: what this node knows of idempotency keys, so that a call with one runs once.

Decides, for each call with a key, whether it runs, waits for the run that is under way, or gets the
outcome of the run that was. Who waits, and how they are answered, is the users' affair: calls that
come through a relay (`core/requests.py`) and calls on links (`services/once.py`) share one table.

    table.begin(holder, key, content, now)    # a OnceRecord: run it; an Ended; None: it runs now
    table.end(place, value, error, now)       # it has ended: the record to keep
    table.forget(place)                       # it never began
    table.done(place, now)                    # its holder never sends it again

Rules
- A key belongs to its holder: who holds the grant, or the member. Nobody sees another's.
- Both records are durable before what they promise: the first before the call runs, the second
  before its outcome is told. A run of which only the first was kept is `Timeout(maybe_ran)` for
  ever: it may have run, so it does not run again.
- One key has one content. The same key with other arguments is a mistake and is told as one.
- ONCE_KEPT_S after it began a key is forgotten, and counts as new. Until then no table forgets to
  make room: it refuses.
- A holder's node that never sends a key again says so (`done`): then it goes after DONE_KEPT_S,
  when nothing that was sent before can be fresh any more (`core/freshness.py`).
- When records were lost (`doubt`), keys that are not known are refused: they may have run.

Reference: the `Idempotency-Key` header's draft for one key with two contents.
Rejected: keeping what a call gave beyond ONCE_BYTES_MAX (that it ran is what matters).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from math import inf
from typing import Final

from drupelet.errors import CallError, RateLimited, RemoteError, Timeout, error_to_fields
from drupelet.wire.codec import dumps
from drupelet.wire.limits import (
    MAILBOX_KEPT_S,
    ONCE_BYTES_MAX,
    ONCE_KEYS_MAX,
    ONCE_KEYS_PER_CALLER_MAX,
)

ONCE_KEPT_S: Final = float(MAILBOX_KEPT_S)  # so long a request may lie at a relay
DONE_KEPT_S: Final = 150.0  # two windows of tokens are 120 s; a link is dead after 5
FULL_S: Final = 1.0
CONTENT_BYTES: Final = 16
_ENTRY_BYTES: Final = 256  # of a record, beside its bytes

Place = tuple[bytes, bytes]  # holder, key


@dataclass(frozen=True, slots=True, kw_only=True)
class OnceRecord:
    """What is kept of an idempotency key. `outcome`: encoded Reply fields; None: it was begun."""

    caller: bytes
    key: bytes
    content: bytes  # digest of target and arguments
    left_s: float
    outcome: tuple[bytes | None, bytes | None] | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How the run of a key ended: its encoded value or its encoded error."""

    value: bytes | None
    error: bytes | None


@dataclass(slots=True)
class _Once:
    """A key that was used."""

    content: bytes
    until: float
    running: bool = False
    value: bytes | None = None
    error: bytes | None = None

    @property
    def size(self) -> int:
        return len(self.value or b"") + len(self.error or b"") + _ENTRY_BYTES


class OnceTable:
    """The idempotency keys of one node."""

    def __init__(self) -> None:
        self._once: dict[Place, _Once] = {}  # the oldest first
        self._bytes = 0
        self._of: Counter[bytes] = Counter()
        self._doubt_until = 0.0
        self._next_at = inf  # when the first may be too old

    def __len__(self) -> int:
        return len(self._once)

    def begin(
        self, holder: bytes, key: bytes, content: bytes, now: float
    ) -> OnceRecord | Ended | None:
        """A call with a key came. A record: keep it, then run the call; None: it is running.

        Raises: `RemoteError` for a key that was used for another call, or in doubt; `RateLimited`.
        """
        place = (holder, key)
        once = self._once.get(place)
        if once is not None:
            if once.content != content:
                raise RemoteError("badarg", "this idempotency key was used for another call")
            return None if once.running else Ended(once.value, once.error)
        if now < self._doubt_until:
            raise RemoteError(
                "damaged",
                "some records of idempotency keys were lost here: this call may have run; a person "
                "must look (the log of the node that was called says once_damaged)",
            )
        if (
            len(self._once) >= ONCE_KEYS_MAX
            or self._of[holder] >= ONCE_KEYS_PER_CALLER_MAX
            or self._bytes >= ONCE_BYTES_MAX
        ):
            raise RateLimited(max(FULL_S, self._next_at - now))  # when the first goes
        self._add(place, _Once(content, now + ONCE_KEPT_S, running=True))
        return OnceRecord(caller=holder, key=key, content=content, left_s=ONCE_KEPT_S)

    def end(self, place: Place, value: bytes | None, error: bytes | None, now: float) -> OnceRecord:
        """The run of `place` has ended."""
        once = self._once[place]
        self._bytes -= once.size
        once.running, once.value, once.error = False, value, error
        if self._bytes + once.size > ONCE_BYTES_MAX:  # that it ran is kept, not what it gave
            once.value, once.error = None, encoded(Timeout(maybe_ran=True))
        self._bytes += once.size
        return self._record(place, once, now)

    def forget(self, place: Place) -> None:
        """Its run never began, or its time is over."""
        self._bytes -= self._once.pop(place).size
        self._of[place[0]] -= 1
        if not self._of[place[0]]:
            del self._of[place[0]]

    def done(self, place: Place, now: float) -> OnceRecord | None:
        """Its holder never sends it again: the record to keep, if there is one that ended."""
        once = self._once.get(place)
        if once is None or once.running:
            return None
        self._bytes -= once.size
        once.value, once.error = None, encoded(Timeout(maybe_ran=True))  # nobody asks for it
        self._bytes += once.size
        once.until = min(once.until, now + DONE_KEPT_S)
        self._next_at = min(self._next_at, once.until)
        return self._record(place, once, now)

    def handle_timer(self, now: float) -> None:
        """Forget what is too old."""
        if now < self._next_at:
            return
        for place, once in list(self._once.items()):
            if once.until <= now and not once.running:
                self.forget(place)
        self._next_at = min((once.until for once in self._once.values()), default=inf)

    def restore(self, records: Iterable[OnceRecord], now: float) -> None:
        """After a start: what was kept. Of two records of a key the later counts."""
        for record in records:
            place = (record.caller, record.key)
            if place in self._once:
                self.forget(place)
            once = _Once(record.content, now + record.left_s)
            if record.outcome is None:
                once.error = encoded(Timeout(maybe_ran=True))
            else:
                once.value, once.error = record.outcome
            self._add(place, once)

    def doubt(self, until: float) -> None:
        """Records were lost: until then, keys that are not known are refused."""
        self._doubt_until = max(self._doubt_until, until)

    def doubt_left_s(self, now: float) -> float:
        """How long that is."""
        return max(self._doubt_until - now, 0.0)

    def records(self, now: float) -> list[OnceRecord]:
        """Everything that is known, the oldest first: for a fresh file."""
        return [self._record(place, once, now) for place, once in self._once.items()]

    def _record(self, place: Place, once: _Once, now: float) -> OnceRecord:
        return OnceRecord(
            caller=place[0],
            key=place[1],
            content=once.content,
            left_s=max(once.until - now, 0.0),
            outcome=None if once.running else (once.value, once.error),
        )

    def _add(self, place: Place, once: _Once) -> None:
        self._once[place] = once
        self._next_at = min(self._next_at, once.until)
        self._bytes += once.size
        self._of[place[0]] += 1


def content_of(target: str, arguments: bytes) -> bytes:
    """What a key is of: the same for the same call, on whatever way it came."""
    return blake2b(dumps([target, arguments]), digest_size=CONTENT_BYTES).digest()


def encoded(error: CallError) -> bytes:
    """Its fields."""
    return dumps(error_to_fields(error))


__all__ = [
    "DONE_KEPT_S",
    "FULL_S",
    "ONCE_KEPT_S",
    "Ended",
    "OnceRecord",
    "OnceTable",
    "content_of",
    "encoded",
]
