"""HTTP signatures: RFC 9421 in one fixed profile, for a call as one PUT.

Decides the bytes that are signed, and which header fields are a signature of ours. Whose key may
call what, `core/grants.py` decides, and whether a nonce is fresh, `core/freshness.py`.

    PUT /apply/NODE/MISSION/FUNCTION
    Content-Type: application/json
    Content-Digest: sha-256=:...:                                     RFC 9530; sha-512 as well
    Drupelet-Grant: :...:                                             wire/grants.py, in base64
    Signature-Input: drupelet=("@method" "@path" "content-type" "content-digest" "drupelet-grant")
      ;created=1700000000;keyid="KEY";alg="ed25519";nonce="TOKENRANDOM";tag="drupelet"
    Signature: drupelet=:...:

`keyid` is the text form of the key that the grant is for; `nonce` is 64 hexadecimal digits: a token
of the callee's (16 bytes), and 16 random bytes. An ``Idempotency-Key``, where there is one, is
covered too. The answer's signature is the callee's (`ANSWER_COVERED`): it is bound to the
request by covering its method, path and signature.

Rules
- All of `COVERED` is covered, in any order, and nothing else; all parameters are there, in any
  order, and no other. So what is not covered changes nothing, and both ends build the same bytes.
- The Signature-Input is as RFC 9421 serializes it: what came is what is signed, never a
  re-encoding. Other spellings (more blanks, escapes in strings) are refused and told so.
- The path is taken as it came: names are plain ASCII, nothing is percent-encoded.
- One signature, by whatever label.

References: RFC 9421 (2.5 the base, 2.4 and 2.2 components of the request in an answer's signature,
B.2.6 the vector in tests/vectors), RFC 8941 (structured fields), RFC 9530.
Rejected: `http-message-signatures` in the daemon (brings `cryptography` and 19 MB; the relay has
it); "@authority" or "@target-uri" (a proxy or a second relay has another host; token and grant name
the callee); draft-cavage signatures (the predecessor, without components of answers).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256, sha512
from typing import Any, Final

from drupelet.errors import RemoteProtocolError
from drupelet.wire import sodium
from drupelet.wire.keys import key_from_text, key_to_text
from drupelet.wire.requests import TOKEN_BYTES

METHOD: Final = "PUT"
LABEL: Final = "drupelet"
TAG: Final = "drupelet"
ALGORITHM: Final = "ed25519"
NONCE_RANDOM_BYTES: Final = 16
ONCE_FIELD: Final = "idempotency-key"
COVERED: Final = ("@method", "@path", "content-type", "content-digest", "drupelet-grant")
ANSWER_COVERED: Final = (
    '"@status"',
    '"content-type"',
    '"content-digest"',
    '"@method";req',
    '"@path";req',
    '"signature";req',
)

_NONCE_BYTES: Final = TOKEN_BYTES + NONCE_RANDOM_BYTES
_PARAMETERS: Final = ("created", "keyid", "alg", "nonce", "tag")
_INPUT_CHARS_MAX: Final = 1_024
_BASE64: Final = r"[A-Za-z0-9+/]{0,16384}={0,2}"
_INPUT: Final = re.compile(
    r"([a-z*][a-z0-9_.*-]{0,63})="
    r'(\(("[a-z@-]{1,32}"(?: "[a-z@-]{1,32}")*)\)'
    r'((?:;[a-z]{1,16}=(?:[0-9]{1,15}|"[ !#-\[\]-~]{0,128}"))*))'
)
_PARAMETER: Final = re.compile(r';([a-z]{1,16})=(?:([0-9]{1,15})|"([ !#-\[\]-~]{0,128})")')
_SIGNATURE: Final = re.compile(rf"([a-z*][a-z0-9_.*-]{{0,63}})=:({_BASE64}):")
_BYTES: Final = re.compile(rf":({_BASE64}):")
_DIGEST: Final = re.compile(rf"(sha-256|sha-512)=:({_BASE64}):")
_DIGESTS: Final[Mapping[str, Callable[[bytes], Any]]] = {"sha-256": sha256, "sha-512": sha512}
_VALUE: Final = re.compile(r"[!-~](?:[ -~]{0,16384}[!-~])?")  # a field's, of those that are covered


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedPut:
    """What is signed of a request: the values of its fields as they came, and their signature."""

    path: str
    content_type: str
    content_digest: str
    grant: str
    idempotency_key: str | None = None
    signature_input: str = ""
    signature: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedPut:
    """A request's signature, read and not yet verified. `base`: the bytes that it is over."""

    key: bytes
    token: bytes
    created: int
    base: bytes
    signature: bytes

    @property
    def hash(self) -> bytes:
        """By which it is known, however often and with whatever label it comes."""
        return blake2b(self.base, digest_size=32, person=b"drupelet put").digest()


