"""The processes that a mission's worker keeps alive, and the way from a call to one of them.

Decides how a class that is marked with `@mission` and is a behaviour (GenServer, GenStatem,
GenEvent, Supervisor; process/serving.py) serves: one process, registered as ``mission.Class`` on
its node, under a supervisor of the worker's, beside what the functions marked with `@at_start`
started.

Rules
- No call runs before every first start is over; one that fails ends the worker, with its reason.
- A call becomes a request in the server's mailbox at once, in the order of the channel, without a
  task of its own. When its caller gives up, a verb that has not begun never does; the one under
  way is finished, and `endings.py` told.
- The server ended while a call waited: its caller gets `RemoteError` with the exception's class
  name; what comes before it runs again waits. More than INTENSITY restarts within PERIOD_S end the
  worker, and its daemon starts the next one with back-off.
- New code: the servers go over to it at their next message (gen_server.py), with their state. What
  the new version does not have any more is stopped, what it has more is started.

*Owns*, through its supervisor, these processes.
References: OTP's `application_master` (a top supervisor per application).
Rejected: a task for each call, as async functions have (two casts of one caller could change
places, and 30 us more); the instance called directly (no mailbox: no trace, link or monitor).
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final, Protocol, cast

import trio

from drupelet.errors import (
    CallError,
    NameTaken,
    ProcessDown,
    Refused,
    RemoteError,
)
from drupelet.lease import Lease, lease_var
from drupelet.process.api import trap_exit
from drupelet.process.children import SUPERVISOR, Child, start_calls
from drupelet.process.current import this_process
from drupelet.process.errands import Errand
from drupelet.process.kernel import Ask
from drupelet.process.runtime import Runtime
from drupelet.process.serving import face_of
from drupelet.process.supervisor import Supervisor
from drupelet.process.table import Process
from drupelet.wire.ids import Pid, check_plain_name
from drupelet.wire.limits import WORKER_CALLS_MAX
from drupelet.wire.notices import Exit
from drupelet.worker.endings import Endings
from drupelet.worker.targets import Target

_log = logging.getLogger("drupelet.worker")

INTENSITY: Final = 3  # restarts of one worker's processes ...
PERIOD_S: Final = 5.0  # ... within that
START_S: Final = 30.0  # all first starts together
_OVERLOADED: Final = "too much waits for this server already; try again later"

Done = Callable[[object, CallError | None], None]
"""Told the value, or why there is none."""


class Code(Protocol):
    """What of `loading.Loaded` this needs."""

    @property
    def servers(self) -> Any: ...

    @property
    def starts(self) -> Any: ...

    @property
    def missions(self) -> Any: ...


class SessionLike(Protocol):
    """What of `session.Session` this needs."""

    running: dict[int, Callable[[], None]]

    def finish(self, ident: int, target: Target, value: object) -> None: ...

    def fail(self, ident: int, target: Target, error: BaseException) -> None: ...


class _Answer:
    """Takes the answer of one request in the place of a task (`Runtime.wake`)."""

    __slots__ = ("done", "value_of")

    def __init__(self, done: Done, value_of: Callable[[object], object]) -> None:
        self.done = done
        self.value_of = value_of

    def wake(self, value: object) -> None:
        try:
            value = self.value_of(value)
        except CallError as error:
            self.done(None, error)
        else:
            self.done(value, None)

    def wake_error(self, error: Exception) -> None:
        self.done(None, as_remote(error))


def as_remote(error: Exception) -> CallError:
    """What a caller elsewhere is told when the server is gone."""
    if isinstance(error, ProcessDown):
        match error.reason:
            case (str(kind), str(message)):
                return RemoteError(kind, message)
        return RemoteError("process_down", f"the server ended: {error.reason!r:.200}")
    if isinstance(error, CallError):
        return error
    return RemoteError(type(error).__name__, str(error))


class _Ticket:
    """A request of a caller: where it is, and by whose right it was made."""

    __slots__ = ("errand", "given_up", "ident", "lease", "number")

    def __init__(self, ident: int, lease: Lease | None) -> None:
        self.ident = ident
        self.lease = lease
        self.given_up = False
        self.errand: Errand | None = None  # once it was put into a mailbox, as ask `number`
        self.number = 0


class Slot:
    """One class of servers: where its requests go, whether its process runs now or not."""

    def __init__(self, name: str, cls: type, runtime: Runtime, endings: Endings) -> None:
        self.name = name
        self.change(cls)
        self._runtime = runtime
        self._endings = endings
        self._process: Process | None = None
        self._refusal: RemoteError | None = None  # instead of letting requests wait
        self._waiting: deque[tuple[object, Done | None, _Ticket]] = deque()

    def change(self, cls: type) -> None:
        """It is this class from now on."""
        face = face_of(cls)
        assert face is not None  # loading.py takes no others
        self.face = face

    # -- the process

    async def start(self) -> Pid:
        """Start it, linked to the supervisor that calls this."""
        try:
            check_plain_name(self.name)
            pid = await self.face.start(self.name)
        except (ValueError, NameTaken) as error:
            _log.warning("server_without_name server=%s: %s, starting it so", self.name, error)
            pid = await self.face.start(None)
        if pid is None:  # its init returned IGNORE
            raise Refused(("ignored", self.name))
        self._process = self._runtime.find(pid)
        self._refusal = None
        waiting, self._waiting = self._waiting, deque()
        for request, done, ticket in waiting:  # they wait again should it have ended meanwhile
            self._put(request, done, ticket)
        return pid

    def refuse(self, why: str) -> None:
        """No process is to come: nobody waits for it."""
        self._process = None
        self._refusal = RemoteError("process_down", why)
        waiting, self._waiting = self._waiting, deque()
        for _, done, ticket in waiting:
            if done is not None and not ticket.given_up:
                done(None, self._refusal)

    # -- requests

    def submit(
        self, verb: str, args: Sequence[object], done: Done | None, ident: int = 0
    ) -> Callable[[], None]:
        """Put a request into its mailbox, or in line for it; `done` None: a cast.

        Returns how to give up. `done` may be called before this returns. `ident`: of its call.
        """
        ticket = _Ticket(ident, lease_var.get())
        give_up = functools.partial(self._give_up, ticket)
        face = self.face
        if ticket.lease is not None and (done is not None or face.casts_are_requests):
            ticket.lease.add(ticket, give_up)
            done = functools.partial(self._failed, ticket, done)
        request = face.message(verb, args) if done is None else face.request(verb, args)
        process = self._process
        if process is not None and not process.exiting:
            self._put(request, done, ticket)
        elif self._refusal is not None:
            if done is not None:
                done(None, self._refusal)
        elif len(self._waiting) < WORKER_CALLS_MAX:
            self._waiting.append((request, done, ticket))
        elif done is not None:
            done(None, RemoteError("overloaded", _OVERLOADED))
        return give_up

    @staticmethod
    def _failed(ticket: _Ticket, done: Done | None, value: object, error: CallError | None) -> None:
        """An answer for a stranger; what has none of its own server's is over."""
        if done is not None:
            done(value, error)
        if error is not None and ticket.lease is not None:
            ticket.lease.done(ticket)

    def _put(self, request: object, done: Done | None, ticket: _Ticket) -> None:
        runtime, process = self._runtime, self._process
        if ticket.given_up:
            return
        if process is None or process.exiting:
            self._waiting.append((request, done, ticket))
        elif runtime.full(process):
            if done is not None:
                done(None, RemoteError("overloaded", _OVERLOADED))
            else:
                process.dropped_count += 1
        elif done is None:
            runtime.put(process, request)
        else:
            number = ticket.number = runtime.new_ref()
            runtime.asks[number] = Ask(process.pid, _Answer(done, self.face.value))
            errand = runtime.ask_local(process, number, runtime.pid, request, Errand)
            ticket.errand = cast(Errand, errand)
            if ticket.lease is not None:
                ticket.errand.when_over(functools.partial(ticket.lease.done, ticket))

    def _give_up(self, ticket: _Ticket) -> None:
        if ticket.given_up:
            return
        ticket.given_up = True
        errand = ticket.errand
        if errand is None:
            self._over(ticket)
            return
        ask = self._runtime.asks.pop(ticket.number, None)
        if ask is not None:
            self._runtime.forget_ask(ticket.number, ask)
        if errand.take_back(functools.partial(self._over, ticket)):
            self._over(ticket)
        else:
            self._endings.cancelled(ticket, ticket.ident)

    def _over(self, ticket: _Ticket) -> None:
        if ticket.lease is not None:
            ticket.lease.done(ticket)
        self._endings.ended(ticket)

    # -- calls of the channel

    def serve(
        self,
        session: SessionLike,
        wake: Callable[[bool], None],
        ident: int,
        target: Target,
        args: list[object],
    ) -> None:
        """Answer a call (ident -1: a cast) when its value comes."""
        verb = target.verb
        if ident < 0:
            self.submit(verb, args, None)
            session.finish(ident, target, None)
            return

        def done(value: object, error: CallError | None) -> None:
            if error is None:
                session.finish(ident, target, value)
            else:
                session.fail(ident, target, error)
            process = self._process
            wake(process is None or not process.messages)

        session.running[ident] = lambda: None
        give_up = self.submit(verb, args, done, ident)
        if ident in session.running:
            session.running[ident] = give_up

    async def ask_all(
        self,
        verb: str,
        calls: Sequence[Sequence[object]],
        give_up: list[Callable[[], None]] | None = None,
    ) -> list[tuple[object, CallError | None]]:
        """Many requests in their order, all made at once: the value or error of each.

        How to give up each of them is put into `give_up` before this waits.
        """
        outcomes: list[tuple[object, CallError | None]] = [(None, None)] * len(calls)
        answered = trio.Event()
        left = len(calls)

        def make_done(index: int) -> Done:
            def done(value: object, error: CallError | None) -> None:
                nonlocal left
                outcomes[index] = (value, error)
                left -= 1
                if not left:
                    answered.set()

            return done

        give_up = [] if give_up is None else give_up
        for index, args in enumerate(calls):
            give_up.append(self.submit(verb, args, make_done(index)))
        try:
            if left:
                await answered.wait()
        finally:
            if left:
                for each in give_up:
                    each()
        return outcomes


