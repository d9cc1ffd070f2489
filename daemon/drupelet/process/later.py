"""Messages that are sent later: `send_after`, `cancel_timer`, `read_timer`.

Decides what happens when one is due: it goes to whoever has the pid or the name then; nobody waits
for room in a full mailbox, so there it is dropped and counted. A timer whose receiver, a process
of this runtime, has ended is over: as in OTP, nobody is told that seconds are left.

Rule: what could not be sent is refused when it is asked for, in the sender.
Reference: `erlang:send_after/3`.
"""

from __future__ import annotations

import contextlib
from math import inf
from typing import cast

import trio

from drupelet.errors import MailboxFull, NotSendable, ProcessDown
from drupelet.process.data import copy_data
from drupelet.process.nodes import Nodes
from drupelet.process.table import BLOCK, Process
from drupelet.process.timers import Entry, Timers, check_seconds
from drupelet.wire.codec import dumps
from drupelet.wire.ids import Pid, ProxyPid, Ref
from drupelet.wire.limits import TIMERS_MAX
from drupelet.wire.messages import processes as wire

To = Pid | ProxyPid | str | tuple[str, str]
Place = Pid | ProxyPid | tuple[str, str]  # elsewhere


class Later(Nodes):
    """A runtime's timers."""

    def __init__(self) -> None:
        super().__init__()
        self.timers = Timers()
        self.sends_due: dict[Ref, tuple[Entry, To]] = {}

    def target(self, to: To) -> Process | Place:
        """Where `to` is: a process here, or an address elsewhere."""
        raise NotImplementedError

    def transmit_message(
        self, kind: int, sender: Pid, place: Place, ref: int, message: object
    ) -> None:
        """A message or request to elsewhere."""
        raise NotImplementedError

    def send_after(self, seconds: float, to: To, message: object) -> Ref:
        """A message to `to` after so many seconds. Raises: `ValueError` for less than 0, or inf."""
        seconds = check_seconds(seconds)
        if not 0 <= seconds < inf:
            raise ValueError(f"a message can be sent in 0 seconds or more, not in {seconds:g}")
        if len(self.sends_due) >= TIMERS_MAX:
            raise MailboxFull(f"{TIMERS_MAX:,} messages wait for their time already")
        message = copy_data(message)
        with contextlib.suppress(ProcessDown):  # a name may come until then
            if not isinstance(self.target(to), Process):
                dumps(message)
        ref = self.ref(self.new_ref())

        def fire() -> None:
            self.sends_due.pop(ref, None)
            self._send_due(to, message)

        self.sends_due[ref] = (self.timers.add(trio.current_time() + seconds, fire), to)
        return ref

    def _send_due(self, to: To, message: object) -> None:
        try:
            target = self.target(to)
        except ProcessDown:
            return
        if not isinstance(target, Process):
            place = target
            try:
                self.transmit_message(wire.SEND, self.pid, place, 0, message)
            except NotSendable:  # too large: its receiver was one of this runtime when it was set
                self.dropped_count += 1
            return
        receiver = target
        if receiver.exiting:
            return
        if not self.full(receiver, message):
            self.put(receiver, message)
        elif receiver.policy != BLOCK:
            self.overflow(receiver, message)
        else:
            receiver.dropped_count += 1

    def timer_left(self, ref: Ref) -> float | None:
        """Seconds until a `send_after` is due; None when it is over."""
        entry, to = self.sends_due.get(ref, (None, ""))
        if entry is None:
            return None
        if isinstance(to, Pid) and self.is_local(to) and self.find(to) is None:
            del self.sends_due[ref]
            self.timers.cancel(entry)
            return None
        return max(cast(float, entry[0]) - trio.current_time(), 0.0)

    def cancel_timer(self, ref: Ref) -> float | None:
        """It is not sent any more; the seconds that were left, None when it was over."""
        left = self.timer_left(ref)
        if left is not None:
            entry, _ = self.sends_due.pop(ref)
            self.timers.cancel(entry)
        return left
