"""Journals: durable, cut off by a power cut, damaged, full."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from drupelet.store import journal as module
from drupelet.store.journal import Journal
from drupelet.wire import limits

BODIES = [b"one", b"", b"three" * 20]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "once"


def made(path: Path, bodies: list[bytes] = BODIES) -> Journal:
    journal = Journal(path, "test")
    assert journal.open().bodies == [] and journal.wants_rewrite
    journal.rewrite([])
    journal.append(bodies)
    return journal


def reopened(path: Path) -> module.Found:
    journal = Journal(path, "test")
    found = journal.open()
    journal.close()
    return found


def test_what_was_appended_is_there(path: Path) -> None:
    journal = made(path)
    journal.append([b"four"])
    journal.close()
    assert reopened(path) == module.Found([*BODIES, b"four"])
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_goes_on_where_it_ended(path: Path) -> None:
    made(path).close()
    journal = Journal(path, "test")
    journal.open()
    assert not journal.wants_rewrite
    journal.append([b"four"])
    journal.close()
    assert reopened(path).bodies == [*BODIES, b"four"]


def test_another_kind_is_damage_and_not_overwritten(path: Path) -> None:
    made(path).close()
    content = path.read_bytes()
    journal = Journal(path, "other")
    found = journal.open()
    assert found.bodies == [] and found.damaged == len(content)
    assert found.copy is not None and found.copy.read_bytes() == content
    with pytest.raises(OSError, match="anew"):
        journal.append([b"x"])
    assert path.read_bytes() == content


def test_cut_off_anywhere_loses_only_what_was_cut(path: Path) -> None:
    journal = made(path)
    journal.close()
    content = path.read_bytes()
    ends = [2 * module._HEAD_BYTES]
    for body in BODIES:
        ends.append(ends[-1] + module._RECORD_BYTES + len(body))
    for size in range(len(content)):
        path.write_bytes(content[:size])
        found = reopened(path)
        whole = sum(end <= size for end in ends) - 1
        if whole < 0:
            assert found.bodies == []
            continue
        assert found.bodies == BODIES[:whole] and not found.damaged, size
        assert found.torn == size - ends[whole]
        assert path.stat().st_size == ends[whole]  # what is cut off is gone for good


@pytest.mark.parametrize("zeros", [1, 40, 4_096])
def test_zeros_at_the_end_are_of_a_power_cut(path: Path, zeros: int) -> None:
    made(path).close()
    content = path.read_bytes()
    path.write_bytes(content + bytes(zeros))
    assert reopened(path) == module.Found(BODIES, torn=zeros)
    path.write_bytes(content[:-30] + bytes(30 + zeros))
    assert reopened(path).bodies == BODIES[:2] and not reopened(path).damaged


def test_a_flipped_bit_anywhere_is_told_and_loses_one_record(path: Path) -> None:
    made(path).close()
    content = path.read_bytes()
    heads = 2 * module._HEAD_BYTES
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        found = reopened(path)
        if at < heads:
            assert found.bodies == BODIES and not found.damaged
            continue
        lost = [body for body in BODIES if body not in found.bodies]
        assert len(lost) == 1 and found.bodies == [each for each in BODIES if each != lost[0]], at
        assert found.damaged == module._RECORD_BYTES + len(lost[0]), at
        assert found.copy is not None and found.copy.read_bytes() == bytes(changed)


def test_both_heads_damaged_is_all_damaged(path: Path) -> None:
    made(path).close()
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    content[module._HEAD_BYTES] ^= 1
    path.write_bytes(content)
    found = reopened(path)
    assert found.bodies == [] and found.damaged == len(content)


def test_a_body_cannot_look_like_a_record(path: Path) -> None:
    made(path).close()
    inner = path.read_bytes()[2 * module._HEAD_BYTES :]
    os.unlink(path)
    journal = made(path, [inner, b"last"])  # as a stranger could who had seen another file
    journal.close()
    content = bytearray(path.read_bytes())
    content[2 * module._HEAD_BYTES + 4] ^= 1  # the length of what holds it
    path.write_bytes(content)
    assert reopened(path).bodies == [b"last"]


def test_a_rewrite_leaves_only_what_it_is_given(path: Path) -> None:
    journal = made(path)
    journal.rewrite([b"new"])
    journal.append([b"more"])
    journal.close()
    assert reopened(path).bodies == [b"new", b"more"]
    assert os.listdir(path.parent) == [path.name]


def test_it_wants_a_rewrite_when_most_is_old(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REWRITE_BYTES", 1_000)
    journal = made(path, [])
    assert not journal.wants_rewrite
    while journal.size <= 2 * 2 * module._HEAD_BYTES + 1_000:
        assert not journal.wants_rewrite
        journal.append([b"x" * 100])
    assert journal.wants_rewrite
    journal.rewrite([b"x"])
    assert not journal.wants_rewrite
    journal.close()


def test_sizes_at_the_maximum_and_one_above(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOURNAL_RECORD_BYTES_MAX", 100)
    journal = made(path, [bytes(100)])
    with pytest.raises(ValueError, match="at most 100"):
        journal.append([bytes(101)])
    size = journal.size
    monkeypatch.setattr(module, "JOURNAL_BYTES_MAX", size + module._RECORD_BYTES + 4)
    with pytest.raises(OSError, match="full"):
        journal.append([b"12345"])
    journal.append([b"1234"])
    with pytest.raises(OSError, match="would have"):
        journal.rewrite([bytes(100), b"12345"])
    journal.close()
    assert reopened(path).bodies == [bytes(100), b"1234"]
    assert limits.JOURNAL_BYTES_MAX > 2 * limits.ONCE_BYTES_MAX + limits.BODY_BYTES_MAX


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = made(path)
    real, room = os.write, [10]

    def write(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        size = min(room[0], len(data))
        room[0] -= size
        return real(descriptor, data[:size])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space"):
        journal.append([b"four"])
    assert not journal.wants_rewrite
    room[0] = 1_000_000
    journal.append([b"five"])
    journal.close()
    assert reopened(path).bodies == [*BODIES, b"five"]


def test_after_a_failed_fsync_nothing_is_trusted_but_a_fresh_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = made(path)

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="Input/output"):
            journal.append([b"four"])
    assert journal.wants_rewrite
    with pytest.raises(OSError, match="anew"):
        journal.append([b"five"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output"):
            journal.rewrite([b"six"])
    assert journal.wants_rewrite
    journal.rewrite([*BODIES, b"seven"])
    journal.append([b"eight"])
    journal.close()
    assert reopened(path).bodies == [*BODIES, b"seven", b"eight"]


def test_a_killed_rewrite_leaves_the_former_file(path: Path) -> None:
    made(path).close()
    path.with_name(f".{path.name}.new").write_bytes(b"half of it")
    assert reopened(path).bodies == BODIES
    journal = Journal(path, "test")
    journal.open()
    journal.rewrite([b"new"])
    journal.close()
    assert reopened(path).bodies == [b"new"]
