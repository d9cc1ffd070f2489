"""Ledger: what really happened, seen from above, and the rules that must hold.

Decides whether a run is good. Nothing here is known to the machines under test.

Invariants, checked all along
- node events of an observer alternate for each key: one `NodeDown` per `NodeUp`;
- a link on which nothing arrived for 5 s is gone, unless its owner was stopped meanwhile;
- a killed process is down within 100 ms and the way there at each observer with a clean path;
- before the first fault no node goes down;
- a call runs at most once, has exactly one outcome by its deadline, and its value is what the
  function gave;
- ``maybe_ran=False`` is never said of a call that ran or will run;
- tables stay within their limits.
And at the end, healed: every pair is linked by exactly one and the same link, calls work, and who
was declared dead and lived has been told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Final

from drupelet.core.effects import NodeDown, NodeUp

SILENCE_S: Final = 5.0  # NodeDown within this; SCENARIOS and feature 10
LATE_S: Final = 0.05  # an outcome after its deadline: scans of the table are 10 ms apart
CLOSE_S: Final = 0.1  # NodeDown after a close, beyond the network's own delay


class InvariantError(AssertionError):
    """The machines broke a rule; the run's seed replays it."""


@dataclass(slots=True, kw_only=True)
class CallRecord:
    """One call, as seen from above."""

    token: int
    caller: str
    callee: str
    deadline: float = inf  # in time seen from above
    runs: int = 0
    value: object = None
    outcomes: list[str] = field(default_factory=list)
    said_not_run: bool = False
    caller_gone: bool = False


class Ledger:
    """Everything that was observed in one run."""

    def __init__(self) -> None:
        self.calls: dict[int, CallRecord] = {}
        self.open: dict[int, CallRecord] = {}  # those without an outcome
        self._up: dict[tuple[int, bytes], int] = {}  # (observer's start, key) -> incarnation
        self.ups = 0
        self.downs = 0
        self.told = 0
        # (observer's start, key, incarnation) declared dead and not told yet
        self.untold: dict[tuple[int, bytes, int], float] = {}

    def event(self, observer: int, effect: NodeUp | NodeDown, now: float) -> None:
        """An observer (named by its incarnation) saw a node come or go."""
        where = (observer, effect.key)
        known = self._up.get(where)
        if isinstance(effect, NodeUp):
            self.ups += 1
            require(known is None, f"NodeUp({effect.name}) twice")
            self._up[where] = effect.incarnation
            return
        self.downs += 1
        require(known == effect.incarnation, f"NodeDown({effect.name}) without its NodeUp")
        del self._up[where]
        if effect.reason == "down":
            self.untold[observer, effect.key, effect.incarnation] = now

    def declared(self, observer: int, key: bytes, incarnation: int) -> None:
        """The start `incarnation` of `key` was told that `observer` had declared it dead."""
        self.told += 1
        self.untold.pop((observer, key, incarnation), None)

    def opened(self, token: int, caller: str, callee: str, deadline: float = inf) -> None:
        """A program makes a call."""
        record = CallRecord(token=token, caller=caller, callee=callee, deadline=deadline)
        self.calls[token] = self.open[token] = record

    def ran(self, token: int, value: object) -> None:
        """The function ran for this call."""
        record = self.calls[token]
        record.runs += 1
        record.value = value
        require(record.runs == 1, f"call {token} ran {record.runs} times")
        require(not record.said_not_run, f"call {token} ran after its caller was told it did not")

    def outcome(
        self, token: int, kind: str, *, maybe_ran: bool = True, value: object = None
    ) -> None:
        """The program was told what became of its call."""
        record = self.calls[token]
        record.outcomes.append(kind)
        self.open.pop(token, None)
        require(len(record.outcomes) == 1, f"call {token} ended twice: {record.outcomes}")
        if kind == "value":
            require(record.runs == 1, f"call {token} has a value and never ran")
            require(value == record.value, f"call {token} got {value!r}, not {record.value!r}")
        elif not maybe_ran:
            record.said_not_run = True
            require(record.runs == 0, f"call {token} ran; its caller was told it did not")

    def caller_gone(self, caller: str) -> None:
        """A process ended; its calls need no outcome any more."""
        for record in list(self.open.values()):
            if record.caller == caller:
                record.caller_gone = True
                del self.open[record.token]

    def check_deadlines(self, caller: str, now: float) -> None:
        """A caller that was awake has told each of its programs in time."""
        for record in self.open.values():
            require(
                record.caller != caller or now <= record.deadline + LATE_S,
                f"call {record.token} of {caller} is {now - record.deadline:.3f} s late",
            )

    def close(self) -> None:
        """At the end: no call is left without an outcome."""
        for record in self.calls.values():
            require(
                bool(record.outcomes) or record.caller_gone,
                f"call {record.token} of {record.caller} to {record.callee} has no outcome",
            )


def require(holds: bool, what: str) -> None:
    """Raises: `InvariantError` unless it holds."""
    if not holds:
        raise InvariantError(what)
