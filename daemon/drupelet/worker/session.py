"""A worker's end of its channel: frames in, calls run, frames out. Knows no socket and no trio.

Decides which function a call runs, what its caller is told when it fails, and when gathered replies
are sent. The owner gives it bytes (`receive`) and a `flush` that sends `out`; `loops.py` has both.

Rules
- The hot path is one Python frame per call: header, table, decode, function, encode, append. No
  task, lock, channel or scope; all replies of one read go out in one send. A slow batch is sent
  piece by piece (after FLUSH_S or FLUSH_BYTES), so that a fast call does not wait for a slow one.
- Async and threaded functions are handed to `spawn`, at most WORKER_CALLS_MAX at once, with those
  that were cancelled and have not ended (`endings.py`).
- A call that is cancelled while calls are held never begins.
- A function's exception is an answer: `RemoteError(class name, message, traceback)` without our
  own frames in it. MemoryError is one too.
- Bodies and credit come from strangers (the daemon forwards them unopened): whatever they hold ends
  their own call and nothing else. Frame headers are the daemon's: `RemoteProtocolError`, and the
  worker ends.

References: NOTES, "What decides speed".
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from drupelet.errors import (
    CallError,
    NotSendable,
    RemoteError,
    RemoteProtocolError,
    error_to_fields,
)
from drupelet.lease import lease_var
from drupelet.wire import frames, limits
from drupelet.wire.bodies import Incoming, Outgoing
from drupelet.wire.codec import dumps, loads
from drupelet.wire.frames import (
    CALL_HEADER,
    CALL_HEADER_BYTES,
    DIGEST_BYTES,
    FLAG_DIGEST,
    FLAG_LEASE,
    FLAG_MANY,
    FLAG_MORE,
    HEADER,
    REPLY,
    U32,
    FrameReader,
    frame,
)
from drupelet.worker.arguments import complaint
from drupelet.worker.endings import SETTLE_TARGET, Endings
from drupelet.worker.failures import (
    NO_MEMORY,
    as_call_error,
    bad_arguments,
    describe_count,
    message_of,
    overloaded,
)
from drupelet.worker.leases import Lease, Leases
from drupelet.worker.many import many_target
from drupelet.worker.targets import INLINE, Target

FLUSH_S: Final = 0.005  # a reply waits at most this long for the rest of its batch
FLUSH_BYTES: Final = 262_144  # more in one send gains nothing
ALIVE_S: Final = 1.0  # a batch that takes longer says so: the daemon's ping waits behind it

_unpack_call = CALL_HEADER.unpack_from
_pack_header = HEADER.pack
_SIGNALS_PREFIX: Final = frames.call_body(b"process/signals", b"")
_ALIVE: Final = frame(frames.PONG, 0, bytes(8))
_SETTLED: Final = b"\0" + dumps(True)
_OUT_OF_MEMORY: Final = dumps(error_to_fields(RemoteError("MemoryError", NO_MEMORY)))

Handler = Callable[[int, bytes], None]
Spawn = Callable[[int, Target, list[object]], None]
"""Start a task for (ident, target, arguments); it ends in `finish` or `fail`. Ident -1: a cast."""


class CarrierLike(Protocol):
    """What this needs of `carrier.py`, which imports trio."""

    def on_reply(self, ident: int, body: bytes) -> None: ...

    def on_error(self, ident: int, body: bytes) -> None: ...

    def on_data(self, ident: int, body: bytes) -> None: ...

    def on_credit(self, ident: int, body: bytes) -> None: ...

    def receive_signals(self, data: bytes) -> None: ...


class Session:
    """The calls of one channel.

    `table` maps ``b"mission/function"`` to its target; `flush` sends and clears `out`.
    """

    def __init__(
        self,
        table: dict[bytes, Target],
        flush: Callable[[], None],
        spawn: Spawn | None = None,
        reader: FrameReader | None = None,
    ) -> None:
        self.out: list[bytes] = []
        self.out_bytes = 0
        self.finished = False
        self.running: dict[int, Callable[[], None]] = {}  # ident -> how to cancel it
        self.endings = Endings(self._settled)
        self._leases = Leases(self.endings, self._closed)
        self.wake: Callable[[], None] = lambda: None  # the loop has something to send
        self._cast_count = 0
        self._table = table
        self._flush = flush
        self._spawn = spawn
        self._reader = reader if reader is not None else FrameReader()
        self._incoming: dict[int, tuple[Target, Incoming, int]] = {}
        self._outgoing: dict[int, tuple[Outgoing, int]] = {}
        self._incoming_bytes = 0
        self._outgoing_bytes = 0
        self._flush_at = 0.0
        self._alive_at = 0.0
        self._carrier: CarrierLike | None = None
        self._held: list[tuple[Handler, int, bytes]] | None = None
        self._held_cancelled: set[int] = set()
        self._handlers = self._make_handlers()

    def _make_handlers(self) -> tuple[Handler, ...]:
        wrong: Handler = self._on_wrong
        call: Handler = self._on_call
        cast: Handler = self._on_cast
        cancel: Handler = self._on_cancel
        data: Handler = self._on_data
        credit: Handler = self._on_credit
        reply = error = wrong
        if self._held is not None:
            call, cancel = self._hold_call, self._cancel_held
            cast, data, credit = map(self._holding, (cast, data, credit))
        if self._carrier is not None:
            carrier = self._carrier
            reply, error = carrier.on_reply, carrier.on_error
            cast = _signals_first(cast, carrier.receive_signals)
            data = _by_parity(data, carrier.on_data)
            credit = _by_parity(credit, carrier.on_credit)
        return (
            wrong, call, cast, reply, error, cancel, data, credit, self._on_open, self._on_close,
            self._on_ping, wrong, self._on_goodbye, wrong, wrong,
        )  # fmt: skip

    # -- processes (carrier.py)

    def carry(self, carrier: CarrierLike) -> None:
        """Answers to the worker's own calls, and signals, are the carrier's from now on."""
        self._carrier = carrier
        self._handlers = self._make_handlers()

    def hold(self) -> None:
        """Keep calls and all that belongs to them until `release`."""
        self._held = []
        self._handlers = self._make_handlers()

    def release(self) -> None:
        """Run what was kept, in order."""
        held, self._held = self._held, None
        self._handlers = self._make_handlers()
        cancelled, self._held_cancelled = self._held_cancelled, set()
        for handler, ident, body in held or ():
            if ident not in cancelled:
                handler(ident, body)
            elif handler in (self._on_call, self._on_cast) and body[0] & FLAG_LEASE:
                self._closed(ident)

    def _holding(self, handler: Handler) -> Handler:
        def hold(ident: int, body: bytes) -> None:
            if self._held is None:  # released since the read began
                handler(ident, body)
            else:
                self._held.append((handler, ident, body))

        return hold

    def _hold_call(self, ident: int, body: bytes) -> None:
        if self._held is None or body[CALL_HEADER_BYTES:].startswith(SETTLE_TARGET):
            self._on_call(ident, body)
        else:
            self._held.append((self._on_call, ident, body))

    def _cancel_held(self, ident: int, body: bytes) -> None:
        """At once: others may run already, and what has not begun never does."""
        if self._held is not None and ident:
            self._held_cancelled.add(ident)
        self._on_cancel(ident, body)

    # -- what the loops call

    def take_over(self, flush: Callable[[], None], spawn: Spawn) -> None:
        """Another loop carries this session from now on."""
        self._flush = flush
        self._spawn = spawn

    def receive(self, data: bytes) -> None:
        """Run everything that `data` completes. Raises: `RemoteProtocolError` for bad frames."""
        now = monotonic()
        self._flush_at = now + FLUSH_S
        self._alive_at = now + ALIVE_S
        self._reader.dispatch(data, self._handlers)

    def finish(self, ident: int, target: Target, value: object) -> None:
        """A spawned call returned `value`."""
        if ident < 0:
            self._cast_count -= 1
        elif self.running.pop(ident, None) is not None:
            self._answer(ident, target, value)

    def fail(self, ident: int, target: Target, error: BaseException) -> None:
        """A spawned call raised."""
        if ident < 0:
            self._cast_count -= 1
            self._log_cast(target, error)
        elif self.running.pop(ident, None) is not None:
            self._error(ident, as_call_error(error))

    def dropped(self, ident: int) -> None:
        """A spawned call was cancelled: nobody waits for its answer."""
        if ident < 0:
            self._cast_count -= 1
        else:
            self.running.pop(ident, None)

    # -- calls

    def _on_call(self, ident: int, body: bytes) -> None:
        if len(body) < CALL_HEADER_BYTES:
            raise RemoteProtocolError("short call")
        flags, _, target_length = _unpack_call(body)
        if flags & FLAG_LEASE:
            self._on_leased(self._on_call, ident, flags, body)
            return
        start = CALL_HEADER_BYTES + target_length
        target = self._table.get(body[CALL_HEADER_BYTES:start])
        if target is None:
            if body[CALL_HEADER_BYTES:start] == SETTLE_TARGET:
                self._settle(ident, body[start:])
            else:
                self._undefined(ident, body[CALL_HEADER_BYTES:start])
            return
        if flags:
            if flags & FLAG_DIGEST:
                start += DIGEST_BYTES  # the daemon compared it
            if flags & FLAG_MORE:
                self._assemble(ident, target, body[start:], flags & FLAG_MANY)
                return
        self._run(ident, target, body[start:], flags & FLAG_MANY)

    def _run(self, ident: int, target: Target, encoded: bytes, many: int) -> None:
        """One call with all its arguments; the hot path."""
        try:
            args = loads(encoded)
        except (RemoteProtocolError, MemoryError) as error:
            self._error(ident, bad_arguments(target, str(error)))
            return
        if many:
            combined = many_target(target, args, as_call_error)
            if combined is None:
                self._error(ident, bad_arguments(target, "not an array of argument arrays"))
                return
            target, args = combined, [args]
        if args.__class__ is not list or not target.arity_min <= len(args) <= target.arity_max:
            self._error(ident, bad_arguments(target, describe_count(args)))
            return
        if target.checks and (what := complaint(target.name, target.checks, args)):
            self._error(ident, RemoteError("badarg", what))
            return
        if target.how != INLINE or target.is_cast:
            self._start(ident, target, args)
            return
        try:
            encoded = dumps(target.function(*args))
        except (Exception, SystemExit) as error:  # the function's, told to its caller
            self._error(ident, as_call_error(error))
        else:
            size = len(encoded)
            if size <= frames.MORE_ABOVE:
                self.out.append(_pack_header(size + 6, REPLY, ident) + b"\0" + encoded)
                self.out_bytes += size
            else:
                self._reply_large(ident, encoded)
        if self.out_bytes > FLUSH_BYTES or monotonic() > self._flush_at:
            self._flush_early()

    def _start(self, ident: int, target: Target, args: list[object]) -> None:
        """A call that is not answered by running it inline."""
        if target.is_cast:
            self._answer(ident, target, None)  # taken; that is all that its caller may wait for
            self._run_cast(target, args)
            return
        count = len(self.running) + len(self.endings)
        if self._spawn is None or count >= limits.WORKER_CALLS_MAX:
            self._error(ident, overloaded())
            return
        self._spawn(ident, target, args)

    def _on_cast(self, ident: int, body: bytes) -> None:
        call = frames.split_call(body)
        if call.flags & FLAG_LEASE:
            self._on_leased(self._on_cast, ident, call.flags, body)
            return
        target = self._table.get(call.target)
        if target is None or call.flags & FLAG_MORE:
            return  # nobody waits
        try:
            args = loads(call.args)
        except (RemoteProtocolError, MemoryError) as error:
            self._log_cast(target, error)
            return
        if not isinstance(args, list) or not target.arity_min <= len(args) <= target.arity_max:
            self._log_cast(target, bad_arguments(target, describe_count(args)))
            return
        if target.checks and (what := complaint(target.name, target.checks, args)):
            self._log_cast(target, RemoteError("badarg", what))
            return
        self._run_cast(target, args)

    def _run_cast(self, target: Target, args: list[object]) -> None:
        if target.how != INLINE:
            if self._spawn is not None and self._cast_count < limits.WORKER_CALLS_MAX:
                self._cast_count += 1
                self._spawn(-1, target, args)
            return
        try:
            target.function(*args)
        except (Exception, SystemExit) as error:  # nobody waits: the log has it
            self._log_cast(target, error)
        if monotonic() > self._flush_at:
            self._flush_early()

    @staticmethod
    def _log_cast(target: Target, error: BaseException) -> None:
        """To the mission's log. Never the arguments."""
        sys.stderr.write(f"cast {target.name}: {type(error).__name__}: {message_of(error)}\n")

    def _on_cancel(self, ident: int, _: bytes) -> None:
        cancel = self.running.pop(ident, None)
        if cancel is not None:
            cancel()
        self.endings.forget(ident)
        self._drop_incoming(ident)
        self._drop_outgoing(ident)
        lease = self._leases.get(ident)
        if lease is not None:
            lease.end()
            lease.done(lease)

    def _settle(self, ident: int, encoded: bytes) -> None:
        """The daemon wants to know when what it cancelled has ended."""
        self._leases.look()
        args = loads(encoded)
        calls = args[0] if isinstance(args, list) and args else None
        if not self.endings.ask(ident, None if calls is None else frozenset(calls)):
            self._error(ident, overloaded())

    # -- strangers' calls (leases.py)

    def _on_leased(self, handler: Handler, ident: int, flags: int, body: bytes) -> None:
        """A call or cast of which the daemon wants to know when nothing runs any more."""
        lease = self._leases.open(ident)
        if lease is None:
            self._error(ident, overloaded())
            self._closed(ident)
            return
        self._by_right_of(lease, handler, ident, bytes((flags & ~FLAG_LEASE,)) + body[1:])

    def _by_right_of(self, lease: Lease, run: Callable[..., None], *args: object) -> None:
        token = lease_var.set(lease)
        try:
            run(*args)
        finally:
            lease_var.reset(token)
        if lease.ident not in self._incoming:
            lease.done(lease)

    def _dealt_with(self, ident: int) -> None:
        """Nothing more comes for this call."""
        lease = self._leases.get(ident)
        if lease is not None:
            lease.done(lease)

    def _closed(self, ident: int) -> None:
        self.out.append(frame(frames.CLOSE, ident))
        self.wake()

    def _settled(self, ident: int) -> None:
        self.out.append(frame(REPLY, ident, _SETTLED))
        self.wake()

    # -- answers

    def _answer(self, ident: int, target: Target, value: object) -> None:
        try:
            encoded = dumps(value)
        except (Exception, SystemExit) as error:  # NotSendable, MemoryError, a __len__ that raises
            self._error(ident, as_call_error(error))
            return
        if len(encoded) > frames.MORE_ABOVE:
            self._reply_large(ident, encoded)
            return
        self.out.append(frame(REPLY, ident, b"\0" + encoded))
        self.out_bytes += len(encoded)

    def _error(self, ident: int, error: CallError) -> None:
        try:
            body = dumps(error_to_fields(error))
        except (NotSendable, MemoryError):
            body = _OUT_OF_MEMORY
        self.out.append(frame(frames.ERROR, ident, body))
        self.out_bytes += len(body)
        if self.out_bytes > FLUSH_BYTES:
            self._flush_early()

    def _undefined(self, ident: int, target: bytes) -> None:
        import difflib  # rare: the daemon looks names up first

        known = [name.decode() for name in self._table]
        name = target.decode("utf-8", "replace")
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        self._error(ident, RemoteError("undef", f"this worker has no {name}{hint}"))

    def _reply_large(self, ident: int, encoded: bytes) -> None:
        size = len(encoded)
        if size > limits.BODY_BYTES_MAX:
            what = f"the value has {size} bytes; at most {limits.BODY_BYTES_MAX} fit one reply"
            self._error(ident, RemoteError("too_large", what))
            return
        if self._outgoing_bytes + size > limits.REASSEMBLY_BYTES_MAX:
            self._error(ident, overloaded())
            return
        first = encoded[: limits.FRAGMENT_BYTES_MAX]
        self.out.append(frame(REPLY, ident, bytes((FLAG_MORE,)) + first))
        self.out_bytes += len(first)
        outgoing = Outgoing(ident, encoded)
        lease = self._leases.get(ident)
        if lease is not None:
            lease.add(outgoing, lambda: None)  # `_on_cancel` drops it
        self._outgoing[ident] = (outgoing, size)
        self._outgoing_bytes += size
        self._push(ident, outgoing)

    def _push(self, ident: int, outgoing: Outgoing) -> None:
        for data in outgoing.take():
            self.out.append(data)
            self.out_bytes += len(data)
            if self.out_bytes > FLUSH_BYTES:
                self._flush_early()
        if outgoing.finished:
            self._drop_outgoing(ident)

    def _drop_outgoing(self, ident: int) -> None:
        entry = self._outgoing.pop(ident, None)
        if entry is not None:
            self._outgoing_bytes -= entry[1]
            lease = self._leases.get(ident)
            if lease is not None:
                lease.done(entry[0])

    def _flush_early(self) -> None:
        now = monotonic()
        if now > self._alive_at:
            self.out.append(_ALIVE)
            self._alive_at = now + ALIVE_S
        self._flush_at = now + FLUSH_S
        self._flush()

    # -- bodies in fragments

    def _assemble(self, ident: int, target: Target, first: bytes, many: int) -> None:
        if len(self._incoming) >= limits.STREAMS_PER_LINK_MAX:
            self._error(ident, overloaded())
            return
        self._incoming[ident] = (target, Incoming(first), many)
        self._incoming_bytes += len(first)

    def _on_data(self, ident: int, body: bytes) -> None:
        entry = self._incoming.get(ident)
        if entry is None:
            return  # of a call that was cancelled or refused
        target, incoming, many = entry
        before = incoming.size
        try:
            whole, credit = incoming.receive(ident, body)
        except RemoteProtocolError as error:
            self._incoming_bytes -= before
            del self._incoming[ident]
            self._error(ident, RemoteError("too_large", f"arguments of {target.name}: {error}"))
            self._dealt_with(ident)
            return
        self._incoming_bytes += incoming.size - before
        if credit is not None:
            self.out.append(credit)
        if whole is not None:
            self._drop_incoming(ident)
            lease = self._leases.get(ident)
            if lease is None:
                self._run(ident, target, whole, many)
            else:
                self._by_right_of(lease, self._run, ident, target, whole, many)
        elif self._incoming_bytes > limits.REASSEMBLY_BYTES_MAX:
            self._drop_incoming(ident)
            self._error(ident, overloaded())
            self._dealt_with(ident)

    def _drop_incoming(self, ident: int) -> None:
        entry = self._incoming.pop(ident, None)
        if entry is not None:
            self._incoming_bytes -= entry[1].size

    def _on_credit(self, ident: int, body: bytes) -> None:
        entry = self._outgoing.get(ident)
        if entry is None:
            return
        if len(body) != U32.size:
            self._drop_outgoing(ident)  # its reader's own loss
            return
        entry[0].add_credit(U32.unpack(body)[0])
        self._push(ident, entry[0])

    # -- the channel itself

    def _on_open(self, ident: int, _: bytes) -> None:
        error = RemoteError("undef", "this mission has no streams")
        self.out.append(frame(frames.CLOSE, ident, dumps(error_to_fields(error))))

    def _on_close(self, ident: int, _: bytes) -> None:
        """The answer to a stream that was refused."""

    def _on_ping(self, _: int, body: bytes) -> None:
        self.out.append(frame(frames.PONG, 0, body[:8]))

    def _on_goodbye(self, _: int, __: bytes) -> None:
        self.finished = True

    def _on_wrong(self, _: int, __: bytes) -> None:
        raise RemoteProtocolError("a frame that a worker must not get")


def _signals_first(cast: Handler, receive_signals: Callable[[bytes], None]) -> Handler:
    """A CAST handler: signals to the carrier, the rest to `cast`."""
    prefix = _SIGNALS_PREFIX
    size = len(prefix)

    def on_cast(ident: int, body: bytes) -> None:
        if body.startswith(prefix):
            receive_signals(body[size:])
        else:
            cast(ident, body)

    return on_cast


def _by_parity(theirs: Handler, ours: Handler) -> Handler:
    """A handler of frames of calls in both directions; the daemon's have even ids."""
    return lambda ident, body: ours(ident, body) if ident & 1 else theirs(ident, body)
