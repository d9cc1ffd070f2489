"""The operator's files, as the daemon reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from drupelet.core.code import NO_FILES, code_digest
from drupelet.core.missions import MissionSpec
from drupelet.services.mission_sources import (
    SOURCE_BYTES_MAX,
    InstalledNames,
    files_digest,
    has_files,
    module_file,
    module_name,
    read_source,
)
from drupelet.wire.messages.workers import WorkerOrder
from drupelet.worker.loading import load, module_path


def test_names_and_files() -> None:
    assert module_name("kvs") == module_name("/etc/x/kvs.py") == "kvs"
    assert module_file("/etc/x/kvs.py") == Path("/etc/x/kvs.py")
    assert module_file("kvs").samefile(module_path("kvs"))
    assert b"def store" in read_source("kvs")


def test_the_digest_is_the_workers(tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text("x = 1\n")
    modules = ("kvs", str(other))
    loaded = load(WorkerOrder(mission="kvs", modules=modules, exports=("lookup",)))
    assert files_digest(MissionSpec(name="kvs", modules=modules)) == loaded.digest
    assert loaded.digest == code_digest([read_source(module) for module in modules])


def test_files_that_are_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    def digest(name: str) -> bytes | None:
        return files_digest(MissionSpec(name="m", modules=("kvs", str(tmp_path / name))))

    assert digest("none.py") == NO_FILES
    (tmp_path / "folder.py").mkdir()
    assert digest("folder.py") is None
    (tmp_path / "most.py").write_bytes(bytes(SOURCE_BYTES_MAX))
    assert digest("most.py")
    (tmp_path / "more.py").write_bytes(bytes(SOURCE_BYTES_MAX + 1))
    assert digest("more.py") is None
    with pytest.raises(OSError, match="larger than"):
        read_source(str(tmp_path / "more.py"))


def test_shipped_code_has_no_files() -> None:
    spec = MissionSpec(name="kvs", modules=("kvs",), exports=())
    assert not has_files(spec)
    assert files_digest(spec) == NO_FILES
    assert has_files(MissionSpec(name="", modules=("kvs",)))


def test_names_that_are_taken() -> None:
    taken = InstalledNames()
    for name in ("json", "sys", "trio", "nacl", "cbor2"):
        assert name in taken
    others: tuple[object, ...] = ("kvs", "kitchen", "tests", 7, None)
    for other in others:
        assert other not in taken
