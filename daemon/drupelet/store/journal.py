"""A journal: records appended to one file, durable before anybody acts on them.

Decides the bytes, and what a damaged file means. What is in a record is its user's affair
(`store/once.py`, `store/outbox.py`).

    file   = head head record*                 the head twice: one of them is enough
    head   = "drupjrnl" kind:8 secret:16 check:16
    record = mark:4 length:u32 check:8 check:16 body end:1     big endian; length counts the body

The first check is of mark and length, the second of the body: keyed BLAKE2s by the file's own
secret, so that nothing that a stranger puts into a body looks like a record.

Rules
- `append` returns when its records are durable: one fsync for all of them. It may be anything: full
  disk, failing card; then none of them counts, and the file is not trusted until `rewrite`: what a
  failed fsync left behind nobody knows.
- What `open` gives is durable as well.
- At the end of the file, a record that is cut off is the work of a power cut: it was not promised
  to anybody and goes: there is too little of it, or zeros where something else must be (no record
  begins or ends with a zero byte). Anything else that does not fit its check is damage. Behind
  damage the next good record is found, so what was damaged is all that is lost; and a copy is kept,
  for a person.
- `rewrite` puts a fresh file in the place of the old one at once.
- All methods block: call them in a thread, one at a time.

References: SQLite's WAL (salts and checks); LevelDB's log format; "fsyncgate" (2018) on what a
failed fsync means.
Rejected: SQLite (a page and a journal's page for each 100 bytes: three times the wear); a check of
the whole file (one bit would cost all of it); a hash chain as in store/audit.py (what is written is
rewritten soon, and who writes here is who reads).
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drupelet.store.secret_files import MODE, sync_directory
from drupelet.wire.limits import JOURNAL_BYTES_MAX, JOURNAL_RECORD_BYTES_MAX

_MAGIC: Final = b"drupjrnl"
_KIND_BYTES: Final = 8
_SECRET_BYTES: Final = 16
_CHECK_BYTES: Final = 16
_HEAD_BYTES: Final = len(_MAGIC) + _KIND_BYTES + _SECRET_BYTES + _CHECK_BYTES
_MARK: Final = b"\xf5\x9arJ"
_START: Final = struct.Struct(">4sI")
_SHORT_BYTES: Final = 8
_END: Final = b"\xee"
_BODY_AT: Final = _START.size + _SHORT_BYTES + _CHECK_BYTES
_RECORD_BYTES: Final = _BODY_AT + len(_END)  # beside the body
_ZEROS: Final = bytes(64)  # what a file system shows where it had not written yet
REWRITE_BYTES: Final = 1024 * 1024  # a file of less is not worth a rewrite


@dataclass(frozen=True, slots=True)
class Found:
    """What was in the file. `damaged`: bytes that are no record and were not cut off by a power
    cut; `copy`: where the file lies as it was, then. `torn`: bytes that a power cut left."""

    bodies: list[bytes]
    damaged: int = 0
    copy: Path | None = None
    torn: int = 0


class Journal:
    """The file `path`. `kind`: at most 8 letters that tell it from other journals."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path = path.absolute()
        self._kind = kind.encode().ljust(_KIND_BYTES)[:_KIND_BYTES]
        self._secret = b""
        self._descriptor = -1
        self._size = 0
        self._least = 0  # its size when it was rewritten
        self._sound = False

    @property
    def wants_rewrite(self) -> bool:
        """Most of it is out of date, or it is not to be trusted any more."""
        return not self._sound or self._size > 2 * self._least + REWRITE_BYTES

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._size

    def open(self) -> Found:
        """Read it. Afterwards `append`, or `rewrite` when it says so. Raises: `OSError`."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with self._path.open("rb") as file:
                data = file.read(JOURNAL_BYTES_MAX + 1)
        except FileNotFoundError:
            return Found([])  # not sound: the first append makes it
        secret = self._secret_of(data)
        if secret is None:
            if len(data) < 2 * _HEAD_BYTES or not any(data):  # its making was cut off
                return Found([], torn=len(data))
            return Found([], damaged=len(data), copy=self._keep_copy())
        self._secret = secret
        bodies: list[bytes] = []
        good, damaged = 2 * _HEAD_BYTES, 0
        for start, end, body in _records(data, 2 * _HEAD_BYTES, secret):
            damaged += start - good
            bodies.append(body)
            good = end
        torn = max(len(data) - good, 0)
        if torn and (len(data) > JOURNAL_BYTES_MAX or not _is_torn(data[good:], secret)):
            damaged, torn = damaged + torn, 0
        if damaged or data[:_HEAD_BYTES] != data[_HEAD_BYTES : 2 * _HEAD_BYTES]:
            return Found(bodies, damaged, self._keep_copy() if damaged else None, torn)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        if torn:
            os.ftruncate(self._descriptor, good)
        os.fdatasync(self._descriptor)  # a killed program may have written this and not synced it
        self._size = self._least = os.lseek(self._descriptor, good, os.SEEK_SET)
        self._sound = True
        return Found(bodies, torn=torn)

    def append(self, bodies: Sequence[bytes]) -> None:
        """Durable when it returns. Raises: `OSError`; then none of them counts."""
        if not self._sound:
            raise OSError(errno.EIO, "the file is to be written anew first")
        data = b"".join(_record(body, self._secret) for body in bodies)
        if self._size + len(data) > JOURNAL_BYTES_MAX:
            raise OSError(errno.EFBIG, f"{self._path.name} has {self._size} bytes, it is full")
        try:
            self._sound = False
            _write(self._descriptor, data)
            os.fdatasync(self._descriptor)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
                os.lseek(self._descriptor, self._size, os.SEEK_SET)
                # A full disk refuses before anything is in doubt; a failing one leaves it so.
                self._sound = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise
        self._sound = True
        self._size += len(data)

    def rewrite(self, bodies: Iterable[bytes]) -> None:
        """These, and nothing else. Raises: `OSError`; then the former file is still there."""
        secret = secrets.token_bytes(_SECRET_BYTES)
        head = _MAGIC + self._kind + secret
        head += _check(secret, head)
        parts = [head, head, *(_record(body, secret) for body in bodies)]
        data = b"".join(parts)
        if len(data) > JOURNAL_BYTES_MAX:
            raise OSError(errno.EFBIG, f"{self._path.name} would have {len(data)} bytes")
        temporary = self._path.with_name(f".{self._path.name}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(temporary, flags, MODE)
        try:
            os.fchmod(descriptor, MODE)
            _write(descriptor, data)
            os.fsync(descriptor)
            os.replace(temporary, self._path)
            sync_directory(self._path.parent)
        except OSError:
            os.close(descriptor)
            self._sound = False  # which of the two files is there after a power cut, nobody knows
            raise
        self.close()
        self._descriptor, self._secret = descriptor, secret
        self._size = self._least = len(data)
        self._sound = True

    def close(self) -> None:
        """The end."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._sound = False

    def _secret_of(self, data: bytes) -> bytes | None:
        for at in (0, _HEAD_BYTES):
            head = data[at : at + _HEAD_BYTES]
            secret = head[-_SECRET_BYTES - _CHECK_BYTES : -_CHECK_BYTES]
            known = head.startswith(_MAGIC + self._kind) and len(secret) == _SECRET_BYTES
            if known and head[-_CHECK_BYTES:] == _check(secret, head[:-_CHECK_BYTES]):
                return secret
        return None

    def _keep_copy(self) -> Path:
        copy = self._path.with_name(f"{self._path.name}.damaged")
        temporary = self._path.with_name(f".{self._path.name}.damaged")
        shutil.copyfile(self._path, temporary)
        temporary.chmod(MODE)
        os.replace(temporary, copy)
        sync_directory(copy.parent)
        return copy


