"""``lesson``: run one of the twelve lessons, check it, and draw what its processes said.

Decides the order and the words: the idea, the program, a run in the simulator with its diagram and
checks, then the same on real nodes; what failed says what was expected, what was seen, and a hint.
Real nodes are the cluster of this machine's node, if there is one with as many nodes as the lesson
needs, else three of our own that end with the lesson.

Exit code 0 when every check holds; exercises are the learner's and do not count. A file of the
learner's is checked for the exercises too, in the simulator.
"""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from drupelet.cli import output
from drupelet.cli.demo import program as typed
from drupelet.cli.grammar import Request, UsageError
from drupelet.cli.lessons.checks import Verdict
from drupelet.cli.lessons.course import LESSONS, Lesson
from drupelet.cli.lessons.own_nodes import open_own_nodes
from drupelet.cli.lessons.program import Loaded, Program
from drupelet.cli.lessons.real import open_stage
from drupelet.cli.lessons.simulated import run_simulated
from drupelet.cli.lessons.stage import Performance, perform
from drupelet.cli.output import Failed
from drupelet.client import open_client
from drupelet.errors import EXIT_DONE, EXIT_FAILED, DrupeletError, NoConnection

SEED_MAX: Final = 1_000_000_000


def lesson(request: Request) -> int:
    """``lesson [N [FILE]] [--copy DIR] [--simulated] [--seed S]``."""
    if not request.argument(0):
        return _list(json=request.json)
    chosen = _lesson(request.argument(0))
    if "copy" in request.options:
        if request.argument(1):
            raise UsageError("--copy copies the lesson's own file; leave FILE out", "lesson")
        return _copy(chosen, Path(request.options["copy"]), json=request.json)
    own = request.argument(1)
    program = Program(Path(own).absolute() if own else chosen.file)
    seed = request.integer("seed", 1, 0, SEED_MAX)
    if not request.json:
        _introduce(chosen, program)
    with program.loaded() as loaded:
        exercises = chosen.exercises if own else ()
        simulated = run_simulated(loaded, chosen.checks, exercises, seed=seed)
        if not request.json:
            _show(f"In the simulator, seed {seed}", simulated, whole=True)
    real = None
    if "simulated" not in request.options and simulated.ok:
        real, where = _run_real(chosen, program, request.socket, json=request.json)
        if not request.json:
            _show(where, real, whole=True)
    ok = simulated.ok and (real is None or real.ok)
    if request.json:
        output.document(_document(chosen, program, simulated, real, ok=ok))
    else:
        _end(chosen, own, simulated, real)
    return EXIT_DONE if ok else EXIT_FAILED


def _lesson(word: str) -> Lesson:
    if not word.isascii() or not word.isdigit() or not 1 <= int(word[:3]) <= len(LESSONS):
        raise UsageError(f"{word!r} is no lesson; they are 1 to {len(LESSONS)}", "lesson")
    return LESSONS[int(word[:3]) - 1]


def _list(*, json: bool) -> int:
    rows: list[dict[str, object]] = [
        {"lesson": each.number, "title": Program(each.file).title, "file": str(each.file)}
        for each in LESSONS
    ]
    if json:
        output.document(rows)
    else:
        shown = [{**row, "file": Path(str(row["file"])).name} for row in rows]
        output.table(shown, ("lesson", "title", "file"))
        output.line(f"\n{typed()} lesson 1")
    return EXIT_DONE


def _copy(chosen: Lesson, folder: Path, *, json: bool) -> int:
    target = folder / chosen.file.name
    if target.exists():
        raise Failed(f"{target} is there already", mend="rename it, or copy to another folder")
    try:
        shutil.copyfile(chosen.file, target)
    except OSError as error:
        raise Failed(
            f"{target} cannot be written: {error.strerror}", mend="name a folder of yours"
        ) from None
    if json:
        output.document({"file": str(target)})
    else:
        output.line(
            f"{target} is yours now. Edit it, then: {typed()} lesson {chosen.number} {target}"
        )
    return EXIT_DONE


# -- on real nodes


def _run_real(
    chosen: Lesson, program: Program, socket: str | None, *, json: bool
) -> tuple[Performance, str]:
    """The performance, and in words where it was. Raises: `DrupeletError`."""
    try:
        return trio.run(_real, chosen, program, socket, json)
    except* DrupeletError as group:  # of the nurseries that it passed
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


