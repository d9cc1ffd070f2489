"""The audit log on disk: who from outside called what, in files that show when they were changed.

Decides the bytes. ``state_dir/audit/00000001.log`` and so on; each is records one after the other:

    record = length:u32 hash:32 body          length counts hash and body; big endian

`hash` is BLAKE2b-256 of the hash of the record before and the body; the body is a deterministic
CBOR map (`Entry`). The first record of a file continues the last of the file before, so nothing in
the middle can be changed, taken out or put in without `verify` naming the place. Cutting the end
off can only be seen by who remembers a later hash: `last_hash` is what to write down elsewhere.
(The program that writes remembers it for as long as it runs.)

Rules
- Append only. What cannot be read at the end, a record that a power cut left half-written or what
  somebody changed, is cut off at the next start, so that the log goes on; it is kept beside it in a
  file ``*.cut`` before that, and an entry says so. CUTS_MAX such files; then the last is replaced.
- What is written is made durable by `sync`; the driver does it every few seconds,
  since an fsync for each call would wear the card out and slow the caller down.
- A file is closed at FILE_BYTES_MAX; the oldest is removed beyond FILES_MAX: the log is bounded.
- A disk that is full or fails loses entries, never a call: the driver counts them and says so.
- All methods block: call them in a thread.

References: Schneier and Kelsey, "Secure Audit Logs" (1999); systemd's Forward Secure Sealing.
Rejected: SQLite (every entry a page of writes, and a row can be changed in place); Merkle trees as
in RFC 9162 (their proofs are for many readers; here is one).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.store.secret_files import sync_directory
from drupelet.wire.codec import dumps, loads_canonical

FILE_BYTES_MAX: Final = 4 * 1024 * 1024  # some 25,000 entries
FILES_MAX: Final = 8
ENTRY_BYTES_MAX: Final = 4_096
_HASH_BYTES: Final = 32
_HEAD: Final = struct.Struct(">I")
_FIRST: Final = bytes(_HASH_BYTES)
_MODE: Final = 0o600
_SUFFIX: Final = ".log"
CUTS_MAX: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that happened. Times in seconds.

    `unix_s`: by the machine's clock, which may have been wrong; `up_s`: since its start; `boot`:
    which start. `what`: "call", "refused", "granted", "revoked", "accepted", "forgotten",
    "damaged". `outcome`: "ok", "cast", "cancelled" by its caller, or the error's name. `count`: of
    calls alike that this one stands for.
    """

    sequence: int
    unix_s: float
    up_s: float
    boot: str
    what: str
    caller: str = ""
    mission: str = ""
    function: str = ""
    outcome: str = ""
    span_ms: int = 0
    count: int = 1
    note: str = ""


