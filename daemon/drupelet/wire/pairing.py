"""Pairing: the code that a person carries from one node to the other, and what the two then say.

Decides what a code is, how it becomes one run of CPace, and the bytes of four messages and of an
invitation (what a QR code has). Who may try, and how often, is `core/pairing.py`'s.

- A code is eight letters of 24: no I and no O, which people read as digits. 36.7 bits, for one
  guess: whoever listens gets nothing to try others against.
- CPace's session is the hash of the link's handshake, and each side's share is bound to its own
  Ed25519 key. Who sits in the middle has two links with two hashes, so neither proof fits.
- Messages are deterministic CBOR maps with exactly their keys:

      joins -> waits   {"version": 1, "share"}          pair/start
      joins <- waits   {"share"}
      joins -> waits   {"proof"}                        pair/step
      joins <- waits   {"proof", "cookie", "environment"} or {"proof", "grant"}

Rejected: digits besides letters (a person reads a code aloud); a letter for checking (4.6 bits, for
a mistake that costs a walk); words (a list to translate); a part of the code that says whose it is
(the node asks the others who waits, and tells the person when two do).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any, Final

from drupelet.errors import RemoteProtocolError
from drupelet.wire.codec import dumps, loads_canonical
from drupelet.wire.cpace import SHARE_BYTES, TAG_BYTES, CPace
from drupelet.wire.ids import check_name
from drupelet.wire.limits import (
    GRANT_ADDRESSES_MAX,
    GRANT_FILE_CHARS_MAX,
    HOST_CHARS_MAX,
    INVITATION_CHARS_MAX,
    PAIR_COOKIE_CHARS_MAX,
    PAIR_MESSAGE_BYTES_MAX,
    RELAY_URL_CHARS_MAX,
)
from drupelet.wire.sodium import KEY_BYTES

ALPHABET: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ"
CODE_LETTERS: Final = 8
ENTROPY_BYTES: Final = 16  # far more than a code has, so that no letter is likelier
VERSION: Final = 1
PREFIX: Final = "drupelet-pair:"
_CHANNEL: Final = b"drupelet/pair/1"
_ENVIRONMENTS: Final = ("prod", "dev")


class OtherVersion(RemoteProtocolError):
    """The peer pairs in another way than this version does."""


# -- codes


def make_code(entropy: bytes) -> str:
    """Eight letters of ENTROPY_BYTES random bytes."""
    number = int.from_bytes(entropy, "big")
    letters = []
    for _ in range(CODE_LETTERS):
        number, place = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[place])
    return "".join(letters)


def show_code(code: str) -> str:
    """As people read it: in two halves."""
    return f"{code[:4]}-{code[4:]}"


def code_from_text(text: str) -> str:
    """What a person typed: in either case, with spaces and dashes. Raises: `ValueError`."""
    code = "".join(text.replace("-", "").split()).upper()
    if len(code) != CODE_LETTERS:
        raise ValueError(f"a code has {CODE_LETTERS} letters, and this has {len(code)}")
    wrong = next((each for each in code if each not in ALPHABET), None)
    if wrong is not None:
        raise ValueError(f"no code has {wrong!r}: the letters are A to Z without I and O")
    return code


def begin(code: str, *, session: bytes, own_key: bytes, private: bytes, initiator: bool) -> CPace:
    """One run. `initiator`: the side that joins; it proves first."""
    return CPace(
        code.encode(),
        channel=_CHANNEL,
        session=session,
        private=private,
        initiator=initiator,
        associated=own_key,
    )


# -- messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """What the side that waits hands over: its cookie, or a grant's file. `proof`: its own."""

    proof: bytes
    cookie: str = field(default="", repr=False)
    environment: str = ""
    grant: str = field(default="", repr=False)


def encode_start(share: bytes) -> bytes:
    """The first word of the side that joins."""
    return dumps({"share": share, "version": VERSION})


def decode_start(data: object) -> bytes:
    """The share. Raises: `RemoteProtocolError`; `OtherVersion` for a later version's."""
    match _map(data):
        case {"version": int(version)} if type(version) is int and version != VERSION:
            raise OtherVersion(f"pairing of version {version}, and this node has {VERSION}")
        case {"share": bytes(share), "version": int(version), **rest} if (
            not rest and type(version) is int and len(share) == SHARE_BYTES
        ):
            return share
    raise RemoteProtocolError("malformed start of pairing")


def encode_share(share: bytes) -> bytes:
    """The answer to it."""
    return dumps({"share": share})


