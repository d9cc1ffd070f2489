"""The examples of PROCESSES.md: each is a program that prints what stands below it, and together
they use every public function of processes."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import ModuleType

import pytest

from drupelet import process
from drupelet.process import computing, pg, rpc
from tests import documents
from tests.unit.process.examples import DOCUMENTS, check_example, used_names

DOCUMENT = DOCUMENTS / "PROCESSES.md"
EXAMPLES = documents.programs(DOCUMENT.read_text())
TYPES_ONLY = ("Pid", "Ref")  # of what functions give


def test_every_example_says_what_it_prints() -> None:
    assert len(EXAMPLES) == DOCUMENT.read_text().count("```python\n") > 15


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: f"line {each.line}")
def test_an_example(
    example: documents.Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check_example(example, tmp_path, monkeypatch, capsys)


def functions(module: ModuleType, names: list[str]) -> list[str]:
    return [name for name in names if inspect.isfunction(getattr(module, name))]


def public_names() -> list[str]:
    wanted = functions(process, process.__all__)
    wanted += [f"pg.{name}" for name in pg.__all__]
    wanted += [f"rpc.{name}" for name in ("call", "cast", "multicall")]
    wanted += [f"computing.{name}" for name in ("abandoned", "compute", "self", "send")]
    return wanted


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
