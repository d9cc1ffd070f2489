"""Pairing through a relay: the plate of a code, and the words of two that no link joins.

Decides the bytes. What the words say is as on a link (`wire/pairing.py`): a share, a proof, what is
handed over. What a link gives besides, they get here.

- **The plate** tells the relay where a code is shown: 12 bits of a hash of all its letters, so that
  a mistyped code is looked for in vain (4,095 times of 4,096) and burns none. 24^8 codes are 36.7
  bits; who knows the plate has 24.7 left, one guess in 26.9 million.
- **Who** is at the other end: each word is signed by its sender's Ed25519 identity, with the
  recipient's key, the run, and what it answers. The shares are bound to both keys besides, and
  CPace's session to both keys, the run's 32 random bytes, and the name of who joins.
- **What is handed over** is encrypted with a key of this run of CPace (ChaCha20-Poly1305, and an
  HMAC over it): the relay took no part in it, and whoever did has the code.

A word is the CBOR array `[content, signature]`; `content` a deterministic CBOR map:

| of an ask | | of an answer | |
|---|---|---|---|
| 1 | the recipient's key | 1 | the recipient's key |
| 2 | run: 32 bytes | 2 | run |
| 3 | step: "start", "step", "done" | 3 | id of the ask, 16 bytes |
| 4 | the sender's name | 4 | payload, or null |
| 5 | payload | 5 | null, or an error's fields |

References: draft-irtf-cfrg-cpace, "sid" chosen by the initiator; magic-wormhole's nameplates.
Rejected: letters of the code as the plate, as magic-wormhole has it (a typing error in the other
letters then burns the code); sealing to the identity alone (it would outlive the run, and a code
that is learned later must open nothing).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from drupelet.errors import (
    CallError,
    RemoteProtocolError,
    error_from_fields,
    error_to_fields,
)
from drupelet.wire import sodium
from drupelet.wire.codec import dumps, loads_canonical
from drupelet.wire.ids import check_name
from drupelet.wire.limits import (
    PAIR_PLATES,
    PAIR_RELAYED_BYTES_MAX,
)
from drupelet.wire.pairing import read_addresses
from drupelet.wire.signing import Signed, sign, verify
from drupelet.wire.sodium import SIGNATURE_BYTES

RUN_BYTES: Final = 32
ASK_DOMAIN: Final = b"drupelet/pair-ask/1"
ANSWER_DOMAIN: Final = b"drupelet/pair-answer/1"
STEPS: Final = ("start", "step", "done")
_PLATE: Final = b"drupelet/pair-plate/1\0"
_MET: Final = b"drupelet/pair-met/1\0"
_TAG_BYTES: Final = 32  # HMAC-SHA256
_SESSION: Final = b"drupelet/pair-relay/1\0"


def plate_of(code: str) -> int:
    """Where that code is looked for."""
    return int.from_bytes(sha256(_PLATE + code.encode()).digest()[:8], "big") % PAIR_PLATES


def session_of(run: bytes, joins: bytes, waits: bytes, name: str) -> bytes:
    """CPace's session: who joins, by which name, and who waits, in this run."""
    return sha256(_SESSION + dumps([run, joins, waits, name])).digest()


