"""Drupelet's use of Noise: who may make a link, and who the other end is.

Decides the bytes from the first one to the last before records begin. Three messages, each
``length:u16 ...``; the first is ``length version:u8 role:u8 noise-message``:

    initiator -> responder   version, role, Noise message 1 (no payload)          at most 256 bytes
    initiator <- responder   Noise message 2 (introduction, or a refusal)         at most 2,048
    initiator -> responder   Noise message 3 (introduction)                       at most 2,048

Rules it keeps
- Role 1, member: XXpsk0 with the cookie's PSK, mixed first, so that who lacks the cookie is turned
  away at message 1 for a few hashes and one AEAD try, without a Diffie-Hellman and without a word.
  Role 2, stranger: XX. The prologue is ``drupelet version role protocol-name`` as the initiator
  claims them, so none of them can be changed on the way.
- Message 1 is the same in every protocol version to come. A responder that does not speak the
  claimed version still checks the PSK and tells a member ``{"refused": "version"}`` in an
  encrypted message 2. Everyone else gets a silent close, whatever the reason.
- Two cookies while rotating: the responder tries them in order, the initiator offers one.
- The Ed25519 identity signs the X25519 static key of this boot; the receiver verifies that against
  the static key which the handshake proved. No dates: a Pi with its clock at 1970 works.
- The initiator names itself only after it has checked whom it reached.
- Nothing is sent or accepted out of turn; a failed machine refuses everything after.
- Only `RemoteProtocolError` (close silently) and its subclass `HandshakeRefused` (a reason; on the
  responder's side with a `farewell` to send first) are raised for what a peer does.

What XX gives away: an active stranger who is let in by role 2 learns the responder's name and key.

References: Noise revision 34, sections 7 and 9; adr/0002-noise-handshake.md; docs/PROTOCOL.md.

Ideas rejected: TLS 1.3 (2.4x the time, and Python's ssl shows a server no unknown client's
certificate); psk3 (a stranger costs 108 us instead of 18); negotiating patterns (downgrades).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final

from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.wire import keys, limits, sodium
from drupelet.wire.messages.links import (
    PeerIntroduction,
    Refusal,
    decode_answer,
    encode_introduction,
    encode_refusal,
)
from drupelet.wire.noise import CipherState, HandshakeState
from drupelet.wire.sodium import KEY_BYTES

VERSION: Final = 1
VERSIONS: Final = (VERSION,)  # what this software speaks, newest first
PSKS_MAX: Final = 2  # the new cookie and, while rotating, the old one

ROLE_MEMBER: Final = 1  # what the initiator claims to be, one byte
ROLE_STRANGER: Final = 2

_LENGTH_BYTES: Final = 2
_PREAMBLE_BYTES: Final = 2  # version, role
_FIRST_BYTES_MIN: Final = _PREAMBLE_BYTES + KEY_BYTES  # an ephemeral key and no payload

PROTOCOL_NAMES: Final[dict[int, str]] = {
    ROLE_MEMBER: "Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s",
    ROLE_STRANGER: "Noise_XX_25519_ChaChaPoly_BLAKE2s",
}


class HandshakeRefused(RemoteProtocolError):
    """There will be no link, and this is why: `reason` is a word of `errors.REASONS`.

    `versions`: what the refusing node speaks, when it said so. `farewell`: bytes to send before
    closing (responder's side; a member must be told), or b"".
    """

    def __init__(
        self, reason: str, *, versions: tuple[int, ...] = (), farewell: bytes = b""
    ) -> None:
        super().__init__(f"handshake refused: {reason}")
        self.reason = reason
        self.versions = versions
        self.farewell = farewell


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a node says of itself in every handshake of this boot. Secrets stay out of `repr`.

    `psks`: newest first, at most two; empty: this node meets strangers only.
    """

    identity: bytes
    static_private: bytes = field(repr=False)
    static_public: bytes
    signature: bytes
    name: str
    incarnation: int
    port: int
    software: str
    psks: tuple[bytes, ...] = field(default=(), repr=False)
    capabilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.psks) > PSKS_MAX or any(len(psk) != KEY_BYTES for psk in self.psks):
            raise LocalProtocolError(f"at most {PSKS_MAX} psks of {KEY_BYTES} bytes")


