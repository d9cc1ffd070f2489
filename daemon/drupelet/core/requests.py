"""Requests: the two ends of a call that goes through a relay, which neither of them trusts.

Decides what becomes of each sealed request that comes (`Callee`) and of each sealed reply
(`Caller`). The bytes are `wire/requests.py`'s, rights and rates `core/grants.py`'s, tokens and ids
`core/freshness.py`'s, idempotency keys `core/once.py`'s. The driver moves messages and runs what it
is told to run:

    callee.receive(sender, ident, body, now)    # a Run, an Answer to send, or None: say nothing
    callee.finish(run.ticket, outcome, now)     # it ended: answers, and a record to keep before
    caller.call(wanted, token, now)             # a Sent: where to, as which message, its bytes
    caller.on_reply(re, body, now)              # an Outcome, a Sent that goes now, or None

A request: open -> fresh -> grant -> admit -> run -> reply.

Rules
- A request runs at most once. What was accepted is known by the hash of the signed request, so a
  relay that knows an id can use it for nothing. A replay is answered with the reply that was kept.
- What was refused is kept as well: it cannot be said again when the rate allows it.
- An answer names the request by its hash and is sealed to that request's own key: one that does
  not open or does not fit is dropped, and the call waits on.
- Told that its token is old, a caller signs once more. It believes that only for STALE_S after it
  signed: the callee still knows then what it accepted, so the first was not run. Later only a call
  with an idempotency key is signed again.
- An idempotency key's record is durable before the call runs (`Run.record`) and before its outcome
  is told: `core/once.py`, whose table calls on links share (`Callee.told` answers for their runs).
- `Timeout(maybe_ran=False)` is said only where the callee's own word shows it.
- No table forgets early to make room: it refuses.

References: RFC 9449 section 8 (nonces told by the server); RFC 9110 section 9.2.2 on retries.
Rejected: retrying a request that got no answer (the relay does: it holds it on its disk); knowing
requests by the id in them (a holder could take up another's).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Final

from drupelet.core.asked import Asked, Asking, Sealed, Signer
from drupelet.core.freshness import KEPT_MAX, TOKEN_S, Freshness, Verdict
from drupelet.core.grants import FULL_S, Grants, Right
from drupelet.core.once import Ended, OnceRecord, OnceTable, Place, content_of, encoded
from drupelet.errors import (
    CallError,
    NoConnection,
    NotPermitted,
    RateLimited,
    RemoteError,
    RemoteProtocolError,
    Revoked,
    Timeout,
    error_from_fields,
)
from drupelet.wire import sodium
from drupelet.wire.codec import dumps, loads_canonical
from drupelet.wire.idempotency import DONE_TARGET, done_keys
from drupelet.wire.limits import (
    RELAY_CALLS_MAX,
    REPLIES_KEPT_BYTES_MAX,
    REPLY_VALUE_BYTES_MAX,
    REQUEST_TIMEOUT_MS_MAX,
)
from drupelet.wire.requests import (
    Opened,
    SignedRequest,
    encode_request,
    open_reply,
    open_request,
    request_hash,
    stale_error,
    stale_token,
    verify_request,
)

STALE_S: Final = 50.0  # KEPT_MAX windows less the TOKENS_MAX that accept: 60 s, less clocks' drift
WAITING_MAX: Final = 8  # requests with one idempotency key that wait for one run
REPLAYED: Final = "replayed"  # the kind of the refusal of a replay that is not answered again
_REPLAYED: Final = "this request was accepted before, and it counts once; sign it anew"
_ENTRY_BYTES: Final = 256  # of a kept reply or record, beside its bytes

Entropy = Callable[[int], bytes]


# -- the callee's side


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Send `body` to `to`, as the answer to its message `re`."""

    to: bytes
    re: bytes
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Run this, and tell `finish`. `record`: to be durable before it runs."""

    ticket: int
    right: Right
    target: str
    arguments: bytes
    span_s: float
    record: OnceRecord | None = None


class _Signer:
    """The keys that signed a request: asked for one, it looks at the signature."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self.key: bytes | None = None

    def __contains__(self, key: object) -> bool:
        assert isinstance(key, bytes)
        try:
            verify_request(self._opened, key)
        except RemoteProtocolError:
            return False
        self.key = key
        return True


