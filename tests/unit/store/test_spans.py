"""Records that count for a span of the time that the node ran."""

from __future__ import annotations

from pathlib import Path

import pytest

from drupelet.store.journal import Journal
from drupelet.store.spans import Loaded, Span, Spans
from drupelet.wire.codec import dumps


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spans"


def opened(path: Path) -> tuple[Spans, Loaded]:
    spans = Spans(path, "test")
    return spans, spans.load()


def test_spans_go_on_after_a_start_and_time_without_power_does_not_count(path: Path) -> None:
    spans, loaded = opened(path)
    assert loaded == Loaded([]) and spans.wants_rewrite
    spans.rewrite([Span(100.0, ["a"])], 10.0)
    spans.append([Span(100.0, ["b"])], 20.0)
    spans.tick(40.0)
    spans, loaded = opened(path)  # killed
    assert loaded.spans == [Span(70.0, ["a"]), Span(80.0, ["b"])]
    spans.close(75.0)
    _, loaded = opened(path)
    assert loaded.spans == [Span(-5.0, ["a"]), Span(5.0, ["b"])]


@pytest.mark.parametrize("body", [b"\xff", dumps({}), dumps([1]), dumps([1.0, "x"]), dumps([])])
def test_what_is_malformed_is_told_and_the_rest_counts(path: Path, body: bytes) -> None:
    spans, _ = opened(path)
    spans.rewrite([Span(5.0, ["a"])], 0.0)
    spans.close(0.0)
    journal = Journal(path, "test")
    journal.open()
    journal.append([body])
    journal.close()
    _, loaded = opened(path)
    assert loaded.spans == [Span(5.0, ["a"])] and "1 records" in loaded.lost


def test_damage_is_told(path: Path) -> None:
    spans, _ = opened(path)
    spans.rewrite([Span(5.0, ["aaaa"]), Span(5.0, ["b"])], 0.0)
    content = bytearray(path.read_bytes())
    content[content.index(b"aaaa")] ^= 1
    path.write_bytes(content)
    spans, loaded = opened(path)
    assert loaded.spans == [Span(5.0, ["b"])] and "damaged" in loaded.lost and spans.wants_rewrite
