"""DynamicSupervisor: any number of children of one kind, started when they are needed.

    pid = await DynamicSupervisor.start_link(Child("guest", Guest, restart="temporary"))
    guest = await DynamicSupervisor.start_child(pid, "alice")      # Guest.start_link("alice")

Decides what OTP's "simple_one_for_one" decides: children have no id but their pid, a restarted one
gets the arguments that it had, and at the end all are told at once, since there may be many and
none knows of another. `max_children` is Elixir's.

References: OTP's `supervisor.erl` (simple_one_for_one, terminate_dynamic_children/1).
Rejected: a specification per child, as in Elixir (a `Supervisor` has that).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, Final, cast

import trio

from drupelet.errors import ReceiveTimeout
from drupelet.process.behaviours import ask_verb, is_orderly
from drupelet.process.children import (
    BRUTAL_KILL,
    SHUTDOWN,
    SUPERVISOR,
    TEMPORARY,
    Child,
    StartFailed,
    as_child,
    start_child,
    stop_child,
)
from drupelet.process.runtime import Runtime, To
from drupelet.process.supervising import RESTARTING, Refusal, Supervising, Verb
from drupelet.wire.ids import Pid, Ref
from drupelet.wire.limits import CHILDREN_MAX
from drupelet.wire.notices import Down

_NO_IDS: Final = "simple_one_for_one"  # OTP's word for it


class DynamicSupervisor(Supervising):
    """Children of one kind; see the top of this file, and BEHAVIOURS.md."""

    max_children: int = CHILDREN_MAX

    _template: Child
    _running: dict[Pid, tuple[Any, ...]]  # the arguments that it was started with
    _failed: dict[Pid, tuple[Any, ...]]  # by its last pid: a restart that is to be tried again

    def init(self, *args: Any) -> Any:
        """What all children are: one `Child`, class or function. Plain or async, or `IGNORE`."""
        (template,) = args
        return template

    @classmethod
    async def start_link(
        cls,
        *args: Any,
        intensity: int | None = None,
        period_s: float | None = None,
        max_children: int | None = None,
        name: str | None = None,
    ) -> Pid:
        """Start a supervisor without children. `DynamicSupervisor` itself takes their `Child`."""
        fields = {"intensity": intensity, "period_s": period_s, "max_children": max_children}
        return await cls._begin(args, fields, name)

    # -- for others

    @staticmethod
    async def which_children(supervisor: To) -> list[tuple[None, Pid | str, str, list[str]]]:
        """``(None, pid, type, modules)`` of each; "restarting" for one that failed to."""
        return cast(list[tuple[None, Any, str, list[str]]], await ask_verb(supervisor, "which"))

    @staticmethod
    async def count_children(supervisor: To) -> dict[str, int]:
        """How many "specs" (1), "active", "supervisors" and "workers"."""
        return cast(dict[str, int], await ask_verb(supervisor, "count"))

    @staticmethod
    async def start_child(supervisor: To, *args: object) -> Pid:
        """Start a child with these arguments after those of the `Child`; None: it ignored.

        Raises: `Refused`: "max_children", or the reason.
        """
        return cast(Pid, await ask_verb(supervisor, "start", args))

    @staticmethod
    async def terminate_child(supervisor: To, pid: Pid) -> None:
        """Stop and forget a child. Raises: `Refused` "not_found"."""
        await ask_verb(supervisor, "terminate", pid)

    # -- start and end

    def _check_flags(self) -> None:
        super()._check_flags()
        if type(self.max_children) is not int or not 0 <= self.max_children <= CHILDREN_MAX:
            raise ValueError(f"max_children={self.max_children!r}: use 0 to {CHILDREN_MAX:,}")

    async def _start_all(self, specifications: Any) -> None:
        self._template = as_child(specifications)
        self._running, self._failed = {}, {}

    async def _stop_all(self) -> None:
        """All at once; what else comes meanwhile is for nobody any more."""
        process, shutdown = self._process, self._template.shutdown
        runtime = cast(Runtime, process.runtime)
        reason = "kill" if shutdown == BRUTAL_KILL else SHUTDOWN
        waited: dict[Ref, Pid] = {}
        for pid in self._running:
            waited[runtime.monitor(process, pid)] = pid
            runtime.send_exit(process.pid, pid, reason)
        deadline = inf if isinstance(shutdown, str) else trio.current_time() + (shutdown or 0.0)
        while waited:
            try:
                message = await runtime.receive_message(
                    process, None, max(deadline - trio.current_time(), 0.0)
                )
            except ReceiveTimeout:
                deadline = inf
                for pid in waited.values():
                    runtime.send_exit(process.pid, pid, "kill")
                continue
            if isinstance(message, Down) and message.ref in waited:
                pid = waited.pop(message.ref)
                self._report_stopped(self._template, pid, message.reason)

    # -- restarts

    async def _child_ended(self, pid: Pid, reason: object) -> None:
        args = self._running.pop(pid, None)
        if args is not None and self._template.may_restart(reason, is_orderly(reason)):
            await self._restart(pid, args)

    async def _try_again(self, key: Any) -> None:
        args = self._failed.pop(key, None)
        if args is not None:
            await self._restart(key, args)

    async def _restart(self, former: Pid, args: tuple[Any, ...]) -> None:
        await self._count_restart(self._template.id)
        try:
            pid = await start_child(self._process, self._template, args)
        except StartFailed as failed:
            self._report_not_started(self._template, failed.reason)
            self._failed[former] = args
            self._try_later(former)
            return
        self._keep(pid, args)

    def _keep(self, pid: Pid | None, args: tuple[Any, ...]) -> None:
        if pid is not None:  # arguments of a temporary one are not needed again
            self._running[pid] = () if self._template.restart == TEMPORARY else args

    # -- verbs

    def _verbs(self) -> Mapping[str, Verb]:
        return {
            "which": self._which,
            "count": self._count,
            "start": self._start,
            "terminate": self._terminate,
            "restart": self._no_ids,
            "delete": self._no_ids,
        }

    async def _which(self) -> object:
        template = self._template
        pids = [*self._running, *[RESTARTING] * len(self._failed)]
        return [(None, pid, template.type, template.modules) for pid in pids]

    async def _count(self) -> object:
        size = len(self._running) + len(self._failed)
        supervises = self._template.type == SUPERVISOR
        return {
            "specs": 1,
            "active": len(self._running),
            "supervisors": size if supervises else 0,
            "workers": 0 if supervises else size,
        }

    async def _start(self, args: Any) -> object:
        if len(self._running) + len(self._failed) >= self.max_children:
            raise Refusal("max_children")
        try:
            pid = await start_child(self._process, self._template, args)
        except StartFailed as failed:
            raise Refusal(failed.reason) from None
        self._keep(pid, args)
        return pid

    async def _terminate(self, pid: Any) -> None:
        if not isinstance(pid, Pid):
            raise Refusal(_NO_IDS)
        if self._running.pop(pid, None) is not None:
            reason = await stop_child(self._process, pid, self._template.shutdown)
            self._report_stopped(self._template, pid, reason)
        elif self._failed.pop(pid, None) is None and self._is_alive(pid):
            raise Refusal("not_found")  # one that has ended is as good as terminated

    async def _no_ids(self, *_: object) -> None:
        raise Refusal(_NO_IDS)

    def format_status(self) -> dict[str, object]:
        """What `process_info` shows."""
        template = getattr(self, "_template", None)
        return {"child": template and str(template.id), "children": len(self._running)}
