"""The life of a runtime: its timers and its loop watch, and how it ends.

Decides that a runtime that is cancelled lives until its last process has ended ("shutdown"): what a
``finally`` asks or waits for under a shield still has its timeout. Decides that a process that does
not end within UNWIND_S after it was told to (or CLOSE_S after its runtime was) is abandoned and
reported: from then on its words raise. Its task cannot be stopped, and the nursery waits for it, as
trio's do.

Rejected: timers that end with the nursery (a shielded ``receive(timeout=1)`` waited for ever, and
the program with it).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from drupelet.errors import ProcessExit
from drupelet.process.information import function_name
from drupelet.process.loop_watch import watch_loop

if TYPE_CHECKING:
    from drupelet.process.runtime import Runtime
    from drupelet.process.table import Process

_log = logging.getLogger("drupelet.process")

UNWIND_S: Final = 5.0
CLOSE_S: Final = UNWIND_S + 1  # who waits for others that end, and takes its own time then


async def live(runtime: Runtime) -> None:
    """Until cancelled, and then until no process runs in its nursery. Owns: the timers' task."""
    with watch_loop():
        try:
            await runtime.timers.run()
        except trio.Cancelled:
            if runtime.task_count:
                deadline = trio.current_time() + CLOSE_S
                entry = runtime.timers.add(deadline, lambda: _abandon_all(runtime))
                with trio.CancelScope(shield=True) as runtime.last:
                    await runtime.timers.run()
                runtime.timers.cancel(entry)
            raise


def _abandon_all(runtime: Runtime) -> None:
    for process in list(runtime.processes.values()):
        if not process.adopted:
            process.exit_reason = process.exit_reason or "shutdown"
            abandon(runtime, process)


def abandon(runtime: Runtime, process: Process) -> None:
    """It did not end in time."""
    entry = runtime.unwinding.pop(process, None)
    if entry is not None:
        runtime.timers.cancel(entry)
    _log.warning(
        "process_abandoned pid=%s function=%s did not end within %g s after it was told to "
        "(%r), telling others that it has",
        process.pid,
        function_name(process.function),
        UNWIND_S,
        process.exit_reason,
    )
    runtime.end(process, process.exit_reason)
    end_waits(runtime, process)


def end_waits(runtime: Runtime, process: Process) -> None:
    """The task of a process that is no more waits for messages or answers that are not for it."""
    task, process.waiting = process.waiting, None
    if task is not None:
        runtime.wake_error(task, ProcessExit(process.exit_reason))
    asks = runtime.asks
    for number in [n for n, ask in asks.items() if ask.task is process.task is not None]:
        ask = asks.pop(number)
        runtime.forget_ask(number, ask)
        runtime.wake_error(ask.task, ProcessExit(process.exit_reason))