def _check(secret: bytes, data: bytes, size: int = _CHECK_BYTES) -> bytes:
    return hashlib.blake2s(data, digest_size=size, key=secret, person=b"drupjrnl").digest()


def _record(body: bytes, secret: bytes) -> bytes:
    if len(body) > JOURNAL_RECORD_BYTES_MAX:
        raise ValueError(f"a record of {len(body)} bytes, at most {JOURNAL_RECORD_BYTES_MAX}")
    start = _START.pack(_MARK, len(body))
    return b"".join((start, _check(secret, start, _SHORT_BYTES), _check(secret, body), body, _END))


def _records(data: bytes, start: int, secret: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(start, end, body) of each good record."""
    at = start
    while at >= 0:
        length = _length(data[at : at + _START.size + _SHORT_BYTES], secret)
        if length is not None:
            begin, end = at + _BODY_AT, at + _RECORD_BYTES + length
            body = data[begin : begin + length]
            check = data[begin - _CHECK_BYTES : begin]
            if data[begin + length : end] == _END and check == _check(secret, body):
                yield at, end, body
                at = end
                continue
        at = data.find(_MARK, at + 1)


def _length(start: bytes, secret: bytes) -> int | None:
    """What the start of a record says; None: it is none."""
    if len(start) < _START.size + _SHORT_BYTES:
        return None
    mark, length = _START.unpack_from(start)
    if mark != _MARK or length > JOURNAL_RECORD_BYTES_MAX:
        return None
    good = start[_START.size :] == _check(secret, start[: _START.size], _SHORT_BYTES)
    return length if good else None


def _is_torn(tail: bytes, secret: bytes) -> bool:
    """Whether a power cut left this at the end: less than was written, or zeros for it."""
    if tail[0] == 0 or tail[-1] == 0 or _ZEROS in tail:
        return True
    length = _length(tail[: _START.size + _SHORT_BYTES], secret)
    if length is None:
        return len(tail) < _START.size + _SHORT_BYTES
    return len(tail) < _RECORD_BYTES + length


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[written:]


__all__ = ["REWRITE_BYTES", "Found", "Journal"]
