"""What missions print: lines for the log, bounded and harmless.

Decides what of a worker's output reaches the log. A mission prints whatever it likes, so what it
prints is a stranger's text: one line at a time, printable characters only, cut at LINE_CHARS_MAX,
at most LINES_PER_S_MAX lines a second (the rest is counted and told), and the reader takes no more
than READ_BYTES_PER_S: a mission that prints faster waits in print, at its own cost.

`OutputLines` is sans-IO; `log_output` drives it. A quiet mission costs no wake-up.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

LINE_CHARS_MAX: Final = 500  # a screen's width or two; a traceback's lines are shorter
LINES_PER_S_MAX: Final = 50  # a traceback of 20 frames comes through whole
READ_BYTES_PER_S: Final = 1024 * 1024
_READ_BYTES: Final = 65_536

_log = logging.getLogger("drupelet.mission")


class OutputLines:
    """Cuts bytes into lines. Keeps at most one unfinished line."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        self._window_end = 0.0
        self._left = LINES_PER_S_MAX
        self._dropped_count = 0

    def receive(self, data: bytes, now: float) -> list[str]:
        """Take bytes as they came; the lines for the log."""
        lines: list[str] = []
        if now >= self._window_end:
            self._window_end = now + 1.0
            self._left = LINES_PER_S_MAX
            self._tell_dropped(lines)
        *whole, rest = (self._rest + data).split(b"\n")
        for line in whole:
            if self._skipping:
                self._skipping = False  # the end of a line that was cut
            else:
                self._take(line, lines)
        if self._skipping:
            rest = b""
        elif len(rest) > LINE_CHARS_MAX:
            self._take(rest, lines)
            self._skipping = True
            rest = b""
        self._rest = rest
        return lines

    def end(self) -> list[str]:
        """The worker is gone; what was left."""
        lines: list[str] = []
        if self._rest:
            self._take(self._rest, lines)
            self._rest = b""
        self._tell_dropped(lines)
        return lines

    def _take(self, line: bytes, lines: list[str]) -> None:
        if not line.strip():
            return
        if self._left:
            self._left -= 1
            lines.append(sanitise(line))
        else:
            self._dropped_count += 1

    def _tell_dropped(self, lines: list[str]) -> None:
        if self._dropped_count:
            lines.append(f"(printed too fast: {self._dropped_count} lines dropped)")
            self._dropped_count = 0


def sanitise(line: bytes) -> str:
    """Printable and short: no escape sequences, no second log line hidden in the first."""
    text = line[: LINE_CHARS_MAX * 4].decode("utf-8", "replace").replace("\t", "    ").rstrip()
    cut = text[:LINE_CHARS_MAX] + "..." if len(text) > LINE_CHARS_MAX else text
    return "".join(char if char.isprintable() else "?" for char in cut)


async def log_output(label: str, stream: trio.abc.ReceiveStream) -> None:
    """Log what comes until the worker closes it. Owns `stream`.

    Cancellation: what was not read yet is lost.
    """
    lines = OutputLines()
    budget = READ_BYTES_PER_S
    window_end = trio.current_time() + 1.0
    async with stream:
        try:
            while data := await stream.receive_some(_READ_BYTES):
                now = trio.current_time()
                for line in lines.receive(bytes(data), now):
                    _log.info("mission=%s printed: %s", label, line)
                if now >= window_end:
                    window_end, budget = now + 1.0, READ_BYTES_PER_S
                budget -= len(data)
                if budget <= 0:
                    await trio.sleep_until(window_end)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        for line in lines.end():
            _log.info("mission=%s printed: %s", label, line)
