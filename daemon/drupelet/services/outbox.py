"""Calls with an idempotency key, at the node that calls; and casts that are kept until they ran.

| function | who | |
|---|---|---|
| `ask` | programs here | `ask(node, target, key, arguments)`: the encoded value of the one run |
| `post` | programs here | `post(node, target, key, arguments)`: answered when the cast is kept |
| `waiting` | operator | the casts that did not run yet, as far as this node knows |

Decides on which way a call with a key goes, and when once more: it may, since it runs once. A link
that ends in between is no failure but a reason to go another way.

Rules
- A cast to a node that granted us something is kept, and any with an idempotency key. A cast to a
  member without one is sent once, as in Erlang. Without a key of its own it gets a random one.
- It is durable before `post` answers, and sent until its callee says how it ended: over a link when
  there is one, else through the relay; at most ONCE_KEPT_S. Casts to one node start in their order
  as long as none has to be sent again, WINDOW of them at the same time.
- Told that a cast has no right, or that it raised, this node's log says so: nobody waits for it.
- When a cast is done, and that is on disk, its callee is told that its key may go, if this node
  made it: else a week of casts would fill the table there.
- No pid travels in what is kept: its process may be gone by then.

Owns: one task that writes, and one for each cast.
"""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import trio

from drupelet.core.backoff import Backoff
from drupelet.core.once import ONCE_KEPT_S, encoded
from drupelet.errors import (
    CallError,
    NoConnection,
    RateLimited,
    RemoteError,
    RemoteProtocolError,
    Timeout,
    error_from_fields,
)
from drupelet.services.calls import Calls
from drupelet.services.committing import Committing
from drupelet.services.deadlines import Deadlines
from drupelet.services.directory import Border
from drupelet.services.done_keys import DoneKeys
from drupelet.services.endpoint import Endpoint
from drupelet.services.ends import End
from drupelet.services.missions import Missions
from drupelet.services.once import OnceService, Outcome
from drupelet.services.relayed_calls import RelayedCalls, is_of_one_try
from drupelet.services.stranger_calls import CALL_S_MAX
from drupelet.services.system import OPERATOR
from drupelet.store.outbox import KeptCast, OutboxStore
from drupelet.wire import frames
from drupelet.wire.codec import dumps, loads, loads_canonical
from drupelet.wire.idempotency import DONE_TARGET, KEY_BYTES
from drupelet.wire.limits import OUTBOX_BYTES_MAX, OUTBOX_CASTS_MAX

_log = logging.getLogger("drupelet.once")

WINDOW: Final = 16  # casts to one node under way
ATTEMPT_S: Final = 600.0  # so long an answer may take before the same is sent again
FIRST_S: Final = 0.25
LONGEST_S: Final = 10.0
AGAIN_S: Final = 600.0
MENDED_S: Final = 60.0  # a person must act at the callee's
AGAIN_MAX: Final = 8  # times that a callee may say: not now, for reasons that may be for ever
PROGRAMS: Final = frozenset({"operator", "worker"})
DONE_S: Final = 10.0
_CALL: Final = frames.call_body(b"once/call", b"")
_DONE: Final = frames.call_body(DONE_TARGET.encode(), b"")
_LATER: Final = ("not_durable", "damaged")  # the callee's disk: its owner mends it
_NOT_NOW: Final = "mission_"  # its worker starts, or starts again


@dataclass(slots=True)
class _Waits:
    """A cast that did not run yet, as far as this node knows."""

    cast: KeptCast
    until: float
    why: str = "new"
    is_durable: bool = False
    was_sent: bool = False  # and it is not known what became of it


@dataclass(slots=True)
class _Line:
    """The casts to one node. `looking`: one of them looks for a way, for all."""

    window: trio.Semaphore
    looking: trio.Lock
    backoff: Backoff
    count: int = 0


