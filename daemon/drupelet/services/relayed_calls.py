"""Calls through a relay: those that it brings, and those that go out by it.

Decides nothing that `core/requests.py` and `core/grants.py` can decide: carries sealed requests and
replies between the link to a relay (`services/relay_link.py`) and the door of this node
(`services/stranger_calls.py`).

Rules
- A call that came this way is let in by `core/requests.py` (grant, rate, once) and then runs like
  one that came on a link: the same audit, the same revocation.
- Pids in it become proxy pids, as on a link, and what is sent to those goes as words
  (`services/words.py`). Not in a call with an idempotency key, by a bearer grant, or by HTTP.
- A call with an idempotency key runs when its record is durable, and is answered when that of its
  end is: `services/once.py`. One of our own is signed anew when its callee has started anew.
- Who is called must be at one of this node's relays, by the addresses in its grant's file: relays
  of one list are kept in step.

Owns: one task for each call that goes out from a worker, and that of `services/words.py`.
"""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Final

import trio

from drupelet.core.grants import Issued, Right
from drupelet.core.once import Place
from drupelet.core.requests import Answer, Callee, Caller, Outcome, Run, Sent, Wanted
from drupelet.errors import (
    CallError,
    NoConnection,
    NotPermitted,
    RateLimited,
    RemoteError,
    Revoked,
    Timeout,
)
from drupelet.services.accepted import Accepted
from drupelet.services.announcing import Offered
from drupelet.services.calls import Calls
from drupelet.services.deadlines import Deadlines
from drupelet.services.ends import End
from drupelet.services.once import OnceService
from drupelet.services.once import Outcome as Told
from drupelet.services.proxies import ProxyService
from drupelet.services.relay_link import RelayLink, shown_of
from drupelet.services.stranger_calls import CALL_S_MAX, StrangerCalls
from drupelet.services.waiters import Admitted
from drupelet.services.words import Words
from drupelet.wire import relay as wire
from drupelet.wire import sodium
from drupelet.wire.codec import dumps
from drupelet.wire.frames import split_call
from drupelet.wire.grant_files import GrantFile
from drupelet.wire.idempotency import DONE_TARGET
from drupelet.wire.limits import RELAY_HOLDERS_MAX, RELAY_MISSIONS_MAX
from drupelet.wire.words import is_word

_LOOK_S: Final = 5.0  # so often a call with a key looks whether its callee has started anew

_log = logging.getLogger("drupelet.relay")  # at "debug" each step of each call, by messages' ids


class RelayEnd(End):
    """A node at the other side of the relay: who calls us, or whom we call."""

    __slots__ = ("_relay", "_way")

    def __init__(
        self,
        relay: RelayedCalls,
        calls: Calls,
        deadlines: Deadlines,
        name: str,
        key: bytes,
        way: Callable[[], End | None],
    ) -> None:
        super().__init__(calls, deadlines, relay.ended, name=name, key=key)  # ids are tickets
        self._relay = relay
        self._way = way

    def way(self) -> End | None:
        """Where messages to its proxy pids go; made when there are some."""
        return self._way()

    async def call(self, prefix: bytes, args: bytes, deadline: float) -> bytes:
        """One call: the answer's body, as from a link. Raises: `CallError`."""
        target = split_call(prefix).target.decode("utf-8", "replace")
        return b"\0" + await self._relay.request(self.key, target, args, deadline)

    def pass_on(self, waiter: Admitted, prefix: bytes, args: bytes, deadline: float) -> None:
        """One call of a worker's or a client's."""
        self._relay.nursery.start_soon(self._pass_on, waiter, prefix, args, deadline)

    async def _pass_on(self, waiter: Admitted, prefix: bytes, args: bytes, deadline: float) -> None:
        with trio.CancelScope() as scope:
            if not waiter.origin.closed:
                waiter.origin.serving[waiter.theirs] = scope
            try:
                body: bytes | CallError = await self.call(prefix, args, deadline)
            except CallError as error:
                body = error
            waiter.answer(body)
        waiter.end()

    async def call_many(
        self, prefix: bytes, many: object, deadline: float
    ) -> list[bytes | CallError]:
        """A stranger's call is one call."""
        raise NotPermitted("one call at a time through a relay")

    def cast(self, prefix: bytes, args: bytes) -> None:
        """Those that can be kept are (services/outbox.py)."""
        raise NotPermitted("no cast with a pid in it through a relay")


