"""What a state machine does next: its events, those that it put off, and its timeouts.

Decides the order that OTP's gen_statem has. After each event, in this order:

1. the event is put off, when the state function said so;
2. after a change of state what was put off comes first again, the oldest first; the state timeout
   is cancelled; an event timeout is cancelled after any event;
3. inserted events (`next_event`) come before all others;
4. timeouts are set, restarted, updated or cancelled, in the order in which that was said. One of
   0 s comes after the events that are here already, and before any that is still in the mailbox.

Events that are put off are at most as many as the mailbox holds. Then the mailbox's policy decides:
"exit" ends the machine, "drop_old" drops the oldest one, else the new one is dropped; a dropped
call is answered ("overloaded"), all are counted.

References: `gen_statem`, transition_option() and event_timeout(); `gen_statem.erl` (loop_done,
t0q).
Rejected: leaving them in the mailbox (who sends what the machine waits for would be kept out).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from math import inf, isnan
from typing import Any, Final, NamedTuple

import trio

from drupelet.process.api import Caller
from drupelet.process.errands import Errand
from drupelet.process.table import DROP_OLD, EXIT, Process
from drupelet.process.timers import Entry
from drupelet.wire.limits import INSERTED_EVENTS_MAX, STATE_TIMEOUTS_MAX

_log = logging.getLogger("drupelet.process")

CALL: Final = "call"
EVENT_TIMEOUT: Final = "timeout"
STATE_TIMEOUT: Final = "state_timeout"

Kind = str | tuple[str, Any]


class Event(NamedTuple):
    """What a state function gets: its kind, its content, and for a call who asked."""

    kind: Kind
    content: Any
    caller: Caller | None = None
    errand: Errand | None = None  # what it came by, where its asker may take it back


class Due:
    """A timeout of this machine; a message to itself, of no data, so nobody else can send it."""

    __slots__ = ("content", "entry", "kind")

    def __init__(self, kind: Kind, content: object) -> None:
        self.kind = kind
        self.content = content
        self.entry: Entry | None = None  # None: it was due at once

    def __repr__(self) -> str:
        return f"<timeout {self.kind!r}>"


class Step:
    """What a state function asked for; done when it returned."""

    __slots__ = ("inserted", "postponed", "taken", "timeouts")

    def __init__(self) -> None:
        self.postponed = False
        self.taken = False  # somebody answers, or keeps the caller
        self.inserted: list[Event] = []
        self.timeouts: list[Callable[[EventQueue], None]] = []

    @property
    def empty(self) -> bool:
        """Whether it asked for nothing."""
        return not (self.postponed or self.taken or self.inserted or self.timeouts)


class EventQueue:
    """The events and timeouts of one machine. `refuse(caller)` answers a call that is dropped."""

    def __init__(self, process: Process, refuse: Callable[[Caller], None]) -> None:
        self._process = process
        self._runtime: Any = process.runtime
        self._refuse = refuse
        self._events: deque[Event] = deque()
        self._postponed: list[Event] = []  # an empty deque has 620 bytes
        self._timeouts: dict[Kind, Due] = {}
        self._at_once: list[Due] = []

    def __len__(self) -> int:
        return len(self._events)

    @property
    def postponed_count(self) -> int:
        """How many events are put off."""
        return len(self._postponed)

    def take(self) -> Event | None:
        """The next event; None: the mailbox has it."""
        if self._events:
            return self._events.popleft()
        if self._at_once:
            return self.take_due(self._at_once[0])
        return None

    def take_due(self, due: Due) -> Event | None:
        """The event of a timeout; None when it was cancelled meanwhile."""
        if self._timeouts.get(due.kind) is not due:
            return None
        self._forget(due)
        return Event(due.kind, due.content)

    def finish(self, event: Event | None, step: Step, changed: bool) -> None:
        """The end of one step; see the top of this file. `event`: None at the start."""
        if step.postponed and event is not None:
            self._postpone(event)
        if changed:
            self._events.extendleft(reversed(self._postponed))
            self._postponed.clear()
            self.cancel(STATE_TIMEOUT)
        self.cancel(EVENT_TIMEOUT)
        self._events.extendleft(reversed(step.inserted))
        if len(self._events) > INSERTED_EVENTS_MAX + self._process.limit:
            raise RuntimeError(f"more than {INSERTED_EVENTS_MAX:,} inserted events wait")
        for action in step.timeouts:
            action(self)

    def _postpone(self, event: Event) -> None:
        postponed, process = self._postponed, self._process
        if len(postponed) < process.limit:
            postponed.append(event)
            return
        if process.policy == EXIT:
            self._runtime.exit_process(process, "mailbox_full")
            return
        if not process.dropped_count:
            _log.warning(
                "postponed_full pid=%s put off %d events already, dropping those that are too many",
                process.pid,
                process.limit,
            )
        process.dropped_count += 1
        if process.policy == DROP_OLD:
            postponed.append(event)
            event = postponed.pop(0)
        if event.caller is not None:
            self._refuse(event.caller)

    # -- timeouts

    def set(self, kind: Kind, seconds: float, content: object) -> None:
        """Set or restart a timeout; `inf` cancels it."""
        self.cancel(kind)
        if seconds == inf:
            return
        if len(self._timeouts) >= STATE_TIMEOUTS_MAX:
            raise RuntimeError(f"a state machine has at most {STATE_TIMEOUTS_MAX:,} timeouts")
        due = self._timeouts[kind] = Due(kind, content)
        if seconds <= 0:
            self._at_once.append(due)
            return
        runtime, process = self._runtime, self._process
        deadline = trio.current_time() + seconds
        due.entry = runtime.timers.add(deadline, lambda: runtime.put(process, due))

    def update(self, kind: Kind, content: object) -> None:
        """Another content for a timeout that runs; without one it is due at once, as in OTP."""
        due = self._timeouts.get(kind)
        if due is None:
            self.set(kind, 0, content)
        else:
            due.content = content

    def cancel(self, kind: Kind) -> None:
        """It does not come any more, even when it was due."""
        due = self._timeouts.get(kind)
        if due is not None:
            self._forget(due)
            if due.entry is not None and not self._runtime.timers.cancel(due.entry):
                self._runtime.take(self._process, lambda message: message is due)

    def cancel_all(self) -> None:
        """The machine ends."""
        for kind in list(self._timeouts):
            self.cancel(kind)

    def _forget(self, due: Due) -> None:
        del self._timeouts[due.kind]
        if due.entry is None:
            self._at_once.remove(due)


def check_seconds(seconds: float) -> float:
    """Raises: `ValueError` for what is no span of time."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or isnan(seconds):
        raise ValueError(f"a timeout is in seconds, not {seconds!r}")
    return seconds
