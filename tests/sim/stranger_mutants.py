"""Broken doors: each breaks one rule between strangers, and the ledger has to find it out.

Each mutant is one of the machines with one thing taken away or done wrong, or a function of `wire`
that looks at less. `MUTANTS` says which invariants may notice it (one of them has to), and a seed
that does, so that a test need not search.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from drupelet.core import grants as core_grants
from drupelet.core import http_calls as core_puts
from drupelet.core import requests as core_requests
from drupelet.core.buckets import Bucket, charge
from drupelet.core.freshness import Freshness, Verdict
from drupelet.core.grants import Grants, Issued, Revocation, Right
from drupelet.core.http_calls import HttpCalls
from drupelet.core.once import Ended, OnceRecord, OnceTable
from drupelet.core.proxies import Gone, Proxies
from drupelet.core.requests import Answer, Callee, Caller, Outcome, Run, Sent
from drupelet.errors import RemoteProtocolError, Timeout
from drupelet.wire import announcements, sodium
from drupelet.wire import grants as wire_grants
from drupelet.wire import requests as wire_requests
from drupelet.wire.codec import dumps, loads, loads_canonical
from drupelet.wire.grants import Terms
from drupelet.wire.http_calls import AppliedPut, decode_put
from drupelet.wire.ids import Pid
from drupelet.wire.requests import Reply
from tests.sim import stranger_puts
from tests.sim.stranger_world import Machines

# -- grants


class EverybodysKeys:
    """Whoever shows a grant has proved its key."""

    key: bytes | None = None

    def __contains__(self, key: object) -> bool:
        return True


class TakesOthersGrants(Grants):
    def present(self, data: bytes, keys: Container[bytes], now: float) -> Right:
        if isinstance(keys, set):
            keys = EverybodysKeys()
        return super().present(data, keys, now)


class TakesAnyIssuer(Grants):
    def __init__(self, own_key: bytes, is_member: Any, quota: Any) -> None:
        super().__init__(own_key, lambda key: True, quota)


class ChargesTheLastLink(Grants):
    def _check_force(self, right: Right, now: float) -> tuple[Any, ...]:
        return super()._check_force(right, now)[-1:]


class ChargesTheFirstLink(Grants):
    def _check_force(self, right: Right, now: float) -> tuple[Any, ...]:
        return super()._check_force(right, now)[:1]


class ForgetsTheMiddle(Grants):
    """Only the grant that is shown may be revoked, by its id."""

    def _is_dead(self, grant: Any) -> bool:
        return grant.id in self._revoked_ids or super()._is_dead(replace_links(grant))


def replace_links(grant: Any) -> Any:
    return replace(grant, links=grant.links[:1])


class ForgetsRevokedKeys(Grants):
    def _is_dead(self, grant: Any) -> bool:
        return any(link.id in self._revoked_ids for link in grant.links)


class ForgetsRevocationsAtStart(Grants):
    def restore(
        self, issued: Iterable[Issued], revoked: Iterable[Revocation], now: float
    ) -> list[str]:
        return super().restore(issued, (), now)


class SpansBeginAnewAtStart(Grants):
    def restore(
        self, issued: Iterable[Issued], revoked: Iterable[Revocation], now: float
    ) -> list[str]:
        anew = []
        for each in issued:
            span = wire_grants.decode_grant(each.data).links[0].terms.expires_s
            anew.append(each if span is None else replace(each, left_s=float(span)))
        return super().restore(anew, revoked, now)


class LetsRunWhatIsRevoked(Grants):
    def _merge(self, revocation: Revocation) -> Revocation:
        return replace(super()._merge(revocation), tickets=())


class RemembersRights(Grants):
    """A right that was looked up is not looked up again when something is revoked."""

    def _merge(self, revocation: Revocation) -> Revocation:
        changes = self._changes
        done = super()._merge(revocation)
        self._changes = changes
        return done


class RemembersRightsForEver(Grants):
    """Nor when its time is over."""

    def _look_up(self, right: Right, now: float) -> None:
        super()._look_up(right, now)
        right.until = float("inf")


class DoesNotHearMembers(Grants):
    def merge(self, revocation: Revocation) -> Revocation:
        return replace(revocation, tickets=())


class RevokesMembersGrants(Grants):
    """As it was until this simulator found it."""

    def revoke(self, what: bytes | str, now: float) -> Revocation:
        done = super().revoke(what, now)
        if not isinstance(what, str):
            return done
        seen = {each for each, root in self._roots.items() if root.grant.mission == what}
        return self._merge(replace(done, ids=done.ids | seen))


class NeverFinishes(Grants):
    def finish(self, ticket: int) -> None:
        return


def half_price(buckets: Iterable[Bucket], now: float) -> float:
    """A call costs half of what it should."""
    wait_s = charge(buckets, now)
    for bucket in () if wait_s else buckets:
        bucket._level += bucket._cost // 2
    return wait_s


class CountsNoBytes(Grants):
    def admit(self, right: Right, function: str, size: int, now: float) -> int:
        return super().admit(right, function, 0, now)


class AnyFunction(Grants):
    def admit(self, right: Right, function: str, size: int, now: float) -> int:
        functions = right.grant.terms.functions
        return super().admit(right, functions[0] if functions else function, size, now)


class RefusesNow(Grants):
    """One call in seven, for no reason."""

    asked = 0

    def admit(self, right: Right, function: str, size: int, now: float) -> int:
        self.asked += 1
        if self.asked % 7 == 0:
            raise core_grants.RateLimited(1.0)
        return super().admit(right, function, size, now)


# -- the callee


class NeverOld(Freshness):
    """Tokens that were forgotten count as new."""

    def take(self, token: bytes, ident: bytes) -> Verdict:
        found = super().take(token, ident)
        return Verdict.FRESH if found in (Verdict.STALE, Verdict.UNKNOWN) else found


class ForgetsIds(Freshness):
    """What was accepted is forgotten with the next token."""

    def rotate(self, token: bytes, now: float) -> None:
        super().rotate(token, now)
        for ids in self._windows.values():
            ids.clear()


class KnowsNoReplays(Freshness):
    def take(self, token: bytes, ident: bytes) -> Verdict:
        found = super().take(token, ident)
        return Verdict.FRESH if found is Verdict.REPLAYED else found


def with_freshness(freshness: type[Freshness]) -> Machines:
    return Machines(patches=((core_requests, "Freshness", freshness),))


class ForgetsKeysAtStart(Callee):
    def restore(self, records: Iterable[OnceRecord], now: float) -> None:
        return


class KeepsNoRecords(Callee):
    """A key is known, but not on the disk."""

    def receive(self, sender: bytes, ident: bytes, body: bytes, now: float) -> Run | Answer | None:
        got = super().receive(sender, ident, body, now)
        return replace(got, record=None) if isinstance(got, Run) else got


class RunsInterruptedAgain(Callee):
    """What was begun and not ended before the power cut is as if it had not been."""

    def restore(self, records: Iterable[OnceRecord], now: float) -> None:
        super().restore([each for each in records if each.outcome is not None], now)


class AlwaysTheSameKeys(Callee):
    """A boot key, and tokens, that outlive the boot."""

    def __init__(self, seed: bytes, grants: Grants, entropy: Any, now: float) -> None:
        fixed = random.Random(seed)
        drawn = entropy(32)

        def same(size: int) -> bytes:
            return fixed.randbytes(size)

        super().__init__(seed, grants, same, now)
        assert drawn


class KeysOfEverybody(OnceTable):
    """An idempotency key is nobody's own."""

    def begin(
        self, holder: bytes, key: bytes, content: bytes, now: float
    ) -> OnceRecord | Ended | None:
        for place in self._once:
            if place[1] == key:
                holder = place[0]
        return super().begin(holder, key, content, now)


