"""From an entry of the whitelist to its worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from drupelet.errors import RemoteError
from drupelet.services.missions import Export
from drupelet.services.whitelist import worker_of
from tests.unit.services import counted
from tests.unit.services.lights import nodes


async def test_the_worker_or_why_there_is_none(tmp_path: Path) -> None:
    counted.offer(tmp_path, "alice")
    async with nodes(tmp_path, "alice") as [alice]:
        export = alice.missions.exports[b"ledger/note"]
        assert worker_of(export) is export.endpoint
        export.once = True
        with pytest.raises(RemoteError, match="idempotency key"):
            worker_of(export)
        assert worker_of(export, keyed=True) is export.endpoint


def test_a_worker_that_is_down() -> None:
    export = Export(b"ledger/note", "ledger", "note", frozenset())
    with pytest.raises(RemoteError, match="ledger is down"):
        worker_of(export)
    export.unavailable = RemoteError("mission_stuck", "why")
    with pytest.raises(RemoteError, match="why"):
        worker_of(export)
