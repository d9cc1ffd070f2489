"""A way to a relay in memory: it answers what a test tells it to."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from drupelet.core.relay_choice import By
from drupelet.net.relay_way import Place
from drupelet.wire import relay as wire

Answer = Callable[["FakeWay", Any], Any]


async def passing(seconds: float) -> None:
    """On a clock that jumps."""
    with trio.move_on_after(seconds):
        await trio.sleep_forever()


class _Question:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: Any = None

    async def value(self) -> Any:
        await self.done.wait()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class FakeWay:
    """A `RelayWay`. `answer`: what it does with each question, raising what it refuses with;
    `WAIT` leaves it unanswered.
    """

    WAIT = object()

    def __init__(self, place: Place, by: By, answer: Answer, run: bytes) -> None:
        self.place, self.by, self.run_id = place, by, run
        self.heard: list[Any] = []
        self.waiting: deque[_Question] = deque()
        self.inbox: deque[list[wire.Deliver]] = deque()
        self.failure: Exception | None = None
        self.changed = trio.Event()
        self._answer = answer

    def fail(self, failure: Exception) -> None:
        """It ends so."""
        self.failure = failure
        for each in self.waiting:
            each.result = failure
            each.done.set()
        self.tell()

    def tell(self, *messages: wire.Deliver) -> None:
        """Deliver."""
        if messages:
            self.inbox.append(list(messages))
        told, self.changed = self.changed, trio.Event()
        told.set()

    def of(self, kind: type) -> list[Any]:
        """What was heard of one kind."""
        return [each for each in self.heard if isinstance(each, kind)]

    async def login(self) -> None:
        await self.ask(self.place.login(bytes(32)))

    async def register(
        self, name: str, *, invite: bytes | None = None, email: str | None = None
    ) -> None:
        await self.ask(self.place.registration(bytes(32), name, invite=invite, email=email))

    async def begin(self, message: Any) -> _Question:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        self.heard.append(message)
        question = _Question()
        try:
            question.result = self._answer(self, message)
        except wire.RelayRefused as refusal:
            question.result = refusal
        if question.result is self.WAIT:
            self.waiting.append(question)
        else:
            question.done.set()
        self.tell()
        return question

    async def ask(self, message: Any) -> Any:
        return await (await self.begin(message)).value()

    async def messages(self) -> list[wire.Deliver]:
        while not self.inbox:
            if self.failure is not None:
                raise self.failure
            await self.changed.wait()
        return self.inbox.popleft()


class Relays:
    """Gives a way for each attempt; `opening` may raise instead. Put in place of `_open`."""

    def __init__(self, answer: Answer = lambda way, message: None) -> None:
        self.answer = answer
        self.opening: Callable[[By, Place], None] = lambda by, place: None
        self.ways: list[FakeWay] = []
        self.tried: list[tuple[float, str, By]] = []
        self.changed = trio.Event()

    @asynccontextmanager
    async def open(self, by: By, place: Place) -> AsyncIterator[FakeWay]:
        self.tried.append((trio.current_time(), place.url, by))
        await trio.lowlevel.checkpoint()
        self.opening(by, place)
        way = FakeWay(place, by, self.answer, b"%016d" % len(place.url))
        self.ways.append(way)
        told, self.changed = self.changed, trio.Event()
        told.set()
        yield way

    async def way(self, number: int) -> FakeWay:
        """The one of that number, when it is open."""
        while len(self.ways) <= number:
            await self.changed.wait()
        return self.ways[number]
