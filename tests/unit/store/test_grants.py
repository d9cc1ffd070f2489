"""Grants on disk: whole or not at all."""

from __future__ import annotations

import os
from math import inf
from pathlib import Path

import pytest

from drupelet.core.grants import Issued, Revocation
from drupelet.errors import ConfigError
from drupelet.store import grants
from drupelet.store.grants import GrantStore, KeptGrants
from drupelet.wire.codec import dumps, loads

KEPT = KeptGrants(
    issued=(Issued(data=b"one", left_s=inf), Issued(data=b"two", left_s=12.5)),
    revoked=(
        Revocation(issuer=b"a" * 32, ids=frozenset({b"x", b"y"}), keys=frozenset(), sequence=3),
        Revocation(issuer=b"b" * 32, ids=frozenset(), keys=frozenset({b"k" * 32}), sequence=9),
    ),
    accepted=("drupelet-grant:...",),
)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store = GrantStore(tmp_path / "state" / "grants")
    assert store.load() == KeptGrants()
    store.save(KEPT)
    assert store.load() == KEPT
    store.save(KeptGrants())
    assert store.load() == KeptGrants()
    assert (tmp_path / "state" / "grants").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path / "state") == ["grants"]


def test_any_flipped_bit_is_seen_and_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "grants"
    store = GrantStore(path)
    store.save(KEPT)
    good = path.read_bytes()
    for place in range(len(good)):
        for bit in (0, 5):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            path.write_bytes(bytes(bad))
            with pytest.raises(ConfigError, match="damaged"):
                store.load()
        path.write_bytes(good[:place])
        with pytest.raises(ConfigError):
            store.load()
        assert path.read_bytes() == good[:place]


@pytest.mark.parametrize(
    "change",
    [
        {"issued": [[b"x"]]},
        {"issued": [[b"x", "soon"]]},
        {"issued": [1]},
        {"revoked": [[b"a", [1], [], 3]]},
        {"revoked": [[b"a", [], [], None]]},
    ],
)
def test_what_another_program_wrote(tmp_path: Path, change: dict[str, list[object]]) -> None:
    path = tmp_path / "grants"
    GrantStore(path).save(KEPT)
    fields = loads(path.read_bytes()) | change
    del fields["check"]
    path.write_bytes(dumps({**fields, "check": grants._check(fields)}))
    with pytest.raises(ConfigError, match="malformed"):
        GrantStore(path).load()


def test_a_full_disk_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = GrantStore(tmp_path / "grants")
    store.save(KEPT)
    monkeypatch.setattr(os, "write", lambda descriptor, data: len(data) // 2)
    with pytest.raises(ConfigError, match="No space"):
        store.save(KeptGrants())
    monkeypatch.undo()
    assert store.load() == KEPT
    assert os.listdir(tmp_path) == ["grants"]


def test_others_may_not_read_it(tmp_path: Path) -> None:
    path = tmp_path / "grants"
    GrantStore(path).save(KEPT)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        GrantStore(path).load()


def test_size_at_the_maximum_and_one_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = GrantStore(tmp_path / "grants")
    store.save(KEPT)
    size = (tmp_path / "grants").stat().st_size
    monkeypatch.setattr(grants, "GRANTS_FILE_BYTES_MAX", size)
    store.save(KEPT)
    assert store.load() == KEPT
    monkeypatch.setattr(grants, "GRANTS_FILE_BYTES_MAX", size - 1)
    with pytest.raises(ConfigError, match="revoke what is no longer used"):
        store.save(KEPT)
    with pytest.raises(ConfigError):
        store.load()
