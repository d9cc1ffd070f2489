"""The children of a supervisor: what one is, how it is started and how it is stopped.

    Child("oven", (Oven, (180,)))                        # a GenServer: await Oven.start_link(180)
    Child("clock", tick, restart="transient")            # an async function: spawn_link(tick)
    Child("shelf", Shelf, name="shelf")                  # a Supervisor; registered as "shelf"
    Child("far", start_calls(open_far))                  # it starts one, links, and gives its pid

Decides what OTP's child specification and `supervisor:shutdown` decide:

- ``restart``: "permanent" (always), "transient" (unless it ended with "normal", "shutdown" or
  ``("shutdown", word)``), "temporary" (never);
- ``shutdown``: seconds between the exit signal "shutdown" and "kill"; `inf`; or "brutal_kill";
  5 s for a worker, `inf` for a supervisor;
- ``significant``: its end may be the supervisor's (`Supervisor.auto_shutdown`);
- stopping waits for the end with a monitor, since a child may have unlinked itself; then its exit
  signal is taken out of the mailbox, and nothing else is.

A child that does not trap exits is told to end by a cancellation, and abandoned 5 s later whatever
``shutdown`` says (see runtime.py).

References: OTP's `supervisor.erl` (shutdown/1, unlink_flush/2), "Supervisor Behaviour".
Rejected: specifications as dicts (a misspelt key would be silence).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from math import inf
from typing import Any, Final, cast

import trio

from drupelet.errors import (
    DrupeletError,
    NameTaken,
    ProcessDown,
    ProcessExit,
    ReceiveTimeout,
    Refused,
)
from drupelet.process import api
from drupelet.process.behaviours import IGNORE, run_callback
from drupelet.process.data import copy_data
from drupelet.process.runtime import Runtime, reason_of
from drupelet.process.table import Process
from drupelet.wire.ids import Pid, check_plain_name
from drupelet.wire.notices import Down, Exit

PERMANENT: Final = "permanent"
TRANSIENT: Final = "transient"
TEMPORARY: Final = "temporary"
WORKER: Final = "worker"
SUPERVISOR: Final = "supervisor"
BRUTAL_KILL: Final = "brutal_kill"
SHUTDOWN: Final = "shutdown"
SHUTDOWN_S: Final = 5.0

Start = Callable[..., Any]


class StartFailed(DrupeletError):
    """A child did not start, for that reason."""

    def __init__(self, reason: object) -> None:
        super().__init__(f"the child did not start: {reason!r:.200}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _StartCalls:
    function: Start

    def __call__(self, *args: object) -> Any:
        return self.function(*args)


def start_calls(function: Start) -> Start:
    """A `Child.start` that is called by the supervisor itself, as OTP's start functions are.

    It starts a process, links it to its caller, and returns its pid; None when there is to be none.
    """
    return _StartCalls(function)


@dataclass(frozen=True, slots=True)
class Child:
    """How a supervisor starts, restarts and stops one child. `id`: data, one of its kind there.

    `start`: a class with ``start_link`` (GenServer, GenStatem, GenEvent, Supervisor), a function
    that is to run as a process, or ``start_calls(function)``; or a pair of that and its arguments.
    Raises: `ValueError`, `TypeError` for what it cannot be.
    """

    id: Any
    start: Start | tuple[Start, Sequence[Any]]
    _: KW_ONLY
    restart: str = PERMANENT
    shutdown: float | str | None = None
    type: str | None = None
    name: str | None = None
    significant: bool = False

    def __post_init__(self) -> None:
        hash(copy_data(self.id))
        _one_of("restart", self.restart, PERMANENT, TRANSIENT, TEMPORARY)
        pair = self.start
        args_wrong = isinstance(pair, tuple) and not isinstance(pair[-1], tuple | list)
        if not callable(self.code) or args_wrong:
            raise TypeError(
                f"child {self.id!r}: start with a function or class, or (it, (arg, ...))"
            )
        if self.type is None:
            supervises = getattr(self.code, "supervises", False) is True
            object.__setattr__(self, "type", SUPERVISOR if supervises else WORKER)
        _one_of("type", self.type, WORKER, SUPERVISOR)
        if self.shutdown is None:
            shutdown = inf if self.type == SUPERVISOR else SHUTDOWN_S
            object.__setattr__(self, "shutdown", shutdown)
        elif isinstance(self.shutdown, bool) or not (
            self.shutdown == BRUTAL_KILL
            or (isinstance(self.shutdown, int | float) and self.shutdown >= 0)
        ):
            raise ValueError(
                f"shutdown={self.shutdown!r} is not known; use seconds, inf or {BRUTAL_KILL!r}"
            )
        if self.significant and self.restart == PERMANENT:
            raise ValueError("a permanent child never ends for good, so it is not significant")
        if self.name is not None:
            check_plain_name(self.name)
            if isinstance(self.code, _StartCalls):
                raise ValueError("what start_calls calls registers its process itself")

    @property
    def code(self) -> Start:
        """What is started."""
        start = self.start
        return start[0] if isinstance(start, tuple) and len(start) == 2 else start

    @property
    def args(self) -> tuple[Any, ...]:
        """Its arguments."""
        return tuple(self.start[1]) if isinstance(self.start, tuple) else ()

    @property
    def modules(self) -> list[str]:
        """The modules of its code, as OTP shows them."""
        code = self.code.function if isinstance(self.code, _StartCalls) else self.code
        return [getattr(code, "__module__", None) or "?"]

    def may_restart(self, reason: object, orderly: bool) -> bool:
        """Whether it is to run again after it ended so."""
        return self.restart == PERMANENT or (self.restart == TRANSIENT and not orderly)


def as_child(thing: Any) -> Child:
    """A child as it is; a class or function becomes one with its name as id."""
    if isinstance(thing, Child):
        return thing
    name = getattr(thing, "__qualname__", None)
    if not callable(thing) or name is None:
        raise TypeError(f"a child is a Child, a class or a function, not {thing!r:.100}")
    return Child(name.rpartition(".")[2], thing)


def _one_of(field: str, value: object, *allowed: str) -> None:
    if value not in allowed:
        raise ValueError(f"{field}={value!r} is not known; use one of {allowed}")


async def start_child(process: Process, child: Child, extra: Sequence[Any] = ()) -> Pid | None:
    """Start a child of this process: its pid, linked; None when it ignored.

    Raises: `StartFailed`.
    """
    runtime = cast(Runtime, process.runtime)
    try:
        value = await _start(child, (*child.args, *extra))
    except (ProcessDown, ProcessExit, Refused) as error:
        raise StartFailed(error.reason) from None
    except NameTaken as error:
        holder = runtime.names.get(child.name or "")
        reason = reason_of(error) if holder is None else ("already_started", holder.pid)
        raise StartFailed(reason) from None
    except Exception as error:
        raise StartFailed(reason_of(error)) from error
    if value is None or value is IGNORE:
        return None
    if not isinstance(value, Pid):
        raise StartFailed(("bad_return", f"{value!r:.200}"))
    started = runtime.find(value)
    if started is not None:
        if value not in (process.links or ()):
            runtime.link(process, value)  # its start forgot to
        while started.alive and started.task is None:
            await trio.lowlevel.checkpoint()  # until it runs, so that starts have an order
    return value


def _start(child: Child, args: tuple[Any, ...]) -> Awaitable[Any]:
    code = child.code
    options = {} if child.name is None else {"name": child.name}
    if isinstance(code, _StartCalls) or _is_start_link(code):
        return run_callback(code, *args, **options)
    if isinstance(code, type):
        start_link = getattr(code, "start_link", None)
        if start_link is None:
            raise TypeError(f"{code.__name__} has no start_link")
        return run_callback(start_link, *args, **options)
    return api.spawn_link(code, *args, name=child.name)


def _is_start_link(code: object) -> bool:
    """Whether it is ``Oven.start_link`` itself, which is no function to run as a process."""
    return inspect.ismethod(code) and code.__name__ == "start_link"


async def stop_child(process: Process, pid: Pid, shutdown: float | str | None) -> object:
    """End a child as its specification says, and wait for that; its reason."""
    runtime = cast(Runtime, process.runtime)
    ref = runtime.monitor(process, pid)

    def its_end(message: object) -> bool:
        return isinstance(message, Down) and message.ref == ref

    if isinstance(shutdown, float | int):
        runtime.send_exit(process.pid, pid, SHUTDOWN)
        try:
            down = await runtime.receive_message(process, its_end, shutdown)
            return take_exit(process, pid, cast(Down, down).reason)
        except ReceiveTimeout:
            pass
    runtime.send_exit(process.pid, pid, "kill")
    down = await runtime.receive_message(process, its_end, inf)
    return take_exit(process, pid, cast(Down, down).reason)


def take_exit(process: Process, pid: Pid, reason: object) -> object:
    """Unlink an ended child and take its exit signal; the reason in it, else `reason`."""
    runtime = cast(Runtime, process.runtime)
    runtime.unlink(process, pid)
    taken = runtime.take(process, lambda m: isinstance(m, Exit) and m.pid == pid)
    return taken.reason if isinstance(taken, Exit) else reason


def was_as_told(child: Child, reason: object, orderly: bool) -> bool:
    """Whether a stopped child ended as it was told to, so that nobody need hear of it."""
    told = "killed" if child.shutdown == BRUTAL_KILL else SHUTDOWN
    return reason == told or (child.restart != PERMANENT and orderly)
