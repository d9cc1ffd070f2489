"""Servers for tests."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from drupelet import cast
from drupelet.errors import RemoteError
from drupelet.process import Pid, exit, send, trap_exit
from drupelet.process.gen_server import GenServer, Stop


def virtual() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


class Counter(GenServer):
    def init(self, first: int = 0) -> None:
        self.count = first
        self.log: list[object] = []

    def add(self, number: int, times: int = 1) -> int:
        self.count += number * times
        return self.count

    async def add_slowly(self, number: int) -> int:
        await trio.sleep(1)
        return self.add(number)

    @cast
    def reset(self) -> None:
        self.count = 0

    def read(self) -> int:
        return self.count

    def history(self) -> list[object]:
        return self.log

    def crash(self) -> None:
        raise ValueError("bad")

    def leave(self, reason: object) -> None:
        exit(reason)

    def refuse(self) -> None:
        raise RemoteError("no_water", "the kettle is empty")

    def improper(self) -> object:
        self.count += 1
        return object()

    def who(self) -> object:
        assert self.caller is not None
        return self.caller[0]

    def finish(self, reason: object, how: str) -> object:
        if how == "raise":
            raise Stop(reason)
        if how == "raise with a reply":
            raise Stop(reason, "bye")
        self.stop(reason)
        return "bye"

    def handle_info(self, message: Any) -> None:
        self.log.append(message)


class Telling(Counter):
    """Tells `listener` what happens to it."""

    def init(self, listener: Pid, trapping: bool = False) -> None:  # type: ignore[override]
        super().init()
        self.listener = listener
        trap_exit(trapping)

    async def terminate(self, reason: Any) -> None:
        await send(self.listener, ("terminate", reason))
