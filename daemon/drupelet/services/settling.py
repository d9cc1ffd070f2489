"""Settling: waiting until nothing of what was cancelled still runs in the workers.

Decides how a worker is asked, and what happens to one that does not say yes in time.

Rules
- A worker is asked on its own channel, behind the CANCELs, about the calls that they were for: it
  answers when nothing of those runs (worker/endings.py). What others cancelled costs nobody
  anything.
- One that is silent, which a function in a thread or a loop without an ``await`` is enough for, is
  killed, with all that it started: that alone stops such code. It starts again as after a crash.
- A worker that is closing its channel cannot be asked: it is killed at once, not after its grace.
- A dead worker is waited for until the kernel has taken it away.

Rejected: a signal to the thread (Python code can catch or delay it, native code does not see it).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from drupelet.errors import CallError, Timeout
from drupelet.services.launchers import WorkerProcess
from drupelet.wire import frames
from drupelet.wire.codec import dumps

_log = logging.getLogger("drupelet.missions")

SETTLE_TARGET: Final = b"/settle"  # worker/endings.py: no mission has that name
RETRY_S: Final = 0.005  # a channel that is full now: its worker may read in a moment
REAP_S: Final = 5.0  # a killed process is gone at once unless the kernel waits for a disk
_PREFIX: Final = frames.call_body(SETTLE_TARGET, b"")
_YES: Final = b"\0" + dumps(True)


class Asked(Protocol):
    """What of `services/endpoint.py` this needs."""

    @property
    def closed(self) -> bool: ...

    async def call(self, prefix: bytes, args: bytes, deadline: float) -> bytes: ...


@dataclass(slots=True, eq=False)
class Worker:
    """One worker process, as long as it lives."""

    label: str
    process: WorkerProcess
    gone: trio.Event = field(default_factory=trio.Event)


async def settle(
    workers: Mapping[Asked, Worker], calls: Mapping[Asked, Collection[int]], within_s: float
) -> list[str]:
    """Until nothing of these calls, which were cancelled before, can run any more.

    `calls`: their ids by endpoint. Returns the labels of the workers that did not say so within
    `within_s` and were killed. Endpoints that are of no living worker are left out. Cancellation:
    nothing is certain.
    """
    deadline = trio.current_time() + within_s
    killed: list[str] = []
    async with trio.open_nursery() as nursery:
        for endpoint, idents in calls.items():
            worker = workers.get(endpoint)
            if worker is not None:
                args = dumps([list(idents)])
                nursery.start_soon(_settle, endpoint, args, worker, deadline, within_s, killed)
    return sorted(killed)


async def _settle(
    endpoint: Asked,
    args: bytes,
    worker: Worker,
    deadline: float,
    within_s: float,
    killed: list[str],
) -> None:
    if await _is_settled(endpoint, args, deadline):
        return
    if not endpoint.closed:
        killed.append(worker.label)
        _log.warning(
            "mission_unsettled mission=%s pid=%d did not end what was cancelled within %g s, "
            "killing it; it starts again",
            worker.label,
            worker.process.pid,
            within_s,
        )
    worker.process.kill()
    with trio.move_on_after(REAP_S):
        await worker.gone.wait()


async def _is_settled(endpoint: Asked, args: bytes, deadline: float) -> bool:
    """Whether it says so by then."""
    while not endpoint.closed and trio.current_time() < deadline:
        try:
            return await endpoint.call(_PREFIX, args, deadline) == _YES
        except Timeout:
            return False
        except CallError:  # it has no room for a call, or has just closed its channel
            with trio.CancelScope(deadline=deadline):
                await trio.sleep(RETRY_S)
    return False


__all__ = ["Asked", "Worker", "settle"]
