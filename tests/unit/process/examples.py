"""Runs the examples of a document, each as the program that it is."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests import documents

DOCUMENTS = Path(__file__).parents[3] / "daemon" / "docs"
NEEDS_THE_WALL = ('where="thread"', 'where="process"')  # they take real time


def check_example(
    example: documents.Program,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It prints what stands below it; what it waits for takes no time."""
    file = folder / "example.py"
    file.write_text(example.text)
    if not any(word in example.text for word in NEEDS_THE_WALL):
        monkeypatch.setattr(trio, "run", _in_no_time(trio.run))
    runpy.run_path(str(file), run_name="__main__")
    printed = capsys.readouterr().out
    assert documents.matches(example.output, printed), printed


def _in_no_time(run: Any) -> Any:
    def run_on_a_clock_that_jumps(*args: Any, **options: Any) -> Any:
        if options.get("clock") is None:
            options["clock"] = MockClock(autojump_threshold=0)
        return run(*args, **options)

    return run_on_a_clock_that_jumps


def used_names(text: str) -> set[str]:
    """What an example calls, or hands on to be called."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Name):
            found.add(node.id)
    return found
