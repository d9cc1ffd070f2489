"""libsodium, as far as `wire` uses it: AEAD, X25519, Ed25519.

Decides how a failure inside libsodium reads: this is the one place that knows PyNaCl's exceptions
(CryptoError, ValueError, TypeError, RuntimeError), and whatever a peer's bytes cause leaves it as
`RemoteProtocolError`. No state, no randomness; counters and keys are arguments.

Speed. PyNaCl's `crypto_aead_chacha20poly1305_ietf_encrypt` checks five arguments and makes two
zeroed buffers for each call: 3.1 us for 32 bytes of which libsodium needs 0.5. A small call crosses
the AEAD four times, so `encrypt` and `decrypt` call the same C function through PyNaCl's compiled
module with an output buffer that is used again: 0.9 us. Should a PyNaCl without that module
come along, the public functions take over (`FAST` is then false); a test holds both to one answer.
The buffer comes from a pool whose `pop` and `append` are atomic, so threads do not meet in it
(the C call releases the interpreter lock).

References: RFC 8439 (ChaCha20-Poly1305), RFC 7748 section 6.1 (all-zero output), RFC 8032.

Ideas rejected: the `cryptography` package (faster still, but a second library with OpenSSL in it);
decrypting into the `bytes` object that is returned (saves 3 us of 48 at 64 KiB by writing into an
immutable object); opening from an offset instead of a slice (0.1 us slower for small records,
1 % faster for the largest).
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from typing import Final

from nacl import bindings
from nacl.exceptions import CryptoError

from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.wire.limits import RECORD_BYTES_MAX, RECORD_TAG_BYTES

try:
    from nacl._sodium import ffi as _ffi  # type: ignore[import-not-found]
    from nacl._sodium import lib as _lib

    _raw_encrypt = _lib.crypto_aead_chacha20poly1305_ietf_encrypt
    _raw_decrypt = _lib.crypto_aead_chacha20poly1305_ietf_decrypt
    _raw_open = _lib.crypto_sign_open
    FAST = True
except (ImportError, AttributeError):  # pragma: no cover - another PyNaCl than the locked one
    FAST = False

KEY_BYTES: Final = 32  # of every key here: AEAD, X25519, Ed25519 public key and seed
SIGNATURE_BYTES: Final = 64
SEAL_BYTES: Final = 48  # a key and a tag
COUNTER_MAX: Final = 2**64 - 1  # reserved for rekeying (Noise revision 34, section 5.1)

_FAILURES: Final = (CryptoError, ValueError, TypeError, RuntimeError)
_PLAINTEXT_BYTES_MAX: Final = RECORD_BYTES_MAX - RECORD_TAG_BYTES
_POOL_BUFFERS_MAX: Final = 4  # one for each thread that seals at the same moment; 64 KiB each


def _check_key(key: bytes) -> None:
    if type(key) is not bytes or len(key) != KEY_BYTES:
        raise LocalProtocolError(f"a key is {KEY_BYTES} bytes")


def portable_encrypt(
    key: bytes, counter: int, plaintext: bytes, ad: bytes = b"", prefix: bytes = b""
) -> bytes:
    """`encrypt` by PyNaCl's public functions alone."""
    if len(plaintext) > _PLAINTEXT_BYTES_MAX:
        raise LocalProtocolError("plaintext larger than a Noise message")
    nonce = (counter << 32).to_bytes(12, "little")
    return prefix + bindings.crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, ad, nonce, key)


def portable_decrypt(key: bytes, counter: int, ciphertext: bytes, ad: bytes = b"") -> bytes:
    """`decrypt` by PyNaCl's public functions alone."""
    if not RECORD_TAG_BYTES <= len(ciphertext) <= RECORD_BYTES_MAX:
        raise RemoteProtocolError("ciphertext length out of range")
    nonce = (counter << 32).to_bytes(12, "little")
    try:
        return bindings.crypto_aead_chacha20poly1305_ietf_decrypt(ciphertext, ad, nonce, key)
    except _FAILURES:
        raise RemoteProtocolError("ciphertext does not authenticate") from None


if FAST:
    _NULL = _ffi.NULL
    _view = _ffi.buffer
    _pool = deque((_ffi.new("unsigned char[]", RECORD_BYTES_MAX),), maxlen=_POOL_BUFFERS_MAX)

    def encrypt(
        key: bytes, counter: int, plaintext: bytes, ad: bytes = b"", prefix: bytes = b""
    ) -> bytes:
        """`prefix` + ciphertext + tag of at most 65,519 bytes under (key, counter).

        `counter` is the Noise nonce, 0 to 2**64 - 1; the caller never uses one twice with a key.
        `key` is 32 bytes, which the caller has checked. Raises: `LocalProtocolError`.
        """
        length = len(plaintext)
        if length > _PLAINTEXT_BYTES_MAX:
            raise LocalProtocolError("plaintext larger than a Noise message")
        try:
            out = _pool.pop()
        except IndexError:
            out = _ffi.new("unsigned char[]", RECORD_BYTES_MAX)
        _raw_encrypt(
            out,
            _NULL,
            plaintext,
            length,
            ad,
            len(ad),
            _NULL,
            (counter << 32).to_bytes(12, "little"),
            key,
        )
        record: bytes = prefix + _view(out, length + RECORD_TAG_BYTES)
        _pool.append(out)
        return record

    def decrypt(key: bytes, counter: int, ciphertext: bytes, ad: bytes = b"") -> bytes:
        """The plaintext of `ciphertext` + tag. Raises: `RemoteProtocolError`, for any reason."""
        length = len(ciphertext)
        if not RECORD_TAG_BYTES <= length <= RECORD_BYTES_MAX:
            raise RemoteProtocolError("ciphertext length out of range")
        try:
            out = _pool.pop()
        except IndexError:
            out = _ffi.new("unsigned char[]", RECORD_BYTES_MAX)
        failed = _raw_decrypt(
            out,
            _NULL,
            _NULL,
            ciphertext,
            length,
            ad,
            len(ad),
            (counter << 32).to_bytes(12, "little"),
            key,
        )
        plaintext: bytes = b"" if failed else _view(out, length - RECORD_TAG_BYTES)[:]
        _pool.append(out)
        if failed:
            raise RemoteProtocolError("ciphertext does not authenticate")
        return plaintext

