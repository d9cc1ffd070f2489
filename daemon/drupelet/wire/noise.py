"""The Noise Protocol Framework, revision 34, on libsodium: the engine, without our use of it.

Decides how a protocol name becomes keys: the fifteen fundamental patterns (N K X; NN KN NK KK NX
KX XN IN XK IK XX IX) with any psk modifiers, 25519, ChaChaPoly and four hashes. `handshake.py` has
what Drupelet puts into it.

Rules it keeps
- No entropy: the ephemeral private key is an argument, and one object serves one handshake.
- What the peer's bytes cause is `RemoteProtocolError`; after one the object refuses all further use
  (specification, section 5.3: delete it).
- A failed `CipherState.decrypt` does not advance the nonce; the nonce 2**64 - 1 is never used.
- All-zero Diffie-Hellman outputs are refused (libsodium does; the specification allows it).

References: noiseprotocol.org/noise.html; tests/vectors/noise.json.

Ideas rejected: one class per pattern (the token table is shorter and is the specification's own
notation); fallback and deferred patterns (no user yet; an unknown name raises ValueError);
`hmac.new` (twice the time of the two hashes it makes).
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Final

from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.wire import sodium
from drupelet.wire.limits import RECORD_BYTES_MAX, RECORD_TAG_BYTES
from drupelet.wire.sodium import COUNTER_MAX, KEY_BYTES, decrypt, encrypt

# Per pattern: keys known before the handshake ("s" of the initiator, of the responder), then the
# tokens of each message, the initiator's first. Specification, sections 7.4 and 7.5.
_PATTERNS: Final[dict[str, tuple[str, str, str]]] = {
    "N": ("", "s", "e es"),
    "K": ("s", "s", "e es ss"),
    "X": ("", "s", "e es s ss"),
    "NN": ("", "", "e|e ee"),
    "KN": ("s", "", "e|e ee se"),
    "NK": ("", "s", "e es|e ee"),
    "KK": ("s", "s", "e es ss|e ee se"),
    "NX": ("", "", "e|e ee s es"),
    "KX": ("s", "", "e|e ee se s es"),
    "XN": ("", "", "e|e ee|s se"),
    "IN": ("", "", "e s|e ee se"),
    "XK": ("", "s", "e es|e ee|s se"),
    "IK": ("", "s", "e es s ss|e ee se"),
    "XX": ("", "", "e|e ee s es|s se"),
    "IX": ("", "", "e s|e ee se s es"),
}

_HASHES: Final[dict[str, Callable[[bytes], bytes]]] = {
    "BLAKE2s": lambda data: hashlib.blake2s(data).digest(),
    "BLAKE2b": lambda data: hashlib.blake2b(data).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
    "SHA512": lambda data: hashlib.sha512(data).digest(),
}
_BLOCK_BYTES: Final = {"BLAKE2s": 64, "BLAKE2b": 128, "SHA256": 64, "SHA512": 128}

_NAME: Final = re.compile(
    r"Noise_([A-Z]{1,2})((?:psk[0-9](?:\+psk[0-9])*)?)_25519_ChaChaPoly_([A-Za-z0-9]+)"
)
_INNER_PAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD: Final = bytes(byte ^ 0x5C for byte in range(256))
_COUNTERS: Final = (b"\1", b"\2", b"\3")
_REKEY_PLAINTEXT: Final = bytes(KEY_BYTES)


class CipherState:
    """One direction of a finished handshake: a key and a nonce that counts from 0."""

    __slots__ = ("_counter", "_key")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a cipher key is {KEY_BYTES} bytes")
        self._key = key
        self._counter = 0

    def encrypt(self, plaintext: bytes, ad: bytes = b"") -> bytes:
        """Ciphertext with tag. `plaintext` at most 65,519 bytes. Raises: `LocalProtocolError`."""
        counter = self._counter
        if counter >= COUNTER_MAX:
            raise LocalProtocolError("all nonces are used; make a new link")
        ciphertext = encrypt(self._key, counter, plaintext, ad)
        self._counter = counter + 1
        return ciphertext

    def decrypt(self, ciphertext: bytes, ad: bytes = b"") -> bytes:
        """Plaintext. Raises: `RemoteProtocolError`; the nonce then stays as it was."""
        counter = self._counter
        if counter >= COUNTER_MAX:
            raise RemoteProtocolError("all nonces are used")
        plaintext = decrypt(self._key, counter, ciphertext, ad)
        self._counter = counter + 1
        return plaintext

    def rekey(self) -> None:
        """Replace the key by its one-way successor (section 4.2); the nonce goes on."""
        self._key = encrypt(self._key, COUNTER_MAX, _REKEY_PLAINTEXT)[:KEY_BYTES]

    def surrender(self) -> tuple[bytes, int]:
        """(key, nonce), once: whoever takes them owns the direction; this object is spent."""
        if self._counter >= COUNTER_MAX:
            raise LocalProtocolError("this cipher state is spent")
        key, counter = self._key, self._counter
        self._key, self._counter = _REKEY_PLAINTEXT, COUNTER_MAX
        return key, counter


class _SymmetricState:
    """Chaining key, handshake hash and the handshake's own cipher (section 5.2)."""

    __slots__ = ("_block_bytes", "_chaining_key", "_cipher", "_hash", "digest")

    def __init__(self, protocol_name: bytes, hash_name: str) -> None:
        self._hash = _HASHES[hash_name]
        self._block_bytes = _BLOCK_BYTES[hash_name]
        size = len(self._hash(b""))
        fits = len(protocol_name) <= size
        self.digest = protocol_name.ljust(size, b"\0") if fits else self._hash(protocol_name)
        self._chaining_key = self.digest
        self._cipher: CipherState | None = None

    def _hmac(self, key: bytes, data: bytes) -> bytes:
        block = key.ljust(self._block_bytes, b"\0")  # a key is one digest: shorter than a block
        inner = self._hash(block.translate(_INNER_PAD) + data)
        return self._hash(block.translate(_OUTER_PAD) + inner)

    def _derive(self, material: bytes, count: int) -> list[bytes]:
        """HKDF (RFC 5869) with the chaining key as salt and no info: two or three outputs."""
        secret = self._hmac(self._chaining_key, material)
        digest = self._hash
        block = secret.ljust(self._block_bytes, b"\0")
        inner, outer = block.translate(_INNER_PAD), block.translate(_OUTER_PAD)
        outputs: list[bytes] = []
        last = b""
        for number in _COUNTERS[:count]:
            last = digest(outer + digest(inner + last + number))
            outputs.append(last)
        return outputs

    def mix_hash(self, data: bytes) -> None:
        self.digest = self._hash(self.digest + data)

    def mix_key(self, material: bytes) -> None:
        self._chaining_key, key = self._derive(material, 2)
        self._cipher = CipherState(key[:KEY_BYTES])

    def mix_key_and_hash(self, material: bytes) -> None:
        self._chaining_key, mixed, key = self._derive(material, 3)
        self.mix_hash(mixed)
        self._cipher = CipherState(key[:KEY_BYTES])

    @property
    def tag_bytes(self) -> int:
        """How much longer than its plaintext the next ciphertext is."""
        return 0 if self._cipher is None else RECORD_TAG_BYTES

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        if self._cipher is not None:
            plaintext = self._cipher.encrypt(plaintext, self.digest)
        self.mix_hash(plaintext)
        return plaintext

    def decrypt_and_hash(self, data: bytes) -> bytes:
        plaintext = data
        if self._cipher is not None:
            plaintext = self._cipher.decrypt(data, self.digest)
        self.mix_hash(data)
        return plaintext

    def split(self) -> tuple[CipherState, CipherState]:
        first, second = self._derive(b"", 2)
        return CipherState(first[:KEY_BYTES]), CipherState(second[:KEY_BYTES])


