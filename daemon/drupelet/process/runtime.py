"""The runtime: processes as trio tasks.

Decides how a process runs, waits and ends; what a signal does is decided in `kernel.py`. A process
is one trio task in a nursery (the runtime's, or its scope's), with one cancel scope: 2.6 kB with
its record. Who waits is parked by hand and woken with its message, so a local request and its
reply cost two task switches and nothing else.

Rules
- A process's exception ends that process and nothing else; it is logged once, with its function.
- A send or receive that needs not wait does not switch tasks, but every BREATH-th does: a process
  that only sends lets others run.
- A process that was told to end is cancelled: its ``finally`` runs; what it awaits there needs a
  shield, as in trio. After UNWIND_S it is abandoned: its end is told, it is reported, and whatever
  it does then raises.

Owns: the timer task; one task per process. Cancellation: every process ends with "shutdown".
References: trio's `wait_task_rescheduled`; OTP's `proc_lib` for the crash report.
Rejected: a memory channel per process, a nursery per process (1.1 kB), a cancel scope per receive.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from types import CoroutineType
from typing import Any, Final, cast

import outcome
import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from drupelet.errors import (
    MailboxFull,
    NoConnection,
    NotSendable,
    ProcessDown,
    ProcessExit,
    ReceiveTimeout,
    Timeout,
)
from drupelet.lease import lease_var
from drupelet.process.current import check_there, process_var
from drupelet.process.data import copy_data
from drupelet.process.groups import Groups
from drupelet.process.information import author_traceback, end_of, is_awaitable, unwrap
from drupelet.process.information import describe as describe
from drupelet.process.information import function_name as function_name
from drupelet.process.information import reason_of as reason_of
from drupelet.process.kernel import LOOK, NOPROC, Ask, Waiter
from drupelet.process.later import Later, Place
from drupelet.process.later import To as To
from drupelet.process.life import UNWIND_S as UNWIND_S
from drupelet.process.life import abandon, end_waits, live
from drupelet.process.mailboxes import Parked
from drupelet.process.nodes import check_names
from drupelet.process.patterns import runs_code
from drupelet.process.table import BLOCK, DEFAULT_MAILBOX, DROP_NEW, EXIT, Mailbox, Process
from drupelet.process.timers import check_seconds
from drupelet.process.transport import Transport
from drupelet.wire.codec import dumps
from drupelet.wire.ids import Pid, ProxyPid, make_pid
from drupelet.wire.limits import PROXY_MESSAGE_BYTES_MAX
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import NOCONNECTION, encode_signal
from drupelet.wire.notices import Request

_log = logging.getLogger("drupelet.process")
_Value = outcome.Value

BREATH: Final = 128  # sends and receives between two turns of others: about 0.2 ms
ASK_S: Final = 5.0  # a daemon answers at once, or is gone
SENDS_ONLY: Final = "a proxy pid takes send and monitor, nothing else: its process is a stranger's"
_ONE_RECEIVER: Final = "another task of this process is in receive; use one at a time"

Function = Callable[..., object]


class Become(BaseException):
    """Leave a process's function for another: see `api.become`."""

    def __init__(self, function: Function, args: tuple[object, ...]) -> None:
        super().__init__()
        self.function = function
        self.call_args = args


