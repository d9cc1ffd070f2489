"""The relay: one connection to it, the calls that it brings, and the calls that go through it.

Decides nothing that `core/requests.py` and `core/grants.py` can decide: carries sealed requests and
replies between a relay (`net/relay_http.py`) and the door of this node (`services/grants.py`).

Rules
- Log in, announce at each new token and when grants change, poll; whatever fails, everything begins
  again after a while, with jitter, for ever. What was not sent yet is sent then.
- A message is acknowledged when it was looked at. Longer would help nobody: what is sealed to the
  key of this boot cannot be opened after the next.
- A call that came this way is let in by `core/requests.py` (grant, rate, once) and then runs like
  one that came on a link: the same audit, the same revocation. Pids do not travel this way.
- An idempotency key is refused: nothing here makes its record durable yet.
- Who is called must be at the relay that this node uses, by the address in its grant's file.

Owns: one task that holds the connection, and one for each call that goes out from a worker.
"""

from __future__ import annotations

import base64
import logging
import re
import secrets
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

import trio

from drupelet.config import RelayConfig
from drupelet.core.backoff import Backoff
from drupelet.core.grants import Issued
from drupelet.core.requests import Answer, Callee, Caller, Outcome, Run, Sent, Wanted
from drupelet.errors import (
    CallError,
    NoConnection,
    NotPermitted,
    RemoteError,
    RemoteProtocolError,
    Timeout,
)
from drupelet.net.relay_http import RelayGone, RelayHttp
from drupelet.services.calls import Calls
from drupelet.services.deadlines import Deadlines
from drupelet.services.endpoint import Endpoint
from drupelet.services.grants import GrantService
from drupelet.services.waiters import Admitted
from drupelet.toml_text import printable
from drupelet.wire import relay as wire
from drupelet.wire import sodium
from drupelet.wire.announcements import (
    Beacon,
    decode_beacon,
    encode_announcement,
    encode_offers,
)
from drupelet.wire.frames import split_call
from drupelet.wire.grant_files import GrantFile
from drupelet.wire.limits import RELAY_CALLS_MAX, RELAY_HOLDERS_MAX, RELAY_MISSIONS_MAX

if TYPE_CHECKING:
    from drupelet.net.channel import Channel

_log = logging.getLogger("drupelet.relay")

ANNOUNCE_S: Final = 10.0
LOOK_S: Final = 1.0  # so soon a new grant is announced
BEACON_S: Final = 10.0  # a token is good for a minute
ONLINE_S: Final = 5.0  # so long a call waits for the connection
CALL_S_MAX: Final = 3_600.0
FIRST_S: Final = 0.5
LONGEST_S: Final = 60.0
QUEUED_MAX: Final = 256  # messages that wait for the relay; beyond it no more are taken from it
_LAST: Final = re.compile(r"last: ([0-9]{1,18})")


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
        self, relay: RelayService, calls: Calls, deadlines: Deadlines, name: str, key: bytes
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