# -- requests


def sign_put(seed: bytes, put: SignedPut, *, created: int, nonce: bytes) -> tuple[str, str]:
    """The values of Signature-Input and Signature, by the key of `seed`.

    `nonce`: the callee's token and 16 random bytes. Raises: `ValueError` for a field that no header
    can carry.
    """
    if len(nonce) != _NONCE_BYTES:
        raise ValueError(f"a nonce has {_NONCE_BYTES} bytes")
    values = _values(put)
    if not all(map(is_value, values.values())):
        raise ValueError("a header's value is printable ASCII")
    names = " ".join(f'"{name}"' for name in values)
    keyid = key_to_text(sodium.ed25519_public(seed))
    params = (
        f'({names});created={created};keyid="{keyid}";alg="{ALGORITHM}";nonce="{nonce.hex()}"'
        f';tag="{TAG}"'
    )
    base = signature_base([(f'"{name}"', value) for name, value in values.items()], params)
    return f"{LABEL}={params}", f"{LABEL}=:{_to_base64(sodium.sign(seed, base))}:"


def open_put(put: SignedPut) -> OpenedPut:
    """The signature of a request. Raises: `RemoteProtocolError` with what to mend."""
    label, params, names, given = _read_input(put.signature_input)
    values = _values(put)
    for name in COVERED:
        if name not in names:
            raise RemoteProtocolError(f'the signature does not cover "{name}"; {_COVER}')
    if (ONCE_FIELD in names) != (put.idempotency_key is not None):
        raise RemoteProtocolError(f"an Idempotency-Key is covered by the signature; {_COVER}")
    for name in names:
        if name not in values:
            raise RemoteProtocolError(f'the signature covers "{name}"; {_COVER}')
        if not is_value(values[name]):
            raise RemoteProtocolError(f"the value of {name} is not printable ASCII")
    try:
        key = key_from_text(given["keyid"])
    except ValueError as error:
        raise RemoteProtocolError(f"keyid: {error}") from None
    if given["keyid"] != key_to_text(key):
        raise RemoteProtocolError("keyid is the key as `drupelet status` shows it")
    if given["alg"] != ALGORITHM or given["tag"] != TAG:
        raise RemoteProtocolError(f'alg is "{ALGORITHM}" and tag is "{TAG}"')
    nonce = given["nonce"]
    if not re.fullmatch(rf"[0-9a-f]{{{2 * _NONCE_BYTES}}}", nonce):
        raise RemoteProtocolError(
            "the nonce is 64 hexadecimal digits: 32 of the node's token, 32 random ones"
        )
    return OpenedPut(
        key=key,
        token=bytes.fromhex(nonce)[:TOKEN_BYTES],
        created=int(given["created"]),
        base=signature_base([(f'"{name}"', values[name]) for name in names], params),
        signature=_read_signature(put.signature, label),
    )


def verify_put(opened: OpenedPut) -> None:
    """Return if its key signed it. Raises: `RemoteProtocolError`. 45 us."""
    sodium.verify(opened.key, opened.base, opened.signature)


def headers_of(put: SignedPut) -> dict[str, str]:
    """The header fields of a signed PUT."""
    found = {
        "Content-Type": put.content_type,
        "Content-Digest": put.content_digest,
        "Drupelet-Grant": put.grant,
    }
    if put.idempotency_key is not None:
        found["Idempotency-Key"] = put.idempotency_key
    return {**found, "Signature-Input": put.signature_input, "Signature": put.signature}


# -- answers


def sign_answer(
    seed: bytes, put: SignedPut, status: int, content_type: str, content_digest: str
) -> tuple[str, str]:
    """Signature-Input and Signature of the answer to `put`, by the callee's identity."""
    keyid = key_to_text(sodium.ed25519_public(seed))
    params = f'({" ".join(ANSWER_COVERED)});keyid="{keyid}";alg="{ALGORITHM}";tag="{TAG}"'
    base = _answer_base(put, status, content_type, content_digest, params)
    return f"{LABEL}={params}", f"{LABEL}=:{_to_base64(sodium.sign(seed, base))}:"


def verify_answer(
    callee: bytes,
    put: SignedPut,
    status: int,
    content_type: str,
    content_digest: str,
    signature_input: str,
    signature: str,
) -> None:
    """Return if `callee` gave this answer to this request. Raises: `RemoteProtocolError`.

    Whether the body is that of the digest, `check_digest` says.
    """
    keyid = key_to_text(callee)
    params = f'({" ".join(ANSWER_COVERED)});keyid="{keyid}";alg="{ALGORITHM}";tag="{TAG}"'
    if signature_input != f"{LABEL}={params}":
        raise RemoteProtocolError("the answer is not signed by that node")
    base = _answer_base(put, status, content_type, content_digest, params)
    sodium.verify(callee, base, _read_signature(signature, LABEL))


