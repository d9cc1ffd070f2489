"""What a node and a relay say to each other: over a WebSocket, and the same over HTTP.

Decides the bytes. A message is one deterministic CBOR array ``[code, field, ...]`` in one binary
WebSocket message, or one HTTP body. daemon/docs/RELAY.md says in which order they come.

A node proves its key with a signature over "drupelet/relay/1", a zero byte, and the CBOR array
``[purpose, audience, nonce]``: purpose "login" or "register", audience the relay's host as the node
knows it, nonce the relay's of this connection. So a relay cannot use a login at another relay.

Rules
- `ref` is the node's number for a question; the answer (`Done`, `Refused`) has the same.
- What a relay forwards (`body`) it cannot read, and it adds to it only who sent it.
- A refusal has one of the codes of REFUSALS; a text is for people and may be empty.

References: RFC 6455; OAuth's and WebAuthn's audience in what is signed.
Rejected: JSON (bodies are bytes); HTTP status codes as the refusals (a WebSocket has none).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

from drupelet.errors import DrupeletError, RemoteProtocolError
from drupelet.wire.announcements import RUN_BYTES
from drupelet.wire.codec import dumps, loads_canonical
from drupelet.wire.ids import NUMBER_MAX
from drupelet.wire.limits import (
    GRANT_BYTES_MAX,
    HOST_CHARS_MAX,
    MAILBOX_KEPT_S,
    NAME_CHARS_MAX,
    PAIR_PLATES,
    PAIR_RELAYED_BYTES_MAX,
    RELAY_EMAIL_CHARS_MAX,
    RELAY_FRAME_BYTES_MAX,
    RELAY_MESSAGE_BYTES_MAX,
    RELAY_OFFERS_BYTES_MAX,
)
from drupelet.wire.signing import Signed, sign, verify
from drupelet.wire.sodium import KEY_BYTES, SIGNATURE_BYTES

VERSION: Final = 1
PROOF_DOMAIN: Final = b"drupelet/relay/1"
NONCE_BYTES: Final = 32
MESSAGE_ID_BYTES: Final = 16
SESSION_BYTES: Final = 32
INVITE_BYTES: Final = 16
_PROOF_BYTES: Final = 512
_NAME_CHARS: Final = NAME_CHARS_MAX + 1 + HOST_CHARS_MAX
_TEXT_CHARS: Final = 512

REFUSALS: Final = frozenset(
    {
        "not_registered",  # the relay does not know this key
        "not_verified",  # its owner has not approved it yet
        "denied",  # a bad signature, or its owner said no
        "bad_invite",
        "rate_limited",
        "mailbox_full",
        "not_found",  # no such node, or not for you
        "replayed",  # an announcement of another run, or not newer than the last
        "offers_wanted",  # send the announcement with its offers
        "malformed",
        "busy",  # the relay is full; later, or another
        "taken",  # another shows a code at that plate
    }
)

MESSAGE: Final = 0
RECEIPT: Final = 1  # the recipient has it: `re` is its id
EXPIRED: Final = 2  # it waited for too long, or its recipient's account went
PAIRING: Final = 3  # words of two nodes that pair
APPLY: Final = 4  # a PUT of somebody without an account: wire/http_calls.py

APPLY_KEY: Final = bytes(KEY_BYTES)  # who "sent" a PUT, and gets its answer: no account's key


class RelayRefused(DrupeletError):
    """A relay refuses. `code`: one of REFUSALS; `retry_after_s`: when it may help to ask again."""

    def __init__(self, code: str, text: str = "", retry_after_s: float = 0.0) -> None:
        assert code in REFUSALS
        super().__init__(f"{code}: {text}" if text else code)
        self.code = code
        self.text = text
        self.retry_after_s = retry_after_s


def refused(ref: int, refusal: RelayRefused) -> Refused:
    """The answer that says so."""
    retry_after_ms = int(refusal.retry_after_s * 1_000 + 0.999)
    return Refused(
        ref=ref, code=refusal.code, text=refusal.text[:200], retry_after_ms=retry_after_ms
    )


# -- proofs


def prove(seed: bytes, purpose: str, audience: str, nonce: bytes) -> bytes:
    """The signature that shows a key to the relay that gave `nonce`."""
    return sign(seed, PROOF_DOMAIN, dumps([purpose, audience, nonce])).signature


def check_proof(key: bytes, signature: bytes, purpose: str, audience: str, nonce: bytes) -> None:
    """Return if `key` signed. Raises: `RemoteProtocolError`. 45 us."""
    content = dumps([purpose, audience, nonce])
    verify(Signed(content, key, signature), PROOF_DOMAIN, _PROOF_BYTES)


# -- messages of a node


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """`key` is mine. `audience`: the relay's host, as in the address that the node was given."""

    CODE: ClassVar[int] = 1
    ref: int
    key: bytes
    audience: str
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """Make an account for `key`: with an invite's code, or with an address for the owner to see."""

    CODE: ClassVar[int] = 2
    ref: int
    key: bytes
    audience: str
    signature: bytes
    name: str
    invite: bytes | None
    email: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """An announcement: wire/announcements.py."""

    CODE: ClassVar[int] = 3
    ref: int
    announcement: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """`body` for the mailbox of `to`.

    `id`: 16 random bytes; the same again is the same message. `re`: the id that this answers.
    `kept_s`: how long it may wait. `receipt`: tell me when it was taken, or went.
    """

    CODE: ClassVar[int] = 4
    ref: int
    to: bytes
    id: bytes
    re: bytes | None
    kept_s: int
    receipt: bool
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """All messages up to `number` are kept here; the relay may forget them."""

    CODE: ClassVar[int] = 5
    ref: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Which nodes have announced a mission for my key, after the key `after` (empty: all)?"""

    CODE: ClassVar[int] = 6
    ref: int
    after: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Find:
    """The beacon of `node`; `grant`: one of it, where I am not its first holder; or empty."""

    CODE: ClassVar[int] = 7
    ref: int
    node: bytes
    grant: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    """Out of the catalogue at once."""

    CODE: ClassVar[int] = 8
    ref: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowPlate:
    """I show a code whose plate this is (`wire/pairing.py`), for `kept_s`; null: no more."""

    CODE: ClassVar[int] = 9
    ref: int
    plate: int | None
    kept_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FindPlate:
    """Who shows a code with that plate: `[key, name]`."""

    CODE: ClassVar[int] = 10
    ref: int
    plate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """`body` for `to`, of a pairing. `plate`: the one that `to` shows; null: I show one myself."""

    CODE: ClassVar[int] = 11
    ref: int
    to: bytes
    plate: int | None
    id: bytes
    re: bytes | None
    body: bytes


# -- messages of a relay


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First. `run`: for announcements; `nonce`: for the proof."""

    CODE: ClassVar[int] = 64
    version: int
    nonce: bytes
    run: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The answer: null, or what was asked for."""

    CODE: ClassVar[int] = 65
    ref: int
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The other answer."""

    CODE: ClassVar[int] = 66
    ref: int
    code: str
    text: str
    retry_after_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """A message of your mailbox. `sender`: the account that brought it."""

    CODE: ClassVar[int] = 67
    number: int
    kind: int
    sender: bytes
    id: bytes
    re: bytes | None
    body: bytes


