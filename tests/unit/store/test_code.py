"""Bundles on disk: durable or as before, and a damaged file is named and left alone."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from drupelet.store import code as store
from drupelet.store.code import CodeStore, Damaged, Kept
from drupelet.wire.bundles import Bundle, content_of_kept, encode_bundle
from drupelet.wire.codec import dumps, loads
from drupelet.wire.limits import BUNDLE_BYTES_MAX
from drupelet.wire.signing import sign_bundle

SEED = bytes(range(32))
KVS = Bundle(mission="kvs", load=("kvs",), modules={"kvs": b"x = 1\n"}, sequence=3)
SIGNED = sign_bundle(SEED, KVS)
FILES = bytes(16)


@pytest.fixture
def here(tmp_path: Path) -> CodeStore:
    return CodeStore(tmp_path / "state" / "code")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "code" / "kvs.bundle"


def put(here: CodeStore, bundle: Bundle = KVS) -> Path:
    here.prepare(bundle.mission, sign_bundle(SEED, bundle), FILES)
    return here.commit(bundle.mission)


def test_nothing_is_there_at_first(here: CodeStore, tmp_path: Path) -> None:
    assert here.load() == ([], [])
    assert list(tmp_path.iterdir()) == []
    here.discard("kvs")
    here.drop("kvs")


def test_prepared_then_committed(here: CodeStore, file: Path) -> None:
    path = here.prepare("kvs", SIGNED, FILES)
    assert content_of_kept(path.read_bytes()) == SIGNED.content
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert not file.exists()
    assert here.commit("kvs") == file
    assert not path.exists()
    kept = Kept(signed=SIGNED, bundle=KVS, replaced=FILES, path=file)
    assert here.load() == ([kept], [])


def test_discarded_and_left_behind(here: CodeStore, file: Path) -> None:
    here.prepare("kvs", SIGNED, FILES)
    here.discard("kvs")
    assert list(file.parent.iterdir()) == []
    left = here.prepare("kvs", SIGNED, FILES)
    assert here.load() == ([], [])
    assert not left.exists()


def test_the_next_takes_the_place_and_drop_ends_it(here: CodeStore, file: Path) -> None:
    put(here)
    newer = replace(KVS, sequence=4, modules={"kvs": b"x = 2\n"})
    here.prepare("kvs", sign_bundle(SEED, newer), FILES)
    assert here.load()[0][0].bundle == KVS  # not committed; and the leftover went
    put(here, newer)
    put(here, replace(KVS, mission="other"))
    assert [kept.bundle.sequence for kept in here.load()[0]] == [4, 3]
    here.drop("kvs")
    assert [kept.bundle.mission for kept in here.load()[0]] == ["other"]


def test_one_mission(here: CodeStore) -> None:
    assert here.read("kvs") is None
    path = put(here)
    kept = here.read("kvs")
    assert isinstance(kept, Kept) and kept.bundle == KVS
    path.write_bytes(b"")
    assert isinstance(here.read("kvs"), Damaged)


def test_every_flipped_byte_is_seen(here: CodeStore) -> None:
    path = put(here)
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes((good[place] ^ 0x10,)) + good[place + 1 :])
        kept, damaged = here.load()
        assert kept == []
        assert damaged[0].path == path and damaged[0].why
    path.write_bytes(good)
    assert len(here.load()[0]) == 1


@pytest.mark.parametrize("length", [0, 1, 50, -1])
def test_a_torn_file_is_seen(here: CodeStore, length: int) -> None:
    path = put(here)
    path.write_bytes(path.read_bytes()[:length])
    kept, damaged = here.load()
    assert (kept, len(damaged)) == ([], 1)
    assert path.exists()


def test_a_file_that_somebody_made(here: CodeStore) -> None:
    path = put(here)
    fields = loads(path.read_bytes())
    fields["replaced"] = b"else"
    path.write_bytes(dumps(fields))
    assert "check does not fit" in here.load()[1][0].why
    del fields["check"]
    fields["signature"] = bytes(64)
    path.write_bytes(dumps(fields | {"check": store._check(fields)}))
    assert "does not verify" in here.load()[1][0].why
    path.write_bytes(b"")
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert here.load()[1][0].path == path
    path.unlink()
    path.mkdir()
    assert here.load()[1][0].path == path


def test_another_name_and_another_length(here: CodeStore) -> None:
    path = put(here)
    good = path.read_bytes()
    path.rename(path.with_name("other.bundle"))
    assert "under this name" in here.load()[1][0].why
    (path.with_name("note.txt")).write_text("not ours")
    path.with_name("other.bundle").write_bytes(good + bytes(BUNDLE_BYTES_MAX + 1_024))
    assert "longer than" in here.load()[1][0].why
    assert encode_bundle(KVS) in good


def test_a_name_that_came_to_be_taken(here: CodeStore) -> None:
    put(here)
    kept, damaged = here.load({"kvs"})
    assert kept == [] and "stand in" in damaged[0].why


@pytest.mark.parametrize("mission", ["../x", "", "a/b", ".x", "code"])
def test_names_of_files_are_names_of_missions(here: CodeStore, mission: str) -> None:
    for act in (here.commit, here.discard, here.drop):
        with pytest.raises(ValueError, match="mission"):
            act(mission)
    with pytest.raises(ValueError, match="mission"):
        here.prepare(mission, SIGNED, FILES)


def test_a_full_disk_leaves_what_was(
    here: CodeStore, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    put(here)
    monkeypatch.setattr(os, "write", lambda descriptor, data: len(data) - 1)
    with pytest.raises(OSError, match="No space") as caught:
        here.prepare("kvs", sign_bundle(SEED, replace(KVS, sequence=9)), FILES)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert [kept.bundle.sequence for kept in here.load()[0]] == [3]


def test_a_directory_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "code"
    path.write_text("a file")
    kept, damaged = CodeStore(path).load()
    assert kept == [] and damaged[0].path == path