class AnyContent(OnceTable):
    """The same key with other arguments is the same call."""

    def begin(
        self, holder: bytes, key: bytes, content: bytes, now: float
    ) -> OnceRecord | Ended | None:
        known = self._once.get((holder, key))
        return super().begin(holder, key, known.content if known else content, now)


class ForgetsKeysThatEnded(OnceTable):
    def end(
        self, place: tuple[bytes, bytes], value: bytes | None, error: bytes | None, now: float
    ) -> OnceRecord:
        record = super().end(place, value, error, now)
        self.forget(place)
        return record


def with_once(table: type[OnceTable]) -> Machines:
    return Machines(patches=((core_requests, "OnceTable", table),))


class AnswersTheLast(Callee):
    """Everybody gets the value of the latest run."""

    last = b""

    def finish(self, ticket: int, outcome: Any, now: float, *, ran: bool = True) -> Any:
        former, self.last = self.last, outcome if isinstance(outcome, bytes) else self.last
        if isinstance(outcome, bytes) and former:
            outcome = former
        return super().finish(ticket, outcome, now, ran=ran)


# -- the caller


class BelievesAnyAnswer(Caller):
    """That of another call, too, if its callee signed it."""

    def on_reply(self, re: bytes, body: bytes, now: float) -> Outcome | Sent | None:
        call = self._by_id.get(re)
        if call is not None:
            try:
                reply = core_requests.open_reply(
                    call.private, call.public, body, call.wanted.callee
                )
                call.hash = reply.request_hash
            except RemoteProtocolError:
                pass
        return super().on_reply(re, body, now)


