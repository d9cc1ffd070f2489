"""The audit log: every change of what was written is found; power cuts and full disks are not."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from drupelet.store import audit
from drupelet.store.audit import AuditLog, Entry
from drupelet.wire.codec import dumps


def entry(sequence: int, **fields: object) -> Entry:
    made = {"unix_s": 1.5, "up_s": 0.5, "boot": "ab", "what": "call", "mission": "kitchen"}
    return Entry(sequence=sequence, **{**made, **fields})  # type: ignore[arg-type]


def filled(directory: Path, count: int = 6) -> AuditLog:
    log = AuditLog(directory / "audit")
    assert log.open() == ""
    for number in range(log.next_sequence, log.next_sequence + count):
        log.append([entry(number, function=f"f{number}", span_ms=number)])
    log.sync()
    return log


def path_of(directory: Path, number: int = 1) -> Path:
    return directory / "audit" / f"{number:08}.log"


def test_what_is_written_is_read_also_after_a_start(tmp_path: Path) -> None:
    log = filled(tmp_path)
    log.close()
    log.close()
    again = filled(tmp_path, 4)
    assert [each.sequence for each in again.read()] == list(range(1, 11))
    assert [each.function for each in again.read()][:2] == ["f1", "f2"]
    assert again.verify() is None
    assert path_of(tmp_path).stat().st_mode & 0o777 == 0o600
    again.close()


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    log = filled(tmp_path, 3)
    good = path_of(tmp_path).read_bytes()
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1 << (place % 8)
        path_of(tmp_path).write_bytes(bytes(changed))
        assert log.verify() is not None, place
    path_of(tmp_path).write_bytes(good)
    assert log.verify() is None
    log.close()


def test_what_is_taken_out_or_put_in_or_moved_is_found(tmp_path: Path) -> None:
    log = filled(tmp_path, 4)
    data = path_of(tmp_path).read_bytes()
    offsets = [offset for offset, _, _ in audit._records(data)] + [len(data)]
    one, two, three, four = (data[begin:end] for begin, end in itertools.pairwise(offsets))
    for changed in (one + three + four, two + three + four, one + two + two + three, two + one):
        path_of(tmp_path).write_bytes(changed)
        broken = log.verify()
        assert broken is not None and broken.path == path_of(tmp_path)
    log.close()


def test_a_cut_end_is_told_by_the_hash(tmp_path: Path) -> None:
    """Nothing in the files shows it; who wrote down the last hash knows."""
    log = filled(tmp_path, 3)
    remembered = log.last_hash
    log.close()
    data = path_of(tmp_path).read_bytes()
    last = max(offset for offset, _, _ in audit._records(data))
    path_of(tmp_path).write_bytes(data[:last])
    again = AuditLog(tmp_path / "audit")
    assert again.open() == ""
    assert again.verify() is None
    assert again.last_hash != remembered
    assert again.has(again.last_hash)
    assert not again.has(remembered)
    again.close()


def test_a_cut_end_is_seen_by_who_wrote_it(tmp_path: Path) -> None:
    log = filled(tmp_path, 3)
    data = path_of(tmp_path).read_bytes()
    last = max(offset for offset, _, _ in audit._records(data))
    for kept in (data[:last], b""):
        path_of(tmp_path).write_bytes(kept)
        broken = log.verify()
        assert broken is not None and (broken.offset, broken.why) == (
            len(kept),
            "the end was cut off",
        )
    path_of(tmp_path).unlink()
    broken = log.verify()
    assert broken is not None and broken.why == "the end was cut off"
    log.close()


def test_a_power_cut_at_any_byte_loses_no_other_record(tmp_path: Path) -> None:
    log = filled(tmp_path, 4)
    log.close()
    data = path_of(tmp_path).read_bytes()
    whole = [offset for offset, _, _ in audit._records(data)] + [len(data)]
    for size in range(whole[2], len(data) + 1, 5):
        path_of(tmp_path).write_bytes(data[:size])
        after = AuditLog(tmp_path / "audit")
        cut = after.open()
        assert bool(cut) == (size not in whole)
        kept = len([each for each in after.read()])
        assert kept == sum(offset <= size for offset in whole) - 1
        after.append([entry(after.next_sequence)])
        assert after.verify() is None
        after.close()


def test_what_is_cut_off_is_kept_beside_it(tmp_path: Path) -> None:
    """A byte in the middle: whoever looks for what was changed has it, and all that followed."""
    log = filled(tmp_path, 4)
    log.close()
    data = path_of(tmp_path).read_bytes()
    second = [offset for offset, _, _ in audit._records(data)][1]
    changed = data[: second + 40] + bytes([data[second + 40] ^ 1]) + data[second + 41 :]
    path_of(tmp_path).write_bytes(changed)
    after = AuditLog(tmp_path / "audit")
    assert after.open() == (
        f"{len(data) - second} bytes at the end of 00000001.log, kept in 00000001.1.cut"
    )
    kept = tmp_path / "audit" / "00000001.1.cut"
    assert kept.read_bytes() == changed[second:]
    assert kept.stat().st_mode & 0o777 == 0o600
    assert path_of(tmp_path).read_bytes() == data[:second]
    assert after.verify() is None
    after.close()


def test_cut_parts_at_the_maximum_and_one_above(tmp_path: Path) -> None:
    log = filled(tmp_path, 2)
    log.close()
    whole = path_of(tmp_path).read_bytes()
    for number in range(audit.CUTS_MAX + 1):
        path_of(tmp_path).write_bytes(whole + bytes([number]))
        after = AuditLog(tmp_path / "audit")
        assert after.open().startswith("1 bytes at the end")
        after.close()
    cuts = sorted((tmp_path / "audit").glob("*.cut"))
    contents = [*range(audit.CUTS_MAX - 1), audit.CUTS_MAX]  # the first ones stay
    assert [each.read_bytes() for each in cuts] == [bytes([number]) for number in contents]


def test_what_cannot_be_kept_is_not_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(tmp_path, 2)
    log.close()
    path_of(tmp_path).write_bytes(broken := path_of(tmp_path).read_bytes() + b"x")
    after = AuditLog(tmp_path / "audit")
    with monkeypatch.context() as context:
        context.setattr(audit.os, "write", lambda descriptor, data: 0)
        with pytest.raises(OSError, match="No space left"):
            after.open()
    assert [each.name for each in (tmp_path / "audit").iterdir()] == ["00000001.log"]
    assert path_of(tmp_path).read_bytes() == broken
    assert AuditLog(tmp_path / "audit").open()


def test_files_are_closed_and_the_oldest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "FILE_BYTES_MAX", 700)
    monkeypatch.setattr(audit, "FILES_MAX", 3)
    log = filled(tmp_path, 20)
    names = sorted(os.listdir(tmp_path / "audit"))
    assert len(names) == 3 and names[0] > "00000001.log"
    kept = [each.sequence for each in log.read()]
    assert kept == list(range(kept[0], 21))
    assert log.verify() is None
    log.close()
    again = filled(tmp_path, 1)
    assert again.verify() is None
    middle = path_of(tmp_path, again._numbers()[1])
    data = middle.read_bytes()
    middle.unlink()
    broken = again.verify()
    assert broken is not None
    middle.write_bytes(data)
    assert again.verify() is None
    again.close()


def test_a_start_right_after_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = filled(tmp_path, 3)
    log._roll()
    log.close()
    again = filled(tmp_path, 2)
    assert [each.sequence for each in again.read()] == [1, 2, 3, 4, 5]
    assert again.verify() is None
    again.close()


def test_a_full_disk_loses_entries_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(tmp_path, 2)
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: len(data) // 2]))
    with pytest.raises(OSError, match="No space"):
        log.append([entry(3), entry(4)])
    monkeypatch.undo()
    log.append([entry(3)])
    assert [each.sequence for each in log.read()] == [1, 2, 3]
    assert log.verify() is None
    log.close()


def test_an_entry_at_the_maximum_and_one_above(tmp_path: Path) -> None:
    log = filled(tmp_path, 1)
    spare = audit.ENTRY_BYTES_MAX - len(dumps(audit._fields(entry(2, note="x" * 300))))
    log.append([entry(2, note="x" * (300 + spare))])
    with pytest.raises(ValueError, match="at most 4096"):
        log.append([entry(3, note="x" * (301 + spare))])
    assert log.verify() is None
    log.close()


def test_what_another_program_put_there(tmp_path: Path) -> None:
    log = filled(tmp_path, 1)
    (tmp_path / "audit" / "notes.txt").write_text("hello")
    (tmp_path / "audit" / "1.log").write_text("hello")
    assert log.verify() is None
    body = dumps({**audit._fields(entry(2)), "unix_s": "now"})
    record = audit._HEAD.pack(32 + len(body)) + audit._chain(log.last_hash, body) + body
    with open(path_of(tmp_path), "ab") as file:
        file.write(record)
    broken = log.verify()
    assert broken is not None and "changed" in broken.why
    log.close()
