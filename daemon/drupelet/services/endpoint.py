"""An endpoint: a channel and the calls that are open on it, in both directions.

Decides how the frames of calls, bodies and streams move between a channel, the programs in this
process that wait, and other endpoints. Who may call what is the router's (`services/calls.py`).
Links between nodes, workers and clients are all endpoints; forwarding between two of them rewrites
ids and never opens a body.

Waiters in the table of calls that we opened:
- a trio Task: a program in this process; it is rescheduled with the encoded value;
- a `Gather`: many calls of one program, woken once;
- a tuple ``(endpoint, ident)``: a forwarded call; the answer goes there;
- an `Admitted`: the same for a stranger's call, whose end is counted. As a lease (wire/frames.py)
  it stays in the table after its answer, until the worker closes it;
- a `Stream`.

References: trio's `wait_task_rescheduled`; NOTES "What decides speed" for why there is no Event, no
cancel scope and no memory channel per call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import outcome
import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from drupelet.core.calls import CallTable
from drupelet.errors import (
    CallError,
    NoConnection,
    RemoteProtocolError,
    Timeout,
    error_from_fields,
    error_to_fields,
)
from drupelet.services.directory import Router as Router
from drupelet.services.sending import Sending, too_large
from drupelet.services.streams import Stream
from drupelet.services.waiters import Admitted, Gather
from drupelet.wire import frames
from drupelet.wire.bodies import Assembly
from drupelet.wire.codec import dumps, loads_control
from drupelet.wire.frames import FLAG_MORE, HEADER, U32, U64, frame
from drupelet.wire.limits import (
    BODY_BYTES_MAX,
    BULK_BYTES_MAX,
    CALLS_PER_LINK_MAX,
    HELD_BYTES_MAX,
    OUT_BYTES_MAX,
    STREAMS_PER_LINK_MAX,
)

if TYPE_CHECKING:
    from drupelet.net.channel import Channel
    from drupelet.services.deadlines import Deadlines

_Value = outcome.Value
_ANSWERS_BYTES_MAX = 2 * OUT_BYTES_MAX  # more waits for the peer: answers become errors
_pack_header = HEADER.pack


Waiter = Task | Gather | tuple["Endpoint", int] | Stream | Admitted
Serving = tuple["Endpoint", int] | trio.CancelScope | Stream


class Endpoint:
    """One channel's calls. `ring`: the right of its peer: operator, member, stranger, worker, or
    confined (a worker that may call nothing). `binding`: a stranger's handshake hash."""

    __slots__ = (
        "_assembly",
        "_deadlines",
        "_router",
        "_sending",
        "binding",
        "channel",
        "close_error",
        "incarnation",
        "key",
        "last_received",
        "name",
        "on_closed",
        "on_control",
        "on_hello",
        "on_pong",
        "ring",
        "serving",
        "table",
    )

    direct: ClassVar[bool] = True  # a link; through a relay no pid travels

    def __init__(
        self,
        channel: Channel,
        router: Router,
        deadlines: Deadlines,
        *,
        opener: bool,
        ring: str,
        name: str = "",
        key: bytes = b"",
        calls_max: int = CALLS_PER_LINK_MAX,
    ) -> None:
        self.channel = channel
        self.ring = ring
        self.name = name
        self.key = key
        self.table = CallTable(2 if opener else 1, calls_max)
        self.serving: dict[int, Serving] = {}
        self.incarnation = 0
        self.binding = b""
        self.last_received = 0.0
        self.on_closed: Callable[[], None] | None = None
        self.close_error: CallError | None = None  # what open calls get when the peer goes
        self.on_hello: Callable[[bytes], None] | None = None
        self.on_pong: Callable[[int], None] | None = None
        self.on_control: Callable[[int, bytes], None] | None = None
        self._router = router
        self._deadlines = deadlines
        self._assembly: Assembly | None = None
        self._sending: Sending | None = None

    # -- life

    async def run(self, initial: bytes = b"") -> str:
        """Carry frames until the channel closes; return why. Every open call then has its outcome.

        Raises: `RemoteProtocolError` for what the peer must not send.
        """
        self.last_received = trio.current_time()
        self.channel.start(self._handlers(), self._on_pass)
        self._deadlines.add(self)
        try:
            return await self.channel.run(initial)
        finally:
            reason = self.channel.close_reason
            self.close(self.close_error or NoConnection(reason, maybe_ran=True))

    def close(self, error: CallError) -> None:
        """Close the channel; calls that we opened end with `error`, all we serve are dropped."""
        self.channel.close(error.reason if isinstance(error, NoConnection) else "closed")
        self._deadlines.discard(self)
        for ident, waiter in self.table.drain():
            self._give_error(ident, waiter, error)  # type: ignore[arg-type]
        for _, lease in self.table.drain():
            lease.over()  # type: ignore[attr-defined]
        serving, self.serving = self.serving, {}
        for served in serving.values():
            self._drop(served)
        self._assembly = self._sending = None
        on_closed, self.on_closed = self.on_closed, None
        if on_closed is not None:
            on_closed()

    @property
    def closed(self) -> bool:
        """Whether its channel is closed."""
        return self.channel.closed

    @property
    def open_calls(self) -> int:
        """How many calls that we sent have no answer yet."""
        return len(self.table)

    @property
    def has_unsent(self) -> bool:
        """Whether values wait for the peer to read on."""
        bodies = self._sending is not None and self._sending.unfinished
        return bodies or self.channel.queued_bytes + self.channel.bulk_bytes > 0

    def _on_pass(self) -> None:
        self.last_received = trio.current_time()

    def _handlers(self) -> Sequence[Callable[[int, bytes], None]]:
        """One entry per frame kind, 0 unused."""
        return (
            self._on_control, self._on_call, self._on_cast, self._on_reply, self._on_error,
            self._on_cancel, self._on_data, self._on_credit, self._on_open, self._on_close,
            self._on_ping, self._on_pong, self._on_goodbye, self._on_gossip, self._on_hello_frame,
        )  # fmt: skip

    # -- calls that programs in this process make

    async def call(self, prefix: bytes, args: bytes, deadline: float) -> bytes:
        """One call. `prefix` is a call body's header with its target; `args` are encoded.

        Returns the answer's body: a flags byte, then the encoded value.
        Raises: `CallError`. Cancellation: the callee is told (CANCEL), the answer is dropped.
        """
        channel = self.channel
        if channel.close_reason or channel.queued_bytes:
            self._check_open()
        table = self.table
        ident = table.open(current_task(), deadline)
        if len(args) > frames.MORE_ABOVE:
            self._send_large(frames.CALL, ident, prefix, args)
        else:
            message = _pack_header(len(prefix) + len(args) + 5, frames.CALL, ident) + prefix + args
            if len(table) == 1:
                channel.send_frame_now(message)
            else:
                channel.queue(message)
        if deadline < self._deadlines.wakes_at:
            self._deadlines.arm(deadline)

        def abort(_: object) -> Abort:
            table.close(ident)
            self._forget(ident)
            channel.queue(frame(frames.CANCEL, ident))
            return Abort.SUCCEEDED

        body: bytes = await wait_task_rescheduled(abort)
        return body

    async def call_many(
        self, prefix: bytes, many: Sequence[bytes], deadline: float
    ) -> list[bytes | CallError]:
        """Many calls of one function: one flush, one wake-up. Answers in the order of `many`."""
        self._check_open()
        if not many:
            return []
        table = self.table
        gather = Gather(current_task(), len(many))
        queue = self.channel.queue
        idents: list[int] = []
        length = len(prefix) + 5
        for args in many:
            ident = table.open(gather, deadline)
            idents.append(ident)
            if len(args) > frames.MORE_ABOVE:
                self._send_large(frames.CALL, ident, prefix, args)
            else:
                queue(_pack_header(length + len(args), frames.CALL, ident) + prefix + args)
        self.channel.send_now()  # it is a batch already: waiting for others would only delay it
        if deadline < self._deadlines.wakes_at:
            self._deadlines.arm(deadline)

        def abort(_: object) -> Abort:
            for ident in idents:
                if table.close(ident) is not None:
                    self._forget(ident)
                    queue(frame(frames.CANCEL, ident))
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)
        bodies = gather.bodies
        return [bodies[ident] for ident in idents]

    def cast(self, prefix: bytes, args: bytes) -> None:
        """A call without an answer. `args` within one fragment."""
        self._check_open()
        self.channel.queue(frame(frames.CAST, 0, prefix + args))

    def _check_open(self) -> None:
        if self.channel.closed:
            raise NoConnection(self.channel.close_reason)
        if self.channel.congested:
            raise NoConnection("overloaded")

    def _send_large(self, kind: int, ident: int, prefix: bytes, body: bytes) -> None:
        """A body in fragments: the first with its header, the rest under credit."""
        if self._sending is None:
            self._sending = Sending(self.channel)
        self._sending.start(kind, ident, prefix, body)

    def _forget(self, ident: int) -> None:
        """Drop half-sent and half-received bodies of a call that ended."""
        if self._assembly is not None:
            self._assembly.drop(ident)
        if self._sending is not None:
            self._sending.drop(ident)

    # -- deadlines (services/deadlines.py)

    def next_timer(self) -> float:
        """When the earliest call may be due."""
        return self.table.next_timer()

    def handle_timer(self, now: float) -> None:
        """End the calls that are due with `Timeout`."""
        error = Timeout(maybe_ran=True)
        for ident, waiter in self.table.expire(now):
            self._forget(ident)
            self._give_error(ident, waiter, error)  # type: ignore[arg-type]
            self.channel.queue(frame(frames.CANCEL, ident))

    # -- calls that the peer makes, for the router

    def reply(self, ident: int, encoded: bytes) -> None:
        """Answer the peer's call with an encoded value."""
        self.serving.pop(ident, None)
        held_bytes = self._sending.held_bytes if self._sending is not None else 0
        if self.channel.queued_bytes > _ANSWERS_BYTES_MAX or held_bytes > HELD_BYTES_MAX:
            self.reply_error(ident, NoConnection("overloaded", maybe_ran=True))
        elif len(encoded) > frames.MORE_ABOVE:
            if len(encoded) > BODY_BYTES_MAX:
                self.reply_error(ident, too_large(len(encoded)))
                return
            self._send_large(frames.REPLY, ident, b"\0", encoded)
        else:
            self.channel.queue(
                _pack_header(len(encoded) + 6, frames.REPLY, ident) + b"\0" + encoded
            )

    def reply_error(self, ident: int, error: CallError) -> None:
        """Answer the peer's call with a failure."""
        self.serving.pop(ident, None)
        self.channel.queue(frame(frames.ERROR, ident, dumps(error_to_fields(error))))

    def forward(
        self, origin: Endpoint, theirs: int, prefix: bytes, args: bytes, deadline: float, more: int
    ) -> None:
        """Pass on the call `theirs` of `origin`. `more`: the rest comes in DATA frames."""
        if more and self.channel.bulk_bytes > BULK_BYTES_MAX:
            raise NoConnection("overloaded")
        ident = self.table.open((origin, theirs), deadline)
        origin.serving[theirs] = (self, ident)
        if more:
            head = bytes((prefix[0] | FLAG_MORE,)) + prefix[1:]
            self.channel.queue(frame(frames.CALL, ident, head + args))
        elif len(args) > frames.MORE_ABOVE:
            self._send_large(frames.CALL, ident, prefix, args)
        else:
            self.channel.queue(
                _pack_header(len(prefix) + len(args) + 5, frames.CALL, ident) + prefix + args
            )
        if deadline < self._deadlines.wakes_at:
            self._deadlines.arm(deadline)

    def pass_on(self, waiter: Admitted, prefix: bytes, args: bytes, deadline: float) -> None:
        """Pass on a stranger's call, whole. Raises: `NoConnection`."""
        self._check_open()
        if not waiter.theirs and len(args) > frames.MORE_ABOVE:
            raise too_large(len(args))
        ident = waiter.ident = self.table.open(waiter, deadline)
        if not waiter.theirs:
            self.channel.queue(frame(frames.CAST, ident, prefix + args))
            return
        waiter.origin.serving[waiter.theirs] = (self, ident)
        if len(args) > frames.MORE_ABOVE:
            self._send_large(frames.CALL, ident, prefix, args)
        else:
            self.channel.queue(frame(frames.CALL, ident, prefix + args))
        if deadline < self._deadlines.wakes_at:
            self._deadlines.arm(deadline)

    def withdraw(self, waiter: Admitted, error: CallError) -> None:
        """End what was passed on to this worker: it is told to stop, and the caller `error`."""
        waiter.answer(error)
        if waiter.is_lease and not self.closed:
            self._forget(waiter.ident)
            self.channel.queue(frame(frames.CANCEL, waiter.ident))
            self._keep_lease(waiter.ident, waiter)

    def _keep_lease(self, ident: int, waiter: Admitted) -> None:
        """What was answered, or is cancelled, stays until the worker closes it."""
        if waiter.is_lease:
            self.table.keep(ident, waiter)

    def assemble(self, ident: int, first: bytes, whole: Callable[[bytes], None]) -> bool:
        """The peer's body goes on in DATA frames; `whole` is called with all of it.

        False: too much is unfinished already; the call is to be refused.
        """
        if self._assembly is None:
            self._assembly = Assembly()
        return self._assembly.start(ident, first, whole)

    # -- frames

    def _on_call(self, ident: int, body: bytes) -> None:
        if ident in self.serving or not ident or (ident & 1) == self.table.parity:
            raise RemoteProtocolError("call id in use or of the wrong side")
        if self._assembly is not None and ident in self._assembly:
            raise RemoteProtocolError("call id in use")
        self._router.on_call(self, ident, body)

    def _on_cast(self, ident: int, body: bytes) -> None:
        self._router.on_cast(self, body)

    def _on_reply(self, ident: int, body: bytes) -> None:
        if not body:
            raise RemoteProtocolError("empty reply")
        if body[0]:
            self._start_reply(ident, body)
            return
        waiter = self.table.close(ident)
        if waiter.__class__ is tuple:
            origin, theirs = waiter
            origin.serving.pop(theirs, None)
            if origin.channel.queued_bytes > _ANSWERS_BYTES_MAX:
                origin.reply_error(theirs, NoConnection("overloaded", maybe_ran=True))
                return
            origin.channel.queue(_pack_header(len(body) + 5, frames.REPLY, theirs) + body)
        elif waiter.__class__ is Task:
            reschedule(waiter, _Value(body))
        elif waiter.__class__ is Gather:
            waiter.answer(ident, body)
        elif isinstance(waiter, Admitted):
            waiter.answer(body)
            self._keep_lease(ident, waiter)
        elif waiter is not None:
            raise RemoteProtocolError("reply to a stream")

    def _start_reply(self, ident: int, body: bytes) -> None:
        """A value in fragments."""
        waiter = self.table.peek(ident)
        if waiter is None:
            return
        if isinstance(waiter, tuple):
            origin, theirs = waiter
            origin.channel.queue(frame(frames.REPLY, theirs, body))
            return
        if not self.assemble(ident, body[1:], lambda whole: self._on_reply(ident, b"\0" + whole)):
            self.table.close(ident)
            self.channel.queue(frame(frames.CANCEL, ident))
            self._give_error(ident, waiter, NoConnection("overloaded", maybe_ran=True))  # type: ignore[arg-type]

    def _on_error(self, ident: int, body: bytes) -> None:
        waiter = self.table.close(ident)
        if waiter is None:
            return
        self._forget(ident)
        if isinstance(waiter, tuple):
            origin, theirs = waiter
            origin.serving.pop(theirs, None)
            origin.channel.queue(frame(frames.ERROR, theirs, body))
            return
        self._give_error(ident, waiter, error_from_fields(loads_control(body)))  # type: ignore[arg-type]

    def _give_error(self, ident: int, waiter: Waiter, error: CallError) -> None:
        if isinstance(waiter, Task):
            reschedule(waiter, outcome.Error(error))
        elif isinstance(waiter, Gather):
            waiter.answer(ident, error)
        elif isinstance(waiter, Stream):
            waiter.closed_by_peer(error)
        elif isinstance(waiter, Admitted):
            waiter.answer(error)
            self._keep_lease(ident, waiter)
        else:
            origin, theirs = waiter
            if not origin.closed:
                origin.reply_error(theirs, error)

    def _on_cancel(self, ident: int, body: bytes) -> None:
        served = self.serving.pop(ident, None)
        self._forget(ident)
        if served is not None:
            self._drop(served)

    def _drop(self, served: Serving) -> None:
        """The peer no longer wants what we do for it."""
        if isinstance(served, tuple):
            endpoint, ident = served
            waiter = endpoint.table.close(ident)
            if waiter is not None and not endpoint.closed:
                endpoint._forget(ident)
                endpoint.channel.queue(frame(frames.CANCEL, ident))
            if isinstance(waiter, Admitted):
                waiter.end()
                endpoint._keep_lease(ident, waiter)
        elif isinstance(served, trio.CancelScope):
            served.cancel()
        else:
            served.closed_by_peer(NoConnection("closed"))

    def _on_data(self, ident: int, body: bytes) -> None:
        other = self._state(ident)
        if isinstance(other, tuple):
            endpoint, theirs = other
            endpoint.channel.queue_bulk(frame(frames.DATA, theirs, body))
            ours = (ident & 1) == self.table.parity
            if ours and body and not body[0] & FLAG_MORE and self.table.close(ident) is not None:
                endpoint.serving.pop(theirs, None)
        elif isinstance(other, Stream):
            other.data_received(body)
        elif self._assembly is not None and ident in self._assembly:
            try:
                credit = self._assembly.receive(ident, body)
            except NoConnection as error:
                self._refuse_body(ident, error)
                return
            if credit is not None:
                self.channel.queue(credit)

    def _refuse_body(self, ident: int, error: NoConnection) -> None:
        """There is no room for the rest of a body: that call ends, and nothing else."""
        if (ident & 1) != self.table.parity:
            self.reply_error(ident, error)
            return
        waiter = self.table.close(ident)
        if waiter is not None:
            self.channel.queue(frame(frames.CANCEL, ident))
            self._give_error(ident, waiter, NoConnection(error.reason, maybe_ran=True))  # type: ignore[arg-type]

    def _on_credit(self, ident: int, body: bytes) -> None:
        if len(body) != U32.size:
            raise RemoteProtocolError("malformed credit")
        if self._sending is not None and ident in self._sending:
            self._sending.credit(ident, U32.unpack(body)[0])
            return
        other = self._state(ident)
        if isinstance(other, tuple):
            endpoint, theirs = other
            endpoint.channel.queue(frame(frames.CREDIT, theirs, body))
        elif isinstance(other, Stream):
            other.credit_received(U32.unpack(body)[0])

    def _state(self, ident: int) -> object:
        if (ident & 1) == self.table.parity:
            return self.table.peek(ident)
        return self.serving.get(ident)

    # -- streams

    def open_stream(self, stream_type: bytes) -> Stream:
        """A byte stream to the peer's handler of `stream_type`. Raises: `NoConnection`."""
        self._check_open()
        stream = Stream(self.channel, self._end_stream)
        stream.ident = self.table.open(stream, float("inf"))
        self.channel.queue(frame(frames.OPEN, stream.ident, stream_type))
        return stream

    def accept_stream(self, ident: int) -> Stream:
        """Take the stream that the peer opened (router)."""
        stream = Stream(self.channel, self._end_stream)
        stream.ident = ident
        self.serving[ident] = stream
        return stream

    def refuse_stream(self, ident: int, error: CallError) -> None:
        """Do not take the stream that the peer opened."""
        self.channel.queue(frame(frames.CLOSE, ident, dumps(error_to_fields(error))))

    def _end_stream(self, ident: int) -> None:
        if (ident & 1) == self.table.parity:
            self.table.close(ident)
        else:
            self.serving.pop(ident, None)

    def _on_open(self, ident: int, body: bytes) -> None:
        if ident in self.serving or not ident or (ident & 1) == self.table.parity:
            raise RemoteProtocolError("stream id in use or of the wrong side")
        streams = sum(isinstance(each, Stream) for each in self.serving.values())
        if streams >= STREAMS_PER_LINK_MAX:
            self.refuse_stream(ident, NoConnection("overloaded"))
            return
        self._router.on_open(self, ident, body)

    def _on_close(self, ident: int, body: bytes) -> None:
        other = self._state(ident)
        if isinstance(other, Stream):
            error = error_from_fields(loads_control(body)) if body else None
            other.closed_by_peer(error)
        elif isinstance(other, Admitted):
            self.table.close(ident)
            other.over()

    # -- the channel itself

    def ping(self, token: int) -> None:
        """Ask for a PONG with the same token."""
        self.channel.queue(frame(frames.PING, 0, U64.pack(token)))

    def _on_ping(self, ident: int, body: bytes) -> None:
        if len(body) != U64.size:
            raise RemoteProtocolError("malformed ping")
        self.channel.queue(frame(frames.PONG, 0, body))

    def _on_pong(self, ident: int, body: bytes) -> None:
        if len(body) != U64.size:
            raise RemoteProtocolError("malformed pong")
        if self.on_pong is not None:
            self.on_pong(U64.unpack(body)[0])

    def _on_hello_frame(self, ident: int, body: bytes) -> None:
        if self.on_hello is None:
            raise RemoteProtocolError("unexpected hello")
        on_hello, self.on_hello = self.on_hello, None
        on_hello(body)

    def _on_goodbye(self, ident: int, body: bytes) -> None:
        self._on_control(frames.GOODBYE, body)

    def _on_gossip(self, ident: int, body: bytes) -> None:
        self._on_control(frames.GOSSIP, body)

    def _on_control(self, kind: int, body: bytes) -> None:
        if self.on_control is None:
            raise RemoteProtocolError("frame kind that this channel does not carry")
        self.on_control(kind, body)
