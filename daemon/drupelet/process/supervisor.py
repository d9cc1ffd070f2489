"""Supervisor: a process that keeps other processes alive.

    class Kitchen(Supervisor):
        strategy = "rest_for_one"

        def init(self):
            return [Child("pantry", Pantry), Child("oven", (Oven, (180,)), restart="transient")]

    pid = await Kitchen.start_link(name="kitchen")
    pid = await Supervisor.start_link([Pantry, Oven], strategy="one_for_all")   # the same, at once

Decides who is started, stopped and restarted when, as OTP's supervisor does:

- children start in order and stop in the reverse order;
- strategies: "one_for_one" restarts the child that ended; "one_for_all" ends all the others and
  starts all; "rest_for_one" does so with those that were started after it;
- more than `intensity` restarts within `period_s`: all children are stopped and the supervisor
  ends with "shutdown", for its own supervisor to decide;
- a child that does not start: at the start all others are stopped and the supervisor ends with
  ``("shutdown", ("failed_to_start_child", id, reason))``; at a restart it is tried again after what
  waits in the mailbox, and each try counts as a restart;
- `auto_shutdown`: when a child that is ``significant`` ends by itself and is not to run again, all
  are stopped and the supervisor ends with "shutdown": for "any_significant" at the first one, for
  "all_significant" at the last one that runs;
- one_for_all and rest_for_one also start children that had ended before and were kept, as in OTP.

It traps exits and waits selectively: an exit signal that comes while a child starts or stops is
dealt with afterwards.

*Owns* its children. *Cancellation*: with its program its children end, as it does.
References: OTP's `supervisor.erl`, "Supervisor Behaviour" (OTP Design Principles).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, cast

from drupelet.errors import ProcessExit
from drupelet.process.behaviours import ask_verb, is_orderly
from drupelet.process.children import (
    SUPERVISOR,
    TEMPORARY,
    Child,
    StartFailed,
    as_child,
    start_child,
    stop_child,
)
from drupelet.process.current import this_runtime
from drupelet.process.parcels import pack, unpack
from drupelet.process.runtime import Runtime, To
from drupelet.process.supervising import RESTARTING, Refusal, Supervising, Verb
from drupelet.wire.ids import Pid
from drupelet.wire.limits import CHILDREN_MAX

_log = logging.getLogger("drupelet.process")

ONE_FOR_ONE: Final = "one_for_one"
ONE_FOR_ALL: Final = "one_for_all"
REST_FOR_ONE: Final = "rest_for_one"
_STRATEGIES: Final = (ONE_FOR_ONE, ONE_FOR_ALL, REST_FOR_ONE)
NEVER: Final = "never"
ANY_SIGNIFICANT: Final = "any_significant"
ALL_SIGNIFICANT: Final = "all_significant"
_AUTO_SHUTDOWNS: Final = (NEVER, ANY_SIGNIFICANT, ALL_SIGNIFICANT)


class _Slot:
    """One child: its specification, and its pid, RESTARTING or None."""

    __slots__ = ("child", "pid")

    def __init__(self, child: Child, pid: Pid | str | None = None) -> None:
        self.child = child
        self.pid = pid


class Supervisor(Supervising):
    """Base class of supervisors; see the top of this file, and BEHAVIOURS.md."""

    strategy: str = ONE_FOR_ONE
    auto_shutdown: str = NEVER

    _slots: dict[Any, _Slot]  # by id, in the order of starting
    _ids: dict[Pid, Any]

    def init(self, *args: Any) -> Any:
        """The children: `Child`, or a class or function alone. Plain or async, or `IGNORE`."""
        (children,) = args
        return children

    @classmethod
    async def start_link(
        cls,
        *args: Any,
        strategy: str | None = None,
        intensity: int | None = None,
        period_s: float | None = None,
        auto_shutdown: str | None = None,
        name: str | None = None,
    ) -> Pid:
        """Start a supervisor, and wait until its children have started; None: it ignored.

        The arguments are for `init`; `Supervisor` itself takes the list of children. Raises:
        `ProcessDown` with ``("shutdown", ("failed_to_start_child", id, reason))``, `NameTaken`.
        """
        fields = {
            "strategy": strategy,
            "intensity": intensity,
            "period_s": period_s,
            "auto_shutdown": auto_shutdown,
        }
        return await cls._begin(args, fields, name)

    # -- for others

    @staticmethod
    async def which_children(supervisor: To) -> list[tuple[Any, Pid | str | None, str, list[str]]]:
        """``(id, pid, type, modules)`` of each, the last one first; pid None: it does not run."""
        return cast(list[tuple[Any, Any, str, list[str]]], await ask_verb(supervisor, "which"))

    @staticmethod
    async def count_children(supervisor: To) -> dict[str, int]:
        """How many "specs", "active", "supervisors" and "workers"."""
        return cast(dict[str, int], await ask_verb(supervisor, "count"))

    @staticmethod
    async def start_child(supervisor: To, child: Any) -> Pid:
        """Add a child as the last one; its pid, None when it ignored.

        Its arguments are data. Raises: `Refused`: ``("already_started", pid)``, "already_present"
        (its id is that of one that does not run: `restart_child`), or the reason.
        """
        child = as_child(child)
        kind = (child.restart, child.shutdown, child.type, child.name, child.significant)
        fields = (child.id, child.args, *kind)
        with pack(this_runtime(), supervisor, child.code) as code:
            return cast(Pid, await ask_verb(supervisor, "start", code, fields))

    @staticmethod
    async def terminate_child(supervisor: To, id: Any) -> None:
        """Stop a child; it stays known, unless it is temporary. Raises: `Refused` "not_found"."""
        await ask_verb(supervisor, "terminate", id)

    @staticmethod
    async def restart_child(supervisor: To, id: Any) -> Pid:
        """Start a child that does not run. Raises: `Refused`: "running", "restarting"..."""
        return cast(Pid, await ask_verb(supervisor, "restart", id))

    @staticmethod
    async def delete_child(supervisor: To, id: Any) -> None:
        """Forget a child that does not run. Raises: `Refused`: "running", "not_found"..."""
        await ask_verb(supervisor, "delete", id)

    # -- start and end

    def _check_flags(self) -> None:
        super()._check_flags()
        if self.strategy not in _STRATEGIES:
            raise ValueError(f"strategy={self.strategy!r} is not known; use one of {_STRATEGIES}")
        if self.auto_shutdown not in _AUTO_SHUTDOWNS:
            raise ValueError(
                f"auto_shutdown={self.auto_shutdown!r} is not known; use one of {_AUTO_SHUTDOWNS}"
            )

    def _check_child(self, child: Child) -> None:
        if child.significant and self.auto_shutdown == NEVER:
            raise ValueError(f"child {child.id!r} is significant, and auto_shutdown is {NEVER!r}")

    async def _start_all(self, specifications: Any) -> None:
        self._slots, self._ids = {}, {}
        for child in map(as_child, specifications):
            if child.id in self._slots:
                raise ProcessExit(("start_spec", ("duplicate_child_name", child.id)))
            self._check_child(child)
            self._slots[child.id] = _Slot(child)
        if len(self._slots) > CHILDREN_MAX:
            raise ValueError(f"a supervisor has at most {CHILDREN_MAX:,} children")
        failed = await self._start_these(list(self._slots.values()))
        if failed is not None:
            await self._end(("shutdown", ("failed_to_start_child", failed[0], failed[1])))

    async def _start_these(self, slots: list[_Slot]) -> tuple[Any, object] | None:
        """In order, until one fails: its id and reason."""
        for slot in slots:
            try:
                await self._start_slot(slot)
            except StartFailed as failed:
                self._report_not_started(slot.child, failed.reason)
                return slot.child.id, failed.reason
            if slot.pid is None and slot.child.restart == TEMPORARY:
                del self._slots[slot.child.id]
        return None

    async def _start_slot(self, slot: _Slot) -> None:
        pid = await start_child(self._process, slot.child)
        slot.pid = pid
        if pid is not None:
            self._ids[pid] = slot.child.id

    async def _stop_all(self) -> None:
        await self._stop_these(list(self._slots.values()))

    async def _stop_these(self, slots: list[_Slot]) -> None:
        """The last one first; temporary ones are forgotten."""
        for slot in reversed(slots):
            await self._stop_slot(slot)

    async def _stop_slot(self, slot: _Slot) -> None:
        pid, slot.pid = slot.pid, None
        if isinstance(pid, Pid):
            self._ids.pop(pid, None)
            reason = await stop_child(self._process, pid, slot.child.shutdown)
            self._report_stopped(slot.child, pid, reason)
        if slot.child.restart == TEMPORARY:
            self._slots.pop(slot.child.id, None)

    # -- restarts

    async def _child_ended(self, pid: Pid, reason: object) -> None:
        if pid not in self._ids:
            return  # one that was stopped, or never was a child
        slot = self._slots[self._ids.pop(pid)]
        slot.pid = None
        if slot.child.may_restart(reason, is_orderly(reason)):
            await self._restart(slot)
            return
        if slot.child.restart == TEMPORARY:
            del self._slots[slot.child.id]
        if slot.child.significant and not self._needs_others():
            await self._end("shutdown")

    def _needs_others(self) -> bool:
        """Whether significant children that still run keep it alive."""
        return self.auto_shutdown == ALL_SIGNIFICANT and any(
            slot.child.significant and slot.pid is not None for slot in self._slots.values()
        )

    async def _try_again(self, key: Any) -> None:
        slot = self._slots.get(key)
        if slot is not None and slot.pid == RESTARTING:
            await self._restart(slot)

    async def _restart(self, slot: _Slot) -> None:
        slot.pid = None
        await self._count_restart(slot.child.id)
        slots = [slot]
        if self.strategy != ONE_FOR_ONE:
            slots = list(self._slots.values())
            if self.strategy == REST_FOR_ONE:
                slots = slots[slots.index(slot) :]
            await self._stop_these(slots)
            slots = [each for each in slots if each.child.restart != TEMPORARY]
        failed = await self._start_these(slots)
        if failed is not None:
            self._slots[failed[0]].pid = RESTARTING
            self._try_later(failed[0])
        else:
            _log.info(
                "children_restarted supervisor=%s child=%r strategy=%s",
                type(self).__qualname__,
                slot.child.id,
                self.strategy,
            )

    # -- verbs

    def _verbs(self) -> Mapping[str, Verb]:
        return {
            "which": self._which,
            "count": self._count,
            "start": self._start,
            "terminate": self._terminate,
            "restart": self._restart_one,
            "delete": self._delete,
        }

    async def _which(self) -> object:
        return [
            (slot.child.id, slot.pid, slot.child.type, slot.child.modules)
            for slot in reversed(self._slots.values())
        ]

    async def _count(self) -> object:
        slots = self._slots.values()
        supervisors = sum(slot.child.type == SUPERVISOR for slot in slots)
        return {
            "specs": len(slots),
            "active": sum(isinstance(slot.pid, Pid) and self._is_alive(slot.pid) for slot in slots),
            "supervisors": supervisors,
            "workers": len(slots) - supervisors,
        }

    async def _start(self, code: Any, fields: Any) -> object:
        id, args, restart, shutdown, type, name, significant = fields
        code = unpack(cast(Runtime, self._process.runtime), code)
        child = Child(
            id,
            (code, args),
            restart=restart,
            shutdown=shutdown,
            type=type,
            name=name,
            significant=significant,
        )
        self._check_child(child)
        former = self._slots.get(child.id)
        if former is not None:
            running = isinstance(former.pid, Pid)
            raise Refusal(("already_started", former.pid) if running else "already_present")
        if len(self._slots) >= CHILDREN_MAX:
            raise Refusal("system_limit")
        slot = _Slot(child)
        try:
            await self._start_slot(slot)
        except StartFailed as failed:
            raise Refusal(failed.reason) from None
        if slot.pid is not None or child.restart != TEMPORARY:
            self._slots[child.id] = slot
        return slot.pid

    def _slot(self, id: Any) -> _Slot:
        try:
            return self._slots[id]
        except (KeyError, TypeError):
            raise Refusal("not_found") from None

    def _idle_slot(self, id: Any) -> _Slot:
        slot = self._slot(id)
        if slot.pid is not None:
            raise Refusal(RESTARTING if slot.pid == RESTARTING else "running")
        return slot

    async def _terminate(self, id: Any) -> None:
        await self._stop_slot(self._slot(id))

    async def _restart_one(self, id: Any) -> object:
        slot = self._idle_slot(id)
        try:
            await self._start_slot(slot)
        except StartFailed as failed:
            raise Refusal(failed.reason) from None
        return slot.pid

    async def _delete(self, id: Any) -> None:
        self._idle_slot(id)
        del self._slots[id]

    def format_status(self) -> dict[str, object]:
        """What `process_info` shows."""
        children = {str(id): slot.pid for id, slot in getattr(self, "_slots", {}).items()}
        return {"strategy": self.strategy, "children": children}
