"""Every lesson in the simulator, and programs that are no lesson. Time is virtual."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from drupelet.cli.lessons.course import LESSONS, Lesson
from drupelet.cli.lessons.simulated import NODES
from drupelet.cli.lessons.stage import Performance
from tests.unit.cli.lessons.solutions import lesson, perform

LESSON_S = 1.0  # of processor time


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_a_lesson_holds_whatever_the_seed(lesson: Lesson) -> None:
    started = time.process_time()
    first = perform(lesson.file, lesson)
    assert time.process_time() - started < LESSON_S
    assert not first.problem
    assert [each for each in first.verdicts if not each.ok] == []
    assert not any(each.ok for each in first.exercises)  # they are the learner's to do
    assert all(each.expected and each.seen and each.hint for each in first.exercises)
    assert "main" in first.diagram
    for seed in range(2, 7):
        found = perform(lesson.file, lesson, seed)
        assert found.ok, found
        assert sorted(found.printed) == sorted(first.printed)


def test_the_same_seed_is_the_same_run() -> None:
    last = LESSONS[-1]
    assert perform(last.file, last, 5).diagram == perform(last.file, last, 5).diagram


def test_a_genserver_is_shown_by_its_class_and_a_cast_as_such() -> None:
    diagram = perform(lesson(4).file, lesson(4)).diagram
    assert diagram.splitlines()[1].split() == ["main", "Counter"]
    assert diagram.count(' cast ("more",) ') == 3
    assert diagram.count(' ask ("get",) ') == 1


def run_text(text: str, folder: Path) -> Performance:
    file = folder / "mine.py"
    file.write_text(text)
    return perform(file, Lesson(number=1, name="x", checks=(), exercises=()))


def test_a_program_that_waits_for_ever(tmp_path: Path) -> None:
    text = "from drupelet import receive\nasync def main():\n    await receive()\n"
    found = run_text(text, tmp_path)
    assert "did not end within 60 seconds" in found.problem
    assert not found.ok


def test_a_program_that_talks_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drupelet.cli.lessons.simulated.SPIN_S", 0.2)
    text = (
        "from drupelet import receive, self, send\n"
        "async def main():\n    while True:\n"
        "        await send(self(), 1)\n        await receive()\n"
    )
    found = run_text(text, tmp_path)
    assert "without end" in found.problem
    assert found.nodes == NODES


def test_a_program_that_raises_names_its_line(tmp_path: Path) -> None:
    found = run_text("async def main():\n    numbers = [1]\n    print(numbers[1])\n", tmp_path)
    assert re.search(r"IndexError.*\(line 3: print\(numbers\[1\]\)\)", found.problem)


def test_a_crash_of_another_process_is_in_the_log_not_on_the_screen(
    capfd: pytest.CaptureFixture[str],
) -> None:
    found = perform(lesson(6).file, lesson(6))
    assert len(found.log) == 1
    assert "ValueError: I cannot do that" in found.log[0]
    assert capfd.readouterr() == ("", "")


def test_a_node_that_main_left_broken_is_mended_for_the_checks(tmp_path: Path) -> None:
    text = (
        "async def main(cluster):\n    await cluster.kill('bilbo')\n    await cluster.cut('frodo')"
    )
    found = run_text(text, tmp_path)
    assert not found.problem
    assert "restart bilbo" in found.diagram or "kill bilbo" in found.diagram
