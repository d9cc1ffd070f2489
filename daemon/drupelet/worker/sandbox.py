"""What a worker does to itself before it loads anybody's code.

Decides the limits that a process can put on itself: it dies with its parent, dumps no core, and
gets `memory_bytes` above what it uses already, so that an allocation beyond fails with MemoryError
inside the mission instead of waking the kernel's OOM killer for somebody else.

What it cannot do to itself (no network, no keys, no other files) comes with the systemd unit.

References: prctl(2) PR_SET_PDEATHSIG, getrlimit(2), proc(5) statm.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PR_SET_NAME: Final = 15
_NAME_BYTES_MAX: Final = 15  # the kernel keeps 16 with the closing zero
_DESCRIPTORS_MAX: Final = 256  # a mission opens files, not crowds of them


def die_with(parent: int) -> None:
    """Be killed when `parent` (0: nobody) ends, even in an endless loop."""
    if not parent:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("drupelet.worker: the daemon that started this worker is gone")


def show_name(label: str) -> None:
    """The process is called ``m:LABEL`` in ps and top."""
    name = f"m:{label}".encode("ascii", "replace")[:_NAME_BYTES_MAX]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NAME, name, 0, 0, 0)


def limit(memory_bytes: int) -> None:
    """No core dumps, few descriptors; `memory_bytes` (0: any) more than is in use now."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, _DESCRIPTORS_MAX)
    if memory_bytes:
        with open("/proc/self/statm", encoding="ascii") as statm:
            pages = [int(field) for field in statm.read().split()]
        page_bytes = resource.getpagesize()
        _lower(resource.RLIMIT_AS, pages[0] * page_bytes + memory_bytes)
        _lower(resource.RLIMIT_DATA, pages[5] * page_bytes + memory_bytes)


def _lower(what: int, value: int) -> None:
    """Soft and hard, so that the mission cannot raise it again."""
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(what, (value, value))
