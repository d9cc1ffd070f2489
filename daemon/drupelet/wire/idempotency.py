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
from drupelet.wire.limits import DONE_KEYS_MAX, IDEMPOTENCY_KEY_BYTES_MAX

KEY_BYTES: Final = 16
MISSION: Final = "once"
ASK: Final = "ask"
POST: Final = "post"
DONE_TARGET: Final = "once/done"

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


def done_keys(arguments: bytes) -> list[bytes]:
    """The keys that are never sent again: of `once/done`. Raises: `RemoteProtocolError`."""
    match loads(arguments):
        case [list(keys)] if len(keys) <= DONE_KEYS_MAX:
            if all(type(each) is bytes and len(each) == KEY_BYTES for each in keys):
                return keys
    raise RemoteProtocolError(f"done([key, ...]): at most {DONE_KEYS_MAX} keys of 16 bytes")


def value_of(answer: object) -> object:
    """What the function gave. Raises: `RemoteProtocolError`."""
    if not isinstance(answer, bytes):
        raise RemoteProtocolError("malformed answer to a call with an idempotency key")
    return loads(answer)


__all__ = [
    "ASK",
    "DONE_TARGET",
    "KEY_BYTES",
    "MISSION",
    "POST",
    "IdempotencyKey",
    "done_keys",
    "key_bytes",
    "question",
    "value_of",
]
