"""What is shown of a process: its record for `process_info`, its function's name, its end's reason.

Decides which fields people and `drupelet ps` see, and how an exception becomes an exit reason.
"""

from __future__ import annotations

import inspect
import os
from types import TracebackType
from typing import Final

from drupelet.errors import ProcessExit
from drupelet.process.table import Process

_TEXT_CHARS_MAX: Final = 1_000
_OWN_FILES: Final = os.path.dirname(__file__) + os.sep


def describe(process: Process) -> dict[str, object]:
    """What `process_info` and `drupelet ps` show of one process."""
    if process.exiting:
        status = "exiting"
    elif process.waiting is not None:
        status = "receive"
    else:
        status = "running"
    return {
        "pid": process.pid,
        "names": list(process.names or ()),
        "function": function_name(process.function),
        "status": status,
        "parent": process.parent,
        "messages": len(process.messages or ()),
        "received": process.received_count,
        "dropped": process.dropped_count,
        "reductions": process.reductions,
        "links": sorted(process.links or (), key=str),
        "monitors": len(process.monitors or ()),
        "watchers": len(process.watchers or ()),
        "trap_exit": process.trap_exit,
    }


def function_name(function: object) -> str:
    """How people call it: ``kitchen.Oven.loop``."""
    name = getattr(function, "__qualname__", None)
    if name is None:
        return str(function)
    return f"{getattr(function, '__module__', '')}.{name}"


def reason_of(error: BaseException) -> tuple[str, str]:
    """The exit reason of an exception: its class's name and its text."""
    try:
        text = str(error)[:_TEXT_CHARS_MAX]
    except Exception:  # anybody's __str__
        text = "(the exception has no text)"
    return (type(error).__name__, text)


def is_awaitable(value: object) -> bool:
    """Whether a function gave what must be awaited. Raises: `TypeError` for a generator."""
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        raise TypeError("the function of a process has no yield: it would only make a generator")
    return inspect.isawaitable(value)


def unwrap(error: BaseException) -> BaseException:
    """What a nursery (or several, one in the other) made a group of, when it is the only one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def end_of(error: BaseException) -> object:
    """With which reason a process ends that raised `error`."""
    error = unwrap(error)
    return error.reason if isinstance(error, ProcessExit) else reason_of(error)


def author_traceback(error: BaseException) -> TracebackType | None:
    """Where an exception came from, without the frames of ours before the author's first."""
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
        step = step.tb_next
    return step or error.__traceback__
