"""Requests: one call, signed and sealed, for a way that neither side trusts: a relay, or HTTP.

Decides the bytes of a request and of its reply. Who may call what, `core/grants.py` decides, and
whether a request is fresh, `core/freshness.py`.

    sealed request = crypto_box_seal(signed request, the callee's key of this boot)
    signed request = [protected, {}, payload, signature]                 COSE_Sign1, untagged
    sealed reply   = crypto_box_seal(signed reply, the reply key in the request)

`protected` is ``{1: -8}`` (EdDSA) and nothing else; the signature is over COSE's ``["Signature1",
protected, domain, payload]``, where the domain, COSE's external data, is ``drupelet/request/1`` or
``drupelet/reply/1``. A payload is a deterministic CBOR map:

| request | | reply | |
|---|---|---|---|
| 1 | the callee's identity | 1 | hash of the signed request |
| 2 | a token of the callee's, 16 bytes | 2 | value: encoded CBOR |
| 3 | id: 16 random bytes | 3 | or error fields: encoded CBOR; `[0, newest token]`: sign again |
| 4 | the grant: wire/grants.py | | |
| 5 | "mission/function" | | |
| 6 | arguments: an encoded CBOR array | | |
| 7 | milliseconds that the caller waits | | |
| 8 | reply key: X25519, of this request only | | |
| 9 | idempotency key, 16 bytes; absent: none | | |

Rules
- The holder of the grant signs, so what carries the request can neither alter nor use it. The
  callee's identity is in it, so nobody can pass it on to another.
- The reply names the request by its hash, so replies cannot be exchanged among requests.
- No clock: a token is the callee's own, and old tokens are no longer accepted.
- The signature is checked over the bytes that came, and the map must be what our encoder makes.
- A request is opened cheapest first: size, seal, shape, then signatures.

References: RFC 9052 (COSE), section 4.2 and 4.4; libsodium's sealed boxes; RFC 9421 for the same
over HTTP (it is a profile of its own).
Rejected: one key for a whole session (state at both ends, lost at each boot); signing then naming
the callee outside of the signature (a hostile callee would pass requests on).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.wire import sodium
from drupelet.wire.codec import dumps, loads_canonical
from drupelet.wire.limits import (
    BODY_BYTES_MAX,
    GRANT_BYTES_MAX,
    REQUEST_BYTES_MAX,
    REQUEST_TIMEOUT_MS_MAX,
    TARGET_BYTES_MAX,
)
from drupelet.wire.sodium import KEY_BYTES, SEAL_BYTES, SIGNATURE_BYTES

REQUEST_DOMAIN: Final = b"drupelet/request/1"
REPLY_DOMAIN: Final = b"drupelet/reply/1"
TOKEN_BYTES: Final = 16
ID_BYTES: Final = 16
HASH_BYTES: Final = 32

_PROTECTED: Final = dumps({1: -8})
_STALE: Final = 0  # no code of errors.py
_ENVELOPE_BYTES_MAX: Final = 256  # of a signed message beside its payload


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """One call. `signer`: who signed it; `hash`: what its reply names."""

    callee: bytes
    token: bytes
    id: bytes
    grant: bytes
    target: str
    arguments: bytes
    timeout_ms: int
    reply_key: bytes
    idempotency_key: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A request as it came. Its signature is not checked: `verify_request` does."""

    request: SignedRequest
    hash: bytes
    signed: bytes
    payload: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer to the request with that hash: `value` or `error`, encoded CBOR."""

    request_hash: bytes
    value: bytes | None = None
    error: bytes | None = None


# -- requests


def encode_request(seed: bytes, request: SignedRequest) -> bytes:
    """The signed request, by the key of `seed`. Raises: `ValueError` for one that is too large."""
    problem = _problem(request)
    if problem:
        raise ValueError(problem)
    payload: dict[int, object] = {
        1: request.callee,
        2: request.token,
        3: request.id,
        4: request.grant,
        5: request.target,
        6: request.arguments,
        7: request.timeout_ms,
        8: request.reply_key,
    }
    if request.idempotency_key is not None:
        payload[9] = request.idempotency_key
    return _sign(seed, REQUEST_DOMAIN, dumps(payload))


def request_hash(signed: bytes) -> bytes:
    """What the reply to this signed request names."""
    return blake2b(signed, digest_size=HASH_BYTES, person=b"drupelet request").digest()


def open_request(private_key: bytes, public_key: bytes, sealed: bytes) -> Opened:
    """The request in `sealed`, not yet verified. Raises: `RemoteProtocolError`. 45 us."""
    if len(sealed) > REQUEST_BYTES_MAX + SEAL_BYTES:
        raise RemoteProtocolError(f"request of {len(sealed)} bytes; at most {REQUEST_BYTES_MAX}")
    signed = sodium.open_sealed(private_key, public_key, sealed)
    payload, signature = _split(signed)
    match loads_canonical(payload):
        case {
            1: bytes(callee),
            2: bytes(token),
            3: bytes(ident),
            4: bytes(grant),
            5: str(target),
            6: bytes(arguments),
            7: int(timeout_ms),
            8: bytes(reply_key),
            **rest,
        } if timeout_ms is not True and not rest.keys() - {9}:
            idempotency_key = rest.get(9)
            if idempotency_key is not None and not isinstance(idempotency_key, bytes):
                raise RemoteProtocolError("malformed request")
            request = SignedRequest(
                callee=callee,
                token=token,
                id=ident,
                grant=grant,
                target=target,
                arguments=arguments,
                timeout_ms=timeout_ms,
                reply_key=reply_key,
                idempotency_key=idempotency_key,
            )
            problem = _problem(request)
            if problem:
                raise RemoteProtocolError(f"request: {problem}")
            return Opened(
                request=request,
                hash=request_hash(signed),
                signed=signed,
                payload=payload,
                signature=signature,
            )
    raise RemoteProtocolError("malformed request")


def verify_request(opened: Opened, signer: bytes) -> None:
    """Return if `signer` signed it. Raises: `RemoteProtocolError`. 42 us."""
    sodium.verify(signer, _to_be_signed(REQUEST_DOMAIN, opened.payload), opened.signature)


def _problem(request: SignedRequest) -> str:
    """What is wrong with a request, or ""."""
    keys = (request.callee, request.reply_key)
    if any(len(key) != KEY_BYTES for key in keys):
        return f"a key has {KEY_BYTES} bytes"
    marks = [request.id, request.token]
    if request.idempotency_key is not None:
        marks.append(request.idempotency_key)
    if any(len(mark) != ID_BYTES for mark in marks):
        return f"an id, a token and an idempotency key have {ID_BYTES} bytes"
    if len(request.grant) > GRANT_BYTES_MAX:
        return f"a grant of {len(request.grant)} bytes; at most {GRANT_BYTES_MAX}"
    if request.target.count("/") != 1 or len(request.target.encode()) > TARGET_BYTES_MAX:
        return "the target is mission/function"
    if len(request.arguments) > REQUEST_BYTES_MAX - GRANT_BYTES_MAX - 1_024:
        return f"arguments of {len(request.arguments)} bytes; use a direct link for so many"
    if not 0 < request.timeout_ms <= REQUEST_TIMEOUT_MS_MAX:
        return f"the timeout is 1 to {REQUEST_TIMEOUT_MS_MAX} ms"
    return ""


# -- replies


def encode_reply(seed: bytes, reply: Reply) -> bytes:
    """The signed reply, by the callee's identity."""
    payload: dict[int, object] = {1: reply.request_hash}
    if (reply.value is None) == (reply.error is None):
        raise ValueError("a reply has a value or an error")
    if reply.value is not None:
        payload[2] = reply.value
    else:
        payload[3] = reply.error
    return _sign(seed, REPLY_DOMAIN, dumps(payload))


