"""State machines for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
import trio.testing

from drupelet.process import (
    Pid,
    flush,
    run,
    send,
)
from drupelet.process.gen_statem import KEEP_STATE, REPEAT_STATE, GenStatem
from tests.unit.process.servers import virtual

call = GenStatem.call
settled = trio.testing.wait_all_tasks_blocked


class Door(GenStatem):
    """The example at the top of gen_statem.py."""

    def init(self, code: str = "1234") -> str:
        self.code, self.tries = code, 0
        return "locked"

    def locked(self, kind: Any, content: Any) -> Any:
        match kind, content:
            case "call", ("enter", code) if code == self.code:
                self.reply("welcome")
                self.state_timeout(10, "lock")
                return "open"
            case "call", ("enter", _):
                self.tries += 1
                self.reply("wrong")
            case "cast", ("push", listener):
                del listener
                self.postpone()
        return None

    async def open(self, kind: Any, content: Any) -> Any:
        match kind, content:
            case "state_timeout", "lock":
                return "locked"
            case "cast", ("push", listener):
                await send(listener, "pushed")
        return None


class Machine(GenStatem):
    """Does in each event what `do` says, and tells `listener` of every event."""

    def init(self, listener: Pid, first: Any = "off") -> Any:
        self.listener = listener
        return first

    async def _event(self, kind: Any, content: Any) -> Any:
        await send(self.listener, (kind, content, self.state))
        match content:
            case ["do", *actions]:
                result: Any = None
                for action in actions:
                    result = getattr(self, action[0])(*action[1:]) or result
                return result
        return None

    off = on = _event

    def go(self, state: Any) -> Any:
        return {"repeat": REPEAT_STATE, "keep": KEEP_STATE}.get(state, state)

    async def terminate(self, reason: Any) -> None:
        await send(self.listener, ("terminate", reason, self.state))


class Entering(Machine):
    state_enter = True


async def do(machine: Pid, *actions: Any) -> list[Any]:
    """A cast that does that; what was told until the machine waits again."""
    await GenStatem.cast(machine, ["do", *actions])
    await settled()
    told: Any = [each for each in await flush() if isinstance(each, tuple)]
    return [each[:2] if each[0] != "cast" else each[0] for each in told]


def play(main: Callable[..., Any], *args: object) -> Any:
    return run(main, *args, clock=virtual())
