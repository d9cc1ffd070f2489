from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from drupelet.net import notify


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """A service manager's socket, named by NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        if request.param == "path":
            address = str(tmp_path / "notify")
            listener.bind(address)
        else:
            address = "@drupelet-test-" + secrets.token_hex(8)
            listener.bind("\0" + address[1:])
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield listener


def test_each_state_is_one_datagram(manager: socket.socket) -> None:
    notify.ready()
    notify.ready("gandalf on port 4370")
    notify.status("3 nodes")
    notify.watchdog()
    notify.reloading(12)
    notify.stopping()
    assert [manager.recv(1024) for _ in range(6)] == [
        b"READY=1",
        b"READY=1\nSTATUS=gandalf on port 4370",
        b"STATUS=3 nodes",
        b"WATCHDOG=1",
        b"RELOADING=1\nMONOTONIC_USEC=12",
        b"STOPPING=1",
    ]


def test_a_status_stays_one_capped_line(manager: socket.socket) -> None:
    notify.status("evil\nMAINPID=1")
    assert manager.recv(1024) == b"STATUS=evil MAINPID=1"
    notify.ready("evil\nMAINPID=1")
    assert manager.recv(1024) == b"READY=1\nSTATUS=evil MAINPID=1"
    for count in (notify.STATUS_CHARS_MAX, notify.STATUS_CHARS_MAX + 1):
        notify.status("x" * count)
        assert manager.recv(1024) == b"STATUS=" + b"x" * notify.STATUS_CHARS_MAX


@pytest.mark.parametrize("address", [None, "", "@", "vsock:2:1", "relative"])
def test_without_a_manager_nothing_happens(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> socket.socket:
        raise AssertionError("a socket was opened")

    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setattr(socket, "socket", refuse)
    notify.ready("x")
    notify.stopping()


def test_a_manager_that_is_gone_or_deaf_does_not_hold_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify.ready()  # no such socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        for _ in range(2_000):  # its queue is full long before (net.unix.max_dgram_qlen)
            notify.watchdog()
        listener.setblocking(False)
        received = 0
        while True:
            try:
                listener.recv(64)
            except BlockingIOError:
                break
            received += 1
    assert 0 < received < 2_000


def test_no_socket_stays_open(manager: socket.socket) -> None:
    before = os.listdir("/proc/self/fd")
    notify.ready()
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_interval(
    environment: dict[str, str], interval_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert notify.watchdog_interval_s() == interval_s
