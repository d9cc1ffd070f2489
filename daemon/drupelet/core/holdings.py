"""Holdings: one table from the links of grants to everything that lives under them.

Decides what a revocation has to end: calls and casts that run, what they left behind in a worker,
and proxy pids. A thing is entered with its grant before it begins and leaves when nothing of it can
run or be used any more; until then it is found from any link of its grant's chain.

    ticket = holdings.hold(grant, what)        # `what`: its driver's own word for it
    holdings.drop(ticket)                      # nothing is left of it
    holdings.under(is_dead)                    # of the grants for which that holds

Rules
- A ticket is given once in a node's life: late news of an old thing never meets a new one.
- At most HOLDINGS_MAX of everything together.
- Whoever asks looks at each grant in use once, and not at each thing: with 16,384 proxy pids of a
  hundred grants that is 0.1 ms instead of 10.

Rejected: a table for each kind (a kind that is forgotten in one of them outlives its right); an
entry under each link of a chain (four times the memory, and a key is revoked for all its grants).
"""

from __future__ import annotations

from collections.abc import Callable

from drupelet.wire.grants import Grant
from drupelet.wire.limits import HOLDINGS_MAX


class Holdings:
    """What lives under the grants of one node."""

    __slots__ = ("_by_grant", "_grant_of", "_last")

    def __init__(self) -> None:
        self._by_grant: dict[bytes, dict[int, object]] = {}  # last link's id -> ticket -> what
        self._grant_of: dict[int, Grant] = {}
        self._last = 0

    @property
    def full(self) -> bool:
        """Whether nothing more may begin."""
        return len(self._grant_of) >= HOLDINGS_MAX

    def hold(self, grant: Grant, what: object = None) -> int:
        """Something begins under `grant`: its ticket. Not when `full`."""
        assert len(self._grant_of) < HOLDINGS_MAX
        self._last += 1
        self._grant_of[self._last] = grant
        self._by_grant.setdefault(grant.id, {})[self._last] = what
        return self._last

    def name(self, ticket: int, what: object) -> None:
        """Its driver knows by now what it is. Nothing happens to what is over."""
        grant = self._grant_of.get(ticket)
        if grant is not None:
            self._by_grant[grant.id][ticket] = what

    def what(self, ticket: int) -> object:
        """What was said of it; None: nothing, or it is over."""
        grant = self._grant_of.get(ticket)
        return None if grant is None else self._by_grant[grant.id][ticket]

    def drop(self, ticket: int) -> None:
        """Nothing is left of it. A second time does nothing."""
        grant = self._grant_of.pop(ticket, None)
        if grant is None:
            return
        under = self._by_grant[grant.id]
        del under[ticket]
        if not under:
            del self._by_grant[grant.id]

    def under(self, is_dead: Callable[[Grant], bool]) -> tuple[int, ...]:
        """The tickets of everything under such grants, the oldest first."""
        found: list[int] = []
        for tickets in self._by_grant.values():
            first = next(iter(tickets))
            if is_dead(self._grant_of[first]):
                found += tickets
        return tuple(sorted(found))

    def __len__(self) -> int:
        return len(self._grant_of)


__all__ = ["Holdings"]
