"""PUTs between a relay and a node: bytes both ways, what a body says, which failure is what."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.errors import (
    CallError,
    NoConnection,
    NotPermitted,
    RateLimited,
    RemoteError,
    RemoteProtocolError,
    Revoked,
    Timeout,
    error_to_fields,
)
from drupelet.wire import sodium
from drupelet.wire.codec import dumps, loads
from drupelet.wire.http_calls import (
    CBOR,
    JSON,
    UNSIGNED,
    AppliedPut,
    answer_to,
    arguments_of,
    check_body,
    decode_answer,
    decode_put,
    encode_answer,
    encode_put,
    is_cbor,
    once_key,
    path_to,
    split_path,
)
from drupelet.wire.http_signatures import (
    SignedPut,
    bytes_field,
    check_digest,
    digest_of,
    sign_put,
    verify_answer,
)
from drupelet.wire.idempotency import key_bytes
from drupelet.wire.ids import Pid
from drupelet.wire.keys import key_to_text
from drupelet.wire.limits import (
    APPLY_BODY_BYTES_MAX,
    APPLY_GRANT_CHARS_MAX,
    APPLY_S_MAX,
    APPLY_VALUE_BYTES_MAX,
    GRANT_BYTES_MAX,
)
from drupelet.wire.requests import stale_error

SEED = bytes(range(32))
KEY = sodium.ed25519_public(SEED)
KEYID = key_to_text(KEY)


def applied(body: bytes = b"[1]", content_type: str = JSON, **fields: Any) -> AppliedPut:
    put = SignedPut(
        path=path_to("alice", "light", "temp"),
        content_type=content_type,
        content_digest=digest_of(body),
        grant=bytes_field(b"grant"),
    )
    signature_input, signature = sign_put(SEED, put, created=1, nonce=bytes(32))
    put = replace(put, signature_input=signature_input, signature=signature)
    return AppliedPut(put=replace(put, **fields), body=body, wait_ms=1_000, cbor=False)


def test_paths() -> None:
    for node in ("alice", "alice@192.168.1.7", KEYID):
        assert split_path(f"/apply/{node}/light/Oven.heat") == (node, "light", "Oven.heat")
    for bad in (
        "",
        "/apply/alice/light",
        "/apply/alice/light/",
        "/apply//light/temp",
        "/apply/alice/light/temp/",
        "/apply/alice/light/temp/x",
        "/applyx/alice/light/temp",
        "apply/alice/light/temp",
        "/apply/alice/light/te%6dp",
        "/apply/alice/light/tämp",
        "/apply/alice/../temp",
        "/apply/alice/light/" + "t" * 64,
        "/apply/" + "a" * 600 + "/light/temp",
    ):
        with pytest.raises(RemoteProtocolError, match="/apply/NODE/MISSION/FUNCTION"):
            split_path(bad)


def test_media_types() -> None:
    for json_type in (JSON, "Application/JSON", "application/json; charset=utf-8"):
        assert not is_cbor(json_type)
    assert is_cbor(CBOR)
    for bad in ("", "text/plain", "application/json; charset=latin-1", "application/jsonx", "*/*"):
        with pytest.raises(RemoteProtocolError, match="application/cbor"):
            is_cbor(bad)


def test_a_put_survives_the_way_and_what_is_more_does_not() -> None:
    for each in (applied(), applied(idempotency_key="k"), applied(b"\x80", CBOR)):
        assert decode_put(encode_put(each)) == each
    most = replace(applied(), body=b"x" * APPLY_BODY_BYTES_MAX, wait_ms=int(APPLY_S_MAX * 1_000))
    assert decode_put(encode_put(most)) == most
    grant = bytes_field(bytes(GRANT_BYTES_MAX))
    assert len(grant) <= APPLY_GRANT_CHARS_MAX
    assert decode_put(encode_put(applied(grant=grant))).put.grant == grant
    for bad in (
        replace(most, body=b"x" * (APPLY_BODY_BYTES_MAX + 1)),
        replace(most, wait_ms=int(APPLY_S_MAX * 1_000) + 1),
        replace(most, wait_ms=0),
        replace(most, wait_ms=True),
        replace(most, cbor=1),  # type: ignore[arg-type]
        applied(path="/apply/\n/light/temp"),
        applied(path=""),
        applied(signature=""),
        applied(signature="a" * 1_025),
        applied(grant="g" * (APPLY_GRANT_CHARS_MAX + 1)),
        applied(idempotency_key=""),
    ):
        with pytest.raises(RemoteProtocolError, match="malformed PUT"):
            decode_put(encode_put(bad))
    parts = loads(encode_put(applied()))
    assert isinstance(parts, list)
    for place in (0, 1, 2, 3, 5, 6, 7, 8, 9):
        with pytest.raises(RemoteProtocolError, match="malformed PUT"):
            decode_put(dumps([*parts[:place], None, *parts[place + 1 :]]))
    with pytest.raises(RemoteProtocolError, match="263169 bytes"):
        decode_put(bytes(263_169))


@given(st.binary(max_size=200))
def test_junk_for_either_end_is_refused(junk: bytes) -> None:
    for decode in (decode_put, decode_answer):
        with pytest.raises(RemoteProtocolError):
            decode(junk)


# -- arguments


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ("[]", []),
        (' [1, "a", null, true, 0.5]\n', [1, "a", None, True, 0.5]),
        ('[{"$bytes": "AAE="}, {"$float": "inf"}]', [b"\0\1", math.inf]),
        ('[{"b": 1, "a": [[]]}]', [{"b": 1, "a": [[]]}]),
        ('["\\u00e4ä"]', ["ää"]),
    ],
)
def test_arguments_in_json(body: str, arguments: list[object]) -> None:
    assert loads(arguments_of(applied(body.encode()))) == arguments


def test_arguments_in_cbor() -> None:
    body = dumps([1, b"x"])
    assert arguments_of(applied(body, CBOR)) == body


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "Expecting value"),
        (b"{}", "an array of arguments"),
        (b"1", "an array of arguments"),
        (b"[1] 2", "Extra data"),
        (b"[NaN]", "NaN is not JSON"),
        (b'[{"a": 1, "a": 2}]', "twice"),
        (b'[{"$pid": "<a.1.2>"}]', "not a form"),
        (b"\xff", "utf-8"),
        (b"[" * 1_000 + b"]" * 1_000, "too deep"),
        (b"[" * 700 + b"]" * 700, "too deep"),
        (b"[" * 100 + b"]" * 100, "deep"),
        (b"[" + b"9" * 30 + b"]", "beyond 64 bits"),
        (b"[" + b"9" * 5_000 + b"]", "digits"),
        (b'["\\ud800"]', "surrogate"),
    ],
)
def test_a_body_that_is_no_arguments_is_told(body: bytes, words: str) -> None:
    with pytest.raises(RemoteError, match=words) as caught:
        arguments_of(applied(body))
    assert caught.value.kind == "badarg"


def test_a_body_that_is_no_cbor_is_told() -> None:
    for body in (b"", b"\xff", dumps({"a": 1}), dumps([1]) + b"\0"):
        with pytest.raises(RemoteError) as caught:
            arguments_of(applied(body, CBOR))
        assert caught.value.kind == "badarg"


@given(st.binary(max_size=100))
def test_any_body_is_arguments_or_badarg(body: bytes) -> None:
    for content_type in (JSON, CBOR):
        try:
            assert isinstance(loads(arguments_of(applied(body, content_type))), list)
        except RemoteError as error:
            assert error.kind == "badarg"


def test_the_body_is_the_one_of_the_digest() -> None:
    check_body(applied())
    with pytest.raises(RemoteProtocolError, match="the body is not"):
        check_body(replace(applied(), body=b"[2]"))


def test_idempotency_keys_of_any_form_have_16_bytes() -> None:
    assert len({once_key("a"), once_key("b"), once_key('"a"')}) == 3
    assert once_key("order-17") == key_bytes("order-17")  # as `drupelet call --once order-17`
    assert all(len(once_key(text)) == 16 for text in ("a", "x" * 1_000))


# -- answers

ERRORS: list[tuple[CallError, int]] = [
    (NotPermitted(), 403),
    (Revoked(), 403),
    (RateLimited(2.1), 429),
    (Timeout(True), 504),
    (NoConnection("no_such_node"), 404),
    (NoConnection("down", True), 502),
    (NoConnection("overloaded"), 503),
    (RemoteError("badarg", "two arguments are missing"), 422),
    (RemoteError("replayed", ""), 409),
    (RemoteError(UNSIGNED, ""), 401),
    (RemoteError("ValueError", "no"), 500),
]


def answered(each: AppliedPut, value: bytes | None, error: bytes | None) -> tuple[int, object]:
    """Status and value of an answer, after the way, its signature good."""
    answer = decode_answer(encode_answer(answer_to(SEED, each, value, error)))
    verify_answer(
        KEY,
        each.put,
        answer.status,
        answer.content_type,
        answer.content_digest,
        answer.signature_input,
        answer.signature,
    )
    check_digest(answer.content_digest, answer.body)
    if answer.content_type == CBOR:
        return answer.status, loads(answer.body)
    return answer.status, json.loads(answer.body)


@pytest.mark.parametrize(("error", "status"), ERRORS, ids=str)
def test_each_failure_has_its_status(error: CallError, status: int) -> None:
    fields = dumps(error_to_fields(error))
    for each in (applied(), replace(applied(), cbor=True)):
        code, document = answered(each, None, fields)
        assert code == status and isinstance(document, dict)
        assert document["error"]["message"] is not None
        name = error.kind if isinstance(error, RemoteError) else type(error).__name__
        assert document["error"]["kind"] == name
    answer = answer_to(SEED, applied(), None, fields)
    assert answer.retry_after_s == (3 if status == 429 else 0)


@pytest.mark.parametrize("maybe_ran", [False, True])
def test_an_old_token_is_401_with_the_newest(maybe_ran: bool) -> None:
    error = stale_error(b"n" * 16, maybe_ran=maybe_ran)
    status, document = answered(applied(), None, error)
    assert document["error"]["maybe_ran"] is maybe_ran  # type: ignore[index, call-overload]
    assert ("look first" in str(document)) is maybe_ran
    assert status == 401 and isinstance(document, dict)
    assert document["error"]["kind"] == "stale"
    assert document["error"]["token"] == (b"n" * 16).hex()
    assert "sign again" in document["error"]["message"]


def test_values_in_json_and_in_cbor() -> None:
    value = {"t": 20.5, "raw": b"\0"}
    assert answered(applied(), dumps(value), None) == (
        200,
        {"t": 20.5, "raw": {"$bytes": "AA=="}},
    )
    assert answered(replace(applied(), cbor=True), dumps(value), None) == (200, value)
    assert answered(applied(), dumps(Pid("a", 1, 2)), None) == (200, {"$pid": "<a.1.2>"})


def test_a_value_at_the_maximum_and_one_above() -> None:
    most = dumps("x" * (APPLY_VALUE_BYTES_MAX - 3))
    assert len(most) == APPLY_VALUE_BYTES_MAX
    assert answered(applied(), most, None)[0] == 200
    bits = dumps(b"\0" * (APPLY_VALUE_BYTES_MAX - 3))
    assert answered(applied(), bits, None)[0] == 200
    worst = dumps("\0" * (APPLY_VALUE_BYTES_MAX - 3))  # six letters each
    assert answered(applied(), worst, None)[0] == 500
    assert answered(replace(applied(), cbor=True), worst, None)[0] == 200
    many = dumps([-1] * (APPLY_VALUE_BYTES_MAX - 3))
    assert answered(applied(), many, None)[0] == 200
    status, document = answered(applied(), dumps("x" * (APPLY_VALUE_BYTES_MAX - 2)), None)
    assert status == 500 and isinstance(document, dict)
    assert document["error"]["kind"] == "too_large" and "it ran" in document["error"]["message"]


def test_bytes_of_a_mission_that_are_no_value_are_told() -> None:
    status, document = answered(applied(), b"\xff", None)
    assert status == 500 and isinstance(document, dict)
    assert document["error"]["kind"] == "malformed"


def test_malformed_answers() -> None:
    good = loads(encode_answer(answer_to(SEED, applied(), dumps(1), None)))
    assert isinstance(good, list)
    for place, junk in (
        (0, 100),
        (0, 600),
        (0, True),
        (1, "text/html"),
        (2, "text"),
        (3, -1),
        (3, True),
        (4, "a\nb"),
        (5, "ä"),
        (5, ""),
        (5, "x" * 1_025),
    ):
        bad = [*good]
        bad[place] = junk
        with pytest.raises(RemoteProtocolError, match="malformed answer"):
            decode_answer(dumps(bad))
    with pytest.raises(RemoteProtocolError, match="malformed answer"):
        decode_answer(dumps([*good, 1]))
    with pytest.raises(RemoteProtocolError, match="263169 bytes"):
        decode_answer(bytes(263_169))
