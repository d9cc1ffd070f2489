"""Task: a process that works out one value for another one.

    task = await Task.async_(boil, 2.5)                # runs beside this process
    ...
    litres = await task                                # its value, within 5 s

    supervisor = await TaskSupervisor.start_link(name="tasks")
    task = await TaskSupervisor.async_nolink("tasks", boil, 2.5)
    match await Task.yield_(task, timeout=1):
        case ("ok", litres): ...
        case ("exit", reason): ...                     # it crashed, and this process did not
        case None: ...                                 # not yet

Decides what binds a task to its owner, as Elixir's Task does: a link (a crash of either is the
other's, unless it is trapped; `TaskSupervisor.async_nolink` has none) and a monitor whose ref marks
the value: the message ``(task.ref, value)``. So a server that started one gets its value or its
`Down` in `handle_info`. Only the owner may await it. The value is data; it crosses nodes.

Unlike Elixir's
- A task whose `await` timed out is ended, as are the others of an `await_many` that failed: there
  the owner ends instead, which does it too.
- What `await` gave once, it gives again.
- `where`: "thread" or "process" for a plain function that computes, as in `spawn`.

References: Elixir's `Task`, `Task.Supervisor` ("async and await", "Dynamically supervised tasks").
Rejected: names without the underscore (`async`, `await`, `yield` are Python's own words); a value
by another way than the mailbox (a server could not wait for it among its messages).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, cast

import trio

from drupelet.errors import ProcessDown, ReceiveTimeout, Timeout
from drupelet.process import api, computing
from drupelet.process.behaviours import CALL_TIMEOUT_S, ask_verb, run_callback
from drupelet.process.children import (
    BRUTAL_KILL,
    SHUTDOWN,
    SHUTDOWN_S,
    TEMPORARY,
    Child,
    start_calls,
    stop_child,
)
from drupelet.process.current import this_process, this_runtime
from drupelet.process.dynamic_supervisor import DynamicSupervisor
from drupelet.process.parcels import pack, unpack
from drupelet.process.patterns import ANY
from drupelet.process.runtime import Runtime, To
from drupelet.process.table import Process
from drupelet.wire.ids import Pid, Ref
from drupelet.wire.notices import Down

Function = Callable[..., Any]
Outcome = tuple[str, Any]  # ("ok", value) or ("exit", reason)

_GO: Final = "$task_go"
_AS_TOLD: Final = (SHUTDOWN, "killed", "noproc")


class Task:
    """One value under way; made by `async_`. ``await task`` is `await_` with its 5 s."""

    def __init__(self, owner: Process, pid: Pid, ref: Ref) -> None:
        self.owner = owner.pid
        self.pid = pid
        self.ref = ref
        self._process = owner
        self._outcome: Outcome | None = None

    def __repr__(self) -> str:
        return f"<Task {self.pid} of {self.owner}>"

    def __await__(self) -> Generator[Any, Any, Any]:
        return Task.await_(self).__await__()

    # -- starting

    @staticmethod
    async def async_(function: Function, *args: object, where: str = computing.INLINE) -> Task:
        """Start a task that runs ``function(*args)``, plain or async, linked to this process."""
        owner = this_process()
        refs: list[Ref] = []  # filled before the task runs
        pid = await api.spawn_link(_work, owner.pid, refs, function, args, where)
        refs.append(owner.runtime.monitor(owner, pid))
        owner.runtime.processes[pid.number].function = function
        return Task(owner, pid, refs[0])

    # -- waiting

    @staticmethod
    async def await_(task: Task, timeout: float = CALL_TIMEOUT_S) -> Any:
        """The value of a task. Raises: `ProcessDown` with the reason for which it crashed,
        `Timeout` (it was ended then).
        """
        (value,) = await Task.await_many([task], timeout)
        return value

    @staticmethod
    async def await_many(tasks: Sequence[Task], timeout: float = CALL_TIMEOUT_S) -> list[Any]:
        """The values of all, in their order. Raises: as `await_`, for the first one that fails.

        What is not done then is ended.
        """
        await _wait(tasks, timeout, until_failure=True)
        failed = next((task for task in tasks if task._failed), None)
        for task in tasks:
            if task._outcome is None:
                await Task.shutdown(task, BRUTAL_KILL)
        if failed is not None:
            assert failed._outcome is not None
            raise ProcessDown(failed._outcome[1])
        outcomes = [cast(Outcome, task._outcome) for task in tasks]
        if any(word != "ok" for word, _ in outcomes):
            raise Timeout(maybe_ran=True)
        return [value for _, value in outcomes]

    @staticmethod
    async def yield_(task: Task, timeout: float = CALL_TIMEOUT_S) -> Outcome | None:
        """``("ok", value)``, ``("exit", reason)``, or None: not yet; it goes on."""
        await _wait([task], timeout)
        return task._outcome

    @staticmethod
    async def yield_many(
        tasks: Sequence[Task], timeout: float = CALL_TIMEOUT_S
    ) -> list[tuple[Task, Outcome | None]]:
        """As `yield_`, of all of them together: each with its outcome."""
        await _wait(tasks, timeout)
        return [(task, task._outcome) for task in tasks]

    @staticmethod
    async def shutdown(task: Task, timeout: float | str = SHUTDOWN_S) -> Outcome | None:
        """End a task: "shutdown", and "kill" after so many seconds, or at once ("brutal_kill").

        Its outcome when it had one before; None when it ended as it was told.
        """
        process = _owned(task)
        if task._outcome is not None:
            await trio.lowlevel.checkpoint()
            return task._outcome
        runtime = cast(Runtime, process.runtime)
        runtime.unlink(process, task.pid)
        reason = await stop_child(process, task.pid, timeout)
        value = runtime.take(process, (task.ref, ANY))
        api.demonitor(task.ref, flush=True)
        if isinstance(value, tuple):
            task._outcome = ("ok", value[1])
            return task._outcome
        task._outcome = ("exit", reason)
        return None if reason in _AS_TOLD else task._outcome

    @property
    def _failed(self) -> bool:
        return self._outcome is not None and self._outcome[0] == "exit"


class TaskSupervisor(DynamicSupervisor):
    """A supervisor of tasks: none is started again, all end with it."""

    def init(self) -> Any:
        """What all its children are."""
        return Child("task", start_calls(_start_supervised), restart=TEMPORARY)

    @staticmethod
    async def async_(
        supervisor: To, function: Function, *args: object, where: str = computing.INLINE
    ) -> Task:
        """As `Task.async_`, below a supervisor, on its node. Raises: `Refused`, `ProcessDown`."""
        return await _async_below(supervisor, function, args, where, link=True)

    @staticmethod
    async def async_nolink(
        supervisor: To, function: Function, *args: object, where: str = computing.INLINE
    ) -> Task:
        """A task whose crash is not this process's: `await_` raises, `yield_` gives the reason."""
        return await _async_below(supervisor, function, args, where, link=False)

    @staticmethod
    async def start_child(  # type: ignore[override]
        supervisor: To, function: Function, *args: object, where: str = computing.INLINE
    ) -> Pid:
        """Run a function below a supervisor; nobody waits for its value. Raises: as `async_`."""
        return await _start_below(supervisor, None, function, args, where)

    @staticmethod
    async def children(supervisor: To) -> list[Pid]:
        """The tasks that run."""
        shown = await DynamicSupervisor.which_children(supervisor)
        return [pid for _, pid, _, _ in shown if isinstance(pid, Pid)]


