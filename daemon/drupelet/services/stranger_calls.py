"""Calls of strangers: the rights that they showed on their links, and what they call with them.

Decides nothing that `core/grants.py` can decide: passes on what it admits, refuses the rest, and
withdraws what it revokes. The mission `grants` has one function of this:

| function | who | |
|---|---|---|
| `present` | strangers | show a grant on this link |

Rules
- A stranger's call is one call: neither many in one frame nor a target on another node. What does
  not exist and what is not granted is refused with the same words, by the same steps.
- A call and a cast are leases of their worker (wire/frames.py): they leave the registry of what
  lives under grants (core/holdings.py) when the worker says that nothing of them runs any more.
- A call that came through a relay is let in by `core/requests.py` and then runs like any other.
- A stranger with no right left is cut off, and so is one who loses a right while values wait for
  him to read on: none of them leaves.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from math import inf
from typing import Final

import trio

from drupelet.config import GrantsConfig
from drupelet.core.grants import Grants, Quota, Right
from drupelet.errors import (
    CallError,
    NoConnection,
    NotPermitted,
    RemoteError,
    RemoteProtocolError,
    Revoked,
)
from drupelet.services.accepted import PROOF_DOMAIN
from drupelet.services.audit import Audit
from drupelet.services.calls import Calls
from drupelet.services.directory import Border
from drupelet.services.endpoint import Endpoint
from drupelet.services.missions import Missions
from drupelet.services.waiters import Admitted, outcome_of, without_files
from drupelet.services.whitelist import worker_of
from drupelet.wire import sodium
from drupelet.wire.frames import CALL_HEADER, FLAG_LEASE, FLAG_MANY, FLAG_MORE
from drupelet.wire.grant_terms import rate_from_text
from drupelet.wire.keys import key_to_text
from drupelet.wire.limits import CALLS_PER_LINK_MAX, OUT_BYTES_MAX

_log = logging.getLogger("drupelet.grants")

RIGHTS_PER_LINK_MAX: Final = 16
CALL_S_MAX: Final = 3_600.0
STRANGERS: Final = frozenset({"stranger"})

LetIn = tuple[Endpoint, Right, int]
"""The worker, by which right, and the ticket."""


class Running(Admitted):
    """A call or cast that was let in, until nothing of it runs. `theirs` 0: a cast."""

    __slots__ = ("_calls", "_since", "function", "grant", "ticket", "worker")

    def __init__(
        self,
        calls: StrangerCalls,
        origin: Endpoint,
        theirs: int,
        let_in: LetIn,
        function: str,
        now: float,
    ) -> None:
        super().__init__(origin, theirs, self._answered, over=self._gone)
        self.worker, right, self.ticket = let_in
        self.grant = right.grant
        self.function = function
        self._calls = calls
        self._since = now

    def convert(self, encoded: bytes) -> bytes:
        """The value as it crosses the border. Raises: `CallError`."""
        return self._calls.border.answer(self.origin, encoded, grant=self.grant)

    def _answered(self, outcome: str) -> None:
        self._calls.answered(self, outcome, self._since)

    def _gone(self) -> None:
        self._calls.grants.holdings.drop(self.ticket)


def quota_of(limits: GrantsConfig) -> Quota:
    """The owner's own limits, as the configuration has them."""
    return Quota(
        caller_rate=rate_from_text(limits.caller_rate),
        mission_rate=rate_from_text(limits.mission_rate),
        node_rate=rate_from_text(limits.node_rate),
        concurrent=limits.concurrent,
    )