_FIELDS: Final = tuple(Entry.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Broken:
    """Where the chain does not hold, and why."""

    path: Path
    offset: int
    why: str


class AuditLog:
    """The files in `directory`. `open` first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self._descriptor = -1
        self._number = 0
        self._size = 0
        self._hash = _FIRST
        self.next_sequence = 1

    @property
    def last_hash(self) -> bytes:
        """Of the last record: it stands for all before it."""
        return self._hash

    def open(self) -> str:
        """Find the end. Returns "" or what was cut off there and is where. Raises: `OSError`."""
        if not self._directory.exists():
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(self._directory.parent)
        numbers = self._numbers()
        self._number = numbers[-1] if numbers else 1
        self._hash, self.next_sequence = _FIRST, 1
        data, good, cut = b"", 0, ""
        for number in numbers[-2:]:  # an empty last file continues the one before
            data = self._path(number).read_bytes()
            good, cut = 0, ""
            for offset, digest, entry in _records(data):
                if entry is None:
                    cut = f"{len(data) - offset} bytes at the end of {self._path(number).name}"
                    break
                good = offset + _HEAD.size + _HASH_BYTES + len(dumps(_fields(entry)))
                self._hash, self.next_sequence = digest, entry.sequence + 1
        path = self._path(self._number)
        if cut:
            cut += f", kept in {self._keep_cut(path, data[good:]).name}"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        if not numbers:
            sync_directory(self._directory)
        if cut:
            os.ftruncate(self._descriptor, good)
        self._size = os.lseek(self._descriptor, 0, os.SEEK_END)
        return cut

    def append(self, entries: Sequence[Entry]) -> None:
        """Write them, in one system call. Raises: `OSError`; then none of them is there."""
        parts: list[bytes] = []
        digest = self._hash
        for entry in entries:
            body = dumps(_fields(entry))
            if len(body) > ENTRY_BYTES_MAX:
                raise ValueError(f"an entry of {len(body)} bytes, at most {ENTRY_BYTES_MAX}")
            digest = _chain(digest, body)
            parts += [_HEAD.pack(_HASH_BYTES + len(body)), digest, body]
        data = b"".join(parts)
        if self._size and self._size + len(data) > FILE_BYTES_MAX:
            self._roll()
        written = os.write(self._descriptor, data)
        if written != len(data):
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
            raise OSError(28, "No space left on device")
        self._size += written
        self._hash = digest
        self.next_sequence = entries[-1].sequence + 1

    def sync(self) -> None:
        """Make what was written durable. Raises: `OSError`."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """The end."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _roll(self) -> None:
        os.fdatasync(self._descriptor)
        following = os.open(
            self._path(self._number + 1), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE
        )
        os.close(self._descriptor)
        self._descriptor, self._size = following, 0
        self._number += 1
        for number in self._numbers()[:-FILES_MAX]:
            self._path(number).unlink()
        sync_directory(self._directory)

    def read(self) -> Iterator[Entry]:
        """Every entry, the oldest first, up to the first that cannot be read in each file."""
        for number in self._numbers():
            for _, _, entry in _records(self._path(number).read_bytes()):
                if entry is None:
                    break
                yield entry

    def verify(self) -> Broken | None:
        """The first place where something was changed; None when all is as it was written."""
        former: bytes | None = None  # of a file that was removed in its turn: not known
        sequence = 0
        for number in self._numbers():
            path = self._path(number)
            for offset, digest, entry in _records(path.read_bytes()):
                if entry is None:
                    return Broken(path, offset, "a record is cut off or was changed")
                if former is not None and digest != _chain(former, dumps(_fields(entry))):
                    return Broken(path, offset, "it does not continue the record before")
                if (
                    former is None
                    and number == 1
                    and digest != _chain(_FIRST, dumps(_fields(entry)))
                ):
                    return Broken(path, offset, "it is not the first record that was written")
                if sequence and entry.sequence != sequence + 1:
                    return Broken(path, offset, f"entry {sequence + 1} is missing")
                former, sequence = digest, entry.sequence
        if (former or _FIRST) != self._hash:  # what this run of the program wrote or found
            path = self._path(self._number)
            return Broken(path, path.stat().st_size if path.exists() else 0, "the end was cut off")
        return None

    def has(self, digest: bytes) -> bool:
        """Whether a record has that hash: then everything before it is as it was."""
        return any(
            known == digest and entry is not None
            for number in self._numbers()
            for _, known, entry in _records(self._path(number).read_bytes())
        )

    def _keep_cut(self, path: Path, data: bytes) -> Path:
        """What is about to be cut off, for good, in a file of its own."""
        places = [path.with_name(f"{path.stem}.{place}.cut") for place in range(1, CUTS_MAX + 1)]
        kept = next((place for place in places if not place.exists()), places[-1])
        descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(28, "No space left on device")
            os.fsync(descriptor)
        except OSError:
            os.unlink(kept)
            raise
        finally:
            os.close(descriptor)
        sync_directory(self._directory)
        return kept

    def _numbers(self) -> list[int]:
        try:
            names = [path.stem for path in self._directory.iterdir() if path.suffix == _SUFFIX]
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name.isdigit() and len(name) == 8)

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:08}{_SUFFIX}"


def _chain(former: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(
        former + body, digest_size=_HASH_BYTES, person=b"drupelet audit"
    ).digest()


def _fields(entry: Entry) -> dict[str, object]:
    return {name: getattr(entry, name) for name in _FIELDS}


def _records(data: bytes) -> Iterator[tuple[int, bytes, Entry | None]]:
    """(offset, hash, entry) of each record; an entry of None ends it: what follows is none."""
    offset = 0
    while offset < len(data):
        start = offset + _HEAD.size
        if start > len(data):
            yield offset, b"", None
            return
        (length,) = _HEAD.unpack_from(data, offset)
        end = start + length
        entry = None
        if _HASH_BYTES < length <= _HASH_BYTES + ENTRY_BYTES_MAX and end <= len(data):
            entry = _entry(data[start + _HASH_BYTES : end])
        yield offset, data[start : start + _HASH_BYTES], entry
        if entry is None:
            return
        offset = end


def _entry(body: bytes) -> Entry | None:
    try:
        fields = loads_canonical(body)
    except RemoteProtocolError:
        return None
    if not isinstance(fields, dict) or fields.keys() != set(_FIELDS):
        return None
    kinds = Entry.__annotations__
    for name, value in fields.items():
        if type(value).__name__ != kinds[name]:
            return None
    return Entry(**fields)
