"""The order of a performance, and what a learner's program can do to it. Time is virtual."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio.testing

from drupelet.cli.lessons.checks import Check, Run, Wrong
from drupelet.cli.lessons.program import Program
from drupelet.cli.lessons.stage import LOG_LINES_MAX, Performance, Stage, perform
from drupelet.errors import NoConnection
from drupelet.ladder import Trace
from drupelet.process import receive, spawn_monitor
from drupelet.process.running import open_runtime, run_main


class AloneStage(Stage):
    """One runtime; notes what is asked of it."""

    limit_s = 5.0
    names = ("here",)

    def __init__(self, runtime: Any) -> None:
        super().__init__()
        self.trace = Trace()
        self.asked: list[str] = []
        self._runtime = runtime

    async def run(self, function: Callable[..., Awaitable[Any]], *args: object) -> Any:
        self.asked.append(getattr(function, "__name__", ""))
        return await run_main(self._runtime, function, *args)

    async def kill(self, node: str) -> None:
        self.notes.append(f"{node} was only looked at")

    async def cut(self, node: str) -> None:
        self.notes.append(f"{node} was only looked at")

    async def heal(self) -> None:
        self.asked.append("heal")


def performance(
    text: str, folder: Path, *checks: Callable[[Run], Awaitable[None]]
) -> tuple[Performance, list[str]]:
    file = folder / "mine.py"
    file.write_text(text)
    listed = [Check(what=each.__name__, test=each, hint="look") for each in checks]

    async def main() -> tuple[Performance, list[str]]:
        async with open_runtime() as runtime:
            stage = AloneStage(runtime)
            with Program(file).loaded() as program:
                return await perform(stage, program, listed, listed), stage.asked

    found: tuple[Performance, list[str]] = trio.run(
        main, clock=trio.testing.MockClock(autojump_threshold=0)
    )
    return found


async def good(run: Run) -> None:
    run.program.module.print("not shown")
    assert run.printed == ("hello",)
    assert run.here == "here"


async def bad(run: Run) -> None:
    raise Wrong("one", "two")


HELLO = "async def main():\n    print('hello')\n"


def test_main_then_mending_then_checks_and_exercises(tmp_path: Path) -> None:
    found, asked = performance(HELLO, tmp_path, good, bad)
    assert asked == ["main", "heal", "good", "bad", "good", "bad"]
    assert found.printed == ["hello"]
    assert found.problem == ""
    assert [each.ok for each in found.verdicts] == [True, False]
    assert found.verdicts == found.exercises
    verdict = found.verdicts[1]
    assert (verdict.what, verdict.expected, verdict.seen, verdict.hint) == (
        "bad",
        "one",
        "two",
        "look",
    )
    assert not found.ok


def test_exercises_do_not_count(tmp_path: Path) -> None:
    found, _ = performance(HELLO, tmp_path, good)
    assert found.ok
    found.exercises[0:] = performance(HELLO, tmp_path, bad)[0].exercises
    assert found.ok
    found.problem = "it broke"
    assert not found.ok


def test_a_main_that_fails_is_a_finding(tmp_path: Path) -> None:
    for line, words in (
        ("raise ValueError('no')", "main ended with ValueError: no  (line 3: raise"),
        ("exit('tired')", "tired"),
        ("exit(self(), 'kill'); await receive()", "killed"),
        ("await receive()", "main did not end within 5 seconds"),
        ("raise ExceptionGroup('a', [OSError()])", "ExceptionGroup"),
    ):
        text = f"from drupelet import exit, receive, self\nasync def main():\n    {line}\n"
        found, asked = performance(text, tmp_path)
        assert words in found.problem
        assert asked == ["main", "heal"]


def test_a_check_that_cannot_be_made_fails(tmp_path: Path) -> None:
    async def asks_for_more(run: Run) -> None:
        await run.program.greeter()

    async def waits(run: Run) -> None:
        await trio.sleep_forever()

    async def is_refused(run: Run) -> None:
        raise NoConnection("down")

    async def calls_it(run: Run) -> None:
        await run.program.broken()

    text = HELLO + "async def broken():\n    return {}[1]\n"
    found, _ = performance(text, tmp_path, asks_for_more, waits, is_refused, calls_it)
    seen = [each.seen for each in found.verdicts]
    assert not any(each.ok for each in found.verdicts)
    assert "greeter" in seen[0]
    assert seen[1] == "nothing within 5 seconds"
    assert seen[2].startswith("NoConnection: ")
    assert "KeyError: 1  (line 4: return {}[1])" in seen[3]


def test_the_cluster_is_the_stage_and_notes_are_told_once(tmp_path: Path) -> None:
    text = "async def main(cluster):\n    await cluster.kill('a')\n    await cluster.kill('a')\n"
    found, _ = performance(text, tmp_path)
    assert found.notes == ["a was only looked at"]


def test_the_log_is_caught_and_bounded(tmp_path: Path) -> None:
    text = (
        "from drupelet import receive, spawn, spawn_monitor\n"
        "async def crash():\n    raise ValueError('boom')\n"
        f"async def main():\n    for _ in range({LOG_LINES_MAX + 1}):\n"
        "        await spawn_monitor(crash)\n        await receive()\n"
    )
    found, _ = performance(text, tmp_path)
    assert len(found.log) == LOG_LINES_MAX
    assert set(found.log) == {"crash crashed: ValueError: boom  (line 3: raise ValueError('boom'))"}


def test_what_crashes_in_a_check_is_told_with_it(tmp_path: Path) -> None:
    async def starts_it(run: Run) -> None:
        await spawn_monitor(run.program.crash)
        await receive()
        raise Wrong("life", "nothing")

    text = HELLO + "async def crash():\n    raise ValueError('boom')\n"
    found, _ = performance(text, tmp_path, starts_it)
    assert found.log == []
    assert found.verdicts[0].seen == (
        "nothing; crash crashed: ValueError: boom  (line 4: raise ValueError('boom'))"
    )
