"""One writer: jobs of many tasks, in as few transactions as the disk asks for.

Decides when a transaction begins: at once when the disk is idle, else with all that came while it
was busy. `write` returns when the job is durable. A full line refuses (`busy`) before anything is
done. Reads go to a thread of their own, so a slow fsync delays no delivery of what is durable.

References: group commit (DeWitt et al., 1984).
Rejected: a fixed wait to gather more (each message would pay it); SQLite in the loop's own thread
(an fsync on an SD card takes 5 to 500 ms).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import trio

from drupelet.relay.store import Job, Store
from drupelet.wire.limits import RELAY_WRITES_MAX
from drupelet.wire.relay import RelayRefused

T = TypeVar("T")
_BATCH: Final = 256  # jobs of one transaction: 64 MB of bodies at the very most
_LOST: Final = object()
_STOPPING: Final = "the relay is stopping"


class _Waiting:
    __slots__ = ("done", "job", "result")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.done = trio.Event()
        self.result: Any = None


class Writer:
    """`run` in a nursery; it raises `StoreFailed` when the disk does."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._line: list[_Waiting] = []
        self._stopped = False
        self._come = trio.Event()
        self._write_thread = trio.CapacityLimiter(1)
        self._read_thread = trio.CapacityLimiter(1)
        self.transactions = 0

    async def write(self, job: Callable[[Store], T]) -> T:
        """The job's result, durable. Raises: `RelayRefused`.

        A caller that is cancelled meanwhile does not know whether it was done; it may have been.
        """
        if self._stopped:
            raise RelayRefused("busy", _STOPPING)
        if len(self._line) >= RELAY_WRITES_MAX:
            raise RelayRefused("busy", "the disk does not keep up", 1.0)
        waiting = _Waiting(job)
        self._line.append(waiting)
        self._come.set()
        await waiting.done.wait()
        if waiting.result is _LOST:
            raise RelayRefused("busy", _STOPPING)
        result: T = waiting.result
        return result

    async def read(self, job: Callable[[Store], T]) -> T:
        """The result of a job that only reads."""
        return await trio.to_thread.run_sync(job, self._store, limiter=self._read_thread)

    async def run(self) -> None:
        """Write until cancelled; what has begun is finished, the others are refused."""
        batch: list[_Waiting] = []
        try:
            while True:
                await self._come.wait()
                batch, self._line = self._line[:_BATCH], self._line[_BATCH:]
                if not self._line:
                    self._come = trio.Event()
                jobs = [waiting.job for waiting in batch]
                results = await trio.to_thread.run_sync(
                    self._store.commit, jobs, limiter=self._write_thread
                )
                self.transactions += 1
                for waiting, result in zip(batch, results, strict=True):
                    waiting.result = result
                    waiting.done.set()
        finally:
            self._stopped = True
            for waiting in [*batch, *self._line]:
                if not waiting.done.is_set():
                    waiting.result = _LOST
                    waiting.done.set()

    async def changed(self) -> bool:
        """Whether another program has written."""
        return await trio.to_thread.run_sync(self._store.changed, limiter=self._write_thread)