FromNode: TypeAlias = (
    Login
    | Register
    | Announce
    | Send
    | Ack
    | Catalogue
    | Find
    | Withdraw
    | ShowPlate
    | FindPlate
    | Pair
)
FromRelay: TypeAlias = Hello | Done | Refused | Deliver

Check: TypeAlias = Callable[[Any], bool]
Table: TypeAlias = Mapping[int, tuple[type, tuple[str, ...]]]  # code: class, its fields in order


def _bytes(size: int) -> Check:
    return lambda value: type(value) is bytes and len(value) == size


def _bytes_to(top: int) -> Check:
    return lambda value: type(value) is bytes and len(value) <= top


def _text(top: int) -> Check:
    return lambda value: type(value) is str and len(value) <= top


def whole(low: int, top: int) -> Check:
    """A field that is a number from `low` to `top`."""
    return lambda value: type(value) is int and low <= value <= top


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


_KEY: Final = _bytes(KEY_BYTES)
_ID: Final = _bytes(MESSAGE_ID_BYTES)
CHECKS: Final[Mapping[str, Check]] = {
    "ref": whole(0, NUMBER_MAX),
    "key": _KEY,
    "audience": _text(HOST_CHARS_MAX),
    "signature": _bytes(SIGNATURE_BYTES),
    "name": _text(_NAME_CHARS),
    "invite": _or_none(_bytes(INVITE_BYTES)),
    "email": _or_none(_text(RELAY_EMAIL_CHARS_MAX)),
    "announcement": _bytes_to(RELAY_OFFERS_BYTES_MAX + 1_024),
    "to": _KEY,
    "id": _ID,
    "re": _or_none(_ID),
    "kept_s": whole(1, MAILBOX_KEPT_S),
    "receipt": lambda value: type(value) is bool,
    "body": _bytes_to(RELAY_MESSAGE_BYTES_MAX),
    "number": whole(1, NUMBER_MAX),
    "after": lambda value: value == b"" or _KEY(value),
    "node": _KEY,
    "grant": _bytes_to(GRANT_BYTES_MAX),
    "version": whole(1, 2**16),
    "nonce": _bytes(NONCE_BYTES),
    "run": _bytes(RUN_BYTES),
    "value": lambda value: True,
    "code": lambda value: type(value) is str and value in REFUSALS,
    "text": _text(_TEXT_CHARS),
    "retry_after_ms": whole(0, NUMBER_MAX),
    "kind": whole(MESSAGE, APPLY),
    "plate": _or_none(whole(0, PAIR_PLATES - 1)),
    "sender": _KEY,
}


