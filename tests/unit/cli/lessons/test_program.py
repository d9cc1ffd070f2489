"""A lesson's program: what is read of it, and files that are none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from drupelet.cli.lessons.program import MODULE, Program, ProgramError
from drupelet.wire.limits import BUNDLE_MODULE_BYTES_MAX

TEXT = '''"""A title

An idea
in two lines.
"""

from drupelet import receive


async def main():
    print("a", 1, sep="-")
    print("two\\nlines", end="")
'''


def program(text: str | bytes, folder: Path) -> Program:
    file = folder / "mine.py"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Program(file)


def test_title_idea_and_code(tmp_path: Path) -> None:
    found = program(TEXT, tmp_path)
    assert (found.title, found.idea) == ("A title", "An idea\nin two lines.")
    assert found.code.startswith("from drupelet import receive\n\n\nasync def main")
    assert program("async def main(): ...\n", tmp_path).code == "async def main(): ...\n"


async def test_what_it_prints_is_caught(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with program(TEXT, tmp_path).loaded() as loaded:
        assert sys.modules[MODULE] is loaded.module
        assert not loaded.takes_cluster
        await loaded.main()
        print("not caught")
    assert loaded.printed == ["a-1", "two", "lines"]
    assert capfd.readouterr().out == "not caught\n"
    assert MODULE not in sys.modules
    assert os.listdir(tmp_path) == ["mine.py"]  # no byte code


async def test_what_it_prints_is_bounded(tmp_path: Path) -> None:
    text = "async def main():\n    for n in range(1001):\n        print('x' * 1001)\n"
    with program(text, tmp_path).loaded() as loaded:
        await loaded.main()
    assert len(loaded.printed) == 1_000
    assert set(map(len, loaded.printed)) == {1_000}


def test_a_former_module_of_that_name_comes_back(tmp_path: Path) -> None:
    with program(TEXT, tmp_path).loaded() as outer:
        with program(TEXT, tmp_path).loaded() as inner:
            assert sys.modules[MODULE] is inner.module
        assert sys.modules[MODULE] is outer.module


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("async def main()\n    pass\n", r"mine\.py:1: Python cannot read this: expected ':'"),
        ("def f():\n", r"mine\.py:1: Python cannot read this"),
        (b"\xff", r"is no text"),
        ("x = '\0'", r"is no text|cannot read"),
        ("def main(): ...\n", r"has no main"),
        ("x = 1\n", r"has no main"),
        ("import nothing_of_this_name\n", r"ModuleNotFoundError.*\(line 1: import nothing"),
        ("def f():\n    await g()\n", r"mine\.py:2: .*outside async function\n    await g\(\)"),
        ("from drupelet import recieve\n", r"Did you mean: 'receive'\?"),
        ("x = 1 / 0\n", r"ZeroDivisionError.*\(line 1: x = 1 / 0\)"),
    ],
)
def test_a_file_that_is_no_program(text: str | bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=words) as caught:
        with program(text, tmp_path).loaded():
            pass
    assert caught.value.mend


def test_a_file_that_is_not_there_or_too_long(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="cannot be read: No such file"):
        Program(tmp_path / "none.py")
    text = "async def main(): ...\n"
    assert program(text.ljust(BUNDLE_MODULE_BYTES_MAX, "#"), tmp_path).title == ""
    with pytest.raises(ProgramError, match="is larger than"):
        program(text.ljust(BUNDLE_MODULE_BYTES_MAX + 1, "#"), tmp_path)


@pytest.mark.parametrize("line", ["x = receive()", "send(1, 2)", "print(receive())"])
def test_a_forgotten_await_is_told_with_its_line(line: str, tmp_path: Path) -> None:
    text = f"from drupelet import receive, send\n\nasync def main():\n    {line}\n"
    words = r"mine\.py:4: (receive|send)\(\.\.\.\) waits: inside a function, write `await"
    with pytest.raises(ProgramError, match=words) as caught, program(text, tmp_path).loaded():
        pass
    assert line in str(caught.value)


async def test_a_misspelt_name_is_told_with_its_neighbour(tmp_path: Path) -> None:
    mine = program("from drupelet import spawn\n\nasync def main():\n    spwan(main)\n", tmp_path)
    with mine.loaded() as loaded:
        try:
            await loaded.main()
        except NameError as error:
            told = mine.where(error)
    assert told.endswith("Did you mean: 'spawn'?  (line 4: spwan(main))")
