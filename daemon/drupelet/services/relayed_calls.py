"""Calls through a relay: those that it brings, and those that go out by it.

Decides nothing that `core/requests.py` and `core/grants.py` can decide: carries sealed requests and
replies between the link to a relay (`services/relay_link.py`) and the door of this node
(`services/stranger_calls.py`).

Rules
- A call that came this way is let in by `core/requests.py` (grant, rate, once) and then runs like
  one that came on a link: the same audit, the same revocation. Pids do not travel this way.
- An idempotency key is refused: nothing here makes its record durable yet.
- Who is called must be at the relay that this node uses, by the address in its grant's file.

Owns: one task for each call that goes out from a worker.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import trio

from drupelet.core.grants import Issued
from drupelet.core.requests import Answer, Callee, Caller, Outcome, Run, Sent, Wanted
from drupelet.errors import CallError, NoConnection, NotPermitted, RemoteError, Timeout
from drupelet.services.accepted import Accepted
from drupelet.services.calls import Calls
from drupelet.services.deadlines import Deadlines
from drupelet.services.endpoint import Endpoint
from drupelet.services.relay_link import Offered, RelayLink
from drupelet.services.stranger_calls import CALL_S_MAX, StrangerCalls
from drupelet.services.waiters import Admitted
from drupelet.wire import relay as wire
from drupelet.wire.frames import split_call
from drupelet.wire.grant_files import GrantFile
from drupelet.wire.limits import RELAY_HOLDERS_MAX, RELAY_MISSIONS_MAX

if TYPE_CHECKING:
    from drupelet.net.channel import Channel

_log = logging.getLogger("drupelet.relay")  # at "debug" each step of each call, by messages' ids


class _NoChannel:
    """What an endpoint has in place of a channel when messages go through a relay."""

    close_reason = ""
    closed = False
    congested = False
    queued_bytes = 0
    bulk_bytes = 0

    def queue(self, frame: bytes) -> None:
        """There is no frame to send."""

    def send_now(self) -> None:
        """Nor anything that waits."""

    def close(self, reason: str) -> None:
        """It is not used any more."""
        self.close_reason = reason
        self.closed = True


class RelayEnd(Endpoint):
    """A node at the other side of the relay: who calls us, or whom we call."""

    __slots__ = ("_relay",)
    direct = False

    def __init__(
        self, relay: RelayedCalls, calls: Calls, deadlines: Deadlines, name: str, key: bytes
    ) -> None:
        channel = cast("Channel", _NoChannel())
        super().__init__(
            channel, calls, deadlines, opener=True, ring="stranger", name=name, key=key
        )
        self._relay = relay

    # -- it called us; ids are tickets

    def reply(self, ident: int, encoded: bytes) -> None:
        """The value of the call `ident`, an encoded one."""
        self.serving.pop(ident, None)
        self._relay.ended(ident, encoded)

    def reply_error(self, ident: int, error: CallError) -> None:
        """Or its failure."""
        self.serving.pop(ident, None)
        self._relay.ended(ident, error)

    # -- we call it

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
        """Nobody would hear whether it arrived."""
        raise NotPermitted("no casts through a relay")


class RelayedCalls:
    """Those of one node. `nursery`: for calls that go out."""

    def __init__(
        self,
        *,
        seed: bytes,
        strangers: StrangerCalls,
        accepted: Accepted,
        calls: Calls,
        deadlines: Deadlines,
        nursery: trio.Nursery,
    ) -> None:
        self.nursery = nursery
        self._seed = seed
        self._strangers = strangers
        self._accepted = accepted
        self._calls = calls
        self._deadlines = deadlines
        entropy = secrets.token_bytes
        self.callee = Callee(seed, strangers.grants, entropy, trio.current_time())
        self.callee.on_refused = self._refused
        self.caller = Caller(entropy)
        self._waiting: dict[int, Callable[[bytes | CallError], None]] = {}
        self._ends: dict[int, RelayEnd] = {}
        self._given: RelayLink | None = None

    def use(self, link: RelayLink) -> None:
        """Go by that link."""
        self._given = link
        link.on_kind[wire.MESSAGE] = self._take

    @property
    def _link(self) -> RelayLink:
        assert self._given is not None  # without one there is no `RelayEnd`
        return self._given

    def is_at(self, url: str) -> bool:
        """Whether this node is at the relay of that address."""
        return self._given is not None and url == self._given.url

    # -- what is announced

    def version(self) -> tuple[int, int]:
        """Changes when the grants do."""
        return self._strangers.grants.next_sequence, len(self._in_force())

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
        if isinstance(got, Answer):
            self._answer([got])
        elif isinstance(got, Run):
            _log.debug("apply id=%s target=%s run=%d", message.id.hex(), got.target, got.ticket)
            self._begin(got)

    def _begin(self, run: Run) -> None:
        if run.record is not None:
            refusal = RemoteError("badarg", "this node keeps no idempotency keys")
            self._finish(run.ticket, refusal, ran=False)
            return
        end = self._ends[run.ticket] = RelayEnd(
            self, self._calls, self._deadlines, "", run.right.caller
        )
        try:
            self._strangers.serve_admitted(
                end,
                run.ticket,
                run.right,
                run.target.encode(),
                run.arguments,
                int(min(run.span_s, CALL_S_MAX) * 1_000),
            )
        except CallError as error:
            self._finish(run.ticket, error, ran=False)

    def ended(self, ticket: int, outcome: bytes | CallError) -> None:
        """A call that came through the relay has ended."""
        self._finish(ticket, outcome)

    def _finish(self, ticket: int, outcome: bytes | CallError, *, ran: bool = True) -> None:
        end = self._ends.pop(ticket, None)
        if end is not None:
            end.channel.close("closed")
        answers, _ = self.callee.finish(ticket, outcome, trio.current_time(), ran=ran)
        self._answer(answers)

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
        return RelayEnd(self, self._calls, self._deadlines, name, key)

    async def request(self, key: bytes, target: str, args: bytes, deadline: float) -> bytes:
        """A call through the relay: the encoded value. Raises: `CallError`."""
        deadline = min(deadline, trio.current_time() + CALL_S_MAX)
        file = self._file_for(key, target)
        with trio.CancelScope(deadline=deadline) as finding:
            beacon = await self._link.beacon(key, _shown(file))
        if finding.cancelled_caught:
            raise Timeout(maybe_ran=False)
        wanted = Wanted(
            callee=key,
            boot_key=beacon.boot_key,
            grant=file.grant.data,
            seed=file.seed if file.seed is not None else self._seed,
            target=target,
            arguments=args,
            deadline=deadline,
        )
        sent = self.caller.call(wanted, beacon.token, trio.current_time())
        done = trio.Event()
        results: list[bytes | CallError] = []

        def settled(result: bytes | CallError) -> None:
            results.append(result)
            done.set()

        self._waiting[sent.call] = settled
        _log.debug("stored call=%d id=%s target=%s", sent.call, sent.id.hex(), target)
        self._send(sent)
        try:
            with trio.CancelScope(deadline=deadline):
                await done.wait()
            if not results:
                for outcome in self.caller.handle_timer(trio.current_time()):
                    self._settle(outcome)
            result = results[0] if results else Timeout(maybe_ran=True)
            if isinstance(result, Timeout):
                self._link.forget_beacon(key)
        finally:
            self.caller.cancel(sent.call)
            self._waiting.pop(sent.call, None)
        if isinstance(result, CallError):
            raise result
        return result

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
                settled(outcome.result)

    def _file_for(self, key: bytes, target: str) -> GrantFile:
        """The grant to show: one that allows the function, else one of the mission."""
        mission, _, function = target.partition("/")
        files = [
            file
            for file in self._accepted.files()
            if file.grant.issuer == key and file.grant.mission == mission
        ]
        for file in files:
            if file.grant.allows(function):
                return file
        raise NotPermitted


def _shown(file: GrantFile) -> bytes:
    """What the relay must see of a grant to tell where its node is: it knows first holders."""
    grant = file.grant
    return grant.data if grant.bearer or len(grant.links) > 1 else b""


__all__ = ["RelayEnd", "RelayedCalls"]
