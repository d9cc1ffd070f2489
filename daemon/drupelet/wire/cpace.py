"""CPace-X25519-SHA512: one secret key for two who share a password, and nothing for anyone else.

Decides the bytes of one run of CPace (draft-irtf-cfrg-cpace, initiator and responder) with explicit
key confirmation. A password that a person can remember is enough: who listens learns nothing to
guess against, and who takes part has one guess for each run, which the other side sees.

Rules it keeps
- No entropy: the private scalar is an argument, and one object serves one run.
- Whatever the peer sends ends in `RemoteProtocolError`; after one the object refuses everything.
- A public share must be a canonical coordinate (below 2**255 - 19) and not of low order; an honest
  peer makes no other, and the abort of the draft (K = 0) is libsodium's besides.
- A share equal to our own is refused: it would be our own message, sent back.
- K stays inside; ISK is shown for binding other keys to it. The password is not kept.
- The initiator proves first: a server tells nothing to who has not shown that it knows the
  password, and counts the wrong tries.

The generator is never computed by itself: `sodium.x25519_hashed` maps and multiplies in constant
time. References: the draft, "Montgomery curves", "Key confirmation" and its appendix; RFC 7748; RFC
9380. Vectors: tests/vectors/cpace.json.

Ideas rejected: SPAKE2 (two fixed points that nobody may know the logarithm of), OPAQUE (the server
would store no password, but the conf file is lib_chan's and has it), SRP (older, slower, and
its proofs are weaker).
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.wire import sodium
from drupelet.wire.sodium import KEY_BYTES

SHARE_BYTES: Final = KEY_BYTES
TAG_BYTES: Final = 64  # HMAC-SHA512
KEY_OUTPUT_BYTES: Final = 64  # ISK

_DSI: Final = b"CPace255"
_DSI_ISK: Final = b"CPace255_ISK"
_DSI_MAC: Final = b"CPaceMac"
_HASH_BLOCK_BYTES: Final = 128  # SHA-512's input block
_PRIME: Final = 2**255 - 19


def prepend_length(data: bytes) -> bytes:
    """`data` with its length in front, LEB128."""
    length = len(data)
    head = bytearray()
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + data


def lv_cat(*parts: bytes) -> bytes:
    """The parts one after the other, each with its length in front."""
    return b"".join(map(prepend_length, parts))


def generator_string(password: bytes, channel: bytes, session: bytes) -> bytes:
    """What the base point is hashed from; the password alone fills SHA-512's first block."""
    used = len(prepend_length(password)) + len(prepend_length(_DSI)) + 1
    pad = bytes(max(0, _HASH_BLOCK_BYTES - used))
    return lv_cat(_DSI, password, pad, channel, session)


class CPace:
    """One side of one run.

    `password`, `channel` (CI: who talks to whom about what), `session` (sid, unique for each run):
    equal on both sides, or the keys differ. `associated`: this side's own data, sent beside
    `public`. `private`: 32 fresh random bytes for this run alone.
    """

    __slots__ = (
        "_initiator",
        "_isk",
        "_mac_key",
        "_own",
        "_peer",
        "_private",
        "_session",
        "public",
    )

    def __init__(
        self,
        password: bytes,
        *,
        channel: bytes,
        session: bytes,
        private: bytes,
        initiator: bool,
        associated: bytes = b"",
    ) -> None:
        hashed = hashlib.sha512(generator_string(password, channel, session)).digest()[:KEY_BYTES]
        self.public = sodium.x25519_hashed(private, hashed)
        self._private = private
        self._session = session
        self._initiator = initiator
        self._own = lv_cat(self.public, associated)
        self._peer = b""
        self._isk = b""
        self._mac_key = b""

    def receive(self, public: bytes, associated: bytes = b"") -> None:
        """Take the peer's share, once. Raises: `RemoteProtocolError` for one that cannot be."""
        private, self._private = self._private, b""
        if not private:
            raise RemoteProtocolError("a second share in one run")
        if len(public) != SHARE_BYTES or int.from_bytes(public, "little") >= _PRIME:
            raise RemoteProtocolError("a share that is no coordinate")
        if public == self.public:
            raise RemoteProtocolError("our own share came back")
        shared = sodium.x25519(private, public)
        self._peer = lv_cat(public, associated)
        transcript = self._own + self._peer if self._initiator else self._peer + self._own
        self._isk = _sha512(lv_cat(_DSI_ISK, self._session, shared) + transcript)
        self._mac_key = _sha512(_DSI_MAC + self._session + self._isk)

    @property
    def isk(self) -> bytes:
        """The key of this run, 64 bytes; equal on both sides if they had the same password."""
        if not self._isk:
            raise LocalProtocolError("there is no key before the peer's share")
        return self._isk

    def proof(self) -> bytes:
        """The tag that shows the peer that this side has the key."""
        if not self._isk:
            raise LocalProtocolError("there is no proof before the peer's share")
        return hmac.digest(self._mac_key, self._own, "sha512")

    def proves(self, tag: bytes) -> bool:
        """Whether `tag` shows that the peer has the key too. Constant time."""
        if not self._isk:
            raise LocalProtocolError("there is no proof before the peer's share")
        return hmac.compare_digest(hmac.digest(self._mac_key, self._peer, "sha512"), tag)


def _sha512(data: bytes) -> bytes:
    return hashlib.sha512(data).digest()
