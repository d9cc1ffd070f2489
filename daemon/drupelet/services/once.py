"""Calls with an idempotency key, at the node that is called: run once, also over a power cut.

Decides nothing that `core/once.py` can decide: makes its records durable before a call runs and
before its outcome is told, and passes the call on.

| function | who | |
|---|---|---|
| `call` | members, strangers | `call(key, target, arguments, holder, digest)`: `[value, error]` |
| `done` | members, strangers | `done([key, ...], holder)`: the caller never sends these again |

`key` is 16 bytes, `target` "mission/function", `arguments` an encoded array, `holder` (may be left
out) whose grant it is by: the caller names the same each time. Of what is answered one is null
and the other an encoded value or error fields: the outcome of the one run, now or of long ago. What
is raised instead is of this call, not of the run: it has no right, or must come again later.

Rules
- The key is of the grant's holder, or of the member; a stranger's call is admitted as any other
  (right, rate, audit), each time that it comes. Of several holders on one link it is of the one
  whom the caller names, as through the relay: else a second try could be let in by another grant,
  as another holder's key, and run again.
- A run belongs to its key and not to the link that brought it: it goes on when that link is gone,
  for CALL_S_MAX at most, and the next who brings the key waits for it or gets its outcome. Only
  revoking ends it.
- Between the record and the run nothing is certain: whether the grant still counts is looked at
  again just before it runs.
- A disk that fails refuses calls with a key, and no others.

Owns: one task, which writes.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import trio

from drupelet.core.once import (
    FULL_S,
    ONCE_KEPT_S,
    Ended,
    OnceRecord,
    OnceTable,
    Place,
    content_of,
    encoded,
)
from drupelet.core.requests import WAITING_MAX
from drupelet.errors import (
    CallError,
    NotPermitted,
    RateLimited,
    RemoteError,
    RemoteProtocolError,
    Revoked,
)
from drupelet.services.calls import Calls
from drupelet.services.committing import Committing
from drupelet.services.deadlines import Deadlines
from drupelet.services.endpoint import Endpoint
from drupelet.services.ends import End
from drupelet.services.missions import Missions
from drupelet.services.stranger_calls import CALL_S_MAX, StrangerCalls
from drupelet.services.waiters import Admitted
from drupelet.services.whitelist import worker_of
from drupelet.store.once import OnceStore
from drupelet.wire.codec import dumps
from drupelet.wire.frames import CALL_HEADER
from drupelet.wire.idempotency import KEY_BYTES, done_keys
from drupelet.wire.limits import TARGET_BYTES_MAX

_log = logging.getLogger("drupelet.once")

OTHERS: Final = frozenset({"member", "stranger"})

Outcome = tuple[bytes | None, bytes | None]  # encoded value, encoded error
Start = Callable[[Callable[[bytes | CallError], None]], None]


class _Waiter:
    """One call that waits for the run of its key."""

    __slots__ = ("event", "outcome", "refusal")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.outcome: Outcome = (None, None)
        self.refusal: CallError | None = None


class OnceService:
    """The idempotency keys of one node. `key`: its own, whose calls to itself are a member's."""

    def __init__(
        self,
        store: OnceStore,
        *,
        key: bytes,
        missions: Missions,
        calls: Calls,
        strangers: StrangerCalls,
        deadlines: Deadlines,
    ) -> None:
        self.table = OnceTable()
        self._store = store
        self._key = key
        self._missions = missions
        self._calls = calls
        self._strangers = strangers
        self._deadlines = deadlines
        self._committing = Committing(self._prepare, tick=store.tick, close=store.close)
        self._waiting: dict[Place, list[_Waiter]] = {}
        self._idents = itertools.count(1)
        self.on_told: Callable[[Place, Outcome], None] = _nobody  # who waits elsewhere

    def register(self) -> None:
        """Put the mission into the whitelist."""
        functions: dict[str, Callable[..., object]] = {"call": self.call, "done": self.done}
        self._missions.add_system("once", functions, OTHERS, with_endpoint=True)

    def restore(self) -> None:
        """What was kept, before the first link."""
        now = trio.current_time()
        try:
            kept = self._store.load()
        except OSError as error:  # nobody knows what ran
            _log.error("once_unreadable what=%s; calls with an idempotency key are refused", error)
            self.table.doubt(now + ONCE_KEPT_S)
            return
        self.table.restore(kept.records, now)
        self.table.doubt(now + kept.doubt_left_s)
        if kept.lost:
            _log.error(
                "once_damaged what=%s; for a week, calls with an idempotency key that is not "
                "known are refused: they may have run. mend: if none can have, stop the node and "
                "remove the file",
                kept.lost,
            )
        elif kept.doubt_left_s:
            days = kept.doubt_left_s / 86_400
            _log.warning("once_doubt for=%.1f days, records of keys were lost before", days)

    async def run(self) -> None:
        """Write, until cancelled."""
        await self._committing.run()

    def _prepare(self, records: list[OnceRecord]) -> Callable[[], None]:
        now, up_s = trio.current_time(), self._committing.up_s
        if not self._store.wants_rewrite:
            return functools.partial(self._store.append, records, up_s)
        self.table.handle_timer(now)
        doubt = self.table.doubt_left_s(now)
        return functools.partial(self._store.rewrite, self.table.records(now), doubt, up_s)

    # -- calls on links, and of this node's own programs

    async def call(
        self,
        endpoint: Endpoint,
        key: bytes,
        target: str,
        arguments: bytes,
        holder: bytes | None = None,
        digest: bytes = b"",
    ) -> list[bytes | None]:
        """Of another node. Raises: `CallError`, which is not the run's."""
        _check(key, target, arguments)
        if endpoint.ring != "stranger":
            asked = (key, target, arguments, digest)
            return [*await self.member_call(endpoint.key, "member", *asked)]
        name = target.encode()
        strangers = self._strangers
        try:
            size = len(arguments)
            _, right, ticket = strangers.admit(endpoint, name, size, keyed=True, holder=holder)
        except CallError as error:
            strangers.refused(endpoint.key, name, error)
            raise
        place = (right.grant.holder, key)

        def start(ended: Callable[[bytes | CallError], None]) -> None:
            if not strangers.grants.holds(right, trio.current_time()):
                raise Revoked
            end = End(
                self._calls, self._deadlines, lambda _, outcome: ended(outcome), key=endpoint.key
            )
            ms = int(CALL_S_MAX * 1_000)
            strangers.serve_admitted(end, ticket, right, name, arguments, ms, keyed=True)

        free = functools.partial(strangers.grants.finish, ticket)
        return [*await self._once(place, content_of(target, arguments), start, free)]

    def done(self, endpoint: Endpoint, keys: list[bytes], holder: bytes | None = None) -> bool:
        """Keys of that holder that are never sent again. Raises: `CallError`."""
        if endpoint.ring != "stranger":
            holder = endpoint.key
        elif holder not in self._strangers.holders(endpoint):
            raise NotPermitted
        assert holder is not None
        now = trio.current_time()
        try:
            known = done_keys(dumps([keys]))
        except RemoteProtocolError as error:
            raise RemoteError("badarg", str(error)) from None
        records = [self.table.done((holder, key), now) for key in known]
        self.on_done([each for each in records if each is not None])
        return True

    def on_done(self, records: list[OnceRecord]) -> None:
        """Keep these; when that is lost, the keys stay for their time."""
        for record in records:
            self._committing.put(record, _if_lost_it_stays)

    async def member_call(
        self,
        holder: bytes,
        ring: str,
        key: bytes,
        target: str,
        arguments: bytes,
        digest: bytes = b"",
    ) -> Outcome:
        """Of a member, or of a program here. Raises: `CallError`, which is not the run's."""
        _check(key, target, arguments, digest)
        name = target.encode()
        export = self._calls.permit(name, ring, digest)
        if export.inline is not None or export.raw is not None:
            raise RemoteError("badarg", f"{target} is the node's own: it takes no idempotency key")
        worker_of(export, keyed=True)

        def start(ended: Callable[[bytes | CallError], None]) -> None:
            end = End(
                self._calls,
                self._deadlines,
                lambda _, outcome: ended(outcome),
                ring=ring,
                key=holder,
            )
            waiter = Admitted(end, next(self._idents), _nobody_counts)
            header = CALL_HEADER.pack(0, 0, len(name)) + name
            deadline = trio.current_time() + CALL_S_MAX
            worker_of(export, keyed=True).pass_on(waiter, header, arguments, deadline)

        return await self._once((holder, key), content_of(target, arguments), start, _free)

    async def _once(
        self, place: Place, content: bytes, start: Start, free: Callable[[], None]
    ) -> Outcome:
        """Run it, wait for it, or give its outcome. `free`: it is not going to run (again)."""
        now = trio.current_time()
        self.table.handle_timer(now)
        try:
            begun = self.table.begin(*place, content, now)
            waiting = self._waiting.setdefault(place, [])
            if len(waiting) >= WAITING_MAX:
                raise RateLimited(FULL_S)
        except CallError:
            free()
            raise
        waiter = _Waiter()
        if isinstance(begun, Ended):
            free()
            ended = (begun.value, begun.error)
            self._committing.after(lambda: _settle(waiter, ended, None))
        elif begun is None:
            free()
        else:
            self.begin(begun, functools.partial(self._begun, begun, start, free))
        waiting.append(waiter)
        try:
            await waiter.event.wait()
        finally:
            waiting.remove(waiter)
            if not waiting and self._waiting.get(place) is waiting:
                del self._waiting[place]
        if waiter.refusal is not None:
            raise waiter.refusal
        return waiter.outcome

    def _begun(
        self,
        record: OnceRecord,
        start: Start,
        free: Callable[[], None],
        failure: CallError | None,
    ) -> None:
        """Its record is durable, or why it is not."""
        place = (record.caller, record.key)
        early: list[bytes | CallError] = []
        started = False

        def ended(outcome: bytes | CallError) -> None:
            if started:
                value = outcome if isinstance(outcome, bytes) else None
                error = encoded(outcome) if isinstance(outcome, CallError) else None
                self.ended(self.table.end(place, value, error, trio.current_time()))
            else:
                early.append(outcome)

        if failure is None:
            try:
                start(ended)
            except CallError as error:
                failure = error
                free()
            else:
                if early and isinstance(early[0], CallError):  # refused before a byte of it left
                    failure = early[0]
        else:
            free()
        if failure is not None:
            self.table.forget(place)
            self.never(record, failure)
            return
        started = True

    # -- records, for calls on any way

    def begin(self, record: OnceRecord, then: Callable[[CallError | None], None]) -> None:
        """A call with a key is to run: `then`, when that is durable, or with why it is not."""

        def written(failure: OSError | None) -> None:
            then(_not_durable(failure) if failure is not None else None)

        self._committing.put(record, written)

    def ended(self, record: OnceRecord, then: Callable[[], None] | None = None) -> None:
        """A run has ended. When that is durable, who waits is told, and `then` is called."""
        assert record.outcome is not None
        place, outcome = (record.caller, record.key), record.outcome

        def written(failure: OSError | None) -> None:
            if failure is not None:  # it ran all the same: after a power cut it may have run
                _log.error("once_not_written what=%s; after a restart it may have run", failure)
            self._tell(place, outcome, None)
            if then is not None:
                then()

        self._committing.put(record, written)

    def never(self, record: OnceRecord, error: CallError) -> None:
        """A run that was to begin did not: its key is free again, and who waits is told."""

        def written(failure: OSError | None) -> None:
            """When that is lost, the call may have run, as far as this node knows then."""

        self._committing.put(replace(record, left_s=0.0), written)
        self._tell((record.caller, record.key), (None, encoded(error)), error)

    def after(self, then: Callable[[], None]) -> None:
        """When what was told here up to now is durable."""
        self._committing.after(then)

    def _tell(self, place: Place, outcome: Outcome, refusal: CallError | None) -> None:
        for waiter in self._waiting.pop(place, ()):
            _settle(waiter, outcome, refusal)
        self.on_told(place, outcome)


def _settle(waiter: _Waiter, outcome: Outcome, refusal: CallError | None) -> None:
    waiter.outcome, waiter.refusal = outcome, refusal
    waiter.event.set()


def _check(key: object, target: object, arguments: object, digest: object = b"") -> None:
    good = isinstance(key, bytes) and len(key) == KEY_BYTES
    good = good and isinstance(arguments, bytes) and isinstance(digest, bytes)
    if not good or not isinstance(target, str) or len(target.encode()) > TARGET_BYTES_MAX:
        raise RemoteError("badarg", 'call(key: 16 bytes, "mission/function", encoded arguments)')


def _not_durable(failure: OSError) -> RemoteError:
    what = failure.strerror or type(failure).__name__
    return RemoteError(
        "not_durable",
        f"the node's disk does not keep idempotency keys now ({what}): the call did not run",
    )


def _if_lost_it_stays(failure: OSError | None) -> None:
    """That a key is done."""


def _nobody(place: Place, outcome: Outcome) -> None:
    """Nobody waits elsewhere."""


def _nobody_counts(outcome: str) -> None:
    """A member's call."""


def _free() -> None:
    """It holds nothing."""


__all__ = ["KEY_BYTES", "OnceService", "Outcome"]
