"""Accepting links: a loop that no error stops.

Decides nothing about who may come in: each accepted socket is handed to `on_accept`, which admits
it or closes it; when that breaks with the connection itself (`OSError`), only that one is closed,
while anything else it raises is our bug and ends the program. trio re-raises all but four kinds of
error from accept and its `serve_tcp` dies with the first handler that raises; a node must outlive
both, so the loop is ours. Running out of descriptors (EMFILE) waits, with back-off, for some to
come free.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Final

import trio

_BACKOFF_FIRST_S: Final = 0.01
_BACKOFF_LAST_S: Final = 1.0
_ACCEPTS_PER_PASS: Final = 64  # then others get their turn
# accept(2), "Error handling": the connection that waited broke; the next one may be good.
_OF_THE_PEER: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.EPERM,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
    }
)


class Listener:
    """Listening sockets of one service. Owns: the sockets, one task for each."""

    def __init__(
        self, sockets: list[socket.socket], on_accept: Callable[[socket.socket, str], None]
    ) -> None:
        self._sockets = sockets
        self._on_accept = on_accept
        self.failed_count = 0
        for each in sockets:
            each.setblocking(False)

    async def run(self) -> None:
        """Accept for ever. Cancellation: the sockets are closed."""
        try:
            async with trio.open_nursery() as nursery:
                for each in self._sockets:
                    nursery.start_soon(self._accept_on, each)
        finally:
            self.close()

    def close(self) -> None:
        """Stop accepting. Twice does no harm."""
        for each in self._sockets:
            if each.fileno() != -1:
                trio.lowlevel.notify_closing(each)  # the number may be another socket's next
                each.close()

    async def _accept_on(self, listening: socket.socket) -> None:
        backoff_s = _BACKOFF_FIRST_S
        while listening.fileno() != -1:  # a node may be stopped before this task first runs
            try:
                await trio.lowlevel.wait_readable(listening)
                self._accept_some(listening)
                backoff_s = _BACKOFF_FIRST_S
            except trio.ClosedResourceError:
                return
            except OSError:
                if listening.fileno() == -1:
                    return  # closed by `close`
                self.failed_count += 1
                await trio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _BACKOFF_LAST_S)

    def _accept_some(self, listening: socket.socket) -> None:
        """Accept what waits. Raises: `OSError` when accepting fails for now."""
        for _ in range(_ACCEPTS_PER_PASS):
            try:
                accepted, address = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OF_THE_PEER:
                    continue
                raise
            try:
                self._on_accept(accepted, str(address[0]) if address else "")
            except OSError:  # its connection broke meanwhile; ours to give up, nobody else's
                self.failed_count += 1
                accepted.close()
