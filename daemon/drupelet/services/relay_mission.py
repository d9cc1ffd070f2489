"""The `relay` mission: what a node tells its operator of its relay, and of what is there for it.

    status()     {"state": "up" | "down" | "connecting" | "off" | a refusal's code, "url", ...}
    catalogue()  [{"name", "key", "missions", "granted"}]

Decides the words only; `services/relay_link.py` knows. `missions` is what the relay says that the
node has for this one's key; `granted` what this node holds a grant of. The name and key are signed.
"""

from __future__ import annotations

from typing import Final

import trio

from drupelet.errors import RemoteError
from drupelet.services.accepted import Accepted
from drupelet.services.missions import Missions
from drupelet.services.relay_link import RelayLink
from drupelet.wire.keys import key_to_text

OPERATOR: Final = frozenset({"operator"})
OFF: Final = "this node uses no relay"
MEND: Final = "set [relay] url in its configuration, and restart it"


class RelayMission:
    """The functions of one node. `link`: None without a relay."""

    def __init__(self, link: RelayLink | None, accepted: Accepted) -> None:
        self._link = link
        self._accepted = accepted

    def register(self, missions: Missions) -> None:
        """Put the mission into the whitelist."""
        functions = {"status": self.status, "catalogue": self.catalogue}
        missions.add_system("relay", functions, OPERATOR)

    def status(self) -> dict[str, object]:
        """As `RelayLink.status`; its state is "off" without a relay."""
        if self._link is None:
            return {"state": "off", "why": OFF, "mend": MEND}
        return self._link.status()

    async def catalogue(self) -> list[dict[str, object]]:
        """Who is at the relay with something for this node. Raises: `NoConnection`."""
        if self._link is None:
            await trio.lowlevel.checkpoint()
            raise RemoteError("no_relay", f"{OFF}: {MEND}")
        held: dict[bytes, set[str]] = {}
        for file in self._accepted.files():
            held.setdefault(file.grant.issuer, set()).add(file.grant.mission)
        return [
            {
                "name": seen.beacon.name,
                "key": key_to_text(seen.beacon.key),
                "missions": list(seen.missions),
                "granted": sorted(held.get(seen.beacon.key, ())),
            }
            for seen in await self._link.catalogue()
        ]


__all__ = ["RelayMission"]