def make_credentials(
    seed: bytes,
    static_private: bytes,
    *,
    name: str,
    incarnation: int,
    port: int,
    software: str,
    psks: tuple[bytes, ...] = (),
    capabilities: tuple[str, ...] = (),
) -> Credentials:
    """Credentials of the identity with this Ed25519 seed.

    `static_private`: 32 fresh random bytes for each boot.
    """
    static_public = sodium.x25519_public(static_private)
    return Credentials(
        identity=sodium.ed25519_public(seed),
        static_private=static_private,
        static_public=static_public,
        signature=keys.sign_static(seed, static_public),
        name=name,
        incarnation=incarnation,
        port=port,
        software=software,
        psks=psks,
        capabilities=capabilities,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Established:
    """A finished handshake.

    `psk_index`: which cookie was used; None for strangers. `handshake_hash`: unique to this link,
    for binding grants. `rest`: bytes after message 3 that already belong to records.
    """

    peer: PeerIntroduction
    role: int
    psk_index: int | None
    send: CipherState
    receive: CipherState
    handshake_hash: bytes
    rest: bytes = b""


def prologue(version: int, role: int) -> bytes:
    """What both sides must agree on before the first key: version, role, pattern."""
    return b"drupelet" + bytes((version, role)) + PROTOCOL_NAMES[role].encode()


class _Machine:
    """What both sides share: credentials, a bounded buffer, the check of an introduction."""

    __slots__ = ("_buffer", "_credentials", "_ephemeral", "_failed", "_verified", "established")
    _initiator: ClassVar[bool]

    def __init__(
        self, credentials: Credentials, ephemeral: bytes, verified: keys.VerifiedKeys | None
    ) -> None:
        self._credentials = credentials
        self._ephemeral = ephemeral
        self._verified = keys.VerifiedKeys() if verified is None else verified
        self._buffer = b""
        self._failed = False
        self.established: Established | None = None

    def _state(self, version: int, role: int, psk: bytes | None) -> HandshakeState:
        return HandshakeState(
            PROTOCOL_NAMES[role],
            initiator=self._initiator,
            prologue=prologue(version, role),
            s=self._credentials.static_private,
            e=self._ephemeral,
            psks=() if psk is None else (psk,),
            s_public=self._credentials.static_public,
        )

    def _introduction(self, expect: bytes | None = None) -> bytes:
        mine = self._credentials
        return encode_introduction(
            PeerIntroduction(
                key=mine.identity,
                signature=mine.signature,
                name=mine.name,
                incarnation=mine.incarnation,
                port=mine.port,
                versions=VERSIONS,
                software=mine.software,
                capabilities=mine.capabilities,
                expect=expect,
            )
        )

    def _check(self, peer: PeerIntroduction, state: HandshakeState, version: int) -> None:
        assert state.remote_static is not None
        self._verified.verify(peer.key, state.remote_static, peer.signature)
        if version not in peer.versions:
            raise RemoteProtocolError("the peer does not speak the version it uses")
        own = self._credentials.identity
        if peer.key == own:  # the address leads back to ourselves, or to a copy of our card
            raise HandshakeRefused("wrong_node")
        if peer.expect not in (None, own):
            raise HandshakeRefused("wrong_node")

    def _take(self, data: bytes) -> None:
        """Start of `receive_data`: nothing goes on after a failure or after the end."""
        if self.established is not None:
            raise LocalProtocolError("the handshake is over; the rest belongs to records")
        if self._failed:
            raise RemoteProtocolError("the handshake failed before")
        self._failed = True  # until this read has proved itself
        self._buffer += data

    def _next_body(self, bytes_max: int, *, bytes_min: int = 0, last: bool = False) -> bytes | None:
        """Cut one whole message off the buffer, without its length; None while it is unfinished.

        Only after the last message may more follow.
        """
        buffer = self._buffer
        if len(buffer) < _LENGTH_BYTES:
            return None
        following = _LENGTH_BYTES + int.from_bytes(buffer[:_LENGTH_BYTES], "big")
        if not _LENGTH_BYTES + bytes_min <= following <= bytes_max:
            raise RemoteProtocolError("handshake message length out of range")
        if len(buffer) < following:
            return None
        if len(buffer) > following and not last:
            raise RemoteProtocolError("data before its turn")
        self._buffer = buffer[following:]
        return buffer[_LENGTH_BYTES:following]

    def _finish(
        self, peer: PeerIntroduction, role: int, psk_index: int | None, state: HandshakeState
    ) -> None:
        digest = state.handshake_hash
        to_responder, to_initiator = state.split()
        initiator = self._initiator
        self.established = Established(
            peer=peer,
            role=role,
            psk_index=psk_index,
            send=to_responder if initiator else to_initiator,
            receive=to_initiator if initiator else to_responder,
            handshake_hash=digest,
            rest=self._buffer,
        )
        self._buffer = b""


class Initiator(_Machine):
    """Byte machine for the side that dialled.

    `ephemeral`: 32 fresh random bytes for this handshake alone. `psk_index`: which of the
    credentials' cookies to offer. `expect`: the identity to reach; another one is refused before
    this node says who it is. `verified`: the node's cache of good signatures.
    """

    _initiator = True
    __slots__ = ("_expect", "_handshake", "_psk_index", "_role", "_started", "_version")

    def __init__(
        self,
        credentials: Credentials,
        *,
        role: int,
        ephemeral: bytes,
        psk_index: int = 0,
        version: int = VERSION,
        expect: bytes | None = None,
        verified: keys.VerifiedKeys | None = None,
    ) -> None:
        super().__init__(credentials, ephemeral, verified)
        member = role == ROLE_MEMBER
        if member and not 0 <= psk_index < len(credentials.psks):
            raise LocalProtocolError("a member needs a cookie to offer")
        self._role = role
        self._version = version
        self._psk_index = psk_index if member else None
        self._expect = expect
        self._started = False
        psk = credentials.psks[psk_index] if member else None
        self._handshake = self._state(version, role, psk)

    def start(self) -> bytes:
        """Message 1, once."""
        if self._started:
            raise LocalProtocolError("message 1 was made before")
        self._started = True
        return _framed(bytes((self._version, self._role)) + self._handshake.write_message())

    def receive_data(self, data: bytes) -> bytes:
        """Take bytes as they came; return what to send now (message 3, or nothing yet).

        Raises: `HandshakeRefused` when the peer, or this side, refuses; `RemoteProtocolError`.
        """
        if not self._started:
            raise LocalProtocolError("start comes first")
        self._take(data)
        answer = b""
        body = self._next_body(limits.HANDSHAKE_BYTES_MAX)
        if body is not None:
            answer = self._answer(body)
        self._failed = False
        return answer

    def _answer(self, body: bytes) -> bytes:
        peer = decode_answer(self._handshake.read_message(body))
        if isinstance(peer, Refusal):
            raise HandshakeRefused(peer.reason, versions=peer.versions)
        self._check(peer, self._handshake, self._version)
        if self._expect not in (None, peer.key):
            raise HandshakeRefused("wrong_node")
        message = self._handshake.write_message(self._introduction(self._expect))
        self._finish(peer, self._role, self._psk_index, self._handshake)
        return _framed(message)


class Responder(_Machine):
    """Byte machine for the side that accepted.

    `ephemeral`: 32 fresh random bytes for this handshake alone. `accept_strangers`: whether role 2
    may go on.
    """

    _initiator = False
    __slots__ = ("_accept_strangers", "_handshake", "_psk_index", "_role")

    def __init__(
        self,
        credentials: Credentials,
        *,
        ephemeral: bytes,
        accept_strangers: bool,
        verified: keys.VerifiedKeys | None = None,
    ) -> None:
        super().__init__(credentials, ephemeral, verified)
        self._accept_strangers = accept_strangers
        self._handshake: HandshakeState | None = None
        self._role: int = ROLE_STRANGER
        self._psk_index: int | None = None

    def receive_data(self, data: bytes) -> bytes:
        """Take bytes as they came; return what to send now (message 2, or nothing).

        Raises: `HandshakeRefused` with a `farewell` to send before closing; `RemoteProtocolError`:
        close without a word.
        """
        self._take(data)
        answer = b""
        if self._handshake is None:
            body = self._next_body(limits.HANDSHAKE_FIRST_BYTES_MAX, bytes_min=_FIRST_BYTES_MIN)
            if body is not None:
                answer = self._answer(body)
        else:
            body = self._next_body(limits.HANDSHAKE_BYTES_MAX, last=True)
            if body is not None:
                self._conclude(self._handshake, body)
        self._failed = False
        return answer

    def _answer(self, body: bytes) -> bytes:
        version, claimed, message = body[0], body[1], body[_PREAMBLE_BYTES:]
        spoken = version in VERSIONS
        if claimed == ROLE_MEMBER:
            state, payload = self._try_psks(version, message)
            if not spoken:
                refusal = encode_refusal(Refusal("version", VERSIONS))
                farewell = _framed(state.write_message(refusal))
                raise HandshakeRefused("version", versions=VERSIONS, farewell=farewell)
        elif claimed == ROLE_STRANGER and spoken and self._accept_strangers:
            state = self._state(version, ROLE_STRANGER, None)
            payload = state.read_message(message)
        else:
            raise RemoteProtocolError("strangers are not accepted, or not in this way")
        if payload:
            raise RemoteProtocolError("message 1 carries no payload in this version")
        self._role = claimed
        self._handshake = state
        return _framed(state.write_message(self._introduction()))

    def _try_psks(self, version: int, message: bytes) -> tuple[HandshakeState, bytes]:
        for index, psk in enumerate(self._credentials.psks):
            state = self._state(version, ROLE_MEMBER, psk)
            try:
                payload = state.read_message(message)
            except RemoteProtocolError:
                continue
            self._psk_index = index
            return state, payload
        raise RemoteProtocolError("no cookie of ours fits")

    def _conclude(self, state: HandshakeState, body: bytes) -> None:
        peer = decode_answer(state.read_message(body))
        if isinstance(peer, Refusal):
            raise HandshakeRefused(peer.reason, versions=peer.versions)
        self._check(peer, state, VERSION)
        self._finish(peer, self._role, self._psk_index, state)


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body
