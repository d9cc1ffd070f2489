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
import socket
from collections.abc import Mapping
from typing import Final

STATUS_CHARS_MAX: Final = 200  # one line of `systemctl status`


class Notifier:
    """The way to the service manager.

    *Owns* one datagram socket; `close` it. `watchdog_interval_s` is how often `watchdog` must be
    said (half of what systemd allows, as sd_watchdog_enabled(3) advises), or None.
    """

    def __init__(self, environment: Mapping[str, str], *, pid: int) -> None:
        self._socket: socket.socket | None = None
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_interval_s = _watchdog_interval_s(environment, pid)
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def ready(self) -> None:
        """The daemon serves: what waits for this unit may start."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        printable = "".join(char if char.isprintable() else " " for char in text)
        self._send("STATUS=" + printable[:STATUS_CHARS_MAX])

    def watchdog(self) -> None:
        """The daemon is alive; say it only after something has proved that."""
        self._send("WATCHDOG=1")

    def reloading(self, now_us: int) -> None:
        """A reload begins; `now_us` is CLOCK_MONOTONIC in microseconds. `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}")

    def stopping(self) -> None:
        """The daemon has begun to stop."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Say nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(OSError):  # see the rules above
            self._socket.sendto(message.encode(), self._address)


def _address(text: str) -> str:
    """The socket's address, "" for none; ``@name`` is Linux' abstract name space."""
    if text.startswith("@") and len(text) > 1:
        return "\0" + text[1:]
    return text if text.startswith("/") else ""  # vsock:... is for virtual machines' managers


def _watchdog_interval_s(environment: Mapping[str, str], pid: int) -> float | None:
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None  # inherited from a parent that is watched itself
    try:
        allowed_us = int(environment.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return allowed_us / 2e6 if allowed_us > 0 else None
