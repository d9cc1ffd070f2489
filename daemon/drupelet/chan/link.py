"""The socket of one chan: what a middle-man reads and writes.

Decides how long a peer may be silent and how long it may take nothing (CHAN_SILENCE_S,
CHAN_SEND_S), and that any failure of a socket or of the peer's bytes reads the same: the chan is
closed. `come_in` is the guest's side of `wire/guests.py`; the server's is in `server.py`.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from typing import Final

import trio

from drupelet.errors import NoConnection, RemoteProtocolError
from drupelet.wire import limits
from drupelet.wire.chan import ChanStream, Event
from drupelet.wire.guests import Admitted, GuestClient, Secrets

READ_BYTES: Final = 65_536  # two fragments


def fresh_secrets() -> Secrets:
    """For one connection, 32 random bytes each."""
    return Secrets(
        static=secrets.token_bytes(32),
        ephemeral=secrets.token_bytes(32),
        private=secrets.token_bytes(32),
    )


def stream_of(sock: socket.socket) -> trio.SocketStream:
    """A connected socket as a stream, which owns it from here on."""
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


class Link:
    """One connection whose guest is admitted. Owns: `stream`, which `close` closes at once."""

    __slots__ = ("_machine", "_stream", "close")

    def __init__(
        self, stream: trio.abc.Stream, admitted: Admitted, close: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._machine = ChanStream(admitted)
        self.close = close

    async def receive(self) -> list[Event] | None:
        """What came next, perhaps nothing whole yet; None: the peer is gone, or as good as."""
        data = b""
        with trio.move_on_after(limits.CHAN_SILENCE_S):
            try:
                data = bytes(await self._stream.receive_some(READ_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
        if not data:
            return None
        try:
            return self._machine.receive_data(data)
        except RemoteProtocolError:
            return None

    async def send_value(self, value: object) -> bool:
        """Send one value; False: the peer is gone. Raises: `NotSendable`."""
        return await self._send(self._machine.send_value(value))

    async def send_ping(self) -> bool:
        """Say that this side lives; False: the peer is gone."""
        return await self._send(self._machine.send_ping())

    async def send_close(self) -> bool:
        """Say that this side has ended; False: the peer is gone."""
        return await self._send(self._machine.send_close())

    async def _send(self, data: bytes) -> bool:
        with trio.move_on_after(limits.CHAN_SEND_S) as scope:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return False
        return not scope.cancelled_caught


async def come_in(sock: socket.socket, service: str, password: bytes) -> Link:
    """Prove the password over a connected socket. The deadline is the caller's.

    Raises: `AuthFail`, `BadService`, `NoConnection`; the socket is then closed.
    """
    stream = stream_of(sock)
    try:
        machine = GuestClient(service, password, fresh_secrets())
        await _send_or_read_on(stream, machine.start())
        while machine.admitted is None:
            data = await stream.receive_some(READ_BYTES)
            if not data:
                raise NoConnection("closed")
            await _send_or_read_on(stream, machine.receive_data(data))
        return Link(stream, machine.admitted, stream.socket.close)
    except BaseException as error:
        stream.socket.close()
        if isinstance(error, trio.BrokenResourceError):
            raise NoConnection("closed") from None
        if isinstance(error, RemoteProtocolError):  # no chan server, or another version of it
            raise NoConnection("version") from None
        raise


async def _send_or_read_on(stream: trio.SocketStream, data: bytes) -> None:
    """A server that turned us away may be gone already; what it said is still to be read."""
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError:
        await trio.lowlevel.checkpoint()
