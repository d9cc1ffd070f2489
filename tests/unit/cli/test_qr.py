"""QR codes of half blocks: the finder patterns are where a camera looks for them."""

from __future__ import annotations

import pytest
import segno

from drupelet.cli.qr import QUIET, TEXT_BYTES_MAX, draw, in_colours

_MODULES = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}


def modules(lines: list[str]) -> list[list[int]]:
    """Back to modules, 1 is dark, without the quiet zone."""
    rows = []
    for line in lines:
        for half in (0, 1):
            rows.append([_MODULES[character][half] for character in line])
    size = len(rows[0]) - 2 * QUIET
    return [row[QUIET : QUIET + size] for row in rows[QUIET : QUIET + size]]


@pytest.mark.parametrize("text", ["a", "drupelet-grant:" + "o2Rb" * 90])
def test_the_drawn_modules_are_the_codes(text: str) -> None:
    lines = draw(text)
    assert {len(line) for line in lines} == {len(lines[0])}
    assert all(character == "█" for character in lines[0])  # the quiet zone is light
    drawn = modules(lines)
    code = segno.make_qr(text, error="l", boost_error=False)
    assert drawn == [[int(dark) for dark in row] for row in code.matrix]
    assert drawn[0][:8] == [1, 1, 1, 1, 1, 1, 1, 0]


def test_a_grant_fits_a_terminal_of_80_columns() -> None:
    assert len(draw("drupelet-grant:" + "x" * 435)[0]) <= 80


def test_the_longest_text() -> None:
    assert len(draw("x" * TEXT_BYTES_MAX)[0]) == 177 + 2 * QUIET
    with pytest.raises(ValueError, match="has room for 2953 bytes"):
        draw("x" * (TEXT_BYTES_MAX + 1))


def test_colours_end_with_the_line() -> None:
    assert in_colours("█") == "\x1b[97;40m█\x1b[0m"
