"""What the one door (services/calls.py) is to endpoints, and what it needs: where nodes are, and
what strangers may do.

Decides nothing: protocols, so that links and grants can import the door and not it them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from drupelet.services.endpoint import Endpoint
    from drupelet.wire.grants import Grant


class Router(Protocol):
    """Where an endpoint brings what its peer asks for."""

    def on_call(self, endpoint: Endpoint, ident: int, body: bytes) -> None: ...

    def on_cast(self, endpoint: Endpoint, body: bytes) -> None: ...

    def on_open(self, endpoint: Endpoint, ident: int, stream_type: bytes) -> None: ...


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
    """Where calls of strangers go (services/stranger_calls.py)."""

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


class Keeper(Protocol):
    """Who keeps casts until they have run (services/outbox.py)."""

    def takes(self, node: str, target: str, args: bytes) -> bool:
        """Whether a cast is kept: it is, from now on. Raises: `CallError` for want of room."""
        ...


class Border(Protocol):
    """What becomes of pids on links of strangers (services/proxies.py)."""

    def outgoing(self, endpoint: Endpoint, body: bytes) -> bytes:
        """An encoded value, for a stranger. Raises: `NotSendable`."""
        ...

    def incoming(self, endpoint: Endpoint, body: bytes) -> bytes:
        """An encoded value, of a stranger. Raises: `CallError`."""
        ...

    def answer(self, endpoint: Endpoint, body: bytes, grant: Grant | None = None) -> bytes:
        """As `outgoing`; `grant`: by which it was called. Raises: `CallError`."""
        ...

    def forward(
        self,
        origin: Endpoint,
        ident: int,
        endpoint: Endpoint,
        prefix: bytes,
        args: bytes,
        deadline: float,
        more: int,
    ) -> None:
        """Pass on a call to a stranger. Answers it, now or later."""
        ...

    def on_cast(self, endpoint: Endpoint, target: bytes, body: bytes) -> bool:
        """A CAST of a stranger; False: it is a call like others."""
        ...

    def withdraw(self, tickets: Iterable[int]) -> None:
        """Of grants that are revoked (core/holdings.py)."""
        ...

    def revoked(self, key: bytes) -> None:
        """A stranger's last right is gone; its link still stands."""
        ...
