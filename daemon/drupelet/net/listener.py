"""Accepting links: a loop that no error stops.

Decides nothing about who may come in: each accepted socket is handed to `on_accept`, which admits
it or closes it. trio re-raises all but four kinds of error from accept and its `serve_tcp` dies
with the first handler that raises; a node must outlive both, so the loop is ours. Running out of
descriptors (EMFILE) waits, with back-off, for some to come free.
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
        """Stop accepting."""
        for each in self._sockets:
            each.close()

    async def _accept_on(self, listening: socket.socket) -> None:
        backoff_s = _BACKOFF_FIRST_S
        while True:
            try:
                await trio.lowlevel.wait_readable(listening)
                for _ in range(_ACCEPTS_PER_PASS):
                    accepted, address = listening.accept()
                    backoff_s = _BACKOFF_FIRST_S
                    self._on_accept(accepted, str(address[0]) if address else "")
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno in (errno.EBADF, errno.ENOTSOCK):
                    return  # closed by `close`
                self.failed_count += 1
                await trio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _BACKOFF_LAST_S)
            except trio.ClosedResourceError:
                return
