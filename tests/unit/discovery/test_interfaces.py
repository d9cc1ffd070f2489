"""Addresses from netlink messages, and the plan that is made of them."""

from __future__ import annotations

import random
import socket
import struct

import pytest

from drupelet.discovery import interfaces
from drupelet.discovery.interfaces import Address, Plan, make_plan
from drupelet.wire import limits

ALL = ("0.0.0.0", "::")
ETH, WLAN = 2, 3
USABLE = {ETH: "eth0", WLAN: "wlan0"}
PI = [
    Address(1, "127.0.0.1"),
    Address(ETH, "192.168.1.7"),
    Address(ETH, "192.168.1.8"),
    Address(WLAN, "192.168.1.9"),
    Address(ETH, "fd00::7"),
    Address(ETH, "fe80::7"),
    Address(WLAN, "fe80::9"),
    Address(9, "172.17.0.1"),
]


def message(kind: int, body: bytes) -> bytes:
    padded = body.ljust((len(body) + 3) & ~3, b"\0")
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + padded


def new_address(text: str, index: int, *, flags: int = 0, wide_flags: int | None = None) -> bytes:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    raw = socket.inet_pton(family, text)
    body = struct.pack("=BBBBI", family, 24, flags, 0, index)
    body += struct.pack("=HH", 4 + len(raw), 1) + raw
    if wide_flags is not None:
        body += struct.pack("=HHI", 8, 8, wide_flags)
    return message(20, body)


def test_addresses_of_a_dump() -> None:
    data = new_address("10.0.0.1", 2) + new_address("fe80::1", 3) + message(3, b"\0" * 4)
    assert interfaces.parse_addresses(data) == (
        [Address(2, "10.0.0.1"), Address(3, "fe80::1")],
        True,
    )


@pytest.mark.parametrize("flag", [0x08, 0x20, 0x40], ids=["failed", "deprecated", "tentative"])
def test_addresses_that_are_not_settled_are_left_out(flag: int) -> None:
    assert interfaces.parse_addresses(new_address("fe80::1", 3, flags=flag)) == ([], False)
    data = new_address("fe80::1", 3, wide_flags=flag | 0x100)
    assert interfaces.parse_addresses(data) == ([], False)


def test_temporary_ipv6_is_left_out_but_secondary_ipv4_is_not() -> None:
    assert interfaces.parse_addresses(new_address("2001:db8::1", 3, flags=1)) == ([], False)
    assert interfaces.parse_addresses(new_address("10.0.0.2", 3, flags=1))[0]


def test_malformed_answers_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="refused"):
        interfaces.parse_addresses(message(2, b"\0" * 20))
    source = random.Random(seed)
    whole = new_address("10.0.0.1", 2) + new_address("fe80::1", 3, wide_flags=0x80)
    for _ in range(2_000):
        data = bytearray(whole[: source.randrange(len(whole) + 1)])
        for _ in range(source.randrange(3)):
            if data:
                data[source.randrange(len(data))] = source.randrange(256)
        try:
            interfaces.parse_addresses(bytes(data))
        except ValueError:
            continue


def test_plan_of_a_pi_with_two_interfaces() -> None:
    assert make_plan(USABLE, PI, ALL, ()) == Plan(
        speak=("192.168.1.7", "fe80::7", "192.168.1.9", "fe80::9"),
        advertise=(
            "192.168.1.7",
            "192.168.1.8",
            "192.168.1.9",
            "fd00::7",
            "fe80::7",
            "fe80::9",
        ),
        interfaces=("eth0", "wlan0"),
    )


def test_plan_without_a_network_is_empty() -> None:
    assert make_plan({}, PI, ALL, ()) == Plan()
    assert make_plan(USABLE, [], ALL, ()) == Plan()


@pytest.mark.parametrize("wanted", ["wlan0", "192.168.1.9", "fe80::9"])
def test_plan_on_a_chosen_interface(wanted: str) -> None:
    plan = make_plan(USABLE, PI, ALL, (wanted,))
    assert plan.interfaces == ("wlan0",)
    assert plan.advertise == ("192.168.1.9", "fe80::9")


def test_plan_advertises_what_is_listened_on() -> None:
    assert make_plan(USABLE, PI, ("0.0.0.0",), ()).advertise == (
        "192.168.1.7",
        "192.168.1.8",
        "192.168.1.9",
    )
    assert make_plan(USABLE, PI, ("192.168.1.9",), ()).advertise == ("192.168.1.9",)
    only_browse = make_plan(USABLE, PI, ("127.0.0.1",), ())
    assert only_browse.advertise == () and only_browse.speak


def test_plan_is_bounded() -> None:
    count = limits.DISCOVERY_INTERFACES_MAX + 1
    many = {index: f"eth{index}" for index in range(count)}
    plan = make_plan(many, [Address(index, f"10.0.0.{index}") for index in many], ALL, ())
    assert len(plan.interfaces) == len(plan.speak) == limits.DISCOVERY_INTERFACES_MAX
    assert len(plan.advertise) == limits.SERVICE_ADDRESSES_MAX


def test_this_machine_has_a_plan_without_its_loopback() -> None:
    plan = interfaces.current_plan(ALL, ())
    assert "127.0.0.1" not in plan.speak and "lo" not in plan.interfaces
    with interfaces.watch() as news:
        interfaces.drain(news)
