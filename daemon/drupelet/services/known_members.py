"""Known members: whose name is whose, also before they are met again after a start.

Decides nothing but that: a name belongs to the key of the member that was last linked under it. So
a grant that somebody else gave under a member's name is not used in the minutes in which that
member has not been met yet (services/accepted.py), and `drupelet revoke` names who is away.

Owns: one task that keeps what is new on disk, and tries again every AGAIN_S when that fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from drupelet.errors import ConfigError
from drupelet.services.links import Links, NodeEvent
from drupelet.store.members import MembersStore
from drupelet.wire.limits import MEMBERS_KEPT_MAX

_log = logging.getLogger("drupelet.members")

AGAIN_S: Final = 60.0


class KnownMembers:
    """Those of one node. `met`: the key of one that was met since the start, by its name."""

    def __init__(self, state_dir: Path, met: Callable[[str], bytes | None], links: Links) -> None:
        self._store = MembersStore(state_dir / "members")
        self._met = met
        links.listen(self.on_node)
        self._keys: dict[str, bytes] = {}  # the first added first
        self._changed = trio.Event()

    def restore(self) -> None:
        """What was kept, before the first link."""
        try:
            self._keys = self._store.load()
        except ConfigError as error:
            _log.warning("members_damaged what=%s, names are free until their nodes are met", error)

    def key_of(self, name: str) -> bytes | None:
        """The key of the member called ``name`` or ``name@host``, met or not."""
        return self._met(name) or self._keys.get(name) or self._keys.get(name.partition("@")[0])

    def keys(self) -> dict[str, bytes]:
        """All of them, by name."""
        return dict(self._keys)

    def on_node(self, event: NodeEvent) -> None:
        """A member came up: its name is its own."""
        if event.kind == "up" and self._keys.get(event.name) != event.key:
            self._keys.pop(event.name, None)
            if len(self._keys) >= MEMBERS_KEPT_MAX:
                del self._keys[next(iter(self._keys))]
            self._keys[event.name] = event.key
            self._changed.set()

    async def run(self) -> None:
        """Keep what is new."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            try:
                await trio.to_thread.run_sync(self._store.save, self.keys())
            except ConfigError as error:
                _log.warning("members_unkept what=%s, trying again", error)
                await trio.sleep(AGAIN_S)
                self._changed.set()


__all__ = ["KnownMembers"]
