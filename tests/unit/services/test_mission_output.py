from __future__ import annotations

import logging

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from drupelet.services.mission_output import (
    LINE_CHARS_MAX,
    LINES_PER_S_MAX,
    READ_BYTES_PER_S,
    OutputLines,
    log_output,
    sanitise,
)


def test_lines_in_pieces_and_the_last_one() -> None:
    lines = OutputLines()
    assert lines.receive(b"one\ntw", 0.0) == ["one"]
    assert lines.receive(b"o\n\n  \nthr", 0.0) == ["two"]
    assert lines.end() == ["thr"]
    assert lines.end() == []


def test_a_line_at_the_maximum_and_one_above() -> None:
    lines = OutputLines()
    assert lines.receive(b"x" * LINE_CHARS_MAX + b"\n", 0.0) == ["x" * LINE_CHARS_MAX]
    assert lines.receive(b"x" * (LINE_CHARS_MAX + 1) + b"\n", 0.0) == ["x" * LINE_CHARS_MAX + "..."]


def test_an_endless_line_is_logged_once() -> None:
    lines = OutputLines()
    got = [line for _ in range(50) for line in lines.receive(b"x" * 1_000, 0.0)]
    assert len(got) == 1
    assert lines.receive(b"tail\nnext\n", 0.0) == ["next"]


def test_lines_beyond_the_rate_are_counted_and_told() -> None:
    lines = OutputLines()
    assert len(lines.receive(b"x\n" * LINES_PER_S_MAX, 0.0)) == LINES_PER_S_MAX
    assert lines.receive(b"x\n" * 3, 0.9) == []
    assert lines.receive(b"y\n", 1.0) == ["(printed too fast: 3 lines dropped)", "y"]


def test_escapes_and_hidden_lines_are_harmless() -> None:
    assert sanitise(b"\x1b[31mred\r\x00\ttab\xff") == "?[31mred??    tab\ufffd"
    assert sanitise("a\u2028b\u202ec".encode()) == "a?b?c"


@given(st.lists(st.binary(max_size=700), max_size=10))
def test_noise_comes_out_printable_and_short(chunks: list[bytes]) -> None:
    lines = OutputLines()
    got = [line for chunk in chunks for line in lines.receive(chunk, 0.0)] + lines.end()
    assert all(line.isprintable() and len(line) <= LINE_CHARS_MAX + 3 for line in got)


async def test_a_flood_is_read_no_faster_than_the_budget(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "drupelet.mission")
    stream = trio.testing.MemoryReceiveStream()
    stream.put_data(b"flood\n" * (READ_BYTES_PER_S // 2))
    stream.put_eof()
    await log_output("kvs", stream)
    assert trio.current_time() >= 2.0
    assert len(caplog.records) <= 4 * (LINES_PER_S_MAX + 1)
    assert caplog.records[0].getMessage() == "mission=kvs printed: flood"
