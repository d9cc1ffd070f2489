"""Signing: data of ours with an Ed25519 identity's word for it.

Decides the bytes that a signature is over: a domain, a zero byte that no domain holds, and the
content as it travels (never a re-encoding). A signature for one purpose is so worthless for every
other. Whose key it is, and whether that may say this, the caller must know.

The links' own signature (`wire/keys.py`, ``drupelet/static/1``) is older and has no zero byte; its
content is always 32 bytes, so that neither can be read as the other.

References: RFC 8032.
Rejected: Ed25519ctx (libsodium has no contexts); COSE_Sign1 for data that only nodes exchange (its
headers say what the domain says, at 60 bytes more; requests over HTTP will have it).
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.wire import sodium
from drupelet.wire.bundles import Bundle, decode_bundle, encode_bundle
from drupelet.wire.limits import BUNDLE_BYTES_MAX

BUNDLE_DOMAIN: Final = b"drupelet/bundle/1"


@dataclass(frozen=True, slots=True)
class Signed:
    """`content` as it travels, with the signature by `key`."""

    content: bytes
    key: bytes
    signature: bytes


def sign(seed: bytes, domain: bytes, content: bytes) -> Signed:
    """`content` signed by the identity of `seed` for the purpose `domain`."""
    signature = sodium.sign(seed, domain + b"\0" + content)
    return Signed(content, sodium.ed25519_public(seed), signature)


def verify(signed: Signed, domain: bytes, bytes_max: int) -> None:
    """Return if the content is not too long and `key` signed it. Raises: `RemoteProtocolError`."""
    size = len(signed.content)
    if size > bytes_max:
        raise RemoteProtocolError(f"signed content of {size} bytes; at most {bytes_max}")
    sodium.verify(signed.key, domain + b"\0" + signed.content, signed.signature)


def sign_bundle(seed: bytes, bundle: Bundle) -> Signed:
    """The code of a mission, signed. Raises: `ValueError` with what is wrong in it."""
    return sign(seed, BUNDLE_DOMAIN, encode_bundle(bundle))


def open_bundle(signed: Signed, taken: Container[str] = ()) -> Bundle:
    """The bundle that `signed.key` signed; `taken`: see `bundles.module_problem`.

    Raises: `RemoteProtocolError`.
    """
    verify(signed, BUNDLE_DOMAIN, BUNDLE_BYTES_MAX)
    return decode_bundle(signed.content, taken)
