"""What two relays say to each other, to show the same and to hand mail to where it is wanted.

Decides the bytes. A relay says things to its peer in batches, by HTTP, over a connection that it
opened; the peer answers each. The peer does the same over a connection of its own, so each of the
two has one way and no message crosses its answer. daemon/docs/RELAY.md says in which order.

    batch    [idle_ms, [message, ...]]      each message a byte string: [code, field, ...]
    answers  [answer, ...]                  each an encoded `Done` or `Refused`, in the same order

`idle_ms`: how long ago the last answers came. Who answers knows when it sent them, so it knows how
long both were on the way, and counts that as age of what is announced: never younger than it is.

A relay proves its key as a node does, with the purpose "peer". The other proves its own by signing
the first one's nonce, for that key: so neither can be somebody else with a good certificate.

Rules
- `run`: the relay's, which its nodes' announcements name. Its changes of accounts are numbered in
  that run; the other says up to which number it has them.
- Nothing here gives more than a node's own words: announcements are signed by their nodes, mail is
  sealed. Accounts are the relay's word.

Rejected: one connection for both (which of the two opens it, when both lost it?); a WebSocket
(needs a client beside the server's library; batches are as quick, and each has an end).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

from drupelet.errors import RemoteProtocolError
from drupelet.wire.codec import dumps, loads_canonical
from drupelet.wire.ids import NUMBER_MAX, check_name
from drupelet.wire.limits import (
    MAILBOX_KEPT_S,
    RELAY_EMAIL_CHARS_MAX,
    RELAY_PEER_BATCH_BYTES_MAX,
    RELAY_PEER_BATCH_MESSAGES,
    RELAY_VERSION_TOP,
)
from drupelet.wire.relay import (
    CHECKS,
    MESSAGE,
    NONCE_BYTES,
    PAIRING,
    SESSION_BYTES,
    Check,
    Done,
    Refused,
    check_proof,
    decode_from_relay,
    decode_message,
    encode,
    prove,
    table_of,
    whole,
)
from drupelet.wire.sodium import KEY_BYTES, SIGNATURE_BYTES

PURPOSE: Final = "peer"
_ANSWER_PURPOSE: Final = "peer-answer"
_AGE_TOP_MS: Final = 60_000  # older ones are over anyway
STANDINGS: Final = 3  # pending, approved, denied


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLogin:
    """`key` is mine. Answer my `nonce` with your proof; `run`: see above."""

    CODE: ClassVar[int] = 128
    key: bytes
    audience: str
    signature: bytes
    nonce: bytes
    run: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAccount:
    """The change `number` here: an account. `standing`: 0 pending, 1 approved, 2 denied."""

    CODE: ClassVar[int] = 129
    number: int
    key: bytes
    name: str
    email: str
    standing: int
    lifts: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAnnounce:
    """What a node announced here, over my run, `age_ms` ago."""

    CODE: ClassVar[int] = 130
    announcement: bytes
    age_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerWithdraw:
    """The node `key` is out of my catalogue."""

    CODE: ClassVar[int] = 131
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPresent:
    """Nodes are connected here, or are no more; keys end to end. `fresh`: forget those before."""

    CODE: ClassVar[int] = 132
    fresh: bool
    come: bytes
    gone: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerMail:
    """A message for `to`, who is connected at yours; I forget it when you say Done."""

    CODE: ClassVar[int] = 133
    to: bytes
    sender: bytes
    kind: int
    id: bytes
    re: bytes | None
    receipt: bool
    left_s: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRegister:
    """`key` proved itself to me and showed an invite that I do not know: is it one of yours?"""

    CODE: ClassVar[int] = 134
    key: bytes
    name: str
    code: bytes


PeerMessage: TypeAlias = (
    PeerAccount | PeerAnnounce | PeerWithdraw | PeerPresent | PeerMail | PeerRegister
)
Answer: TypeAlias = Done | Refused


def _keys(value: object) -> bool:
    most = RELAY_PEER_BATCH_MESSAGES * KEY_BYTES
    return type(value) is bytes and len(value) % KEY_BYTES == 0 and len(value) <= most


def _name(value: object) -> bool:
    """A node's name, or none: the owner has judged a key before it came."""
    if type(value) is not str:
        return False
    try:
        check_name(value)
    except ValueError:
        return not value
    return True


def _email(value: object) -> bool:
    return type(value) is str and len(value) <= RELAY_EMAIL_CHARS_MAX and value.isprintable()


_CHECKS: Final[Mapping[str, Check]] = {
    **CHECKS,
    "name": _name,
    "email": _email,
    "standing": whole(0, STANDINGS - 1),
    "lifts": whole(0, RELAY_VERSION_TOP),
    "version": whole(1, RELAY_VERSION_TOP),
    "age_ms": whole(0, _AGE_TOP_MS),
    "fresh": lambda value: type(value) is bool,
    "come": _keys,
    "gone": _keys,
    "kind": whole(MESSAGE, PAIRING),  # who waits for a PUT waits at the relay that it came to
    "left_s": whole(1, MAILBOX_KEPT_S),
    "code": CHECKS["id"],
}
_LOGIN: Final = table_of(PeerLogin)
_MESSAGES: Final = table_of(
    PeerAccount, PeerAnnounce, PeerWithdraw, PeerPresent, PeerMail, PeerRegister
)


