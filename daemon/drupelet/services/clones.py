"""Clones: says on every node that it is one of two with the same key.

Decides nothing that `core/clones.py` can decide: tells the node whose key it is, which else learns
of it only when it loses its place, and makes a sentence for `status` and `nodes`.

| function | who | |
|---|---|---|
| `seen` | members | a second node with the key of the one that is called is at that host |

Owns: one task that looks every CHECK_S; it costs a look into an empty table.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from drupelet.core.clones import Clones
from drupelet.errors import CallError, RemoteError
from drupelet.services.calls import Calls
from drupelet.services.endpoint import Endpoint
from drupelet.services.links import Links
from drupelet.services.missions import Missions

_log = logging.getLogger("drupelet.clones")

CHECK_S: Final = 5.0
TELL_S: Final = 60.0  # between two words to the same node
TELL_LIMIT_S: Final = 2.0
HOST_CHARS_MAX: Final = 64
MEND: Final = (
    "on the copy, stop drupeletd, remove node.key from its state_dir, and start it: it makes a key "
    "of its own"
)
_MEMBER: Final = frozenset({"member"})


class CloneWatch:
    """Of one node."""

    def __init__(self, links: Links, calls: Calls, missions: Missions) -> None:
        self._links = links
        self._calls = calls
        self._missions = missions
        self._own_key = links.credentials.identity
        self._told_at: dict[bytes, float] = {}
        self._warned = ""
        self.clones: Clones = links.membership.clones
        self.clones.own_incarnation = links.credentials.incarnation

    def register(self) -> None:
        """Put the mission into the whitelist."""
        self._missions.add_system("clones", {"seen": self.seen}, _MEMBER, with_endpoint=True)

    def seen(self, _: Endpoint, host: str) -> bool:
        """A member saw a second node with our key."""
        if not isinstance(host, str) or not 0 < len(host) <= HOST_CHARS_MAX:
            raise RemoteError("badarg", "seen(host)")
        self.clones.told(host, trio.current_time())
        return True

    def warning(self) -> str:
        """A sentence and its mend when another live node has our key; else ""."""
        now = trio.current_time()
        host = self.clones.of(self._own_key, now)
        refusing = self.clones.refusing(now)
        if not host and not refusing:
            return ""
        seen = f"it is at {host}" if host else f"the node at {refusing[0]} is linked with it"
        return f"another live node has the key of this one: {seen}; {MEND}"

    def of(self, key: bytes) -> str:
        """Where a second node with that key was seen; "" for none."""
        return self.clones.of(key, trio.current_time())

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await trio.sleep(CHECK_S)
            await self.look()

    async def look(self) -> None:
        """Tell nodes of their clones, and the log of our own."""
        now = trio.current_time()
        members = self._links.membership.nodes()
        names = {each.key: each.name for each in members if each.link_id is not None}
        for clone in self.clones.seen(now):
            name = names.get(clone.key)
            if name is None or now < self._told_at.get(clone.key, -TELL_S) + TELL_S:
                continue
            self._told_at[clone.key] = now
            _log.warning("clone name=%s host=%s: two live nodes have one key", name, clone.host)
            try:
                await self._calls.call(name, "clones", "seen", clone.host, timeout=TELL_LIMIT_S)
            except CallError as error:
                _log.info("clone_not_told name=%s why=%s", name, error)
        self._told_at = {key: at for key, at in self._told_at.items() if now < at + TELL_S}
        warning = self.warning()
        if warning and not self._warned:
            _log.warning("clone %s", warning)
        self._warned = warning
