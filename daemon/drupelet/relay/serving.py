"""Who serves from a state directory: one relay at a time, and the owner's verbs can see whether.

    with serving(state_dir):                 # raises DrupeletError: another one does
        ...
    is_served(state_dir)

Decides by a lock on a file, which the kernel lets go of when its process ends, however it ends.

References: flock(2).
Rejected: a file with a process id (stale after kill -9, and ids are used again); asking the relay
by HTTP (the verbs would need its address, its name and its certificate).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from drupelet.errors import DrupeletError

FILE_NAME: Final = "serving.lock"


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def serving(directory: Path) -> Iterator[None]:
    """This process serves from `directory`. Raises: `DrupeletError`, `OSError`."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _locked(descriptor):
            raise DrupeletError(f"another drupelet-relay serves from {directory}; end that one")
        yield
    finally:
        os.close(descriptor)


def is_served(directory: Path) -> bool:
    """Whether a relay serves from `directory`."""
    try:
        descriptor = os.open(directory / FILE_NAME, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _locked(descriptor)
    finally:
        os.close(descriptor)