async def _real(
    chosen: Lesson, program: Program, socket: str | None, json: bool
) -> tuple[Performance, str]:
    with program.loaded() as loaded:
        count = await _count_nodes(socket)
        if count >= chosen.nodes:
            async with open_stage(socket, program) as stage:
                where = f"On the cluster of this machine: {', '.join(stage.names)}"
                return await perform(stage, loaded, chosen.checks, ()), where
        if socket is not None:
            raise Failed(
                f"lesson {chosen.number} needs {chosen.nodes} nodes; that one sees {count - 1} "
                "others"
                if count
                else "no node listens there",
                mend="start more, or leave --socket out: the lesson then starts nodes of its own",
            )
        if count and not json:
            output.line(
                f"\nThe lesson needs {chosen.nodes} nodes; this machine's cluster has {count}."
            )
        return await _on_own_nodes(chosen, program, loaded, json=json)


async def _on_own_nodes(
    chosen: Lesson, program: Program, loaded: Loaded, *, json: bool
) -> tuple[Performance, str]:
    if not json:
        output.line("\nStarting three real nodes on this machine ...")
    async with open_own_nodes() as nodes, open_stage(nodes.socket, program, nodes) as stage:
        where = f"On real nodes of its own: {', '.join(stage.names)}"
        return await perform(stage, loaded, chosen.checks, ()), where


async def _count_nodes(socket: str | None) -> int:
    """How many nodes the cluster of this machine's node has; 0: there is none."""
    try:
        async with open_client(socket) as client:
            return 1 + sum(each["state"] == "up" for each in await client.nodes())
    except NoConnection:
        return 0


# -- what is shown


def _introduce(chosen: Lesson, program: Program) -> None:
    title = program.title or Program(chosen.file).title  # a learner may drop the docstring
    output.line(f"Lesson {chosen.number}: {title}\n")
    if program.idea:
        output.line(textwrap.indent(program.idea, "  ") + "\n")
    output.line(f"The program, {program.file}:\n")
    output.line(textwrap.indent(program.code.rstrip(), "  "))


def _show(where: str, found: Performance, *, whole: bool) -> None:
    output.line(f"\n{where} ({found.seconds:.1f} s)\n")
    output.line("it printed:")
    for line in found.printed or ["(nothing)"]:
        output.line(f"  {output.plain(line, None)}")
    if found.log:
        output.line("the log has:")
        for line in found.log:
            output.line(f"  {output.plain(line, None)}")
    if found.diagram:
        output.line("who said what, from top to bottom:\n")
        output.line(found.diagram)
    output.line("")
    for note in found.notes:
        output.line(textwrap.fill(f"note: {note}", 96, subsequent_indent="      "))
    if found.problem:
        words = f"  FAILED  {output.plain(found.problem, None)}"
        output.line(textwrap.fill(words, 96, subsequent_indent=" " * 10))
    _show_verdicts(found.verdicts, "ok", "FAILED")


def _show_verdicts(verdicts: Sequence[Verdict], good: str, bad: str) -> None:
    for each in verdicts:
        output.line(f"  {good if each.ok else bad:6}  {each.what}")
        if not each.ok:
            for name, words in (("expected", each.expected), ("seen", each.seen)):
                output.line(f"            {name}: {output.plain(words, None)}")
            output.line(f"            hint: {each.hint}")


def _end(chosen: Lesson, own: str, simulated: Performance, real: Performance | None) -> None:
    output.line("\nExercises:")
    if simulated.exercises:
        _show_verdicts(simulated.exercises, "done", "to do")
    else:
        for each in chosen.exercises:
            output.line(f"  - {each.what}")
    if not own:
        name = chosen.file.name
        output.line(
            f"\n{typed()} lesson {chosen.number} --copy .   gives you {name}; edit it, then"
        )
        output.line(f"{typed()} lesson {chosen.number} {name}   runs and checks yours.")
    if not simulated.ok:
        output.line("\nMend what FAILED first; real nodes come after that.")
    elif chosen.number < len(LESSONS) and (real is None or real.ok):
        output.line(f"\nNext: {typed()} lesson {chosen.number + 1}")


def _document(
    chosen: Lesson,
    program: Program,
    simulated: Performance,
    real: Performance | None,
    *,
    ok: bool,
) -> dict[str, object]:
    return {
        "lesson": chosen.number,
        "title": program.title,
        "file": str(program.file),
        "ok": ok,
        "simulated": dataclasses.asdict(simulated),
        "real": None if real is None else dataclasses.asdict(real),
    }
