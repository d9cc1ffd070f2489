"""Key texts: round trip, every single error, every adjacent swap; signatures and their cache."""

from __future__ import annotations

import base64
import random

import pytest

from drupelet.errors import RemoteProtocolError
from drupelet.wire import keys, sodium
from drupelet.wire.keys import VerifiedKeys, key_from_text, key_prefix, key_to_text

ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
KEY = bytes(range(32))
TEXT = key_to_text(KEY)
SEED = 20_261_121
print(f"seed {SEED}")


def test_the_text_of_a_known_key() -> None:
    """Written down once: keys that people have noted must read alike for ever."""
    assert TEXT == "aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypqwg7fq2"
    assert TEXT[:52] == base64.b32encode(KEY).decode().lower().rstrip("=")
    assert key_prefix(TEXT) == "aaaqeayeaudaocaj"


def test_round_trip() -> None:
    generator = random.Random(SEED)
    for key in (bytes(32), b"\xff" * 32, *(generator.randbytes(32) for _ in range(300))):
        text = key_to_text(key)
        assert len(text) == 58
        assert set(text) <= set(ALPHABET)
        assert key_from_text(text) == key


def test_the_check_is_bech32m() -> None:
    """BIP 350's own example, a1lqfn3a: prefix "a", no data, check characters l q f n 3 a."""
    charset = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    values = [charset.index(character) for character in "lqfn3a"]
    assert keys._polymod([ord("a") >> 5, 0, ord("a") & 31, *values]) == keys._CONSTANT


def test_any_wrong_character_is_found() -> None:
    for place, right in enumerate(TEXT):
        for wrong in ALPHABET.replace(right, ""):
            with pytest.raises(ValueError, match="typing error"):
                key_from_text(TEXT[:place] + wrong + TEXT[place + 1 :])


def test_any_adjacent_swap_is_found() -> None:
    generator = random.Random(SEED)
    texts = [TEXT, *(key_to_text(generator.randbytes(32)) for _ in range(50))]
    swap_count = 0
    for text in texts:
        for place in range(57):
            first, second = text[place], text[place + 1]
            if first != second:
                swap_count += 1
                with pytest.raises(ValueError, match="typing error"):
                    key_from_text(text[:place] + second + first + text[place + 2 :])
    assert swap_count > 2_500


def test_people_write_keys_in_their_own_way() -> None:
    groups = "-".join(TEXT[start : start + 8] for start in range(0, 58, 8))
    for written in (TEXT.upper(), f"  {TEXT}\r\n", groups, groups.replace("-", " ").upper()):
        assert key_from_text(written) == KEY


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 58 characters, this has 0"),
        (TEXT[:-1], "this has 57; copy it whole"),
        (TEXT + "a", "this has 59"),
        (f"key   {TEXT}", "this has 61; copy it without the words beside it"),
        ("0" + TEXT[1:], "character 1 of the key is '0'.*is it o"),
        (TEXT[:4] + "1" + TEXT[5:], "character 5 .* is it i or l"),
        (TEXT[:-1] + "8", "character 58 .* is it b"),
        ("=" + TEXT[1:], "letters a to z and digits 2 to 7"),
        ("\u0131" + TEXT[1:], "which keys do not contain"),
        ("\u0130" + TEXT[1:], "which keys do not contain"),
        ("x" * 100_000, "this has 100000"),
    ],
)
def test_errors_teach(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        key_from_text(text)


def test_spare_bits_must_be_zero() -> None:
    """One key has one text, or two grants could name the same holder differently."""
    values = [ALPHABET.index(character) for character in TEXT[:52]]
    values[51] |= 1
    check = keys._polymod(keys._PREFIX_VALUES + values + [0] * 6) ^ keys._CONSTANT
    values += [check >> shift & 31 for shift in range(25, -1, -5)]
    with pytest.raises(ValueError, match="not one that Drupelet writes"):
        key_from_text("".join(ALPHABET[value] for value in values))


def test_key_lengths() -> None:
    for length in (0, 31, 33):
        with pytest.raises(ValueError, match="32 bytes"):
            key_to_text(bytes(length))


def test_static_signatures() -> None:
    identity = sodium.ed25519_public(KEY)
    signature = keys.sign_static(KEY, b"s" * 32)
    keys.verify_static(identity, b"s" * 32, signature)
    with pytest.raises(RemoteProtocolError):
        keys.verify_static(identity, b"t" * 32, signature)
    with pytest.raises(RemoteProtocolError):  # the domain is part of what is signed
        sodium.verify(identity, b"s" * 32, signature)


def test_verified_keys_are_remembered_up_to_a_bound() -> None:
    identity = sodium.ed25519_public(KEY)
    cache = VerifiedKeys(size_max=2)
    statics = [bytes((number,)) * 32 for number in range(3)]
    signatures = [keys.sign_static(KEY, static) for static in statics]

    def check(number: int) -> None:
        cache.verify(identity, statics[number], signatures[number])

    for number in (0, 0, 1, 0):
        check(number)
    assert (cache.verify_count, cache.hit_count, len(cache)) == (2, 2, 2)
    check(2)  # forgets 1, the least recently used
    assert len(cache) == 2
    check(0)
    assert (cache.verify_count, cache.hit_count) == (3, 3)
    check(1)
    assert cache.verify_count == 4


def test_a_wrong_signature_is_never_remembered() -> None:
    identity = sodium.ed25519_public(KEY)
    cache = VerifiedKeys()
    signature = keys.sign_static(KEY, b"s" * 32)
    cache.verify(identity, b"s" * 32, signature)
    for arguments in (
        (identity, b"t" * 32, signature),
        (identity, b"s" * 32, bytes(64)),
        (bytes(32), b"s" * 32, signature),
        (identity + b"s", b"s" * 31, signature),
        (identity, b"s" * 33, signature[1:]),
        (identity, b"s" * 32, signature[:-1]),
    ):
        for _ in range(2):
            with pytest.raises(RemoteProtocolError):
                cache.verify(*arguments)
    assert len(cache) == 1


def test_what_a_person_names() -> None:
    key = bytes(range(32))
    assert keys.key_or_id(keys.key_to_text(key)) == key
    assert keys.key_or_id("ab" * 16) == b"\xab" * 16
    for other in ("kitchen", "ab" * 15, "", "zz" * 16):
        assert keys.key_or_id(other) == other
