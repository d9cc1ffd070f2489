"""Shipped code on disk: one file per mission, ``state_dir/code/MISSION.bundle``.

Decides how a bundle is kept, so that a power cut leaves the former one or the new one, and how a
damaged file is told from a good one.

    prepare   writes ``MISSION.next`` and makes it durable; the worker loads it from there
    commit    renames it to ``MISSION.bundle``: from here on a restart runs it
    discard   removes ``MISSION.next``: it did not load

A file is a deterministic CBOR map: ``check`` (BLAKE2s-128 of the map without it), ``content``,
``key``, ``signature`` (`wire/signing.py`) and ``replaced`` (`core/code.py`).

Rules
- Names on disk are names of missions, which `wire/bundles.py` has checked; a module's name is
  nowhere a file's.
- A file whose check, signature, content or name does not fit is named and left where it is, for
  whoever wants to look; the operator's file serves. A ``.next`` that a crash left is removed.
- All methods block (an fsync takes 10 to 100 ms on an SD card): call them in a thread.

Rejected: a directory per version (two names to keep in step); SQLite for at most 64 files.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.store.secret_files import sync_directory
from drupelet.wire.bundles import Bundle, mission_problem
from drupelet.wire.codec import dumps, loads_canonical
from drupelet.wire.limits import BUNDLE_BYTES_MAX, SHIPPED_MISSIONS_MAX
from drupelet.wire.signing import Signed, open_bundle

KEPT: Final = ".bundle"
NEXT: Final = ".next"
_FILE_BYTES_MAX: Final = BUNDLE_BYTES_MAX + 1_024  # with key, signature, digests
_FILES_MAX: Final = 4 * SHIPPED_MISSIONS_MAX  # that are looked at; more is somebody else's doing
_CHECK_BYTES: Final = 16
_MODE: Final = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A bundle as it is kept. `path`: its file, for a worker to load it from."""

    signed: Signed
    bundle: Bundle
    replaced: bytes
    path: Path


@dataclass(frozen=True, slots=True)
class Damaged:
    """A file that cannot be used, and why."""

    path: Path
    why: str


class CodeStore:
    """The bundles in `directory`, which is made when the first one comes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()

    def load(self, taken: Container[str] = ()) -> tuple[list[Kept], list[Damaged]]:
        """Everything that is there; `taken`: see `bundles.module_problem`."""
        kept: list[Kept] = []
        damaged: list[Damaged] = []
        try:
            paths = sorted(self._directory.iterdir())[:_FILES_MAX]
        except FileNotFoundError:
            return kept, damaged
        except OSError as error:
            return kept, [Damaged(self._directory, error.strerror or str(error))]
        for path in paths:
            try:
                if path.suffix == NEXT:
                    path.unlink(missing_ok=True)
                elif path.suffix == KEPT:
                    kept.append(_read(path, taken))
            except (OSError, RemoteProtocolError) as error:
                damaged.append(Damaged(path, str(error)))
        return kept, damaged

    def read(self, mission: str, taken: Container[str] = ()) -> Kept | Damaged | None:
        """What is kept of one mission; None: nothing."""
        path = self._path(mission, KEPT)
        try:
            return _read(path, taken)
        except FileNotFoundError:
            return None
        except (OSError, RemoteProtocolError) as error:
            return Damaged(path, str(error))

    def prepare(self, mission: str, signed: Signed, replaced: bytes) -> Path:
        """Write the next bundle of `mission`, durable; its file. Raises: `OSError`."""
        path = self._path(mission, NEXT)
        if not self._directory.exists():
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(self._directory.parent)
        fields = _fields(signed, replaced)
        content = dumps({**fields, "check": _check(fields)})
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, _MODE)
        try:
            if os.write(descriptor, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return path

    def commit(self, mission: str) -> Path:
        """What `prepare` wrote is the mission's code from now on. Raises: `OSError`."""
        path = self._path(mission, KEPT)
        os.replace(self._path(mission, NEXT), path)
        sync_directory(self._directory)
        return path

    def discard(self, mission: str) -> None:
        """What `prepare` wrote is not wanted."""
        self._path(mission, NEXT).unlink(missing_ok=True)

    def drop(self, mission: str) -> None:
        """The mission has no shipped code any more. Raises: `OSError`."""
        path = self._path(mission, KEPT)
        if path.exists():
            path.unlink()
            sync_directory(self._directory)

    def _path(self, mission: str, suffix: str) -> Path:
        problem = mission_problem(mission)
        if problem:
            raise ValueError(problem)
        return self._directory / f"{mission}{suffix}"


def _fields(signed: Signed, replaced: bytes) -> dict[str, bytes]:
    return {
        "content": signed.content,
        "key": signed.key,
        "replaced": replaced,
        "signature": signed.signature,
    }


def _check(fields: dict[str, bytes]) -> bytes:
    return hashlib.blake2s(dumps(fields), digest_size=_CHECK_BYTES, person=b"drupcode").digest()


def _read(path: Path, taken: Container[str]) -> Kept:
    """Raises: `OSError`, `RemoteProtocolError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        data = file.read(_FILE_BYTES_MAX + 1)
    if len(data) > _FILE_BYTES_MAX:
        raise RemoteProtocolError(f"longer than {_FILE_BYTES_MAX} bytes")
    match loads_canonical(data):
        case {
            "check": bytes(check),
            "content": bytes(content),
            "key": bytes(key),
            "replaced": bytes(replaced),
            "signature": bytes(signature),
            **rest,
        } if not rest:
            signed = Signed(content, key, signature)
            if check != _check(_fields(signed, replaced)):
                raise RemoteProtocolError("its check does not fit: a bit flipped, or it was edited")
            bundle = open_bundle(signed, taken)
            if path.name != f"{bundle.mission}{KEPT}":
                raise RemoteProtocolError(f"it is the code of {bundle.mission!r}, under this name")
            return Kept(signed=signed, bundle=bundle, replaced=replaced, path=path)
    raise RemoteProtocolError("not the file of a shipped bundle")
