"""What the one door (services/calls.py) needs: where nodes are, and what strangers may do.

Decides nothing: protocols, so that links and grants can import the door and not it them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from drupelet.services.endpoint import Endpoint


class Directory(Protocol):
    """How calls find other nodes (services/links.py)."""

    @property
    def own_name(self) -> str: ...

    def endpoint(self, node: str) -> Endpoint | None:
        """The endpoint of a connected node, by name."""
        ...

    async def connect(self, node: str) -> Endpoint:
        """Connect to a node that is not connected. Raises: `NoConnection`."""
        ...

    def connected(self) -> list[str]:
        """Names of all connected nodes."""
        ...


class StrangerDoor(Protocol):
    """Where calls of strangers go (services/grants.py)."""

    def on_call(
        self,
        endpoint: Endpoint,
        ident: int,
        target: bytes,
        flags: int,
        timeout_ms: int,
        args: bytes,
    ) -> None:
        """Answer it, now or later."""
        ...

    def cast(self, endpoint: Endpoint, target: bytes, args: bytes) -> None:
        """Deliver it, or count it as refused."""
        ...
