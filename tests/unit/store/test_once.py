"""Idempotency keys on disk: begun, ended, old, damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from drupelet.core.once import ONCE_KEPT_S, OnceRecord
from drupelet.store.once import KeptOnce, OnceStore
from drupelet.store.spans import Span, Spans

BEGUN = OnceRecord(caller=b"b" * 32, key=b"k" * 16, content=b"c" * 16, left_s=1_000.0)
OTHER = replace(BEGUN, key=b"o" * 16)
VALUE = replace(BEGUN, outcome=(b"hot", None))
ERROR = replace(OTHER, outcome=(None, b"why"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "once"


def made(path: Path) -> OnceStore:
    store = OnceStore(path)
    assert store.load() == KeptOnce()
    store.rewrite([], 0.0, 0.0)
    return store


def loaded(path: Path) -> KeptOnce:
    return OnceStore(path).load()


def test_what_was_begun_and_ended_is_kept(path: Path) -> None:
    store = made(path)
    store.append([BEGUN], 0.0)
    assert loaded(path).records == (BEGUN,)
    store.append([OTHER, VALUE], 0.0)
    store.append([ERROR], 0.0)
    assert loaded(path) == KeptOnce(records=(VALUE, ERROR))
    store.close(0.0)
    assert loaded(path) == KeptOnce(records=(VALUE, ERROR))


def test_time_counts_while_the_node_runs_over_all_its_starts(path: Path) -> None:
    store = made(path)
    store.append([BEGUN], 10.0)
    store.append([OTHER], 110.0)
    store.close(410.0)
    store = OnceStore(path)
    assert [each.left_s for each in store.load().records] == [600.0, 700.0]
    store.close(650.0)
    assert [each.left_s for each in loaded(path).records] == [50.0]  # the other is over


def test_a_fresh_file_has_what_counts(path: Path) -> None:
    store = made(path)
    store.append([BEGUN, OTHER], 0.0)
    store.rewrite([VALUE], 0.0, 5.0)
    assert loaded(path).records == (VALUE,)


def test_damage_is_told_and_leaves_doubt_that_lasts_over_starts(path: Path) -> None:
    store = made(path)
    store.append([BEGUN, OTHER], 0.0)
    store.close(0.0)
    content = bytearray(path.read_bytes())
    content[content.index(BEGUN.key)] ^= 4
    path.write_bytes(content)
    store = OnceStore(path)
    kept = store.load()
    assert kept.records == (OTHER,) and kept.doubt_left_s == ONCE_KEPT_S
    assert "damaged" in kept.lost and "once.damaged" in kept.lost
    assert store.wants_rewrite
    store.rewrite(kept.records, kept.doubt_left_s, 0.0)
    store.close(100.0)
    kept = loaded(path)
    assert kept.lost == "" and kept.doubt_left_s == ONCE_KEPT_S - 100
    assert [each.key for each in kept.records] == [OTHER.key]


@pytest.mark.parametrize(
    "fields",
    [
        ["lost", b"", b"", b""],
        ["begun", b"", b"", b"", None, None],
        ["ended", b"", b"", b"", 5, None],
        ["ended", b"", b"", b""],
        [],
    ],
)
def test_what_it_does_not_know_leaves_doubt(path: Path, fields: list[object]) -> None:
    spans = Spans(path, "once")
    spans.load()
    spans.rewrite([Span(1.0, fields)], 0.0)
    kept = loaded(path)
    assert "none that this version knows" in kept.lost and kept.doubt_left_s == ONCE_KEPT_S


def test_one_with_no_time_left_takes_the_former_away(path: Path) -> None:
    store = made(path)
    store.append([BEGUN], 0.0)
    store.append([replace(BEGUN, left_s=0.0)], 1.0)
    assert loaded(path).records == ()
