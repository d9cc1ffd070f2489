"""Signals from other runtimes and nodes: what each does here.

Decides nothing that `kernel.py` does not: finds the receiver (a pid of a former life is nobody),
answers for one that is not there, and ends every relation with a node or runtime that is gone.
Every body is a stranger's word until it is decoded: `RemoteProtocolError` for what is no value.

References: Erlang/OTP, "Distribution Protocol"; `erts/emulator/beam/dist.c` for which signal is
answered when its receiver is gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, cast

from drupelet.errors import RemoteProtocolError
from drupelet.process.kernel import SYSTEM_LIMIT, Kernel, Target
from drupelet.process.table import RELATIONS_MAX, Process
from drupelet.process.tracing import RemoteTracer
from drupelet.wire.codec import loads
from drupelet.wire.ids import Pid, ProxyPid, Ref, in_order, make_pid
from drupelet.wire.limits import PAUSED_MAX
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import (
    NOCONNECTION,
    NOPROC,
    Signal,
    decode_signal,
    encode_signal,
)
from drupelet.wire.notices import Request


class Incoming(Kernel):
    """A kernel that takes signals."""

    # -- hooks

    def system_request(self, signal: Signal) -> None:
        """A request to this runtime itself."""
        raise NotImplementedError

    def spawn_request(self, signal: Signal) -> None:
        """Another node wants a process started here."""
        raise NotImplementedError

    def spawn_answer(self, signal: Signal) -> None:
        """What came of a spawn elsewhere."""
        raise NotImplementedError

    def node_up(self, pid: Pid) -> None:
        """A node (number 0) or a runtime is there."""
        raise NotImplementedError

    def node_gone(self, pid: Pid, reason: object) -> None:
        """After every relation with it was ended."""
        raise NotImplementedError

    def group_signal(self, signal: Signal) -> None:
        """Process groups: see pg.py."""
        raise NotImplementedError

    # -- signals from elsewhere

    def receive_signal(self, signal: Signal) -> None:
        """One signal. Raises: `RemoteProtocolError` for a body that is no value."""
        self._handlers[signal.kind](self, signal)

    def answer_alone(self, data: bytes) -> None:
        """A signal of ours that no daemon takes: tell who linked or watches, as one would.

        Not for an ASK or a SPAWN: who sent it does not wait yet. See `Runtime.ask`.
        """
        signal, _ = decode_signal(data)
        kind = {wire.LINK: wire.EXIT, wire.MONITOR: wire.DOWN}.get(signal.kind)
        if kind is None:
            self.dropped_count += 1
            return
        reason = NOPROC if signal.to_node == self.node else NOCONNECTION
        self._answer(signal, kind, reason, self._loop_back)

    def _loop_back(self, data: bytes) -> None:
        self.receive_signal(decode_signal(data)[0])

    def _answer(
        self, signal: Signal, kind: int, reason: object, deliver: Callable[[bytes], None]
    ) -> None:
        """DOWN or EXIT for a receiver that is not there, or takes no more relations."""
        to = make_pid(signal.to_node, signal.to_incarnation, signal.to_number)
        deliver(encode_signal(kind, signal.sender, to, signal.ref, self._dumps(reason)))

    def _receiver(self, signal: Signal) -> Process | None:
        if signal.to_name:
            return self.names.get(signal.to_name)
        process = self.processes.get(signal.to_number)
        if process is None:
            return None
        pid = process.pid
        if pid.incarnation != signal.to_incarnation or pid.node != signal.to_node:
            return None
        return process

    def _on_send(self, signal: Signal) -> None:
        process = self._receiver(signal)
        if process is None or process.exiting:
            self.dropped_count += 1
            return
        self.deliver(process, loads(signal.body), signal.sender)

    def _on_link(self, signal: Signal) -> None:
        process = self._receiver(signal)
        sender = signal.sender
        if process is None:
            self._answer(signal, wire.EXIT, NOPROC, self.transmit)
            return
        if process.relations >= RELATIONS_MAX:
            self._answer(signal, wire.EXIT, SYSTEM_LIMIT, self.transmit)
            return
        if process.links is None:
            process.links = set()
        process.links.add(sender)
        marks = process.link_marks = process.link_marks or {}
        marks[sender] = (marks.get(sender, (0, 0))[0], signal.ref)
        self.relate(process, sender)

    def _on_unlink(self, signal: Signal) -> None:
        """No link any more; but for one that we made, and they had not heard of then."""
        process = self._receiver(signal)
        sender = signal.sender
        if process is not None and process.links is not None and sender in process.links:
            sent, _ = (process.link_marks or {}).get(sender, (0, 0))
            if sent <= signal.ref:
                process.links.discard(sender)
                self.forget_marks(process, sender)

    def _on_exit(self, signal: Signal) -> None:
        process = self._receiver(signal)
        sender = signal.sender
        reason = loads(signal.body)
        if process is not None and process.links is not None and sender in process.links:
            process.links.discard(sender)
            _, seen = self.forget_marks(process, sender)
            if reason == NOPROC:  # of a spawn that nobody waits for any more: that one may live
                self.transmit(encode_signal(wire.UNLINK, sender, process.pid, seen))
            self.exit_signal(process, sender, reason)

    def _on_exit_sent(self, signal: Signal) -> None:
        process = self._receiver(signal)
        if process is not None:
            self.exit_sent(process, signal.sender, loads(signal.body))

    def _on_monitor(self, signal: Signal) -> None:
        self._watched(self._receiver(signal), signal)

    def _watched(self, process: Process | None, signal: Signal) -> bool:
        sender = signal.sender
        if process is None:
            self._answer(signal, wire.DOWN, NOPROC, self.transmit)
            return False
        if process.relations >= RELATIONS_MAX:
            self._answer(signal, wire.DOWN, SYSTEM_LIMIT, self.transmit)
            return False
        if process.watchers is None:
            process.watchers = {}
        process.watchers[Ref(sender.node, sender.incarnation, signal.ref)] = sender
        self.relate(process, sender)
        return True

    def _on_demonitor(self, signal: Signal) -> None:
        process = self._receiver(signal)
        if process is not None and process.watchers is not None:
            sender = signal.sender
            process.watchers.pop(Ref(sender.node, sender.incarnation, signal.ref), None)

    def _on_down(self, signal: Signal) -> None:
        reason = loads(signal.body)
        if signal.ref in self.asks:
            self.ask_down(signal.ref, reason)
            return
        process = self._receiver(signal)
        if process is None or process.monitors is None:
            return
        ref = self.ref(signal.ref)
        target = process.monitors.get(ref)
        if target is not None:
            self.down(process, ref, target, reason)

    def _on_ask(self, signal: Signal) -> None:
        process = self._receiver(signal)
        if process is None or process.exiting:
            if signal.to_number == self.pid.number and not signal.to_name:
                self.system_request(signal)
                return
            self._watched(process, signal)
            return
        request = loads(signal.body)
        if self._watched(process, signal):
            sender = signal.sender
            caller = (sender, Ref(sender.node, sender.incarnation, signal.ref))
            self.deliver(process, Request(caller, request), sender)

    def _on_reply(self, signal: Signal) -> None:
        self.answered(signal.ref, signal.sender, loads(signal.body))

    def _on_spawn(self, signal: Signal) -> None:
        self.spawn_request(signal)

    def _on_spawned(self, signal: Signal) -> None:
        self.spawn_answer(signal)

    def _on_pause(self, signal: Signal) -> None:
        sender = signal.sender
        names = loads(signal.body) if signal.body else []
        if not isinstance(names, list):
            raise RemoteProtocolError("malformed pause")
        if len(self.paused) + len(names) >= PAUSED_MAX:  # it drops what is too much for it
            self.dropped_count += 1
            return
        waiting = self.paused.setdefault(sender if sender.number else sender.node, deque())
        for entry in names:
            match entry:
                case [str(name), str(node)]:
                    self.paused.setdefault((name, node), waiting)
                case _:
                    raise RemoteProtocolError("malformed pause")

    def _on_resume(self, signal: Signal) -> None:
        sender = signal.sender
        self._resume(sender if sender.number else sender.node)

    def _resume(self, key: object) -> None:
        waiting = self.paused.pop(key, None)
        if waiting is None:
            return
        for other in [each for each, tasks in self.paused.items() if tasks is waiting]:
            del self.paused[other]
        while waiting:
            self.wake(waiting.popleft(), None)

    def _on_trace(self, signal: Signal) -> None:
        process = self._receiver(signal)
        if process is not None:
            try:
                self.set_tracer(
                    process, RemoteTracer(self, signal.sender), loads(signal.body) is True
                )
            except ValueError:
                self.dropped_count += 1
            self.relate(process, signal.sender)

    # -- nodes and runtimes that come and go

    def _on_up(self, signal: Signal) -> None:
        self.node_up(signal.sender)

    def _on_gone(self, signal: Signal) -> None:
        names: list[object] = []
        match loads(signal.body):
            case [reason, list(names)]:
                pass
            case other:
                reason = other
        self.gone(signal.sender, reason, [name for name in names if isinstance(name, str)])
        if not signal.from_number:  # from here on the daemon takes signals for that node again
            self.transmit(encode_signal(wire.GONE, signal.sender, self.pid))

    def gone(self, pid: Pid, reason: object, names: list[str]) -> None:
        """A node (number 0) or a runtime is gone: every relation with it ends with `reason`."""
        serial = pid.number >> wire.SERIAL_SHIFT

        def hit(other: Target) -> bool:
            if isinstance(other, ProxyPid):  # our daemon held it
                return not serial and pid.node == self.node
            if not isinstance(other, Pid):
                return other[1] == pid.node and (not serial or other[0] in names)
            if self.is_local(other):  # our daemon is gone; we are not
                return False
            if other.node != pid.node or other.incarnation != pid.incarnation:
                return False
            return not serial or other.number >> wire.SERIAL_SHIFT == serial

        related = self.remote.get((pid.node, pid.incarnation), set()) | self.remote.get(
            (pid.node, 0), set()
        )
        if not serial:
            for key in ((pid.node, pid.incarnation), (pid.node, 0)):
                for process in self.remote.pop(key, ()):
                    if process.related is not None:
                        process.related.discard(key)
        for process in sorted(related, key=lambda each: each.pid.number):
            self._lose(process, hit, reason)
        for number in [n for n, ask in self.asks.items() if hit(ask.target)]:
            self.ask_down(number, reason)
        for held in list(self.paused):
            node_held = isinstance(held, str) and held == pid.node and not serial
            if node_held or (not isinstance(held, str) and hit(cast(Target, held))):
                self._resume(held)
        self.node_gone(pid, reason)

    def _lose(self, process: Process, hit: Callable[[Target], bool], reason: object) -> None:
        if process.pid.number not in self.processes:
            return
        if process.watchers:
            lost = [ref for ref, watcher in process.watchers.items() if hit(watcher)]
            for ref in lost:
                del process.watchers[ref]
        if process.tracers:
            for tracer in list(process.tracers):
                if isinstance(tracer, RemoteTracer) and hit(tracer.pid):
                    self.set_tracer(process, tracer, False)
        if process.silenced:
            process.silenced = {each for each in process.silenced if not hit(each)} or None
        for ref, target in list((process.monitors or {}).items()):
            if hit(target) and ref not in self.by_name:
                self.down(process, ref, target, reason)
        for pid in in_order([each for each in process.links or () if hit(each)]):
            if process.links is None:
                break  # the first of them ended it at once: a task that only became a process
            process.links.discard(pid)
            self.forget_marks(process, pid)
            self.exit_signal(process, pid, reason)

    def _on_group(self, signal: Signal) -> None:
        self.group_signal(signal)

    _handlers: Final[dict[int, Callable[[Incoming, Signal], None]]] = {
        wire.SEND: _on_send,
        wire.LINK: _on_link,
        wire.UNLINK: _on_unlink,
        wire.EXIT: _on_exit,
        wire.EXIT_SENT: _on_exit_sent,
        wire.MONITOR: _on_monitor,
        wire.DEMONITOR: _on_demonitor,
        wire.DOWN: _on_down,
        wire.ASK: _on_ask,
        wire.REPLY: _on_reply,
        wire.SPAWN: _on_spawn,
        wire.SPAWNED: _on_spawned,
        wire.PAUSE: _on_pause,
        wire.RESUME: _on_resume,
        wire.TRACE: _on_trace,
        wire.UP: _on_up,
        wire.GONE: _on_gone,
        wire.GROUP: _on_group,
    }
