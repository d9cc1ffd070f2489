"""A chan server with its services, in this process, on a port of loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from drupelet import chan
from drupelet.process import Pid, receive, send
from drupelet.process.running import open_runtime

CONF = """\
{port, 0}.
{service, nameServer, password, "ABXy45", mfa, mod_name_server, start_me_up, notUsed}.
{service, echo, password, "echo's own", mfa, chan_test_services, echo, {extra, 1}}.
"""


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def echo(mm: Pid, argument: object, extra: object) -> None:
    await send(mm, ("send", (argument, extra)))
    while True:
        match await receive():
            case ("chan", _, "crash"):
                raise ValueError("on purpose")
            case ("chan", _, "close"):
                await send(mm, "close")
            case ("chan", _, value):
                await send(mm, ("send", value))
            case ("chan_closed", _):
                return


@asynccontextmanager
async def serving(
    *, clock: Callable[[], float] = trio.current_time, text: str = CONF
) -> AsyncIterator[tuple[Pid, int]]:
    """The server's pid and port."""
    async with open_runtime():
        server = await chan.start_server(chan.parse_conf(text), clock=clock)
        yield server, await chan.port(server)