class RelayedCalls:
    """Those of one node. `nursery`: for calls that go out."""

    def __init__(
        self,
        *,
        seed: bytes,
        strangers: StrangerCalls,
        once: OnceService,
        accepted: Accepted,
        calls: Calls,
        deadlines: Deadlines,
        nursery: trio.Nursery,
    ) -> None:
        self.nursery = nursery
        self._seed = seed
        self._key = sodium.ed25519_public(seed)
        self._strangers = strangers
        self._once = once
        once.on_told = self._told
        self._accepted = accepted
        self._calls = calls
        self._deadlines = deadlines
        entropy = secrets.token_bytes
        self.callee = Callee(seed, strangers.grants, entropy, trio.current_time(), once.table)
        self.callee.on_refused = self._refused
        self.callee.on_done = once.on_done
        self.caller = Caller(entropy)
        self._waiting: dict[int, Callable[[Outcome], None]] = {}
        self._ends: dict[int, RelayEnd] = {}
        self._starting = 0  # the ticket of a run that is being passed to its worker
        self._failed: CallError | None = None
        self._given: RelayLink | None = None
        self._seen = (-1, -1)  # grants' changes that `_version` stands for
        self._ends_at = inf  # when the next grant's time is over
        self._version = 0
        self.words: Words | None = None

    def use(self, link: RelayLink, proxies: ProxyService) -> None:
        """Go by that link; `proxies`: of whom words speak."""
        self._given = link
        self.words = Words(
            seed=self._seed,
            link=link,
            proxies=proxies,
            calls=self._calls,
            deadlines=self._deadlines,
            holds=self._strangers.grants.holds,
        )
        self.nursery.start_soon(self.words.run)
        link.on_kind[wire.MESSAGE] = self._take

    @property
    def _link(self) -> RelayLink:
        assert self._given is not None  # without one there is no `RelayEnd`
        return self._given

    def is_at(self, url: str) -> bool:
        """Whether that relay is one of this node's."""
        return self._given is not None and url in self._given.urls

    # -- what is announced

    def version(self) -> int:
        """Changes when the grants do. Asked each second: 4,096 grants would take 12 ms."""
        now, changes = trio.current_time(), self._strangers.grants.changes
        if changes != self._seen or now >= self._ends_at:
            self._seen = changes
            self._ends_at = now + min((each.left_s for each in self._in_force()), default=inf)
            self._version += 1
        return self._version

    def offered(self) -> Offered:
        """For whom this node is there, and what requests are sealed to and signed over."""
        self.callee.handle_timer(trio.current_time())
        return Offered(self._holders(), self.callee.boot_key, self.callee.token)

    def _in_force(self) -> list[Issued]:
        return self._strangers.grants.in_force(trio.current_time())

    def _holders(self) -> dict[str, tuple[bytes, ...]]:
        """Who may see us, for each mission; as many as an announcement holds."""
        found: dict[str, set[bytes]] = {}
        count = 0
        for issued in self._in_force():
            grant = self._strangers.grants.grant_of(issued)
            if grant.mission not in found and len(found) >= RELAY_MISSIONS_MAX:
                continue
            holders = found.setdefault(grant.mission, set())
            if not grant.bearer and count < RELAY_HOLDERS_MAX and grant.holder not in holders:
                holders.add(grant.holder)
                count += 1
        return {mission: tuple(sorted(keys)) for mission, keys in found.items()}

    # -- what comes in

    def _take(self, message: wire.Deliver) -> None:
        now = trio.current_time()
        if is_word(message.body):
            if self.words is not None:
                self.words.take(message)
            return
        if message.re is not None:
            told = self.caller.on_reply(message.re, message.body, now)
            if isinstance(told, Sent):
                _log.debug("signed_again re=%s id=%s", message.re.hex(), told.id.hex())
                self._send(told)
            else:
                call = told.call if told is not None else 0  # 0: it is no answer to a call of ours
                _log.debug("matched id=%s re=%s call=%d", message.id.hex(), message.re.hex(), call)
                self._settle(told)
            return
        got = self.callee.receive(message.sender, message.id, message.body, now)
        self.carry_out(message.id, got, message.sender)

    def carry_out(self, ident: bytes, got: Run | Answer | None, sender: bytes = b"") -> None:
        """What `callee` says of the request `ident`, whatever its form.

        `sender`: the account that brought it, if it takes messages to proxy pids.
        """
        if isinstance(got, Answer):
            self._once.after(lambda: self._answer([got]))
        elif isinstance(got, Run):
            _log.debug("apply id=%s target=%s run=%d", ident.hex(), got.target, got.ticket)
            self._begin(got, sender)

    def _begin(self, run: Run, sender: bytes) -> None:
        if run.record is None:
            self._start(run, sender)
            return
        try:
            self._strangers.worker(run.target.encode(), keyed=True)
        except CallError as error:  # nothing is written then
            self._finish(run.ticket, error, ran=False)
            return
        self._once.begin(run.record, functools.partial(self._begun, run))

    def _begun(self, run: Run, failure: CallError | None) -> None:
        """Its record is durable, or why it is not."""
        if failure is None and not self._strangers.grants.holds(run.right, trio.current_time()):
            failure = Revoked()
        if failure is None:
            failure = self._start(run)
        else:
            self._finish(run.ticket, failure, ran=False)
        if failure is not None and run.record is not None:
            self._once.never(run.record, failure)

    def _start(self, run: Run, sender: bytes = b"") -> CallError | None:
        """Run it. Why that did not begin."""
        keyed = run.record is not None
        self._starting, self._failed = run.ticket, None
        caller = run.right.caller
        is_peer = sender == caller and not keyed  # not who has a bearer's key, or only one answer
        end = self._ends[run.ticket] = RelayEnd(
            *(self, self._calls, self._deadlines, "", caller),
            functools.partial(self._way, "", caller, run.right) if is_peer else lambda: None,
        )
        try:
            self._strangers.serve_admitted(
                end,
                run.ticket,
                run.right,
                run.target.encode(),
                run.arguments,
                int((CALL_S_MAX if keyed else min(run.span_s, CALL_S_MAX)) * 1_000),
                keyed=keyed,
            )
        except CallError as error:
            self._finish(run.ticket, error, ran=False)
            return error
        finally:
            self._starting = 0
        return self._failed

    def ended(self, ticket: int, outcome: bytes | CallError) -> None:
        """A call that came through the relay has ended."""
        if ticket == self._starting and isinstance(outcome, CallError):  # it never began
            self._failed = outcome
        self._finish(ticket, outcome, ran=ticket != self._starting)

    def _finish(self, ticket: int, outcome: bytes | CallError, *, ran: bool = True) -> None:
        end = self._ends.pop(ticket, None)
        if end is not None:
            end.channel.close("closed")
        answers, record = self.callee.finish(ticket, outcome, trio.current_time(), ran=ran)
        if record is not None:
            self._once.ended(record, lambda: self._answer(answers))
        else:
            self._answer(answers)

    def _told(self, place: Place, told: Told) -> None:
        """A run that came on a link has ended; the same call may have come here too."""
        self._answer(self.callee.told(place, *told, trio.current_time()))

    def _answer(self, answers: list[Answer]) -> None:
        for each in answers:
            ident = secrets.token_bytes(16)
            _log.debug("response id=%s re=%s", ident.hex(), each.re.hex())
            self._link.send(each.to, ident, each.re, each.body)

    def _refused(self, key: bytes, target: str, error: CallError) -> None:
        self._strangers.refused(key, target.encode(), error)

    # -- our own calls

    def end_of(self, name: str, key: bytes) -> RelayEnd:
        """Where calls of that node go."""
        way = functools.partial(self._way, name, key, None)
        return RelayEnd(self, self._calls, self._deadlines, name, key, way)

    def _way(self, name: str, key: bytes, right: Right | None) -> End | None:
        return self.words.end(name, key, right) if self.words is not None else None

    async def request(self, key: bytes, target: str, args: bytes, deadline: float) -> bytes:
        """A call through the relay: the encoded value. Raises: `CallError`."""
        file = self._file_for(key, target)
        outcome = await self._request(file, target, args, deadline, None)
        assert outcome is not None
        if isinstance(outcome.result, CallError):
            raise outcome.result
        return outcome.result

    async def request_once(
        self,
        callee: bytes,
        key: bytes,
        target: str,
        args: bytes,
        deadline: float,
        holder: bytes | None = None,
    ) -> Outcome:
        """The same with an idempotency key of `holder`: signed anew when the callee starts anew.

        Raises: `CallError` where nothing was sent; what became of it otherwise is in the outcome.
        """
        anew = False
        while True:
            file = self._file_for(callee, target, holder)
            outcome = await self._request(file, target, args, deadline, key)
            if outcome is None:
                anew = True
                continue
            failure = outcome.result
            if anew and isinstance(failure, CallError) and is_of_one_try(failure):
                return replace(outcome, result=Timeout(maybe_ran=True), said=False)
            return outcome

    async def done(
        self, callee: bytes, keys: list[bytes], target: str, holder: bytes, deadline: float
    ) -> None:
        """Say that these keys of casts of `target` are never sent again. Raises: `CallError`."""
        file = self._file_for(callee, target, holder)
        outcome = await self._request(file, DONE_TARGET, dumps([keys]), deadline, None)
        if outcome is not None and isinstance(outcome.result, CallError):
            raise outcome.result

    async def look(self, callee: bytes, target: str) -> None:
        """Whether the relay knows where it is. Raises: `NoConnection`, `NotPermitted`."""
        await self._link.beacon(callee, shown_of(self._file_for(callee, target).grant))

    async def _request(
        self, file: GrantFile, target: str, args: bytes, deadline: float, key: bytes | None
    ) -> Outcome | None:
        """None: with a key, its callee has started anew. Raises: `CallError`; nothing was sent."""
        callee = file.grant.issuer
        deadline = min(deadline, trio.current_time() + CALL_S_MAX)
        with trio.CancelScope(deadline=deadline) as finding:
            beacon = await self._link.beacon(callee, shown_of(file.grant))
        if finding.cancelled_caught:
            raise Timeout(maybe_ran=False)
        wanted = Wanted(
            callee=callee,
            boot_key=beacon.boot_key,
            grant=file.grant.data,
            seed=file.seed if file.seed is not None else self._seed,
            target=target,
            arguments=args,
            deadline=deadline,
            idempotency_key=key,
        )
        sent = self.caller.call(wanted, beacon.token, trio.current_time())
        done = trio.Event()
        outcomes: list[Outcome] = []

        def settled(outcome: Outcome) -> None:
            outcomes.append(outcome)
            done.set()

        self._waiting[sent.call] = settled
        _log.debug("stored call=%d id=%s target=%s", sent.call, sent.id.hex(), target)
        self._send(sent)
        try:
            while not outcomes and trio.current_time() < deadline:
                look_at = trio.current_time() + (_LOOK_S if key is not None else inf)
                with trio.CancelScope(deadline=min(deadline, look_at)):
                    await done.wait()
                if not outcomes and await self._has_started_anew(wanted, shown_of(file.grant)):
                    return None
            if not outcomes:
                for outcome in self.caller.handle_timer(trio.current_time()):
                    self._settle(outcome)
            if not outcomes:
                outcomes.append(Outcome(call=sent.call, result=Timeout(maybe_ran=True)))
            if isinstance(outcomes[0].result, Timeout):
                self._link.forget_beacon(callee)
            return outcomes[0]
        finally:
            self.caller.cancel(sent.call)
            self._waiting.pop(sent.call, None)

    async def _has_started_anew(self, wanted: Wanted, shown: bytes) -> bool:
        """Whether it cannot open any more what was sealed for it; with a key, it may be again."""
        if wanted.idempotency_key is None:
            return False
        with trio.move_on_at(wanted.deadline):
            try:
                beacon = await self._link.beacon(wanted.callee, shown)
                return beacon.boot_key != wanted.boot_key
            except NoConnection:
                return False
        return False

    def _send(self, sent: Sent) -> None:
        def refused(error: NoConnection) -> None:
            self._settle(self.caller.refused(sent.call, error))

        self._link.send(sent.to, sent.id, None, sent.body, refused)

    def _settle(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            settled = self._waiting.pop(outcome.call, None)
            if settled is not None:
                how = (
                    type(outcome.result).__name__ if isinstance(outcome.result, CallError) else "ok"
                )
                _log.debug("settled call=%d outcome=%s", outcome.call, how)
                settled(outcome)

    def holder_for(self, key: bytes, target: str) -> bytes | None:
        """Whose idempotency keys a request to that node uses; None: we hold no grant for it.

        Our own key's before a file's: a grant that comes later does not make old keys new.
        """
        for holder in (self._key, None):
            try:
                return self._file_for(key, target, holder).grant.holder
            except NotPermitted:
                continue
        return None

    def _file_for(self, key: bytes, target: str, holder: bytes | None = None) -> GrantFile:
        """The grant to show: the newest, of `holder` if one is named, that allows the function."""
        mission, _, function = target.partition("/")
        files = [
            file
            for file in self._accepted.files()
            if file.grant.issuer == key and file.grant.mission == mission
        ]
        for file in reversed(files):  # an older one may have been taken back
            if file.grant.allows(function) and holder in (None, file.grant.holder):
                return file
        raise NotPermitted


def is_of_one_try(error: CallError) -> bool:
    """Whether that is a word on one try of a call with a key, and not on an earlier one."""
    if isinstance(error, RemoteError):
        return error.kind in ("not_durable", "damaged", "mission_backoff")
    return isinstance(error, NotPermitted | Revoked | RateLimited)


__all__ = ["RelayEnd", "RelayedCalls", "is_of_one_try"]
