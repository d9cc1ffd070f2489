"""The verb: what it says. The real part is in tests/integration/test_lessons.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from drupelet.cli import lesson
from drupelet.cli.lessons.course import LESSONS, Lesson
from drupelet.cli.lessons.program import Program
from drupelet.cli.lessons.stage import Performance
from drupelet.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE
from tests.unit.cli.conftest import Run
from tests.unit.cli.lessons.solutions import SOLVED, edited

NODES = ("gandalf", "bilbo", "frodo")


def test_it_lists_them(run: Run) -> None:
    code, out, _ = run("lesson")
    assert code == EXIT_DONE
    for each in LESSONS:
        assert re.search(rf"^{each.number} +{re.escape(Program(each.file).title)}", out, re.M)
    listed = json.loads(run("--json", "lesson")[1])
    assert [row["lesson"] for row in listed] == list(range(1, 13))


def test_a_lesson_in_the_simulator(run: Run) -> None:
    code, out, err = run("lesson", "3", "--simulated")
    assert (code, err) == (EXIT_DONE, "")
    program = Program(LESSONS[2].file)
    order = (
        "Lesson 3: A server by hand",
        program.idea.splitlines()[0],
        "match await receive():",
        "In the simulator, seed 1",
        "('number', 3)",
        '("get", <main>)',
        "ok      it counts from any number",
        "Exercises:",
        '- it understands "less"',
        "--copy .",
        "lesson 4",
    )
    places = [out.find(words) for words in order]
    assert -1 not in places
    assert places == sorted(places)
    assert "real nodes" not in out


def test_a_mistake_of_the_learner(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(edited(3, [("number += 1", "number += 2")]))
    code, out, _ = run("lesson", "3", str(file))
    assert code == EXIT_FAILED
    failed = out[out.index("FAILED") :]
    for words in ("expected: the line: ('number', 3)", "seen: the lines: ('number', 6)", "hint: "):
        assert words in failed
    assert "to do" in out
    assert "Mend what FAILED first" in out


def test_solved_exercises_are_done(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(edited(3, SOLVED[3]))
    code, out, _ = run("lesson", "3", str(file), "--simulated")
    assert code == EXIT_DONE
    assert out.count("  done  ") == 2
    assert "to do" not in out
    assert "--copy" not in out


def test_a_file_that_cannot_run(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("async def main(:\n")
    code, _, err = run("lesson", "1", str(file))
    assert code == EXIT_FAILED
    assert f"{file}:1: Python cannot read this" in err
    assert "mend: " in err


def test_a_crash_and_its_log_are_shown(run: Run) -> None:
    out = run("lesson", "6", "--simulated", "--seed", "5")[1]
    assert "the log has:" in out
    assert "ValueError: I cannot do that" in out
    assert "seed 5" in out


def test_json_is_one_document(run: Run) -> None:
    code, out, _ = run("--json", "lesson", "12", "--simulated")
    found = json.loads(out)
    assert (code, found["ok"], found["lesson"], found["real"]) == (EXIT_DONE, True, 12, None)
    assert found["simulated"]["nodes"] == list(NODES)
    assert all(each["ok"] for each in found["simulated"]["verdicts"])


def test_copies(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("lesson", "3", "--copy", str(tmp_path))
    target = tmp_path / "lesson03_counter.py"
    assert code == EXIT_DONE
    assert f"lesson 3 {target}" in out
    assert target.read_bytes() == LESSONS[2].file.read_bytes()
    code, _, err = run("lesson", "3", "--copy", str(tmp_path))
    assert (code, "is there already" in err) == (EXIT_FAILED, True)
    code, _, err = run("lesson", "3", "--copy", str(tmp_path / "none"))
    assert (code, "cannot be written" in err) == (EXIT_FAILED, True)
    assert json.loads(run("--json", "lesson", "4", "--copy", str(tmp_path))[1])["file"]


@pytest.mark.parametrize(
    "words",
    [
        ("0",),
        ("13",),
        ("one",),
        ("²",),
        ("3", "--seed", "x"),
        ("3", "mine.py", "--copy", "."),
        ("3", "a.py", "b.py"),
    ],
)
def test_mistakes_on_the_command_line(run: Run, words: tuple[str, ...]) -> None:
    code, _, err = run("lesson", *words)
    assert code == EXIT_USAGE
    assert "mend: drupelet lesson --help" in err


def test_the_real_part_comes_second_and_counts(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run_real(
        chosen: Lesson, program: Program, socket: str | None, *, json: bool
    ) -> tuple[Performance, str]:
        asked.append((chosen.number, socket))
        note = "a wire was not cut"
        return Performance(nodes=NODES, problem="it broke", notes=[note]), "On real nodes"

    asked: list[tuple[int, str | None]] = []
    monkeypatch.setattr(lesson, "_run_real", run_real)
    code, out, _ = run("lesson", "1", "--socket", "here")
    assert (code, asked) == (EXIT_FAILED, [(1, "here")])
    assert out.index("In the simulator") < out.index("On real nodes")
    assert "FAILED  it broke" in out
    assert "note: a wire was not cut" in out
    assert "Next" not in out
    file = tmp_path / "mine.py"
    file.write_text(edited(1, [("hello, ", "hallo, ")]))
    assert run("lesson", "1", str(file))[0] == EXIT_FAILED
    assert len(asked) == 1  # what fails in the simulator is mended first


def test_a_node_that_was_named_and_is_not_there(run: Run, tmp_path: Path) -> None:
    code, _, err = run("lesson", "8", "--socket", str(tmp_path / "none"))
    assert code == EXIT_FAILED
    assert "no node listens there" in err
    assert "leave --socket out" in err
