"""Dialling: a TCP connection to an address, or the reason why there is none.

Decides how an operating system's error reads to a caller: `no_route` (no such host, unreachable,
timed out), `port_closed` (refused) or `overloaded` (accepted and reset at once, which is how our
nodes turn strangers away at the door; it may show before the first byte is sent). Knows no policy:
whom to dial and when is `core/membership`.
"""

from __future__ import annotations

import socket
from typing import Final

import trio

from drupelet.errors import NoConnection
from drupelet.net.channel import tune_tcp

DIAL_S: Final = 1.5  # so that a caller hears of a dead host within 2 s


async def dial(host: str, port: int, *, timeout_s: float = DIAL_S) -> socket.socket:
    """A connected, tuned, non-blocking socket.

    `host` is a literal address or a name; every address of a name is tried in turn.
    Raises: `NoConnection` with reason `no_route`, `port_closed` or `overloaded`.
    """
    reason = "no_route"
    with trio.move_on_after(timeout_s):
        try:
            addresses = await _resolve(host, port)
        except OSError:
            raise NoConnection("no_route") from None
        for family, address in addresses:
            try:
                return await _connect(family, address)
            except ConnectionRefusedError:
                reason = "port_closed"
            except ConnectionResetError:
                reason = "overloaded"
            except OSError:
                continue
    raise NoConnection(reason)


async def _resolve(host: str, port: int) -> list[tuple[int, object]]:
    flags = socket.AI_NUMERICHOST
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except OSError:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


async def _connect(family: int, address: object) -> socket.socket:
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect(address)
    except BaseException:
        sock.close()
        raise
    plain = socket.socket(fileno=sock.detach())
    plain.setblocking(False)
    try:
        tune_tcp(plain)
    except OSError:
        plain.close()
        raise
    return plain