# -- words


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A word of the side that joins."""

    run: bytes
    step: str
    name: str
    payload: bytes


def encode_ask(seed: bytes, to: bytes, ask: Ask) -> bytes:
    """Signed by `seed`, for `to` alone."""
    content = dumps({1: to, 2: ask.run, 3: ask.step, 4: ask.name, 5: ask.payload})
    return dumps([content, sign(seed, ASK_DOMAIN, content).signature])


def decode_ask(data: bytes, sender: bytes, own: bytes) -> Ask:
    """What `sender` says to us. Raises: `RemoteProtocolError`."""
    match _opened(data, sender, ASK_DOMAIN):
        case {1: bytes(to), 2: bytes(run), 3: str(step), 4: str(name), 5: bytes(payload)} as fields:
            if len(fields) == 5 and to == own and len(run) == RUN_BYTES and step in STEPS:
                try:
                    check_name(name)
                except ValueError as error:
                    raise RemoteProtocolError(str(error)) from None
                return Ask(run=run, step=step, name=name, payload=payload)
    raise RemoteProtocolError("malformed word of a pairing")


def encode_answer(
    seed: bytes, to: bytes, run: bytes, re: bytes, answer: bytes | CallError
) -> bytes:
    """Signed by `seed`, for `to` alone: a payload, or a refusal."""
    said = [None, error_to_fields(answer)] if isinstance(answer, CallError) else [answer, None]
    content = dumps({1: to, 2: run, 3: re, 4: said[0], 5: said[1]})
    return dumps([content, sign(seed, ANSWER_DOMAIN, content).signature])


def decode_answer(data: bytes, sender: bytes, own: bytes, run: bytes, re: bytes) -> bytes:
    """The answer to the ask `re`. Raises: `CallError` that it says; `RemoteProtocolError`."""
    match _opened(data, sender, ANSWER_DOMAIN):
        case {1: bytes(to), 2: bytes(its_run), 3: bytes(its_re), 4: payload, 5: error} as fields:
            if len(fields) == 5 and (to, its_run, its_re) == (own, run, re):
                if isinstance(payload, bytes) and error is None:
                    return payload
                if payload is None and error is not None:
                    raise error_from_fields(error)
    raise RemoteProtocolError("malformed answer of a pairing")


def _opened(data: bytes, sender: bytes, domain: bytes) -> dict[object, object]:
    if len(data) > PAIR_RELAYED_BYTES_MAX:
        raise RemoteProtocolError("a word of a pairing that is too long")
    match loads_canonical(data):
        case [bytes(content), bytes(signature)] if len(signature) == SIGNATURE_BYTES:
            verify(Signed(content, sender, signature), domain, PAIR_RELAYED_BYTES_MAX)
            fields = loads_canonical(content)
            if isinstance(fields, dict):
                return fields
    raise RemoteProtocolError("malformed word of a pairing")


# -- what is handed over


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """What one tells the other when it knows who it is: where it may be reached, and `payload`."""

    name: str
    addresses: tuple[tuple[str, int], ...]
    payload: bytes


def encode_met(isk: bytes, step: str, met: Met) -> bytes:
    """Encrypted with the key of this run, for its step `step`: of use once."""
    addresses = [list(each) for each in met.addresses]
    key, tag_key = _keys(isk, step)
    text = sodium.encrypt(key, 0, dumps({1: met.name, 2: addresses, 3: met.payload}))
    return hmac.digest(tag_key, text, "sha256") + text


def decode_met(isk: bytes, step: str, data: bytes) -> Met:
    """The reverse. Raises: `RemoteProtocolError`, also for who has another code."""
    key, tag_key = _keys(isk, step)
    text = data[_TAG_BYTES:]
    if not hmac.compare_digest(hmac.digest(tag_key, text, "sha256"), data[:_TAG_BYTES]):
        raise RemoteProtocolError("another code, or another run")
    match loads_canonical(sodium.decrypt(key, 0, text)):
        case {1: str(name), 2: list(addresses), 3: bytes(payload)} as fields if len(fields) == 3:
            try:
                check_name(name)
                return Met(name=name, addresses=read_addresses(addresses), payload=payload)
            except ValueError as error:
                raise RemoteProtocolError(str(error)) from None
    raise RemoteProtocolError("malformed end of a pairing")


def _keys(isk: bytes, step: str) -> tuple[bytes, bytes]:
    """For encrypting, and for the tag in front, which commits to the key.

    Without that, one text could be made to open under the keys of many codes: many guesses in one.
    """
    made = hmac.digest(isk, _MET + step.encode(), "sha512")
    return made[:32], made[32:]
