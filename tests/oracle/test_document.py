"""daemon/docs/OTP.md is true: its names can be imported, its differences are shown by cases."""

from __future__ import annotations

import re
from pathlib import Path

import drupelet
from tests.oracle import cases  # noqa: F401  (importing it fills CASES)
from tests.oracle.normal import CASES

DOCUMENT = (Path(__file__).parents[2] / "daemon" / "docs" / "OTP.md").read_text()
_WORD = re.compile(r"`([A-Za-z_]+(?:\.[a-z_]+)*)`")


def rows(title: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    section = DOCUMENT.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def found(name: str) -> bool:
    """Whether ``from drupelet import ...`` finds a dotted name."""
    thing: object = drupelet
    for part in name.split("."):
        thing = getattr(thing, part, None) or getattr(thing, "__annotations__", {}).get(part)
        if thing is None:
            return False
    return True


def test_every_name_can_be_imported() -> None:
    names = [name for _, ours in rows("Names") for name in _WORD.findall(ours) if name != "_"]
    assert len(names) > 40
    assert [name for name in names if not found(name)] == []


def test_what_is_not_offered_is_not_there() -> None:
    words = [word for theirs, _ in rows("Not offered") for word in re.findall(r"`(\w+)/", theirs)]
    assert words
    assert [word for word in words if hasattr(drupelet, word)] == []


def test_every_difference_is_shown_by_a_case_and_explained() -> None:
    shown = {case.row for group in CASES.values() for case in group.values() if case.row}
    explained = [key for key, *_ in rows("Differences")]
    assert len(explained) == len(set(explained))
    assert set(explained) == shown


def test_there_are_enough_equal_cases() -> None:
    equal = [case for group in CASES.values() for case in group.values() if not case.row]
    assert len(equal) >= 60  # MOON-14
