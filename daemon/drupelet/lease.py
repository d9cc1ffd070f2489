"""By whose right a piece of code runs, when that can be taken back.

Decides it by a context variable, as `process/current.py` does for processes: what a stranger's call
starts, and what that starts, is found under that call. The worker makes leases
(`worker/leases.py`); the runtime of processes tells them what it starts.

A room of its own: a worker of plain functions must not load `process/` and with it trio.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Final, Protocol


class Lease(Protocol):
    """One stranger's call, and all that runs by its right."""

    def add(self, what: object, end: Callable[[], None]) -> None:
        """This runs by it too, until `done`; `end` has to end it soon."""
        ...

    def done(self, what: object) -> None:
        """It runs no more."""
        ...

    def linger(self, what: object, runs: Callable[[], bool]) -> None:
        """As `add`, for what nobody can end, and who does not say when it has ended."""
        ...


lease_var: Final[ContextVar[Lease | None]] = ContextVar("drupelet_lease", default=None)
