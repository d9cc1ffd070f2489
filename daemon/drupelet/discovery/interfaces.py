"""Which interfaces and addresses this machine has, and when they change.

Decides what counts: interfaces that are up, can multicast and are not the loopback; addresses that
are settled (not tentative, not failed, not deprecated) and, for IPv6, not temporary: a privacy
address would be stale within a day.

Both the list and the news come from one netlink socket each (rtnetlink(7)); between changes this
costs nothing at all. Rejected: looking every 5 s (psutil or ifaddr: 0.4 ms each time, and a wake-up
of the processor), ifaddr (it does not tell tentative addresses; zeroconf then cannot bind them and
leaves IPv6 out until the next change).
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from drupelet.wire import limits

ADDRESSES_MAX: Final = 256  # of this machine; containers bring many
_DUMP_BYTES_MAX: Final = 1_048_576  # the whole answer of the kernel
_DUMP_S: Final = 2.0  # the kernel answers at once; a wait needs an end all the same

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ADDRESS: Final = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ATTRIBUTE: Final = struct.Struct("=HH")  # rtattr: length, type
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_NLM_F_REQUEST_DUMP: Final = 0x301
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_FLAGS: Final = 8
_IFA_F_TEMPORARY: Final = 0x01  # the same bit means "secondary" for IPv4
_IFA_F_UNSETTLED: Final = 0x08 | 0x20 | 0x40  # DAD failed, deprecated, tentative
_RTMGRP: Final = 0x1 | 0x10 | 0x100  # LINK, IPV4_IFADDR, IPV6_IFADDR

_SIOCGIFFLAGS: Final = 0x8913
_IFF_UP: Final = 0x1
_IFF_LOOPBACK: Final = 0x8
_IFF_RUNNING: Final = 0x40  # has a carrier
_IFF_MULTICAST: Final = 0x1000


@dataclass(frozen=True, slots=True)
class Address:
    """One settled address of the interface number `index`; `text` without scope."""

    index: int
    text: str

    @property
    def is_ipv6(self) -> bool:
        """Whether the address is an IPv6 one."""
        return ":" in self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where to speak and what to say there.

    `speak`: one address per interface and family, as zeroconf wants them; `advertise`: what peers
    may dial; `interfaces`: names, for people.
    """

    speak: tuple[str, ...] = ()
    advertise: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()


def make_plan(
    usable: dict[int, str],
    addresses: list[Address],
    listen: tuple[str, ...],
    wanted: tuple[str, ...],
) -> Plan:
    """Choose among what the machine has.

    `usable`: index -> name of the interfaces that can multicast; `listen`: the daemon's addresses
    ("0.0.0.0" and "::" for all); `wanted`: interface names or addresses, empty for all.
    """
    mine = [address for address in addresses if address.index in usable]
    if wanted:
        indexes = {a.index for a in mine if a.text in wanted or usable[a.index] in wanted}
        mine = [address for address in mine if address.index in indexes]
    indexes_used = sorted({address.index for address in mine})[: limits.DISCOVERY_INTERFACES_MAX]
    speak: list[str] = []
    for index in indexes_used:
        of_interface = [address for address in mine if address.index == index]
        speak += [a.text for a in of_interface if not a.is_ipv6][:1]
        speak += [a.text for a in of_interface if _is_link_local6(a)][:1]
    offered = [a for a in mine if a.index in indexes_used and _is_listened(a, listen)]
    offered.sort(key=lambda address: (address.is_ipv6, _is_link_local6(address), address.index))
    texts = dict.fromkeys(address.text for address in offered)
    return Plan(
        speak=tuple(speak),
        advertise=tuple(texts)[: limits.SERVICE_ADDRESSES_MAX],
        interfaces=tuple(usable[index] for index in indexes_used),
    )


def current_plan(listen: tuple[str, ...], wanted: tuple[str, ...]) -> Plan:
    """`make_plan` for this machine, now. Raises: `OSError`."""
    return make_plan(_usable_interfaces(), _addresses(), listen, wanted)