def decode_share(data: object) -> bytes:
    """The share. Raises: `RemoteProtocolError`."""
    match _map(data):
        case {"share": bytes(share), **rest} if not rest and len(share) == SHARE_BYTES:
            return share
    raise RemoteProtocolError("malformed share")


def encode_proof(proof: bytes) -> bytes:
    """That the side that joins has the code."""
    return dumps({"proof": proof})


def decode_proof(data: object) -> bytes:
    """The proof. Raises: `RemoteProtocolError`."""
    match _map(data):
        case {"proof": bytes(proof), **rest} if not rest and len(proof) == TAG_BYTES:
            return proof
    raise RemoteProtocolError("malformed proof")


def encode_handed(handed: Handed) -> bytes:
    """That the other side has it too, and what it hands over."""
    if handed.grant:
        return dumps({"grant": handed.grant, "proof": handed.proof})
    return dumps(
        {"cookie": handed.cookie, "environment": handed.environment, "proof": handed.proof}
    )


def decode_handed(data: object) -> Handed:
    """The reverse. Raises: `RemoteProtocolError`."""
    match _map(data):
        case {
            "cookie": str(cookie),
            "environment": str(environment),
            "proof": bytes(proof),
            **rest,
        } if (
            not rest
            and len(proof) == TAG_BYTES
            and 0 < len(cookie) <= PAIR_COOKIE_CHARS_MAX
            and environment in _ENVIRONMENTS
        ):
            return Handed(proof=proof, cookie=cookie, environment=environment)
        case {"grant": str(grant), "proof": bytes(proof), **rest} if (
            not rest and len(proof) == TAG_BYTES and 0 < len(grant) <= GRANT_FILE_CHARS_MAX
        ):
            return Handed(proof=proof, grant=grant)
    raise RemoteProtocolError("malformed end of pairing")


def _map(data: object) -> dict[Any, Any]:
    if not isinstance(data, bytes) or len(data) > PAIR_MESSAGE_BYTES_MAX:
        raise RemoteProtocolError("no message of pairing, or one too large")
    value = loads_canonical(data)
    if not isinstance(value, dict):
        raise RemoteProtocolError("no message of pairing")
    return value


# -- invitations


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What a QR code has: the code, and whose it is. A secret for as long as the code is good."""

    code: str = field(repr=False)
    key: bytes
    name: str
    addresses: tuple[tuple[str, int], ...] = ()
    relay: str = ""  # the address of the relay where the code is shown, too


def encode_invitation(invitation: Invitation) -> str:
    """One line of text."""
    fields = {
        "addresses": [list(each) for each in invitation.addresses],
        "code": invitation.code,
        "key": invitation.key,
        "name": invitation.name,
        "relay": invitation.relay,
        "version": VERSION,
    }
    return PREFIX + base64.urlsafe_b64encode(dumps(fields)).rstrip(b"=").decode()


def decode_invitation(text: str) -> Invitation:
    """The reverse. Raises: `ValueError`."""
    body = text.strip().removeprefix(PREFIX)
    if len(body) > INVITATION_CHARS_MAX:
        raise ValueError(f"an invitation has at most {INVITATION_CHARS_MAX} characters")
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        fields = loads_canonical(data)
    except (binascii.Error, ValueError, RemoteProtocolError):
        raise ValueError("the invitation is cut off or was changed on its way") from None
    match fields:
        case {
            "addresses": list(addresses),
            "code": str(code),
            "key": bytes(key),
            "name": str(name),
            "relay": str(relay),
            "version": int(version),
            **rest,
        } if (
            not rest
            and version == VERSION
            and len(key) == KEY_BYTES
            and len(relay) <= RELAY_URL_CHARS_MAX
            and relay.isprintable()
        ):
            check_name(name)
            return Invitation(
                code=code_from_text(code),
                key=key,
                name=name,
                addresses=read_addresses(addresses),
                relay=relay,
            )
    raise ValueError("not an invitation, or one of a later version")


def read_addresses(addresses: list[object]) -> tuple[tuple[str, int], ...]:
    """Hosts and ports, at most GRANT_ADDRESSES_MAX. Raises: `ValueError`."""
    if len(addresses) > GRANT_ADDRESSES_MAX:
        raise ValueError(f"at most {GRANT_ADDRESSES_MAX} addresses")
    places = []
    for each in addresses:
        match each:
            case [str(host), int(port)] if (
                0 < len(host) <= HOST_CHARS_MAX and 0 < port < 65_536 and type(port) is int
            ):
                places.append((host, port))
            case _:
                raise ValueError("a malformed address")
    return tuple(places)