def table_of(*classes: type) -> Table:
    """The classes by their codes, for `decode_message`."""
    return {
        made.CODE: (made, tuple(field.name for field in dataclasses.fields(made)))  # type: ignore[attr-defined]
        for made in classes
    }


_OF_NODES: Final = table_of(
    *(Login, Register, Announce, Send, Ack, Catalogue, Find, Withdraw),
    *(ShowPlate, FindPlate, Pair),
)
_OF_RELAYS: Final = table_of(Hello, Done, Refused, Deliver)
_FIELDS: Final = {made: names for made, names in [*_OF_NODES.values(), *_OF_RELAYS.values()]}


def encode(message: FromNode | FromRelay) -> bytes:
    """The bytes of a message."""
    names = _FIELDS[type(message)]
    return dumps([message.CODE, *(getattr(message, name) for name in names)])


def decode_from_node(data: bytes) -> FromNode:
    """What a node said. Raises: `RemoteProtocolError`."""
    message: FromNode = decode_message(data, _OF_NODES, CHECKS)
    if isinstance(message, Register) and (message.invite is None) == (message.email is None):
        raise RemoteProtocolError("register with an invite or with an address")
    if isinstance(message, FindPlate) and message.plate is None:
        raise RemoteProtocolError("malformed plate in FindPlate")
    if isinstance(message, Pair) and len(message.body) > PAIR_RELAYED_BYTES_MAX:
        raise RemoteProtocolError("malformed body in Pair")
    return message


def decode_from_relay(data: bytes) -> FromRelay:
    """What a relay said. Raises: `RemoteProtocolError`."""
    message: FromRelay = decode_message(data, _OF_RELAYS, CHECKS)
    return message


def decode_message(data: bytes, table: Table, checks: Mapping[str, Check]) -> Any:
    """One message of `table`, each field checked by its name. Raises: `RemoteProtocolError`."""
    if len(data) > RELAY_FRAME_BYTES_MAX:
        raise RemoteProtocolError(f"message of {len(data)} bytes; at most {RELAY_FRAME_BYTES_MAX}")
    match parts := loads_canonical(data):
        case [int(code), *values] if type(parts) is list and type(code) is int and code in table:
            made, names = table[code]
        case _:
            raise RemoteProtocolError("malformed relay message")
    if len(values) != len(names):
        raise RemoteProtocolError(f"malformed {made.__name__}")
    for name, value in zip(names, values, strict=True):
        if not checks[name](value):
            raise RemoteProtocolError(f"malformed {name} in {made.__name__}")
    return made(**dict(zip(names, values, strict=True)))
