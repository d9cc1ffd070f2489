"""What the discovery process takes from itself before it hears the first packet.

Decides: no descriptors but its socket and standard error, no environment, no privileges, no new
ones, no files, no processes, DATA_BYTES_MAX of memory, the lowest share of the processor; killed
when its parent goes. In production the systemd unit does the same and more; here it holds in
development as well, and twice does not hurt.

PR_SET_PDEATHSIG (prctl(2)) fires when the parent's *thread* ends, so the daemon starts this process
from its main thread. Changing user clears it, so it comes last.

Rejected: RLIMIT_RSS (Linux ignores it); RLIMIT_AS (counts every mapped library: 30 MB of nothing).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from typing import Final

DATA_BYTES_MAX: Final = 40 * 1024 * 1024  # idle 13 MiB, 18 MiB in a flood; a leak ends here
DESCRIPTORS_MAX: Final = 96  # 16 interfaces with 2 sockets each, and as much again while rebuilding
NICENESS: Final = 10
NOBODY: Final = 65_534  # the kernel's overflow user: owns nothing

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_NO_NEW_PRIVS: Final = 38


def close_inherited() -> None:
    """Close every descriptor but 0 (the socket) and 2; 1 becomes /dev/null."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2:
            with contextlib.suppress(OSError):  # the listing's own descriptor is closed already
                os.close(descriptor)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def confine() -> None:
    """Give up all that discovery does not need. Call when everything is imported.

    Raises: `OSError` when a limit cannot be set; the process must not go on then.
    """
    os.environ.clear()
    os.chdir("/")
    for limit, value in (
        (resource.RLIMIT_DATA, DATA_BYTES_MAX),
        (resource.RLIMIT_NOFILE, DESCRIPTORS_MAX),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (value, value))
    with contextlib.suppress(OSError):  # a sandbox may forbid it; it is only politeness
        os.nice(NICENESS)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the daemon goes, whatever this process does then."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def set_name(name: bytes) -> None:
    """The name that `ps` and `top` show; at most 15 bytes."""
    buffer = ctypes.create_string_buffer(name[:15])
    _prctl(_PR_SET_NAME, ctypes.addressof(buffer))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")