def open_reply(private_key: bytes, public_key: bytes, sealed: bytes, callee: bytes) -> Reply:
    """The reply in `sealed`, signed by `callee`. Whether it is ours, its `request_hash` says.

    Raises: `RemoteProtocolError`.
    """
    if len(sealed) > BODY_BYTES_MAX:
        raise RemoteProtocolError(f"reply of {len(sealed)} bytes; at most {BODY_BYTES_MAX}")
    payload, signature = _split(sodium.open_sealed(private_key, public_key, sealed))
    sodium.verify(callee, _to_be_signed(REPLY_DOMAIN, payload), signature)
    match loads_canonical(payload):
        case {1: bytes(name), 2: bytes(value), **rest} if not rest and len(name) == HASH_BYTES:
            return Reply(request_hash=name, value=value)
        case {1: bytes(name), 3: bytes(error), **rest} if not rest and len(name) == HASH_BYTES:
            return Reply(request_hash=name, error=error)
    raise RemoteProtocolError("malformed reply")


def stale_error(token: bytes, *, maybe_ran: bool = False) -> bytes:
    """The `error` of a reply to a request whose token is no longer accepted: this one is.

    `maybe_ran`: it is not known whether it was accepted before.
    """
    return dumps([_STALE, token, True] if maybe_ran else [_STALE, token])


def stale_token(error: bytes) -> bytes | None:
    """The token in such an error; None: it is another. Raises: `RemoteProtocolError`."""
    match loads_canonical(error):
        case [int(code), bytes(token)] | [int(code), bytes(token), True] if (
            code == _STALE and type(code) is int
        ):
            if len(token) == TOKEN_BYTES:
                return token
            raise RemoteProtocolError("malformed token")
    return None


def stale_maybe_ran(error: bytes) -> bool:
    """What such an error says of it."""
    match loads_canonical(error):
        case [_, _, True]:
            return True
    return False


# -- COSE_Sign1


def _to_be_signed(domain: bytes, payload: bytes) -> bytes:
    return dumps(["Signature1", _PROTECTED, domain, payload])


def _sign(seed: bytes, domain: bytes, payload: bytes) -> bytes:
    signature = sodium.sign(seed, _to_be_signed(domain, payload))
    return dumps([_PROTECTED, {}, payload, signature])


def _split(signed: bytes) -> tuple[bytes, bytes]:
    match loads_canonical(signed):
        case [bytes(protected), dict(unprotected), bytes(payload), bytes(signature)]:
            if protected == _PROTECTED and not unprotected and len(signature) == SIGNATURE_BYTES:
                return payload, signature
    raise RemoteProtocolError("malformed signed message")