class Runtime(Later):
    """Runs processes in `nursery`. `transport`: the way to this node's daemon, if there is one."""

    def __init__(self, nursery: trio.Nursery, transport: Transport | None = None) -> None:
        super().__init__()
        self.nursery = nursery
        self.groups = Groups(self)
        self.transport = transport
        self.task_count = 0  # processes that run in `nursery`
        self.last: trio.CancelScope | None = None  # cancelled when the last of them has ended
        self._breath = 0
        self.unwinding: dict[Process, list[object]] = {}
        self.newest: Callable[[Any], Any] = lambda thing: thing  # the newest version of code

    async def run(self) -> None:
        """The timers and the loop watch, for ever. The owner starts it in `nursery`."""
        await live(self)

    # -- hooks of the kernel

    def wake(self, task: object, value: object) -> None:
        if task.__class__ is Task:
            reschedule(task, _Value(value))
        else:
            cast(Waiter, task).wake(value)

    def wake_error(self, task: object, error: Exception) -> None:
        if task.__class__ is Task:
            reschedule(task, outcome.Error(error))
        else:
            cast(Waiter, task).wake_error(error)

    def down_error(self, reason: object) -> Exception:
        if reason == NOCONNECTION:
            return NoConnection("down", maybe_ran=True)
        return ProcessDown(reason)

    def transmit(self, signal: bytes) -> None:
        if self.transport is not None:
            self.transport.send(
                self.outside.outward(signal) if self.outside is not None else signal
            )
        else:
            self.answer_alone(signal)

    def cancel(self, process: Process) -> None:
        if process.adopted:
            self.end(process, process.exit_reason)
            end_waits(self, process)
            return
        if process not in self.unwinding:
            deadline = trio.current_time() + UNWIND_S
            self.unwinding[process] = self.timers.add(deadline, lambda: self._abandon(process))
        if process.scope is not None:
            process.scope.cancel()

    def _abandon(self, process: Process) -> None:
        """It did not end in time."""
        abandon(self, process)

    # -- processes

    def start(
        self,
        function: Function,
        args: Sequence[object],
        *,
        nursery: trio.Nursery | None = None,
        mailbox: Mailbox = DEFAULT_MAILBOX,
        parent: Pid | None = None,
        first: Callable[[Process], None] | None = None,
    ) -> Process:
        """A new process that runs ``function(*args)``; it runs when its starter waits."""
        process = self.new_process(function, mailbox)
        process.parent = parent
        own = nursery is None
        try:
            (nursery or self.nursery).start_soon(self._run, process, function, args, first, own)
        except BaseException:  # RuntimeError: the scope is closed
            self.end(process, "shutdown")
            raise
        self.task_count += own
        lease = lease_var.get()
        if lease is not None:
            lease.add(process, functools.partial(self.exit_process, process, "killed"))
        return process

    def adopt(self) -> Process:
        """The running task becomes a process."""
        process = self.new_process(None)
        process.adopted = True
        process.task = current_task()
        process.function = process.task.name
        process_var.set(process)
        return process

    async def _run(
        self,
        process: Process,
        function: Function,
        args: Sequence[object],
        first: Callable[[Process], None] | None,
        own: bool,
    ) -> None:
        process_var.set(process)
        process.task = current_task()
        if first is not None:
            first(process)
        reason: object = "normal"
        try:
            with trio.CancelScope() as scope:
                process.scope = scope
                while not process.exiting:  # one that is told to end before it began never runs
                    try:
                        value = function(*args)
                        if value.__class__ is CoroutineType or is_awaitable(value):
                            await cast("CoroutineType[Any, Any, Any]", value)
                        break
                    except (Become, BaseExceptionGroup) as error:  # a nursery makes a group of it
                        other = unwrap(error)
                        if not isinstance(other, Become):
                            raise
                        process.function = function = self.newest(other.function)
                        args = other.call_args
        except trio.Cancelled:  # its scope or the runtime ends
            reason = "shutdown"
            raise
        except (Exception, SystemExit) as error:  # the author's: told to who watches
            reason = self._crashed(process, error)
        except BaseExceptionGroup as group:
            ours, others = group.split((trio.Cancelled, KeyboardInterrupt))
            reason = "shutdown" if others is None else self._crashed(process, others)
            if ours is not None:
                raise ours from None
        except BaseException as error:
            reason = reason_of(error)
            raise
        finally:
            process.scope = process.task = None
            if process.exiting:
                reason = process.exit_reason
                entry = self.unwinding.pop(process, None)
                if entry is not None:
                    self.timers.cancel(entry)
            self.end(process, reason)
            lease = lease_var.get()
            if lease is not None:
                lease.done(process)
            self.task_count -= own
            if self.last is not None and not self.task_count:
                self.last.cancel()

    def _crashed(self, process: Process, error: BaseException) -> object:
        """The reason for an exception; a crash is logged, an `exit(reason)` is not."""
        error = unwrap(error)
        if not isinstance(error, ProcessExit) and not process.exiting:
            _log.warning(
                "process_crashed pid=%s function=%s, telling who watches it",
                process.pid,
                function_name(process.function),
                exc_info=(type(error), error, author_traceback(error)),
            )
        return end_of(error)

    def describe(self, process: Process) -> dict[str, object]:
        return describe(process)

    # -- receive

    async def receive_message(self, process: Process, pattern: object, timeout: float) -> object:
        """The next message that fits. Raises: `ReceiveTimeout`."""
        if timeout is not inf and (timeout.__class__ is not float or timeout != timeout):
            timeout = check_seconds(timeout)
        await self.breathe(process)
        looked = 0
        if process.messages:
            looked = len(process.messages)
            message = self.take(process, pattern)
            if message is not LOOK:
                return message
        if process.waiting is not None:
            raise RuntimeError(_ONE_RECEIVER)
        if timeout <= 0 or process.exiting:
            await trio.lowlevel.checkpoint()
            if process.exiting:
                raise ReceiveTimeout("this process was told to end: nothing comes any more")
            raise ReceiveTimeout(f"no message that fits within {timeout:g} s")
        entry = None
        if timeout != inf:
            deadline = trio.current_time() + timeout
            entry = self.timers.add(deadline, lambda: self._receive_timeout(process, timeout))

        def abort(_: object) -> Abort:
            process.waiting = None
            return Abort.SUCCEEDED

        try:
            wants_code = pattern is not None and runs_code(pattern)
            while True:
                process.wanted = pattern
                process.wants_code = wants_code
                process.looked = looked
                process.waiting = current_task()
                if looked:
                    self.waits(process)
                message = await wait_task_rescheduled(abort)
                if message is not LOOK:
                    return message
                if process.waiting is not None:
                    raise RuntimeError(_ONE_RECEIVER)
                # what was looked at by this receive need not be looked at again
                start = process.looked if process.wanted is pattern else 0
                looked = len(process.messages or ())
                message = self.take(process, pattern, start)
                if message is not LOOK:
                    return message
                if entry is not None and entry[2] is None:  # it was due while we looked
                    raise ReceiveTimeout(f"no message that fits within {timeout:g} s")
        finally:
            if entry is not None:
                self.timers.cancel(entry)

    def _receive_timeout(self, process: Process, timeout: float) -> None:
        task = process.waiting
        if task is not None:
            process.waiting = None
            self.wake_error(task, ReceiveTimeout(f"no message that fits within {timeout:g} s"))

    async def breathe(self, process: Process | None) -> None:
        """Let others run, now and then; end here when told to."""
        if process is None:
            self._breath += 1
            if self._breath % BREATH == 0:
                await trio.lowlevel.checkpoint()
            return
        process.reductions += 1
        if process.exiting or process.reductions % BREATH == 0:
            await trio.lowlevel.checkpoint()
            check_there(process)

    # -- send

    async def send(self, process: Process | None, to: To, message: object) -> None:
        """Send; wait while the receiver's mailbox is full."""
        await self.breathe(process)
        target = self.target(to)
        if not isinstance(target, Process):
            await self._send_elsewhere(process, target, message)
            return
        receiver = target
        message = copy_data(message)
        if process is not None and process.tracers is not None:
            self.trace(process, "send", message, to)
        if self.full(receiver, message):
            if receiver.policy != BLOCK:
                self.overflow(receiver, message, process)
                return
            await self._wait_room(process, receiver, message)
            return
        if not receiver.exiting:
            self.put(receiver, message, process)

    def send_or_raise(self, process: Process | None, to: To, message: object) -> None:
        """As `send`. Raises: `MailboxFull` instead of waiting."""
        check_there(process)
        target = self.target(to)
        if isinstance(target, Process):
            receiver = target
            message = copy_data(message)
            full = self.full(receiver, message)
            if full and receiver.policy == BLOCK and not receiver.exiting:
                raise MailboxFull(f"{receiver.pid} has {receiver.limit:,} messages")
            if process is not None and process.tracers is not None:
                self.trace(process, "send", message, to)
            if receiver.exiting:
                pass
            elif full:
                self.overflow(receiver, message, process)
            else:
                self.put(receiver, message, process)
        else:
            place = target
            if self._held_back(place) is not None or (
                self.transport is not None and self.transport.congested
            ):
                raise MailboxFull(f"{place} takes no more for now")
            if process is not None and process.tracers is not None:
                self.trace(process, "send", message, place)
            self.transmit_message(wire.SEND, self._own_pid(process), place, 0, message)

    def target(self, to: To) -> Process | Place:
        """Where `to` is: a process here (perhaps a dead one: NOBODY), or an address elsewhere.

        Raises: `ProcessDown` for a name that nobody here has, `TypeError` for no address.
        """
        if to.__class__ is Pid:
            pid = to
            process = self.processes.get(pid.number)
            if process is not None and process.pid == pid:
                return process
            return self.nobody if self.is_local(pid) else pid
        if to.__class__ is ProxyPid:
            return self.nobody if self.transport is None else to
        name, node = self.address(to)
        if node == self.node:
            process = self.names.get(name)
            if process is not None:
                return process
            if self.transport is None:
                if to.__class__ is str:
                    raise ProcessDown(NOPROC)
                return self.nobody
        check_names(name, node)
        return (name, node)

    def address(self, to: object) -> tuple[str, str]:
        """Name and node. Raises: `TypeError` for what is neither."""
        match to:
            case str():
                return to, self.node
            case (str(name), str(node)) if to.__class__ is tuple:
                return name, node
        hint = "; `await` is missing where it was made" if isinstance(to, CoroutineType) else ""
        raise TypeError(f"a process is a Pid, a name or (name, node), not {to!r:.100}{hint}")

    async def _wait_room(self, process: Process | None, receiver: Process, message: object) -> None:
        """Until `message` was taken, or the receiver ends."""
        if receiver is process:
            raise MailboxFull("this process's own mailbox is full, and it is the one to empty it")

        def abort(_: object) -> Abort:
            assert receiver.senders is not None
            receiver.senders.remove(parked)
            return Abort.SUCCEEDED

        if not receiver.exiting:
            parked = Parked(current_task(), message, process)
            self.park(receiver, parked)
            await wait_task_rescheduled(abort)

    @staticmethod
    async def _park(queue: deque[object]) -> None:
        task = current_task()

        def abort(_: object) -> Abort:
            queue.remove(task)
            return Abort.SUCCEEDED

        queue.append(task)
        await wait_task_rescheduled(abort)

    async def _send_elsewhere(self, process: Process | None, place: Place, message: object) -> None:
        await self._wait_path(place)
        if process is not None and process.tracers is not None:
            self.trace(process, "send", message, place)
        self.transmit_message(wire.SEND, self._own_pid(process), place, 0, message)

    async def _wait_path(self, place: Place) -> None:
        """Until neither the receiver, nor its node, nor our daemon holds us back."""
        while self.transport is not None:
            queue = self._held_back(place)
            if queue is not None:
                await self._park(queue)
            elif self.transport.congested:
                await self.transport.wait_sendable()
            else:
                return

    def _held_back(self, place: Place) -> deque[object] | None:
        paused = self.paused
        if not paused or isinstance(place, ProxyPid):
            return None
        node = place.node if isinstance(place, Pid) else place[1]
        queue = paused.get(node)
        if queue is None:
            queue = paused.get(place)
        if queue is None and isinstance(place, Pid):  # its whole runtime: it does not read
            runtime = make_pid(node, place.incarnation, place.number & ~wire.COUNT_MASK)
            queue = paused.get(runtime)
        return queue

    def crowded(self, pid: Pid) -> bool:
        transport = self.transport
        return self._held_back(pid) is not None or (transport is not None and transport.congested)

    def transmit_message(
        self, kind: int, sender: Pid, place: Place, ref: int, message: object
    ) -> None:
        body = dumps(message)
        if isinstance(place, Pid):
            self.transmit(encode_signal(kind, place, sender, ref, body))
        elif isinstance(place, ProxyPid):
            if len(body) > PROXY_MESSAGE_BYTES_MAX:
                limit = f"{PROXY_MESSAGE_BYTES_MAX:,}"
                raise NotSendable(f"a message of {len(body):,} bytes; a proxy pid takes {limit}")
            self.transmit(self.to_proxy(kind, place, sender, ref, body))
        else:
            name, node = place
            to = make_pid(node, 0, 0)
            self.transmit(encode_signal(kind, to, sender, ref, body, name=name))

    def _own_pid(self, process: Process | None) -> Pid:
        return self.pid if process is None else process.pid

    # -- ask

    async def ask(self, process: Process | None, to: To, request: object, timeout: float) -> object:
        """Send a request and wait for its answer. Raises: `CallError`."""
        if timeout.__class__ is not float or timeout != timeout:
            timeout = check_seconds(timeout)
        await self.breathe(process)
        target = self.target(to)
        if isinstance(target, Process):
            receiver = target
            if receiver.exiting:
                await trio.lowlevel.checkpoint()
                raise ProcessDown(NOPROC if receiver is self.nobody else receiver.exit_reason)
            if receiver is process:
                raise ProcessDown("calling_self")
            request = copy_data(request)
            if receiver.policy != BLOCK and self.full(receiver):
                self._refuse_ask(receiver, request)
            if process is not None and process.tracers is not None:
                self.trace(process, "ask", request, receiver.pid)
            number = self.new_ref()
            ask = self.asks[number] = Ask(receiver.pid, current_task())
            self.ask_local(receiver, number, self._own_pid(process), request)
        else:
            place = target
            if isinstance(place, ProxyPid):
                raise TypeError(SENDS_ONLY)
            if self.transport is None:
                raise NoConnection("alone")
            if self.paused or self.transport.congested:
                started = trio.current_time()
                with trio.move_on_after(max(timeout, 0)) as scope:
                    await self._wait_path(place)
                if scope.cancelled_caught:
                    raise Timeout(maybe_ran=False)
                if self.transport is None:  # it went meanwhile
                    raise NoConnection("alone")
                timeout -= trio.current_time() - started
            number = self.new_ref()
            sender = self._own_pid(process)
            if process is not None and process.tracers is not None:
                self.trace(process, "ask", request, place)
            self.transmit_message(wire.ASK, sender, place, number, request)
            ask = self.asks[number] = Ask(place, current_task())
        value = await self.wait_answer(number, ask, timeout)
        if process is not None and process.tracers is not None:
            self.trace(process, "answer", value, to)
        return value

    async def wait_answer(self, number: int, ask: Ask, timeout: float) -> object:
        """Until `answered`, `ask_down` or the timeout."""
        if timeout != inf:
            deadline = trio.current_time() + timeout
            ask.timer = self.timers.add(deadline, lambda: self._ask_timeout(number))

        def abort(_: object) -> Abort:
            if self.asks.pop(number, None) is not None:
                self.forget_ask(number, ask)
            return Abort.SUCCEEDED

        try:
            return await wait_task_rescheduled(abort)
        finally:
            if ask.timer is not None:
                self.timers.cancel(ask.timer)

    def _refuse_ask(self, receiver: Process, request: object) -> None:
        """A full mailbox that does not block: as its policy has it, the asker is told."""
        if not self.full(receiver, Request((self.pid, self.ref(0)), request)):
            return
        if receiver.policy == DROP_NEW:
            receiver.dropped_count += 1
            raise MailboxFull(f"{receiver.pid} has {receiver.limit:,} messages")
        if receiver.policy == EXIT:
            self.exit_process(receiver, "mailbox_full")
            raise ProcessDown(receiver.exit_reason)

    def _ask_timeout(self, number: int) -> None:
        ask = self.asks.pop(number, None)
        if ask is not None:
            never_came = self.forget_ask(number, ask)
            self.wake_error(ask.task, Timeout(maybe_ran=not never_came))

    async def ask_pid(self, pid: Pid, request: object) -> object:
        if self.transport is None:
            raise NoConnection("alone")
        number = self.new_ref()  # goes at once: an "unregister" must not overtake a "register"
        self.transmit_message(wire.ASK, self.pid, pid, number, request)
        ask = self.asks[number] = Ask(pid, current_task())
        return await self.wait_answer(number, ask, ASK_S)

    async def join(self, process: Process) -> object:
        """Wait until a process of this runtime has ended; its reason."""
        if process.pid.number not in self.processes:
            await trio.lowlevel.checkpoint()
            return process.exit_reason
        number = self.new_ref()
        ask = self.asks[number] = Ask(process.pid, current_task())
        if process.watchers is None:
            process.watchers = {}
        process.watchers[number] = self.pid
        with contextlib.suppress(ProcessDown, NoConnection):
            await self.wait_answer(number, ask, inf)
        return process.exit_reason
