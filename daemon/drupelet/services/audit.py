"""Audit: who from outside the members called what, and what the operator granted and revoked.

Decides what is written: every call that was let in, when it ends; refused ones by a sample, the
first of a kind in SAMPLE_S and then how many there were; every grant and revocation. How it is kept
so that changes show, store/audit.py decides.

| function | who | |
|---|---|---|
| `read` | operator | entries, newest last: `read(mission, since_s, count_max)` |
| `verify` | operator | where the chain is broken, the last hash, whether an older one is there |

Rules
- The door never waits for the card: entries wait in memory for FLUSH_S at most, QUEUE_MAX of them;
  beyond, and when the card fails, they are counted as lost, and an entry says how many.
- A power cut loses what was not flushed. What is written is made durable at each flush: one fsync
  for all calls of FLUSH_S.

Owns: one task that flushes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Final, TypeAlias

import trio

from drupelet.errors import RemoteError
from drupelet.services.missions import Missions
from drupelet.services.system import OPERATOR
from drupelet.store.audit import AuditLog, Broken, Entry

_log = logging.getLogger("drupelet.audit")

FLUSH_S: Final = 2.0  # entries a power cut may lose; an fsync each two seconds at most
QUEUE_MAX: Final = 4_096  # 0.5 MB
SAMPLE_S: Final = 60.0
KINDS_MAX: Final = 256  # of refusals that are counted apart; the rest is counted together
READ_MAX: Final = 10_000  # entries in one answer
_OTHERS: Final = ("", "", "", "others")
_TEXT_CHARS: Final = 256  # a stranger's word for a function
_NOTE_CHARS: Final = 1_024  # a sentence about a grant, or the ids of thirty


# times (unix, monotonic), what, (caller, mission, function, outcome), span, count, note: the hot
# path of a stranger's call (adr/0003)
_Waiting: TypeAlias = tuple[tuple[float, float], str, tuple[str, str, str, str], int, int, str]


class Audit:
    """The audit log of one node. `boot` tells its starts apart."""

    def __init__(self, log: AuditLog, boot: str, clock: Callable[[], float] = time.time) -> None:
        self._log = log
        self._boot = boot
        self._clock = clock
        self._queue: deque[_Waiting] = deque()
        self._refused: dict[tuple[str, str, str, str], tuple[float, int]] = {}
        self._opened = False
        self._ended = False
        self._lock = trio.Lock()
        self._woken = trio.Event()  # something waits: an idle node does not wake for its log
        self.lost_count = 0
        self.written_count = 0

    def register(self, missions: Missions) -> None:
        """Put the mission into the whitelist."""
        missions.add_system("audit", {"read": self.read, "verify": self.verify}, OPERATOR)

    async def run(self) -> None:
        """Write what waits, every FLUSH_S and at the end."""
        try:
            while True:
                await self._woken.wait()
                self._woken = trio.Event()
                await trio.sleep(FLUSH_S)
                await self.flush()
                if self._refused or self.lost_count:  # to be counted, or told, later
                    self._woken.set()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + FLUSH_S):
                await self.flush()
            self._log.close()
            self._ended = True

    # -- what happened

    def note(
        self,
        what: str,
        *,
        caller: str = "",
        mission: str = "",
        function: str = "",
        outcome: str = "",
        span_ms: int = 0,
        count: int = 1,
        note: str = "",
    ) -> None:
        """One entry. `what`: as in store/audit.py."""
        self._woken.set()
        if self._ended or len(self._queue) >= QUEUE_MAX:
            self.lost_count += 1
            return
        text = (caller, mission[:_TEXT_CHARS], function[:_TEXT_CHARS], outcome)
        times = (self._clock(), time.monotonic())
        self._queue.append((times, what, text, span_ms, count, note[:_NOTE_CHARS]))

    def refused(self, caller: str, mission: str, function: str, outcome: str) -> None:
        """A call was not let in: the first of its kind is an entry, the others are counted."""
        kind = (caller, mission[:_TEXT_CHARS], function[:_TEXT_CHARS], outcome)
        if kind not in self._refused and len(self._refused) >= KINDS_MAX:
            kind = _OTHERS
        known = self._refused.get(kind)
        if known is None:
            self._refused[kind] = (trio.current_time(), 0)
            self.note("refused", caller=caller, mission=mission, function=function, outcome=outcome)
        else:
            self._refused[kind] = (known[0], known[1] + 1)

    def _count_refused(self) -> None:
        """Kinds whose time is over: how many there were besides the first."""
        now = trio.current_time()
        for kind, (since, count) in list(self._refused.items()):
            if now - since >= SAMPLE_S:
                del self._refused[kind]
                if count:
                    caller, mission, function, outcome = kind
                    self.note(
                        "refused",
                        caller=caller,
                        mission=mission,
                        function=function,
                        outcome=outcome,
                        count=count,
                    )

    # -- writing

    async def flush(self) -> None:
        """Write what waits; returns when it is on disk, or lost."""
        self._count_refused()
        async with self._lock:
            if self._ended or (not self._queue and not self.lost_count):
                return
            waiting = list(self._queue)
            self._queue.clear()
            lost, self.lost_count = self.lost_count, 0
            try:
                await trio.to_thread.run_sync(self._write, waiting, lost)
            except OSError as error:
                self.lost_count += lost + len(waiting)
                _log.error("audit_failed what=%s entries_lost=%d", error, self.lost_count)
            else:
                self.written_count += len(waiting)

    def _write(self, waiting: list[_Waiting], lost: int) -> None:
        self._open()
        if lost:
            what = "entries were lost: the card failed, or it was too slow"
            waiting.append(self._damaged(what, lost))
        first = self._log.next_sequence
        self._log.append([self._entry(first + place, each) for place, each in enumerate(waiting)])
        self._log.sync()

    def _open(self) -> None:
        """Before the first use: a node of which nobody was granted anything has no log."""
        if self._opened:
            return
        cut = self._log.open()
        self._opened = True
        if cut:
            _log.warning("audit_cut what=%s, going on before it", cut)
            waiting = self._damaged(f"cut off, it cannot be read: {cut}", 1)
            self._log.append([self._entry(self._log.next_sequence, waiting)])

    def _damaged(self, note: str, count: int) -> _Waiting:
        return ((self._clock(), time.monotonic()), "damaged", ("", "", "", ""), 0, count, note)

    def _entry(self, sequence: int, waiting: _Waiting) -> Entry:
        (unix_s, up_s), what, (caller, mission, function, outcome), span_ms, count, note = waiting
        return Entry(
            sequence=sequence,
            unix_s=float(unix_s),
            up_s=up_s,
            boot=self._boot,
            what=what,
            caller=caller,
            mission=mission,
            function=function,
            outcome=outcome,
            span_ms=span_ms,
            count=count,
            note=note,
        )

    # -- for the operator

    async def read(
        self, mission: str = "", since_s: float | None = None, count_max: int = 1_000
    ) -> list[dict[str, object]]:
        """Entries of a mission ("": all), the last `count_max` of the last `since_s` seconds.

        Seconds are counted by the machine's clock, as the entries' `unix_s` are.
        """
        if not isinstance(count_max, int) or not 0 < count_max <= READ_MAX:
            raise RemoteError("badarg", f"count_max is 1 to {READ_MAX}")
        await self.flush()
        after = self._clock() - since_s if since_s is not None else float("-inf")
        async with self._lock:
            return await trio.to_thread.run_sync(partial(self._read, mission, after, count_max))

    def _read(self, mission: str, after: float, count_max: int) -> list[dict[str, object]]:
        self._open()
        found: deque[Entry] = deque(maxlen=count_max)
        for entry in self._log.read():
            if entry.unix_s >= after and mission in ("", entry.mission):
                found.append(entry)
        return [asdict(entry) for entry in found]

    async def verify(self, remembered: str = "") -> dict[str, object]:
        """`{"good", "hash", "entries", "broken", "remembered"}`; `hash` stands for all up to now.

        `remembered`: a `hash` of an earlier answer; whether it is still there, None without one.
        """
        try:
            digest = bytes.fromhex(remembered)
        except (ValueError, TypeError):
            raise RemoteError("badarg", "remembered is a hash that verify gave") from None
        await self.flush()
        async with self._lock:
            broken, found = await trio.to_thread.run_sync(self._verify, digest)
        where = f"{broken.path.name} at byte {broken.offset}: {broken.why}" if broken else ""
        return {
            "good": broken is None,
            "hash": self._log.last_hash.hex(),
            "entries": self._log.next_sequence - 1,
            "broken": where,
            "remembered": found if digest else None,
        }

    def _verify(self, digest: bytes) -> tuple[Broken | None, bool]:
        self._open()
        return self._log.verify(), bool(digest) and self._log.has(digest)
