"""Announcements: what a node tells a relay of itself, and what the relay shows of it to others.

Decides their bytes. Who sees one, and for how long, `core/relay.py` decides.

    announcement = [beacon, signature, offers or null]
    signature      by the node's identity over "drupelet/announcement/1", a zero byte, the beacon

The beacon is a deterministic CBOR map, the same for all who may see it:

| key | value |
|---|---|
| 1 | the node's identity: Ed25519 key |
| 2 | its name |
| 3 | its X25519 key of this boot, which requests are sealed to |
| 4 | its newest token, 16 bytes, which requests are signed over |
| 5 | run: 16 bytes that the relay made when it started |
| 6 | sequence: above that of the node's last announcement in this run |
| 7 | BLAKE2b-256 of the offers |

Offers are for the relay alone: an array ``[mission, digests, mission, digests, ...]``, missions
sorted; `digests` are the holders' (`holder_digest`), 16 bytes each, sorted, one byte string.
They are null when they are those of the announcement before.

Rules
- The relay matches an asker's key against digests, so it learns of no holder that has no account.
- Who sees a beacon checks the signature himself: a relay cannot give out a key of its own.
- No clock: a replay has another run, or a sequence that was there.

References: Tor's hidden service descriptors (prop224) for hiding from a directory what it serves.
Rejected: missions in the beacon (an asker would see those of others); a digest of the holder alone
(the same for all nodes, so relays could join their tables).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.wire.bundles import mission_problem
from drupelet.wire.codec import dumps, loads_canonical
from drupelet.wire.ids import check_name
from drupelet.wire.limits import (
    RELAY_HOLDERS_MAX,
    RELAY_MISSIONS_MAX,
    RELAY_OFFERS_BYTES_MAX,
)
from drupelet.wire.signing import Signed, sign, verify
from drupelet.wire.sodium import KEY_BYTES

ANNOUNCEMENT_DOMAIN: Final = b"drupelet/announcement/1"
DIGEST_BYTES: Final = 16
RUN_BYTES: Final = 16
TOKEN_BYTES: Final = 16
_HASH_BYTES: Final = 32
_BEACON_BYTES: Final = 768  # fields of fixed size, and a name of up to 317
_SEQUENCE_TOP: Final = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Beacon:
    """A node as others see it, its signature good. `data`: [beacon, signature] as it travels."""

    key: bytes
    name: str
    boot_key: bytes
    token: bytes
    run: bytes
    sequence: int
    offers_hash: bytes
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """A beacon, and the digests of the holders of each mission; None: as before."""

    beacon: Beacon
    offers: Mapping[str, bytes] | None


def holder_digest(node: bytes, holder: bytes) -> bytes:
    """What a node's offers say of a holder."""
    return blake2b(node + holder, digest_size=DIGEST_BYTES, person=b"drupelet holder").digest()


def holds(digests: bytes, digest: bytes) -> bool:
    """Whether `digest` is one of those in the byte string."""
    at = digests.find(digest)
    while at > 0 and at % DIGEST_BYTES:
        at = digests.find(digest, at + 1)
    return at >= 0


def encode_offers(node: bytes, holders: Mapping[str, tuple[bytes, ...]]) -> bytes:
    """The offers of a node: mission -> the keys that hold a grant of it.

    Raises: `ValueError` for too many.
    """
    offers = {}
    for mission in sorted(holders):
        digests = sorted({holder_digest(node, holder) for holder in holders[mission]})
        offers[mission] = b"".join(digests)
    data = _encode_offers(offers)
    try:
        _decode_offers(data)
    except RemoteProtocolError as error:
        raise ValueError(str(error)) from None
    return data


def encode_announcement(
    seed: bytes,
    *,
    name: str,
    boot_key: bytes,
    token: bytes,
    run: bytes,
    sequence: int,
    offers: bytes,
    with_offers: bool = True,
) -> bytes:
    """An announcement by the node whose identity is `seed`; `offers`: from `encode_offers`."""
    hashed = blake2b(offers, digest_size=_HASH_BYTES).digest()
    content = {3: boot_key, 4: token, 5: run, 6: sequence, 7: hashed, 2: name}
    key = sign(seed, ANNOUNCEMENT_DOMAIN, b"").key
    signed = sign(seed, ANNOUNCEMENT_DOMAIN, dumps({1: key, **content}))
    data = dumps([signed.content, signed.signature, offers if with_offers else None])
    decode_announcement(data)
    return data


