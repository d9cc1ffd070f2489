"""Link messages: what two nodes tell each other inside the handshake, and right after it.

Decides the fields and bounds of three CBOR maps:

- `PeerIntroduction`, payload of handshake messages 2 and 3 (encrypted): who is speaking.
- `Refusal`, in place of the introduction in message 2: a member is told why; a stranger never is.
- `Welcome`, body of the first frame (HELLO) that the answering side sends on a finished link: the
  ring it puts the caller in, or why it refuses; and whether it had declared the caller down, so
  that a node that was suspended learns of it.

Rules: a map has exactly its keys; what a later version adds goes into `capabilities` (unknown words
are ignored) or comes with a new version number, which message 1 binds. The X25519 static key is
not repeated here: the handshake proves it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

from drupelet.errors import REASONS, LocalProtocolError, RemoteProtocolError
from drupelet.wire import codec
from drupelet.wire.ids import check_name
from drupelet.wire.sodium import KEY_BYTES, SIGNATURE_BYTES

INCARNATION_MAX: Final = 2**63 - 1
VERSION_MAX: Final = 255  # one byte in message 1
VERSIONS_COUNT_MAX: Final = 16
SOFTWARE_CHARS_MAX: Final = 64
CAPABILITIES_MAX: Final = 16
CAPABILITY_CHARS_MAX: Final = 32  # with all at their maximum the message has 1.1 of 2 KB
RINGS: Final = frozenset({"member", "stranger"})
REASON_CHARS_MAX: Final = 32  # one word
_PORT_MAX: Final = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerIntroduction:
    """Who is speaking.

    `key`: the Ed25519 identity. `signature`: by it, over the X25519 static key of this boot.
    `incarnation`: another one at each start, 0 to 2**63 - 1. `port`: where it takes links, 0 for
    nowhere. `versions`: protocol versions it speaks, newest first. `expect`: the identity that the
    sender wants to reach; a receiver with another one refuses.
    """

    key: bytes
    signature: bytes
    name: str
    incarnation: int
    port: int
    versions: tuple[int, ...]
    software: str
    capabilities: tuple[str, ...] = ()
    expect: bytes | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no link: a word of `errors.REASONS`, and the versions the refuser speaks."""

    reason: str
    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The answering side's first word on a finished link.

    `ring`: "member" or "stranger". `declared_down_incarnation`: the incarnation of the caller that
    this node had declared down, with the reason; None if it had not. `refused`: why not, after
    which the link is closed; None: welcome. Reasons are words of `errors.REASONS`, and the reader
    takes a word that it does not know yet.
    """

    ring: str
    declared_down_incarnation: int | None = None
    declared_down_reason: str | None = None
    refused: str | None = None


@functools.lru_cache(maxsize=8)  # a node introduces itself in the same way in each handshake
def encode_introduction(message: PeerIntroduction) -> bytes:
    """The payload of message 2 or 3. Raises: `LocalProtocolError` if a field breaks its bound."""
    try:
        _check_introduction(message)
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"our own introduction: {error}") from None
    fields: dict[str, object] = {
        "key": message.key,
        "signature": message.signature,
        "name": message.name,
        "incarnation": message.incarnation,
        "port": message.port,
        "versions": list(message.versions),
        "software": message.software,
        "capabilities": list(message.capabilities),
    }
    if message.expect is not None:
        fields["expect"] = message.expect
    return codec.dumps(fields)


def encode_refusal(message: Refusal) -> bytes:
    """The payload of a message 2 that refuses."""
    return codec.dumps({"refused": message.reason, "versions": list(message.versions)})


def decode_answer(payload: bytes) -> PeerIntroduction | Refusal:
    """The payload of message 2 or 3. Raises: `RemoteProtocolError`."""
    match codec.loads_control(payload):
        case {"refused": str(reason), "versions": list(versions), **rest} if not rest:
            if reason not in REASONS:
                raise RemoteProtocolError("refused for an unknown reason")
            return Refusal(reason, _versions(versions))
        case {
            "key": bytes(key),
            "signature": bytes(signature),
            "name": str(name),
            "incarnation": int(incarnation),
            "port": int(port),
            "versions": list(versions),
            "software": str(software),
            "capabilities": list(capabilities),
            **rest,
        }:
            message = PeerIntroduction(
                key=key,
                signature=signature,
                name=name,
                incarnation=incarnation,
                port=port,
                versions=_versions(versions),
                software=software,
                capabilities=_capabilities(capabilities),
                expect=_expect(rest),
            )
            _check_introduction(message)
            return message
    raise RemoteProtocolError("malformed introduction")


def encode_welcome(message: Welcome) -> bytes:
    """The body of the HELLO frame."""
    return codec.dumps(
        {
            "ring": message.ring,
            "declared_down_incarnation": message.declared_down_incarnation,
            "declared_down_reason": message.declared_down_reason,
            "refused": message.refused,
        }
    )


def decode_welcome(body: bytes) -> Welcome:
    """The reverse of `encode_welcome`. Raises: `RemoteProtocolError`."""
    match codec.loads_control(body):
        case {
            "ring": str(ring),
            "declared_down_incarnation": int() | None as incarnation,
            "declared_down_reason": str() | None as down_reason,
            "refused": str() | None as refused,
            **rest,
        } if not rest:
            _check(ring in RINGS, "unknown ring")
            _check(incarnation is None or _is_count(incarnation, INCARNATION_MAX), "incarnation")
            _check((incarnation is None) == (down_reason is None), "declared down without reason")
            for reason in (down_reason, refused):
                _check(reason is None or _is_short_text(reason, REASON_CHARS_MAX), "reason")
            return Welcome(
                ring=ring,
                declared_down_incarnation=incarnation,
                declared_down_reason=down_reason,
                refused=refused,
            )
    raise RemoteProtocolError("malformed welcome")


def _check(good: bool, what: str) -> None:
    if not good:
        raise RemoteProtocolError(what)


def _is_count(value: object, value_max: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= value_max


def _is_short_text(text: str, chars_max: int) -> bool:
    return 0 < len(text) <= chars_max and text.isascii() and text.isprintable()


def _versions(values: list[object]) -> tuple[int, ...]:
    _check(0 < len(values) <= VERSIONS_COUNT_MAX, "no protocol versions, or too many")
    versions = []
    for value in values:
        if not isinstance(value, int) or not _is_count(value, VERSION_MAX):
            raise RemoteProtocolError("protocol version out of range")
        versions.append(value)
    return tuple(versions)


def _capabilities(values: list[object]) -> tuple[str, ...]:
    _check(len(values) <= CAPABILITIES_MAX, "too many capabilities")
    words = []
    for value in values:
        if not isinstance(value, str):
            raise RemoteProtocolError("a capability is not a text")
        words.append(value)
    return tuple(words)


def _expect(rest: dict[object, object]) -> bytes | None:
    match rest:
        case {"expect": bytes(expect), **others} if not others:
            _check(len(expect) == KEY_BYTES, "expected key length")
            return expect
        case {**others} if not others:
            return None
    raise RemoteProtocolError("malformed introduction")


def _check_name(name: str) -> None:
    try:
        check_name(name)
    except ValueError:
        raise RemoteProtocolError("node name") from None


def _check_introduction(message: PeerIntroduction) -> None:
    _check(len(message.key) == KEY_BYTES, "key length")
    _check(len(message.signature) == SIGNATURE_BYTES, "signature length")
    _check_name(message.name)
    _check(_is_count(message.incarnation, INCARNATION_MAX), "incarnation out of range")
    _check(_is_count(message.port, _PORT_MAX), "port out of range")
    _check(_is_short_text(message.software, SOFTWARE_CHARS_MAX), "software version")
    _check(0 < len(message.versions) <= VERSIONS_COUNT_MAX, "protocol versions")
    _check(len(message.capabilities) <= CAPABILITIES_MAX, "too many capabilities")
    for word in message.capabilities:
        _check(_is_short_text(word, CAPABILITY_CHARS_MAX), "capability")
