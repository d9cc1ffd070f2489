"""What is shown of a process: its record for `process_info`, its function's name, its end's reason.

Decides which fields people and `drupelet ps` see, and how an exception becomes an exit reason.
"""

from __future__ import annotations

import contextlib
import inspect
import linecache
import os
from types import TracebackType
from typing import Final

import outcome
import trio

from drupelet.errors import DrupeletError, LocalProtocolError, ProcessExit
from drupelet.process.table import Process

_TEXT_CHARS_MAX: Final = 1_000
_PACKAGE: Final = os.path.dirname(os.path.dirname(__file__)) + os.sep
_OURS: Final = (
    _PACKAGE,
    *(f"{os.path.dirname(str(each.__file__))}{os.sep}" for each in (trio, outcome)),
    contextlib.__file__,
)
_AUTHORS: Final = (f"{_PACKAGE}bundled{os.sep}", f"{_PACKAGE}lessons{os.sep}")


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
    """Where an exception came from, without the frames of ours around the author's.

    Those behind his last one stay when the exception was not raised on purpose: a bug of ours.
    """
    steps = []
    step = error.__traceback__
    while step is not None:
        steps.append(step)
        step = step.tb_next
    authors = [number for number, step in enumerate(steps) if not _is_ours(step)]
    if not authors:
        return None if steps and _on_purpose(error, steps[-1]) else error.__traceback__
    if authors[-1] + 1 == len(steps) or not _on_purpose(error, steps[-1]):
        return steps[authors[0]]
    chain: TracebackType | None = None
    for step in reversed(steps[authors[0] : authors[-1] + 1]):
        chain = TracebackType(chain, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return chain


def _is_ours(step: TracebackType) -> bool:
    file = step.tb_frame.f_code.co_filename
    return file.startswith(_OURS) and not file.startswith(_AUTHORS)


def _on_purpose(error: BaseException, last: TracebackType) -> bool:
    """Whether one of our `raise` statements made it."""
    if isinstance(error, DrupeletError):
        return not isinstance(error, LocalProtocolError)
    line = linecache.getline(last.tb_frame.f_code.co_filename, last.tb_lineno)
    return line.lstrip().startswith("raise ")
