"""QR codes in a terminal: text that goes from a screen to a camera.

Decides how modules become characters: two of them, one above the other, are one character (half
blocks), light ones drawn, so that a dark terminal needs no colours. On a terminal colours are set
all the same, for those that are light. Error correction is the lowest: a screen has no stains.
"""

from __future__ import annotations

from typing import Final

TEXT_BYTES_MAX: Final = 2_953  # of the largest QR code, version 40-L
QUIET: Final = 2  # light modules around it; the standard says 4, cameras and 80 columns say 2
_CHARACTERS: Final = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}  # (upper, lower), 1: dark
_WHITE_ON_BLACK: Final = "\x1b[97;40m"
_RESET: Final = "\x1b[0m"


def draw(text: str) -> list[str]:
    """The lines of a QR code of `text`. Raises: `ValueError` when it is too long for one."""
    import segno  # 20 ms that only who wants a code has to pay

    if len(text.encode()) > TEXT_BYTES_MAX:
        raise ValueError(f"a QR code has room for {TEXT_BYTES_MAX} bytes")
    code = segno.make_qr(text, error="l", boost_error=False)
    rows = [tuple(row) for row in code.matrix_iter(border=QUIET)]
    if len(rows) % 2:
        rows.append((0,) * len(rows[0]))
    return [
        "".join(_CHARACTERS[pair] for pair in zip(upper, lower, strict=True))
        for upper, lower in zip(rows[::2], rows[1::2], strict=True)
    ]


def in_colours(line: str) -> str:
    """The same for a terminal, which may be light or dark."""
    return f"{_WHITE_ON_BLACK}{line}{_RESET}"