# -- the owner's half


def _owned(task: Task) -> Process:
    process = this_process()
    if process is not task._process:
        raise RuntimeError(f"{task!r}: only its owner can wait for it")
    return process


async def _wait(tasks: Sequence[Task], timeout: float, *, until_failure: bool = False) -> None:
    """Until all have an outcome, or one has crashed."""
    process = this_process()
    runtime = cast(Runtime, process.runtime)
    waited = {task.ref: task for task in tasks if _owned(task) and task._outcome is None}
    deadline = trio.current_time() + timeout

    def is_theirs(message: object) -> bool:
        match message:
            case (Ref() as ref, _) | Down(ref=ref):
                return ref in waited and type(message) is not list
        return False

    await trio.lowlevel.checkpoint()
    while waited and not (until_failure and any(task._failed for task in tasks)):
        try:
            message: Any = await runtime.receive_message(
                process, is_theirs, max(deadline - trio.current_time(), 0.0)
            )
        except ReceiveTimeout:
            return
        if isinstance(message, Down):
            waited.pop(message.ref)._outcome = ("exit", message.reason)
        else:
            ref, value = message
            waited.pop(ref)._outcome = ("ok", value)
            api.demonitor(ref, flush=True)


async def _start_below(
    supervisor: To, owner: Pid | None, function: Function, args: tuple[object, ...], where: str
) -> Pid:
    with pack(this_runtime(), supervisor, function) as code:
        return cast(Pid, await ask_verb(supervisor, "start", (owner, code, args, where)))


async def _async_below(
    supervisor: To, function: Function, args: tuple[object, ...], where: str, *, link: bool
) -> Task:
    owner = this_process()
    pid = await _start_below(supervisor, owner.pid, function, args, where)
    ref = owner.runtime.monitor(owner, pid)
    if link:
        owner.runtime.link(owner, pid)
    await api.send(pid, (_GO, ref))
    return Task(owner, pid, ref)


# -- the task's half


async def _start_supervised(owner: Pid | None, code: Any, args: Any, where: str) -> Pid:
    """Called by the supervisor."""
    function = unpack(this_runtime(), code)
    if owner is None:
        return await api.spawn_link(_compute, function, args, where)
    return await api.spawn_link(_wait_for_owner, owner, function, args, where)


async def _wait_for_owner(owner: Pid, function: Function, args: Any, where: str) -> None:
    """The owner says under which ref it waits; when it is gone, nobody does."""
    this_process().function = function
    ref = api.monitor(owner)
    match await api.receive(lambda m: isinstance(m, Down | tuple)):
        case (str(word), Ref() as task_ref) if word == _GO:
            api.demonitor(ref, flush=True)
            await _work(owner, [task_ref], function, args, where)


async def _work(owner: Pid, refs: list[Ref], function: Function, args: Any, where: str) -> None:
    value = await _compute(function, args, where)
    await api.send(owner, (refs[0], value))


async def _compute(function: Function, args: Any, where: str) -> Any:
    this_process().function = function
    if where == computing.INLINE:
        return await run_callback(function, *args)
    return await computing.compute(function, *args, where=where)