class Servers:
    """All of a worker's, under one supervisor. `code`: what is loaded now."""

    def __init__(self, runtime: Runtime, code: Callable[[], Code], endings: Endings) -> None:
        self.slots: dict[str, Slot] = {}
        self._runtime = runtime
        self._endings = endings
        self._code = code
        self._starts: dict[str, Callable[..., object]] = {}
        self._supervisor: Pid | None = None
        self._running: set[str] = set()
        self._lock = trio.Lock()
        self.take()

    def take(self) -> None:
        """The code is another: calls go where it says. `change` starts and stops processes."""
        code = self._code()
        self._starts = dict(code.starts)
        for name, cls in code.servers.items():
            slot = self.slots.get(name)
            if slot is None:
                self.slots[name] = Slot(name, cls, self._runtime, self._endings)
            else:
                slot.change(cls)
        for targets in code.missions.values():
            for target in targets.values():
                if target.server:
                    target.slot = self.slots[target.server]

    async def run(self, started: Callable[[], None]) -> str:
        """Until it fails, which it tells: a first start, or too many restarts."""
        trap_exit()
        process = this_process()
        children = [self._child(key) for key in self._wanted()]
        self._running = set(self._wanted())
        try:
            with trio.fail_after(START_S):
                self._supervisor = await Supervisor.start_link(
                    children, intensity=INTENSITY, period_s=PERIOD_S
                )
        except ProcessDown as down:
            return f"its processes do not start: {down.reason!r:.1000}"
        except trio.TooSlowError:
            return f"its processes did not start within {START_S:g} s"
        started()
        message = await self._runtime.receive_message(process, Exit, inf)
        reason = cast(Exit, message).reason
        if reason == "shutdown":
            return f"its processes ended more than {INTENSITY} times within {PERIOD_S:g} s"
        return f"the supervisor of its processes ended: {reason!r:.200}"

    async def change(self) -> None:
        """After `take`: start what is new, stop what is gone."""
        with contextlib.suppress(ProcessDown):  # the supervisor ended, which `run` tells
            await self._change()

    async def _change(self) -> None:
        async with self._lock:
            supervisor = self._supervisor
            if supervisor is None:
                return
            wanted = self._wanted()
            for key in sorted(self._running.difference(wanted)):
                await Supervisor.terminate_child(supervisor, key)
                await Supervisor.delete_child(supervisor, key)
                self._running.discard(key)
                if key not in self._wanted() and key in self.slots:  # by now
                    self.slots.pop(key).refuse("the mission's new code has no such server")
            for key in wanted:
                if key not in self._running:
                    await self._start_child(supervisor, key)

    async def _start_child(self, supervisor: Pid, key: str) -> None:
        slot = self.slots.get(key)
        try:
            await Supervisor.start_child(supervisor, self._child(key))
        except Refused as refused:
            _log.warning("not_started what=%s reason=%r, serving without it", key, refused.reason)
            if slot is not None:
                slot.refuse(f"the server did not start: {refused.reason!r:.200}")
        else:
            self._running.add(key)

    def _wanted(self) -> list[str]:
        """First what `at_start` marks: servers may need it."""
        return [*self._starts, *self._code().servers]

    def _child(self, key: str) -> Child:
        slot = self.slots.get(key)
        if slot is not None:
            kind = SUPERVISOR if slot.face.is_supervisor else None
            return Child(key, start_calls(slot.start), type=kind)
        return Child(key, start_calls(self._start(key)), restart="transient")

    def _start(self, key: str) -> Callable[[], object]:
        def start() -> object:
            return self._starts[key]()

        return start