class RelayService:
    """This node at its relay. `nursery`: for calls that go out."""

    def __init__(
        self,
        config: RelayConfig,
        *,
        seed: bytes,
        name: str,
        grants: GrantService,
        calls: Calls,
        deadlines: Deadlines,
        nursery: trio.Nursery,
    ) -> None:
        self.url = config.url
        self.nursery = nursery
        self._invite = base64.b32decode(config.invite.upper() + "======") if config.invite else b""
        self._seed = seed
        self._key = sodium.ed25519_public(seed)
        self._name = name
        self._grants = grants
        self._calls = calls
        self._deadlines = deadlines
        self._http = RelayHttp(config.url, seed, config.ca_file)
        entropy = secrets.token_bytes
        self.callee = Callee(seed, grants.grants, entropy, trio.current_time())
        self.callee.on_refused = self._refused
        self.caller = Caller(entropy)
        self._out: deque[tuple[wire.Send, int]] = deque()  # with the call that it is of, or 0
        self._filled, self._drained = trio.Event(), trio.Event()
        self._waiting: dict[int, Callable[[bytes | CallError], None]] = {}
        self._ends: dict[int, RelayEnd] = {}
        self._beacons: dict[bytes, tuple[float, Beacon]] = {}
        self._online = trio.Event()
        self._carrying = trio.CancelScope()
        self._announced: tuple[bytes, bytes] = (b"", b"")  # in which run, which offers
        self._announced_for = (0, -1)
        self.announced = trio.Event()  # a new one after each announcement
        self._sequence = 0

    # -- the connection

    async def run(self) -> None:
        """Keep the connection."""
        backoff = Backoff(FIRST_S, LONGEST_S, secrets.SystemRandom().random)
        said = ""
        while True:
            wait_s, problem = 0.0, ""
            try:
                await self._enter()
                backoff.reset()
                said = ""
                _log.info("relay_up url=%s", self.url)
                await self._carry()
            except* RelayGone as group:
                problem = str(_first(group))
            except* wire.RelayRefused as group:
                refusal = _first(group)
                problem, wait_s = str(refusal), getattr(refusal, "retry_after_s", 0.0)
            finally:
                if self._online.is_set():  # who waits for it already goes on waiting
                    self._online = trio.Event()
                self._http.close()
            problem = printable(problem)[:200]  # the relay's words
            if problem != said:
                said = problem
                _log.warning("relay_down url=%s why=%s", self.url, problem)
            await trio.sleep(max(wait_s, backoff.next_delay_s()))

    async def _enter(self) -> None:
        try:
            await self._http.login()
        except wire.RelayRefused as refusal:
            if refusal.code != "not_registered" or not self._invite:
                raise
            await self._http.register(self._name, self._invite)
            await self._http.login()
        await self._announce()

    async def _carry(self) -> None:
        async with trio.open_nursery() as nursery:
            self._carrying = nursery.cancel_scope
            nursery.start_soon(self._keep_announced)
            nursery.start_soon(self._send_all)
            self._online.set()
            last = 0
            while True:
                while len(self._out) > QUEUED_MAX:
                    self._drained = trio.Event()
                    await self._drained.wait()
                messages = await self._http.poll(last)
                for message in messages:
                    if message.kind == wire.MESSAGE:
                        self._take(message)
                    last = message.number
                if messages:
                    await self._http.ask(wire.Ack(ref=0, number=last))

    async def _keep_announced(self) -> None:
        while True:
            known = self._granted()
            next_at = trio.current_time() + ANNOUNCE_S
            while trio.current_time() < next_at and self._granted() == known:  # noqa: ASYNC110
                await trio.sleep(LOOK_S)
            await self._announce()

    async def _announce(self) -> None:
        self.callee.handle_timer(trio.current_time())
        known = self._granted()
        offers = encode_offers(self._key, self._holders())
        run = self._http.run_id
        with_offers = self._announced != (run, offers)
        if self._announced[0] != run:
            self._sequence = 0
        for _ in range(3):
            self._sequence += 1
            announcement = encode_announcement(
                self._seed,
                name=self._name,
                boot_key=self.callee.boot_key,
                token=self.callee.token,
                run=run,
                sequence=self._sequence,
                offers=offers,
                with_offers=with_offers,
            )
            try:
                await self._http.ask(wire.Announce(ref=0, announcement=announcement))
                self._announced, self._announced_for = (run, offers), known
                told, self.announced = self.announced, trio.Event()
                told.set()
                return
            except wire.RelayRefused as refusal:
                last = _LAST.match(refusal.text)
                if refusal.code == "offers_wanted":
                    with_offers = True
                elif refusal.code == "replayed" and last is not None:
                    self._sequence = int(last[1])
                else:
                    raise
        raise RelayGone("the relay takes no announcement")

    def _in_force(self) -> list[Issued]:
        return self._grants.grants.in_force(trio.current_time())

    def _granted(self) -> tuple[int, int]:
        """Changes when the grants do."""
        return self._grants.grants.next_sequence, len(self._in_force())

    def _holders(self) -> dict[str, tuple[bytes, ...]]:
        """Who may see us, for each mission; as many as an announcement holds."""
        found: dict[str, set[bytes]] = {}
        count = 0
        for issued in self._in_force():
            grant = self._grants.grants.grant_of(issued)
            if grant.mission not in found and len(found) >= RELAY_MISSIONS_MAX:
                continue
            holders = found.setdefault(grant.mission, set())
            if not grant.bearer and count < RELAY_HOLDERS_MAX and grant.holder not in holders:
                holders.add(grant.holder)
                count += 1
        return {mission: tuple(sorted(keys)) for mission, keys in found.items()}

    # -- what goes out

    def _queue(self, to: bytes, ident: bytes, re: bytes | None, body: bytes, call: int) -> None:
        kept_s = int(CALL_S_MAX)
        send = wire.Send(ref=0, to=to, id=ident, re=re, kept_s=kept_s, receipt=False, body=body)
        self._out.append((send, call))
        self._filled.set()

    async def _send_all(self) -> None:
        while True:
            while not self._out:
                self._filled = trio.Event()
                self._drained.set()
                await self._filled.wait()
            send, call = self._out[0]
            try:
                await self._http.ask(send)
            except wire.RelayRefused as refusal:
                if refusal.code in ("rate_limited", "busy"):
                    await trio.sleep(max(refusal.retry_after_s, 0.05))
                    continue
                if refusal.code not in ("mailbox_full", "not_found", "malformed"):
                    raise
                reason = "no_such_node" if refusal.code == "not_found" else "overloaded"
                self._settle(self.caller.refused(call, NoConnection(reason)))
            self._out.popleft()

    # -- what comes in

    def _take(self, message: wire.Deliver) -> None:
        now = trio.current_time()
        if message.re is not None:
            told = self.caller.on_reply(message.re, message.body, now)
            if isinstance(told, Sent):
                self._queue(told.to, told.id, None, told.body, told.call)
            else:
                self._settle(told)
            return
        got = self.callee.receive(message.sender, message.id, message.body, now)
        if isinstance(got, Answer):
            self._answer([got])
        elif isinstance(got, Run):
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
            self._grants.strangers.serve_admitted(
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
            self._queue(each.to, secrets.token_bytes(16), each.re, each.body, 0)

    def _refused(self, key: bytes, target: str, error: CallError) -> None:
        self._grants.strangers.refused(key, target.encode(), error)

    # -- our own calls

    def end_of(self, name: str, key: bytes) -> RelayEnd:
        """Where calls of that node go."""
        return RelayEnd(self, self._calls, self._deadlines, name, key)

    async def request(self, key: bytes, target: str, args: bytes, deadline: float) -> bytes:
        """A call through the relay: the encoded value. Raises: `CallError`."""
        deadline = min(deadline, trio.current_time() + CALL_S_MAX)
        file = self._file_for(key, target)
        with trio.CancelScope(deadline=deadline) as finding:
            beacon = await self._beacon(file)
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
        self._queue(sent.to, sent.id, None, sent.body, sent.call)
        try:
            with trio.CancelScope(deadline=deadline):
                await done.wait()
            if not results:
                for outcome in self.caller.handle_timer(trio.current_time()):
                    self._settle(outcome)
            result = results[0] if results else Timeout(maybe_ran=True)
            if isinstance(result, Timeout):
                self._beacons.pop(key, None)  # it may have started anew
        finally:
            self.caller.cancel(sent.call)
            self._waiting.pop(sent.call, None)
        if isinstance(result, CallError):
            raise result
        return result

    def _settle(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            settled = self._waiting.pop(outcome.call, None)
            if settled is not None:
                settled(outcome.result)

    def _file_for(self, key: bytes, target: str) -> GrantFile:
        """The grant to show: one that allows the function, else one of the mission."""
        mission, _, function = target.partition("/")
        files = [
            file
            for file in self._grants.accepted.files()
            if file.grant.issuer == key and file.grant.mission == mission
        ]
        for file in files:
            if file.grant.allows(function):
                return file
        raise NotPermitted

    async def _beacon(self, file: GrantFile) -> Beacon:
        """Its newest keys, at most BEACON_S old. Raises: `NoConnection`."""
        key, now = file.grant.issuer, trio.current_time()
        until, beacon = self._beacons.get(key, (0.0, None))
        if beacon is not None and until > now:
            return beacon
        grant = file.grant
        shown = grant.data if grant.bearer or len(grant.links) > 1 else b""
        beacon = await self._found(wire.Find(ref=0, node=key, grant=shown))
        if len(self._beacons) >= RELAY_CALLS_MAX:
            self._beacons.clear()
        self._beacons[key] = (now + BEACON_S, beacon)
        return beacon

    async def _found(self, question: wire.Find) -> Beacon:
        """What the relay shows; a connection that it knows no more is made again, once."""
        for _ in range(2):
            with trio.move_on_after(ONLINE_S):
                await self._online.wait()
            if not self._online.is_set():
                break
            try:
                entry = await self._http.ask(question)
                if not isinstance(entry, list) or len(entry) < 3 or not isinstance(entry[2], bytes):
                    raise RemoteProtocolError("malformed entry")
                beacon = decode_beacon(entry[2])
                if beacon.key != question.node:
                    raise RemoteProtocolError("the beacon of another node")
                return beacon
            except RemoteProtocolError as error:
                _log.info("relay_find_failed why=%s", error)
                break
            except wire.RelayRefused as refusal:
                if refusal.code != "denied":
                    reason = "no_such_node" if refusal.code == "not_found" else "overloaded"
                    raise NoConnection(reason) from None
            except RelayGone as error:
                _log.info("relay_find_failed why=%s", error)
            self._online = trio.Event()
            self._carrying.cancel()
        raise NoConnection("no_route")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


__all__ = ["RelayEnd", "RelayService"]
