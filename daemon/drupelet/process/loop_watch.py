"""The loop watch: names what holds the loop, and the mend.

Decides when a step is too long: a process that computes for more than HELD_S lets no other process
of this program run. One line a minute for each function, with what it was, how long, and where it
waits now.

Cost: two calls per step of a task, some 0.5 us of a request and its reply.
Rule: the wall counts, not the processor: a call that waits outside of the loop (a file, a name
server, `time.sleep`) holds it as well as one that computes.

References: trio, "Instrumentation"; Erlang's ``long_schedule`` of `erlang:system_monitor/2`.
Rejected: a thread that samples the stack (it wakes an idle Pi, and takes the interpreter's lock);
`sys.setprofile` (every call pays).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

import trio

from drupelet.process.current import process_var
from drupelet.process.information import function_name

_log = logging.getLogger("drupelet.process")

HELD_S: Final = 0.05
QUIET_S: Final = 60.0  # for one function
FUNCTIONS_MAX: Final = 256  # whose lines are remembered


class LoopWatch(trio.abc.Instrument):
    """Times every step of every task. `clock`: seconds, of the wall."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._started = clock()
        self._told: dict[str, tuple[float, int]] = {}  # when, and how many since

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._started = self._clock()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        held = self._clock() - self._started
        if held > HELD_S:
            self._report(task, held)

    def _report(self, task: trio.lowlevel.Task, held: float) -> None:
        process = task.context.get(process_var)
        name = function_name(process.function) if process is not None else task.name
        now = self._clock()
        told, count = self._told.get(name, (-QUIET_S, 0))
        if now - told < QUIET_S:
            self._told[name] = (told, count + 1)
            return
        if name not in self._told and len(self._told) >= FUNCTIONS_MAX:
            del self._told[next(iter(self._told))]
        self._told[name] = (now, 0)
        _log.warning(
            "loop_held pid=%s function=%s ms=%d before=%s times_since_the_last_line=%d: nothing "
            'else could run; let it compute elsewhere with spawn(..., where="thread") or "process"',
            process.pid if process is not None else "none",
            name,
            held * 1000,
            _place(task),
            count,
        )


_watching: Final = trio.lowlevel.RunVar[tuple[LoopWatch, int] | None]("drupelet_loop_watch", None)


def _place(task: trio.lowlevel.Task) -> str:
    """The author's line at which the task waits now: the innermost that is not a library's."""
    place = "its end"
    coroutine: object = task.coro
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is None:
            break
        file = frame.f_code.co_filename
        if "site-packages" not in file and "drupelet/process/" not in file:
            place = f"{file.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        coroutine = getattr(coroutine, "cr_await", None)
    return place


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
