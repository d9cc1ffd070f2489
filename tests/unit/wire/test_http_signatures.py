"""Our profile of RFC 9421, against the RFC's own vector and against http-message-signatures."""

from __future__ import annotations

import base64
import datetime
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import http_message_signatures as other
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import example, given
from hypothesis import strategies as st

from drupelet.errors import RemoteProtocolError
from drupelet.wire import sodium
from drupelet.wire.http_signatures import (
    ANSWER_COVERED,
    COVERED,
    LABEL,
    SignedPut,
    bytes_field,
    check_digest,
    digest_of,
    headers_of,
    open_put,
    read_bytes_field,
    sign_answer,
    sign_put,
    signature_base,
    verify_answer,
    verify_put,
)
from drupelet.wire.keys import key_to_text

VECTOR = json.loads(
    (Path(__file__).parents[2] / "vectors" / "http-signatures.json").read_text(encoding="utf-8")
)
SEED = bytes(range(32))
KEY = sodium.ed25519_public(SEED)
KEYID = key_to_text(KEY)
NONCE = b"T" * 16 + b"R" * 16
BODY = b"[1]"
NOW = 1_700_000_000
PATH = f"/apply/{KEYID}/light/temp"


def a_put(**fields: Any) -> SignedPut:
    """Signed by SEED."""
    put = SignedPut(
        path=PATH,
        content_type="application/json",
        content_digest=digest_of(BODY),
        grant=bytes_field(b"grant"),
    )
    put = replace(put, **fields)
    signature_input, signature = sign_put(SEED, put, created=NOW, nonce=NONCE)
    return replace(put, signature_input=signature_input, signature=signature)


# -- the RFC's


def _seed_of_vector() -> bytes:
    return base64.urlsafe_b64decode(VECTOR["private_key_base64url"] + "=")


def test_the_vector_of_rfc_9421_b_2_6() -> None:
    components = [(f'"{name}"', value) for name, value in VECTOR["components"]]
    base = signature_base(components, VECTOR["signature_params"])
    assert base == VECTOR["signature_base"].encode()
    seed = _seed_of_vector()
    public = base64.urlsafe_b64decode(VECTOR["public_key_base64url"] + "=")
    assert sodium.ed25519_public(seed) == public
    signature = base64.b64decode(VECTOR["signature"])
    assert sodium.sign(seed, base) == signature
    sodium.verify(public, base, signature)


# -- another implementation, both ways


class Keys(other.HTTPSignatureKeyResolver):
    def resolve_public_key(self, key_id: str) -> Any:
        return Ed25519PublicKey.from_public_bytes(KEY)

    def resolve_private_key(self, key_id: str) -> Any:
        return Ed25519PrivateKey.from_private_bytes(SEED)


@dataclass
class Request:
    url: str
    headers: dict[str, str]
    method: str = "PUT"


@dataclass
class Response:
    request: Request
    status_code: int
    headers: dict[str, str] = field(default_factory=dict)


def as_request(put: SignedPut) -> Request:
    return Request(f"https://relay.example.org{put.path}", headers_of(put))


def theirs() -> Any:
    verifier = other.HTTPMessageVerifier(
        signature_algorithm=other.algorithms.ED25519, key_resolver=Keys()
    )
    verifier.require_created = False  # a node that answers may have no clock
    return verifier


@pytest.mark.parametrize("once", [None, '"the-first"'])
def test_ours_is_verified_by_http_message_signatures(once: str | None) -> None:
    put = a_put(idempotency_key=once)
    [result] = theirs().verify(as_request(put), max_age=None, expect_tag="drupelet", body=BODY)
    assert result.parameters["keyid"] == KEYID and result.nonce == NONCE.hex()
    assert result.body == BODY
    altered = replace(put, path=PATH + "x")
    with pytest.raises(other.InvalidSignature):
        theirs().verify(as_request(altered), max_age=None, expect_tag="drupelet")


