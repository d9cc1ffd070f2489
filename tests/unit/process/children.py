"""Children of supervisors, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
import trio.testing

from drupelet.process import (
    Pid,
    exit,
    receive,
    run,
    send,
)
from drupelet.process.children import Child
from drupelet.process.supervisor import Supervisor

settled = trio.testing.wait_all_tasks_blocked


class Log:
    """What children did, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def child(self, id: str, **options: Any) -> Child:
        return Child(id, (self.live, (id,)), **options)

    async def live(self, id: str) -> None:
        self.events.append(("start", id))
        try:
            reason = await receive()
            exit(reason)
        finally:
            self.events.append(("end", id))

    def taken(self) -> list[tuple[str, Any]]:
        taken, self.events = self.events, []
        return taken


def virtual(main: Callable[..., Any], *args: object) -> Any:
    clock = trio.testing.MockClock(autojump_threshold=0)
    return run(main, *args, clock=clock)


async def pids(supervisor: Pid) -> dict[Any, Any]:
    return {id: pid for id, pid, _, _ in await Supervisor.which_children(supervisor)}


async def end(supervisor: Pid, id: Any, reason: object = "boom") -> None:
    """A child ends, and the supervisor has dealt with that."""
    pid = (await pids(supervisor))[id]
    await send(pid, reason)
    await settled()


async def start(log: Log, ids: str, **options: Any) -> Pid:
    options = {"intensity": 5} | options
    return await Supervisor.start_link([log.child(id) for id in ids], **options)


async def waiting() -> None:
    await receive()
