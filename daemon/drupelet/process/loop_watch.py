"""The loop watch: names what holds the loop, and the mend.

Decides when a step is too long: a process that computes for more than HELD_S lets no other process
of this program run. One line a minute for each place, with what it was and how long.

The place is the author's line at which the process let go: it held the loop somewhere above. A
server that was handed a message and waits for the next shows where the method for that message
begins, another process that waits nowhere in the author's code, or has ended, where its function
does.

Cost: two calls per step of a task, 2 us of the 17 us of a request and its reply. All else is done
when a step was too long.
Rule: the wall counts, not the processor: a call that waits outside of the loop (a file, a name
server, `time.sleep`) holds it as well as one that computes.

References: trio, "Instrumentation"; Erlang's ``long_schedule`` of `erlang:system_monitor/2`.
Rejected: a thread that samples the stack (it wakes an idle Pi, and takes the interpreter's lock);
an alarm for each step (two system calls, and signals belong to the program's author);
`sys.setprofile` (every call pays).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from types import CodeType, FrameType
from typing import Final

import trio

from drupelet.process.current import process_var
from drupelet.process.information import function_name
from drupelet.wire.notices import Request

_log = logging.getLogger("drupelet.process")

HELD_S: Final = 0.05
QUIET_S: Final = 60.0  # for one place
PLACES_MAX: Final = 256  # whose lines are remembered

_OWN_FILES: Final = os.path.dirname(__file__) + os.sep
_LIBRARIES: Final = tuple(os.path.dirname(str(each.__file__)) + os.sep for each in (os, trio))
_LAST_MESSAGE: Final = "message"  # the variable of a behaviour's loop
_CAST: Final = "$gen_cast"  # behaviours.py, which imports us


class LoopWatch(trio.abc.Instrument):
    """Times every step of every task. `clock`: seconds, of the wall."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._started = clock()
        self._told: dict[tuple[str, str], tuple[float, int]] = {}  # when, and how many since

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._started = self._clock()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        held = self._clock() - self._started
        if held > HELD_S:
            self._report(task, held)

    def _report(self, task: trio.lowlevel.Task, held: float) -> None:
        process = task.context.get(process_var)
        name = function_name(process.function) if process is not None else task.name
        where = place(task, process.function if process is not None else None)
        now = self._clock()
        key = (name, where)
        told, count = self._told.get(key, (-QUIET_S, 0))
        if now - told < QUIET_S:
            self._told[key] = (told, count + 1)
            return
        if key not in self._told and len(self._told) >= PLACES_MAX:
            del self._told[next(iter(self._told))]
        self._told[key] = (now, 0)
        _log.warning(
            "loop_held pid=%s function=%s place=%s ms=%d times_since_the_last_line=%d: nothing "
            'else could run; let it compute elsewhere with spawn(..., where="thread") or "process"',
            process.pid if process is not None else "none",
            name,
            where,
            held * 1000,
            count,
        )


def place(task: trio.lowlevel.Task, function: object) -> str:
    """``kitchen.py:12``: see the module's text; "?" when nothing is known."""
    waits = message = None
    coroutine: object = task.coro
    while coroutine is not None:
        frame: FrameType | None = getattr(coroutine, "cr_frame", None)
        if frame is None:
            break
        file = frame.f_code.co_filename
        if file.startswith(_OWN_FILES):
            message = frame.f_locals.get(_LAST_MESSAGE, message)
        elif not file.startswith(_LIBRARIES):
            waits = f"{os.path.basename(file)}:{frame.f_lineno}"
        coroutine = getattr(coroutine, "cr_await", None)
    return waits or _begins(_definition(function), message)


def _definition(function: object) -> object:
    """What is shown of a behaviour stands for a class, which has its name."""
    found: object = sys.modules.get(getattr(function, "__module__", ""))
    for part in getattr(function, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return function if found is None else found


def _begins(definition: object, message: object) -> str:
    """Where a function begins, or the method of a class that took `message`."""
    if isinstance(definition, type):
        methods = [getattr(definition, name, None) for name in _callbacks(message)]
        methods += vars(definition).values()
        codes = (getattr(each, "__code__", None) for each in methods)
        code = next(
            (each for each in codes if each and not each.co_filename.startswith(_OWN_FILES)), None
        )
    else:
        code = getattr(definition, "__code__", None)
    if not isinstance(code, CodeType):
        return "?"
    return f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}"


def _callbacks(message: object) -> list[str]:
    """The method that took a message: a verb, or what stands for one."""
    if isinstance(message, Request):
        request, other = message.request, "handle_call"
    elif isinstance(message, tuple) and len(message) == 2 and message[0] == _CAST:
        request, other = message[1], "handle_cast"
    else:
        return ["handle_info"]
    verb = request[0] if isinstance(request, tuple) and request else None
    return [verb, other] if isinstance(verb, str) else [other]


_watching: Final = trio.lowlevel.RunVar[tuple[LoopWatch, int] | None]("drupelet_loop_watch", None)


@contextmanager
def watch_loop() -> Iterator[None]:
    """Watch this trio loop; once, however many runtimes it has."""
    watch, count = _watching.get(None) or (LoopWatch(), 0)
    _watching.set((watch, count + 1))
    if not count:
        trio.lowlevel.add_instrument(watch)
    try:
        yield
    finally:
        _, count = _watching.get(None) or (watch, 1)
        _watching.set((watch, count - 1) if count > 1 else None)
        if count == 1:
            trio.lowlevel.remove_instrument(watch)