@functools.lru_cache(maxsize=32)  # what it returns is never changed; 6 us of each handshake
def _parse_name(protocol_name: str) -> tuple[str, str, list[list[str]], int, str]:
    """(initiator's known keys, responder's, tokens per message, psk count, hash name)."""
    match = _NAME.fullmatch(protocol_name)
    if match is None or match[1] not in _PATTERNS or match[3] not in _HASHES:
        raise ValueError(f"unknown Noise protocol {protocol_name!r}")
    known_initiator, known_responder, table = _PATTERNS[match[1]]
    messages = [part.split() for part in table.split("|")]
    modifiers = [int(word[3:]) for word in match[2].split("+")] if match[2] else []
    if len(set(modifiers)) != len(modifiers) or max(modifiers, default=0) > len(messages):
        raise ValueError(f"impossible psk modifiers in {protocol_name!r}")
    for place in modifiers:
        if place == 0:
            messages[0].insert(0, "psk")
        else:
            messages[place - 1].append("psk")
    return known_initiator, known_responder, messages, len(modifiers), match[3]


def _checked_key(key: bytes | None, what: str) -> bytes | None:
    if key is not None and len(key) != KEY_BYTES:
        raise ValueError(f"{what} is {KEY_BYTES} bytes, not {len(key)}")
    return None if key is None else bytes(key)