def encode_shown(beacon: bytes, offers: Mapping[str, bytes] | None) -> bytes:
    """The announcement that had that beacon and those offers, for another relay."""
    match loads_canonical(beacon):
        case [bytes(content), bytes(signature)]:
            return dumps(
                [content, signature, _encode_offers(offers) if offers is not None else None]
            )
    raise AssertionError("not a beacon that was decoded here")


def decode_announcement(data: bytes) -> Announcement:
    """The announcement in `data`, its signature checked. Raises: `RemoteProtocolError`. 60 us."""
    if len(data) > RELAY_OFFERS_BYTES_MAX + _BEACON_BYTES:
        raise RemoteProtocolError(f"announcement of {len(data)} bytes")
    match value := loads_canonical(data):
        case [bytes(content), bytes(signature), None] if type(value) is list:
            return Announcement(beacon=_beacon(content, signature), offers=None)
        case [bytes(content), bytes(signature), bytes(offers)] if type(value) is list:
            beacon = _beacon(content, signature)
            if blake2b(offers, digest_size=_HASH_BYTES).digest() != beacon.offers_hash:
                raise RemoteProtocolError("announcement: the offers are others")
            return Announcement(beacon=beacon, offers=_decode_offers(offers))
    raise RemoteProtocolError("malformed announcement")


def decode_beacon(data: bytes) -> Beacon:
    """The beacon that a relay shows, its signature checked. Raises: `RemoteProtocolError`."""
    if len(data) > _BEACON_BYTES:
        raise RemoteProtocolError(f"beacon of {len(data)} bytes")
    match value := loads_canonical(data):
        case [bytes(content), bytes(signature)] if type(value) is list:
            return _beacon(content, signature)
    raise RemoteProtocolError("malformed beacon")


def _beacon(content: bytes, signature: bytes) -> Beacon:
    match loads_canonical(content):
        case {
            1: bytes(key),
            2: str(name),
            3: bytes(boot_key),
            4: bytes(token),
            5: bytes(run),
            6: int(sequence),
            7: bytes(offers_hash),
            **rest,
        } if not rest and type(sequence) is int:
            pass
        case _:
            raise RemoteProtocolError("malformed beacon")
    sizes = [len(field) for field in (key, boot_key, token, run, offers_hash)]
    if sizes != [KEY_BYTES, KEY_BYTES, TOKEN_BYTES, RUN_BYTES, _HASH_BYTES]:
        raise RemoteProtocolError("malformed beacon")
    if not 0 < sequence < _SEQUENCE_TOP:
        raise RemoteProtocolError("beacon: sequence number out of range")
    try:
        check_name(name)
    except ValueError as error:
        raise RemoteProtocolError(f"beacon: {error}") from None
    verify(Signed(content, key, signature), ANNOUNCEMENT_DOMAIN, _BEACON_BYTES)
    return Beacon(
        key=key,
        name=name,
        boot_key=boot_key,
        token=token,
        run=run,
        sequence=sequence,
        offers_hash=offers_hash,
        data=dumps([content, signature]),
    )


def _encode_offers(offers: Mapping[str, bytes]) -> bytes:
    return dumps([part for pair in offers.items() for part in pair])


def _decode_offers(data: bytes) -> dict[str, bytes]:
    if len(data) > RELAY_OFFERS_BYTES_MAX:
        raise RemoteProtocolError(f"offers of {len(data)} bytes; at most {RELAY_OFFERS_BYTES_MAX}")
    parts = loads_canonical(data)
    if not isinstance(parts, list) or len(parts) % 2:
        raise RemoteProtocolError("malformed offers")
    if len(parts) > 2 * RELAY_MISSIONS_MAX:
        raise RemoteProtocolError(f"offers of more than {RELAY_MISSIONS_MAX} missions")
    offers: dict[str, bytes] = {}
    for mission, digests in zip(parts[::2], parts[1::2], strict=True):
        if mission_problem(mission) or not isinstance(mission, str) or mission in offers:
            raise RemoteProtocolError("offers: malformed mission")
        if not isinstance(digests, bytes) or len(digests) % DIGEST_BYTES:
            raise RemoteProtocolError("offers: malformed digests")
        offers[mission] = digests
    count = sum(map(len, offers.values())) // DIGEST_BYTES
    if count > RELAY_HOLDERS_MAX:
        raise RemoteProtocolError(f"offers with {count} holders; at most {RELAY_HOLDERS_MAX}")
    return offers
