"""The examples of BEHAVIOURS.md: each is a program that prints what stands below it, and together
they use every function of every behaviour."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import drupelet
from drupelet import (
    Application,
    DynamicSupervisor,
    GenEvent,
    GenServer,
    GenStatem,
    Registry,
    Supervisor,
    Task,
    TaskSupervisor,
)
from drupelet.process.supervising import Supervising
from tests import documents
from tests.unit.process.examples import DOCUMENTS, check_example, used_names

DOCUMENT = (DOCUMENTS / "BEHAVIOURS.md").read_text()
EXAMPLES = documents.programs(DOCUMENT)
BEHAVIOURS = (
    Application,
    DynamicSupervisor,
    GenEvent,
    GenServer,
    GenStatem,
    Registry,
    Supervisor,
    Task,
    TaskSupervisor,
)
# said once, for all of them, in the part on GenServer
COMMON = {"start", "start_link", "start_monitor", "code_change", "format_status"}
OF_THE_WHOLE_PACKAGE = {
    "Child",
    "GenFsm",
    "IGNORE",
    "KEEP_STATE",
    "NOREPLY",
    "REPEAT_STATE",
    "Refused",
    "Stop",
    "cast",
    "reply",
    "start_calls",
}


def test_every_example_says_what_it_prints() -> None:
    assert len(EXAMPLES) == DOCUMENT.count("```python\n") > 25


@pytest.mark.filterwarnings("ignore:gen_fsm became:DeprecationWarning")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: f"line {each.line}")
def test_an_example(
    example: documents.Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check_example(example, tmp_path, monkeypatch, capsys)


def public_functions(cls: type) -> set[str]:
    """The functions of a behaviour, its own and of what it is made of."""
    bases = [each for each in cls.__mro__[:-1] if each is not Supervising or cls is Supervisor]
    names = {name for each in bases for name in vars(each) if not name.startswith("_")}
    return {
        name
        for name in names
        if callable(inspect.getattr_static(cls, name))
        or isinstance(inspect.getattr_static(cls, name), staticmethod | classmethod)
    }


def defined_names(text: str) -> set[str]:
    """The methods that an example's classes have: callbacks."""
    return {
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


USED = set().union(*(used_names(each.text) for each in EXAMPLES))
DEFINED = set().union(*(defined_names(each.text) for each in EXAMPLES))


@pytest.mark.parametrize("cls", BEHAVIOURS, ids=lambda cls: cls.__name__)
def test_every_function_of_a_behaviour_has_an_example(cls: type) -> None:
    functions = public_functions(cls)
    assert len(functions) > 5
    called = {name.split(".")[1] for name in USED if "." in name}
    missing = functions - DEFINED - called - COMMON
    assert missing == set()


@pytest.mark.parametrize("cls", BEHAVIOURS, ids=lambda cls: cls.__name__)
def test_every_function_stands_in_its_part(cls: type) -> None:
    title = "Task" if cls is TaskSupervisor else cls.__name__
    part = re.split(r"\n## ", DOCUMENT.split(f"\n## {title}\n", 1)[1], maxsplit=1)[0]
    missing = {name for name in public_functions(cls) - COMMON if name not in part}
    inherited = {"which_children", "count_children", "terminate_child", "init", "stop"}
    assert missing <= (inherited if cls is TaskSupervisor else {"handle_info", "stop"})


def test_the_other_names_are_used() -> None:
    assert set() == OF_THE_WHOLE_PACKAGE - USED
    with pytest.warns(DeprecationWarning):
        assert all(hasattr(drupelet, name) for name in OF_THE_WHOLE_PACKAGE)
