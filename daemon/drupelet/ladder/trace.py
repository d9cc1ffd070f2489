"""Trace: everything that happened in a simulated cluster, in order.

Decides what is noted, for the message diagram of a lesson, for tests that see inside, and for the
hash that tells whether two runs were the same. A `Message` is noted when it is sent, and its
arrival when it arrives; one that never does has ``arrived_s`` None.

References: OTP's sequential tracing (`seq_trace`) and `et_viewer`, which draws such diagrams.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from typing import Final

import trio

from drupelet.wire.ids import Pid

Address = Pid | tuple[str, str]

EVENTS_MAX: Final = 100_000  # kept of one run; the hash goes on


@dataclass(slots=True)
class Message:
    """`kind`: "send", "ask", "reply", "exit", "down", "link", "monitor", "spawn"... `what` is what
    a program would see: the message, the request, the reason. `receiver` is as it was addressed,
    `taker` the process that got it: None until then, and when nobody was there."""

    kind: str
    sender: Pid
    receiver: Address
    what: object
    sent_s: float
    arrived_s: float | None = None
    taker: Pid | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """`kind`: "start" and "end" of a process (`where` its pid), "up" and "down" of the node `what`
    as seen at `where`, or a fault."""

    kind: str
    where: Pid | str
    what: object
    at_s: float


class Trace:
    """Notes of one run."""

    def __init__(self) -> None:
        self.entries: list[Message | Event] = []
        self.left_off = 0
        self.is_closed = False  # the program is over: what ends now ends with it
        self._under_way: dict[object, deque[Message]] = {}
        self._digest = hashlib.sha256()

    def message(self, kind: str, sender: Pid, receiver: Address, what: object) -> Message:
        """A message was sent."""
        entry = Message(kind, sender, receiver, what, trio.current_time())
        self._note(entry, f"{entry.sent_s!r} {kind} {sender} {receiver} {what!r}")
        return entry

    def under_way(self, key: object, message: Message) -> None:
        """It arrives when `arrived(key)` says so: equal keys in order."""
        self._under_way.setdefault(key, deque()).append(message)

    def arrived(self, key: object, taker: Pid | None) -> bool:
        """The next message of that key arrived, at `taker`; was there one?"""
        waiting = self._under_way.get(key)
        if not waiting:
            return False
        message = waiting.popleft()
        if not waiting:
            del self._under_way[key]
        self.delivered(message, taker)
        return True

    def delivered(self, message: Message, taker: Pid | None) -> None:
        """That message arrived."""
        if self.is_closed:
            return
        message.taker = taker
        message.arrived_s = now = trio.current_time()
        self._digest.update(f"{now!r} arrived {message.kind} {message.receiver}".encode())

    def event(self, kind: str, where: Pid | str, what: object = None) -> None:
        """Something else happened."""
        entry = Event(kind, where, what, trio.current_time())
        self._note(entry, f"{entry.at_s!r} {kind} {where} {what!r}")

    def _note(self, entry: Message | Event, line: str) -> None:
        if self.is_closed:
            return
        self._digest.update(line.encode())
        if len(self.entries) < EVENTS_MAX:
            self.entries.append(entry)
        else:
            self.left_off += 1

    def hash(self) -> str:
        """16 hex digits over everything."""
        return self._digest.hexdigest()[:16]
