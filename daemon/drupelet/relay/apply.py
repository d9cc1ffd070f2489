"""Calls by plain HTTP: `PUT /apply/NODE/MISSION/FUNCTION`, signed as RFC 9421 says.

Decides what is refused before a node is bothered, hands the rest on to the node, and gives its
answer to who asked. The node looks at everything again and believes nothing of it: the relay cannot
forge, alter or repeat a PUT. It does see the arguments and the value, as whoever ends TLS does.

    apply = Apply(relay, entropy=os.urandom)
    response = await apply.put(request, address)

Rules
- In this order, the cheapest first: rate of the address; path, size and media type; shape of the
  signature; digest; signature; date; grant (its chain, whose it is, what it names); rate of the
  holder; the node. Each refusal says what to mend.
- A date counts here, for a relay knows the time: `created` may be CREATED_S off. Nodes have no
  clock and look at the token in the nonce instead.
- What a node answers carries its signature. A refusal without one is the relay's word.
- A PUT waits at most APPLY_S_MAX; so many at once, of them so many of one holder.
- A node that is at a peer is asked there: 307, for the host is not signed (`curl -L` follows).
- Nothing is said again by itself: a PUT runs once or is refused.

References: RFC 9421 (5.1 Accept-Signature), RFC 9530, RFC 7240 (Prefer: wait), RFC 9110.
Rejected: an account for who uses curl (the grant says who may); verifying at the relay only (it is
not trusted); `cryptography` before the first PUT (19 MB that most relays never need).
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, Final

import trio
from starlette.requests import Request
from starlette.responses import Response

from drupelet.errors import (
    CallError,
    NoConnection,
    NotPermitted,
    RateLimited,
    RemoteError,
    RemoteProtocolError,
    Timeout,
    error_document,
)
from drupelet.relay.bodies import TooLarge, read_body
from drupelet.relay.service import Relay
from drupelet.wire.grants import Grant, decode_grant
from drupelet.wire.http_calls import (
    CBOR,
    JSON,
    UNSIGNED,
    AppliedAnswer,
    AppliedPut,
    check_body,
    decode_answer,
    encode_put,
    is_cbor,
    json_bytes,
    split_path,
)
from drupelet.wire.http_signatures import (
    COVERED,
    METHOD,
    ONCE_FIELD,
    TAG,
    OpenedPut,
    SignedPut,
    headers_of,
    is_value,
    open_put,
    read_bytes_field,
)
from drupelet.wire.keys import KEY_CHARS, key_from_text, key_to_text
from drupelet.wire.limits import (
    APPLY_BODY_BYTES_MAX,
    APPLY_GRANT_CHARS_MAX,
    APPLY_S_MAX,
    APPLY_WAITING_MAX,
    APPLY_WAITING_PER_HOLDER_MAX,
)
from drupelet.wire.relay import MESSAGE_ID_BYTES, RelayRefused

METHODS: Final = ["PUT", "GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS"]  # to teach the others
WAIT_S: Final = 30.0  # unless `Prefer: wait=` says so
CREATED_S: Final = 300
HERE_S: Final = 3.0  # a node that polls is away for less in between
_MORE_S: Final = 2.0  # the node itself says that the time is over, and its word takes a while
_FIELD_CHARS_MAX: Final = 1_024
_WAIT: Final = re.compile(r"(?:^|[,;\s])wait=([0-9]{1,4})(?=$|[,;\s])")
_HINT: Final = "`drupelet sign NODE MISSION FUNCTION` prints a curl line"
_AWAY: Final = (
    "the node has announced itself and is not connected: it has just gone, or is at another of its "
    "relays; nothing ran"
)
_ACCEPT: Final = (
    f"drupelet=({' '.join(f'{chr(34)}{name}{chr(34)}' for name in COVERED)});created;keyid;"
    f'alg="ed25519";nonce;tag="{TAG}"'
)
_TEACH: Final = {
    "www-authenticate": 'Signature realm="drupelet"',
    "accept-signature": _ACCEPT,
}


class Refused(Exception):
    """The relay's word: a status, and why."""

    def __init__(
        self, status: int, error: CallError, message: str = "", location: str = ""
    ) -> None:
        self.status = status
        self.error = error
        self.location = location
        self.message = message  # in place of the error's own words


