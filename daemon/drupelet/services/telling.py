"""Telling: a member that comes up hears what this node revoked while it was away.

Decides nothing that `core/revocations.py` can decide: asks each member that comes up whether it
knows all that this node has revoked, and tells it when it does not.

| function | from | |
|---|---|---|
| `grants/told` | members | the digest of all that they revoked: whether this node knows it |
| `grants/catch_up` | members | a piece of it |

Rules
- Each node tells what it revoked itself. What a revocation tells at once (services/grants.py) goes
  to who is connected then; whoever comes up later asks nobody, it is told.
- What is told is kept before this sees an answer, so one that was told needs no second telling.
- A member that refuses (its disk is full) is asked again every AGAIN_S while it is up.

Owns: one task for each member that is being told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

from drupelet.core import revocations
from drupelet.core.grants import Revocation
from drupelet.errors import CallError, NoConnection, RemoteError
from drupelet.services.calls import Calls
from drupelet.services.links import NodeEvent

_log = logging.getLogger("drupelet.grants")

TELL_S: Final = 5.0
AGAIN_S: Final = 10.0


class Telling:
    """What one node tells members. `own`: all that it revoked itself."""

    def __init__(self, calls: Calls, own: Callable[[], list[Revocation]]) -> None:
        self._calls = calls
        self._own = own
        self._up: dict[str, trio.CancelScope | None] = {}  # members; None: not begun
        self._woken = trio.Event()

    def on_node(self, event: NodeEvent) -> None:
        """A member came up, or went down."""
        scope = self._up.pop(event.name, None)
        if scope is not None:
            scope.cancel()
        if event.kind == "up":
            self._up[event.name] = None
            self._woken.set()

    async def run(self) -> None:
        """Tell, for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                for name, scope in self._up.items():
                    if scope is None:
                        self._up[name] = scope = trio.CancelScope()
                        nursery.start_soon(self._tell, name, scope)
                await self._woken.wait()
                self._woken = trio.Event()

    async def _tell(self, name: str, scope: trio.CancelScope) -> None:
        """Until it knows all, or is gone."""
        with scope:
            while True:
                try:
                    await self._tell_once(name)
                    return
                except NoConnection:
                    return  # told anew when it comes up
                except CallError as error:
                    _log.warning("revocations_untold to=%s what=%s", name, error)
                    if isinstance(error, RemoteError) and error.kind == "undef":
                        return  # of an older version
                await trio.sleep(AGAIN_S)

    async def _tell_once(self, name: str) -> None:
        own = self._own()
        digest = revocations.digest(own)
        if not own or await self._ask(name, "told", digest) is True:
            return
        for piece in revocations.pieces(own):
            await self._ask(name, "catch_up", piece)
        _log.info("revocations_told to=%s", name)

    async def _ask(self, name: str, function: str, argument: object) -> object:
        return await self._calls.call(name, "grants", function, argument, timeout=TELL_S)


__all__ = ["Telling"]
