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

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from drupelet.wire.notices import Request

_WAITS: Final = 0
_UNDER_WAY: Final = 1
_OVER: Final = 2
_TAKEN_BACK: Final = 3

_set = object.__setattr__  # a request is frozen; what becomes of it is not


class Errand(Request):
    """One request, and how far it is."""

    # Defaults of the class: an errand is made as fast as any request, and most are never asked.
    _state: int = _WAITS
    _told: Callable[[], None] | None = None
    _over: Callable[[], None] | None = None

    @property
    def taken_back(self) -> bool:
        """Whether it must not begin any more."""
        return self._state == _TAKEN_BACK

    # -- for who carries it out

    def begin(self) -> bool:
        """False: it was taken back. Else `end` has to follow."""
        if self._state == _TAKEN_BACK:
            return False
        _set(self, "_state", _UNDER_WAY)
        return True

    def wait_again(self) -> None:
        """It was put off, to begin later; never, when its asker gave up meanwhile."""
        if self._told is None:
            _set(self, "_state", _WAITS)
        else:
            _set(self, "_state", _TAKEN_BACK)
            self._told()

    def end(self) -> None:
        """It is over, whatever came of it."""
        _set(self, "_state", _OVER)
        for told in (self._told, self._over):
            if told is not None:
                told()

    # -- for who asked

    def when_over(self, told: Callable[[], None]) -> None:
        """`told` is called at its end, whether anybody waits for it then or not."""
        _set(self, "_over", told)

    def take_back(self, told: Callable[[], None]) -> bool:
        """Nobody waits for it any more. False: it is under way; `told` is called at its end."""
        if self._state == _UNDER_WAY:
            _set(self, "_told", told)
            return False
        if self._state == _WAITS:
            _set(self, "_state", _TAKEN_BACK)
            _set(self, "request", None)  # the arguments may be large, and the mailbox keeps it
        return True


@contextmanager
def carried_out(request: Request) -> Iterator[bool]:
    """While a request is under way; False: it was taken back, and is not to begin."""
    if type(request) is not Errand:
        yield True
    elif not request.begin():
        yield False
    else:
        try:
            yield True
        finally:
            request.end()
