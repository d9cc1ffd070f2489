"""SeenRuntime: a real runtime that tells the trace what its processes do.

Decides what the trace shows. It changes nothing for the processes: each method notes and calls the
real one. What still runs in a runtime that has crashed reaches nobody, and is not noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from drupelet.ladder.trace import Trace
from drupelet.process.behaviours import shown_of
from drupelet.process.kernel import Target
from drupelet.process.runtime import Function, Runtime, To, function_name
from drupelet.process.table import DEFAULT_MAILBOX, Mailbox, Process
from drupelet.wire.codec import loads
from drupelet.wire.ids import Pid, Ref, make_pid
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import Signal, decode_signal

SHOWN: Final = {
    wire.SEND: "send",
    wire.LINK: "link",
    wire.UNLINK: "unlink",
    wire.EXIT: "exit",
    wire.EXIT_SENT: "exit",
    wire.MONITOR: "monitor",
    wire.DEMONITOR: "demonitor",
    wire.DOWN: "down",
    wire.ASK: "ask",
    wire.REPLY: "reply",
    wire.SPAWN: "spawn",
    wire.SPAWNED: "spawned",
}
_WITHOUT_VALUE: Final = frozenset({wire.SPAWN, wire.SPAWNED})  # their bodies are the runtimes' own


def _key(signal: Signal, *, named: bool) -> object:
    """What a signal is known by on its way. A daemon puts a pid where there was a name."""
    name = (True, signal.to_node) if named else signal[1:5]
    return (signal.kind, name, signal[5:])


class SeenRuntime(Runtime):
    """A runtime whose processes' doings are in a trace."""

    trace_to: Trace
    _shown: object = None

    @property
    def _is_seen(self) -> bool:
        return self.transport is None or getattr(self.transport, "is_alive", True)

    # -- between runtimes

    def transmit(self, signal: bytes) -> None:
        decoded = decode_signal(signal)[0]
        kind = SHOWN.get(decoded.kind)
        if kind is not None and self._is_seen:
            to: Pid | tuple[str, str] = (decoded.to_name, decoded.to_node)
            if not decoded.to_name:
                to = make_pid(decoded.to_node, decoded.to_incarnation, decoded.to_number)
            # not shown: what a runtime does for itself, or with its daemon
            own = decoded.kind == wire.DEMONITOR and not decoded.from_number & wire.COUNT_MASK
            if not own and (not isinstance(to, Pid) or to.number):
                has_value = decoded.body and decoded.kind not in _WITHOUT_VALUE
                what = loads(decoded.body) if has_value else None
                note = self.trace_to.message(kind, decoded.sender, to, what)
                self.trace_to.under_way(_key(decoded, named=bool(decoded.to_name)), note)
        super().transmit(signal)

    def receive_signal(self, signal: Signal) -> None:
        if self._is_seen and signal.kind in SHOWN:
            process = self._receiver(signal)
            taker = None if process is None else process.pid
            if not self.trace_to.arrived(_key(signal, named=False), taker):
                self.trace_to.arrived(_key(signal, named=True), taker)
        super().receive_signal(signal)

    # -- within one runtime

    def _local(self, kind: str, sender: Pid, receiver: Pid, what: object) -> None:
        if self._is_seen:
            note = self.trace_to.message(kind, sender, receiver, what)
            self.trace_to.delivered(note, receiver)

    async def send(self, process: Process | None, to: To, message: object) -> None:
        target = self.target(to)
        if not isinstance(target, Process):
            await super().send(process, to, message)
            return
        note = self.trace_to.message("send", self._own_pid(process), target.pid, message)
        await super().send(process, to, message)
        self.trace_to.delivered(note, target.pid)

    def send_or_raise(self, process: Process | None, to: To, message: object) -> None:
        super().send_or_raise(process, to, message)
        target = self.target(to)
        if isinstance(target, Process):
            self._local("send", self._own_pid(process), target.pid, message)

    def _send_due(self, to: To, message: object) -> None:
        place = self.names.get(to) if isinstance(to, str) else None
        receiver = place.pid if place is not None else to
        if isinstance(receiver, Pid) and self.find(receiver) is not None:
            self._local("timer", receiver, receiver, message)
        super()._send_due(to, message)

    def ask_local(
        self, process: Process, number: int, caller: Pid, request: object, *more: Any
    ) -> Any:
        self._local("ask", caller, process.pid, request)
        return super().ask_local(process, number, caller, request, *more)

    def reply(self, replier: Pid, caller: Pid, ref: Ref, value: object) -> None:
        if self.is_local(caller):
            self._local("reply", replier, caller, value)
        super().reply(replier, caller, ref, value)

    def link(self, process: Process, pid: Pid) -> None:
        if self.is_local(pid):
            self._local("link", process.pid, pid, None)
        super().link(process, pid)

    def monitor(self, process: Process, target: Target) -> Ref:
        if isinstance(target, Pid) and self.is_local(target):
            self._local("monitor", process.pid, target, None)
        return super().monitor(process, target)

    def exit_signal(self, process: Process, sender: Pid, reason: object) -> None:
        if self.is_local(sender) or reason == wire.NOCONNECTION:
            self._local("exit", sender, process.pid, reason)
        super().exit_signal(process, sender, reason)

    def exit_sent(self, process: Process, sender: Pid, reason: object) -> None:
        if self.is_local(sender):
            self._local("exit", sender, process.pid, reason)
        super().exit_sent(process, sender, reason)

    def down(self, process: Process, ref: Ref, target: Target, reason: object) -> None:
        node = target[1] if isinstance(target, tuple) else target.node
        if node == self.node or reason == wire.NOCONNECTION:
            pid = target if isinstance(target, Pid) else make_pid(node, 0, 0)
            self._local("down", pid, process.pid, reason)
        super().down(process, ref, target, reason)

    # -- lives

    def new_process(self, function: object, mailbox: Mailbox = DEFAULT_MAILBOX) -> Process:
        process = super().new_process(function, mailbox)
        if self._is_seen:
            shown, self._shown = self._shown or function, None
            self.trace_to.event("start", process.pid, function_name(shown))
        return process

    def start(self, function: Function, args: Sequence[object], **fields: Any) -> Process:
        self._shown = shown_of(function, args)  # of a GenServer: its class
        process = super().start(function, args, **fields)
        parent = fields.get("parent")
        if parent is not None and self.is_local(parent):
            self._local("spawn", parent, process.pid, None)
        return process

    def end(self, process: Process, reason: object) -> None:
        if process.pid.number in self.processes and self._is_seen:
            self.trace_to.event("end", process.pid, reason)
        super().end(process, reason)