@dataclass(slots=True)
class _Waiting:
    """A PUT that a node has, or will have."""

    node: bytes
    done: trio.Event
    answer: AppliedAnswer | None = None


@dataclass(frozen=True, slots=True)
class _Message:
    """A request, as http-message-signatures wants it."""

    method: str
    url: str
    headers: dict[str, str]


class Apply:
    """The PUTs at one relay. `clock`: seconds since 1970."""

    def __init__(
        self,
        relay: Relay,
        *,
        entropy: Callable[[int], bytes],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._relay = relay
        self._entropy = entropy
        self._clock = clock
        self._waiting: dict[bytes, _Waiting] = {}
        self._holders: Counter[bytes] = Counter()
        relay.on_applied = self._answered

    async def put(self, request: Request, address: str) -> Response:
        """The answer to a request for `/apply/...`, whatever it is."""
        try:
            response = _from_node(await self._apply(request, address))
        except Refused as refused:
            response = _from_relay(refused)
        self._relay.counts[f"puts_{response.status_code}"] += 1
        return response

    async def _apply(self, request: Request, address: str) -> AppliedAnswer:
        """The node's answer. Raises: `Refused`."""
        self._charge(address.encode(), "puts")
        target = _target(request)
        applied = await _read(request)
        opened = self._verified(applied)
        grant = _granted(applied.put, opened, target)
        self._charge(opened.key, "put")
        node = self._node(target[0], opened.key, grant)
        if (
            len(self._waiting) >= APPLY_WAITING_MAX
            or self._holders[opened.key] >= APPLY_WAITING_PER_HOLDER_MAX
        ):
            raise Refused(503, NoConnection("overloaded"))
        return await self._ask(node, opened.key, applied)

    def _charge(self, who: bytes, kind: str) -> None:
        try:
            self._relay.charge(who, kind)
        except RelayRefused as refusal:
            raise _limited(refusal) from None

    # -- the signature

    def _verified(self, applied: AppliedPut) -> OpenedPut:
        put = applied.put
        try:
            opened = open_put(put)
            check_body(applied)
        except RemoteProtocolError as error:
            raise _unsigned(f"{error}; {_HINT}") from None
        message = _Message(METHOD, f"https://relay.invalid{put.path}", headers_of(put))
        try:
            self._verifier.verify(
                message, max_age=None, expect_tag=TAG, require_components=COVERED, body=applied.body
            )
        except self._invalid:
            raise _unsigned(
                "the signature does not hold: method, path, media type, body or grant are not "
                f"those that were signed, or the key is another; {_HINT}"
            ) from None
        off_s = round(self._clock()) - opened.created
        if abs(off_s) > CREATED_S:
            when = f"{off_s} s ago" if off_s > 0 else f"in {-off_s} s"
            raise _unsigned(
                f"it was signed {when} by the clock of this relay, at most {CREATED_S} s count: "
                "sign again, and look at the clock of the machine that signs"
            )
        return opened

    @cached_property
    def _verifier(self) -> Any:
        """With the key that `keyid` itself names; the grant says what that key may."""
        import http_message_signatures as rfc9421
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        class Named(rfc9421.HTTPSignatureKeyResolver):
            def resolve_public_key(self, key_id: str) -> Ed25519PublicKey:
                return Ed25519PublicKey.from_public_bytes(key_from_text(key_id))

        verifier = rfc9421.HTTPMessageVerifier(
            signature_algorithm=rfc9421.algorithms.ED25519, key_resolver=Named()
        )
        verifier.max_clock_skew = timedelta(days=36_500)  # dates are looked at above
        return verifier

    @cached_property
    def _invalid(self) -> type[Exception]:
        from http_message_signatures import HTTPMessageSignaturesException

        return HTTPMessageSignaturesException

    # -- the node

    def _node(self, name: str, holder: bytes, grant: Grant) -> bytes:
        named: bytes | str = name
        if len(name) == KEY_CHARS:
            try:
                named = key_from_text(name)
            except ValueError as error:
                raise Refused(404, RemoteError("no_such_node", str(error))) from None
        found = self._relay.seen(named, holder, grant.data)
        if grant.issuer in found:
            return grant.issuer
        if len(found) == 1:
            return found[0]
        if found:
            keys = ", ".join(map(key_to_text, found[:4]))
            raise Refused(
                404, RemoteError("no_such_node", f"{len(found)} nodes call themselves so: {keys}")
            )
        raise Refused(404, NoConnection("no_such_node"))

    async def _ask(self, node: bytes, holder: bytes, applied: AppliedPut) -> AppliedAnswer:
        ident = self._entropy(MESSAGE_ID_BYTES)
        waiting = self._waiting[ident] = _Waiting(node, trio.Event())
        self._holders[holder] += 1
        try:
            elsewhere = self._relay.elsewhere(node)
            if elsewhere:
                place = elsewhere + applied.put.path
                what = f"the node is at another relay, which takes this as it is: {place} (curl -L)"
                raise Refused(307, RemoteError("elsewhere", what), location=place)
            if not await self._relay.is_here(node, HERE_S):
                raise Refused(502, NoConnection("no_route"), _AWAY)
            try:
                await self._relay.hand_on(node, ident, encode_put(applied))
            except RelayRefused as refusal:
                raise _limited(refusal) from None
            with trio.move_on_after(applied.wait_ms / 1_000 + _MORE_S):
                await waiting.done.wait()
        finally:
            del self._waiting[ident]
            self._holders[holder] -= 1
            if not self._holders[holder]:
                del self._holders[holder]
        if waiting.answer is not None:
            return waiting.answer
        if waiting.done.is_set():
            raise Refused(
                502, RemoteError("malformed", "the node's answer is none; it may have run")
            )
        raise Refused(504, Timeout(maybe_ran=True))

    def _answered(self, node: bytes, re: bytes | None, body: bytes) -> None:
        """A node's answer; what nobody waits for, or another node says, is dropped."""
        waiting = self._waiting.get(re) if re is not None else None
        if waiting is None or waiting.node != node or waiting.done.is_set():
            self._relay.counts["answers_dropped"] += 1
            return
        try:
            waiting.answer = decode_answer(body)
        except RemoteProtocolError:
            self._relay.counts["answers_malformed"] += 1
        waiting.done.set()


# -- reading a request


def _target(request: Request) -> tuple[str, str, str]:
    """Node, mission, function. Raises: `Refused`."""
    if request.method != METHOD:
        raise Refused(405, RemoteError("method", f"a call is a PUT, with its arguments; {_HINT}"))
    if request.scope.get("query_string"):
        what = "an address with a query; arguments are the body, a JSON array"
        raise Refused(400, RemoteError("malformed", what))
    try:
        return split_path(_path(request))
    except RemoteProtocolError as error:
        raise Refused(404, RemoteError("no_such_address", str(error))) from None


def _path(request: Request) -> str:
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return raw.decode("ascii", "replace")


async def _read(request: Request) -> AppliedPut:
    """The request, its signature not looked at. Raises: `Refused`."""
    content_type = _one(request, "content-type", 415)
    try:
        is_cbor(content_type)
    except RemoteProtocolError as error:
        raise Refused(415, RemoteError("media_type", str(error))) from None
    put = SignedPut(
        path=_path(request),
        content_type=content_type,
        content_digest=_one(request, "content-digest"),
        grant=_one(request, "drupelet-grant", most=APPLY_GRANT_CHARS_MAX),
        idempotency_key=_one(request, ONCE_FIELD) if ONCE_FIELD in request.headers else None,
        signature_input=_one(request, "signature-input"),
        signature=_one(request, "signature"),
    )
    try:
        body = await read_body(request, APPLY_BODY_BYTES_MAX)
    except TooLarge:
        what = f"arguments of a PUT have at most {APPLY_BODY_BYTES_MAX} bytes"
        raise Refused(413, RemoteError("too_large", what)) from None
    except RemoteProtocolError as error:
        raise Refused(400, RemoteError("malformed", str(error))) from None
    wait = _WAIT.search(request.headers.get("prefer", ""))
    wait_s = min(max(float(wait[1]), 1.0), APPLY_S_MAX) if wait is not None else WAIT_S
    return AppliedPut(put=put, body=body, wait_ms=int(wait_s * 1_000), cbor=_wants_cbor(request))


def _one(request: Request, name: str, status: int = 401, most: int = _FIELD_CHARS_MAX) -> str:
    """The value of a header that must be there once. Raises: `Refused`."""
    values = request.headers.getlist(name)
    if len(values) != 1:
        what = f"the header {name} is " + ("missing" if not values else "there more than once")
        if status == 401:
            raise _unsigned(f"{what}; {_HINT}")
        raise Refused(status, RemoteError("media_type", f"{what}: {JSON} or {CBOR}"))
    if len(values[0]) > most or not is_value(values[0]):
        raise _unsigned(f"the header {name} is too long, or not printable ASCII")
    return values[0]


def _wants_cbor(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return CBOR in accepted and JSON not in accepted


def _granted(put: SignedPut, opened: OpenedPut, target: tuple[str, str, str]) -> Grant:
    """The grant, whose chain holds and which names all this. Raises: `Refused`."""
    try:
        grant = decode_grant(read_bytes_field(put.grant))
    except RemoteProtocolError as error:
        raise Refused(403, NotPermitted(f"the header drupelet-grant: {error}")) from None
    if grant.holder != opened.key:
        holder = key_to_text(grant.holder)
        raise Refused(403, NotPermitted(f"the grant is for {holder}, who did not sign this"))
    if grant.mission != target[1] or not grant.allows(target[2]):
        functions = ", ".join(grant.terms.functions or ("all functions",))
        what = f"the grant is for {functions} of the mission {grant.mission}"
        raise Refused(403, NotPermitted(what))
    return grant


# -- refusing, answering


def _unsigned(what: str) -> Refused:
    return Refused(401, RemoteError(UNSIGNED, what))


def _limited(refusal: RelayRefused) -> Refused:
    """What the relay's own limits say."""
    if refusal.code == "rate_limited":
        return Refused(429, RateLimited(refusal.retry_after_s))
    if refusal.code == "not_found":  # its account went meanwhile
        return Refused(404, NoConnection("no_such_node"))
    return Refused(503, NoConnection("overloaded"))


def _from_relay(refused: Refused) -> Response:
    """A refusal, in JSON whatever was wished: it is not the node's."""
    headers = dict(_TEACH) if refused.status == 401 else {}
    if refused.status == 405:
        headers["allow"] = METHOD
    if isinstance(refused.error, RateLimited):
        headers["retry-after"] = str(max(1, int(refused.error.retry_after_s + 0.999)))
    elif refused.location:
        headers["location"] = refused.location
    elif refused.status == 503:
        headers["retry-after"] = "1"
    document = error_document(refused.error)
    if refused.message:
        document["message"] = refused.message
    return Response(
        json_bytes({"error": document}),
        status_code=refused.status,
        media_type=JSON,
        headers={**headers, "cache-control": "no-store"},
    )


def _from_node(answer: AppliedAnswer) -> Response:
    headers = {
        "cache-control": "no-store",
        "content-type": answer.content_type,
        "content-digest": answer.content_digest,
        "signature-input": answer.signature_input,
        "signature": answer.signature,
    }
    if answer.status == 401:
        headers |= _TEACH
    if answer.retry_after_s:
        headers["retry-after"] = str(answer.retry_after_s)
    return Response(answer.body, status_code=answer.status, headers=headers)
