"""Idempotency keys as programs say them, and the questions that carry them to the daemon.

Decides what a program's key is on the wire: 16 bytes are taken as they are, and of anything else a
digest of 16 bytes, so that an order's number or a URL will do. What a daemon does with it,
`services/outbox.py` and `services/once.py` decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from drupelet.errors import NotSendable, RemoteProtocolError
from drupelet.wire.codec import dumps, loads
from drupelet.wire.limits import IDEMPOTENCY_KEY_BYTES_MAX

KEY_BYTES: Final = 16
MISSION: Final = "once"
ASK: Final = "ask"
POST: Final = "post"

IdempotencyKey = bytes | str


def key_bytes(key: IdempotencyKey) -> bytes:
    """The key's 16 bytes. Raises: `NotSendable` for what is none."""
    if not isinstance(key, bytes | str) or not key:
        raise NotSendable("a text or bytes, and not empty", "idempotency_key")
    try:
        data = key.encode() if isinstance(key, str) else key
    except UnicodeEncodeError:
        raise NotSendable("the text is not Unicode", "idempotency_key") from None
    if len(data) > IDEMPOTENCY_KEY_BYTES_MAX:
        what = f"{len(data)} bytes, at most {IDEMPOTENCY_KEY_BYTES_MAX}"
        raise NotSendable(what, "idempotency_key")
    if isinstance(key, bytes) and len(key) == KEY_BYTES:
        return key
    return blake2b(data, digest_size=KEY_BYTES, person=b"drupelet once").digest()


def question(
    node: str,
    mission: str,
    function: str,
    args: Sequence[object],
    key: IdempotencyKey | None,
) -> tuple[str, str, bytes | None, bytes]:
    """The arguments of `once/ask` and `once/post`. Raises: `NotSendable`."""
    known = key_bytes(key) if key is not None else None
    return node, f"{mission}/{function}", known, dumps(list(args))


def value_of(answer: object) -> object:
    """What the function gave. Raises: `RemoteProtocolError`."""
    if not isinstance(answer, bytes):
        raise RemoteProtocolError("malformed answer to a call with an idempotency key")
    return loads(answer)


__all__ = [
    "ASK",
    "KEY_BYTES",
    "MISSION",
    "POST",
    "IdempotencyKey",
    "key_bytes",
    "question",
    "value_of",
]
