"""Junk for a grant: as bytes, and as fields that its issuer signed."""

from __future__ import annotations

import harness

with harness.instrumented():
    from drupelet.core.grants import Grants
    from drupelet.errors import (
        LocalProtocolError,
        NotPermitted,
        NotSendable,
        RemoteProtocolError,
        Revoked,
    )
    from drupelet.wire.codec import dumps, loads
    from drupelet.wire.grants import GRANT_DOMAIN, Grant, decode_grant, describe
    from drupelet.wire.signing import sign

SEED = bytes(range(32))
KEY = sign(SEED, b"", b"").key


def one_input(data: bytes) -> None:
    _check(data)
    content = data
    signature = sign(SEED, GRANT_DOMAIN, bytes(16) + content).signature
    _check(dumps([content, signature]))
    try:
        fields = loads(data)
        if isinstance(fields, dict):
            fields[1] = fields[2] = KEY
            content = dumps(fields)
    except (RemoteProtocolError, LocalProtocolError, NotSendable):
        return
    signature = sign(SEED, GRANT_DOMAIN, bytes(16) + content).signature
    _check(dumps([content, signature]))


def _check(data: bytes) -> None:
    grant: Grant | None = None
    try:
        grant = decode_grant(data)
    except RemoteProtocolError:
        pass
    else:
        assert decode_grant(grant.data) == grant
        assert describe(grant).endswith(".")
    door = Grants(KEY, lambda key: True)
    try:
        door.present(data, {KEY}, 0.0)
    except (NotPermitted, Revoked):
        pass
    else:
        assert grant is not None


if __name__ == "__main__":
    harness.fuzz("grants", one_input)
