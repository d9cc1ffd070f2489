"""Names that were mistyped."""

from __future__ import annotations

import pytest

from drupelet.cli.meant import meant


def _run(line: str) -> BaseException:
    with pytest.raises(Exception) as caught:
        exec(line, {"spawn": 1})
    return caught.value


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("spwan(1)", "spawn"),
        ("pirnt(1)", "print"),
        ("xyzzy(1)", ""),
        ("from drupelet import recieve", "receive"),
        ("from drupelet import xyzzy", ""),
        ("import drupleet", ""),
        ("1 / 0", ""),
    ],
)
def test_the_nearest_name(line: str, near: str) -> None:
    assert meant(_run(line)) == near


def test_an_error_that_was_made_by_hand() -> None:
    assert meant(NameError("name 'x' is not defined")) == ""
