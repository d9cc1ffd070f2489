"""Junk for calls over HTTP: paths, signatures, digests, bodies, and what relay and node exchange.

What a seed or libFuzzer makes is also put into a PUT that is signed well otherwise.
"""

from __future__ import annotations

from dataclasses import replace

import harness

with harness.instrumented():
    from drupelet.errors import RemoteError, RemoteProtocolError
    from drupelet.wire.codec import loads
    from drupelet.wire.http_calls import (
        AppliedPut,
        answer_to,
        arguments_of,
        decode_answer,
        decode_put,
        encode_answer,
        encode_put,
        path_to,
        split_path,
    )
    from drupelet.wire.http_signatures import (
        SignedPut,
        bytes_field,
        check_digest,
        digest_of,
        open_put,
        read_bytes_field,
        sign_put,
        verify_put,
    )

SEED = bytes(range(32))
_BARE = SignedPut(
    path=path_to("alice", "light", "temp"),
    content_type="application/json",
    content_digest=digest_of(b"[]"),
    grant=bytes_field(b"grant"),
)
_INPUT, _SIGNATURE = sign_put(SEED, _BARE, created=1, nonce=bytes(32))
GOOD = replace(_BARE, signature_input=_INPUT, signature=_SIGNATURE)
FIELDS = ("path", "content_type", "content_digest", "grant", "signature_input", "signature")


def one_input(data: bytes) -> None:
    try:
        applied = decode_put(data)
    except RemoteProtocolError:
        pass
    else:
        assert encode_put(applied) == data
        decode_answer(encode_answer(answer_to(SEED, applied, b"\x01", None)))
    try:
        answer = decode_answer(data)
    except RemoteProtocolError:
        pass
    else:
        assert encode_answer(answer) == data
    text = data.decode("latin-1")
    for name in FIELDS:
        _altered(replace(GOOD, **{name: text}))
    for read in (split_path, read_bytes_field, _digest):
        try:
            read(text)
        except RemoteProtocolError:
            continue
    for content_type in ("application/json", "application/cbor"):
        put = replace(GOOD, content_type=content_type)
        try:
            arguments = arguments_of(AppliedPut(put=put, body=data, wait_ms=1, cbor=False))
        except RemoteError as error:
            assert error.kind == "badarg"
        else:
            assert isinstance(loads(arguments), list)


def _digest(text: str) -> None:
    check_digest(text, b"[]")


def _altered(put: SignedPut) -> None:
    """Nothing but the label of a signature can be another."""
    try:
        opened = open_put(put)
        verify_put(opened)
    except RemoteProtocolError:
        return
    assert opened.hash == open_put(GOOD).hash
    assert (put.path, put.content_digest, put.grant) == (
        GOOD.path,
        GOOD.content_digest,
        GOOD.grant,
    )


if __name__ == "__main__":
    harness.fuzz("http", one_input)
