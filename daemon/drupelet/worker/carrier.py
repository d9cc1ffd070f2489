"""A worker's way to its daemon for processes: signals out and in, and calls of other missions.

Decides how a runtime (`drupelet.process`) is joined to the channel that the worker's session has
already: it is the `Transport` of `process/transport.py`. Knows no socket: frames go into the
session's `out`, and `wake` makes the loop send them.

Rules
- What processes send in one scheduler pass goes in one CAST (more only beyond 32 KiB). A signal
  that waits for an answer and comes alone, LONE_S after the last, goes at once: a pass costs 20 us.
- Signals wait here while the socket is full; `congested` from CONGESTED_BYTES on, and then senders
  wait. They never fill the loop's own buffer, so they never make it block.
- The worker attaches before it runs its first call: a process never has a pid of no node. The
  frames that come meanwhile are kept, in order.
- A mission whose file says ``cluster = false`` is refused; its runtime then runs alone.
- What may be started from elsewhere: the functions that the mission's own modules define, by module
  and qualified name. Never what a module has only imported: `os.system` would be one of them.

Owns: nothing; `attach` runs in the loop's nursery.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Final, Protocol

import outcome
import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from drupelet.errors import (
    CallError,
    CodeMismatch,
    NoConnection,
    NotSendable,
    RemoteError,
    RemoteProtocolError,
    Timeout,
    error_from_fields,
)
from drupelet.wire import frames
from drupelet.wire.bodies import Incoming, Outgoing, first_fragment
from drupelet.wire.codec import dumps, loads
from drupelet.wire.frames import CALL, CANCEL, CAST, FLAG_MORE, U32, frame
from drupelet.wire.limits import (
    BODY_BYTES_MAX,
    CALLS_PER_LINK_MAX,
    FRAGMENT_BYTES_MAX,
    HELD_BYTES_MAX,
    TARGET_BYTES_MAX,
)
from drupelet.wire.messages.processes import ASK, KIND_PLACE, REPLY, SEND, SPAWN

if TYPE_CHECKING:
    from drupelet.process.runtime import Runtime

ATTACH_S: Final = 5.0  # the daemon answers at once
GRACE_S: Final = 0.25  # the daemon answers a late call itself; after this we do
CONGESTED_BYTES: Final = 1024 * 1024  # four times what the socket holds: it never runs dry
PIECE_BYTES_MAX: Final = FRAGMENT_BYTES_MAX - 64  # of the stream of signals in one CAST
LONE_S: Final = 0.0001  # five sends' time: a burst has a signal every 20 us
_LONE_KINDS: Final = frozenset({SEND, ASK, REPLY, SPAWN})  # SPAWNED is often followed by DOWN
SIGNALS_TARGET: Final = b"process/signals"
_SIGNALS_PREFIX: Final = frames.call_body(SIGNALS_TARGET, b"")
_TIMEOUT_MS_MAX: Final = 0xFFFF_FFFF
_IDENT_MAX: Final = 0xFFFF_FFFF
_UNFOUND: Final = object()


class Code(Protocol):
    """What the worker has loaded (`versions.py`)."""

    @property
    def digest(self) -> bytes: ...

    @property
    def modules(self) -> tuple[types.ModuleType, ...]: ...


class Carrier:
    """The transport of a worker's runtime.

    `out` is the session's list of frames; `wake` has the loop send them in its next pass, `flush`
    sends at once and is False when it cannot.
    """

    def __init__(
        self,
        out: list[bytes],
        wake: Callable[[], None],
        flush: Callable[[], bool] = lambda: False,
    ) -> None:
        self.runtime: Runtime | None = None
        self.dropped_count = 0
        self._out = out
        self._wake = wake
        self._flush = flush
        self._lone_at = 0.0
        self._signals: list[bytes] = []
        self._signal_bytes = 0
        self._early: list[bytes] | None = []  # signals that came before `attach` was answered
        self._drained: trio.Event | None = None
        self._calls: dict[int, Task] = {}
        self._incoming: dict[int, Incoming] = {}
        self._outgoing: dict[int, Outgoing] = {}
        self._last_ident = -1
        self._code: Callable[[], Code] | None = None
        self._announced: Code | None = None
        self._indexed: tuple[Code | None, dict[str, types.ModuleType]] = (None, {})

    # -- signals

    @property
    def congested(self) -> bool:
        """Whether so much waits that senders are to wait too."""
        return self._signal_bytes > CONGESTED_BYTES

    @property
    def pending(self) -> bool:
        """Whether `collect` would give something."""
        return bool(self._signals)

    def send(self, signal: bytes) -> None:
        """Queue one signal for the next pass."""
        if self._signal_bytes + len(signal) > HELD_BYTES_MAX:
            self.dropped_count += 1  # of a runtime that did not heed `congested`
            return
        first = not self._signals
        self._signals.append(signal)
        self._signal_bytes += len(signal)
        if first and not (self._is_lone(signal) and self._flush()):
            self._wake()

    def _is_lone(self, signal: bytes) -> bool:
        """Whether nothing else is likely to come in this pass."""
        now = perf_counter()
        lone = signal[KIND_PLACE] in _LONE_KINDS and now - self._lone_at > LONE_S
        self._lone_at = now
        return lone

    def collect(self) -> None:
        """The loop is about to send: put what waits into `out`."""
        if not self._signals:
            return
        data = self._signals[0] if len(self._signals) == 1 else b"".join(self._signals)
        self._signals.clear()
        self._signal_bytes = 0
        if len(data) <= PIECE_BYTES_MAX:
            self._out.append(frame(CAST, 0, _SIGNALS_PREFIX + data))
        else:
            for start in range(0, len(data), PIECE_BYTES_MAX):
                piece = data[start : start + PIECE_BYTES_MAX]
                self._out.append(frame(CAST, 0, _SIGNALS_PREFIX + piece))
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    async def wait_sendable(self) -> None:
        """Until the socket took what waited."""
        while self.congested:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    def receive_signals(self, data: bytes) -> None:
        """A piece of the stream of signals from the daemon. Raises: `RemoteProtocolError`."""
        if self._early is not None:
            self._early.append(data)
        elif self.runtime is not None:
            self.runtime.receive(data)

    # -- life

    async def attach(self, runtime: Runtime, code: Callable[[], Code] | None) -> None:
        """Make `runtime` a part of the node; it stays alone where that is not allowed."""
        self.runtime = runtime
        self._code = code
        runtime.resolve = self.resolve
        runtime.digest_of = self._digest_of
        try:
            answer = await self._announce()
        except CallError:
            runtime.transport = None
            self.runtime = None
        else:
            runtime.attached(*answer)
        early, self._early = self._early, None
        for data in early or ():
            self.receive_signals(data)

    async def announce_changes(self) -> None:
        """Tell the daemon the modules, if they are others than it was told."""
        if self._code is not None and self._code() is not self._announced:
            await self._announce()

    @property
    def outdated(self) -> bool:
        """Whether `announce_changes` has something to tell."""
        return (
            self.runtime is not None
            and self._code is not None
            and self._announced is not None
            and self._code() is not self._announced
        )

    async def _announce(self) -> tuple[str, int, int, list[str]]:
        modules: dict[str, bytes] = {}
        if self._code is not None:
            self._announced, known = self._modules()
            modules = dict.fromkeys(known, self._announced.digest if self._announced else b"")
        match await self.call("", "process", "attach", [modules], ATTACH_S):
            case {
                "node": str(node),
                "incarnation": int(incarnation),
                "serial": int(serial),
                "nodes": list(nodes),
            }:
                return node, incarnation, serial, [str(each) for each in nodes]
        raise RemoteError("badarg", "malformed answer of process/attach")

    # -- what may be started from elsewhere

    def _digest_of(self, module: str) -> bytes:
        """The digest of the code of one of our modules; b"" for others."""
        code, modules = self._modules()
        return code.digest if code is not None and module in modules else b""

    def _modules(self) -> tuple[Code | None, dict[str, types.ModuleType]]:
        """The code that runs now, and its modules by the names that others know."""
        code = self._code() if self._code is not None else None
        if code is not self._indexed[0]:
            modules = code.modules if code is not None else ()
            self._indexed = (code, {_announced_name(each): each for each in modules})
        return self._indexed

    def resolve(self, module: str, name: str, digest: bytes) -> Callable[..., object]:
        """The function or behaviour `name` of a module of ours.

        Raises: `CodeMismatch`, `RemoteError`.
        """
        code, modules = self._modules()
        found = modules.get(module)
        if code is None or found is None:
            raise RemoteError("undef", f"no module {module!r} runs here")
        if digest and digest != code.digest:
            raise CodeMismatch(have=code.digest.hex(), want=digest.hex())
        return _function(found, module, name)

    # -- calls

    async def call(
        self, node: str, mission: str, function: str, args: Sequence[object], timeout: float
    ) -> object:
        """Call a mission's function; its value. Raises: `CallError`, `NotSendable`."""
        target = _target(node, mission, function)
        encoded = _encode(args)
        if timeout <= 0:
            raise Timeout(maybe_ran=False)
        if len(self._calls) >= CALLS_PER_LINK_MAX:
            raise NoConnection("overloaded")
        timeout_ms = 0
        if timeout != float("inf"):
            timeout_ms = min(max(int(timeout * 1000), 1), _TIMEOUT_MS_MAX)
        ident = self._new_ident()
        self._calls[ident] = current_task()
        flags, fragment = first_fragment(encoded)
        body = frames.call_body(target, fragment, timeout_ms=timeout_ms, flags=flags)
        self._out.append(frame(CALL, ident, body))
        if flags:
            self._outgoing[ident] = Outgoing(ident, encoded)
            self._push(ident)
        self._wake()

        def abort(_: object) -> Abort:
            self._forget(ident)
            self._out.append(frame(CANCEL, ident))
            self._wake()
            return Abort.SUCCEEDED

        with trio.CancelScope(deadline=trio.current_time() + timeout + GRACE_S):
            return loads(await wait_task_rescheduled(abort))
        raise Timeout(maybe_ran=True)

    async def cast(self, node: str, mission: str, function: str, args: Sequence[object]) -> None:
        """Call without an answer. Raises: `NotSendable`."""
        target = _target(node, mission, function)
        encoded = _encode(args)
        if len(encoded) > FRAGMENT_BYTES_MAX:
            raise NotSendable(
                f"a cast carries at most {FRAGMENT_BYTES_MAX} bytes, these arguments have "
                f"{len(encoded)}; use call"
            )
        self._out.append(frame(CAST, 0, frames.call_body(target, encoded)))
        self._wake()
        await trio.lowlevel.checkpoint()

    def _new_ident(self) -> int:
        ident = self._last_ident + 2
        while ident > _IDENT_MAX or ident in self._calls:
            ident = 1 if ident > _IDENT_MAX else ident + 2  # ends: far fewer are open
        self._last_ident = ident
        return ident

    def _forget(self, ident: int) -> Task | None:
        self._incoming.pop(ident, None)
        self._outgoing.pop(ident, None)
        return self._calls.pop(ident, None)

    def _push(self, ident: int) -> None:
        outgoing = self._outgoing[ident]
        self._out.extend(outgoing.take())
        if outgoing.finished:
            del self._outgoing[ident]

    # -- frames of our own calls; the session hands them over

    def on_reply(self, ident: int, body: bytes) -> None:
        """REPLY. Raises: `RemoteProtocolError`."""
        if not body:
            raise RemoteProtocolError("empty reply")
        if body[0] & FLAG_MORE:
            if ident in self._calls:
                self._incoming[ident] = Incoming(body[1:])
            return
        task = self._forget(ident)
        if task is not None:
            reschedule(task, outcome.Value(body[1:]))

    def on_error(self, ident: int, body: bytes) -> None:
        """ERROR."""
        task = self._forget(ident)
        if task is not None:
            reschedule(task, outcome.Error(error_from_fields(loads(body))))

    def on_data(self, ident: int, body: bytes) -> None:
        """DATA: a large value goes on."""
        incoming = self._incoming.get(ident)
        if incoming is None:
            return
        try:
            whole, credit = incoming.receive(ident, body)
        except RemoteProtocolError as error:  # its callee's word, forwarded unopened
            task = self._forget(ident)
            if task is not None:
                failure = RemoteError("too_large", f"the value: {error}")
                reschedule(task, outcome.Error(failure))
            return
        if credit is not None:
            self._out.append(credit)
        if whole is not None:
            task = self._forget(ident)
            if task is not None:
                reschedule(task, outcome.Value(whole))

    def on_credit(self, ident: int, body: bytes) -> None:
        """CREDIT: more of large arguments may go."""
        outgoing = self._outgoing.get(ident)
        if outgoing is not None and len(body) == U32.size:
            outgoing.add_credit(U32.unpack(body)[0])
            self._push(ident)