def keys_in(data: bytes) -> list[bytes]:
    """The keys of `come` and `gone`."""
    return [data[at : at + KEY_BYTES] for at in range(0, len(data), KEY_BYTES)]


def age_ms(age_s: float) -> int:
    """The field of that name."""
    return min(max(int(age_s * 1_000 + 0.999), 0), _AGE_TOP_MS)


def encode_peer(message: PeerLogin | PeerMessage) -> bytes:
    """The bytes of a message."""
    fields = dataclasses.fields(message)
    return dumps([message.CODE, *(getattr(message, field.name) for field in fields)])


def decode_account(value: object) -> PeerAccount:
    """The value of `Done` for a registration. Raises: `RemoteProtocolError`."""
    message = decode_message(value, _MESSAGES, _CHECKS) if type(value) is bytes else None
    if not isinstance(message, PeerAccount):
        raise RemoteProtocolError("malformed answer to a registration")
    return message


# -- the login


def peer_login(
    seed: bytes, key: bytes, audience: str, hello: bytes, nonce: bytes, run: bytes
) -> bytes:
    """The login of the relay whose identity is `seed`, over the nonce `hello` of the other."""
    signature = prove(seed, PURPOSE, audience, hello)
    return encode_peer(
        PeerLogin(key=key, audience=audience, signature=signature, nonce=nonce, run=run)
    )


def decode_login(data: bytes) -> PeerLogin:
    """Raises: `RemoteProtocolError`."""
    message: PeerLogin = decode_message(data, _LOGIN, _CHECKS)
    return message


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The value of `Done` for a login. `number`: the change up to which it has the accounts."""

    session: bytes
    proof: bytes
    number: int

    def value(self) -> list[object]:
        return [self.session, self.proof, self.number]


def welcome_proof(seed: bytes, login: PeerLogin) -> bytes:
    """The answering relay's proof."""
    return prove(seed, _ANSWER_PURPOSE, login.key.hex(), login.nonce)


def open_welcome(value: object, peer: bytes, key: bytes, nonce: bytes) -> Welcome:
    """The answer of `peer` to the login of `key`. Raises: `RemoteProtocolError`."""
    match value:
        case [bytes(session), bytes(proof), int(number)] if type(number) is int:
            pass
        case _:
            raise RemoteProtocolError("malformed answer to a login")
    sizes = len(session), len(proof)
    if sizes != (SESSION_BYTES, SIGNATURE_BYTES) or not 0 <= number <= NUMBER_MAX:
        raise RemoteProtocolError("malformed answer to a login")
    assert len(nonce) == NONCE_BYTES
    try:
        check_proof(peer, proof, _ANSWER_PURPOSE, key.hex(), nonce)
    except RemoteProtocolError:
        raise RemoteProtocolError("the relay there has another key than its entry says") from None
    return Welcome(session=session, proof=proof, number=number)


# -- batches


@dataclass(frozen=True, slots=True)
class Batch:
    """Some messages, and how long ago the last answers came."""

    idle_ms: int
    messages: Sequence[PeerMessage]


def encode_batch(idle_ms: int, messages: Sequence[bytes]) -> bytes:
    """Encoded messages, for one request."""
    data = dumps([idle_ms, list(messages)])
    assert len(data) <= RELAY_PEER_BATCH_BYTES_MAX and len(messages) <= RELAY_PEER_BATCH_MESSAGES
    return data


def decode_batch(data: bytes) -> Batch:
    """Raises: `RemoteProtocolError`."""
    if len(data) > RELAY_PEER_BATCH_BYTES_MAX:
        raise RemoteProtocolError(f"batch of {len(data)} bytes")
    match value := loads_canonical(data):
        case [int(idle_ms), list(parts)] if type(value) is list and type(idle_ms) is int:
            pass
        case _:
            raise RemoteProtocolError("malformed batch")
    if not 0 <= idle_ms <= NUMBER_MAX:
        raise RemoteProtocolError("malformed batch")
    if len(parts) > RELAY_PEER_BATCH_MESSAGES:
        raise RemoteProtocolError(f"batch of {len(parts)} messages")
    messages: list[PeerMessage] = []
    for part in parts:
        if type(part) is not bytes:
            raise RemoteProtocolError("malformed batch")
        messages.append(decode_message(part, _MESSAGES, _CHECKS))
    return Batch(idle_ms, messages)


def encode_answers(answers: Sequence[Answer]) -> bytes:
    """The body of the answer to a batch."""
    return dumps([encode(answer) for answer in answers])


def decode_answers(data: bytes, count: int) -> list[Answer]:
    """The answers to `count` messages. Raises: `RemoteProtocolError`."""
    parts = loads_canonical(data)
    if not isinstance(parts, list) or len(parts) != count:
        raise RemoteProtocolError("answers to another batch")
    answers: list[Answer] = []
    for part in parts:
        answer = decode_from_relay(part) if type(part) is bytes else None
        if not isinstance(answer, Done | Refused):
            raise RemoteProtocolError("malformed answers")
        answers.append(answer)
    return answers
