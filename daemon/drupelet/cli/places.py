"""Where development nodes (`drupelet demo`, `drupelet run`) keep what they need, and how.

Everything is the user's own: ``$XDG_STATE_HOME/drupelet`` (else ``~/.local/state/drupelet``) holds
the cookie that all of them share and one directory for each node; sockets lie in the run directory
of `drupelet.net.sockets`. Nothing of an installed daemon is read or written.

The demo holds a lock (flock(2): the kernel lets go of it however the demo ends) on a file that
names its process and its port mapper's port; `drupelet run` reads it to join.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from drupelet.cli.output import Failed
from drupelet.config import (
    Config,
    LinkConfig,
    MdnsConfig,
    MissionsConfig,
    NodeConfig,
    PortMapperConfig,
    to_toml,
)
from drupelet.net.sockets import make_run_directory

MAPPER_PORT: Final = 4369  # epmd's
LOOPBACK: Final = "127.0.0.1"
DEMO_MISSIONS: Final = {
    "kvs": ("store", "lookup"),
    "echo": ("echo", "echo_later", "echo_in_thread"),
    "resa": ("start", "counts"),
    "ring": ("around",),
}


def state_directory() -> Path:
    """The directory for the state of development nodes, made if needed, 0700."""
    base = os.environ.get("XDG_STATE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    directory = root / "drupelet"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Failed(
            f"cannot make {directory}: {error.strerror}",
            mend="set XDG_STATE_HOME to a directory that you may write",
        ) from None
    return directory


def development_config(
    name: str, directory: Path, mapper_port: int, *, listen: str = LOOPBACK, alone: bool = False
) -> Config:
    """The configuration of one development node whose state is in `directory`.

    `alone`: a cluster of its own, with a cookie that no other node has and no port mapper.
    """
    cookie = (directory if alone else state_directory()) / "cookie"
    return Config(
        node=NodeConfig(
            name=name,
            state_dir=directory / "state",
            socket=make_run_directory() / f"{name}.sock",
            environment="dev",
        ),
        link=LinkConfig(listen=(listen,), cookie_file=cookie),
        mdns=MdnsConfig(enabled=False),
        portmapper=PortMapperConfig(enabled=not alone, listen=(LOOPBACK,), port=mapper_port),
        missions=MissionsConfig(dir=directory / "missions.d", launcher="subprocess"),
    )


def write_demo_node(name: str, mapper_port: int) -> Path:
    """Write the files of one node of the demo; the path of its configuration."""
    directory = state_directory() / "demo" / name
    missions = directory / "missions.d"
    missions.mkdir(mode=0o700, parents=True, exist_ok=True)
    for mission, exports in DEMO_MISSIONS.items():
        listed = ", ".join(f'"{one}"' for one in exports)
        (missions / f"{mission}.toml").write_text(f'module = "{mission}"\nexports = [{listed}]\n')
    file = directory / "drupelet.toml"
    file.write_text(to_toml(development_config(name, directory, mapper_port)))
    return file


def make_cookie(file: Path | None = None) -> None:
    """Make a cookie (None: the shared one) before several nodes try to at once."""
    from drupelet.store.cookie import load_or_make_cookie

    load_or_make_cookie(file or state_directory() / "cookie", environment="dev")


# -- the demo's lock


@contextlib.contextmanager
def demo_lock() -> Iterator[int]:
    """Hold the demo's lock; gives its descriptor, for `note_mapper`. Raises: `Failed`."""
    descriptor = os.open(_lock_file(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = (os.pread(descriptor, 64, 0).decode(errors="replace").split() or ["?"])[0]
            raise Failed(
                f"a demo runs already (process {pid})",
                mend=f"use it (`drupelet nodes`), or stop it (Ctrl-C there, or `kill {pid}`)",
            ) from None
        note_mapper(descriptor, MAPPER_PORT)
        yield descriptor
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def note_mapper(descriptor: int, mapper_port: int) -> None:
    """Write who holds the lock and which port mapper the demo uses."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {mapper_port}\n".encode(), 0)


def demo_mapper_port() -> int | None:
    """The port of the running demo's port mapper; None when no demo runs."""
    try:
        descriptor = os.open(_lock_file(), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = os.pread(descriptor, 64, 0).split()
        return int(words[1]) if len(words) == 2 and words[1].isdigit() else None
    finally:
        os.close(descriptor)
    return None


def _lock_file() -> Path:
    return state_directory() / "demo.lock"
