"""TUTORIAL.md tells of every lesson, with the very program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from drupelet.cli.lessons.course import LESSONS, Lesson
from drupelet.cli.lessons.program import Program
from tests import documents
from tests.unit.cli.lessons.solutions import perform

FILE = Path(__file__).parents[4] / "daemon" / "docs" / "TUTORIAL.md"
CHAPTERS = dict(
    re.findall(r"^## (\d+)\. (.*?)(?=^## )", FILE.read_text(), re.MULTILINE | re.DOTALL)
)


def test_one_chapter_for_each_lesson() -> None:
    assert list(map(int, CHAPTERS)) == [lesson.number for lesson in LESSONS]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_a_chapter(lesson: Lesson) -> None:
    chapter = CHAPTERS[str(lesson.number)]
    program = Program(lesson.file)
    assert chapter.splitlines()[0] == program.title
    (shown,) = re.findall(r"^```python\n(.*?)^```", chapter, re.MULTILINE | re.DOTALL)
    assert shown == program.code
    (command,) = documents.commands(chapter)  # run by tests/integration/test_docs.py
    assert command.text.endswith(f"drupelet lesson {lesson.number}")
    lines = command.output.splitlines()
    for printed in perform(lesson.file, lesson).printed:
        assert f"  {printed}" in lines
    plural = "s" if len(lesson.exercises) > 1 else ""
    assert f"\n**Exercise{plural}.** " in chapter
