"""Application: a tree of processes that is started and stopped as one, with its settings.

    class Kitchen(Application):
        version = "1.2"
        applications = (Pantry,)                       # must run before
        env = {"ovens": 2}                             # settings, with their defaults

        def init(self, start_type):
            return [Child(f"oven{n}", Oven) for n in range(self.get_env("ovens"))]

    await Kitchen.ensure_all_started()                 # ["pantry", "kitchen"]
    await Kitchen.stop()

Decides what OTP's application controller and application master decide. `init` gives the children,
which a supervisor of this application keeps, or the pid of a process that it started and linked:
the top of the tree. `stop` calls `prep_stop`, ends the tree, and calls `terminate`. What happens to
the program when the tree ends by itself, is said when it is started:

- "temporary": it is logged;
- "transient": the same when it ended with "normal", else as "permanent";
- "permanent": all other applications are stopped, the last one first, and then the program ends; a
  mission's worker is started anew by its daemon.

An application runs once in a program (a mission's worker, a `run`). `start_type` is "normal". Its
other values, ``("failover", node)`` and ``("takeover", node)``, come when an application can be
bound to one node of the cluster by a name and its lease; nothing gives them yet.

References: OTP's `application` (Module:start/2, prep_stop/1, permit), `application_master.erl`.
Rejected: a file beside the class, as ``kitchen.app`` (two places for one name); settings in global
variables (a test could not run two); applications bound by a lock of our own making (ENGINE.md).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, ClassVar, Final, cast
from weakref import WeakKeyDictionary

from drupelet.errors import ProcessDown, ProcessExit, Refused
from drupelet.process.behaviours import (
    NO_REASON,
    Started,
    run_callback,
    run_terminate,
    shown_as,
    start_behaviour,
    stop,
    stop_reason,
)
from drupelet.process.children import PERMANENT, TEMPORARY, TRANSIENT, stop_child
from drupelet.process.current import this_process, this_runtime
from drupelet.process.data import copy_data
from drupelet.process.runtime import Runtime
from drupelet.process.supervisor import ONE_FOR_ONE, Supervisor
from drupelet.process.table import Process
from drupelet.wire.ids import Pid, check_plain_name
from drupelet.wire.limits import APPLICATIONS_MAX
from drupelet.wire.notices import Exit, Request

_log = logging.getLogger("drupelet.process")

NORMAL: Final = "normal"


class Application:
    """Base class of applications; see the top of this file, and BEHAVIOURS.md.

    *Owns* (while it runs) a process, to which the top of its tree is linked. *Cancellation*: with
    its program its tree ends.
    """

    name: ClassVar[str] = ""
    """What it is called; the class's name in small letters unless it is given."""
    description: ClassVar[str] = ""
    version: ClassVar[str] = ""
    applications: ClassVar[Sequence[type[Application]]] = ()
    """What must run before it."""
    env: ClassVar[Mapping[str, Any]] = {}
    """Its settings, with their defaults."""

    strategy: ClassVar[str] = ONE_FOR_ONE
    intensity: ClassVar[int] = 1
    period_s: ClassVar[float] = 5.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = cls.__name__.lower()
        check_plain_name(cls.name)

    # -- callbacks, plain or async

    def init(self, start_type: Any) -> Any:
        """The children, as `Supervisor.init` gives them; or the pid of the tree's top."""
        raise NotImplementedError

    def prep_stop(self) -> Any:
        """It is to be stopped, and still runs."""

    def terminate(self, reason: Any) -> Any:
        """The tree has ended: "shutdown" by a stop, else for its own reason."""

    # -- settings

    @classmethod
    def get_env(cls, key: str, default: Any = None) -> Any:
        """A setting: of `set_env` or `start`, else of `env`, else `default`."""
        return cls.get_all_env().get(key, default)

    @classmethod
    def get_all_env(cls) -> dict[str, Any]:
        """All settings."""
        record = _records().get(cls.name)
        return {**cls.env, **(record.env if record is not None else {})}

    @classmethod
    def set_env(cls, key: str, value: Any) -> None:
        """Another value for a setting, in this program. Raises: `NotSendable`: it is data."""
        _record(cls).env[key] = copy_data(value)

    # -- starting and stopping

    @classmethod
    async def start(cls, *, env: Mapping[str, Any] | None = None, restart: str = TEMPORARY) -> None:
        """Start it, and wait until its tree stands. `env`: settings other than the defaults.

        Raises: `Refused`: ``("already_started", name)``, ``("not_started", name)`` (one of
        `applications`); `ProcessDown` with the reason for which `init` or its tree failed.
        """
        if restart not in (PERMANENT, TRANSIENT, TEMPORARY):
            raise ValueError(f"restart={restart!r}: use 'permanent', 'transient' or 'temporary'")
        records = _records()
        for needed in cls.applications:
            if not _is_running(records, needed.name):
                raise Refused(("not_started", needed.name))
        record = _record(cls)
        if record.starting or record.pid is not None:
            raise Refused(("already_started", cls.name))
        record.env |= cast("dict[str, Any]", copy_data(dict(env or {})))
        record.cls, record.restart, record.starting = cls, restart, True
        try:
            await start_behaviour(
                shown_as(cls, cls.start), _Master(record, records).run, link=False
            )
        finally:
            record.starting = False

    @classmethod
    async def ensure_all_started(
        cls, *, env: Mapping[str, Any] | None = None, restart: str = TEMPORARY
    ) -> list[str]:
        """Start it, and before it what it needs, unless it runs; the names of the started.

        When one fails, those are stopped again. Raises: as `start`; `ValueError` for a circle.
        """
        started: list[type[Application]] = []
        try:
            for each in _order(cls):
                if not _is_running(_records(), each.name):
                    await each.start(env=env if each is cls else None, restart=restart)
                    started.append(each)
        except BaseException:
            for each in reversed(started):
                await each.stop()
            raise
        return [each.name for each in started]

    @classmethod
    async def stop(cls) -> None:
        """Stop it, and wait for that; what it needed goes on.

        Raises: `Refused`: ``("not_started", name)``.
        """
        record = _records().get(cls.name)
        if record is None or record.pid is None:
            raise Refused(("not_started", cls.name))
        await stop(record.pid)

    @staticmethod
    def which_applications() -> list[tuple[str, str, str]]:
        """``(name, description, version)`` of those that run, the last started first."""
        running = [each.cls for each in _running(_records())]
        return [(each.name, each.description, each.version) for each in reversed(running)]


