"""The handshake over a socket: drives the sans-IO machine of `wire/handshake.py`.

Decides how silence reads: a node that accepts and closes right after our first message has another
cookie (DESIGN 4), so the dialling side raises `HandshakeRefused("bad_cookie")`. The answering side
says nothing to anyone who cannot prove the cookie. Deadlines are the caller's.
"""

from __future__ import annotations

import socket
from typing import Final

import trio

from drupelet.wire.handshake import Established, HandshakeRefused, Initiator, Responder

_READ_BYTES: Final = 4_096  # two handshake messages


async def initiate(sock: socket.socket, machine: Initiator) -> Established:
    """Handshake as the side that dialled.

    Raises: `HandshakeRefused`, `RemoteProtocolError`.
    """
    await _send_all(sock, machine.start())
    heard = False
    while machine.established is None:
        data = await _receive_some(sock)
        if not data:
            raise HandshakeRefused("closed" if heard else "bad_cookie")
        heard = True
        await _send_all(sock, machine.receive_data(data))
    return machine.established


async def respond(sock: socket.socket, machine: Responder) -> Established:
    """Handshake as the side that accepted. Raises: `RemoteProtocolError`, `HandshakeRefused`."""
    while machine.established is None:
        data = await _receive_some(sock)
        if not data:
            raise HandshakeRefused("closed")
        try:
            answer = machine.receive_data(data)
        except Exception as error:
            farewell: bytes = getattr(error, "farewell", b"")
            if farewell:
                await _send_all(sock, farewell)
            raise
        await _send_all(sock, answer)
    return machine.established


async def _receive_some(sock: socket.socket) -> bytes:
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            return sock.recv(_READ_BYTES)
        except BlockingIOError:
            continue
        except OSError:  # a reset: turned away at the door, nothing was said of our cookie
            raise HandshakeRefused("overloaded") from None


async def _send_all(sock: socket.socket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
        except OSError:
            raise HandshakeRefused("overloaded") from None
