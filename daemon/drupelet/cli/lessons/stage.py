"""A stage: where a lesson's program runs, simulated or real, and what is found out there.

Decides the order of a performance: `main` as a process of the first node, the diagram, what broke
is mended, then each check runs as a process of the first node too. So a check can start the
program's functions and talk to them, on a real cluster as in the simulator.

`Stage` is also the `cluster` that a program's ``main(cluster)`` gets: the hand that breaks things.
What "kill" and "cut" are made of is the stage's; `notes` say so where it is less than that.

Rules
- Nothing of a learner's program ends the performance: an exception, an exit, a wait without end are
  findings. Simulated time has limits like real time.
- Logs of the program's processes are caught and shown, not printed between the lines.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from drupelet.cli.lessons.checks import Check, Run, Verdict, Wrong
from drupelet.cli.lessons.program import MODULE, Loaded
from drupelet.errors import DrupeletError
from drupelet.ladder import Trace, draw

LAST_WORDS_S: Final = 0.01  # for what is on its way when main ends
LOG_LINES_MAX: Final = 20
_LOGGER: Final = "drupelet.process"


@dataclass(slots=True, kw_only=True)
class Performance:
    """All that one run showed. `problem`: how `main` failed, if it did."""

    nodes: tuple[str, ...]
    printed: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    diagram: str = ""
    problem: str = ""
    notes: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    exercises: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether `main` ended and all checks hold; exercises are not counted."""
        return not self.problem and all(each.ok for each in self.verdicts)


class Stage(ABC):
    """Some nodes, `names[0]` the one where programs begin."""

    names: tuple[str, ...]
    trace: Trace
    limit_s: float  # for main, and for each check

    def __init__(self) -> None:
        self.notes: list[str] = []

    @abstractmethod
    async def run(self, function: Callable[..., Awaitable[Any]], *args: object) -> Any:
        """``function(*args)`` as a process of the first node; its value, or what it raises."""

    # -- what a program's main(cluster) may use

    @abstractmethod
    async def kill(self, node: str) -> None:
        """Kill a node, with everything on it."""

    @abstractmethod
    async def cut(self, node: str) -> None:
        """Cut a node off from all others; both sides have noticed when this returns."""

    @abstractmethod
    async def heal(self) -> None:
        """Mend everything; all nodes see each other when this returns."""


async def perform(
    stage: Stage, program: Loaded, checks: Sequence[Check], exercises: Sequence[Check]
) -> Performance:
    """Run a program and its checks on a stage."""
    started = time.monotonic()
    found = Performance(nodes=stage.names)
    program.printed = found.printed
    with _log_caught(found.log, program):
        found.problem = await _run_main(stage, program)
        program.printed = []  # what the checks make it print is not shown
        await trio.sleep(LAST_WORDS_S)
        found.diagram = draw(stage.trace)
        try:
            with trio.fail_after(stage.limit_s):
                await stage.heal()
        except (trio.TooSlowError, DrupeletError) as error:
            problem = f"the nodes did not find each other again: {error or 'too slow'}"
            found.problem = found.problem or problem
            return found
        run = Run(program, tuple(found.printed), stage)
        for check in checks:
            found.verdicts.append(await _run_check(stage, run, check, found.log))
        for check in exercises:
            found.exercises.append(await _run_check(stage, run, check, found.log))
    found.notes = list(dict.fromkeys(stage.notes))
    found.seconds = time.monotonic() - started
    return found


async def _run_main(stage: Stage, program: Loaded) -> str:
    """How it failed, or ""."""
    args = (stage,) if program.takes_cluster else ()
    try:
        with trio.fail_after(stage.limit_s):
            await stage.run(program.main, *args)
    except trio.TooSlowError:
        return (
            f"main did not end within {stage.limit_s:g} seconds: it waits for a message that does "
            "not come; the last lines of the diagram show who had spoken last"
        )
    except Exception as error:  # the learner's
        return f"main ended with {program.program.where(error)}"
    return ""


async def _run_check(stage: Stage, run: Run, check: Check, log: list[str]) -> Verdict:
    """What came of it; what crashed meanwhile belongs to it and not to `log`."""
    before = len(log)
    try:
        with trio.fail_after(stage.limit_s):
            await stage.run(check.test, run)
    except Wrong as wrong:
        expected, seen = wrong.expected, wrong.seen
    except trio.TooSlowError:
        expected, seen = "an answer", f"nothing within {stage.limit_s:g} seconds"
    except AttributeError as error:
        expected, seen = "a program that has what the lesson's has", str(error)
    except DrupeletError as error:
        expected, seen = "an answer", f"{type(error).__name__}: {error}"
    except Exception as error:  # the learner's function, called by the check
        expected, seen = "no exception", run.program.program.where(error)
    else:
        return Verdict(what=check.what, ok=True)
    finally:
        crashed = log[before:]
        del log[before:]
    seen = "; ".join([seen, *crashed])
    return Verdict(what=check.what, ok=False, expected=expected, seen=seen, hint=check.hint)


@contextmanager
def _log_caught(lines: list[str], program: Loaded) -> Iterator[None]:
    """What processes log goes into `lines`: a crash as what crashed, why, and in which line."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if len(lines) >= LOG_LINES_MAX:
                return
            match record.args, record.exc_info:
                case (_, str(function)), (_, BaseException() as error, _):
                    name = function.removeprefix(f"{MODULE}.")
                    lines.append(f"{name} crashed: {program.program.where(error)}")
                case _:
                    lines.append(record.getMessage())

    logger = logging.getLogger(_LOGGER)
    handler = Handler(logging.WARNING)
    former = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = former
        logger.removeHandler(handler)
