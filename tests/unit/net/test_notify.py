from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from drupelet.net import notify
from drupelet.net.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A service manager's socket and its NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        if request.param == "path":
            address = str(tmp_path / "notify")
            listener.bind(address)
        else:
            address = "@drupelet-test-" + secrets.token_hex(8)
            listener.bind("\0" + address[1:])
        yield address, listener


def test_each_state_is_one_datagram(manager: tuple[str, socket.socket]) -> None:
    address, listener = manager
    notifier = Notifier({"NOTIFY_SOCKET": address}, pid=1)
    notifier.ready()
    notifier.status("3 nodes")
    notifier.watchdog()
    notifier.reloading(12)
    notifier.stopping()
    received = [listener.recv(1024) for _ in range(5)]
    notifier.close()
    assert received == [
        b"READY=1",
        b"STATUS=3 nodes",
        b"WATCHDOG=1",
        b"RELOADING=1\nMONOTONIC_USEC=12",
        b"STOPPING=1",
    ]


def test_a_status_stays_one_capped_line(manager: tuple[str, socket.socket]) -> None:
    address, listener = manager
    notifier = Notifier({"NOTIFY_SOCKET": address}, pid=1)
    notifier.status("evil\nMAINPID=1")
    assert listener.recv(1024) == b"STATUS=evil MAINPID=1"
    for count in (notify.STATUS_CHARS_MAX, notify.STATUS_CHARS_MAX + 1):
        notifier.status("x" * count)
        assert listener.recv(1024) == b"STATUS=" + b"x" * notify.STATUS_CHARS_MAX
    notifier.close()


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_a_manager_nothing_happens(environment: dict[str, str]) -> None:
    notifier = Notifier(environment, pid=1)
    notifier.ready()
    notifier.stopping()
    notifier.close()
    notifier.close()
    notifier.ready()


def test_a_manager_that_is_gone_or_deaf_does_not_hold_the_daemon(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    notifier = Notifier({"NOTIFY_SOCKET": address}, pid=1)
    notifier.ready()  # no such socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        for _ in range(100_000):  # its queue is full long before (net.unix.max_dgram_qlen)
            notifier.watchdog()
    notifier.close()


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_interval(environment: dict[str, str], interval_s: float | None) -> None:
    assert Notifier(environment, pid=7).watchdog_interval_s == interval_s


def test_the_socket_is_not_inherited_and_closes(manager: tuple[str, socket.socket]) -> None:
    def sockets() -> set[int]:
        return {
            int(entry.name)
            for entry in Path("/proc/self/fd").iterdir()
            if entry.is_symlink() and os.readlink(entry).startswith("socket:")
        }

    before = sockets()
    notifier = Notifier({"NOTIFY_SOCKET": manager[0]}, pid=1)
    (opened,) = sockets() - before
    assert not os.get_inheritable(opened)
    notifier.close()
    assert sockets() == before
