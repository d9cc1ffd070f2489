"""HTTP calls: one PUT to a relay, what of it reaches the node, and the answer.

Decides the bytes between a relay and a node, what a body says, and which failure has which status.
Signatures are `wire/http_signatures.py`'s, the path of a message `wire/relay.py`'s.

    PUT /apply/NODE/MISSION/FUNCTION      arguments: a JSON or CBOR array -> the value, or
                                          {"error": {"kind", "message", ...}} as `drupelet --json`

A relay hands the request to the node as it came (`AppliedPut`, a deterministic CBOR array), and the
node's answer to who asked (`AppliedAnswer`, likewise). NODE is a key's text, or a name.

Rules
- The node reads the body, after the signature over its digest held: a relay cannot put another
  reading of it into its place. What a relay adds (how long to wait, whether CBOR is wanted) can
  harm nobody: it could drop the request as well.
- JSON has the forms of `wire/json_forms.py`; a name that comes twice in an object is refused, for
  whoever checks it elsewhere may read the other one.
- Each status means one reaction: 401 sign again, 403 ask the owner, 409 it ran, 422 mend the
  arguments, 429 wait, 502 the node is away, 504 it may have run.

References: RFC 9110 (status codes, 15), RFC 8259 section 4 on names that come twice.
Rejected: arguments in the query (in logs of proxies); POST (a PUT says what becomes of a second
one: nothing); problem details of RFC 9457 (a second shape of failures beside `--json`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from drupelet.errors import (
    CallError,
    DrupeletError,
    NoConnection,
    NotPermitted,
    RateLimited,
    RemoteError,
    RemoteProtocolError,
    Revoked,
    Timeout,
    error_document,
    error_from_fields,
)
from drupelet.wire.codec import dumps, loads, loads_canonical
from drupelet.wire.http_signatures import SignedPut, check_digest, digest_of, is_value, sign_answer
from drupelet.wire.idempotency import key_bytes
from drupelet.wire.ids import check_name, check_plain_name
from drupelet.wire.json_forms import from_json, to_json
from drupelet.wire.limits import (
    APPLY_BODY_BYTES_MAX,
    APPLY_GRANT_CHARS_MAX,
    APPLY_S_MAX,
    APPLY_VALUE_BYTES_MAX,
    HOST_CHARS_MAX,
    NAME_CHARS_MAX,
    RELAY_MESSAGE_BYTES_MAX,
)
from drupelet.wire.requests import stale_maybe_ran, stale_token

JSON: Final = "application/json"
CBOR: Final = "application/cbor"
PREFIX: Final = "/apply/"
PATH_RULE: Final = "the address is /apply/NODE/MISSION/FUNCTION; NODE is a key, or a name"
STALE: Final = "stale"  # the kind of a refusal: sign again
UNSIGNED: Final = "unsigned"  # the kind of another: there is no signature that holds

_PATH_CHARS_MAX: Final = len(PREFIX) + 3 * NAME_CHARS_MAX + HOST_CHARS_MAX + 3
_FIELD_CHARS_MAX: Final = 1_024
_BODY_BYTES_MAX: Final = RELAY_MESSAGE_BYTES_MAX - 1_024  # of an answer; a NUL in JSON is 6 letters
_WAIT_S_MAX: Final = 2**31
_PARTS: Final = 10
_TYPE: Final = re.compile(rf'({JSON}|{CBOR})(?:; ?charset="?utf-8"?)?', re.IGNORECASE)
_STATUS: Final = {"badarg": 422, "replayed": 409, STALE: 401, UNSIGNED: 401}
_STALE: Final = (
    "the nonce has a token that this node takes no more (it is a minute old, or the node started "
    "anew): sign again; `drupelet sign` does, or put `token` into the nonce"
)
_LOOK: Final = (
    "; if its token was one of this node's, the call may have run before the node started anew: "
    "sign again only with the same Idempotency-Key, or look first"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedPut:
    """A PUT as the node gets it. `wait_ms`, `cbor` (the form of the answer): the relay's word."""

    put: SignedPut
    body: bytes
    wait_ms: int
    cbor: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedAnswer:
    """A node's answer: what who asked gets. `retry_after_s`: whole seconds, 0: none."""

    status: int
    content_type: str
    body: bytes
    retry_after_s: int
    signature_input: str
    signature: str

    @property
    def content_digest(self) -> str:
        """What Content-Digest has."""
        return digest_of(self.body)


