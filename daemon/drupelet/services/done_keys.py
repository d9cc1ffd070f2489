"""Keys of casts that are done: told to who ran them, so that they need not be kept for a week.

Decides when: some seconds after the first, many in one message. What cannot be told is tried again,
and lost when this node ends: then the keys stay for their time. Nothing depends on it but room.

Owns: one task.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from drupelet.errors import CallError, NoConnection, RateLimited, RemoteProtocolError, Timeout
from drupelet.store.outbox import KeptCast
from drupelet.wire.limits import DONE_KEYS_MAX, DONE_WAITING_MAX

WAIT_S: Final = 5.0
AGAIN_S: Final = 60.0

Way = tuple[bytes, str, bytes]  # callee, target, holder


class DoneKeys:
    """Those of one node. `tell` is given a cast like them and their keys. Raises: `CallError`."""

    def __init__(self, tell: Callable[[KeptCast, list[bytes]], Awaitable[None]]) -> None:
        self._tell = tell
        self._keys: dict[Way, tuple[KeptCast, list[bytes]]] = {}
        self._filled = trio.Event()
        self.count = 0

    def add(self, cast: KeptCast) -> None:
        """One more; beyond DONE_WAITING_MAX it is not told."""
        if self.count >= DONE_WAITING_MAX:
            return
        self.count += 1
        way = (cast.callee, cast.target, cast.holder)
        self._keys.setdefault(way, (cast, []))[1].append(cast.key)
        self._filled.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._filled.wait()
            await trio.sleep(WAIT_S)
            self._filled = trio.Event()
            if not await self._tell_all():
                await trio.sleep(AGAIN_S)
                self._filled.set()

    async def _tell_all(self) -> bool:
        """Whether nothing is left to be told."""
        for way, (cast, keys) in list(self._keys.items()):
            while keys:
                told = keys[:DONE_KEYS_MAX]
                try:
                    await self._tell(cast, told)
                except (NoConnection, Timeout, RateLimited):
                    break
                except (CallError, RemoteProtocolError):  # it has no right any more, or is of old
                    told = list(keys)
                del keys[: len(told)]
                self.count -= len(told)
            if not keys:
                del self._keys[way]
        return not self._keys


__all__ = ["DoneKeys"]