class SaysItDidNotRun(Caller):
    def handle_timer(self, now: float) -> list[Outcome]:
        due = super().handle_timer(now)
        return [replace(each, result=Timeout(maybe_ran=False)) for each in due]


class ForgetsTheFirst(Caller):
    """A refusal of the second request is taken as one of the first: as it was until lately."""

    def on_reply(self, re: bytes, body: bytes, now: float) -> Outcome | Sent | None:
        call = self._by_id.get(re)
        if call is not None:
            call.maybe_ran = False
        return super().on_reply(re, body, now)


# -- bytes


def no_check(*args: object) -> None:
    """Whatever it is, it holds."""


class Unverified:
    """As `sodium`, as far as grants use it."""

    ed25519_public = staticmethod(sodium.ed25519_public)
    verify = staticmethod(no_check)


def open_unsigned_reply(private: bytes, public: bytes, sealed: bytes, callee: bytes) -> Reply:
    signed = loads_canonical(sodium.open_sealed(private, public, sealed))
    fields = loads_canonical(signed[2])  # type: ignore[index, arg-type]
    assert isinstance(fields, dict)
    return Reply(request_hash=fields[1], value=fields.get(2), error=fields.get(3))


def split_loosely(signed: bytes) -> tuple[bytes, bytes]:
    """An envelope with more in it, and in other bytes."""
    match loads(signed):
        case [bytes(), dict(), bytes(payload), bytes(signature)]:
            return payload, signature
    raise RemoteProtocolError("malformed")


def seal_nothing(ephemeral: bytes, public: bytes, message: bytes) -> bytes:
    return public + bytes(16) + message


def open_nothing(private: bytes, public: bytes, sealed: bytes) -> bytes:
    if sealed[:32] != public:
        raise RemoteProtocolError("not ours")
    return sealed[48:]


def never_over(terms: Terms) -> float:
    return float("inf")


# -- PUTs


class SaysUnsignedOfAnything(HttpCalls):
    """To a copy that was altered, an answer that fits the original: as it was until lately."""

    came: AppliedPut

    def receive(self, ident: bytes, body: bytes, now: float) -> Run | Answer | None:
        with suppress(RemoteProtocolError):
            self.came = decode_put(body)
        return super().receive(ident, body, now)

    def _refused(self, asked: Any, error: Any) -> Answer | None:
        return super()._refused(replace(asked, applied=self.came), error)


def stale_for_certain(token: bytes, *, maybe_ran: bool = False) -> bytes:
    """Of any token: as it was until lately."""
    return dumps([0, token])


def another_key(field: str) -> bytes:
    """A key of PUTs alone."""
    return blake2b(field.encode(), digest_size=16).digest()


# -- proxies


class AnybodysProxies(Proxies):
    def take(self, secret: bytes, key: bytes, now: float) -> Pid | None:
        known = self._by_secret.get(secret)
        return super().take(secret, known.key if known else key, now)


class ProxiesOfTheDead(Proxies):
    def process_gone(self, pid: Pid) -> list[Gone]:
        return []


@dataclass(frozen=True)
class Mutant:
    """`found_as`: the invariants of which one has to find it; `seed`: one that does."""

    machines: Machines
    found_as: frozenset[str]
    seed: int


def _grants(grants: type[Grants], seed: int, *found_as: str) -> Mutant:
    return Mutant(Machines(grants=grants), frozenset(found_as), seed)


def _callee(callee: type[Callee], seed: int, *found_as: str) -> Mutant:
    return Mutant(Machines(callee=callee), frozenset(found_as), seed)


def _caller(caller: type[Caller], seed: int, *found_as: str) -> Mutant:
    return Mutant(Machines(caller=caller), frozenset(found_as), seed)


def _proxies(proxies: type[Proxies], seed: int, *found_as: str) -> Mutant:
    return Mutant(Machines(proxies=proxies), frozenset(found_as), seed)


def _with(machines: Machines, seed: int, *found_as: str) -> Mutant:
    return Mutant(machines, frozenset(found_as), seed)


def _patched(target: object, name: str, value: object, seed: int, *found_as: str) -> Mutant:
    return Mutant(Machines(patches=((target, name, value),)), frozenset(found_as), seed)


_SEALS = Machines(patches=((sodium, "seal", seal_nothing), (sodium, "open_sealed", open_nothing)))


def _nothing_more(left: Terms, wanted: Terms) -> str:
    return ""


