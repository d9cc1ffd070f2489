"""Words: messages to proxy pids, and about them, between two nodes that only a relay joins.

Decides the bytes. What a word says is what a CAST says on a stranger's link
(`services/proxies.py`); whether it is fresh, `core/words.py` decides.

    word = "drupelet/word/1\\0"  id  salt  ciphertext
    ciphertext = ChaCha20-Poly1305 of CBOR [content, signature], key HMAC-SHA256(secret, to, salt)
    content = {1: recipient's key, 2: the sender's boot, 3: number, 4: the CAST's body}

- **A proxy's own 16 bytes are the secret** that both have: they came sealed, in a request or a
  reply, and are gone with the proxy. So a word needs no other key, and what was said through a
  proxy cannot be read by who gets the keys of a node later.
- The signature by the sender's identity says who it is, also when others learned the secret.
- `id`, a hash, says which proxy it is: the relay sees how many words go through one, and no more.
- Each word has a key of its own, by its salt, so that no nonce can come twice.

References: RFC 8439; Signal's message keys, one a message.
Rejected: sealing to a boot key (who is called knows no such key of its caller's; asking the relay
would show it who may call whom).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.wire import sodium
from drupelet.wire.codec import dumps, loads_canonical
from drupelet.wire.ids import NUMBER_MAX, PROXY_SECRET_BYTES
from drupelet.wire.limits import WORD_BYTES_MAX
from drupelet.wire.signing import Signed, sign, verify
from drupelet.wire.sodium import SIGNATURE_BYTES

WORD_DOMAIN: Final = b"drupelet/word/1"
PREFIX: Final = WORD_DOMAIN + b"\0"
ID_BYTES: Final = 16
BOOT_BYTES: Final = 16
SALT_BYTES: Final = 16
_HEAD_BYTES: Final = len(PREFIX) + ID_BYTES + SALT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """`boot`: 16 random bytes of the sender's start; `number` rises within it."""

    boot: bytes
    number: int
    cast: bytes


def is_word(data: bytes) -> bool:
    """Else it is a sealed request, which begins with random bytes."""
    return data.startswith(PREFIX)


def id_of(data: bytes) -> bytes:
    """By which of its proxies the recipient can open it; b"": it cannot be one."""
    return data[len(PREFIX) : len(PREFIX) + ID_BYTES] if len(data) > _HEAD_BYTES else b""


def word_id(secret: bytes, to: bytes) -> bytes:
    """What stands in front of the words to `to` that go by a proxy."""
    return sha256(b"drupelet/word-id/1\0" + to + secret).digest()[:ID_BYTES]


def encode_word(seed: bytes, secret: bytes, to: bytes, word: Word, salt: bytes) -> bytes:
    """`salt`: SALT_BYTES random bytes, of this word alone."""
    assert len(secret) == PROXY_SECRET_BYTES and len(salt) == SALT_BYTES
    content = dumps({1: to, 2: word.boot, 3: word.number, 4: word.cast})
    text = dumps([content, sign(seed, WORD_DOMAIN, content).signature])
    key = _key(secret, to, salt)
    return PREFIX + word_id(secret, to) + salt + sodium.encrypt(key, 0, text)


def decode_word(data: bytes, secret: bytes, sender: bytes, own: bytes) -> Word:
    """What `sender` says to us by that proxy. Raises: `RemoteProtocolError`. 0.1 ms."""
    if len(data) > WORD_BYTES_MAX or not is_word(data) or id_of(data) != word_id(secret, own):
        raise RemoteProtocolError("no word of that proxy, or one too long")
    salt = data[_HEAD_BYTES - SALT_BYTES : _HEAD_BYTES]
    text = sodium.decrypt(_key(secret, own, salt), 0, data[_HEAD_BYTES:])
    match loads_canonical(text):
        case [bytes(content), bytes(signature)] if len(signature) == SIGNATURE_BYTES:
            verify(Signed(content, sender, signature), WORD_DOMAIN, WORD_BYTES_MAX)
        case _:
            raise RemoteProtocolError("malformed word")
    match loads_canonical(content):
        case {1: bytes(to), 2: bytes(boot), 3: int(number), 4: bytes(cast)} as fields if (
            len(fields) == 4
            and to == own
            and len(boot) == BOOT_BYTES
            and type(number) is int
            and 0 < number <= NUMBER_MAX
        ):
            return Word(boot=boot, number=number, cast=cast)
    raise RemoteProtocolError("malformed word")


def _key(secret: bytes, to: bytes, salt: bytes) -> bytes:
    return hmac.digest(secret, b"drupelet/word-key/1\0" + to + salt, "sha256")