def watch() -> socket.socket:
    """A socket that becomes readable when links or addresses change. Raises: `OSError`."""
    news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    news.setblocking(False)
    news.bind((0, _RTMGRP))
    return news


def drain(news: socket.socket) -> None:
    """Forget the news that came; the caller looks at everything again anyway."""
    for _ in range(1_024):  # a bound; what is left makes the socket readable again
        try:
            if not news.recv(65_536):
                return
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # ENOBUFS: some news were lost; we look anyway
                raise


def parse_addresses(data: bytes) -> tuple[list[Address], bool]:
    """The settled addresses in one piece of the kernel's answer, and whether it was the last.

    Raises: `ValueError` when the answer is an error or malformed.
    """
    found: list[Address] = []
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data, position)
        if length < _HEADER.size or position + length > len(data):
            raise ValueError("netlink message cut off")
        if kind == _NLMSG_DONE:
            return found, True
        if kind == _NLMSG_ERROR:
            raise ValueError("netlink refused the request")
        if kind == _RTM_NEWADDR:
            address = _parse_address(data[position + _HEADER.size : position + length])
            if address is not None:
                found.append(address)
        position += (length + 3) & ~3
    return found, False


def _parse_address(message: bytes) -> Address | None:
    if len(message) < _ADDRESS.size:
        raise ValueError("netlink address cut off")
    family, _prefix, flags, _scope, index = _ADDRESS.unpack_from(message)
    attributes = dict(_attributes(message[_ADDRESS.size :]))
    if len(attributes.get(_IFA_FLAGS, b"")) == 4:
        flags = int.from_bytes(attributes[_IFA_FLAGS], sys.byteorder)
    raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS) or b""
    if flags & _IFA_F_UNSETTLED:
        return None
    if family == socket.AF_INET and len(raw) == 4:
        return Address(index, socket.inet_ntop(socket.AF_INET, raw))
    if family == socket.AF_INET6 and len(raw) == 16 and not flags & _IFA_F_TEMPORARY:
        return Address(index, socket.inet_ntop(socket.AF_INET6, raw))
    return None


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if length < _ATTRIBUTE.size or position + length > len(data):
            raise ValueError("netlink attribute cut off")
        yield kind, data[position + _ATTRIBUTE.size : position + length]
        position += (length + 3) & ~3


def _is_link_local6(address: Address) -> bool:
    return address.is_ipv6 and ipaddress.ip_address(address.text).is_link_local


def _is_listened(address: Address, listen: tuple[str, ...]) -> bool:
    return ("::" if address.is_ipv6 else "0.0.0.0") in listen or address.text in listen


def _addresses() -> list[Address]:
    found: list[Address] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as kernel:
        kernel.settimeout(_DUMP_S)
        kernel.bind((0, 0))
        body = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        length = _HEADER.size + len(body)
        kernel.send(_HEADER.pack(length, _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0) + body)
        byte_count = 0
        is_last = False
        while not is_last and byte_count < _DUMP_BYTES_MAX:
            data = kernel.recv(65_536)
            byte_count += len(data)
            try:
                piece, is_last = parse_addresses(data)
            except ValueError as error:
                raise OSError(errno.EPROTO, str(error)) from None
            found += piece
    return found[:ADDRESSES_MAX]


def _usable_interfaces() -> dict[int, str]:
    usable: dict[int, str] = {}
    wanted_flags = _IFF_UP | _IFF_RUNNING | _IFF_MULTICAST
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        for index, name in socket.if_nameindex():
            request = struct.pack("16s24x", name.encode())
            try:
                answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
            except OSError:
                continue  # it went away just now
            flags = struct.unpack_from("=H", answer, 16)[0]
            if flags & wanted_flags == wanted_flags and not flags & _IFF_LOOPBACK:
                usable[index] = name
    return usable
