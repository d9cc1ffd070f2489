"""What a Supervisor and a DynamicSupervisor have in common: the loop, the restarts, the end.

Decides that a supervisor does one thing at a time: an exit signal that comes while a child starts
or stops waits in the mailbox for its turn, and so does a request. More than `intensity` restarts
within `period_s` end it with "shutdown".

Reference: OTP's `supervisor.erl` (handle_info/2, add_restart/1, try_again_restart/1).
Rejected: restarting in a task of its own (two restarts at once would break every order).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from math import inf
from typing import Any, ClassVar, Final, NoReturn, cast

import trio

from drupelet.errors import ProcessExit, RemoteError
from drupelet.process.behaviours import (
    IGNORE,
    NO_REASON,
    Started,
    answer,
    is_orderly,
    refuse,
    run_callback,
    shown_as,
    start_behaviour,
    stop,
    stop_reason,
)
from drupelet.process.children import Child, was_as_told
from drupelet.process.current import this_process
from drupelet.process.errands import carried_out
from drupelet.process.runtime import Runtime, reason_of
from drupelet.process.table import Process
from drupelet.wire.ids import Pid
from drupelet.wire.notices import Exit, Request

_log = logging.getLogger("drupelet.process")

RESTARTING: Final = "restarting"

Verb = Callable[..., Coroutine[Any, Any, Any]]


class _TryAgain:
    """To itself, by the mailbox: a restart failed. No data, so nobody else can send it."""

    __slots__ = ("key",)

    def __init__(self, key: Any) -> None:
        self.key = key


class Refusal(Exception):
    """A verb's ``{error, Reason}``."""

    def __init__(self, reason: object) -> None:
        super().__init__(reason)
        self.reason = reason


class Supervising:
    """What both kinds of supervisor do: the loop, the restart intensity, the end."""

    supervises: ClassVar[bool] = True
    intensity: int = 1
    period_s: float = 5.0

    _process: Process
    _parent: Pid | None
    _restarts: deque[float]

    # -- for subclasses

    def init(self, *args: Any) -> Any:
        """The specifications, plain or async; `IGNORE`: there is to be no such supervisor."""
        raise NotImplementedError

    async def _start_all(self, specifications: Any) -> None:
        raise NotImplementedError

    async def _stop_all(self) -> None:
        raise NotImplementedError

    async def _child_ended(self, pid: Pid, reason: object) -> None:
        raise NotImplementedError

    async def _try_again(self, key: Any) -> None:
        raise NotImplementedError

    def _verbs(self) -> Mapping[str, Verb]:
        raise NotImplementedError

    # -- the process

    @classmethod
    async def _begin(
        cls, args: tuple[Any, ...], fields: Mapping[str, Any], name: str | None
    ) -> Pid:
        async def body(started: Started) -> None:
            self = cls()
            for field, value in fields.items():
                if value is not None:
                    setattr(self, field, value)
            await self._run(started, args)

        return await start_behaviour(shown_as(cls, cls._begin), body, link=True, name=name)

    async def _run(self, started: Started, args: tuple[Any, ...]) -> None:
        self._process = process = this_process()
        process.trap_exit = True
        process.state = self
        self._parent = process.parent
        self._restarts = deque()
        specifications = await run_callback(self.init, *args)
        if specifications is IGNORE:
            started(None)
            return
        self._check_flags()
        await self._start_all(specifications)
        started()
        verbs = self._verbs()
        runtime = cast(Runtime, process.runtime)
        while True:
            match await runtime.receive_message(process, None, inf):
                case Request(caller, request) as asked:
                    reason = stop_reason(request)
                    if reason is not NO_REASON:
                        await self._end(reason)
                    with carried_out(asked) as wanted:
                        if wanted:
                            await self._serve(verbs, caller, request)
                case Exit(pid, reason):
                    if pid == self._parent:
                        await self._end(reason)
                    await self._child_ended(pid, reason)
                case _TryAgain() as again:
                    await self._try_again(again.key)
                case message:
                    _log.warning(
                        "unexpected_message class=%s type=%s, ignoring",
                        type(self).__qualname__,
                        type(message).__name__,
                    )

    def _check_flags(self) -> None:
        if type(self.intensity) is not int or self.intensity < 0:
            raise ValueError(f"intensity={self.intensity!r}: use a whole number, 0 or more")
        if not self.period_s > 0:
            raise ValueError(f"period_s={self.period_s!r}: use seconds, more than 0")

    async def _serve(self, verbs: Mapping[str, Verb], caller: Any, request: Any) -> None:
        word = request[0] if isinstance(request, tuple) and request else None
        verb = verbs.get(word) if isinstance(word, str) else None
        if verb is None:
            refuse(self._process, caller, ("undef", f"a supervisor has the verbs {list(verbs)}"))
            return
        try:
            value = await verb(*request[1:])
        except Refusal as refusal:
            refuse(self._process, caller, refusal.reason)
        except RemoteError as error:  # code that is not here
            refuse(self._process, caller, (error.kind, error.message))
        except Exception as error:  # a request or a specification that is none
            refuse(self._process, caller, reason_of(error))
        else:
            answer(self._process, caller, value)

    async def _end(self, reason: object) -> NoReturn:
        await self._stop_all()
        raise ProcessExit(reason)

    # -- restarts

    async def _count_restart(self, key: object) -> None:
        """One more restart; too many end the supervisor."""
        now = trio.current_time()
        restarts = self._restarts
        restarts.append(now)
        while restarts[0] < now - self.period_s:
            restarts.popleft()
        if len(restarts) > self.intensity:
            _log.warning(
                "restart_intensity_reached supervisor=%s pid=%s child=%r: more than %d restarts "
                "within %g s, stopping all its children and ending with 'shutdown'",
                type(self).__qualname__,
                self._process.pid,
                key,
                self.intensity,
                self.period_s,
            )
            await self._end("shutdown")

    def _try_later(self, key: object) -> None:
        """After what waits now, so that the supervisor can be stopped between two tries."""
        self._process.runtime.put(self._process, _TryAgain(key))

    def _is_alive(self, pid: Pid) -> bool:
        runtime = cast(Runtime, self._process.runtime)
        process = runtime.find(pid)
        return process.alive if process is not None else not runtime.is_local(pid)

    def _report_not_started(self, child: Child, reason: object) -> None:
        _log.warning(
            "child_not_started supervisor=%s child=%r: %.200r, going on without it for now",
            type(self).__qualname__,
            child.id,
            reason,
        )

    def _report_stopped(self, child: Child, pid: Pid, reason: object) -> None:
        if not was_as_told(child, reason, is_orderly(reason)):
            _log.warning(
                "child_stopped_otherwise supervisor=%s child=%r pid=%s shutdown=%s: it ended with "
                "%.200r, going on",
                type(self).__qualname__,
                child.id,
                pid,
                child.shutdown,
                reason,
            )

    stop = staticmethod(stop)
