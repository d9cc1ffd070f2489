"""Junk for proxy pids through a relay: words, also as their sender would have sealed them."""

from __future__ import annotations

import contextlib

import harness

with harness.instrumented():
    from drupelet.errors import RemoteProtocolError
    from drupelet.wire import sodium
    from drupelet.wire.codec import dumps
    from drupelet.wire.frames import split_call
    from drupelet.wire.signing import sign
    from drupelet.wire.words import (
        PREFIX,
        WORD_DOMAIN,
        _key,
        decode_word,
        encode_word,
        id_of,
        is_word,
        word_id,
    )

SEED, SECRET, SALT = bytes(range(32)), bytes(16), b"s" * 16
KEY = sign(SEED, b"", b"").key
HEAD = PREFIX + word_id(SECRET, KEY) + SALT


def one_input(data: bytes) -> None:
    _word(data)
    _word(HEAD + data)
    for text in (data, dumps([data, sign(SEED, WORD_DOMAIN, data).signature])):
        _word(HEAD + sodium.encrypt(_key(SECRET, KEY, SALT), 0, text))


def _word(data: bytes) -> None:
    assert len(id_of(data)) in (0, 16)
    with contextlib.suppress(RemoteProtocolError):
        word = decode_word(data, SECRET, KEY, KEY)
        assert is_word(data)
        assert encode_word(SEED, SECRET, KEY, word, data[len(PREFIX) + 16 :][:16]) == data
        with contextlib.suppress(RemoteProtocolError):
            split_call(word.cast)


if __name__ == "__main__":
    harness.fuzz("words", one_input)
