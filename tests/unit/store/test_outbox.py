"""Casts that wait, on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from drupelet.store.outbox import KeptCast, OutboxStore
from drupelet.store.spans import Span, Spans

CAST = KeptCast(
    key=b"k" * 16,
    callee=b"a" * 32,
    name="alice",
    target="light/on",
    arguments=b"\x80",
    left_s=100.0,
    holder=b"h" * 32,
)
OTHER = replace(CAST, key=b"o" * 16, holder=b"", made=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


def test_what_waits_is_kept_and_what_is_done_is_not(path: Path) -> None:
    store = OutboxStore(path)
    assert store.load() == ([], "") and store.wants_rewrite
    store.rewrite([CAST], 0.0)
    store.append([OTHER], 0.0)
    assert OutboxStore(path).load() == ([CAST, OTHER], "")
    store.append([replace(CAST, left_s=0.0)], 0.0)
    store.tick(30.0)
    store.close(40.0)
    assert OutboxStore(path).load() == ([replace(OTHER, left_s=60.0)], "")


def test_one_key_to_two_nodes_is_two_casts(path: Path) -> None:
    store = OutboxStore(path)
    store.load()
    elsewhere = replace(CAST, callee=b"b" * 32)
    store.rewrite([CAST, elsewhere, replace(CAST, left_s=0.0)], 0.0)
    assert OutboxStore(path).load() == ([elsewhere], "")


def test_what_waited_too_long_is_gone(path: Path) -> None:
    store = OutboxStore(path)
    store.load()
    store.rewrite([CAST], 0.0)
    store.close(101.0)
    assert OutboxStore(path).load() == ([], "")


def test_damage_is_told_and_loses_nothing_else(path: Path) -> None:
    store = OutboxStore(path)
    store.load()
    store.rewrite([CAST, OTHER], 0.0)
    content = bytearray(path.read_bytes())
    content[content.index(CAST.key)] ^= 1
    path.write_bytes(content)
    casts, lost = OutboxStore(path).load()
    assert casts == [OTHER] and "damaged" in lost


def test_what_it_does_not_know_is_told(path: Path) -> None:
    spans = Spans(path, "outbox")
    spans.load()
    spans.rewrite([Span(1.0, ["x"])], 0.0)
    assert "none that this version knows" in OutboxStore(path).load()[1]