class StrangerCalls:
    """Those of one node. `grants`: who judges them."""

    def __init__(
        self, grants: Grants, *, missions: Missions, calls: Calls, audit: Audit, border: Border
    ) -> None:
        self.grants = grants
        self._missions = missions
        self._calls = calls
        self._audit = audit
        self.border = border
        self._rights: dict[Endpoint, list[Right]] = {}

    def register(self) -> None:
        """Put `grants/present` into the whitelist, and be asked about strangers' calls."""
        functions: dict[str, Callable[..., object]] = {"present": self.present}
        self._missions.add_system("grants", functions, STRANGERS, with_endpoint=True)
        self._calls.strangers = self

    def knows(self, endpoint: Endpoint) -> bool:
        """Whether something was granted to who is on that link."""
        return endpoint in self._rights

    def holders(self, endpoint: Endpoint) -> set[bytes]:
        """Who holds the grants that were shown on that link."""
        return {each.grant.holder for each in self._rights.get(endpoint, ())}

    @property
    def any_known(self) -> bool:
        """Whether there is a link of somebody to whom something was granted."""
        return bool(self._rights)

    # -- on their links

    def present(
        self, endpoint: Endpoint, data: bytes, holder: bytes, proof: bytes
    ) -> dict[str, object]:
        """Show a grant on this link; `proof`: the holder's signature, if it is another key."""
        keys = {endpoint.key}
        if proof:
            try:
                content = PROOF_DOMAIN + b"\0" + endpoint.binding
                sodium.verify(holder, content, proof)
                keys.add(holder)
            except (RemoteProtocolError, TypeError):
                raise NotPermitted from None
        if not isinstance(data, bytes):
            raise NotPermitted
        right = self.grants.present(data, keys, trio.current_time())
        rights = self._rights.get(endpoint)
        if rights is None:
            rights = self._rights[endpoint] = []
            endpoint.on_closed = functools.partial(self._left, endpoint)
        known = len(rights)
        rights[:] = [each for each in rights if each.grant.id != right.grant.id]
        if len(rights) >= RIGHTS_PER_LINK_MAX:
            raise NotPermitted
        if len(rights) == known:  # once for each link: it tells holders of one file apart
            _log.info("grant_shown id=%s key=%s", right.grant.id_text, key_to_text(endpoint.key))
        rights.append(right)
        wait_s = self.grants.wait_s(right, trio.current_time())
        return {"id": right.grant.id_text, "wait_s": wait_s}

    def _left(self, endpoint: Endpoint) -> None:
        self._rights.pop(endpoint, None)

    def on_call(
        self,
        endpoint: Endpoint,
        ident: int,
        target: bytes,
        flags: int,
        timeout_ms: int,
        args: bytes,
    ) -> None:
        """A CALL of a stranger (services/calls.py). Answers it, now or later."""
        if not flags & (FLAG_MANY | FLAG_MORE):
            self._serve(endpoint, ident, target, timeout_ms, args)
            return
        serve = functools.partial(self._serve, endpoint, ident, target, timeout_ms)
        if flags & FLAG_MANY:
            endpoint.reply_error(ident, NotPermitted())
        elif not endpoint.assemble(ident, args, serve):
            endpoint.reply_error(ident, NoConnection("overloaded"))

    def _serve(
        self, endpoint: Endpoint, ident: int, target: bytes, timeout_ms: int, args: bytes
    ) -> None:
        try:
            if (
                endpoint.channel.queued_bytes > OUT_BYTES_MAX
                or len(endpoint.serving) >= CALLS_PER_LINK_MAX
            ):
                raise NoConnection("overloaded")
            let_in = self.admit(endpoint, target, len(args))
        except CallError as error:
            self.refused(endpoint.key, target, error)
            endpoint.reply_error(ident, error)
            return
        self._begin(endpoint, ident, target, timeout_ms, args, let_in)

    def serve_admitted(
        self,
        endpoint: Endpoint,
        ticket: int,
        right: Right,
        target: bytes,
        args: bytes,
        ms: int,
        *,
        keyed: bool = False,
    ) -> None:
        """A call that was let in. Raises: `CallError`; then it did not begin."""
        let_in = (self.worker(target, keyed=keyed), right, ticket)
        self._begin(endpoint, ticket, target, ms, args, let_in)

    def _begin(
        self,
        endpoint: Endpoint,
        ident: int,
        target: bytes,
        timeout_ms: int,
        args: bytes,
        let_in: LetIn,
    ) -> None:
        """Pass it on; `ident` 0: a cast."""
        now = trio.current_time()
        function = target.decode().partition("/")[2]
        running = Running(self, endpoint, ident, let_in, function, now)
        self.grants.holdings.name(running.ticket, running)
        span = min(timeout_ms / 1_000, CALL_S_MAX) if timeout_ms else CALL_S_MAX
        header = CALL_HEADER.pack(FLAG_LEASE, timeout_ms, len(target)) + target
        try:
            args = self.border.incoming(endpoint, args)
            running.worker.pass_on(running, header, args, now + span if ident else inf)
        except CallError as error:
            running.answer(error)
            running.over()

    def refused(self, key: bytes, target: bytes, error: CallError) -> None:
        """Count it and keep a sample, for the owner."""
        self._calls.refused_count += 1
        mission, _, function = target.decode("utf-8", "replace").partition("/")
        self._audit.refused(key_to_text(key), mission, function, outcome_of(error))

    def cast(self, endpoint: Endpoint, target: bytes, args: bytes) -> None:
        """A CAST of a stranger; nobody waits, so a refusal is only counted."""
        try:
            let_in = self.admit(endpoint, target, len(args))
        except CallError as error:
            self.refused(endpoint.key, target, error)
            return
        self._begin(endpoint, 0, target, 0, args, let_in)

    def admit(
        self,
        endpoint: Endpoint,
        target: bytes,
        size: int,
        *,
        keyed: bool = False,
        holder: bytes | None = None,
    ) -> LetIn:
        """Right, rate, whitelist: the worker, the right, a ticket. Raises: `CallError`.

        `keyed`: it has an idempotency key (services/once.py). `holder`: by whose grants alone.
        """
        now = trio.current_time()
        mission, _, function = target.decode("utf-8", "replace").partition("/")
        failure: CallError | None = None
        for right in self._rights.get(endpoint, ()):
            if right.grant.mission != mission or holder not in (None, right.caller):
                continue
            try:
                ticket = self.grants.admit(right, function, size, now)
            except NotPermitted as error:
                if failure is None or failure.args == NotPermitted().args:
                    failure = error
                continue
            except CallError as error:
                failure = error
                continue
            try:
                return self.worker(target, keyed=keyed), right, ticket
            except CallError:
                self.grants.finish(ticket)
                raise
        raise failure or NotPermitted()

    def worker(self, target: bytes, *, keyed: bool = False) -> Endpoint:
        """What serves `target`, for a stranger. Raises: `CallError`."""
        export = self._missions.exports.get(target)
        if export is None or export.inline is not None or export.raw is not None:
            raise NotPermitted
        try:
            return worker_of(export, keyed=keyed)
        except RemoteError as error:
            raise without_files(error, export.mission) from None

    def answered(self, call: Running, outcome: str, since: float) -> None:
        """It was answered, or nobody waits for it."""
        self.grants.answered(call.ticket)
        grant = call.grant
        self._audit.note(
            "call",
            caller=key_to_text(call.origin.key),
            mission=grant.mission,
            function=call.function,
            outcome=outcome,
            span_ms=int((trio.current_time() - since) * 1_000),
            note=grant.id_text,
        )

    # -- revoking

    def withdraw(self, tickets: Iterable[int]) -> list[Running]:
        """End all that lives under them, for they are revoked, and cut off who has no right left.

        Returns the calls and casts of which something may still run.
        """
        tickets = list(tickets)
        named = [self.grants.holdings.what(each) for each in tickets]
        ended = [each for each in named if isinstance(each, Running)]
        for call in ended:
            call.worker.withdraw(call, Revoked())
        self.border.withdraw(tickets)
        self.cut_off()
        return ended

    def cut_off(self) -> None:
        """Strangers whose last right is gone, or one while values wait for them to read on."""
        now = trio.current_time()
        for endpoint, rights in list(self._rights.items()):
            known = len(rights)
            rights[:] = [each for each in rights if self.grants.holds(each, now)]
            if not rights:
                self.border.revoked(endpoint.key)
            if len(rights) < known and endpoint.has_unsent:
                endpoint.close(NoConnection("closed"))
            elif not rights:
                endpoint.channel.send_now()  # what was told this moment
                endpoint.close(NoConnection("closed"))
