"""Lines: the connections of accounts, each with what its mailbox holds.

    with lines.open(key, after) as line:            # raises RelayRefused: busy
        messages = await line.next(); line.taken(number)

Decides how many there are of one account, and how much is under way to each.

Rules
- What two lines of one account get is the same; who takes it first, takes it from both.
- An account that has too many loses its oldest: that is the connection of a network it has left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

import trio

from drupelet.relay.store import Message
from drupelet.wire.limits import (
    RELAY_LINKS_MAX,
    RELAY_LINKS_PER_ACCOUNT_MAX,
    RELAY_MESSAGE_BYTES_MAX,
    RELAY_WINDOW_MESSAGES,
)
from drupelet.wire.relay import RelayRefused

_LINE_BYTES: Final = RELAY_MESSAGE_BYTES_MAX  # read ahead for one line: one large message, or many

Read: TypeAlias = Callable[[bytes, int, int, int], Awaitable[list[Message]]]


class Line:
    """One connection of an account, as its mailbox sees it."""

    def __init__(self, key: bytes, read: Read, after: int) -> None:
        self.key = key
        self.ended = False
        self._read = read
        self._after = after
        self._under_way: list[int] = []
        self._wake = trio.Event()
        self._look = True
        self.on_wake: Callable[[], None] | None = None  # instead of a task in `next`

    @property
    def has_more(self) -> bool:
        """Whether `now` may find something."""
        return self._look and len(self._under_way) < RELAY_WINDOW_MESSAGES and not self.ended

    def _woken(self) -> None:
        self._wake.set()
        if self.on_wake is not None:
            self.on_wake()

    def wake(self) -> None:
        """There may be something."""
        self._look = True
        self._woken()

    def end(self) -> None:
        """The account has another line instead, or is no more."""
        self.ended = True
        self._woken()

    def taken(self, number: int) -> None:
        """The node has all up to `number`: there is room under way."""
        self._under_way = [sent for sent in self._under_way if sent > number]
        self._woken()

    async def now(self) -> list[Message]:
        """What is there already, as far as there is room under way."""
        if not self.has_more:
            return []
        room = RELAY_WINDOW_MESSAGES - len(self._under_way)
        self._look = False
        messages = await self._read(self.key, self._after, room, _LINE_BYTES)
        if messages:
            self._look = True  # there may be more behind them
            self._after = messages[-1].number
            self._under_way += [message.number for message in messages]
        return messages

    async def next(self) -> list[Message]:
        """Waits for messages. Empty: the line has ended."""
        while not self.ended:
            self._wake = trio.Event()
            messages = await self.now()
            if messages:
                return messages
            if not self.ended:
                await self._wake.wait()
        return []


class Lines:
    """All of them. `came` and `left` hear of an account's first line, and of its last one's end."""

    def __init__(
        self, read: Read, *, came: Callable[[bytes], None], left: Callable[[bytes], None]
    ) -> None:
        self._read = read
        self._came = came
        self._left = left
        self._lines: dict[bytes, list[Line]] = {}
        self._count = 0
        self._opened = trio.Event()  # a new one for each line

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: bytes) -> bool:
        return key in self._lines

    async def wait_open(self, key: bytes) -> None:
        """Until `key` has a line."""
        while key not in self._lines:
            await self._opened.wait()

    def keys(self) -> list[bytes]:
        """Whose there are."""
        return list(self._lines)

    @contextmanager
    def open(self, key: bytes, after: int = 0) -> Iterator[Line]:
        """A place to wait for what comes for `key`, behind the number `after`.

        Raises: `RelayRefused`.
        """
        if self._count >= RELAY_LINKS_MAX:
            raise RelayRefused("busy", "too many nodes", 5.0)
        lines = self._lines.setdefault(key, [])
        if not lines:
            self._came(key)
        line = Line(key, self._read, after)
        lines.append(line)
        self._count += 1
        self._opened.set()
        self._opened = trio.Event()
        if len(lines) > RELAY_LINKS_PER_ACCOUNT_MAX:
            lines[0].end()
            self._forget(lines[0])
        try:
            yield line
        finally:
            self._forget(line)

    def _forget(self, line: Line) -> None:
        lines = self._lines.get(line.key, [])
        if line in lines:
            lines.remove(line)
            self._count -= 1
            if not lines:
                del self._lines[line.key]
                self._left(line.key)

    def wake(self, key: bytes) -> None:
        """There may be something for `key`."""
        for line in self._lines.get(key, ()):
            line.wake()

    def taken(self, key: bytes, number: int) -> None:
        """`key` has all up to `number`."""
        for line in self._lines.get(key, ()):
            line.taken(number)

    def end(self, key: bytes) -> None:
        """`key` has no account any more."""
        for line in self._lines.get(key, ()):
            line.end()
