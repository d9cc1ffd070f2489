"""The names and keys of members that this node was ever linked with, in ``state_dir/members``.

Decides how they are kept: one small file of 0600, a deterministic CBOR map from names to keys, put
in the place of the former one at once. It changes when a new node joins, or one has a new key.

Rules
- It is no list of who may come: that the cookie decides. It says which names are taken, so that
  nobody else goes by one of them while its node is away (services/known_members.py).
- At most MEMBERS_KEPT_MAX; the one that was added first goes first.
- A damaged file is told and begins anew: what is lost is known again when the members are met.

All functions block for an fsync: call them in a thread.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from drupelet.errors import ConfigError, RemoteProtocolError
from drupelet.store.secret_files import create_secret_file, read_secret_file, replace_secret_file
from drupelet.wire.codec import dumps, loads_canonical
from drupelet.wire.ids import check_node
from drupelet.wire.limits import MEMBERS_KEPT_MAX
from drupelet.wire.sodium import KEY_BYTES

_WHAT: Final = "the file of members' names"
_BYTES_MAX: Final = MEMBERS_KEPT_MAX * 512


class MembersStore:
    """The file `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    def load(self) -> dict[str, bytes]:
        """Keys by name, the first that was added first. Raises: `ConfigError`."""
        data = read_secret_file(self._path, what=_WHAT, bytes_max=_BYTES_MAX)
        if data is None:
            return {}
        with contextlib.suppress(RemoteProtocolError, ValueError, TypeError):
            rows = loads_canonical(data)
            if isinstance(rows, list) and len(rows) <= MEMBERS_KEPT_MAX:
                return dict(_member(row) for row in rows)
        raise ConfigError(f"{_WHAT} is damaged", mend="remove it", file=str(self._path))

    def save(self, members: dict[str, bytes]) -> None:
        """Keep these instead, the last MEMBERS_KEPT_MAX. Raises: `ConfigError`."""
        rows = [[name, key] for name, key in members.items()][-MEMBERS_KEPT_MAX:]
        data = dumps(rows)
        if not create_secret_file(self._path, data, what=_WHAT):
            replace_secret_file(self._path, data, what=_WHAT)


def _member(row: object) -> tuple[str, bytes]:
    match row:
        case [str(name), bytes(key)] if len(key) == KEY_BYTES:
            check_node(name)
            return name, key
    raise ValueError("no name and key")
