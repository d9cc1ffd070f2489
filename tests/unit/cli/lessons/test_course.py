"""The course: its order, and what every program of it is like."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from drupelet.cli.lessons.course import LESSONS, Lesson
from drupelet.cli.lessons.program import FOLDER, Program
from tests.unit.cli.lessons.solutions import MISTAKES, SOLVED

CODE_LINES_MAX = 30
IDEA_LINES_MAX = 7


def test_twelve_lessons_and_no_file_besides() -> None:
    assert [lesson.number for lesson in LESSONS] == list(range(1, 13))
    assert sorted(FOLDER.glob("*.py")) == [lesson.file for lesson in LESSONS]


def test_they_ship_with_the_package() -> None:
    package = Path(str(FOLDER)).parent
    assert (package / "cli").is_dir()
    assert FOLDER.name == "lessons"


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_a_program_is_short_and_plain(lesson: Lesson) -> None:
    program = Program(lesson.file)
    assert program.title
    assert 3 <= len(program.idea.splitlines()) <= IDEA_LINES_MAX
    lines = [line for line in program.code.splitlines() if line.strip()]
    assert len(lines) <= CODE_LINES_MAX
    tree = ast.parse(program.code)
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules == {"drupelet"}
    fancy = (ast.Lambda, ast.ClassDef, ast.Try, ast.AsyncWith, ast.Nonlocal, ast.Global)
    used = {type(node).__name__ for node in ast.walk(tree) if isinstance(node, fancy)}
    assert used <= {"ClassDef", "Try"}


def test_lessons_that_break_something_take_the_cluster() -> None:
    for lesson in LESSONS:
        with Program(lesson.file).loaded() as program:
            assert program.takes_cluster is lesson.breaks


def test_every_exercise_has_a_solution_and_every_check_a_mistake() -> None:
    assert set(SOLVED) == {lesson.number for lesson in LESSONS}
    assert all(lesson.exercises for lesson in LESSONS)
    places = {(lesson.number, place) for lesson in LESSONS for place in range(len(lesson.checks))}
    assert {(number, place) for number, place, _ in MISTAKES} == places