@pytest.mark.parametrize("order", [COVERED, tuple(reversed(COVERED))])
def test_theirs_is_verified_by_ours(order: tuple[str, ...]) -> None:
    put = SignedPut(
        path=PATH,
        content_type="application/cbor",
        content_digest=digest_of(BODY),
        grant=bytes_field(b"grant"),
    )
    request = as_request(put)
    del request.headers["Signature-Input"], request.headers["Signature"]
    signer = other.HTTPMessageSigner(
        signature_algorithm=other.algorithms.ED25519, key_resolver=Keys()
    )
    signer.sign(
        request,
        key_id=KEYID,
        created=datetime.datetime.fromtimestamp(NOW, datetime.UTC),
        nonce=NONCE.hex(),
        tag="drupelet",
        covered_component_ids=order,
        use_existing_digest=True,
    )
    put = replace(
        put,
        signature_input=request.headers["Signature-Input"],
        signature=request.headers["Signature"],
    )
    opened = open_put(put)
    verify_put(opened)
    assert (opened.key, opened.token, opened.created) == (KEY, NONCE[:16], NOW)


def test_our_answer_is_verified_by_http_message_signatures_and_is_bound_to_the_request() -> None:
    put = a_put()
    digest = digest_of(b"20.5\n")
    signature_input, signature = sign_answer(SEED, put, 200, "application/json", digest)
    headers = {
        "Content-Type": "application/json",
        "Content-Digest": digest,
        "Signature-Input": signature_input,
        "Signature": signature,
    }
    response = Response(as_request(put), 200, headers)
    [result] = theirs().verify(response, max_age=None, expect_tag="drupelet", body=b"20.5\n")
    assert set(result.covered_components) == {*ANSWER_COVERED, '"@signature-params"'}
    for altered in (
        replace(response, status_code=500),
        replace(response, request=as_request(a_put(path=PATH + "2"))),
    ):
        with pytest.raises(other.InvalidSignature):
            theirs().verify(altered, max_age=None, expect_tag="drupelet")


# -- ours


def test_a_signed_put_opens_and_its_hash_is_of_what_was_signed_only() -> None:
    put = a_put()
    opened = open_put(put)
    verify_put(opened)
    assert (opened.key, opened.token, opened.created) == (KEY, b"T" * 16, NOW)
    relabelled = replace(
        put,
        signature_input=put.signature_input.replace(f"{LABEL}=", "sig1=", 1),
        signature=put.signature.replace(f"{LABEL}=", "sig1=", 1),
    )
    again = open_put(relabelled)
    verify_put(again)
    assert again.hash == opened.hash
    assert open_put(a_put(path=PATH + "x")).hash != opened.hash


FIELDS = (
    "path",
    "content_type",
    "content_digest",
    "grant",
    "idempotency_key",
    "signature_input",
    "signature",
)


@given(name=st.sampled_from(FIELDS), place=st.integers(0, 400), data=st.data())
def test_no_edit_of_any_covered_byte_is_accepted(
    name: str, place: int, data: st.DataObject
) -> None:
    put = a_put(idempotency_key="abc")
    value = getattr(put, name)
    place %= len(value) + 1
    kind = data.draw(st.sampled_from(["change", "insert", "remove"]))
    letter = data.draw(st.characters(max_codepoint=0x17F))
    rest = value[place:] if kind == "insert" else value[place + 1 :]
    edited = value[:place] + ("" if kind == "remove" else letter) + rest
    changed = replace(put, **{name: edited})
    try:
        opened = open_put(changed)
        verify_put(opened)
    except RemoteProtocolError:
        return
    assert opened.hash == open_put(put).hash and _content(changed) == _content(put)


def _content(put: SignedPut) -> tuple[Any, ...]:
    """All but the label, which is not signed and means nothing."""
    signed = [getattr(put, name) for name in FIELDS[:5]]
    return (*signed, put.signature_input.partition("=")[2], put.signature.partition("=")[2])


@given(st.sampled_from(FIELDS), st.text(max_size=80))
@example("signature_input", "")
@example("signature", "")
def test_junk_is_refused_with_words(name: str, junk: str) -> None:
    put = replace(a_put(), **{name: junk})
    if name == "idempotency_key" or junk != getattr(a_put(), name):
        with pytest.raises(RemoteProtocolError, match="."):
            verify_put(open_put(put))


