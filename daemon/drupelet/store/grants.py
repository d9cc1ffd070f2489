"""Grants on disk: what this node issued, revoked and accepted, in ``state_dir/grants``.

Decides how they are kept: one file of 0600, a deterministic CBOR map with a check, put in the place
of the former one at once (`store/secret_files.py`), so that a power cut leaves either. It is read
whole and written whole: hundreds of grants are 100 kB, and it changes when a person does something.

Rules
- A file that is damaged is not used and not overwritten: a revocation in it might be lost. The node
  says so and issues nothing until it is mended or removed.
- All methods block for an fsync: call them in a thread.

Rejected: SQLite for a list that is read once; a file for each grant (a revocation of a mission
would be many renames, and a power cut between two of them).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final

from drupelet.core.grants import Issued, Revocation
from drupelet.errors import ConfigError, RemoteProtocolError
from drupelet.store.secret_files import create_secret_file, read_secret_file, replace_secret_file
from drupelet.wire.codec import dumps, loads_canonical
from drupelet.wire.limits import GRANTS_FILE_BYTES_MAX

_WHAT: Final = "the file of grants"
_CHECK_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptGrants:
    """Everything in the file. `accepted`: texts of grant files that others gave to us, by name."""

    issued: tuple[Issued, ...] = ()
    revoked: tuple[Revocation, ...] = ()
    accepted: tuple[str, ...] = ()


class GrantStore:
    """The file `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    def load(self) -> KeptGrants:
        """What is kept. Raises: `ConfigError` for a file that cannot be used."""
        data = read_secret_file(self._path, what=_WHAT, bytes_max=GRANTS_FILE_BYTES_MAX)
        if data is None:
            return KeptGrants()
        try:
            return _decode(data)
        except RemoteProtocolError as error:
            raise ConfigError(
                f"{_WHAT} is damaged: {error}",
                mend="restore it from a copy; if there is none, remove it, and every grant is gone",
                file=str(self._path),
            ) from None

    def save(self, kept: KeptGrants) -> None:
        """Keep that instead, for good. Raises: `ConfigError`."""
        data = _encode(kept)
        if len(data) > GRANTS_FILE_BYTES_MAX:
            raise ConfigError(
                f"{_WHAT} would have {len(data)} bytes, at most {GRANTS_FILE_BYTES_MAX}",
                mend="revoke what is no longer used",
                file=str(self._path),
            )
        if not os.path.lexists(self._path):
            create_secret_file(self._path, data, what=_WHAT)
        else:
            replace_secret_file(self._path, data, what=_WHAT)


def _encode(kept: KeptGrants) -> bytes:
    fields: dict[str, list[object]] = {
        "accepted": list(kept.accepted),
        "issued": [
            [each.data, None if each.left_s == inf else each.left_s] for each in kept.issued
        ],
        "revoked": [
            [each.issuer, sorted(each.ids), sorted(each.keys), each.sequence]
            for each in kept.revoked
        ],
    }
    return dumps({**fields, "check": _check(fields)})


def _check(fields: dict[str, list[object]]) -> bytes:
    return hashlib.blake2s(dumps(fields), digest_size=_CHECK_BYTES, person=b"drupgrnt").digest()


def _decode(data: bytes) -> KeptGrants:
    match loads_canonical(data):
        case {
            "accepted": list(accepted),
            "check": bytes(check),
            "issued": list(issued),
            "revoked": list(revoked),
            **rest,
        } if not rest:
            fields = {"accepted": accepted, "issued": issued, "revoked": revoked}
            if check != _check(fields):
                raise RemoteProtocolError("its check does not fit: a bit flipped, or it was edited")
            return KeptGrants(
                issued=tuple(_issued(each) for each in issued),
                revoked=tuple(_revocation(each) for each in revoked),
                accepted=tuple(str(each) for each in accepted),
            )
    raise RemoteProtocolError("it is another file")


def _issued(fields: object) -> Issued:
    match fields:
        case [bytes(data), None]:
            return Issued(data=data, left_s=inf)
        case [bytes(data), float(left_s)]:
            return Issued(data=data, left_s=left_s)
    raise RemoteProtocolError("a grant in it is malformed")


def _revocation(fields: object) -> Revocation:
    match fields:
        case [bytes(issuer), list(ids), list(keys), int(sequence)]:
            if all(isinstance(each, bytes) for each in (*ids, *keys)):
                return Revocation(
                    issuer=issuer, ids=frozenset(ids), keys=frozenset(keys), sequence=sequence
                )
    raise RemoteProtocolError("a revocation in it is malformed")
