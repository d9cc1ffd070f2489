"""Delivery: how a message comes into a mailbox and out of it.

Decides who gets a message at once, what happens when a mailbox is full (the policies are in
table.py), and who may go on when there is room again. A part of the kernel: synchronous and whole.

Rules
- A message that its receiver waits for is never kept out: a mailbox full of others would otherwise
  lock both for ever. So a local sender that waits for room is parked with its message, and a
  selective receive looks at the parked after the mailbox; from elsewhere, WAITED more are taken.
- Only a pattern of plain data is tried where the sender is; one with the author's code in it wakes
  the receiver, which looks itself.
- The parked come in by themselves, in the order in which they were parked.

Rejected: waking a parked sender to try again (it would lose its place to whoever runs first).
"""

from __future__ import annotations

from collections import deque
from typing import Final

from drupelet.process import patterns
from drupelet.process.table import BLOCK, DROP_OLD, EXIT, SLACK, WAITED, Process
from drupelet.wire.codec import dumps
from drupelet.wire.ids import Pid, in_order, make_pid
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import encode_signal
from drupelet.wire.notices import Down, Exit, NodeDown, NodeUp

LOOK: Final = object()  # woken to look into the mailbox itself; as a message: any

_NOTICES: Final = frozenset({Down, Exit, NodeUp, NodeDown})


class Parked:
    """A message of this runtime that waits for room. `task`: woken when it came in; or None."""

    __slots__ = ("message", "sender", "task")

    def __init__(self, task: object, message: object, sender: object) -> None:
        self.task = task
        self.message = message
        self.sender = sender


