"""Which process a piece of code belongs to.

Decides it by a context variable: what a process starts in a nursery of its own acts for it. A task
that is no process (an async function of a mission, a test) becomes one when it first needs a pid;
its owner ends it with `retire`.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from drupelet.errors import ProcessExit

if TYPE_CHECKING:
    from drupelet.process.runtime import Runtime
    from drupelet.process.table import Process

process_var: Final[ContextVar[Process]] = ContextVar("drupelet_process")
runtime_var: Final[ContextVar[Runtime]] = ContextVar("drupelet_runtime")


def this_runtime() -> Runtime:
    """The runtime of the running task. Raises: `RuntimeError` outside of any."""
    process = process_var.get(None)
    if process is not None:
        return process.runtime  # type: ignore[return-value]
    runtime = runtime_var.get(None)
    if runtime is None:
        raise RuntimeError(
            "no process runs here; start with run(main) (`from drupelet import run`), or "
            "as a mission (drupelet run FILE.py)"
        )
    return runtime


def this_process() -> Process:
    """The process of the running task; a task that is none becomes one.

    Raises: `ProcessExit` in what is left of a process that has ended, `RuntimeError` outside of
    any runtime.
    """
    process = process_var.get(None)
    if process is None:
        return this_runtime().adopt()
    check_there(process)
    return process


def check_there(process: Process | None) -> None:
    """Nothing comes from a process after its end was told. Raises: `ProcessExit`."""
    if process is not None and process.pid.number not in process.runtime.processes:
        raise ProcessExit(process.exit_reason)


def retire() -> None:
    """End the process that this task became, if it became one: its owner's last act."""
    process = process_var.get(None)
    if process is not None and process.adopted:
        process.runtime.end(process, "normal")
