"""Deadlines of open calls: one task for all channels of the process, asleep until the earliest.

Decides nothing: `CallTable.expire` says who is due. A call costs one comparison here
(`if deadline < deadlines.wakes_at`); only a call with an earlier deadline than all others touches
trio. All members are asked at each wake-up, so wake-ups are at least GAP_PER_MEMBER_S apart for
each of them: 1 % of a processor, however many links there are, and deadlines are met within 20 ms
at a thousand members. Owns: one task, in `run`.
"""

from __future__ import annotations

from math import inf
from typing import Final, Protocol

import trio

GAP_PER_MEMBER_S: Final = 20e-6  # asking one takes 0.2 us


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

    __slots__ = ("_members", "_rests_until", "_scope", "wakes_at")

    def __init__(self) -> None:
        self._members: set[Expiring] = set()
        self._scope: trio.CancelScope | None = None
        self._rests_until = -inf
        self.wakes_at = inf

    def add(self, member: Expiring) -> None:
        """From now on `member` is asked; again after its deadline came nearer."""
        self._members.add(member)
        deadline = member.next_timer()
        if deadline < self.wakes_at:
            self.arm(deadline)

    def discard(self, member: Expiring) -> None:
        """Its channel is gone."""
        self._members.discard(member)

    def arm(self, deadline: float) -> None:
        """Something is due at `deadline`, earlier than `wakes_at`."""
        self.wakes_at = deadline
        if self._scope is not None:
            self._scope.deadline = max(deadline, self._rests_until)

    async def run(self) -> None:
        """Serve deadlines for ever."""
        while True:
            wakes_at = max(self.wakes_at, self._rests_until)
            with trio.CancelScope(deadline=wakes_at) as self._scope:
                await trio.sleep_forever()
            self._scope = None
            now = trio.current_time()
            self._rests_until = now + len(self._members) * GAP_PER_MEMBER_S
            self.wakes_at = inf
            earliest = inf
            for member in tuple(self._members):
                deadline = member.next_timer()
                if deadline <= now:
                    member.handle_timer(now)
                    deadline = member.next_timer()
                if deadline < earliest:
                    earliest = deadline
            self.wakes_at = min(self.wakes_at, earliest)
