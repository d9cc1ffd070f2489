"""Keys: the text form of an identity, and the signature that ties a boot's key to it.

Decides how a person reads, types and compares a node's Ed25519 public key: 52 characters of
lowercase base32 (RFC 4648 alphabet, no padding) and 6 check characters, 58 in all. The check is
Bech32m's BCH code (BIP 350) with "drupelet" as its prefix: up to four wrong characters are always
found, so any single one and any adjacent swap are, and what it misses beyond is one in 2**30.

The X25519 key of the handshake is made at each boot; `sign_static` ties it to the identity, and
`VerifiedKeys` remembers good signatures, so that a reconnect costs no verification (40 us).

Ideas rejected: Luhn mod 32 as in Syncthing's device ids (misses the swap of the first and the last
letter of the alphabet); BLAKE2b check characters (find a swap only with probability); Bech32's own
alphabet (DESIGN says base32, and the prefix doubles as an mDNS name); reading 0 as o and 8 as b by
itself (the message says so, and the person looks again).
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.wire import sodium
from drupelet.wire.sodium import KEY_BYTES, SIGNATURE_BYTES

KEY_CHARS: Final = 58
PREFIX_CHARS: Final = 16  # 80 bits: an mDNS instance name that no accident makes twice
_DATA_CHARS: Final = 52  # 256 bits and 4 that are zero
_CHECK_CHARS: Final = 6
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)}
_LOOKALIKES: Final = {"0": "o", "1": "i or l", "8": "b", "9": "g or q"}

_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)  # BIP 173
_CONSTANT: Final = 0x2BC830A3  # BIP 350
_PREFIX: Final = b"drupelet"

_STATIC_DOMAIN: Final = b"drupelet/static/1"
_VERIFIED_MAX: Final = 256  # 4x GOSSIP_NODES_MAX; 128 bytes each


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            if top >> bit & 1:
                check ^= generator
    return check


_PREFIX_VALUES: Final = [b >> 5 for b in _PREFIX] + [0] + [b & 31 for b in _PREFIX]


@lru_cache(maxsize=1_024)  # 60 us; the keys of those who call are written with each call
def key_to_text(key: bytes) -> str:
    """The text form (58 characters) of an Ed25519 public key (32 bytes)."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key is {KEY_BYTES} bytes, not {len(key)}")
    number = int.from_bytes(key, "big") << 4
    values = [number >> shift & 31 for shift in range(5 * (_DATA_CHARS - 1), -1, -5)]
    check = _polymod(_PREFIX_VALUES + values + [0] * _CHECK_CHARS) ^ _CONSTANT
    values += [check >> shift & 31 for shift in range(25, -1, -5)]
    return "".join(map(_ALPHABET.__getitem__, values))


def key_from_text(text: str) -> bytes:
    """The key (32 bytes) of a text form; upper case, spaces and dashes are accepted.

    Raises: `ValueError` with a sentence that a person can act on.
    """
    compact = "".join(character for character in text if character not in "- \t\r\n").lower()
    for place, character in enumerate(compact[:KEY_CHARS], 1):
        if character not in _VALUES:
            hint = _LOOKALIKES.get(character)
            raise ValueError(
                f"character {place} of the key is {character!r}, which keys do not contain"
                + (f"; is it {hint}?" if hint else "; keys are letters a to z and digits 2 to 7")
            )
    if len(compact) != KEY_CHARS:
        how = "copy it whole" if len(compact) < KEY_CHARS else "copy it without the words beside it"
        raise ValueError(f"a key has {KEY_CHARS} characters, this has {len(compact)}; {how}")
    values = [_VALUES[character] for character in compact]
    if _polymod(_PREFIX_VALUES + values) != _CONSTANT:
        raise ValueError("the key has a typing error; compare it with `drupelet status` there")
    number = 0
    for value in values[:_DATA_CHARS]:
        number = number << 5 | value
    if number & 15:
        raise ValueError("the key is not one that Drupelet writes; copy it again")
    return (number >> 4).to_bytes(KEY_BYTES, "big")


def key_or_id(text: str) -> bytes | str:
    """What a person names: a key, 16 bytes in hex, or else the text itself."""
    with contextlib.suppress(ValueError):
        return key_from_text(text)
    with contextlib.suppress(ValueError):
        ident = bytes.fromhex(text)
        if len(ident) == 16:
            return ident
    return text


def key_prefix(text: str) -> str:
    """The first 16 characters of a text form: the mDNS instance name."""
    return text[:PREFIX_CHARS]


def sign_static(seed: bytes, static_public: bytes) -> bytes:
    """The identity's signature (64 bytes) for the X25519 static key of this boot."""
    return sodium.sign(seed, _STATIC_DOMAIN + static_public)


def verify_static(identity: bytes, static_public: bytes, signature: bytes) -> None:
    """Return if `identity` signed `static_public`. Raises: `RemoteProtocolError`."""
    sodium.verify(identity, _STATIC_DOMAIN + static_public, signature)


class VerifiedKeys:
    """Signatures that verified before, the least recently used forgotten beyond `size_max`."""

    __slots__ = ("_known", "_size_max", "hit_count", "verify_count")

    def __init__(self, size_max: int = _VERIFIED_MAX) -> None:
        self._known: dict[bytes, None] = {}
        self._size_max = size_max
        self.hit_count = 0
        self.verify_count = 0

    def __len__(self) -> int:
        return len(self._known)

    def verify(self, identity: bytes, static_public: bytes, signature: bytes) -> None:
        """As `verify_static`, for nothing when this triple verified before."""
        if len(identity) != KEY_BYTES or len(static_public) != KEY_BYTES:
            raise RemoteProtocolError("key length")
        if len(signature) != SIGNATURE_BYTES:
            raise RemoteProtocolError("signature length")
        triple = identity + static_public + signature  # of fixed lengths, so unambiguous
        if triple in self._known:
            self.hit_count += 1
            del self._known[triple]
        else:
            self.verify_count += 1
            verify_static(identity, static_public, signature)
            if len(self._known) >= self._size_max:
                del self._known[next(iter(self._known))]
        self._known[triple] = None