class Callee:
    """The requests that come to one node, of one boot. `seed`: of its identity.

    `once`: the node's idempotency keys; without, a table of its own.
    """

    def __init__(
        self,
        seed: bytes,
        grants: Grants,
        entropy: Entropy,
        now: float,
        once: OnceTable | None = None,
    ) -> None:
        self._seed = seed
        self._key = sodium.ed25519_public(seed)
        self._grants = grants
        self._entropy = entropy
        self._private = entropy(sodium.KEY_BYTES)
        self._freshness = Freshness(entropy(16), now)
        self._running: dict[int, tuple[Asked, Place | None]] = {}
        self._replies: dict[bytes, tuple[float, bytes]] = {}  # by hash; the oldest first
        self._reply_bytes = 0
        self.once = once if once is not None else OnceTable()
        self._waiting: dict[Place, list[Asked]] = {}  # for a run, on whatever way it came
        self.dropped_count = 0
        self.on_refused: Callable[[bytes, str, CallError], None] = _nobody  # key, target, why
        self.on_done: Callable[[list[OnceRecord]], None] = _nobody_keeps
        self.boot_key = sodium.x25519_public(self._private)

    @property
    def token(self) -> bytes:
        """What requests are to be signed over now."""
        return self._freshness.newest

    def next_timer(self) -> float:
        """When `handle_timer` is to be called: the token changes."""
        return self._freshness.next_timer()

    def handle_timer(self, now: float) -> None:
        """New tokens; what is too old is forgotten."""
        while self._freshness.next_timer() <= now:
            self._freshness.rotate(self._entropy(16), now)
        while self._replies:
            first = next(iter(self._replies))
            if self._replies[first][0] > now:
                break
            self._forget_reply(first)
        self.once.handle_timer(now)

    def restore(self, records: Iterable[OnceRecord], now: float) -> None:
        """After a start: the idempotency keys that were kept."""
        self.once.restore(records, now)

    def receive(self, sender: bytes, ident: bytes, body: bytes, now: float) -> Run | Answer | None:
        """A sealed request, brought as message `ident` of the account `sender`."""
        self.handle_timer(now)  # late timers must not forget what is accepted now
        try:
            opened = open_request(self._private, self.boot_key, body)
        except RemoteProtocolError:
            opened = None
        if opened is None or opened.request.callee != self._key:
            self.dropped_count += 1
            return None
        asked = Sealed(sender, ident, opened.hash, opened.request.reply_key)
        return self.judge(asked, opened.request, _Signer(opened), now)

    def judge(
        self, asked: Asked, request: Asking, signer: Signer, now: float
    ) -> Run | Answer | None:
        """A request whose shape is good, however it came. `now`: as `handle_timer` was told."""
        failure: CallError | None = None
        right: Right | None = None
        try:
            right = self._grants.present(request.grant, signer, now)
        except (NotPermitted, Revoked, RateLimited) as error:
            failure = error
        if signer.key is None:  # nothing of it is remembered: anybody could have sent it
            failure = failure or NotPermitted()
            self.on_refused(asked.blamed, request.target, failure)
            return self._reply(asked, error=encoded(failure))
        match self._freshness.take(request.token, asked.hash):
            case Verdict.STALE:
                return self._reply(asked, error=stale_error(self.token))
            case Verdict.UNKNOWN:  # who sealed it knows by STALE_S: it was for this boot
                stale = stale_error(self.token, maybe_ran=not asked.repeats)
                return self._reply(asked, error=stale)
            case Verdict.REPLAYED:
                if not asked.repeats:
                    return self._reply(asked, error=encoded(RemoteError(REPLAYED, _REPLAYED)))
                kept = self._replies.get(asked.hash)
                return kept and Answer(to=asked.sender, re=asked.ident, body=kept[1])
            case Verdict.FULL:
                return self._reply(asked, error=encoded(RateLimited(FULL_S)))
        try:
            if failure is not None or right is None:
                raise failure or NotPermitted()
            if request.target == DONE_TARGET:
                return self._keep(asked, self._done(asked, request, right.caller, now), now)
            return self._admitted(asked, request, right, now)
        except CallError as error:
            self.on_refused(signer.key, request.target, error)
            return self._keep(asked, self._reply(asked, error=encoded(error)), now)

    def finish(
        self, ticket: int, outcome: bytes | CallError, now: float, *, ran: bool = True
    ) -> tuple[list[Answer], OnceRecord | None]:
        """It ended: with an encoded value or an error. Not `ran`: it was never begun.

        Returns what to send, and what is to be durable before that. A second time does nothing.
        """
        self._grants.finish(ticket)
        known = self._running.pop(ticket, None)
        if known is None:
            return [], None
        asked, place = known
        value, error = (outcome, None) if isinstance(outcome, bytes) else (None, encoded(outcome))
        waiting, record = [asked], None
        if place is not None:
            waiting += self._waiting.pop(place, [])
            if ran:
                record = self.once.end(place, value, error, now)
            else:
                self.once.forget(place)
        return self._answers(waiting, value, error, now), record

    def told(
        self, place: Place, value: bytes | None, error: bytes | None, now: float
    ) -> list[Answer]:
        """The run of a key that did not come this way has ended: what to send to who waits here."""
        return self._answers(self._waiting.pop(place, []), value, error, now)

    def _answers(
        self, waiting: list[Asked], value: bytes | None, error: bytes | None, now: float
    ) -> list[Answer]:
        if value is not None and len(value) > REPLY_VALUE_BYTES_MAX:
            error = encoded(
                RemoteError(
                    "too_large",
                    f"the value has {len(value)} bytes encoded, at most {REPLY_VALUE_BYTES_MAX} "
                    "travel through a relay; use a direct link",
                )
            )
            value = None
        answers = (
            self._keep(each, self._reply(each, value=value, error=error), now) for each in waiting
        )
        return [each for each in answers if each is not None]

    def _admitted(
        self, asked: Asked, request: Asking, right: Right, now: float
    ) -> Run | Answer | None:
        """Its right, its rate, its idempotency key. Raises: `CallError`."""
        mission, _, function = request.target.partition("/")
        if mission != right.grant.mission:
            raise NotPermitted
        ticket = self._grants.admit(right, function, len(request.arguments), now)
        place = record = None
        if request.idempotency_key is not None:
            place = (right.caller, request.idempotency_key)
            content = content_of(request.target, request.arguments)
            try:
                begun = self.once.begin(*place, content, now)
            except CallError:
                self._grants.finish(ticket)
                raise
            if not isinstance(begun, OnceRecord):
                self._grants.finish(ticket)
                return self._again(asked, place, begun, now)
            record = begun
        self._running[ticket] = (asked, place)
        return Run(
            ticket=ticket,
            right=right,
            target=request.target,
            arguments=request.arguments,
            span_s=request.timeout_ms / 1_000,
            record=record,
        )

    def _again(self, asked: Asked, place: Place, ended: Ended | None, now: float) -> Answer | None:
        """The key was used before. Raises: `CallError`."""
        if ended is not None:
            answers = self._answers([asked], ended.value, ended.error, now)
            return answers[0] if answers else None
        waiting = self._waiting.setdefault(place, [])
        if len(waiting) >= WAITING_MAX:
            raise RateLimited(FULL_S)
        waiting.append(asked)
        return None

    def _done(self, asked: Asked, request: Asking, holder: bytes, now: float) -> Answer | None:
        """It never sends these keys again. Raises: `CallError`."""
        try:
            keys = done_keys(request.arguments)
        except RemoteProtocolError as error:
            raise RemoteError("badarg", str(error)) from None
        records = [self.once.done((holder, key), now) for key in keys]
        self.on_done([each for each in records if each is not None])
        return self._reply(asked, value=dumps(True))

    # -- replies

    def _reply(
        self, asked: Asked, *, value: bytes | None = None, error: bytes | None = None
    ) -> Answer | None:
        body = asked.dressed(self._seed, self._entropy, value, error)
        if body is None:
            self.dropped_count += 1
            return None
        return Answer(to=asked.sender, re=asked.ident, body=body)

    def _keep(self, asked: Asked, answer: Answer | None, now: float) -> Answer | None:
        """Keep a reply for as long as a replay is known for one; without room, the oldest goes."""
        if answer is None:
            return None
        self._replies[asked.hash] = (now + KEPT_MAX * TOKEN_S, answer.body)
        self._reply_bytes += len(answer.body) + _ENTRY_BYTES
        while self._reply_bytes > REPLIES_KEPT_BYTES_MAX:
            self._forget_reply(next(iter(self._replies)))
        return answer

    def _forget_reply(self, name: bytes) -> None:
        self._reply_bytes -= len(self._replies.pop(name)[1]) + _ENTRY_BYTES