# -- paths and media types


def path_to(node: str, mission: str, function: str) -> str:
    """The path of a function."""
    return f"{PREFIX}{node}/{mission}/{function}"


def split_path(path: str) -> tuple[str, str, str]:
    """Node, mission, function. Raises: `RemoteProtocolError` with what is wrong."""
    parts = path.removeprefix(PREFIX).split("/")
    if len(path) > _PATH_CHARS_MAX or not path.startswith(PREFIX) or len(parts) != 3:
        raise RemoteProtocolError(PATH_RULE)
    node, mission, function = parts
    try:
        check_name(node)
        check_plain_name(mission)
        check_plain_name(function)
    except ValueError as error:
        raise RemoteProtocolError(f"{error}; {PATH_RULE}; nothing in it is encoded") from None
    return node, mission, function


def is_cbor(content_type: str) -> bool:
    """Whether a body of that type is CBOR, or else JSON. Raises: `RemoteProtocolError`."""
    match = _TYPE.fullmatch(content_type)
    if match is None:
        raise RemoteProtocolError(f"arguments are {JSON} or {CBOR}, not {content_type[:60]!r}")
    return match[1].lower() == CBOR


def once_key(field: str) -> bytes:
    """The idempotency key (16 bytes) of an Idempotency-Key's value: as that of a program's text.

    Else the same key of the same holder would run once for each way to say it.
    """
    return key_bytes(field)


# -- the way to the node


def encode_put(applied: AppliedPut) -> bytes:
    """What a relay hands to the node."""
    put = applied.put
    return dumps(
        [
            put.path,
            put.content_type,
            put.content_digest,
            put.grant,
            put.idempotency_key,
            put.signature_input,
            put.signature,
            applied.body,
            applied.wait_ms,
            applied.cbor,
        ]
    )


def decode_put(data: bytes) -> AppliedPut:
    """The reverse. Raises: `RemoteProtocolError`."""
    if len(data) > RELAY_MESSAGE_BYTES_MAX:
        raise RemoteProtocolError(f"a PUT of {len(data)} bytes")
    parts = loads_canonical(data)
    if not isinstance(parts, list) or len(parts) != _PARTS:
        raise RemoteProtocolError("malformed PUT")
    *texts, body, wait_ms, cbor = parts
    tops = [_PATH_CHARS_MAX, *[_FIELD_CHARS_MAX] * 6]
    tops[3] = APPLY_GRANT_CHARS_MAX
    for place, (text, top) in enumerate(zip(texts, tops, strict=True)):
        if text is None and place == 4:
            continue
        if type(text) is not str or len(text) > top or not is_value(text):
            raise RemoteProtocolError("malformed PUT")
    if type(body) is not bytes or len(body) > APPLY_BODY_BYTES_MAX or type(cbor) is not bool:
        raise RemoteProtocolError("malformed PUT")
    if type(wait_ms) is not int or not 0 < wait_ms <= APPLY_S_MAX * 1_000:
        raise RemoteProtocolError("malformed PUT")
    path, content_type, content_digest, grant, once, signature_input, signature = texts
    put = SignedPut(
        path=path,
        content_type=content_type,
        content_digest=content_digest,
        grant=grant,
        idempotency_key=once,
        signature_input=signature_input,
        signature=signature,
    )
    return AppliedPut(put=put, body=body, wait_ms=wait_ms, cbor=cbor)


def check_body(applied: AppliedPut) -> None:
    """Return if the body is the one that was signed. Raises: `RemoteProtocolError`."""
    check_digest(applied.put.content_digest, applied.body)


def arguments_of(applied: AppliedPut) -> bytes:
    """The arguments, an encoded array. Raises: `RemoteError` (badarg)."""
    try:
        if is_cbor(applied.put.content_type):
            value = loads(applied.body)
        else:
            value = from_json(
                json.loads(
                    applied.body.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_object
                )
            )
        if not isinstance(value, list):
            raise ValueError("the body is an array of arguments, such as [1, 2]; [] for none")
        return applied.body if is_cbor(applied.put.content_type) else dumps(value)
    except RecursionError:
        raise RemoteError("badarg", "the body is nested too deep") from None
    except (ValueError, DrupeletError) as error:
        raise RemoteError("badarg", str(error)[:300]) from None


# -- the way back


