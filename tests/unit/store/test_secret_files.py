"""Secret files: who may read, what is refused, and that a write is whole or nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drupelet.errors import ConfigError
from drupelet.store import secret_files
from drupelet.store.secret_files import (
    SECRET_BYTES_MAX,
    create_secret_file,
    read_secret_file,
    replace_secret_file,
)

WHAT = "the cookie"
CONTENT = b"correct horse"


def _write(path: Path, content: bytes = CONTENT, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_no_file_is_no_error(tmp_path: Path) -> None:
    assert read_secret_file(tmp_path / "cookie", what=WHAT) is None
    assert read_secret_file(tmp_path / "no" / "cookie", what=WHAT) is None


def test_read_back(tmp_path: Path) -> None:
    for mode in (0o600, 0o400):
        path = _write(tmp_path / f"{mode:o}", mode=mode)
        assert read_secret_file(path, what=WHAT) == CONTENT


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o660, 0o604, 0o610, 0o666, 0o777])
def test_others_must_not_reach_it(tmp_path: Path, mode: int) -> None:
    path = _write(tmp_path / "cookie", mode=mode)
    with pytest.raises(ConfigError) as caught:
        read_secret_file(path, what=WHAT)
    assert f"chmod 600 {path}" in str(caught.value)
    assert f"mode {mode:04o}" in str(caught.value)
    assert caught.value.file == str(path)
    assert CONTENT.decode() not in str(caught.value)


def test_another_owner_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "cookie")
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    if path.stat().st_uid == 0:
        assert read_secret_file(path, what=WHAT) == CONTENT  # root's file may be used
        os.chown(path, 4_711, 4_711)
    with pytest.raises(ConfigError, match="another user"):
        read_secret_file(path, what=WHAT)


def test_only_plain_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)  # must not block either
    (tmp_path / "directory").mkdir(mode=0o700)
    for name in ("fifo", "directory"):
        with pytest.raises(ConfigError, match="not a plain file"):
            read_secret_file(tmp_path / name, what=WHAT)


def test_a_link_is_followed_and_its_target_checked(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(_write(tmp_path / "target"))
    assert read_secret_file(tmp_path / "link", what=WHAT) == CONTENT
    (tmp_path / "target").chmod(0o644)
    with pytest.raises(ConfigError, match="mode 0644"):
        read_secret_file(tmp_path / "link", what=WHAT)


def test_the_largest_file_passes_and_one_byte_more_does_not(tmp_path: Path) -> None:
    path = _write(tmp_path / "cookie", b"x" * SECRET_BYTES_MAX)
    assert read_secret_file(path, what=WHAT) == b"x" * SECRET_BYTES_MAX
    _write(path, b"x" * (SECRET_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="longer than 4096"):
        read_secret_file(path, what=WHAT)


def test_create_makes_directories_and_never_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "cookie"
    old_mask = os.umask(0)
    try:
        assert create_secret_file(path, CONTENT, what=WHAT)
    finally:
        os.umask(old_mask)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert not create_secret_file(path, b"other", what=WHAT)
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["cookie"]


def test_replace(tmp_path: Path) -> None:
    path = _write(tmp_path / "cookie", mode=0o644)
    replace_secret_file(path, b"other", what=WHAT)
    assert read_secret_file(path, what=WHAT) == b"other"
    assert os.listdir(tmp_path) == ["cookie"]


@pytest.mark.parametrize(
    ("function", "call"),
    [(create_secret_file, call) for call in ("write", "fchmod", "fsync", "link")]
    + [(replace_secret_file, call) for call in ("write", "fchmod", "fsync", "replace")],
)
def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: object, call: str
) -> None:
    """The disk is full, or fails, at each step in turn."""
    path = tmp_path / "cookie"
    if function is replace_secret_file:
        _write(path, b"before")

    def fail(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(secret_files.os, call, fail)
    with pytest.raises(ConfigError, match="make room") as caught:
        function(path, CONTENT, what=WHAT)  # type: ignore[operator]
    monkeypatch.undo()
    assert CONTENT.decode() not in str(caught.value)
    assert os.listdir(tmp_path) == (["cookie"] if function is replace_secret_file else [])
    assert read_secret_file(path, what=WHAT) in (b"before", None)


def test_a_short_write_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_files.os, "write", lambda descriptor, content: len(content) - 1)
    with pytest.raises(ConfigError, match="make room"):
        create_secret_file(tmp_path / "cookie", CONTENT, what=WHAT)
    assert os.listdir(tmp_path) == []


def test_the_order_of_a_durable_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content to the disk, then the name, then the directory: a power cut finds no empty file."""
    steps: list[str] = []
    for name in ("write", "fsync", "link", "replace"):
        real = getattr(os, name)

        def note(*arguments: object, _real: object = real, _name: str = name) -> object:
            steps.append(_name)
            return _real(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(secret_files.os, name, note)
    create_secret_file(tmp_path / "cookie", CONTENT, what=WHAT)
    replace_secret_file(tmp_path / "cookie", CONTENT, what=WHAT)
    assert steps == ["write", "fsync", "link", "fsync", "write", "fsync", "replace", "fsync"]


def test_a_directory_that_is_a_file(tmp_path: Path) -> None:
    _write(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot write the cookie"):
        create_secret_file(tmp_path / "file" / "cookie", CONTENT, what=WHAT)
    with pytest.raises(ConfigError, match="cannot read the cookie"):
        read_secret_file(tmp_path / "file" / "cookie", what=WHAT)
