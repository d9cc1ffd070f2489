"""Telling systemd how the daemon is: ready, what it does, alive, stopping.

Decides how a state is written and where it goes; when to say what is the services' business.

Rules
- Without NOTIFY_SOCKET (a shell, a container, a test) every call does nothing.
- A message that cannot be sent is dropped: systemd's own timeouts are the answer to a service
  manager that does not listen, and the daemon's work must not wait for it. Never blocks.
- Only what belongs to one line goes out: a status is cut and its line breaks are taken out, so
  that no text from elsewhere can add an assignment such as ``MAINPID=``.

References: sd_notify(3), sd_watchdog_enabled(3).
Rejected: the `sdnotify` and `systemd-python` packages (a dependency for one datagram; the second
needs a compiler).
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

STATUS_CHARS_MAX: Final = 200  # one line of `systemctl status`


def ready(status_text: str = "") -> None:
    """The daemon serves: what waits for this unit may start. Also ends a reload."""
    _send("READY=1" + (f"\nSTATUS={_line(status_text)}" if status_text else ""))


def status(text: str) -> None:
    """One line for `systemctl status`."""
    _send(f"STATUS={_line(text)}")


def watchdog() -> None:
    """The daemon is alive; say it only after something has proved that."""
    _send("WATCHDOG=1")


def reloading(now_us: int) -> None:
    """A reload begins; `now_us` is CLOCK_MONOTONIC in microseconds. `ready` ends it."""
    _send(f"RELOADING=1\nMONOTONIC_USEC={now_us}")


def stopping() -> None:
    """The daemon has begun to stop."""
    _send("STOPPING=1")


def watchdog_interval_s() -> float | None:
    """The time in which to say `watchdog` at least once, better twice; None: not watched."""
    pid = str(os.getpid())
    if os.environ.get("WATCHDOG_PID", pid) != pid:
        return None  # inherited from a parent that is watched itself
    try:
        allowed_us = int(os.environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return allowed_us / 1e6 if allowed_us > 0 else None


def _send(message: str) -> None:
    """One datagram on a socket of its own: a few in a minute, and nobody has to own it."""
    address = _address(os.environ.get("NOTIFY_SOCKET", ""))
    if not address:
        return
    with (
        contextlib.suppress(OSError),  # see the rules above
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.setblocking(False)
        datagrams.sendto(message.encode(), address)


def _address(text: str) -> str:
    """The socket's address, "" for none; ``@name`` is Linux' abstract name space."""
    if text.startswith("@") and len(text) > 1:
        return "\0" + text[1:]
    return text if text.startswith("/") else ""  # vsock:... is for virtual machines' managers


def _line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)[:STATUS_CHARS_MAX]
