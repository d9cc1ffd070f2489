"""Own addresses: what another machine can dial."""

from __future__ import annotations

import ipaddress
import socket
from types import SimpleNamespace

import psutil  # type: ignore[import-untyped]
import pytest

from drupelet.services.own_addresses import own_addresses


def address(family: int, text: str) -> SimpleNamespace:
    return SimpleNamespace(family=family, address=text)


def test_loopback_link_local_and_dead_interfaces_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    four, six = socket.AF_INET, socket.AF_INET6
    interfaces = {
        "lo": [address(four, "127.0.0.1"), address(six, "::1")],
        "eth0": [
            address(four, "192.168.1.7"),
            address(six, "fe80::1%eth0"),
            address(six, "fd00::7"),
            address(socket.AF_PACKET, "aa:bb:cc:dd:ee:ff"),
        ],
        "wlan0": [address(four, "10.0.0.9")],
        "usb0": [address(four, "169.254.3.4")],
    }
    states = {name: SimpleNamespace(isup=name != "wlan0") for name in interfaces}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: states)
    assert own_addresses(4) == ["192.168.1.7"]
    assert own_addresses(6) == ["fd00::7"]


def test_this_machine() -> None:
    for each in (*own_addresses(4), *own_addresses(6)):
        assert not ipaddress.ip_address(each).is_loopback
