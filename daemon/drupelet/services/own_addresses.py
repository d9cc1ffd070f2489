"""Own addresses: where others on the network can find this machine.

Decides which addresses of the interfaces are worth telling somebody: those that another machine can
dial as they stand. Loopback and link-local ones are not (fe80:: needs the number of the *dialling*
machine's interface); neither are those of interfaces that are down.
"""

from __future__ import annotations

import ipaddress
import socket

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def own_addresses(version: int) -> list[str]:
    """IPv4 (4) or IPv6 (6) addresses of this machine, in the interfaces' order."""
    import psutil  # type: ignore[import-untyped]  # 2 MB, for who issues a grant only

    up = {name for name, status in psutil.net_if_stats().items() if status.isup}
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        for each in addresses:
            if name in up and each.family == _FAMILIES[version]:
                address = ipaddress.ip_address(each.address.partition("%")[0])
                if not (address.is_loopback or address.is_link_local):
                    found.append(str(address))
    return found