class HandshakeState:
    """One side of one handshake.

    `protocol_name` such as ``Noise_XX_25519_ChaChaPoly_BLAKE2s``; `s` and `e` private keys, `rs`
    the peer's static public key where the pattern knows it beforehand, `psks` in the order of
    their use, all of 32 bytes; `s_public` saves 13 us when the caller has the public key of `s`.

    Raises: `ValueError` for an unknown name, a missing key or a key of the wrong length.
    """

    __slots__ = (
        "_e",
        "_e_public",
        "_failed",
        "_initiator",
        "_messages",
        "_position",
        "_psks",
        "_re",
        "_rs",
        "_s",
        "_s_public",
        "_split",
        "_symmetric",
        "_with_psk",
    )

    def __init__(
        self,
        protocol_name: str,
        *,
        initiator: bool,
        prologue: bytes = b"",
        s: bytes | None = None,
        e: bytes | None = None,
        rs: bytes | None = None,
        psks: Sequence[bytes] = (),
        s_public: bytes | None = None,
    ) -> None:
        known_initiator, known_responder, messages, psk_count, hash_name = _parse_name(
            protocol_name
        )
        if len(psks) != psk_count:
            raise ValueError(f"{protocol_name} takes {psk_count} psks, not {len(psks)}")
        self._initiator = initiator
        self._messages = messages
        self._with_psk = psk_count > 0
        self._psks = [
            key for key in (_checked_key(psk, "a psk") for psk in psks) if key is not None
        ]
        self._s = _checked_key(s, "s")
        self._e = _checked_key(e, "e")
        self._rs = _checked_key(rs, "rs")
        self._re: bytes | None = None
        self._e_public: bytes | None = None
        self._s_public = _checked_key(s_public, "s_public")
        if self._s is not None and self._s_public is None:
            self._s_public = sodium.x25519_public(self._s)
        self._position = 0
        self._failed = False
        self._split = False
        mine, theirs = (known_initiator, known_responder)[:: 1 if initiator else -1]
        self._check_keys(protocol_name, mine, theirs)
        self._symmetric = _SymmetricState(protocol_name.encode(), hash_name)
        self._symmetric.mix_hash(prologue)
        for known, ours in ((known_initiator, initiator), (known_responder, not initiator)):
            if known:
                key = self._s_public if ours else self._rs
                assert key is not None
                self._symmetric.mix_hash(key)

    def _check_keys(self, protocol_name: str, mine: str, theirs: str) -> None:
        own_tokens = [
            token for tokens in self._messages[0 if self._initiator else 1 :: 2] for token in tokens
        ]
        if self._s is None and ("s" in own_tokens or mine):
            raise ValueError(f"{protocol_name} needs s, the static private key, on this side")
        if self._e is None and "e" in own_tokens:
            raise ValueError(
                f"{protocol_name} needs e, a fresh ephemeral private key, on this side"
            )
        if (self._rs is not None) != bool(theirs):
            raise ValueError(f"{protocol_name} {'needs' if theirs else 'takes no'} rs on this side")

    # -- what a finished handshake gives

    @property
    def finished(self) -> bool:
        """Whether every message was written or read."""
        return self._position == len(self._messages) and not self._failed

    @property
    def handshake_hash(self) -> bytes:
        """The hash of the transcript: the same on both sides, unique to this handshake."""
        if not self.finished:
            raise LocalProtocolError("the handshake is not finished")
        return self._symmetric.digest

    @property
    def remote_static(self) -> bytes | None:
        """The peer's static public key; None when it is not known yet or never will be."""
        return self._rs

    def split(self) -> tuple[CipherState, CipherState]:
        """Two directions: the first encrypts from initiator to responder, on both sides. Once."""
        if not self.finished or self._split:
            raise LocalProtocolError("split belongs once, after the last message")
        self._split = True
        self._s = self._e = None
        self._psks = []
        return self._symmetric.split()

    # -- messages

    def write_message(self, payload: bytes = b"") -> bytes:
        """The next message, with `payload` as well protected as the pattern allows by now."""
        tokens = self._next_tokens(writing=True)
        self._failed = True  # until the message is whole
        symmetric = self._symmetric
        parts: list[bytes] = []
        for token in tokens:
            if token == "e":
                parts.append(self._own_ephemeral())
            elif token == "s":
                assert self._s_public is not None
                parts.append(symmetric.encrypt_and_hash(self._s_public))
            else:
                self._mix(token)
        parts.append(symmetric.encrypt_and_hash(payload))
        message = b"".join(parts)
        if len(message) > RECORD_BYTES_MAX:
            raise LocalProtocolError("payload larger than a Noise message")
        self._failed = False
        self._position += 1
        return message

    def read_message(self, message: bytes) -> bytes:
        """The payload of the peer's next message.

        Raises: `RemoteProtocolError`, after which this object is of no more use.
        """
        tokens = self._next_tokens(writing=False)
        self._failed = True  # until the message has proved itself
        if len(message) > RECORD_BYTES_MAX:
            raise RemoteProtocolError("handshake message too long")
        symmetric = self._symmetric
        rest = bytes(message)
        for token in tokens:
            if token == "e":
                key, rest = self._cut(rest, KEY_BYTES)
                self._re = key
                symmetric.mix_hash(key)
                if self._with_psk:
                    symmetric.mix_key(key)
            elif token == "s":
                key, rest = self._cut(rest, KEY_BYTES + symmetric.tag_bytes)
                self._rs = symmetric.decrypt_and_hash(key)
            else:
                self._mix(token)
        payload = symmetric.decrypt_and_hash(rest)
        self._failed = False
        self._position += 1
        return payload

    def _next_tokens(self, *, writing: bool) -> list[str]:
        if self._failed or self._position == len(self._messages):
            raise LocalProtocolError("the handshake is over")
        turn = self._position % 2 == (0 if self._initiator else 1)
        if turn is not writing:
            raise LocalProtocolError("it is the other side's turn in the handshake")
        return self._messages[self._position]

    @staticmethod
    def _cut(data: bytes, count: int) -> tuple[bytes, bytes]:
        if len(data) < count:
            raise RemoteProtocolError("handshake message too short")
        return data[:count], data[count:]

    def _own_ephemeral(self) -> bytes:
        assert self._e is not None
        self._e_public = sodium.x25519_public(self._e)
        self._symmetric.mix_hash(self._e_public)
        if self._with_psk:
            self._symmetric.mix_key(self._e_public)
        return self._e_public

    def _mix(self, token: str) -> None:
        """A Diffie-Hellman token or "psk". The first letter is the initiator's key."""
        if token == "psk":
            self._symmetric.mix_key_and_hash(self._psks.pop(0))
            return
        own, peer = (token[0], token[1]) if self._initiator else (token[1], token[0])
        private = self._e if own == "e" else self._s
        public = self._re if peer == "e" else self._rs
        assert private is not None
        assert public is not None
        self._symmetric.mix_key(sodium.x25519(private, public))
