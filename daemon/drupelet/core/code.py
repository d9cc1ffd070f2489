"""Shipped code: which version of a mission's code a node runs, and which one comes next.

Decides, for each mission, whether a bundle that comes replaces what is there, whether the
operator's own file wins over it, and the sequence number of the next one. The bytes are
`wire/bundles.py`, the files `store/code.py`.

Rules
- Versions of a mission are ordered by (sequence, digest): every node that saw the same bundles runs
  the same code, in whatever order they came. The shipper takes a number above all that it and the
  connected members know, so a second shipping wins over the first; of two at the same moment the
  larger digest wins everywhere, and the other shipper is told.
- A bundle that came before, or is older, is refused: nobody brings old code back by sending it
  again.
- The operator's file wins. A version remembers the digest of the files that it took the place of;
  when those have another one now, somebody edited them, and the version is dropped.
- One version per mission is kept on disk; the worker keeps two in memory (worker/versions.py).
- At most SHIPPED_MISSIONS_MAX missions have shipped code.

References: Lamport, "Time, clocks, and the ordering of events" (1978); Erlang's `code` server;
OTP's `c:nl/1`, which has no order: the last message to arrive wins, on each node another one.
Rejected: wall clocks as order (a Pi has none); shipping to nodes that come later (a node that was
away would change its code by coming back; `nl` again does it when a person wants it).
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from drupelet.wire.bundles import Bundle, sources_of
from drupelet.wire.limits import SHIPPED_MISSIONS_MAX

DIGEST_BYTES: Final = 16  # BLAKE2b, as a worker's hello has it
NO_FILES: Final = b""  # the digest of the operator's files where there are none


def code_digest(sources: Sequence[bytes]) -> bytes:
    """The digest of a mission's code: of its sources, one after the other."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for source in sources:
        digest.update(source)
    return digest.digest()


def bundle_digest(bundle: Bundle) -> bytes:
    """The digest of a bundle's code."""
    return code_digest(sources_of(bundle))


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a mission's code that was shipped here.

    `replaced`: the digest of the operator's files that it took the place of, or NO_FILES.
    """

    mission: str
    sequence: int
    digest: bytes
    shipper: bytes
    replaced: bytes


class Verdict(enum.Enum):
    """What to do with a bundle that came."""

    LOAD = "load"
    KNOWN = "known"  # it runs already
    STALE = "stale"  # a newer one does
    FULL = "full"


class Code:
    """The shipped versions of one node."""

    def __init__(self) -> None:
        self._current: dict[str, Version] = {}

    def current(self, mission: str) -> Version | None:
        """The shipped version that the mission runs; None: the operator's files, or nothing."""
        return self._current.get(mission)

    def versions(self) -> list[Version]:
        """All of them, by mission."""
        return [self._current[mission] for mission in sorted(self._current)]

    def judge(self, mission: str, sequence: int, digest: bytes) -> Verdict:
        """A bundle came. After `LOAD` and its loading, tell `keep`."""
        current = self._current.get(mission)
        if current is None:
            return Verdict.FULL if len(self._current) >= SHIPPED_MISSIONS_MAX else Verdict.LOAD
        if (sequence, digest) == (current.sequence, current.digest):
            return Verdict.KNOWN
        if (sequence, digest) < (current.sequence, current.digest):
            return Verdict.STALE
        return Verdict.LOAD

    def keep(self, version: Version) -> None:
        """It was loaded and is durable."""
        self._current[version.mission] = version

    def drop(self, mission: str) -> None:
        """It is no longer there."""
        self._current.pop(mission, None)

    def file_wins(self, mission: str, files: bytes) -> Version | None:
        """The version to drop since the operator's files (their digest now: `files`) changed."""
        current = self._current.get(mission)
        return current if current is not None and current.replaced != files else None

    def next_sequence(self, mission: str, others: Iterable[int]) -> int:
        """The number of the next version; `others` are what other members have now."""
        current = self._current.get(mission)
        return max(current.sequence if current is not None else 0, *others, 0) + 1


__all__ = ["NO_FILES", "Code", "Verdict", "Version", "bundle_digest", "code_digest"]