# -- single fields


def is_value(text: str) -> bool:
    """Whether a field of ours can have that value: printable ASCII, no blanks at its ends."""
    return _VALUE.fullmatch(text) is not None


def digest_of(body: bytes) -> str:
    """The value of Content-Digest for `body`."""
    return f"sha-256=:{_to_base64(sha256(body).digest())}:"


def check_digest(field: str, body: bytes) -> None:
    """Return if each digest in the field is that of `body`. Raises: `RemoteProtocolError`."""
    members = field.split(", ")
    if len(members) > len(_DIGESTS):
        raise RemoteProtocolError("Content-Digest: at most one digest of each kind")
    for member in members:
        match = _DIGEST.fullmatch(member)
        if match is None:
            raise RemoteProtocolError("Content-Digest is sha-256=:...: or sha-512=:...: (RFC 9530)")
        if _from_base64(match[2]) != _DIGESTS[match[1]](body).digest():
            raise RemoteProtocolError("the body is not the one of which Content-Digest is")


def bytes_field(data: bytes) -> str:
    """A byte sequence of RFC 8941."""
    return f":{_to_base64(data)}:"


def read_bytes_field(field: str) -> bytes:
    """The reverse. Raises: `RemoteProtocolError`."""
    match = _BYTES.fullmatch(field)
    if match is None:
        raise RemoteProtocolError("that is no byte sequence of RFC 8941: base64 between colons")
    return _from_base64(match[1])


# -- inside

_COVER: Final = "cover " + " ".join(f'"{name}"' for name in COVERED) + " (and idempotency-key)"


def _values(put: SignedPut) -> dict[str, str]:
    """What may be covered, by name, in the order of COVERED."""
    values = (METHOD, put.path, put.content_type, put.content_digest, put.grant)
    found = dict(zip(COVERED, values, strict=True))
    if put.idempotency_key is not None:
        found[ONCE_FIELD] = put.idempotency_key
    return found


def _read_input(field: str) -> tuple[str, str, list[str], dict[str, str]]:
    """Label, what follows it as it came, names that are covered, parameters."""
    match = _INPUT.fullmatch(field) if len(field) <= _INPUT_CHARS_MAX else None
    if match is None:
        raise RemoteProtocolError(
            "Signature-Input has one signature, written as RFC 9421 serializes it: "
            'drupelet=("@method" ...);created=...;keyid="...";alg="ed25519";nonce="...";tag="..."'
        )
    names = [quoted.strip('"') for quoted in match[3].split(" ")]
    if len(set(names)) != len(names):
        raise RemoteProtocolError("the signature covers something twice")
    given: dict[str, str] = {}
    for name, number, text in _PARAMETER.findall(match[4]):
        if name in given:
            raise RemoteProtocolError(f"the signature's {name} is there twice")
        if (name == "created") != bool(number):
            raise RemoteProtocolError("created is a number, and the others are strings")
        given[name] = number or text
    if set(given) != set(_PARAMETERS):
        raise RemoteProtocolError(f"the signature's parameters are {', '.join(_PARAMETERS)}")
    if given["created"] != str(int(given["created"])):
        raise RemoteProtocolError("created is a number without leading zeros")
    return match[1], match[2], names, given


def _read_signature(field: str, label: str) -> bytes:
    match = _SIGNATURE.fullmatch(field)
    if match is None or match[1] != label:
        raise RemoteProtocolError(
            f"Signature is one byte sequence with the label of Signature-Input: {label}=:...:"
        )
    signature = _from_base64(match[2])
    if len(signature) != sodium.SIGNATURE_BYTES:
        raise RemoteProtocolError(f"an Ed25519 signature has {sodium.SIGNATURE_BYTES} bytes")
    return signature


def _answer_base(
    put: SignedPut, status: int, content_type: str, content_digest: str, params: str
) -> bytes:
    values = (str(status), content_type, content_digest, METHOD, put.path, put.signature)
    if not all(map(is_value, values)):
        raise RemoteProtocolError("a header's value is printable ASCII")
    return signature_base(list(zip(ANSWER_COVERED, values, strict=True)), params)


def signature_base(components: Sequence[tuple[str, str]], params: str) -> bytes:
    """RFC 9421, 2.5."""
    lines = [f"{name}: {value}" for name, value in components]
    return "\n".join([*lines, f'"@signature-params": {params}']).encode("ascii")


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        data = b""
    if _to_base64(data) != text:
        raise RemoteProtocolError("that is no base64 (with padding, and no bits to spare)")
    return data