class Mailboxes:
    """The kernel's part for messages."""

    node: str

    # -- hooks

    def wake(self, task: object, value: object) -> None:
        """Let a waiting task go on with `value`."""
        raise NotImplementedError

    def transmit(self, signal: bytes) -> None:
        """One signal to another runtime or node."""
        raise NotImplementedError

    def exit_process(self, process: Process, reason: object) -> None:
        """It has to end."""
        raise NotImplementedError

    def relate(self, process: Process, pid: Pid) -> None:
        """Remember whom to tell when that node or runtime goes."""
        raise NotImplementedError

    # -- in

    def put(self, process: Process, message: object, sender: object = None) -> None:
        """Append to a mailbox, whatever its limit; or hand over to a receiver that wants it.

        `sender`: its process or pid, for who traces.
        """
        if process.tracers is not None:
            self.trace(process, "receive", message, sender)
        task = process.waiting
        if task is not None:
            wanted = process.wanted
            if wanted is None or (not process.wants_code and patterns.fits(wanted, message)):
                process.waiting = None
                process.received_count += 1
                self.wake(task, message)
                return
            if process.wants_code:
                process.waiting = None
                self.wake(task, LOOK)
        messages = process.messages
        if messages is None:
            messages = process.messages = deque()
        messages.append(message)

    def full(self, process: Process, message: object = LOOK) -> bool:
        """Whether the next message meets the policy; one that is waited for never does."""
        if process.messages is None or len(process.messages) < process.limit:
            return False
        return (
            process.waiting is None
            or message is LOOK
            or process.wants_code
            or not patterns.fits(process.wanted, message)
        )

    def overflow(self, process: Process, message: object, sender: object = None) -> None:
        """A message for a full mailbox whose policy is not to block."""
        if process.policy == EXIT:
            self.exit_process(process, "mailbox_full")
            return
        process.dropped_count += 1
        if process.policy == DROP_OLD and self._drop_oldest(process):
            self.put(process, message, sender)

    @staticmethod
    def _drop_oldest(process: Process) -> bool:
        """Make room, but never of a notice: a Down comes exactly once."""
        messages = process.messages
        assert messages is not None
        for index, message in enumerate(messages):
            if message.__class__ not in _NOTICES:
                del messages[index]
                if index < process.looked:
                    process.looked -= 1
                return True
        return False

    # -- out

    def take(self, process: Process, pattern: object, start: int = 0) -> object:
        """The first message that fits, removed; LOOK when none does. Raises what `pattern` does."""
        messages = process.messages
        if not messages:
            return LOOK
        if pattern is None:
            message = messages.popleft()
            index = 0
        else:
            for index in range(start, len(messages)):
                message = messages[index]
                if patterns.fits(pattern, message):
                    del messages[index]
                    break
            else:
                return self._take_parked(process, pattern) if process.senders else LOOK
        if index < process.looked:
            process.looked -= 1
        process.received_count += 1
        if process.senders or process.silenced:
            self._made_room(process)
        return message

    def _take_parked(self, process: Process, pattern: object) -> object:
        """The message of a sender that waits for room, when it is one that is waited for."""
        assert process.senders is not None
        for index, parked in enumerate(process.senders):
            message = parked.message
            if patterns.fits(pattern, message):
                del process.senders[index]
                if process.tracers is not None:
                    self.trace(process, "receive", message, parked.sender)
                process.received_count += 1
                if parked.task is not None:
                    self.wake(parked.task, None)
                return message
        return LOOK

    def _made_room(self, process: Process) -> None:
        length = len(process.messages or ())
        while process.senders and length < process.limit:
            parked = process.senders.popleft()
            self.put(process, parked.message, parked.sender)
            if parked.task is not None:
                self.wake(parked.task, None)
            length += 1
        if process.silenced and length <= process.limit // 2:
            self._unsilence(process)

    def park(self, process: Process, parked: Parked) -> None:
        """Wait for room in this mailbox."""
        if process.senders is None:
            process.senders = deque()
        process.senders.append(parked)
        task = process.waiting
        if task is not None and process.wants_code:
            process.waiting = None
            self.wake(task, LOOK)

    def release_senders(self, process: Process) -> None:
        """Nobody waits for room any more: it ends."""
        senders, process.senders = process.senders, None
        for parked in senders or ():
            if parked.task is not None:
                self.wake(parked.task, None)

    # -- from elsewhere

    def deliver(self, process: Process, message: object, sender: Pid) -> None:
        """A message or request from elsewhere, which cannot wait."""
        if not self.full(process, message):
            self.put(process, message, sender)
            return
        if process.policy != BLOCK:
            self.overflow(process, message, sender)
            return
        assert process.messages is not None
        above = len(process.messages) - process.limit
        if process.waiting is None or above >= WAITED:
            serial_base = sender.number & ~wire.COUNT_MASK
            self._silence(process, make_pid(sender.node, sender.incarnation, serial_base))
        if above >= SLACK:
            process.dropped_count += 1
        else:
            self.put(process, message, sender)

    def waits(self, process: Process) -> None:
        """It goes to wait with messages in its mailbox: what it waits for may be held back."""
        assert process.messages is not None
        if process.silenced and len(process.messages) < process.limit + WAITED:
            self._unsilence(process)

    def _silence(self, process: Process, sender_runtime: Pid) -> None:
        """A runtime elsewhere fills a mailbox that blocks."""
        if process.silenced is None:
            process.silenced = set()
        if sender_runtime not in process.silenced:
            process.silenced.add(sender_runtime)
            self.relate(process, sender_runtime)  # when it comes back it does not know any more
            self._tell_pause(process, sender_runtime)

    def _tell_pause(self, process: Process, sender_runtime: Pid) -> None:
        names = [[name, self.node] for name in process.names or ()]
        self.transmit(encode_signal(wire.PAUSE, sender_runtime, process.pid, 0, dumps(names)))

    def named(self, process: Process) -> None:
        """It has one more name: who is to hold back does so for that too."""
        for runtime in in_order(process.silenced or ()):
            self._tell_pause(process, runtime)

    def _unsilence(self, process: Process) -> None:
        silenced, process.silenced = process.silenced, None
        for runtime in in_order(silenced or ()):
            self.transmit(encode_signal(wire.RESUME, runtime, process.pid))

    # -- tracing

    @staticmethod
    def trace(process: Process, kind: str, message: object, peer: object = None) -> None:
        """Tell the tracers. `peer`: a process, a pid, a name."""
        if peer.__class__ is Process:
            peer = peer.pid
        for tracer in process.tracers or ():
            tracer(process.pid, kind, message, peer)


__all__ = ["LOOK", "Mailboxes", "Parked"]
