"""Lessons 1 to 7: solved exercises are found done, and each check finds a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.lessons.solutions import MISTAKES, SOLVED, Edit, assert_done, assert_found


@pytest.mark.parametrize("number", [each for each in SOLVED if each <= 7])
def test_solved_exercises_are_found_done(number: int, tmp_path: Path) -> None:
    assert_done(number, tmp_path)


@pytest.mark.parametrize(("number", "place", "edit"), [each for each in MISTAKES if each[0] <= 7])
def test_a_mistake_is_found_and_explained(
    number: int, place: int, edit: Edit, tmp_path: Path
) -> None:
    assert_found(number, place, edit, tmp_path)