def _nobody_keeps(records: list[OnceRecord]) -> None:
    """That a key is done is worth a record, and no more."""


def _nobody(key: bytes, target: str, error: CallError) -> None:
    """Nobody wants to know."""


# -- the caller's side


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One call. `seed`: of the grant's holder. `deadline`: when its caller stops waiting."""

    callee: bytes
    boot_key: bytes
    grant: bytes
    seed: bytes = field(repr=False)
    target: str
    arguments: bytes
    deadline: float
    idempotency_key: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Send `body` to `to` as message `id`: a request of the call `call`."""

    call: int
    to: bytes
    id: bytes
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The call's end: its encoded value, or why there is none. `said`: by the callee itself."""

    call: int
    result: bytes | CallError
    said: bool = field(default=False, compare=False)


@dataclass(slots=True)
class _Call:
    """A call whose reply has not come. `maybe_ran`: by a request before the present one."""

    number: int
    wanted: Wanted
    ident: bytes
    hash: bytes
    private: bytes
    public: bytes
    signed_at: float
    again: bool = False  # it was signed a second time
    maybe_ran: bool = False


class Caller:
    """The calls of one node that went out through a relay."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._calls: dict[int, _Call] = {}
        self._by_id: dict[bytes, _Call] = {}
        self._last = 0
        self.dropped_count = 0

    def __len__(self) -> int:
        return len(self._calls)

    def call(self, wanted: Wanted, token: bytes, now: float) -> Sent:
        """Sign and seal a call over the callee's `token`. Raises: `CallError`; nothing is sent."""
        if len(self._calls) >= RELAY_CALLS_MAX:
            raise NoConnection("overloaded")
        if wanted.deadline <= now:
            raise Timeout(maybe_ran=False)
        self._last += 1
        call = _Call(self._last, wanted, b"", b"", b"", b"", now)
        sent = self._sign(call, token, now)
        self._calls[call.number] = call
        return sent

    def on_reply(self, re: bytes, body: bytes, now: float) -> Outcome | Sent | None:
        """The answer to our message `re`, or so the relay says; None: it is not believed."""
        call = self._by_id.get(re)
        reply = None
        if call is not None:
            try:
                reply = open_reply(call.private, call.public, body, call.wanted.callee)
            except RemoteProtocolError:
                reply = None
        if call is None or reply is None or reply.request_hash != call.hash:
            self.dropped_count += 1
            return None
        if reply.value is not None:
            return self._end(call, reply.value, said=True)
        assert reply.error is not None
        try:
            token = stale_token(reply.error)
            if token is None:
                error = error_from_fields(loads_canonical(reply.error))
                if call.maybe_ran and isinstance(error, NotPermitted | Revoked | RateLimited):
                    error = Timeout(maybe_ran=True)  # a word on this request, not on the first
                    return self._end(call, error)
                return self._end(call, error, said=True)
        except RemoteProtocolError:  # the callee itself says what means nothing: it may have run
            return self._end(call, Timeout(maybe_ran=True))
        return self._stale(call, token, now)

    def refused(self, call: int, error: CallError) -> Outcome | None:
        """The relay did not take the request: it goes nowhere."""
        known = self._calls.get(call)
        if known is None:
            return None
        return self._end(known, Timeout(maybe_ran=True) if known.maybe_ran else error)

    def cancel(self, call: int) -> None:
        """Its caller does not wait any more."""
        known = self._calls.get(call)
        if known is not None:
            self._end(known, b"")

    def next_timer(self) -> float:
        """When the earliest call is due; inf: there is none."""
        return min((call.wanted.deadline for call in self._calls.values()), default=inf)

    def handle_timer(self, now: float) -> list[Outcome]:
        """End the calls that are due."""
        due = [call for call in self._calls.values() if call.wanted.deadline <= now]
        return [self._end(call, Timeout(maybe_ran=True)) for call in due]

    def _stale(self, call: _Call, token: bytes, now: float) -> Outcome | Sent | None:
        """The callee says that the token is old. Whether the request ran before, see STALE_S."""
        certain = now < call.signed_at + STALE_S
        if not certain and call.wanted.idempotency_key is None:
            self.dropped_count += 1
            return None
        call.maybe_ran = call.maybe_ran or not certain
        if call.again or call.wanted.deadline <= now:
            return self._end(call, Timeout(maybe_ran=call.maybe_ran))
        del self._by_id[call.ident]
        call.again = True
        return self._sign(call, token, now)

    def _sign(self, call: _Call, token: bytes, now: float) -> Sent:
        wanted = call.wanted
        private, ident = self._entropy(sodium.KEY_BYTES), self._entropy(16)
        public = sodium.x25519_public(private)
        left_ms = min((wanted.deadline - now) * 1_000, REQUEST_TIMEOUT_MS_MAX)
        try:
            signed = encode_request(
                wanted.seed,
                SignedRequest(
                    callee=wanted.callee,
                    token=token,
                    id=ident,
                    grant=wanted.grant,
                    target=wanted.target,
                    arguments=wanted.arguments,
                    timeout_ms=max(1, int(left_ms)),
                    reply_key=public,
                    idempotency_key=wanted.idempotency_key,
                ),
            )
        except ValueError as error:
            raise RemoteError("badarg", str(error)) from None
        try:
            body = sodium.seal(self._entropy(32), wanted.boot_key, signed)
        except RemoteProtocolError:  # the callee's own beacon says so: it is broken
            raise NoConnection("silent") from None
        call.ident, call.hash, call.signed_at = ident, request_hash(signed), now
        call.private, call.public = private, public
        self._by_id[ident] = call
        return Sent(call=call.number, to=wanted.callee, id=ident, body=body)

    def _end(self, call: _Call, result: bytes | CallError, *, said: bool = False) -> Outcome:
        del self._calls[call.number], self._by_id[call.ident]
        return Outcome(call=call.number, result=result, said=said)
