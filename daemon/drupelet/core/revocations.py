"""Revocations as members tell them to each other, once they are linked again.

Decides what one node tells another of what it has revoked, and how the other sees that it knows it
all: by a digest of the whole, whatever the order in which it heard; and, when that differs, by all
of it in pieces.

    digest(revocations)                        # equal at both: nothing is to be told
    for piece in pieces(revocations): ...      # at most PIECE_MAX ids and keys in each
    from_piece(issuer, piece)                  # Raises: `RemoteError`

An id is 16 bytes and a key 32, so that asking which of them are missing would cost as much as
telling: 65,536 ids, the most that a node remembers, are 1.1 MB in 64 pieces; a usual node has ten.

Rejected: numbers that count up (a member that lost its disk has none, and one that heard two of
three has gaps); gossip of others' revocations (they are not signed: who told is who revoked).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final

from drupelet.core.grants import Revocation
from drupelet.errors import RemoteError
from drupelet.wire.codec import dumps
from drupelet.wire.grants import ID_BYTES
from drupelet.wire.sodium import KEY_BYTES

PIECE_MAX: Final = 1_024
_DIGEST_BYTES: Final = 16


def digest(revocations: Iterable[Revocation]) -> bytes:
    """Of what these take back, all together."""
    ids, keys = _joined(revocations)
    whole = dumps([sorted(ids), [[key, keys[key]] for key in sorted(keys)]])
    return blake2b(whole, digest_size=_DIGEST_BYTES).digest()


def pieces(revocations: Iterable[Revocation]) -> Iterator[list[object]]:
    """What these take back: ``[[id, ...], [[key, sequence], ...]]`` each."""
    ids, keys = _joined(revocations)
    entries: list[bytes | list[object]] = [*sorted(ids)]
    entries += [[key, keys[key]] for key in sorted(keys)]
    for start in range(0, len(entries), PIECE_MAX):
        part = entries[start : start + PIECE_MAX]
        yield [
            [each for each in part if isinstance(each, bytes)],
            [each for each in part if isinstance(each, list)],
        ]


def from_piece(issuer: bytes, piece: object) -> list[Revocation]:
    """What `issuer` told in a piece. Raises: `RemoteError`."""
    match piece:
        case [list(ids), list(keys)] if len(ids) + len(keys) <= PIECE_MAX:
            if all(isinstance(each, bytes) and len(each) == ID_BYTES for each in ids):
                found = [_of_key(issuer, each) for each in keys]
                if ids:
                    found.append(
                        Revocation(issuer=issuer, ids=frozenset(ids), keys=frozenset(), sequence=0)
                    )
                return found
    raise RemoteError("badarg", "a piece of revocations is malformed, or too long")


def _of_key(issuer: bytes, fields: object) -> Revocation:
    match fields:
        case [bytes(key), int(sequence)] if len(key) == KEY_BYTES and 0 <= sequence < 2**63:
            return Revocation(
                issuer=issuer, ids=frozenset(), keys=frozenset({key}), sequence=sequence
            )
    raise RemoteError("badarg", "a revoked key is malformed")


def _joined(revocations: Iterable[Revocation]) -> tuple[set[bytes], dict[bytes, int]]:
    ids: set[bytes] = set()
    keys: dict[bytes, int] = {}
    for each in revocations:
        ids |= each.ids
        for key in each.keys:
            keys[key] = max(keys.get(key, 0), each.sequence)
    return ids, keys


__all__ = ["PIECE_MAX", "digest", "from_piece", "pieces"]
