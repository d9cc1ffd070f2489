"""Errands: requests that their asker can take back until they begin, and whose end it can be told.

Decides what becomes of a request whose asker gives up: one that has not begun never does, one that
is under way goes on, since nothing can stop a verb half way without losing the server's state.

Only calls that come through a mission's worker are errands (worker/servers.py): who takes a right
back must know when nothing under it runs. Requests between processes stay as OTP has them: they are
handled, whether anybody still waits or not.

Rejected: taking it out of the mailbox (a walk through 10,000 messages for each of 200 that are
taken back); a table of those taken back beside the mailbox (each request would be looked up).
"""

from __future__ import annotations

from collections.abc import Callable

from drupelet.wire.ids import Pid, Ref
from drupelet.wire.notices import Request

_set = object.__setattr__  # a request is frozen; what becomes of it is not


class Errand(Request):
    """One request, and how far it is."""

    __slots__ = ("_begun", "_over", "_told")

    def __init__(self, caller: tuple[Pid, Ref], request: object) -> None:
        super().__init__(caller, request)
        _set(self, "_begun", False)
        _set(self, "_over", False)
        _set(self, "_told", None)

    @property
    def taken_back(self) -> bool:
        """Whether it must not begin any more."""
        return self._over and not self._begun

    # -- for who carries it out

    def begin(self) -> bool:
        """False: it was taken back. Else `end` has to follow."""
        if self._over:
            return False
        _set(self, "_begun", True)
        return True

    def end(self) -> None:
        """It is over, whatever came of it."""
        _set(self, "_over", True)
        told: Callable[[], None] | None = self._told
        if told is not None:
            told()

    # -- for who asked

    def take_back(self, told: Callable[[], None]) -> bool:
        """Nobody waits for it any more. False: it is under way; `told` is called at its end."""
        if self._over:
            return True
        if self._begun:
            _set(self, "_told", told)
            return False
        _set(self, "_over", True)
        _set(self, "request", None)  # the arguments may be large, and the mailbox keeps it
        return True

    _begun: bool
    _over: bool
    _told: Callable[[], None] | None
