"""Committing: what is written first and done afterwards, many in one fsync.

Decides the order: items are written in the order in which they come, in one batch as long as the
disk is at the former; then what was to be done after each is done, in that order. `after` waits for
all that came before it: an answer that tells of an item leaves when the item is durable.

Owns: one task, and one thread while it writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

import trio

T = TypeVar("T")
Then = Callable[[OSError | None], None]

BATCH_MAX: Final = 256  # items in one write
TICK_S: Final = 600.0  # so much of the time that it ran a power cut may take from the records


class Committing(Generic[T]):
    """`prepare` is given a batch, in the loop, and returns what writes it, in a thread.

    `tick` and `close` write as well: how late it is, and the end.
    """

    def __init__(
        self,
        prepare: Callable[[list[T]], Callable[[], None]],
        *,
        tick: Callable[[float], None],
        close: Callable[[float], None],
    ) -> None:
        self._prepare = prepare
        self._tick, self._close = tick, close
        self._queue: deque[tuple[list[T], Then]] = deque()
        self._writing = False
        self._filled = trio.Event()
        self._began = trio.current_time()
        self.write_count = 0

    @property
    def up_s(self) -> float:
        """Seconds since it was made, for the records' clock."""
        return trio.current_time() - self._began

    def put(self, item: T, then: Then) -> None:
        """Write it; `then` with None when it is durable, or with why it is not."""
        self._queue.append(([item], then))
        self._filled.set()

    def after(self, then: Callable[[], None]) -> None:
        """When all is durable that was put before: now, when it is already."""
        if not self._queue and not self._writing:
            then()
            return
        self._queue.append(([], lambda error: then()))
        self._filled.set()

    async def run(self) -> None:
        """Until cancelled; what was put by then is written."""
        try:
            while True:
                with trio.move_on_after(TICK_S):
                    await self._filled.wait()
                if self._queue:
                    await self._write()
                else:
                    with suppress(OSError):  # nothing is lost but the time since the last one
                        await trio.to_thread.run_sync(self._tick, self.up_s)
        finally:
            with trio.CancelScope(shield=True):
                while self._queue:
                    await self._write()
                with suppress(OSError):
                    await trio.to_thread.run_sync(self._close, self.up_s)

    async def _write(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_MAX))]
        if not self._queue:
            self._filled = trio.Event()
        items = [item for items, _ in batch for item in items]
        failure: OSError | None = None
        if items:
            self._writing = True
            try:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._prepare(items))
                self.write_count += 1
            except OSError as error:
                failure = error
            finally:
                self._writing = False
        for _, then in batch:
            then(failure)


__all__ = ["Committing"]
