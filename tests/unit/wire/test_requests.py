"""Requests: sealed for one, signed by one, and nothing of it can be altered or exchanged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl import bindings

from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.wire import requests, sodium
from drupelet.wire.codec import dumps, loads
from drupelet.wire.limits import GRANT_BYTES_MAX, REQUEST_BYTES_MAX
from drupelet.wire.requests import (
    Reply,
    SignedRequest,
    encode_reply,
    encode_request,
    open_reply,
    open_request,
    request_hash,
    stale_error,
    stale_maybe_ran,
    stale_token,
    verify_request,
)

ALICE, BOB, EVE = (bytes([number]) * 32 for number in (1, 2, 3))
KEY = {seed: sodium.ed25519_public(seed) for seed in (ALICE, BOB, EVE)}
BOOT, REPLY_TO = b"boot" * 8, b"mine" * 8
BOOT_KEY, REPLY_KEY = sodium.x25519_public(BOOT), sodium.x25519_public(REPLY_TO)
FRESH = b"once" * 8
REQUEST = SignedRequest(
    callee=KEY[ALICE],
    token=b"t" * 16,
    id=b"i" * 16,
    grant=b"a grant",
    target="kitchen/boil",
    arguments=dumps([1.5]),
    timeout_ms=5_000,
    reply_key=REPLY_KEY,
)
MARK = st.binary(min_size=16, max_size=16)


def sealed(request: SignedRequest = REQUEST, seed: bytes = BOB) -> bytes:
    return sodium.seal(FRESH, BOOT_KEY, encode_request(seed, request))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.builds(
        replace,
        st.just(REQUEST),
        token=MARK,
        id=MARK,
        grant=st.binary(max_size=500),
        arguments=st.binary(max_size=500),
        timeout_ms=st.integers(1, 86_400_000),
        idempotency_key=st.none() | MARK,
    )
)
def test_what_is_sent_comes(request: SignedRequest) -> None:
    signed = encode_request(BOB, request)
    opened = open_request(BOOT, BOOT_KEY, sodium.seal(FRESH, BOOT_KEY, signed))
    assert opened.request == request
    assert (opened.signed, opened.hash) == (signed, request_hash(signed))
    verify_request(opened, KEY[BOB])
    with pytest.raises(RemoteProtocolError):
        verify_request(opened, KEY[EVE])


def test_it_is_a_cose_sign1() -> None:
    """RFC 9052, 4.2 and 4.4: another COSE library can check it."""
    protected, unprotected, payload, signature = loads(encode_request(BOB, REQUEST))
    assert (loads(protected), unprotected) == ({1: -8}, {})
    to_be_signed = dumps(["Signature1", protected, b"drupelet/request/1", payload])
    bindings.crypto_sign_open(signature + to_be_signed, KEY[BOB])


def test_no_byte_can_be_changed_or_cut() -> None:
    data = sealed()
    for place in range(0, len(data), 3):
        changed = bytearray(data)
        changed[place] ^= 0x10
        with pytest.raises(RemoteProtocolError):
            open_request(BOOT, BOOT_KEY, bytes(changed))
        with pytest.raises(RemoteProtocolError):
            open_request(BOOT, BOOT_KEY, data[:place])


def test_only_the_callee_opens_it() -> None:
    other = b"evil" * 8
    with pytest.raises(RemoteProtocolError, match="does not open"):
        open_request(other, sodium.x25519_public(other), sealed())


def test_who_carries_it_cannot_alter_a_field_and_sign_nothing() -> None:
    signed = loads(encode_request(BOB, REQUEST))
    payload = loads(signed[2])
    for key, value in ((2, b"T" * 16), (5, "kitchen/wipe"), (6, dumps([9.9])), (7, 60_000)):
        altered = dumps([signed[0], {}, dumps(payload | {key: value}), signed[3]])
        opened = open_request(BOOT, BOOT_KEY, sodium.seal(FRESH, BOOT_KEY, altered))
        with pytest.raises(RemoteProtocolError, match="verify"):
            verify_request(opened, KEY[BOB])


MALFORMED: list[tuple[int, object]] = [
    (1, b"x"), (1, None), (2, b"short"), (2, "t" * 16), (3, b""), (4, bytes(GRANT_BYTES_MAX + 1)),
    (5, "kitchen"), (5, "a/b/c"), (5, b"a/b"), (5, "k/" + "x" * 300), (7, 0), (7, True), (7, -1),
    (7, 86_400_001), (8, b"k"), (9, b"short"), (9, "text"), (10, 1),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), MALFORMED)
def test_fields_are_checked_before_signatures(key: int, value: object) -> None:
    protected, _, payload, signature = loads(encode_request(BOB, REQUEST))
    fields = loads(payload) | {key: value}
    if value is None:
        del fields[key]
    data = sodium.seal(FRESH, BOOT_KEY, dumps([protected, {}, dumps(fields), signature]))
    with pytest.raises(RemoteProtocolError, match=r"request|malformed"):
        open_request(BOOT, BOOT_KEY, data)


@pytest.mark.parametrize(
    "signed",
    [
        b"",
        dumps([]),
        dumps([dumps({1: -7}), {}, b"", bytes(64)]),
        dumps([dumps({1: -8}), {4: b"k"}, b"", bytes(64)]),
        dumps([dumps({1: -8}), {}, b"", bytes(63)]),
        dumps([dumps({1: -8}), {}, dumps([1]), bytes(64)]),
        dumps("x"),
    ],
)
def test_what_is_no_request(signed: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        open_request(BOOT, BOOT_KEY, sodium.seal(FRESH, BOOT_KEY, signed))


def test_size_at_the_maximum_and_one_above() -> None:
    most = REQUEST_BYTES_MAX - GRANT_BYTES_MAX - 1_024
    grant = bytes(GRANT_BYTES_MAX)
    full = replace(REQUEST, arguments=bytes(most), grant=grant, target="k/" + "f" * 253)
    assert open_request(BOOT, BOOT_KEY, sealed(full)).request == full
    with pytest.raises(ValueError, match="direct link"):
        encode_request(BOB, replace(REQUEST, arguments=bytes(most + 1)))
    with pytest.raises(RemoteProtocolError, match="at most"):
        open_request(BOOT, BOOT_KEY, bytes(REQUEST_BYTES_MAX + 49))


def test_a_reply_is_for_one_request_from_one_callee() -> None:
    name = request_hash(encode_request(BOB, REQUEST))
    for reply in (
        Reply(request_hash=name, value=dumps("hot")),
        Reply(request_hash=name, error=dumps([2, True])),
    ):
        data = sodium.seal(FRESH, REPLY_KEY, encode_reply(ALICE, reply))
        assert open_reply(REPLY_TO, REPLY_KEY, data, KEY[ALICE]) == reply
        with pytest.raises(RemoteProtocolError, match="verify"):
            open_reply(REPLY_TO, REPLY_KEY, data, KEY[EVE])
        with pytest.raises(RemoteProtocolError, match="open"):
            open_reply(BOOT, BOOT_KEY, data, KEY[ALICE])


def test_a_request_is_no_reply_and_a_reply_no_request() -> None:
    request = sodium.seal(FRESH, REPLY_KEY, encode_request(ALICE, REQUEST))
    with pytest.raises(RemoteProtocolError, match="verify"):
        open_reply(REPLY_TO, REPLY_KEY, request, KEY[ALICE])
    reply = encode_reply(ALICE, Reply(request_hash=bytes(32), value=b"\xf6"))
    with pytest.raises(RemoteProtocolError, match="malformed"):
        open_request(BOOT, BOOT_KEY, sodium.seal(FRESH, BOOT_KEY, reply))


@pytest.mark.parametrize(
    "payload", [{}, {1: bytes(31), 2: b""}, {1: bytes(32)}, {1: bytes(32), 2: b"", 3: b""}, [1]]
)
def test_what_is_no_reply(payload: object) -> None:
    signed = requests._sign(ALICE, requests.REPLY_DOMAIN, dumps(payload))
    with pytest.raises(RemoteProtocolError, match="malformed"):
        open_reply(REPLY_TO, REPLY_KEY, sodium.seal(FRESH, REPLY_KEY, signed), KEY[ALICE])


def test_a_reply_has_a_value_or_an_error() -> None:
    for reply in (
        Reply(request_hash=bytes(32)),
        Reply(request_hash=bytes(32), value=b"", error=b""),
    ):
        with pytest.raises(ValueError, match="a value or an error"):
            encode_reply(ALICE, reply)


def test_the_seal_is_libsodiums() -> None:
    assert sodium.open_sealed(BOOT, BOOT_KEY, bindings.crypto_box_seal(b"x", BOOT_KEY)) == b"x"
    mine = sodium.seal(FRESH, BOOT_KEY, b"x")
    assert bindings.crypto_box_seal_open(mine, BOOT_KEY, BOOT) == b"x"
    with pytest.raises(RemoteProtocolError, match="low order"):
        sodium.seal(FRESH, bytes(32), b"x")
    with pytest.raises(RemoteProtocolError, match="malformed key"):
        sodium.seal(FRESH, b"short", b"x")
    with pytest.raises(RemoteProtocolError, match="too short"):
        sodium.open_sealed(BOOT, BOOT_KEY, bytes(47))
    with pytest.raises(LocalProtocolError):
        sodium.seal(b"short", BOOT_KEY, b"x")


def test_an_old_token_is_told_with_the_newest() -> None:
    for maybe_ran in (False, True):
        error = stale_error(b"t" * 16, maybe_ran=maybe_ran)
        assert stale_token(error) == b"t" * 16
        assert stale_maybe_ran(error) is maybe_ran
    for other in ([1, "undef", "", ""], [2, True], [False, b"t" * 16], {}, [0, "t"]):
        assert stale_token(dumps(other)) is None
    for broken in (dumps([0, b"short"]), b"\xff"):
        with pytest.raises(RemoteProtocolError):
            stale_token(broken)
