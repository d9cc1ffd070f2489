"""The examples of PROCESSES.md: each is a program that prints what stands below it, and together
they use every public function of processes."""

from __future__ import annotations

import ast
import inspect
import runpy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from drupelet import process
from drupelet.process import computing, pg, rpc
from tests import documents

DOCUMENT = Path(__file__).parents[3] / "daemon" / "docs" / "PROCESSES.md"
EXAMPLES = documents.programs(DOCUMENT.read_text())
TYPES_ONLY = ("NodeUp", "Pid", "Ref")  # of what functions give
NEEDS_THE_WALL = "where="  # threads and programs take real time


def test_every_example_says_what_it_prints() -> None:
    assert len(EXAMPLES) == DOCUMENT.read_text().count("```python\n") > 15


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: f"line {each.line}")
def test_an_example(
    example: documents.Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "example.py"
    file.write_text(example.text)
    if NEEDS_THE_WALL not in example.text:
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


def functions(module: ModuleType, names: list[str]) -> list[str]:
    return [name for name in names if inspect.isfunction(getattr(module, name))]


def public_names() -> list[str]:
    wanted = functions(process, process.__all__)
    wanted += [f"pg.{name}" for name in pg.__all__]
    wanted += [f"rpc.{name}" for name in ("call", "cast", "multicall")]
    wanted += [f"computing.{name}" for name in ("abandoned", "compute", "self", "send")]
    return wanted


def used_names(text: str) -> set[str]:
    """What an example calls, or hands on to be called."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Name):
            found.add(node.id)
    return found


def test_every_public_function_has_an_example() -> None:
    used = set().union(*(used_names(each.text) for each in EXAMPLES))
    assert sorted(set(public_names()) - used) == []
    assert "spawn" in public_names()
    assert "pg.join" in public_names()


def test_every_name_of_the_package_stands_in_the_guide() -> None:
    text = DOCUMENT.read_text()
    missing = [name for name in process.__all__ if name not in text]
    assert missing == [name for name in TYPES_ONLY if name in missing]


def test_every_part_of_a_module_that_is_public_is_known_here() -> None:
    """So that a new function of these modules is not forgotten above."""
    for module, prefix in ((rpc, "rpc"), (computing, "computing")):
        own = {
            name
            for name, each in vars(module).items()
            if inspect.isfunction(each)
            and each.__module__ == module.__name__
            and not name.startswith("_")
        }
        assert own - {name.removeprefix(f"{prefix}.") for name in public_names()} <= {"wrap"}
