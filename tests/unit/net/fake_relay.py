"""A relay that says what a test tells it to: the other end of a WebSocket, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing
from wsproto import ConnectionType, WSConnection
from wsproto import events as ws

from drupelet.net.relay_socket import RelaySocket, open_socket
from drupelet.net.relay_way import Place
from drupelet.wire import relay as wire
from tests.unit.relay.nodes import ALICE

RUN = b"run of the relay"


async def passing(seconds: float) -> None:
    """On a clock that jumps."""
    with trio.move_on_after(seconds):
        await trio.sleep_forever()


class Fake:
    """The other end, over a stream in memory; it says what a test tells it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.ws = WSConnection(ConnectionType.SERVER)
        self.heard: list[Any] = []

    async def greet(self) -> None:
        """Answer the upgrade, and say hello."""
        while not self.heard:
            await self.hear()
        assert isinstance(self.heard.pop(), ws.Request)
        await self.say(ws.AcceptConnection())
        await self.tell(wire.Hello(version=1, nonce=bytes(32), run=RUN))

    async def hear(self) -> None:
        """What came next."""
        self.ws.receive_data(await self.stream.receive_some() or None)
        self.heard += self.ws.events()

    async def questions(self, count: int) -> list[Any]:
        """So many messages of the node."""
        found: list[Any] = []
        data = b""
        while len(found) < count:
            while not self.heard:
                await self.hear()
            event = self.heard.pop(0)
            if isinstance(event, ws.BytesMessage):
                data += event.data
                if event.message_finished:
                    found.append(wire.decode_from_node(data))
                    data = b""
        return found

    async def say(self, event: ws.Event) -> None:
        await self.stream.send_all(self.ws.send(event))

    async def tell(self, message: Any) -> None:
        await self.say(ws.BytesMessage(data=wire.encode(message)))

    async def done(self, *questions: Any) -> None:
        for each in questions:
            await self.tell(wire.Done(ref=each.ref, value=None))


Script = Callable[[Fake], Awaitable[None]]


@asynccontextmanager
async def against(
    monkeypatch: pytest.MonkeyPatch, script: Script, *, lockstep: bool = False
) -> AsyncIterator[RelaySocket]:
    """A way to a relay that greets and then follows the script."""

    async with raw(monkeypatch, greeted(script), lockstep=lockstep) as place:
        async with open_socket(place) as way:
            yield way


@asynccontextmanager
async def raw(
    monkeypatch: pytest.MonkeyPatch, script: Script, *, lockstep: bool = False
) -> AsyncIterator[Place]:
    pair = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
    ours, theirs = pair()

    async def connect(place: Place) -> trio.abc.Stream:
        return ours

    monkeypatch.setattr(Place, "connect", connect)
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it heard enough
                await script(Fake(theirs))

        nursery.start_soon(run)
        yield Place("http://127.0.0.1:1", ALICE.seed)
        nursery.cancel_scope.cancel()


def greeted(script: Script) -> Script:
    async def whole(fake: Fake) -> None:
        await fake.greet()
        await trio.testing.wait_all_tasks_blocked()  # the node has read that far
        await script(fake)

    return whole


async def closed_with(fake: Fake) -> int | None:
    """The code of the node's last word."""
    while not any(isinstance(each, ws.CloseConnection) for each in fake.heard):
        await fake.hear()
    return next(int(each.code) for each in fake.heard if isinstance(each, ws.CloseConnection))