else:  # pragma: no cover - another PyNaCl than the locked one
    encrypt = portable_encrypt
    decrypt = portable_decrypt


def x25519_public(private_key: bytes) -> bytes:
    """The X25519 public key of a private key (32 bytes)."""
    _check_key(private_key)
    return bindings.crypto_scalarmult_base(private_key)


def x25519(private_key: bytes, peer_public_key: bytes) -> bytes:
    """X25519. Raises: `RemoteProtocolError` for a low order point (all-zero output) too."""
    _check_key(private_key)
    if len(peer_public_key) != KEY_BYTES:  # PyNaCl does not look: libsodium would read beyond it
        raise RemoteProtocolError("unusable public key")
    try:
        return bindings.crypto_scalarmult(private_key, peer_public_key)
    except _FAILURES:
        raise RemoteProtocolError("unusable public key") from None


def x25519_hashed(private_key: bytes, uniform: bytes) -> bytes:
    """X25519(private_key, Elligator2(uniform)): a secret (32 bytes each) on a secret base point.

    All of it in libsodium, since a modular power of Python's takes a time that depends on the
    number. libsodium maps to Edwards form and multiplies by the cofactor 8; X25519 makes the scalar
    a multiple of 8. So the scalar divided by 8, taken there and brought back to Montgomery form, is
    the same point (RFC 7748 section 4.1, RFC 9380 section 6.7.1). 160 us.
    """
    _check_key(private_key)
    _check_key(uniform)
    scalar = int.from_bytes(private_key, "little") & (2**254 - 8) | 2**254  # RFC 7748 section 5
    try:
        base = bindings.crypto_core_ed25519_from_uniform(uniform)
        point = bindings.crypto_scalarmult_ed25519_noclamp(
            (scalar >> 3).to_bytes(KEY_BYTES, "little"), base
        )
        return bindings.crypto_sign_ed25519_pk_to_curve25519(point)
    except _FAILURES:  # a point of small order: one in 2**250
        raise LocalProtocolError("that hash has no usable point") from None


def ed25519_public(seed: bytes) -> bytes:
    """The Ed25519 public key of a seed (32 bytes)."""
    _check_key(seed)
    return bindings.crypto_sign_seed_keypair(seed)[0]


def sign(seed: bytes, message: bytes) -> bytes:
    """The Ed25519 signature (64 bytes) by the seed's key. 29 us: makes the key pair anew."""
    _check_key(seed)
    signed = bindings.crypto_sign(message, bindings.crypto_sign_seed_keypair(seed)[1])
    return signed[:SIGNATURE_BYTES]


def verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Return if `signature` is that of `message`. Raises: `RemoteProtocolError`. 40 to 53 us."""
    if len(signature) != SIGNATURE_BYTES or len(public) != KEY_BYTES:  # PyNaCl does not look
        raise RemoteProtocolError("signature does not verify")
    try:
        good = _opens(signature + message, public)
    except _FAILURES:
        good = False
    if not good:
        raise RemoteProtocolError("signature does not verify")


def portable_opens(signed: bytes, public: bytes) -> bool:
    """Whether signature and message fit, by PyNaCl's public functions. Raises: `_FAILURES`."""
    bindings.crypto_sign_open(signed, public)
    return True


if FAST:

    def _opens(signed: bytes, public: bytes) -> bool:
        """1 us less: libsodium needs no room for a message that nobody reads."""
        return bool(_raw_open(_NULL, _NULL, signed, len(signed), public) == 0)

else:  # pragma: no cover
    _opens = portable_opens


def seal(ephemeral: bytes, public_key: bytes, message: bytes) -> bytes:
    """`message` for the X25519 key `public_key` alone: what libsodium's crypto_box_seal makes.

    `ephemeral`: 32 fresh random bytes, for this message only. 48 bytes longer. 75 us.
    Raises: `RemoteProtocolError` for a key that is none.
    """
    _check_key(ephemeral)
    if len(public_key) != KEY_BYTES:
        raise RemoteProtocolError("malformed key")
    try:
        own = bindings.crypto_scalarmult_base(ephemeral)
        nonce = blake2b(own + public_key, digest_size=24).digest()
        return own + bindings.crypto_box_easy(message, nonce, public_key, ephemeral)
    except _FAILURES:
        raise RemoteProtocolError("a key of low order") from None


def open_sealed(private_key: bytes, public_key: bytes, sealed: bytes) -> bytes:
    """The reverse, with both halves of the key. Raises: `RemoteProtocolError`. 45 us."""
    _check_key(private_key)
    if len(sealed) < SEAL_BYTES:
        raise RemoteProtocolError("sealed message too short")
    try:
        return bindings.crypto_box_seal_open(sealed, public_key, private_key)
    except _FAILURES:
        raise RemoteProtocolError("sealed message does not open") from None