def encode_answer(answer: AppliedAnswer) -> bytes:
    """What a node sends to the relay."""
    return dumps(
        [
            answer.status,
            answer.content_type,
            answer.body,
            answer.retry_after_s,
            answer.signature_input,
            answer.signature,
        ]
    )


def decode_answer(data: bytes) -> AppliedAnswer:
    """The reverse. Raises: `RemoteProtocolError`. Its signature is for who asked."""
    if len(data) > RELAY_MESSAGE_BYTES_MAX:
        raise RemoteProtocolError(f"an answer of {len(data)} bytes")
    match loads_canonical(data):
        case [
            int(status),
            str(content_type),
            bytes(body),
            int(retry_after_s),
            str(signature_input),
            str(signature),
        ] if (
            status is not True
            and retry_after_s is not True
            and retry_after_s is not False
            and 200 <= status <= 599
            and content_type in (JSON, CBOR)
            and 0 <= retry_after_s <= _WAIT_S_MAX
            and all(
                len(text) <= _FIELD_CHARS_MAX and is_value(text)
                for text in (signature_input, signature)
            )
        ):
            return AppliedAnswer(
                status=status,
                content_type=content_type,
                body=body,
                retry_after_s=retry_after_s,
                signature_input=signature_input,
                signature=signature,
            )
    raise RemoteProtocolError("malformed answer")


def answer_to(
    seed: bytes, applied: AppliedPut, value: bytes | None, error: bytes | None
) -> AppliedAnswer:
    """What a node says: an encoded value or error fields, signed by the identity of `seed`."""
    status, content_type, body, retry_after_s = _said(value, error, cbor=applied.cbor)
    signature_input, signature = sign_answer(
        seed, applied.put, status, content_type, digest_of(body)
    )
    return AppliedAnswer(
        status=status,
        content_type=content_type,
        body=body,
        retry_after_s=retry_after_s,
        signature_input=signature_input,
        signature=signature,
    )


def _said(value: bytes | None, error: bytes | None, *, cbor: bool) -> tuple[int, str, bytes, int]:
    """Status, media type, body, seconds to wait."""
    wait_s, media_type = 0, CBOR if cbor else JSON
    if error is None:
        assert value is not None
        failure: CallError
        try:
            body = b""
            if len(value) <= APPLY_VALUE_BYTES_MAX:
                body = value if cbor else json_bytes(to_json(loads(value)))
            if 0 < len(body) <= _BODY_BYTES_MAX:
                return 200, media_type, body, 0
            what = f"it ran; its value has {len(value)} bytes encoded, {len(body)} in the answer"
            most = f"a PUT gives {APPLY_VALUE_BYTES_MAX} and {_BODY_BYTES_MAX}: use a direct link"
            failure = RemoteError("too_large", f"{what}; {most}")
        except RemoteProtocolError as malformed:  # so the mission's worker says
            failure = RemoteError("malformed", f"it ran; its value is none: {malformed}")
        status, document = failure_of(failure)
    elif token := stale_token(error):
        status = 401
        maybe_ran = stale_maybe_ran(error)
        message = _STALE + (_LOOK if maybe_ran else "")
        found = {"kind": STALE, "message": message, "token": token.hex(), "maybe_ran": maybe_ran}
        document = {"error": found}
    else:
        failure = error_from_fields(loads_canonical(error))
        if isinstance(failure, RateLimited):
            wait_s = min(int(failure.retry_after_s + 0.999), _WAIT_S_MAX)
        status, document = failure_of(failure)
    return status, media_type, dumps(document) if cbor else json_bytes(document), wait_s


def failure_of(error: CallError) -> tuple[int, dict[str, object]]:
    """The status of a failure, and its document."""
    document: dict[str, object] = {"error": error_document(error)}
    match error:
        case NotPermitted() | Revoked():
            return 403, document
        case RateLimited():
            return 429, document
        case Timeout():
            return 504, document
        case NoConnection(reason="no_such_node"):
            return 404, document
        case NoConnection(reason="overloaded"):
            return 503, document
        case NoConnection():
            return 502, document
        case RemoteError():
            return _STATUS.get(error.kind, 500), document
    return 500, document


def json_bytes(document: object) -> bytes:
    """A document as a body: one line."""
    return json.dumps(document, allow_nan=False).encode() + b"\n"


# -- inside


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice in one object")
    return found
