"""Where a local `drupeletd` listens: the Unix sockets to try, and the directory of a user's own.

Decides the order of the search; says nothing on the sockets it opens. Never imports trio: the quick
verbs of the command line and plain scripts use it.

- ``--socket PATH`` or ``DRUPELET_SOCKET``: that one and no other; who names one wants that node.
  A word without a slash that is no file is a node's name: its socket in the user's run directory.
- else ``/run/drupelet/drupelet.sock``, the system's daemon;
- else the sockets in the user's run directory (``$XDG_RUNTIME_DIR/drupelet``, else
  ``/tmp/drupelet-UID``): ``gandalf.sock`` first (the demo's first node), then by name.

The run directory is refused when another user owns it or may enter it: whoever can write there can
pose as the daemon. Idea rejected: an abstract socket (no file, but any user may take the name).
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from drupelet.errors import ConfigError, NoConnection

SYSTEM_SOCKET: Final = "/run/drupelet/drupelet.sock"
SOCKET_VARIABLE: Final = "DRUPELET_SOCKET"
FIRST_SOCKET: Final = "gandalf.sock"
SOCKETS_TRIED_MAX: Final = 64  # of a run directory; the demo makes at most 16
PATH_BYTES_MAX: Final = 107  # sun_path of unix(7) is 108 bytes with its closing zero

_NOT_MINE: Final = "not permitted for this user; the group drupelet is"
_GROUP_TEXT: Final = "sudo usermod -aG drupelet $USER, and log in again; or use sudo this once"
_START_TEXT: Final = (
    "start one with `make run` or `drupelet demo` (a cluster on this machine), "
    "or `systemctl start drupelet` (an installed one)"
)


class NoDaemon(NoConnection):
    """No local daemon answered. `tried` is (socket, why not) in the order of the search."""

    def __init__(self, tried: tuple[tuple[str, str], ...]) -> None:
        super().__init__("no_daemon")
        self.tried = tried
        self.mend = _GROUP_TEXT if any(why == _NOT_MINE for _, why in tried) else _START_TEXT

    def __str__(self) -> str:
        tried = "; ".join(f"{path} ({why})" for path, why in self.tried) or "no socket was found"
        return f"{super().__str__()}; tried {tried}; {self.mend}"


def run_directory(environ: Mapping[str, str] | None = None) -> Path:
    """The directory of this user's own sockets. It need not exist."""
    environ = os.environ if environ is None else environ
    base = environ.get("XDG_RUNTIME_DIR", "")
    if base.startswith("/"):  # the XDG specification: a relative path is to be ignored
        return Path(base) / "drupelet"
    return Path(f"/tmp/drupelet-{os.getuid()}")


def make_run_directory(environ: Mapping[str, str] | None = None) -> Path:
    """The run directory, made if needed. Raises: `ConfigError` when it is not this user's alone."""
    directory = run_directory(environ)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the run directory: {error.strerror}",
            mend="set XDG_RUNTIME_DIR to a directory of yours",
            file=str(directory),
        ) from None
    check_run_directory(directory)
    return directory


def check_run_directory(directory: Path) -> None:
    """Raises: `ConfigError` when another user owns `directory` or may enter it, or it is a link."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        what = "is not a directory"
    elif status.st_uid != os.getuid():
        what = f"belongs to user {status.st_uid}"
    elif status.st_mode & 0o077:
        what = f"is open to others (mode {stat.S_IMODE(status.st_mode):04o}, not 0700)"
    else:
        return
    raise ConfigError(
        f"the run directory {what}",
        mend=f"remove it, or `chmod 700 {directory}` if it is yours, or set XDG_RUNTIME_DIR",
        file=str(directory),
    )


def candidate_sockets(
    explicit: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
) -> list[str]:
    """The sockets to try, in order. Raises: `ConfigError` for a run directory that is not safe."""
    environ = os.environ if environ is None else environ
    named = os.fspath(explicit or environ.get(SOCKET_VARIABLE, ""))
    if named:
        return [named if "/" in named or os.path.exists(named) else _of_node(named, environ)]
    candidates = [SYSTEM_SOCKET]
    directory = run_directory(environ)
    try:
        names = sorted(entry for entry in os.listdir(directory) if entry.endswith(".sock"))
    except OSError:
        return candidates
    check_run_directory(directory)
    names.sort(key=lambda name: name != FIRST_SOCKET)  # a stable sort: the others stay by name
    candidates += [str(directory / name) for name in names[:SOCKETS_TRIED_MAX]]
    return candidates


def _of_node(name: str, environ: Mapping[str, str]) -> str:
    directory = run_directory(environ)
    if directory.is_dir():
        check_run_directory(directory)
    return str(directory / f"{name}.sock")


def connect_nowait(path: str) -> socket.socket:
    """A non-blocking socket connected to `path`; a Unix socket connects at once or not at all.

    Raises: `OSError`; `why_not` puts it into words.
    """
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise OSError(f"the path is longer than {PATH_BYTES_MAX} bytes")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def why_not(error: OSError) -> str:
    """A failed connect in a few words for a person."""
    match error:
        case FileNotFoundError():
            return "no such socket"
        case ConnectionRefusedError():
            return "nobody listens"
        case PermissionError():
            return _NOT_MINE
        case BlockingIOError():
            return "busy"
    return error.strerror or str(error)
