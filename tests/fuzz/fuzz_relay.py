"""Junk for a relay and for its nodes: messages, and announcements, also ones that a node signed."""

from __future__ import annotations

from hashlib import blake2b

import harness

with harness.instrumented():
    from drupelet.errors import LocalProtocolError, NotSendable, RemoteProtocolError
    from drupelet.wire.announcements import (
        ANNOUNCEMENT_DOMAIN,
        decode_announcement,
        decode_beacon,
    )
    from drupelet.wire.codec import dumps, loads
    from drupelet.wire.relay import decode_from_node, decode_from_relay, encode
    from drupelet.wire.signing import sign

SEED = bytes(range(32))
KEY = sign(SEED, b"", b"").key


def one_input(data: bytes) -> None:
    for decode in (decode_from_node, decode_from_relay):
        try:
            message = decode(data)
        except RemoteProtocolError:
            continue
        assert encode(message) == data
    _announcement(data)
    content, _, offers = data.partition(b"\xff\xff")
    try:
        fields = loads(content)
        if isinstance(fields, dict):
            hashed = blake2b(offers, digest_size=32).digest()
            content = dumps({**fields, 1: KEY, 7: hashed})
    except (RemoteProtocolError, LocalProtocolError, NotSendable):
        pass
    signature = sign(SEED, ANNOUNCEMENT_DOMAIN, content).signature
    _announcement(dumps([content, signature, offers]))


def _announcement(data: bytes) -> None:
    try:
        announcement = decode_announcement(data)
    except RemoteProtocolError:
        pass
    else:
        assert decode_beacon(announcement.beacon.data) == announcement.beacon
    try:
        beacon = decode_beacon(data)
    except RemoteProtocolError:
        return
    assert beacon.data == data


if __name__ == "__main__":
    harness.fuzz("relay", one_input)
