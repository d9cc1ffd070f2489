"""Codes, messages and invitations of pairing."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.errors import RemoteProtocolError
from drupelet.wire import pairing
from drupelet.wire.codec import dumps
from drupelet.wire.cpace import CPace
from drupelet.wire.limits import (
    GRANT_ADDRESSES_MAX,
    GRANT_FILE_CHARS_MAX,
    INVITATION_CHARS_MAX,
    PAIR_MESSAGE_BYTES_MAX,
    RELAY_URL_CHARS_MAX,
)
from drupelet.wire.pairing import Handed, Invitation

SHARE, PROOF, KEY = b"s" * 32, b"p" * 64, b"k" * 32
COOKIE = Handed(proof=PROOF, cookie="c" * 256, environment="prod")
GRANT = Handed(proof=PROOF, grant="g" * GRANT_FILE_CHARS_MAX)


def test_codes_have_eight_letters_that_nobody_mistakes() -> None:
    assert len(pairing.ALPHABET) == 24
    assert not set("IO01") & set(pairing.ALPHABET)
    assert pairing.make_code(bytes(16)) == "AAAAAAAA"
    assert pairing.make_code((24**8 - 1).to_bytes(16, "big")) == "ZZZZZZZZ"
    counts = Counter("".join(pairing.make_code(dumps(n)[:1] * 8 + n.to_bytes(8, "big"))
                             for n in range(3_000)))  # fmt: skip
    assert set(counts) == set(pairing.ALPHABET)


@given(st.binary(min_size=16, max_size=16))
def test_a_code_is_read_as_it_is_shown(entropy: bytes) -> None:
    code = pairing.make_code(entropy)
    shown = pairing.show_code(code)
    assert len(shown) == 9
    for typed in (code, shown, shown.lower(), f" {' '.join(code)} "):
        assert pairing.code_from_text(typed) == code


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("ABCDEFG", "8 letters, and this has 7"),
        ("ABCDEFGHJ", "has 9"),
        ("", "has 0"),
        ("ABCDEFGO", "'O'"),
        ("ABCDEFG1", "'1'"),
        ("ABCDEFGÄ", "'Ä'"),
    ],
)
def test_what_is_no_code_is_told(typed: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pairing.code_from_text(typed)


def test_messages_there_and_back() -> None:
    assert pairing.decode_start(pairing.encode_start(SHARE)) == SHARE
    assert pairing.decode_share(pairing.encode_share(SHARE)) == SHARE
    assert pairing.decode_proof(pairing.encode_proof(PROOF)) == PROOF
    for handed in (COOKIE, GRANT):
        assert pairing.decode_handed(pairing.encode_handed(handed)) == handed
    assert len(pairing.encode_handed(GRANT)) <= PAIR_MESSAGE_BYTES_MAX
    assert "cccc" not in repr(COOKIE)
    assert "gggg" not in repr(GRANT)


@pytest.mark.parametrize(
    ("decode", "value"),
    [
        (pairing.decode_start, {"share": SHARE}),
        (pairing.decode_start, {"share": SHARE + b"s", "version": 1}),
        (pairing.decode_start, {"share": SHARE, "version": True}),
        (pairing.decode_start, {"more": 1, "share": SHARE, "version": 1}),
        (pairing.decode_share, {"share": "s" * 32}),
        (pairing.decode_share, {"more": 1, "share": SHARE}),
        (pairing.decode_proof, {"proof": PROOF[:-1]}),
        (pairing.decode_proof, [PROOF]),
        (pairing.decode_handed, {"proof": PROOF}),
        (pairing.decode_handed, {"grant": "", "proof": PROOF}),
        (pairing.decode_handed, {"grant": "g" * (GRANT_FILE_CHARS_MAX + 1), "proof": PROOF}),
        (pairing.decode_handed, {"cookie": "c" * 257, "environment": "prod", "proof": PROOF}),
        (pairing.decode_handed, {"cookie": "c", "environment": "x", "proof": PROOF}),
        (pairing.decode_handed, {"cookie": "c", "environment": "dev", "proof": PROOF, "z": 1}),
    ],
)
def test_other_shapes_are_refused(decode: object, value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(dumps(value))  # type: ignore[operator]
    for data in (None, "text", b"", b"\xff", bytes(PAIR_MESSAGE_BYTES_MAX + 1)):
        with pytest.raises(RemoteProtocolError):
            decode(data)  # type: ignore[operator]


def test_another_version_is_named() -> None:
    with pytest.raises(pairing.OtherVersion, match="version 2, and this node has 1"):
        pairing.decode_start(dumps({"something": "else", "version": 2}))


def test_an_invitation() -> None:
    addresses = tuple((f"192.168.100.{n}", 4_370) for n in range(GRANT_ADDRESSES_MAX))
    url = "https://" + "r" * (RELAY_URL_CHARS_MAX - 8)
    full = Invitation(code="ABCDEFGH", key=KEY, name="a" * 63, addresses=addresses, relay=url)
    text = pairing.encode_invitation(full)
    assert text.startswith("drupelet-pair:")
    assert len(text) < INVITATION_CHARS_MAX
    assert pairing.decode_invitation(f" {text}\n") == full
    assert "ABCDEFGH" not in repr(full)


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 2},
        {"key": b"k"},
        {"code": "ABC"},
        {"name": ""},
        {"addresses": [["h", 0]]},
        {"addresses": [["", 1]]},
        {"relay": "r" * (RELAY_URL_CHARS_MAX + 1)},
        {"relay": "\x1b[2J"},
        {"relay": None},
        {"addresses": [["h", 1]] * (GRANT_ADDRESSES_MAX + 1)},
        {"more": 1},
    ],
)
def test_other_invitations_are_refused(fields: dict[str, object]) -> None:
    import base64

    good = {"addresses": [["h", 1]], "code": "ABCDEFGH", "key": KEY, "name": "a", "version": 1}
    good["relay"] = ""
    body = base64.urlsafe_b64encode(dumps(good)).decode()
    assert pairing.decode_invitation(pairing.PREFIX + body).name == "a"
    body = base64.urlsafe_b64encode(dumps(good | fields)).decode()
    with pytest.raises(ValueError):
        pairing.decode_invitation(pairing.PREFIX + body)


@pytest.mark.parametrize("body", ["", "!!!", "AAAA", "A" * (INVITATION_CHARS_MAX + 1)])
def test_cut_off_invitations_are_refused(body: str) -> None:
    with pytest.raises(ValueError, match="cut off|at most"):
        pairing.decode_invitation(pairing.PREFIX + body)


def test_both_with_the_code_have_one_key_and_others_have_not() -> None:
    def run(code: str, session: bytes, own: bytes, *, initiator: bool) -> CPace:
        return pairing.begin(
            code, session=session, own_key=own, private=own[::-1], initiator=initiator
        )

    for code, session, named in (("ABCDEFGH", b"h", b"b"), ("ABCDEFGJ", b"h", b"b"),
                                 ("ABCDEFGH", b"i", b"b"), ("ABCDEFGH", b"h", b"c")):  # fmt: skip
        waits = run("ABCDEFGH", b"h" * 32, b"a" * 31 + b"1", initiator=False)
        joins = run(code, session * 32, b"b" * 31 + b"2", initiator=True)
        waits.receive(joins.public, named * 31 + b"2")
        joins.receive(waits.public, b"a" * 31 + b"1")
        good = (code, session, named) == ("ABCDEFGH", b"h", b"b")
        assert waits.proves(joins.proof()) is good
        assert joins.proves(waits.proof()) is good


@given(st.binary(max_size=200), st.text(max_size=200))
def test_any_bytes_are_refused_or_read(data: bytes, text: str) -> None:
    decoders = (
        pairing.decode_start,
        pairing.decode_share,
        pairing.decode_proof,
        pairing.decode_handed,
    )
    for decode in decoders:
        with contextlib.suppress(RemoteProtocolError):
            decode(data)
    for read in (pairing.code_from_text, pairing.decode_invitation):
        with contextlib.suppress(ValueError):
            read(text)
