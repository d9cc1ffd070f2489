"""Candidates: addresses at which some node may answer, as discovery offers them.

Decides which hints pass. Anybody on the network can make hints up, by the thousand, so:

- none of our own instance (multicast loops back), none twice within a window;
- at most CANDIDATES_PER_WINDOW_MAX in any CANDIDATE_WINDOW_S: 112,800 forged candidates in 6 s must
  cost the daemon no more than 64 do;
- at most CANDIDATES_PER_ORIGIN_MAX of those from one sender, so that one flooding machine leaves
  three quarters of the window to the others.

The window slides: an entry leaves it at its own deadline, and only what passed is remembered, so
the memory is the window itself. A node that announces itself again later passes again: a fresh
hint is worth a dial. Used on both sides, by the discovery process and by the daemon, which does not
trust that process. A candidate is never taken back: a goodbye is as easily forged as a greeting.

Ideas rejected: a random sample of each window (fairer under forged senders, but it delays every
honest candidate to the end of the window); a penalty for senders (senders are forged freely).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from drupelet.wire import limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One address at which a node may answer.

    `source` is "mdns", "static", "gossip", "mapper" or "registry"; `host` a literal address, with
    ``%scope`` when it is link-local; `port` 1 to 65,535; `name` the node's label, may be empty;
    `key_prefix` the first 16 base32 characters of its key, empty when the source does not know it.
    """

    source: str
    host: str
    port: int
    name: str
    key_prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateStatistics:
    """What became of the candidates that were received."""

    passed_count: int
    own_count: int
    repeated_count: int
    over_window_count: int
    over_origin_count: int


class CandidateWindow:
    """Decision machine: candidates in, the few that may go on out. It has no timers."""

    __slots__ = (
        "_counts",
        "_effects",
        "_origins",
        "_own_key_prefix",
        "_passed",
    )

    def __init__(self, own_key_prefix: str) -> None:
        self._own_key_prefix = own_key_prefix
        # (key prefix, host, port) -> (deadline, origin), in order of deadline: the span is fixed
        self._passed: dict[tuple[str, str, int], tuple[float, str]] = {}
        self._origins: Counter[str] = Counter()
        self._effects: list[Candidate] = []
        self._counts: Counter[str] = Counter()

    def receive(self, origin: str, candidate: Candidate, now: float) -> None:
        """Take one candidate that `origin` sent; "" when that is not known (and not limited)."""
        self._expire(now)
        verdict = self._judge(origin, candidate)
        self._counts[verdict] += 1
        if verdict != "passed":
            return
        key = (candidate.key_prefix, candidate.host, candidate.port)
        self._passed[key] = (now + limits.CANDIDATE_WINDOW_S, origin)
        self._origins[origin] += 1
        self._effects.append(candidate)

    def take_effects(self) -> list[Candidate]:
        """The candidates that passed since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def next_timer(self) -> float:
        """Never: the window is only looked at when a candidate comes."""
        return math.inf

    def statistics(self) -> CandidateStatistics:
        """Counts since the start."""
        counts = self._counts
        return CandidateStatistics(
            passed_count=counts["passed"],
            own_count=counts["own"],
            repeated_count=counts["repeated"],
            over_window_count=counts["over_window"],
            over_origin_count=counts["over_origin"],
        )

    def _judge(self, origin: str, candidate: Candidate) -> str:
        if candidate.key_prefix == self._own_key_prefix:
            return "own"
        if (candidate.key_prefix, candidate.host, candidate.port) in self._passed:
            return "repeated"
        if len(self._passed) >= limits.CANDIDATES_PER_WINDOW_MAX:
            return "over_window"
        if origin and self._origins[origin] >= limits.CANDIDATES_PER_ORIGIN_MAX:
            return "over_origin"
        return "passed"

    def _expire(self, now: float) -> None:
        while self._passed:
            key = next(iter(self._passed))
            deadline, origin = self._passed[key]
            if now < deadline:
                return
            del self._passed[key]
            self._origins[origin] -= 1
            if not self._origins[origin]:
                del self._origins[origin]
