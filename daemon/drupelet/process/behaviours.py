"""What the behaviours share: how one starts, is asked and is stopped.

Decides the protocol of GenServer, GenStatem, GenEvent and Supervisor, which is OTP's:

- `start_behaviour` returns when the new process called ``started()`` at the end of its ``init``.
  A name is registered before ``init`` runs. A process that ends before: its starter gets
  `ProcessDown(reason)`, and, linked, its exit signal first. A taken name: `NameTaken`.
- A call is a `Request` (`ask`), a cast is ``(CAST, message)``; stopping is a request ``(STOP,
  reason)`` that is never answered: the asker sees the process end.
- ``init`` that returns `IGNORE`: no process, and no error; its starter gets None.

The wait for ``started`` takes no message of the starter's, so a supervisor loses no exit signal
while it starts a child.

References: OTP's `gen`, `proc_lib:start_link/3`, `proc_lib:stop/3`.
Rejected: an acknowledgement as a message (it would pass every message that waits).
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, Final, Protocol, cast

from trio.lowlevel import current_task

from drupelet.errors import NameTaken, ProcessDown, Timeout
from drupelet.process import api
from drupelet.process.current import process_var, this_process, this_runtime
from drupelet.process.kernel import Ask
from drupelet.process.runtime import Runtime, To
from drupelet.process.table import DEFAULT_MAILBOX, Mailbox, Process
from drupelet.wire.ids import Pid, check_plain_name

CAST: Final = "$gen_cast"
STOP: Final = "$gen_stop"
CALL_TIMEOUT_S: Final = api.ASK_TIMEOUT_S


class _Ignore:
    """See `IGNORE`."""

    def __repr__(self) -> str:
        return "IGNORE"


IGNORE: Final = _Ignore()
"""What ``init`` returns when there is to be no process, and that is no error."""


class Started(Protocol):
    """Tell the starter that ``init`` is over; `None` where it ignored."""

    def __call__(self, value: object = True, /) -> None: ...


Body = Callable[[Started], Awaitable[None]]


def is_orderly(reason: object) -> bool:
    """Whether that is how a process ends that did what it should: "normal", "shutdown", ..."""
    match reason:
        case "normal" | "shutdown":
            return True
        case ("shutdown", _):
            return type(reason) is tuple
    return False


async def start_behaviour(
    shown: object,
    body: Body,
    *,
    link: bool,
    name: str | None = None,
    mailbox: Mailbox = DEFAULT_MAILBOX,
    timeout: float = inf,
) -> Pid:
    """Start a process that runs ``body(started)``, and wait until it called ``started()``.

    `shown`: the class or function that `process_info` shows. Its pid; None when it ignored (no
    annotation: who ignores knows). Raises: `ProcessDown` with the reason for which it ended,
    `NameTaken`, `ValueError` for what is no name, `Timeout` (it was killed then).
    """
    if name is not None:
        check_plain_name(name)
    runtime = this_runtime()
    parent = this_process() if link else process_var.get(None)
    await runtime.breathe(parent)
    number = runtime.new_ref()
    process = runtime.start(
        _first,
        (runtime, number, shown, body, name),
        mailbox=mailbox,
        parent=parent.pid if parent is not None else None,
    )
    process.function = shown
    try:
        if link:
            assert parent is not None
            runtime.link(parent, process.pid)
        ask = runtime.asks[number] = Ask(process.pid, current_task())
        process.watchers = {number: runtime.pid if parent is None else parent.pid}
        value = await runtime.wait_answer(number, ask, timeout)
    except Timeout:
        _kill(runtime, parent, process)
        raise
    except BaseException:  # who starts it was cancelled; an ended starter's link tells why
        if parent is None or not parent.exiting:
            _kill(runtime, parent, process)
        raise
    if isinstance(value, Exception):
        raise value
    return cast(Pid, process.pid if value is not None else None)


async def _first(
    runtime: Runtime, number: int, shown: object, body: Body, name: str | None
) -> None:
    process = this_process()
    process.function = shown

    def started(value: object = True, /) -> None:
        runtime.answered(number, process.pid, value)

    if name is not None:
        refused = await runtime.register(name, process)
        if refused:
            started(NameTaken(refused))
            return
    await body(started)


def _kill(runtime: Runtime, parent: Process | None, process: Process) -> None:
    if process.alive:
        if parent is not None:
            runtime.unlink(parent, process.pid)
        runtime.exit_process(process, "killed")


async def call(to: To, request: object, *, timeout: float = CALL_TIMEOUT_S) -> Any:
    """Ask a behaviour and wait. Raises: `Timeout`, `ProcessDown`, `NoConnection`."""
    return await api.ask(to, request, timeout=timeout)


async def cast_to(to: To, message: object) -> None:
    """Tell a behaviour, and do not wait for it. To nobody: nothing happens."""
    with contextlib.suppress(ProcessDown):
        await api.send(to, (CAST, message))


async def stop(to: To, reason: object = "normal", *, timeout: float = inf) -> None:
    """Tell a behaviour to end with `reason`, and wait for that.

    Raises: `ProcessDown` when it ended for another reason or was not there, `Timeout`.
    """
    try:
        await api.ask(to, (STOP, reason), timeout=timeout)
    except ProcessDown as down:
        if down.reason != reason:
            raise
