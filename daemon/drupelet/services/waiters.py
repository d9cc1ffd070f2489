"""Waiters: who gets the answer of a call, where that is neither one task nor another endpoint.

`services/endpoint.py` calls `answer` when an answer comes. Decides one thing: what shows files and
lines of the owner's machine, a traceback or a path, does not go to a stranger. This node's log has
it, each place that raises once: a stranger who makes a function raise a thousand times a second
fills no log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import outcome
from trio.lowlevel import Task, reschedule

from drupelet.errors import CallError, RemoteError

if TYPE_CHECKING:
    from drupelet.services.endpoint import Endpoint

_log = logging.getLogger("drupelet.grants")

PLACES_MAX: Final = 64  # that raised and were told; more are not
_TRACEBACK_CHARS_MAX: Final = 4_000
_KIND_CHARS_MAX: Final = 40
_FILE: Final = re.compile(r"(?<![\w/:.])/[^\s'\"`:;,()<>]+")  # an absolute path in a sentence
_PLACE: Final = re.compile(r'^ *File "[^"\n]*", line \d+', re.MULTILINE)


class Gather:
    """Answers of many calls that one task waits for."""

    __slots__ = ("bodies", "left", "task")

    def __init__(self, task: Task, left: int) -> None:
        self.task = task
        self.left = left
        self.bodies: dict[int, bytes | CallError] = {}

    def answer(self, ident: int, body: bytes | CallError) -> None:
        """One answer; the last wakes the task."""
        self.bodies[ident] = body
        self.left -= 1
        if not self.left:
            reschedule(self.task, outcome.Value(b""))


class Admitted:
    """The call `theirs` of `origin`, passed on from or to a stranger; `ended` is called once, when
    it is answered or nobody waits for it, with "ok", the error's name, or "cancelled". `convert`:
    the value's bytes at the border (services/proxies.py).

    `over`: it is a lease (wire/frames.py): called once after that, when nothing of it runs. Such a
    call stays in the table of its worker until then. `theirs` 0: a cast, which nobody waits for.
    """

    __slots__ = ("_convert", "_ended", "_over", "ident", "origin", "theirs")

    def __init__(
        self,
        origin: Endpoint,
        theirs: int,
        ended: Callable[[str], None],
        convert: Callable[[bytes], bytes] | None = None,
        over: Callable[[], None] | None = None,
    ) -> None:
        self._convert = convert
        self.origin = origin
        self.theirs = theirs
        self.ident = 0  # at its worker
        self._ended: Callable[[str], None] | None = ended
        self._over = over

    @property
    def is_lease(self) -> bool:
        """Whether something of it may run, and that it does not any more is told."""
        return self._over is not None

    def answer(self, body: bytes | CallError) -> None:
        """The callee's answer, for the caller; too late is nothing."""
        if self._ended is None:
            return
        origin = self.origin
        if self.theirs and not origin.closed:
            if not isinstance(body, CallError):
                try:
                    value = self.convert(body[1:])
                except CallError as error:
                    body = error
                else:
                    origin.reply(self.theirs, value)
            if isinstance(body, CallError):
                if isinstance(body, RemoteError):
                    body = _for_stranger(body)
                origin.reply_error(self.theirs, body)
        self.end(outcome_of(body) if isinstance(body, CallError) else "ok")

    def convert(self, encoded: bytes) -> bytes:
        """The value as it crosses the border. Raises: `CallError`."""
        return encoded if self._convert is None else self._convert(encoded)

    def end(self, outcome: str = "cancelled") -> None:
        """It does not count any more, however it ended."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(outcome)

    def over(self) -> None:
        """Nothing of it runs any more."""
        self.end("cancelled" if self.theirs else "cast")
        over, self._over = self._over, None
        if over is not None:
            over()


_told: set[int] = set()  # hashes of the places that raised


def outcome_of(error: CallError) -> str:
    """A failure in one word, for the owner's log: with the kind of a function's."""
    name = type(error).__name__
    return f"{name}:{error.kind[:_KIND_CHARS_MAX]}" if isinstance(error, RemoteError) else name


def without_files(error: RemoteError, mission: str) -> RemoteError:
    """Why a mission does not run now, as a stranger is told: its owner's files are named to no one.

    What starts again by itself says so; what its owner has to mend is one and the same.
    """
    if error.kind == "badarg":  # only with a key: services/whitelist.py
        return error
    if error.kind.startswith("mission_") and error.kind != "mission_refused":
        return RemoteError("mission_backoff", f"{mission} starts again; try again in a moment")
    return RemoteError("mission_refused", f"{mission} does not run now; its owner's log says why")


def _for_stranger(error: RemoteError) -> RemoteError:
    """What its caller is told of a failure in a worker. A function's own `RemoteError` is its own
    words; what it raised by mistake may name files, and what the worker says other functions."""
    if error.traceback_text:
        return _without_places(error)
    if error.kind == "undef":
        return RemoteError("undef", "it is not there any more")
    return error


def _without_places(error: RemoteError) -> RemoteError:
    """Without lines and files, which go to the log."""
    place = hash(tuple(_PLACE.findall(error.traceback_text)))
    if place not in _told and len(_told) < PLACES_MAX:
        _told.add(place)
        _log.info("raised_for_stranger\n%s", error.traceback_text[-_TRACEBACK_CHARS_MAX:].rstrip())
    return RemoteError(error.kind, _FILE.sub("(a file)", error.message))