def _announced_name(module: types.ModuleType) -> str:
    """A module as others know it: its file's name."""
    return module.__name__.removeprefix("mission_")


def _function(module: types.ModuleType, shown: str, name: str) -> Callable[..., object]:
    found: object = _UNFOUND
    for place, part in enumerate(name.split(".")):
        holder = found if place else module
        found = vars(holder).get(part, _UNFOUND) if hasattr(holder, "__dict__") else _UNFOUND
        if isinstance(found, staticmethod | classmethod):
            found = getattr(holder, part)
    if _is_behaviour(found, module):
        return found  # type: ignore[return-value]
    plain = getattr(found, "__func__", found)
    if not isinstance(plain, types.FunctionType) or plain.__globals__ is not vars(module):
        known = sorted(
            key
            for key, value in vars(module).items()
            if isinstance(value, types.FunctionType) and value.__globals__ is vars(module)
        )
        raise RemoteError(
            "undef", f"module {shown} defines no function {name!r}, but {', '.join(known[:16])}"
        )
    return found  # type: ignore[return-value]


def _is_behaviour(found: object, module: types.ModuleType) -> bool:
    """Whether it is a behaviour of that module: a child or handler that others may ask for."""
    return (
        isinstance(found, type)
        and found.__module__ == module.__name__
        and hasattr(found, "start_link")
    )


def _target(node: str, mission: str, function: str) -> bytes:
    target = f"{node}/{mission}/{function}".encode()
    if len(target) > TARGET_BYTES_MAX or target.count(b"/") != 2:
        raise NotSendable(f"{mission}.{function} on {node!r} are no names, or too long ones")
    return target


def _encode(args: Sequence[object]) -> bytes:
    encoded = dumps(list(args))
    if len(encoded) > BODY_BYTES_MAX:
        raise NotSendable(f"{len(encoded)} bytes, at most {BODY_BYTES_MAX} travel in one call")
    return encoded


__all__ = ["Carrier", "Code"]
