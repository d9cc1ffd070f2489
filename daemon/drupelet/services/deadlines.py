"""Deadlines of open calls: one task for all channels of the process, asleep until the earliest.

Decides nothing: `CallTable.expire` says who is due. A call costs one comparison here
(`if deadline < deadlines.wakes_at`); only a call with an earlier deadline than all others touches
trio. Owns: one task, in `run`.
"""

from __future__ import annotations

from math import inf
from typing import Protocol

import trio


class Expiring(Protocol):
    """What has deadlines."""

    def next_timer(self) -> float:
        """When something may be due; `inf` for never."""
        ...

    def handle_timer(self, now: float) -> None:
        """Deal with all that is due at `now`."""
        ...


class Deadlines:
    """The timer of every call table."""

    __slots__ = ("_members", "_scope", "wakes_at")

    def __init__(self) -> None:
        self._members: set[Expiring] = set()
        self._scope: trio.CancelScope | None = None
        self.wakes_at = inf

    def add(self, member: Expiring) -> None:
        """From now on `member` is asked."""
        self._members.add(member)

    def discard(self, member: Expiring) -> None:
        """Its channel is gone."""
        self._members.discard(member)

    def arm(self, deadline: float) -> None:
        """Something is due at `deadline`, earlier than `wakes_at`."""
        self.wakes_at = deadline
        if self._scope is not None:
            self._scope.deadline = deadline

    async def run(self) -> None:
        """Serve deadlines for ever."""
        while True:
            with trio.CancelScope(deadline=self.wakes_at) as self._scope:
                await trio.sleep_forever()
            self._scope = None
            now = trio.current_time()
            self.wakes_at = inf
            for member in tuple(self._members):
                if member.next_timer() <= now:
                    member.handle_timer(now)
            earliest = min((member.next_timer() for member in self._members), default=inf)
            self.wakes_at = min(self.wakes_at, earliest)
