"""Listening sockets: one on a given port, or one port out of a pool.

Decides only which port of `port_min..port_max` is free on all the addresses; what is done with the
sockets is the caller's affair. They are non-blocking, close-on-exec and listening.

- The lowest free port is taken, so that a node that starts first always has the same one and
  `peers = ["bilbo@192.168.1.7:4370"]` stays true.
- A port counts as free when *every* address that exists on this machine takes it. An address of a
  family that the kernel does not have (no IPv6) is left out, as long as one remains.
- IPv6 sockets are IPv6 only, so that `::` and `0.0.0.0` can be had side by side.
- SO_REUSEADDR: after a restart the port is free although old connections are in TIME_WAIT. On
  Linux it does not let two sockets listen on one port; the loser may learn it in `listen` only.

Reference: ip(7), socket(7), ipv6(7). Idea rejected: trio.open_tcp_listeners, which binds a
different ephemeral port for each address and cannot search a pool.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from drupelet.errors import ConfigError

BACKLOG_DEFAULT: Final = 128  # connections that wait for accept; links are few and last long
_EPHEMERAL_TRIES: Final = 16  # port 0 on several addresses: the first one's choice may be taken
_NO_SUCH_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL})


@dataclass(frozen=True, slots=True)
class BoundPort:
    """A port and the sockets that listen on it, one per address."""

    port: int
    sockets: tuple[socket.socket, ...]

    def close(self) -> None:
        """Close every socket."""
        for listener in self.sockets:
            listener.close()


def open_listener(address: str, port: int, *, backlog: int = BACKLOG_DEFAULT) -> socket.socket:
    """A socket that listens on a numeric IPv4 or IPv6 address.

    Raises: `OSError` (EADDRINUSE: taken); `ConfigError` when `address` is not an address.
    """
    try:
        found = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError):
        raise ConfigError(
            f"{address!r} is not an IPv4 or IPv6 address",
            mend='write numbers, such as "127.0.0.1", "0.0.0.0" or "::"',
            key="listen",
        ) from None
    family, kind, protocol, _, where = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(where)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def open_on_all(
    addresses: Sequence[str], port: int, *, backlog: int = BACKLOG_DEFAULT
) -> BoundPort:
    """Listen on one port of every address that this machine has; all of them or none.

    `port` 0: the first address chooses. Raises: `OSError` of the address that failed (its
    `filename` is that address), EADDRNOTAVAIL when none of them exists; `ConfigError`.
    """
    with contextlib.ExitStack() as undo:
        sockets: list[socket.socket] = []
        missing: OSError | None = None
        for address in addresses:
            try:
                listener = open_listener(address, port, backlog=backlog)
            except OSError as error:
                error.filename = address
                if error.errno not in _NO_SUCH_FAMILY:
                    raise
                missing = error
                continue
            undo.callback(listener.close)
            sockets.append(listener)
            port = listener.getsockname()[1]
        if not sockets:
            raise missing or OSError(errno.EADDRNOTAVAIL, "no address to listen on")
        undo.pop_all()
        return BoundPort(port, tuple(sockets))


def open_from_pool(
    addresses: Sequence[str], port_min: int, port_max: int, *, backlog: int = BACKLOG_DEFAULT
) -> BoundPort:
    """Listen on the lowest port of `port_min..port_max` that is free on all addresses.

    0..0 leaves the choice to the kernel, for tests. Raises: `ConfigError` naming the range when it
    is used up, or what else is wrong.
    """
    if port_min == 0 == port_max:
        return _open_ephemeral(addresses, backlog)
    taken: OSError | None = None
    for port in range(port_min, port_max + 1):
        try:
            return open_on_all(addresses, port, backlog=backlog)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise _cannot_listen(error) from error
            taken = error
    named = f"{port_min}-{port_max}" if port_max > port_min else str(port_min)
    if taken is not None and taken.errno == errno.EACCES:
        raise ConfigError(
            f"no right to listen on the link ports {named}",
            mend="use ports from 1024 up",
            key="link.port_min",
        ) from taken
    raise ConfigError(
        f"all link ports {named} are taken",
        mend="stop a node of this machine, or widen [link] port_min..port_max",
        key="link.port_max",
    )


def _open_ephemeral(addresses: Sequence[str], backlog: int) -> BoundPort:
    for attempt in range(_EPHEMERAL_TRIES):
        try:
            return open_on_all(addresses, 0, backlog=backlog)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or attempt == _EPHEMERAL_TRIES - 1:
                raise _cannot_listen(error) from error
    raise AssertionError("unreachable")


def _cannot_listen(error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot listen on {error.filename or 'any address'}: {error.strerror}",
        mend='give an address of this machine, or "0.0.0.0" and "::" for all',
        key="link.listen",
    )
