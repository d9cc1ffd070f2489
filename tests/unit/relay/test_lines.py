"""Connections of accounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from drupelet.wire.limits import (
    RELAY_LINKS_PER_ACCOUNT_MAX,
)
from tests.unit.relay.nodes import ALICE, BOB, refused, running


async def test_the_oldest_of_too_many_lines_ends(tmp_path: Path) -> None:
    async with running(tmp_path, ALICE) as relay:
        lines = [relay.line(ALICE.key) for _ in range(RELAY_LINKS_PER_ACCOUNT_MAX + 1)]
        opened = [line.__enter__() for line in lines]
        assert [line.ended for line in opened] == [True] + [False] * RELAY_LINKS_PER_ACCOUNT_MAX
        assert await opened[0].next() == []
        assert relay.gauges()["lines"] == RELAY_LINKS_PER_ACCOUNT_MAX
        for line in lines:
            line.__exit__(None, None, None)
        assert relay.gauges()["lines"] == 0


async def test_lines_at_the_maximum_and_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drupelet.relay.lines.RELAY_LINKS_MAX", 1)
    async with running(tmp_path, ALICE, BOB) as relay:
        with relay.line(ALICE.key):
            with refused("busy"), relay.line(BOB.key):
                pass
        with relay.line(BOB.key):
            pass
