"""Power cuts at every step of calls with a key: nothing runs twice, what was told stays true.

The disk here keeps what was synced, and of what was written since any part, or zeros for it.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from drupelet.core.once import Ended, OnceRecord, OnceTable, encoded
from drupelet.errors import Timeout
from drupelet.store import journal
from drupelet.store.once import OnceStore

SEEDS = 60
STEPS = 60
CONTENT = b"c" * 16
HOLDER = b"h" * 32


class PowerCut(Exception):
    """Now."""


class Disk:
    """Counts system calls; at one of them the power goes."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.path, self.rng = path, rng
        self.synced = b""
        self.left = 0
        self.cuts = 0

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.cuts += 1
            raise PowerCut

    def content(self) -> bytes:
        return self.path.read_bytes() if self.path.exists() else b""

    def write(self, descriptor: int, data: bytes) -> int:
        self.step()
        return _write(descriptor, data)

    def fdatasync(self, descriptor: int) -> None:
        self.step()
        _fdatasync(descriptor)
        self.synced = self.content()

    def replace(self, source: Path, target: Path) -> None:
        self.step()
        _replace(source, target)  # with its content synced before: atomic, and kept
        if Path(target) == self.path:
            self.synced = self.content()

    def cut(self) -> None:
        """What is there when the power is back."""
        now = self.content()
        if not now.startswith(self.synced):  # truncated, and not synced yet
            self.synced = now
            return
        unsynced = now[len(self.synced) :]
        part = self.rng.randrange(len(unsynced) + 1)
        kept = unsynced[:part] + bytes(self.rng.choice((0, len(unsynced) - part)))
        self.synced += kept
        self.path.write_bytes(self.synced)


_write, _fdatasync, _replace = os.write, os.fdatasync, os.replace


class Callee:
    """A node's keys, as services/once.py drives them."""

    def __init__(self, path: Path, now: float) -> None:
        self.store, self.table, self.started = OnceStore(path), OnceTable(), now
        kept = self.store.load()
        assert not kept.lost and not kept.doubt_left_s, "a power cut is no damage"
        self.table.restore(kept.records, now)

    def keep(self, record: OnceRecord, now: float) -> None:
        if self.store.wants_rewrite:
            self.store.rewrite(self.table.records(now), 0.0, now - self.started)
        else:
            self.store.append([record], now - self.started)


@pytest.mark.parametrize("fsync_first", [True, False])
def test_no_key_runs_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync_first: bool
) -> None:
    """`fsync_first` False is the mistake that this must find."""
    monkeypatch.setattr(journal, "REWRITE_BYTES", 2_000)
    twice: list[tuple[int, int]] = []
    cuts = 0
    for seed in range(SEEDS):
        numbers, count = world(tmp_path / str(seed), seed, monkeypatch, fsync_first)
        twice += [(seed, number) for number in numbers]
        cuts += count
    assert cuts > 4 * SEEDS  # the power did go
    assert (not twice) is fsync_first, twice


def world(
    directory: Path, seed: int, monkeypatch: pytest.MonkeyPatch, fsync_first: bool
) -> tuple[list[int], int]:
    rng = random.Random(seed)
    path = directory / "once"
    disk = Disk(path, rng)
    ran: Counter[int] = Counter()
    told: dict[int, Ended] = {}
    unsure = encoded(Timeout(maybe_ran=True))
    now = 0.0
    with monkeypatch.context() as patch:
        for name in ("write", "fdatasync", "replace"):
            patch.setattr(os, name, getattr(disk, name))
        callee: Callee | None = None
        for _ in range(STEPS):
            now += 1.0
            number = rng.randrange(12)
            place = (HOLDER, number.to_bytes(16, "big"))
            disk.left = rng.randrange(8) if rng.random() < 0.5 else 1_000
            try:
                if callee is None:
                    callee = Callee(path, now)
                begun = callee.table.begin(*place, CONTENT, now)
                if isinstance(begun, OnceRecord):
                    if fsync_first:
                        callee.keep(begun, now)
                    disk.step()
                    ran[number] += 1
                    disk.step()
                    callee.keep(callee.table.end(place, bytes([number]), None, now), now)
                    begun = Ended(bytes([number]), None)
                assert begun is not None
                former = told.setdefault(number, begun)
                assert begun == former, f"seed {seed}: {number} was told another outcome"
                assert begun.error == unsure or ran[number] >= 1
            except PowerCut:
                if callee is not None:
                    callee.store._spans._journal.close()
                callee = None
                if rng.random() < 0.7:  # else it was killed, and what it wrote is not synced yet
                    disk.cut()
    return [number for number, count in ran.items() if count > 1], disk.cuts