class OutboxService:
    """The outgoing calls with a key, and the kept casts, of one node."""

    def __init__(
        self,
        store: OutboxStore,
        *,
        key: bytes,
        missions: Missions,
        calls: Calls,
        once: OnceService,
        relayed: RelayedCalls,
        border: Border,
        deadlines: Deadlines,
        granted_by: Callable[[str], bytes | None],
        member: Callable[[str], bytes | None],
    ) -> None:
        self._store = store
        self._key = key
        self._missions = missions
        self._calls = calls
        self._once = once
        self._relayed = relayed
        self._border = border
        self._granted_by = granted_by
        self._member = member
        self._end = End(calls, deadlines, lambda ident, outcome: None)
        self._end_of_ours = End(
            calls, deadlines, lambda ident, outcome: None, ring="member", key=key
        )
        self._done = DoneKeys(self._tell_done)
        self._committing = Committing(self._prepare, tick=store.tick, close=store.close)
        self._casts: dict[tuple[bytes, bytes], _Waits] = {}  # by callee and key
        self._bytes = 0
        self._lines: dict[bytes, _Line] = {}
        self._nursery: trio.Nursery | None = None
        self._damaged = ""
        self.failed_count = 0

    def register(self) -> None:
        """Put the functions into the whitelist, and take casts that are to be kept."""
        functions: dict[str, Callable[..., object]] = {"ask": self.ask, "post": self.post}
        self._missions.add_system("once", functions, PROGRAMS)
        self._missions.add_system("once", {"waiting": self.waiting}, OPERATOR)
        self._calls.keeper = self

    def restore(self) -> None:
        """What waited when the node ended."""
        try:
            casts, lost = self._store.load()
        except OSError as error:
            self._damaged = f"the outbox cannot be read: {error.strerror or error}"
            _log.error("outbox_unreadable what=%s; no cast is kept", error)
            return
        if lost:
            _log.error("outbox_damaged what=%s, casts in it are lost; the others are sent", lost)
        now = trio.current_time()
        for cast in casts:
            self._add(_Waits(cast, now + cast.left_s, "kept from before", True, was_sent=True))

    async def run(self) -> None:
        """Send what waits, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._committing.run)
            nursery.start_soon(self._done.run)
            for waits in self._casts.values():
                if waits.is_durable:
                    nursery.start_soon(self._carry, waits)

    def _prepare(self, casts: list[KeptCast]) -> Callable[[], None]:
        up_s, now = self._committing.up_s, trio.current_time()
        if not self._store.wants_rewrite:
            return functools.partial(self._store.append, casts, up_s)
        kept = [replace(each.cast, left_s=each.until - now) for each in self._casts.values()]
        return functools.partial(self._store.rewrite, kept, up_s)

    # -- for programs

    async def ask(self, node: str, target: str, key: bytes, arguments: bytes) -> bytes:
        """A call with an idempotency key: the encoded value of its one run. Raises: `CallError`."""
        _check(node, target, key, arguments)
        if self._is_here(node):
            outcome = await self._once.member_call(self._key, "member", key, target, arguments)
            return _value(outcome)
        if self._is_stranger(node):
            arguments = self._border.answer(self._end, arguments)
        backoff = self._new_backoff()
        deadline = min(trio.current_effective_deadline(), trio.current_time() + CALL_S_MAX)
        sent = False
        holder = self._holder(self._granted_by(node), target)
        try:
            while True:
                try:
                    endpoint = await self._connect(node)
                    outcome = await self._ask(endpoint, key, target, arguments, deadline, holder)
                    break
                except NoConnection as error:
                    sent = sent or error.maybe_ran
                    if not sent:  # as any call that cannot begin
                        raise
                await trio.sleep(backoff.next_delay_s())
            value = _value(outcome)
        except CallError as error:
            if sent and is_of_one_try(error):
                raise Timeout(maybe_ran=True) from None  # an earlier one may have run
            raise
        return self._border.incoming(self._end, value) if endpoint.ring == "stranger" else value

    async def post(self, node: str, target: str, key: bytes | None, arguments: bytes) -> bool:
        """A cast. True: it is kept, on disk; False: it was sent once. Raises: `CallError`."""
        _check(node, target, key if key is not None else bytes(KEY_BYTES), arguments)
        stranger = not self._is_here(node) and self._is_stranger(node)
        if key is None and not stranger:
            body = frames.call_body(target.encode(), arguments)
            if self._is_here(node):
                self._calls.run_cast(body, "member")
            elif self._nursery is not None:
                self._nursery.start_soon(self._calls.cast_on, node, body)
            return False
        if stranger:
            arguments = self._border.answer(self._end, arguments)
        waits = self._new(node, target, key, arguments)
        if waits is None:
            return True
        done = trio.Event()
        failures: list[OSError] = []

        def written(failure: OSError | None) -> None:
            if failure is not None:
                failures.append(failure)
            done.set()

        self._keep(waits, written)
        await done.wait()
        if failures:
            raise RemoteError(
                "not_durable",
                f"this node's disk does not keep it ({failures[0].strerror}); it was not sent",
            )
        return True

    def waiting(self) -> list[dict[str, object]]:
        """`{"node", "target", "bytes", "left_s", "why", "key"}` of each cast, the oldest first."""
        now = trio.current_time()
        return [
            {
                "node": each.cast.name,
                "target": each.cast.target,
                "bytes": len(each.cast.arguments),
                "left_s": max(each.until - now, 0.0),
                "why": each.why,
                "key": each.cast.key.hex(),
            }
            for each in self._casts.values()
        ]

    def figures(self) -> list[tuple[str, str, float]]:
        """For `metrics`."""
        return [
            ("drupelet_casts_waiting", "gauge", len(self._casts)),
            ("drupelet_casts_failed_total", "counter", self.failed_count),
            ("drupelet_idempotency_keys", "gauge", len(self._once.table)),
        ]

    def takes(self, node: str, target: str, args: bytes) -> bool:
        """A CAST frame: is it kept? Raises: `CallError` for want of room."""
        if not self._is_stranger(node):
            return False
        try:
            args = self._border.answer(self._end, args)
        except CallError:  # a pid in it: it goes at once or not at all
            return False
        waits = self._new(node, target, None, args)
        assert waits is not None

        def written(failure: OSError | None) -> None:
            if failure is not None:
                self.failed_count += 1
                _log.warning("cast_not_kept node=%s what=%s", node, failure)

        self._keep(waits, written)
        return True

    # -- what waits

    def _new(self, node: str, target: str, key: bytes | None, arguments: bytes) -> _Waits | None:
        """None: it waits already. Raises: `CallError`."""
        if self._damaged:
            raise RemoteError("not_durable", self._damaged)
        if len(arguments) > frames.MORE_ABOVE:
            raise RemoteError(
                "too_large",
                f"a cast carries at most {frames.MORE_ABOVE} bytes, these arguments have "
                f"{len(arguments)}; use call",
            )
        callee = self._key if self._is_here(node) else self._granted_by(node) or self._member(node)
        if callee is None:
            raise NoConnection("no_such_node")
        made = key is None
        key = key if key is not None else secrets.token_bytes(KEY_BYTES)
        known = self._casts.get((callee, key))
        if known is not None:
            if (known.cast.target, known.cast.arguments) == (target, arguments):
                return None
            raise RemoteError("badarg", "this idempotency key was used for another call")
        full = self._bytes + len(arguments) > OUTBOX_BYTES_MAX
        if full or len(self._casts) >= OUTBOX_CASTS_MAX:
            raise RemoteError(
                "outbox_full",
                f"{len(self._casts)} casts wait already ({self._bytes} bytes); see "
                "`drupelet casts`",
            )
        cast = KeptCast(
            key=key,
            callee=callee,
            name=node,
            target=target,
            arguments=arguments,
            left_s=ONCE_KEPT_S,
            holder=self._holder(self._granted_by(node), target),
            made=made,
        )
        return _Waits(cast, trio.current_time() + ONCE_KEPT_S)

    def _keep(self, waits: _Waits, written: Callable[[OSError | None], None]) -> None:
        self._add(waits)

        def then(failure: OSError | None) -> None:
            waits.is_durable = failure is None
            if failure is not None:
                self._remove(waits)
            elif self._nursery is not None:
                self._nursery.start_soon(self._carry, waits)
            written(failure)

        self._committing.put(waits.cast, then)

    def _add(self, waits: _Waits) -> None:
        cast = waits.cast
        self._casts[cast.callee, cast.key] = waits
        self._bytes += len(cast.arguments)
        line = self._lines.get(cast.callee)
        if line is None:
            line = _Line(trio.Semaphore(WINDOW), trio.Lock(), self._new_backoff())
            self._lines[cast.callee] = line
        line.count += 1

    def _remove(self, waits: _Waits) -> None:
        cast = waits.cast
        del self._casts[cast.callee, cast.key]
        self._bytes -= len(cast.arguments)
        line = self._lines[cast.callee]
        line.count -= 1
        if not line.count:
            del self._lines[cast.callee]

    # -- sending

    async def _carry(self, waits: _Waits) -> None:
        """Until it ran, or its time is over."""
        cast = waits.cast
        line = self._lines[cast.callee]
        failure: CallError | None = Timeout(maybe_ran=True)
        async with line.window:
            with trio.CancelScope(deadline=waits.until):
                failure = await self._settled(line, waits)
        if failure is not None:
            self.failed_count += 1
            unsure = waits.was_sent and is_of_one_try(failure)
            why = f"{failure}{'; an earlier try may have run' if unsure else ''}"
            _log.warning("cast_failed node=%s target=%s why=%s", cast.name, cast.target, why)
        else:
            _log.debug("cast_ran node=%s target=%s", cast.name, cast.target)
        self._remove(waits)

        def written(error: OSError | None) -> None:
            """If that is lost, it goes again: its key makes the second one harmless."""
            if error is None and cast.made:
                self._done.add(cast)

        self._committing.put(replace(cast, left_s=0.0), written)

    async def _settled(self, line: _Line, waits: _Waits) -> CallError | None:
        """How it ended at its callee: None, well."""
        cast = waits.cast
        backoff = self._new_backoff()
        again = 0
        while True:
            wait_s = backoff.next_delay_s()
            try:
                endpoint = await self._way(line, waits)
                waits.why = "sent"
                deadline = trio.current_time() + ATTEMPT_S
                _, fields = await self._ask(
                    endpoint, cast.key, cast.target, cast.arguments, deadline, cast.holder
                )
                error = error_from_fields(loads_canonical(fields)) if fields is not None else None
                if error is None or endpoint.direct or not _may_change(error):
                    return error
            except (NoConnection, Timeout) as failure:  # nobody said how it ended
                waits.why, waits.was_sent = str(failure), waits.was_sent or failure.maybe_ran
                await trio.sleep(wait_s)
                continue
            except CallError as failure:
                error = failure
                if not _may_change(error):
                    return error
            except RemoteProtocolError as failure:
                return RemoteError("protocol", str(failure))
            waits.why = str(error)
            if isinstance(error, RateLimited):
                wait_s = max(wait_s, min(error.retry_after_s, AGAIN_S))  # keys go sooner when done
            elif isinstance(error, RemoteError) and error.kind in _LATER:
                wait_s = MENDED_S
            else:
                again += 1
                if again > AGAIN_MAX:
                    return error
            await trio.sleep(wait_s)

    async def _way(self, line: _Line, waits: _Waits) -> Endpoint:
        """A way to its callee, when there is one; one cast looks for all. Raises: `CallError`."""
        cast = waits.cast
        async with line.looking:
            while True:
                try:
                    endpoint = await self._connect(cast.name, cast.callee)
                    if not endpoint.direct and endpoint is not self._end:
                        await self._relayed.look(cast.callee, cast.target)
                    line.backoff.reset()
                    return endpoint
                except NoConnection as error:
                    waits.why = str(error)
                await trio.sleep(line.backoff.next_delay_s())

    async def _connect(self, node: str, callee: bytes | None = None) -> Endpoint:
        """The open link to a node, or a new one, or the relay. Raises: `CallError`."""
        if callee == self._key:
            return self._end
        directory = self._calls.directory
        assert directory is not None
        endpoint = directory.endpoint(node) or await directory.connect(node)
        if callee is not None and endpoint.key != callee:
            raise NoConnection("wrong_node")
        return endpoint

    async def _ask(
        self,
        endpoint: Endpoint,
        key: bytes,
        target: str,
        arguments: bytes,
        deadline: float,
        holder: bytes,
    ) -> Outcome:
        """One try: how the run ended. Raises: `CallError`, which is of this try."""
        if endpoint is self._end:
            return await self._once.member_call(self._key, "member", key, target, arguments)
        if endpoint.direct:
            export = self._missions.exports.get(target.encode())
            digest = export.digest if export is not None else b""  # of the code that we have
            args = dumps([key, target, arguments, holder or None, digest])
            body = await endpoint.call(_CALL, args, deadline)
            match loads(body[1:]):
                case [bytes() | None as value, bytes() | None as error]:
                    return value, error
            raise RemoteProtocolError("malformed answer to a call with an idempotency key")
        outcome = await self._relayed.request_once(
            endpoint.key, key, target, arguments, deadline, holder or None
        )
        if isinstance(outcome.result, bytes):
            return outcome.result, None
        if not outcome.said:
            raise outcome.result
        return None, encoded(outcome.result)

    async def _tell_done(self, cast: KeptCast, keys: list[bytes]) -> None:
        """These keys are never sent again. Raises: `CallError`."""
        deadline = trio.current_time() + DONE_S
        if cast.callee == self._key:
            self._once.done(self._end_of_ours, keys)
            return
        endpoint = await self._connect(cast.name, cast.callee)
        if endpoint.direct:
            await endpoint.call(_DONE, dumps([keys, cast.holder or None]), deadline)
        else:
            await self._relayed.done(cast.callee, keys, cast.target, cast.holder, deadline)

    # -- small things

    def _holder(self, issuer: bytes | None, target: str) -> bytes:
        """By whose grant we call there: it stays the same however often it is sent."""
        return (self._relayed.holder_for(issuer, target) if issuer is not None else None) or b""

    def _is_here(self, node: str) -> bool:
        return node.encode() in (b"", self._calls.own_name)

    def _is_stranger(self, node: str) -> bool:
        return self._granted_by(node) is not None

    @staticmethod
    def _new_backoff() -> Backoff:
        return Backoff(FIRST_S, LONGEST_S, secrets.SystemRandom().random)


def _may_change(error: CallError) -> bool:
    """Whether a callee that says so may say something else later: it did not run the call now."""
    if isinstance(error, RemoteError):
        return error.kind in _LATER or error.kind.startswith(_NOT_NOW)
    return isinstance(error, RateLimited | NoConnection)


def _check(node: object, target: object, key: object, arguments: object) -> None:
    good = isinstance(node, str) and isinstance(target, str) and isinstance(arguments, bytes)
    if not good or not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise RemoteError("badarg", '(node, "mission/function", key: 16 bytes, encoded arguments)')


def _value(outcome: Outcome) -> bytes:
    """Raises: `CallError` when that is how the run ended."""
    value, error = outcome
    if error is not None or value is None:
        raise error_from_fields(loads_canonical(error or b""))
    return value


__all__ = ["OutboxService"]