MUTANTS: dict[str, Mutant] = {
    "takes_others_grants": _grants(TakesOthersGrants, 11, "rights"),
    "takes_any_issuer": _grants(TakesAnyIssuer, 13, "rights"),
    "charges_the_last_link": _grants(ChargesTheLastLink, 4, "rights"),
    "charges_the_first_link": _grants(ChargesTheFirstLink, 21, "rights"),
    "forgets_the_middle": _grants(ForgetsTheMiddle, 3, "rights", "revoked"),
    "forgets_revoked_keys": _grants(ForgetsRevokedKeys, 1, "rights", "revoked"),
    "forgets_revocations_at_start": _grants(ForgetsRevocationsAtStart, 9, "rights", "revoked"),
    "spans_begin_anew_at_start": _grants(SpansBeginAnewAtStart, 13, "rights"),
    "lets_run_what_is_revoked": _grants(LetsRunWhatIsRevoked, 1, "revoked"),
    "remembers_rights": _grants(RemembersRights, 1, "rights", "revoked"),
    "remembers_rights_for_ever": _grants(RemembersRightsForEver, 31, "rights"),
    "does_not_hear_members": _grants(DoesNotHearMembers, 24, "rights", "revoked"),
    "revokes_members_grants": _grants(RevokesMembersGrants, 46, "honoured", "live"),
    "never_finishes": _grants(NeverFinishes, 1, "honoured", "live"),
    "charges_half": _patched(core_grants, "charge", half_price, 3, "rights"),
    "counts_no_bytes": _grants(CountsNoBytes, 2, "rights"),
    "refuses_now_and_then": _grants(RefusesNow, 1, "honoured", "live"),
    "never_old": _with(with_freshness(NeverOld), 2, "single", "not_run"),
    "forgets_ids": _with(with_freshness(ForgetsIds), 8, "single", "not_run"),
    "knows_no_replays": _with(with_freshness(KnowsNoReplays), 8, "single", "not_run"),
    "forgets_keys_at_start": _callee(ForgetsKeysAtStart, 3, "once"),
    "keeps_no_records": _callee(KeepsNoRecords, 4, "once"),
    "runs_interrupted_again": _callee(RunsInterruptedAgain, 3, "once"),
    "always_the_same_keys": _callee(AlwaysTheSameKeys, 90, "single", "not_run"),
    "answers_the_last": _callee(AnswersTheLast, 1, "value", "live"),
    "keys_of_everybody": _with(with_once(KeysOfEverybody), 1, "value", "honoured", "secret"),
    "any_content": _with(with_once(AnyContent), 3, "value"),
    "forgets_keys_that_ended": _with(with_once(ForgetsKeysThatEnded), 2, "once"),
    "believes_any_answer": _caller(BelievesAnyAnswer, 33, "value", "honoured"),
    "says_it_did_not_run": _caller(SaysItDidNotRun, 3, "not_run"),
    "forgets_the_first": _caller(ForgetsTheFirst, 34, "not_run"),
    "believes_stale_too_long": _patched(core_requests, "STALE_S", 1e6, 34, "single", "not_run"),
    "unsigned_grants": _patched(wire_grants, "sodium", Unverified, 45, "rights"),
    "widened_grants": _patched(wire_grants, "narrowing_problem", _nothing_more, 8, "rights"),
    "unsigned_requests": _patched(core_requests, "verify_request", no_check, 8, "rights"),
    "unsigned_replies": _patched(core_requests, "open_reply", open_unsigned_reply, 3, "value"),
    "unsigned_beacons": _patched(announcements, "verify", no_check, 1, "secret"),
    "loose_envelopes": _patched(wire_requests, "_split", split_loosely, 23, "single", "not_run"),
    "never_over": _patched(core_grants, "_left", never_over, 3, "rights"),
    "any_function": _grants(AnyFunction, 2, "rights"),
    "seals_nothing": _with(_SEALS, 1, "secret"),
    "unsigned_puts": _patched(core_puts, "verify_put", no_check, 3, "rights"),
    "bodies_unlooked_at": _patched(core_puts, "check_body", no_check, 3, "rights"),
    "unsigned_of_anything": _patched(
        stranger_puts, "HttpCalls", SaysUnsignedOfAnything, 5, "not_run"
    ),
    "stale_for_certain": _patched(
        core_requests, "stale_error", stale_for_certain, 32, "not_run", "single"
    ),
    "keys_of_puts_alone": _patched(core_puts, "once_key", another_key, 3, "once"),
    "anybodys_proxies": _proxies(AnybodysProxies, 2, "proxies"),
    "proxies_of_the_dead": _proxies(ProxiesOfTheDead, 3, "proxies"),
}
