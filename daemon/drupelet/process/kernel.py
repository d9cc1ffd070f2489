"""The kernel: processes, links, monitors, exit signals and names of one runtime.

Decides what each signal does, as Erlang's "Processes" chapter has it, and the order in which a
process's end is told. Sans-IO: time, tasks and the network are its owner's (`runtime.py`), which it
reaches through the hooks below. Everything here is synchronous and whole: nothing is half done
between two awaits.

Rules (DESIGN 6; each has a property test)
- FIFO per sender and receiver: a signal to a neighbour takes effect at once, one to elsewhere is
  queued in order.
- `Down` exactly once per monitor; after it nothing more from that pid, since everything that the
  process sent went before it.
- At a process's end: its names are free first, then links, then monitors are told.
- ``exit(pid, "kill")`` cannot be trapped and shows as "killed"; the exit signal of a link with the
  reason "kill" can.
- A pid of a former life, or of a process that has ended, is nobody: ``noproc``.

References: Erlang Reference Manual, "Processes" (signals, links, monitors); `erlang:exit/2`.
Rejected: effects as objects for what stays in this runtime (a local send would cost 2 us more).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from drupelet.errors import NotSendable, RemoteError
from drupelet.process.data import copy_data, data_or_text
from drupelet.process.mailboxes import LOOK, Mailboxes, Parked
from drupelet.process.table import (
    BLOCK,
    DEFAULT_MAILBOX,
    RELATIONS_MAX,
    SLACK,
    Mailbox,
    Process,
)
from drupelet.wire.codec import dumps
from drupelet.wire.ids import Pid, ProxyPid, Ref, in_order, make_pid, make_ref
from drupelet.wire.limits import PROCESSES_MAX, TRACERS_MAX
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import NOPROC, encode_signal, proxy_name
from drupelet.wire.notices import Down, Exit, Request

NONODE: Final = "nonode@nohost"  # Erlang's name of a node that is not alive
SYSTEM_LIMIT: Final = "system_limit"  # OTP's word

Target = Pid | ProxyPid | tuple[str, str]

Tracer = Callable[[Pid, str, object, object], None]


class Waiter(Protocol):
    """What may wait for an answer in the place of a task; neither raises nor waits."""

    def wake(self, value: object) -> None: ...

    def wake_error(self, error: Exception) -> None: ...


class Ask:
    """One request under way. `task`: a trio task, or a `Waiter`."""

    __slots__ = ("parked", "target", "task", "timer")
    is_spawn = False

    def __init__(self, target: Target, task: object) -> None:
        self.target = target
        self.task = task
        self.timer: list[object] | None = None
        self.parked: Parked | None = None  # it waits for room, or did


class Kernel(Mailboxes):
    """Tables and signals. The owner overrides the hooks."""

    def __init__(self) -> None:
        self.node = NONODE
        self.incarnation = 0
        self.serial = 0
        self.pid = Pid(NONODE, 0, 0)  # of the runtime itself
        self.former: set[tuple[str, int, int]] = set()  # (node, incarnation, serial) we were before
        self.processes: dict[int, Process] = {}  # by pid number
        self.names: dict[str, Process] = {}
        self.by_name: dict[Ref, Process] = {}  # who is watched here by a name that he had then
        self.asks: dict[int, Ask] = {}  # by the number of their ref
        self.groups: Any = None  # pg.py
        self.remote: dict[tuple[str, int], set[Process]] = {}  # who has relations with which node
        self.paused: dict[
            object, deque[object]
        ] = {}  # Pid, (name, node) or node -> tasks that wait
        self.dropped_count = 0
        self._count = 0
        self._base = 0

    # -- hooks

    def wake_error(self, task: object, error: Exception) -> None:
        """Let a waiting task go on with an exception."""
        raise NotImplementedError

    def cancel(self, process: Process) -> None:
        """The process has to end; `end` follows when it has."""
        raise NotImplementedError

    def crowded(self, pid: Pid) -> bool:
        """Whether somebody on the way to `pid` asked us to hold back."""
        raise NotImplementedError

    def on_name_freed(self, name: str, pid: Pid) -> None:
        """A registered process ended."""

    # -- identities

    def attach(self, node: str, incarnation: int, serial: int) -> None:
        """This runtime is part of a node from now on. Processes keep the pids that they have."""
        self.former.add((self.node, self.incarnation, self.serial))
        self.node, self.incarnation, self.serial = node, incarnation, serial
        self._base = serial << wire.SERIAL_SHIFT
        self.pid = Pid(node, incarnation, self._base)

    def new_ref(self) -> int:
        """The number of a new ref."""
        self._count += 1
        return self._base + self._count

    def ref(self, number: int) -> Ref:
        """A ref of this runtime."""
        return make_ref(self.node, self.incarnation, number)

    def new_process(self, function: object, mailbox: Mailbox = DEFAULT_MAILBOX) -> Process:
        """A process in the table. Raises: `RemoteError` ("system_limit")."""
        if len(self.processes) >= PROCESSES_MAX:
            raise RemoteError("system_limit", f"{PROCESSES_MAX:,} processes run here already")
        self._count += 1
        number = self._base + self._count
        process = Process(self, make_pid(self.node, self.incarnation, number), function, mailbox)
        self.processes[number] = process
        return process

    def is_local(self, pid: Pid) -> bool:
        """Whether the pid was made by this runtime, now or before it was attached elsewhere."""
        if pid.number >> wire.SERIAL_SHIFT == self.serial and (
            pid.incarnation == self.incarnation and pid.node == self.node
        ):
            return True
        return bool(self.former) and (
            (pid.node, pid.incarnation, pid.number >> wire.SERIAL_SHIFT) in self.former
        )

    def find(self, pid: Pid) -> Process | None:
        """The living process of that pid, here."""
        process = self.processes.get(pid.number)
        if process is not None and process.pid == pid:
            return process
        return None

    # -- links and monitors

    def link(self, process: Process, pid: Pid) -> None:
        """Link both; to one that is not there: an exit signal ``noproc``.

        One that still unwinds is there: its end is told when nothing more comes from it.
        """
        if pid == process.pid or (process.links is not None and pid in process.links):
            return
        self.check_relations(process)
        if process.links is None:
            process.links = set()
        if not self.is_local(pid):
            process.links.add(pid)
            self.relate(process, pid)
            ref = self.new_ref()
            if process.link_marks is None:
                process.link_marks = {}
            process.link_marks[pid] = (ref, 0)
            self.transmit(encode_signal(wire.LINK, pid, process.pid, ref))
            return
        other = self.find(pid)
        if other is None:
            self.exit_signal(process, pid, NOPROC)
            return
        if other.relations >= RELATIONS_MAX:
            self.exit_signal(process, pid, SYSTEM_LIMIT)
            return
        process.links.add(pid)
        if other.links is None:
            other.links = set()
        other.links.add(process.pid)

    def unlink(self, process: Process, pid: Pid) -> None:
        """No longer linked; an exit signal under way has no effect any more."""
        if process.links is None or pid not in process.links:
            return
        process.links.discard(pid)
        if not self.is_local(pid):
            _, seen = self.forget_marks(process, pid)
            self.transmit(encode_signal(wire.UNLINK, pid, process.pid, seen))
        else:
            other = self.find(pid)
            if other is not None and other.links is not None:
                other.links.discard(process.pid)

    @staticmethod
    def forget_marks(process: Process, pid: Pid) -> tuple[int, int]:
        """The refs of the last LINK to and from `pid`; the link is over."""
        return (process.link_marks or {}).pop(pid, (0, 0))

    def monitor(self, process: Process, target: Target) -> Ref:
        """Watch a process; its `Down` comes exactly once."""
        self.check_relations(process)
        ref = self.ref(self.new_ref())
        if process.monitors is None:
            process.monitors = {}
        process.monitors[ref] = target
        self._watch(process.pid, ref, target, process)
        return ref

    def _watch(self, watcher: Pid, ref: Ref, target: Target, process: Process) -> None:
        if isinstance(target, Pid):
            if not self.is_local(target):
                self.relate(process, target)
                self.transmit(encode_signal(wire.MONITOR, target, watcher, ref.number))
                return
            other = self.find(target)
        elif isinstance(target, ProxyPid):
            self.relate(process, make_pid(self.node, self.incarnation, 0))  # our daemon holds it
            self.transmit(self.to_proxy(wire.MONITOR, target, watcher, ref.number))
            return
        else:
            name, node = target
            if node != self.node or name not in self.names:
                self.relate(process, Pid(node, 0, 0))
                to = make_pid(node, 0, 0)
                self.transmit(encode_signal(wire.MONITOR, to, watcher, ref.number, name=name))
                return
            other = self.by_name[ref] = self.names[name]
        if other is None:
            self.down(process, ref, target, NOPROC)
            return
        if other.watchers is None:
            other.watchers = {}
        elif other.relations >= RELATIONS_MAX:
            self.by_name.pop(ref, None)
            self.down(process, ref, target, SYSTEM_LIMIT)
            return
        other.watchers[ref] = watcher

    def demonitor(self, process: Process, ref: Ref) -> bool:
        """No longer watch; False when it was over already."""
        if process.monitors is None:
            return False
        target = process.monitors.pop(ref, None)
        if target is None:
            return False
        self.unwatch(process.pid, ref, target)
        return True

    def unwatch(self, watcher: Pid, ref: Ref, target: Target) -> None:
        """Take our ref back from who is watched."""
        if isinstance(target, Pid):
            if not self.is_local(target):
                self.transmit(encode_signal(wire.DEMONITOR, target, watcher, ref.number))
                return
            other = self.find(target)
        elif isinstance(target, ProxyPid):
            self.transmit(self.to_proxy(wire.DEMONITOR, target, watcher, ref.number))
            return
        else:
            other = self.by_name.pop(ref, None)
            if other is None:
                to = make_pid(target[1], 0, 0)
                self.transmit(
                    encode_signal(wire.DEMONITOR, to, watcher, ref.number, name=target[0])
                )
                return
        if other is not None and other.watchers is not None:
            other.watchers.pop(ref, None)

    def to_proxy(
        self, kind: int, proxy: ProxyPid, sender: Pid, ref: int, body: bytes = b""
    ) -> bytes:
        """A signal for a process of a stranger, by way of our daemon."""
        daemon = make_pid(self.node, self.incarnation, 0)
        return encode_signal(kind, daemon, sender, ref, body, name=proxy_name(proxy))

    def down(self, process: Process, ref: Ref, target: Target, reason: object) -> None:
        """A process that `process` watches has ended."""
        if reason.__class__ is not str:
            reason = copy_data(reason)  # others are told the same
        self.put(process, Down(ref, target, reason))
        if process.monitors is not None:
            process.monitors.pop(ref, None)

    def relate(self, process: Process, pid: Pid) -> None:
        """Remember whom to tell when that node or runtime goes."""
        key = (pid.node, pid.incarnation)
        if process.related is None:
            process.related = set()
        if key not in process.related:
            process.related.add(key)
            self.remote.setdefault(key, set()).add(process)

    @staticmethod
    def check_relations(process: Process) -> None:
        """Raises: `ValueError` for one that has as many as may be."""
        if (process.links or process.monitors or process.watchers) and (
            process.relations >= RELATIONS_MAX
        ):
            raise ValueError(f"a process has at most {RELATIONS_MAX:,} links and monitors")

    # -- exit signals

    def send_exit(self, sender: Pid, pid: Pid, reason: object) -> None:
        """``exit(pid, reason)``. To one that is not there: nothing."""
        if not self.is_local(pid):
            self.transmit(encode_signal(wire.EXIT_SENT, pid, sender, 0, dumps(reason)))
            return
        process = self.find(pid)
        if process is not None:
            self.exit_sent(process, sender, reason)

    def exit_sent(self, process: Process, sender: Pid, reason: object) -> None:
        """Somebody called ``exit(process, reason)``."""
        if reason == "kill":
            self.exit_process(process, "killed")
        elif process.trap_exit:
            if process.messages is not None and len(process.messages) >= process.limit + SLACK:
                process.dropped_count += 1
            else:
                self.put(process, Exit(sender, reason))
        elif (reason != "normal" or sender == process.pid) and not process.exiting:
            self.exit_process(process, reason)

    def exit_signal(self, process: Process, sender: Pid, reason: object) -> None:
        """A linked process ended (or was not there)."""
        if reason.__class__ is not str:
            reason = copy_data(reason)  # others are told the same
        if process.trap_exit:
            self.put(process, Exit(sender, reason))
        elif reason != "normal" and not process.exiting:
            self.exit_process(process, reason)

    def exit_process(self, process: Process, reason: object) -> None:
        """It has to end with `reason`; the first reason counts, but "killed" wins over another."""
        if process.pid.number not in self.processes or (process.exiting and reason != "killed"):
            return
        process.exiting = True
        process.exit_reason = reason
        self.release_senders(process)
        self.cancel(process)

    def end(self, process: Process, reason: object) -> None:
        """The process has ended: free its names, tell links, then monitors. Once."""
        if self.processes.pop(process.pid.number, None) is None:
            return
        if reason.__class__ is not str:
            reason = data_or_text(reason)
        process.exiting = True
        process.exit_reason = reason
        if process.tracers is not None:
            self.trace(process, "exit", reason)
            process.tracers = None
        pid = process.pid
        if self.groups is not None:
            self.groups.process_ended(process)
        for name in process.names or ():
            if self.names.get(name) is process:
                del self.names[name]
                self.on_name_freed(name, pid)
        links, process.links = process.links, None
        process.link_marks = None
        for other_pid in in_order(links or ()):
            if self.is_local(other_pid):
                other = self.find(other_pid)
                if other is not None and other.links is not None:
                    other.links.discard(pid)
                    self.exit_signal(other, pid, reason)
            else:
                self.transmit(encode_signal(wire.EXIT, other_pid, pid, 0, self._dumps(reason)))
        watchers, process.watchers = process.watchers, None
        for ref, watcher in (watchers or {}).items():
            self._tell_down(pid, ref, watcher, reason)
        monitors, process.monitors = process.monitors, None
        for own_ref, target in (monitors or {}).items():
            self.unwatch(pid, own_ref, target)
        self._release(process)

    def _tell_down(self, pid: Pid, ref: object, watcher: Pid, reason: object) -> None:
        if ref.__class__ is int:  # an ask of this runtime
            self.ask_down(ref, reason)
            return
        ref = cast(Ref, ref)
        self.by_name.pop(ref, None)
        if not self.is_local(watcher):
            body = self._dumps(reason)
            self.transmit(encode_signal(wire.DOWN, watcher, pid, ref.number, body))
            return
        other = self.find(watcher)
        if other is not None and other.monitors is not None and ref in other.monitors:
            self.down(other, ref, other.monitors[ref], reason)

    def _release(self, process: Process) -> None:
        """Nobody waits for room in the mailbox of the dead."""
        process.messages = None
        for key in process.related or ():
            others = self.remote.get(key)
            if others is not None:
                others.discard(process)
                if not others:
                    del self.remote[key]
        self.release_senders(process)
        if process.silenced:
            self._unsilence(process)

    @staticmethod
    def _dumps(reason: object) -> bytes:
        try:
            return dumps(reason)
        except NotSendable:
            return dumps(repr(reason)[:1000])

    # -- requests

    def ask_local(
        self,
        process: Process,
        number: int,
        caller: Pid,
        request: object,
        kind: type[Request] = Request,
    ) -> Request:
        """Put a request of this runtime into a mailbox; `number` is in `asks`."""
        if process.watchers is None:
            process.watchers = {}
        process.watchers[number] = caller
        message = kind((caller, self.ref(number)), request)
        if not self.full(process, message):
            self.put(process, message, caller)
        elif process.policy == BLOCK:
            parked = self.asks[number].parked = Parked(None, message, caller)
            self.park(process, parked)
        else:
            self.overflow(process, message, caller)
        return message

    def reply(self, replier: Pid, caller: Pid, ref: Ref, value: object) -> None:
        """The answer to a request, from whichever process. Too late is nothing."""
        if not self.is_local(caller):
            body = dumps(value)  # first: who cannot answer is still watched by who asks
            process = self.find(replier)
            if process is not None and process.watchers is not None:
                process.watchers.pop(ref, None)
            self.transmit(encode_signal(wire.REPLY, caller, replier, ref.number, body))
            return
        self.answered(ref.number, replier, value)

    def answered(self, number: int, replier: Pid, value: object) -> None:
        """An answer came."""
        ask = self.asks.pop(number, None)
        if ask is None:
            return
        self.forget_ask(number, ask, answered_by=replier)
        self.wake(ask.task, value)

    def forget_ask(self, number: int, ask: Ask, answered_by: Pid | None = None) -> bool:
        """The monitor of a request is over. Whether it never came into the mailbox."""
        target = ask.target
        if ask.is_spawn:  # its monitor is the spawner's
            return False
        if isinstance(target, Pid) and self.is_local(target):
            process = self.find(target)
            if process is not None:
                if process.watchers is not None:
                    process.watchers.pop(number, None)
                if ask.parked is not None and process.senders and ask.parked in process.senders:
                    process.senders.remove(ask.parked)
                    return True
        elif target != answered_by:  # who answers for itself has dropped it
            self.unwatch(self.pid, self.ref(number), target)
        return False

    def ask_down(self, number: int, reason: object) -> None:
        """Who was asked is gone."""
        ask = self.asks.pop(number, None)
        if ask is not None:
            self.wake_error(ask.task, self.down_error(reason))

    def down_error(self, reason: object) -> Exception:
        """What the asker is told."""
        raise NotImplementedError

    # -- tracing

    def set_tracer(self, process: Process, tracer: Tracer, on: bool) -> None:
        """`tracer` is told what `process` gets and does. Raises: `ValueError` for too many."""
        tracers = [each for each in process.tracers or () if each != tracer]
        if on:
            if len(tracers) >= TRACERS_MAX:
                raise ValueError(f"{TRACERS_MAX} traces of one process are enough")
            tracers.append(tracer)
        process.tracers = tracers or None


__all__ = ["LOOK", "NONODE", "NOPROC", "SYSTEM_LIMIT", "Ask", "Kernel", "Target", "Tracer"]