class _Record:
    """What a program knows of an application, also when it does not run."""

    __slots__ = ("cls", "env", "order", "pid", "restart", "starting")

    def __init__(self, cls: type[Application]) -> None:
        self.cls = cls
        self.env: dict[str, Any] = {}
        self.restart = TEMPORARY
        self.pid: Pid | None = None
        self.starting = False
        self.order = 0


_tables: WeakKeyDictionary[Runtime, dict[str, _Record]] = WeakKeyDictionary()


def _records() -> dict[str, _Record]:
    return _tables.setdefault(this_runtime(), {})


def _record(cls: type[Application]) -> _Record:
    records = _records()
    if cls.name not in records:
        if len(records) >= APPLICATIONS_MAX:
            raise Refused("system_limit")
        records[cls.name] = _Record(cls)
    return records[cls.name]


def _running(records: Mapping[str, _Record]) -> list[_Record]:
    """In the order in which they were started."""
    running = [each for each in records.values() if each.pid is not None]
    return sorted(running, key=lambda each: each.order)


def _is_running(records: Mapping[str, _Record], name: str) -> bool:
    return name in records and records[name].pid is not None


def _order(cls: type[Application]) -> list[type[Application]]:
    """What it needs before it, each once. Raises: `ValueError` for a circle."""
    order: list[type[Application]] = []

    def visit(each: type[Application], path: tuple[type[Application], ...]) -> None:
        if each in path:
            names = " needs ".join(one.name for one in (*path, each))
            raise ValueError(f"applications need each other in a circle: {names}")
        for needed in each.applications:
            visit(needed, (*path, each))
        if each not in order:
            order.append(each)

    visit(cls, ())
    return order


class _Master:
    """The process of one application."""

    def __init__(self, record: _Record, records: dict[str, _Record]) -> None:
        self._record = record
        self._records = records
        self._top: Pid | None = None
        self._told = False  # to stop

    async def run(self, started: Started) -> None:
        process = this_process()
        process.trap_exit = True
        process.state = self
        record = self._record
        application = record.cls()
        self._top = top = await self._start_tree(process, application)
        record.pid = process.pid
        record.order = max((each.order for each in self._records.values()), default=0) + 1
        ended: object = None
        try:
            started()
            ended = await self._live(process, application, top)
        finally:
            record.pid = None
            if process.exiting and record.restart != TEMPORARY:
                self._end_program(process, process.exit_reason)
        await run_terminate(process, application.terminate, ended)
        if not self._told:
            await self._ended(process, ended)
            raise ProcessExit(ended)

    async def _start_tree(self, process: Process, application: Application) -> Pid:
        made = await run_callback(application.init, NORMAL)
        if isinstance(made, Pid):
            if made not in (process.links or ()):
                process.runtime.link(process, made)
            return made
        if not isinstance(made, list | tuple):
            raise TypeError(f"init gives a list of children, or a Pid, not {made!r:.100}")
        return await Supervisor.start_link(
            list(made),
            strategy=application.strategy,
            intensity=application.intensity,
            period_s=application.period_s,
        )

    async def _live(self, process: Process, application: Application, top: Pid) -> object:
        """Until the tree has ended: its reason."""
        runtime = cast(Runtime, process.runtime)
        while True:
            match await runtime.receive_message(process, None, inf):
                case Exit(pid, reason) if pid == top:
                    return reason
                case Request(_, request) if stop_reason(request) is not NO_REASON:
                    self._told = True
                    try:
                        await run_callback(application.prep_stop)
                    except Exception:
                        _log.warning(
                            "prep_stop_failed name=%s, stopping all the same",
                            self._record.cls.name,
                            exc_info=True,
                        )
                    return await stop_child(process, top, inf)

    async def _ended(self, process: Process, reason: object) -> None:
        """Nobody told it to."""
        record = self._record
        grave = record.restart == PERMANENT or (record.restart == TRANSIENT and reason != NORMAL)
        if not grave:
            _log.warning(
                "application_ended name=%s reason=%.200r restart=%s, going on without it",
                record.cls.name,
                reason,
                record.restart,
            )
            return
        for other in reversed(_running(self._records)):
            with contextlib.suppress(ProcessDown):
                if other.pid is not None:
                    await stop(other.pid)
        self._end_program(process, reason)

    def _end_program(self, process: Process, reason: object) -> None:
        record = self._record
        _log.warning(
            "application_ended name=%s reason=%.200r restart=%s, ending the program",
            record.cls.name,
            reason,
            record.restart,
        )
        cast(Runtime, process.runtime).nursery.cancel_scope.cancel()

    def format_status(self) -> dict[str, object]:
        """What `process_info` shows."""
        cls = self._record.cls
        return {"application": cls.name, "version": cls.version, "top": self._top}
