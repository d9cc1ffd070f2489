"""Tracing: every message of a process, in the order in which things happened.

Decides what a trace shows and what it costs. What happens to a traced process is recorded at once,
in the runtime in which it happens, so several processes of one program share one order; what comes
from elsewhere is in order for each process.

| kind     | message              | peer             | when                               |
|----------|----------------------|------------------|------------------------------------|
| receive  | the message          | sender, if known | it came into the mailbox           |
| send     | the message          | as it was given  | it was sent                        |
| ask      | the request          | who is asked     | it was sent; arrives as `Request`  |
| reply    | the value            | who had asked    | it was sent                        |
| answer   | the value            | who was asked    | it came back                       |
| spawn    | name of the function | the new process  | it was started                     |
| exit     | the reason           |                  | it ended, or is out of sight       |
| overflow | how many             |                  | events that found no room          |

Rules
- A trace holds when it is opened: what is sent after that is shown, on other nodes too.
- A trace changes nothing for the traced: no wait, no order, no copy that it could see.
- The buffer is bounded; what does not fit is counted, and told where it is missing.
- A process that is not traced pays one look at a field for each message; one that is traced here
  some 0.8 us for each event: 9 % of a request and its reply.
- Events from elsewhere go to a process of ours, the collector, which has no task: they are recorded
  as they arrive, before whatever their sender sent after them.
- A collector is not traced from elsewhere: two that trace each other's would never be quiet.

References: `erlang:trace/3` (kinds, one tracer per process; ours may have several).
Rejected: a mailbox as buffer for processes of this program (a task switch per event: 2 us); tracing
by name patterns of functions (sys:trace and dbg: they need a VM's help).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import trio

from drupelet.errors import CallError, NotSendable, ProcessDown
from drupelet.process.current import this_runtime
from drupelet.process.data import copy_data
from drupelet.wire.codec import dumps
from drupelet.wire.ids import Pid, make_pid
from drupelet.wire.limits import TRACE_EVENTS_MAX
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import NOPROC, encode_signal
from drupelet.wire.notices import Down, Request

if TYPE_CHECKING:
    from drupelet.process.kernel import Kernel
    from drupelet.process.runtime import Runtime
    from drupelet.process.table import Process

EVENTS: Final = 10_000  # kept for who does not read: some 5 MB
OVERFLOW: Final = "overflow"

To = Pid | str | tuple[str, str]
_NEVER_CHANGED: Final = frozenset({str, int, bytes, float, bool, type(None)})
_Raw = tuple[Pid, str, object, object, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEvent:
    """One thing that happened to `pid`. `at`: seconds, on the clock of who traces."""

    kind: str
    pid: Pid
    message: object
    peer: object = None
    at: float = 0.0


class Events:
    """What `trace` yields: an async iterator of `TraceEvent`.

    It ends when every traced process has ended and all was read.
    """

    def __init__(self, runtime: Runtime, limit: int) -> None:
        self._runtime = runtime
        self._limit = limit
        self._events: deque[_Raw] = deque()
        self._missed = 0
        self._missed_of: Pid = runtime.pid
        self._clock = trio.lowlevel.current_clock().current_time
        self._news: trio.Event | None = None
        self._living: set[Pid] = set()
        self._here: list[Process] = []
        self._elsewhere: list[Pid] = []
        self._collector: _Collector | None = None

    async def also(self, to: To) -> None:
        """Trace another process into the same list. Raises: `ProcessDown` for none."""
        runtime = self._runtime
        pid = to if isinstance(to, Pid) else await _find(runtime, to)
        if pid in self._living:
            return
        if not runtime.is_local(pid):
            await self._trace_elsewhere(pid)
            return
        process = runtime.find(pid)
        if process is None:
            raise ProcessDown(NOPROC)
        runtime.set_tracer(process, self._record, True)
        self._here.append(process)
        self._living.add(pid)

    def read(self) -> list[TraceEvent]:
        """What came so far, without waiting."""
        events = []
        while self._events or self._missed:
            events.append(self._next())
        return events

    def close(self) -> None:
        """No more of it."""
        for process in self._here:
            self._runtime.set_tracer(process, self._record, False)
        collector = self._collector
        if collector is not None:
            for pid in self._elsewhere:
                off = encode_signal(wire.TRACE, pid, collector.process.pid, 0, dumps(False))
                self._runtime.transmit(off)
            self._runtime.end(collector.process, "normal")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TraceEvent:
        await trio.lowlevel.checkpoint()
        while not self._events and not self._missed:
            if not self._living:
                raise StopAsyncIteration
            self._news = trio.Event()
            await self._news.wait()
        return self._next()

    # -- inside

    def _next(self) -> TraceEvent:
        if not self._events:
            count, self._missed = self._missed, 0
            return TraceEvent(
                kind=OVERFLOW, pid=self._missed_of, message=count, at=trio.current_time()
            )
        pid, kind, message, peer, at = self._events.popleft()
        return TraceEvent(kind=kind, pid=pid, message=message, peer=peer, at=at)

    def _record(self, pid: Pid, kind: str, message: object, peer: object) -> None:
        events = self._events
        if kind == "exit":
            if pid not in self._living:
                return  # told before
            self._living.discard(pid)
        if len(events) >= self._limit:
            self._missed += 1
            self._missed_of = pid
        else:
            now = self._clock()
            if self._missed:
                events.append((self._missed_of, OVERFLOW, self._missed, None, now))
                self._missed = 0
            if message.__class__ not in _NEVER_CHANGED:
                message = _copy(message)
            events.append((pid, kind, message, peer, now))
        if self._news is not None:
            news, self._news = self._news, None
            news.set()

    # -- processes elsewhere: their runtime sends the events to a process of ours

    async def _trace_elsewhere(self, pid: Pid) -> None:
        runtime = self._runtime
        if self._collector is None:
            self._collector = _Collector(runtime, self._collect, self._lose)
        process = self._collector.process
        self._elsewhere.append(pid)
        self._living.add(pid)
        runtime.transmit(encode_signal(wire.TRACE, pid, process.pid, 0, dumps(True)))
        runtime.monitor(process, pid)
        there = make_pid(pid.node, pid.incarnation, pid.number & ~wire.COUNT_MASK)
        with contextlib.suppress(CallError):  # the answer comes after the order was obeyed
            await runtime.ask_pid(there, ["traced"])

    def _collect(self, message: object) -> None:
        match message:
            case ("trace", Pid() as pid, str(kind), event, peer) if pid in self._living:
                self._record(pid, kind, event, peer)
            case Down(_, Pid() as pid, reason):
                self._record(pid, "exit", reason, None)

    def _lose(self) -> None:
        """Somebody ended our collector."""
        for pid in self._elsewhere:
            self._record(pid, "exit", "killed", None)


def _copy(message: object) -> object:
    """As it is now, whatever becomes of it. A request was checked when it was made."""
    if isinstance(message, Request):
        inner = message.request
        copied = inner if inner.__class__ in _NEVER_CHANGED else copy_data(inner)
        if copied is inner and message.__class__ is Request:
            return message
        return Request(message.caller, copied)  # of an `Errand` too
    return copy_data(message)


class _Collector:
    """A process that hands every message on at once: a `Waiter` is always in its receive."""

    def __init__(
        self, runtime: Runtime, take: Callable[[object], None], lose: Callable[[], None]
    ) -> None:
        self._take = take
        self._lose = lose
        self.process = runtime.new_process(Events)
        self.process.adopted = True  # it has no task that could unwind
        self.process.waiting = self

    def wake(self, value: object) -> None:
        """A message."""
        self.process.waiting = self
        self._take(value)

    def wake_error(self, error: Exception) -> None:
        """Nothing comes any more."""
        self._lose()


class RemoteTracer:
    """Sends what happens to a process of this runtime to a collector elsewhere."""

    __slots__ = ("_kernel", "_missed", "pid")

    def __init__(self, kernel: Kernel, pid: Pid) -> None:
        self._kernel = kernel
        self.pid = pid
        self._missed = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteTracer) and other.pid == self.pid

    def __hash__(self) -> int:
        return hash(self.pid)

    def __call__(self, pid: Pid, kind: str, message: object, peer: object) -> None:
        process = self._kernel.find(pid)
        if process is not None and process.function is Events:
            return
        if kind != "exit" and self._kernel.crowded(self.pid):
            self._missed += 1
            return
        if self._missed:
            missed, self._missed = self._missed, 0
            self._send(pid, (OVERFLOW, missed, None))
        if isinstance(message, Request) and message.__class__ is not Request:
            message = Request(message.caller, message.request)  # an `Errand` is no data
        try:
            self._send(pid, (kind, message, peer))
        except NotSendable:  # one level too deep inside the event
            self._missed += 1

    def _send(self, pid: Pid, event: tuple[str, object, object]) -> None:
        body = dumps(("trace", pid, *event))
        self._kernel.transmit(encode_signal(wire.SEND, self.pid, pid, 0, body))


async def _find(runtime: Runtime, to: str | tuple[str, str]) -> Pid:
    name, node = to if isinstance(to, tuple) else (to, runtime.node)
    pid = await runtime.whereis(name, node)
    if pid is None:
        raise ProcessDown(NOPROC)
    return pid


@asynccontextmanager
async def trace(*to: To, events_max: int = EVENTS) -> AsyncIterator[Events]:
    """Watch every message of these processes (pids or names, of any node), in order.

    `events_max`: 1 to 100,000 events are kept for who does not read them. Raises: `ProcessDown`
    for a process of this program that is not there; of one elsewhere the trace shows its "exit".
    """
    if not 1 <= events_max <= TRACE_EVENTS_MAX:
        raise ValueError(f"a trace keeps 1 to {TRACE_EVENTS_MAX:,} events, not {events_max!r}")
    events = Events(this_runtime(), events_max)
    try:
        for each in to:
            await events.also(each)
        yield events
    finally:
        events.close()
