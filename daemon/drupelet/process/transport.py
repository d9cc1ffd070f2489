"""What a runtime needs of the network: signals out, and calls of missions.

Decides nothing. A worker's and a client's channel to their daemon implement it, and the simulated
cluster; a runtime alone has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Transport(Protocol):
    """The way to the daemon of this node."""

    @property
    def congested(self) -> bool:
        """Whether too much waits already."""
        ...

    def send(self, signal: bytes) -> None:
        """Queue one signal; what is queued in one scheduler pass goes in one send."""
        ...

    async def wait_sendable(self) -> None:
        """Until it is not congested, or gone."""
        ...

    async def call(
        self, node: str, mission: str, function: str, args: Sequence[object], timeout: float
    ) -> object:
        """Call a mission's function on `node` ("" for this one). Raises: `CallError`."""
        ...

    async def cast(self, node: str, mission: str, function: str, args: Sequence[object]) -> None:
        """Call without an answer. Raises: `CallError`."""
        ...
