"""Event handlers for tests."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from drupelet.errors import (
    ProcessDown,
    RemoteError,
)
from drupelet.process import (
    Pid,
    exit,
    flush,
    self,
    send,
)
from drupelet.process.current import this_runtime
from drupelet.process.gen_event import GenEvent
from drupelet.process.gen_server import Stop

settled = trio.testing.wait_all_tasks_blocked
NAME = f"{__name__}.Teller"


class Teller(GenEvent):
    """Tells `listener` what happens to it."""

    def init(self, listener: Pid, id: object = 0, handed: object = None) -> None:
        self.listener, self.id = listener, id
        if handed is not None:
            this_runtime().send_or_raise(None, listener, (id, "handed", handed))

    async def handle_event(self, event: Any) -> None:
        await send(self.listener, (self.id, event))
        match event:
            case "remove":
                self.remove()
            case ("swap", *args):
                self.swap((Teller, "other"), self.listener, *args, why="a reason")
            case "swap for what fails":
                self.swap(Failing)
            case "crash":
                raise ValueError("bad")
            case "exit":
                exit("gone")
            case "stop":
                raise Stop("stopped")
            case list():
                event.append(self.id)

    def handle_call(self, request: Any) -> Any:
        match request:
            case "crash":
                raise ValueError("bad")
            case "crash of another":
                raise ProcessDown("noproc")
            case "refuse":
                raise RemoteError("no_water", "the kettle is empty")
            case "improper":
                return object()
            case "remove":
                self.remove()
        return (self.id, request)

    async def terminate(self, reason: Any) -> Any:
        await send(self.listener, (self.id, "terminate", reason))
        if reason == "crash":
            raise ValueError("badly ended")
        return ("left by", self.id)


class Informed(Teller):
    async def handle_info(self, message: Any) -> None:
        await send(self.listener, (self.id, "info", message))


class Failing(GenEvent):
    def init(self, how: object = None, *handed: object) -> None:
        match how:
            case "stop":
                raise Stop("no_luck")
            case "exit":
                exit("no_luck")
        raise ValueError("bad")


async def manager(*ids: object) -> Pid:
    """A manager with tellers of these ids."""
    pid = await GenEvent.start()
    for id in ids:
        await GenEvent.add_handler(pid, (Teller, id), self(), id)
    return pid


async def ids(pid: Pid) -> list[object]:
    return [
        name[1] if isinstance(name, tuple) else 0 for name in await GenEvent.which_handlers(pid)
    ]


async def told(pid: Pid) -> list[object]:
    """What was told until the manager waits again."""
    await settled()
    del pid
    return await flush()


class Silent(GenEvent):
    pass


class Silently(GenEvent):
    def handle_event(self, event: Any) -> None:
        pass
