"""Files that hold a secret: the node's key and the cookie.

Decides when such a file may be used (a plain file, mode 0600, owned by this user or root, small)
and how it is written, so that a power cut leaves the old content or the new one, never a mixture.

Rules it keeps
- Every refusal is a `ConfigError` that names the file and the mend; the content is in no message.
- Checks look at the opened file, not at its name, so nobody swaps it in between.
- Writing: a temporary file of mode 0600 in the same directory, fsync, `link` (new) or `rename`
  (replace), fsync of the directory. `link` refuses to replace, so of two programs that make the
  same secret at once one wins and the other reads what the winner wrote.

Ideas rejected: mending a wrong mode by itself (whoever could read the secret may have done so; a
person must decide); a lock file (link does it).
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from drupelet.errors import ConfigError

SECRET_BYTES_MAX: Final = 4_096  # a key or two cookies with comments: one page
MODE: Final = 0o600


def read_secret_file(path: Path, *, what: str, bytes_max: int = SECRET_BYTES_MAX) -> bytes | None:
    """The content, or None when there is no such file. `what` names it to people: "the cookie".

    Raises: `ConfigError` for a file that must not be used.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot("read", what, path, error) from None
    try:
        _check_file(os.fstat(descriptor), path, what)
        content = os.read(descriptor, bytes_max + 1)
    except OSError as error:
        raise _cannot("read", what, path, error) from None
    finally:
        os.close(descriptor)
    if len(content) > bytes_max:
        raise ConfigError(
            f"{what} is longer than {bytes_max} bytes",
            mend="this is some other file; name the right one",
            file=str(path),
        )
    return content


def _check_file(status: os.stat_result, path: Path, what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(
            f"{what} is not a plain file", mend=f"remove {path} and start again", file=str(path)
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"{what} belongs to another user (uid {status.st_uid})",
            mend=f"chown {os.geteuid()} {path}",
            file=str(path),
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise ConfigError(
            f"{what} has mode {mode:04o}, so others can reach it",
            mend=f"chmod 600 {path} (and make a new one if others may have read it)",
            file=str(path),
        )


def create_secret_file(path: Path, content: bytes, *, what: str) -> bool:
    """Make the file; false when there is one already, which stays as it is.

    Missing directories are made with mode 0700. Raises: `ConfigError`.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = _write_temporary(path, content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        sync_directory(path.parent)
    except OSError as error:
        raise _cannot("write", what, path, error) from None
    return True


def replace_secret_file(path: Path, content: bytes, *, what: str) -> None:
    """Put `content` in the place of what is there, at once and for good. Raises: `ConfigError`."""
    try:
        temporary = _write_temporary(path, content)
        try:
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise _cannot("write", what, path, error) from None


def _write_temporary(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, MODE)
    try:
        os.fchmod(descriptor, MODE)  # whatever the umask says
        if os.write(descriptor, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except OSError:
        os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
    return temporary


def sync_directory(directory: Path) -> None:
    """Make names in it durable. Raises: `OSError`."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_MENDS: Final = {
    errno.EACCES: "give this user the right to it: see `ls -ld` of the file and its directory",
    errno.EPERM: "give this user the right to it: see `ls -ld` of the file and its directory",
    errno.ENOSPC: "make room on the disk and start again",
    errno.EDQUOT: "make room on the disk and start again",
    errno.EROFS: "the disk is mounted read-only; mount it writable and start again",
    errno.EIO: "the card or disk is failing; take a copy of it and replace it",
}


def _cannot(verb: str, what: str, path: Path, error: OSError) -> ConfigError:
    mend = _MENDS.get(error.errno or 0, "check the path and its directory")
    return ConfigError(
        f"cannot {verb} {what}: {error.strerror or type(error).__name__}", mend=mend, file=str(path)
    )
