"""Asking a port mapper, ours or Erlang's: look a name up, list the names, hold a name.

Decides how long to wait and how a failure is named; every function ends by `timeout_s`.

- `NoConnection("no_route")`: the host's name has no address, or no address of it was reached.
- `NoConnection("no_mapper")`: the host answered, but nothing that speaks EPMD on that port.
- A look-up that gives None: *not_registered*. The words are those of `errors.REASONS`.
- All addresses of a host are tried, in the resolver's order, each with its share of the time, so
  that a dead IPv6 address does not eat the look-up. The last failure decides; `no_mapper` is worth
  more than `no_route`.

Reference: `erl_epmd` of Erlang/OTP. Ideas rejected: trio.open_tcp_stream (it folds errno into one
text, so refused and unreachable look alike); keeping a connection for look-ups (the protocol
closes it).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Final, TypeVar

import trio

from drupelet.errors import DrupeletError, LocalProtocolError, NoConnection, RemoteProtocolError
from drupelet.wire import epmd, limits
from drupelet.wire.epmd import MapperEntry

PORT_DEFAULT: Final = 4369
TIMEOUT_S_DEFAULT: Final = 2.0  # a caller is told what is wrong within 2 s
_ADDRESSES_MAX: Final = 8  # of one host; more is a resolver gone mad
_RECEIVE_BYTES: Final = 65_536
_SMALL_ANSWER_BYTES_MAX: Final = 1_024  # PORT2_RESP with a name and an extra field of 255 bytes

_Answer = TypeVar("_Answer")


class NameTaken(DrupeletError):
    """A living node holds the name in that port mapper. `port`: that node's, 0 when not known."""

    def __init__(self, name: str, host: str, mapper_port: int, port: int = 0) -> None:
        holder = f"a node on port {port}" if port else "another node"
        super().__init__(
            f"the name {name!r} is taken in the port mapper at {host} port {mapper_port} "
            f"by {holder}; stop that node or give this one another [node] name"
        )
        self.name = name
        self.port = port


class Registration:
    """A name in a port mapper, held as long as this connection is open.

    `creation`: the number by which the mapper tells this incarnation of the name from others.
    """

    def __init__(self, name: str, creation: int, sock: trio.socket.SocketType) -> None:
        self.name = name
        self.creation = creation
        self._sock = sock

    async def wait_lost(self) -> None:
        """Return when the mapper has gone, or has closed the connection for another reason."""
        try:
            while await self._sock.recv(_RECEIVE_BYTES):
                pass  # nothing is due; a mapper that talks on is still there
        except OSError:
            pass

    def close(self) -> None:
        """Give the name back."""
        self._sock.close()


async def lookup(
    host: str, name: str, *, port: int = PORT_DEFAULT, timeout_s: float = TIMEOUT_S_DEFAULT
) -> MapperEntry | None:
    """What the port mapper on `host` knows of `name` (the part before the @); None: nothing.

    Raises: `NoConnection` with reason ``no_route`` or ``no_mapper``.
    """
    try:
        request = epmd.look_up_request(name)
    except LocalProtocolError:
        return None  # a person's typing; no mapper can hold it

    def parse(data: bytes, ended: bool) -> epmd.Found | None:
        return epmd.parse_look_up_response(data)

    found, sock = await _ask(host, port, request, parse, _SMALL_ANSWER_BYTES_MAX, timeout_s)
    sock.close()
    if found.entry is not None and found.entry.name != name:
        raise NoConnection("no_mapper")
    return found.entry


async def names(
    host: str, *, port: int = PORT_DEFAULT, timeout_s: float = TIMEOUT_S_DEFAULT
) -> list[tuple[str, int]]:
    """(name, port) of every node in the port mapper on `host`. Raises: as `lookup`."""

    def parse(data: bytes, ended: bool) -> list[tuple[str, int]] | None:
        return epmd.parse_names_response(data) if ended else None

    request = epmd.plain_request(epmd.NAMES_REQUEST)
    listed, sock = await _ask(host, port, request, parse, limits.MAPPER_ANSWER_BYTES_MAX, timeout_s)
    sock.close()
    return listed


async def register(
    host: str,
    entry: MapperEntry,
    *,
    port: int = PORT_DEFAULT,
    timeout_s: float = TIMEOUT_S_DEFAULT,
) -> Registration:
    """Hold `entry.name` in the port mapper on `host`, which must be this machine.

    Raises: `NameTaken`; `NoConnection` as `lookup`; `LocalProtocolError` for a bad entry.
    """
    request = epmd.register_request(entry)

    def parse(data: bytes, ended: bool) -> epmd.Registered | None:
        return epmd.parse_register_response(data)

    answer, sock = await _ask(host, port, request, parse, _SMALL_ANSWER_BYTES_MAX, timeout_s)
    if answer.creation is not None:
        return Registration(entry.name, answer.creation, sock)
    sock.close()
    try:
        holder = await lookup(host, entry.name, port=port, timeout_s=timeout_s)
    except NoConnection:
        holder = None
    raise NameTaken(entry.name, host, port, 0 if holder is None else holder.port)


async def _ask(
    host: str,
    port: int,
    request: bytes,
    parse: Callable[[bytes, bool], _Answer | None],
    answer_bytes_max: int,
    timeout_s: float,
) -> tuple[_Answer, trio.socket.SocketType]:
    """One request to the first address of `host` that gives a sound answer."""
    started = trio.current_time()
    reason = "no_route"
    with trio.move_on_at(started + timeout_s):
        try:
            addresses = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError, OverflowError):  # no such host; odd characters; odd port
            addresses = []
        addresses = addresses[:_ADDRESSES_MAX]
        for index, (family, kind, protocol, _, address) in enumerate(addresses):
            left = len(addresses) - index
            now = trio.current_time()
            with trio.move_on_at(now + (started + timeout_s - now) / left):
                sock = trio.socket.socket(family, kind, protocol)
                kept = False
                try:
                    await sock.connect(address)
                    reason = "no_mapper"
                    answer = await _exchange(sock, request, parse, answer_bytes_max)
                    kept = True
                    return answer, sock
                except (OSError, RemoteProtocolError) as error:
                    if getattr(error, "errno", None) == errno.ECONNREFUSED:
                        reason = "no_mapper"
                finally:
                    if not kept:
                        sock.close()
    raise NoConnection(reason)


async def _exchange(
    sock: trio.socket.SocketType,
    request: bytes,
    parse: Callable[[bytes, bool], _Answer | None],
    answer_bytes_max: int,
) -> _Answer:
    """Send and read until `parse` is content. Raises: `OSError`, `RemoteProtocolError`."""
    await sock.send(request)  # at most 525 bytes on a fresh connection: they fit
    parts: list[bytes] = []
    size = 0
    while True:
        data = await sock.recv(_RECEIVE_BYTES)
        size += len(data)
        if size > answer_bytes_max:
            raise RemoteProtocolError("answer of a port mapper too long")
        parts.append(data)
        if data and answer_bytes_max > _SMALL_ANSWER_BYTES_MAX:
            continue  # a list is parsed once, when it has ended
        answer = parse(b"".join(parts), not data)
        if answer is not None:
            return answer
        if not data:
            raise RemoteProtocolError("the port mapper closed without an answer")
