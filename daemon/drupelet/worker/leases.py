"""Leases: what runs in a worker by the right of one stranger's call.

Decides when nothing of it runs any more, which the daemon is told with a CLOSE of the call's id
(wire/frames.py), and what becomes of it when the right is taken back (a CANCEL of that id).

What is found under a call
- itself, its value until it was sent, and the request that it is at a GenServer, to their end;
- each process that its code starts on this node, and what those start: told to end with "killed";
- each thread, and programs (`subprocess`, `os.fork`): nobody can end them from here, so they hold
  the lease until they are gone. Who cannot wait kills the worker (services/settling.py).

What is not: tasks that it puts into somebody else's nursery, messages and requests to processes (a
cast to a state machine or an event manager is a message) and what those do then, children of a
supervisor that is not its own, processes on other nodes, and threads started below `threading`.

How code is found: by a context variable, which tasks inherit from who starts them. A thread does
not, and CPython before 3.12 has no audit event for it, so `Thread.start` is ours in a worker from
the first such call on; trio's threads are left out, they serve many. Audit events tell of programs.

Knows no trio. References: PEP 567 (context variables), PEP 578 (audit hooks).
Rejected: a list of all threads before and after a call (others start some meanwhile); one worker
for each grant (30 MB each, and no state shared).
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from typing import Final

from drupelet.lease import Lease as Right
from drupelet.lease import lease_var
from drupelet.wire.limits import LEASES_MAX
from drupelet.worker.endings import Endings

_PROGRAM_EVENTS: Final = frozenset(
    {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"}
)
_TRIOS_THREADS: Final = "trio._core._thread_cache"
_MARK: Final = "_drupelet_lease"  # of a thread


class Lease:
    """The call with id `ident`."""

    __slots__ = ("_ending", "_is_over", "_leases", "_lingering", "_things", "ident")

    def __init__(self, ident: int, leases: Leases) -> None:
        self.ident = ident
        self._leases = leases
        self._ending = self._is_over = False
        # Itself, until its frame has been dealt with.
        self._things: dict[object, Callable[[], None]] = {self: _nothing}
        self._lingering: dict[object, Callable[[], bool]] = {}

    @property
    def lingers(self) -> bool:
        """Whether only `look` can find its end."""
        return bool(self._lingering)

    def add(self, what: object, end: Callable[[], None]) -> None:
        """This runs by it too, until `done`; `end` has to end it soon."""
        if self._is_over:  # by a task in somebody else's nursery
            if self._ending:
                end()
            return
        self._things[what] = end
        if self._ending:
            self._leases.endings.cancelled(what, self.ident)
            end()

    def done(self, what: object) -> None:
        """It runs no more. A second time does nothing."""
        if self._things.pop(what, None) is None:
            return
        if self._ending:
            self._leases.endings.ended(what)
        if not self._things:
            self._is_over = True
            self._leases.over(self)

    def linger(self, what: object, runs: Callable[[], bool]) -> None:
        """As `add`, for what nobody can end, and who does not say when it has ended."""
        self._lingering[what] = runs
        self._leases.lingering[self] = None
        self.add(what, _nothing)

    def look(self) -> None:
        """Find the end of what does not tell it."""
        for what, runs in list(self._lingering.items()):
            if not runs():
                del self._lingering[what]
                self.done(what)

    def end(self) -> None:
        """The right is gone: so is all that runs by it, as soon as can be."""
        self._ending = True
        for what, end in list(self._things.items()):
            self._leases.endings.cancelled(what, self.ident)
            end()
        self.look()


class Leases:
    """All of one worker. `closed` is called with a call's id when nothing of it is left."""

    def __init__(self, endings: Endings, closed: Callable[[int], None]) -> None:
        self.endings = endings
        self.lingering: dict[Lease, None] = {}  # those whose end nobody tells
        self._closed = closed
        self._all: dict[int, Lease] = {}

    def open(self, ident: int) -> Lease | None:
        """A stranger's call begins; None: too many are not over."""
        if not self._all:
            watch()
        if self.lingering:
            self.look()
        if len(self._all) >= LEASES_MAX:
            return None
        lease = self._all[ident] = Lease(ident, self)
        return lease

    def get(self, ident: int) -> Lease | None:
        """That of a call."""
        return self._all.get(ident)

    def look(self) -> None:
        """Find those that ended without telling."""
        for lease in list(self.lingering):
            lease.look()

    def over(self, lease: Lease) -> None:
        """Nothing of that one is left."""
        del self._all[lease.ident]
        self.lingering.pop(lease, None)
        self._closed(lease.ident)

    def __len__(self) -> int:
        return len(self._all)


def _nothing() -> None:
    """It cannot be ended, or ends by itself."""


# -- threads and programs


@functools.cache
def watch() -> None:
    """Be told of threads and programs from now on, for good."""
    sys.addaudithook(_on_event)
    start = threading.Thread.start

    @functools.wraps(start)
    def start_and_tell(thread: threading.Thread) -> None:
        lease = _lease_here()
        if lease is None or _serves_many(thread):
            start(thread)
            return
        setattr(thread, _MARK, lease)
        start(thread)
        lease.linger(thread, thread.is_alive)

    threading.Thread.start = start_and_tell  # type: ignore[method-assign, assignment]


def _on_event(event: str, args: tuple[object, ...]) -> None:
    if event in _PROGRAM_EVENTS:
        lease = _lease_here()
        if lease is not None:
            lease.linger(object(), has_programs)


def _lease_here() -> Right | None:
    """Of the code that runs now."""
    return lease_var.get() or getattr(threading.current_thread(), _MARK, None)


def _serves_many(thread: threading.Thread) -> bool:
    target = getattr(getattr(thread, "_target", None), "__self__", None)
    return type(target).__module__ == _TRIOS_THREADS


def has_programs() -> bool:
    """Whether this process has a child, also one that ended and that nobody asked how."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


__all__ = ["Lease", "Leases", "has_programs", "watch"]