def _input(put: SignedPut, old: str, new: str) -> SignedPut:
    assert old in put.signature_input
    return replace(put, signature_input=put.signature_input.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"@path" ', "", 'does not cover "@path"'),
        ('"content-digest" ', "", 'does not cover "content-digest"'),
        (' "drupelet-grant"', "", 'does not cover "drupelet-grant"'),
        ('"@path"', '"@path" "@authority"', 'covers "@authority"'),
        ('"@path"', '"@path" "@path"', "twice"),
        ('"@path"', '"@path"  "x"', "RFC 9421"),
        ('"@path"', '"@path";sf', "RFC 9421"),
        ("drupelet=(", "a=(), drupelet=(", "RFC 9421"),
        ('alg="ed25519"', 'alg="rsa-pss-sha512"', "alg"),
        (';alg="ed25519"', "", "parameters are"),
        (';tag="drupelet"', ';tag="other"', "tag"),
        (';tag="drupelet"', ';tag="drupelet";tag="drupelet"', "there twice"),
        (';tag="drupelet"', ';tag="drupelet";expires=1', "strings"),
        (';tag="drupelet"', ';tag="drupelet";other="1"', "parameters are"),
        ("created=1", "created=01", "leading zeros"),
        (f"created={NOW}", 'created="1"', "a number"),
        (KEYID, KEYID[:-1] + ("a" if KEYID[-1] != "a" else "b"), "keyid"),
        (KEYID, KEYID.upper(), "as `drupelet status`"),
        (NONCE.hex(), NONCE.hex()[:-1], "64 hexadecimal"),
        (NONCE.hex(), NONCE.hex()[:-1] + "G", "64 hexadecimal"),
    ],
)
def test_what_is_not_our_profile_is_told(old: str, new: str, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        open_put(_input(a_put(), old, new))


def test_an_idempotency_key_that_is_not_covered_is_refused_and_the_reverse() -> None:
    with pytest.raises(RemoteProtocolError, match="Idempotency-Key"):
        open_put(replace(a_put(), idempotency_key="abc"))
    with pytest.raises(RemoteProtocolError, match="Idempotency-Key"):
        open_put(replace(a_put(idempotency_key="abc"), idempotency_key=None))


def test_what_no_header_can_carry_is_not_signed() -> None:
    for path in ("/a\nb", "", " /a", "/ä"):
        with pytest.raises(ValueError, match="printable"):
            a_put(path=path)
    with pytest.raises(ValueError, match="32 bytes"):
        sign_put(SEED, a_put(), created=1, nonce=b"short")


def test_answers_of_others_and_to_other_requests_are_not_believed() -> None:
    put, digest = a_put(), digest_of(b"7\n")
    said = sign_answer(SEED, put, 200, "application/json", digest)
    verify_answer(KEY, put, 200, "application/json", digest, *said)
    eve = bytes(32)
    others = sign_answer(eve, put, 200, "application/json", digest)
    for callee, about, status, kind, what, signed in (
        (KEY, a_put(path=PATH + "x"), 200, "application/json", digest, said),
        (KEY, put, 201, "application/json", digest, said),
        (KEY, put, 200, "application/cbor", digest, said),
        (KEY, put, 200, "application/json", digest_of(b"8\n"), said),
        (KEY, put, 200, "application/json", digest, others),
        (sodium.ed25519_public(eve), put, 200, "application/json", digest, said),
    ):
        with pytest.raises(RemoteProtocolError):
            verify_answer(callee, about, status, kind, what, *signed)


def test_digests() -> None:
    body = b'{"hello": "world"}\n'
    # RFC 9530, B.1: the same body has these
    sha_256 = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
    sha_512 = (
        "sha-512=:YMAam51Jz/jOATT6/zvHrLVgOYTGFy1d6GJiOHTohq4yP+pgk4vf2aCsyRZOtw8MjkM7iw7yZ/"
        "WkppmM44T3qg==:"
    )
    assert digest_of(body) == sha_256
    for good in (sha_256, sha_512, f"{sha_256}, {sha_512}", f"{sha_512}, {sha_256}"):
        check_digest(good, body)
        with pytest.raises(RemoteProtocolError, match="the body is not"):
            check_digest(good, body + b" ")
    for bad in (
        "",
        "md5=:AA==:",
        sha_256 + ",",
        f"{sha_256}, {sha_256}, {sha_256}",
        sha_256.replace("=:", "="),
        f"{sha_256}, md5=:AA==:",
        sha_256.replace("abDg=", "abDh="),  # bits to spare
    ):
        with pytest.raises(RemoteProtocolError):
            check_digest(bad, body)


@given(st.binary(max_size=200))
def test_byte_sequences(data: bytes) -> None:
    assert read_bytes_field(bytes_field(data)) == data
    for bad in (bytes_field(data)[1:], bytes_field(data)[:-1], " " + bytes_field(data)):
        with pytest.raises(RemoteProtocolError):
            read_bytes_field(bad)
