"""The control socket: clients of this node, on its Unix socket.

Decides who is the operator: whoever may open the socket (mode 0660, the daemon's group). Each
client is an endpoint like any link, with the ring "operator"; its calls go through the same door.

Owns: the socket file, one task per client. Cancellation: clients are cut, the file is removed.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Final

import trio

from drupelet import __version__
from drupelet.errors import ConfigError, NoConnection, RemoteProtocolError
from drupelet.net.channel import Channel, Flusher
from drupelet.net.listener import Listener
from drupelet.services.deadlines import Deadlines
from drupelet.services.endpoint import Endpoint, Router
from drupelet.wire import frames
from drupelet.wire.codec import dumps, loads_control
from drupelet.wire.limits import CLIENTS_MAX

PROTOCOL_VERSION: Final = 1
_SOCKET_MODE: Final = 0o660


class Control:
    """The Unix socket of one node."""

    def __init__(
        self,
        path: Path,
        router: Router,
        flusher: Flusher,
        deadlines: Deadlines,
        *,
        name: str,
        key: str,
    ) -> None:
        self._path = path
        self._router = router
        self._flusher = flusher
        self._deadlines = deadlines
        self._hello = dumps(
            {
                "role": "daemon",
                "version": PROTOCOL_VERSION,
                "name": name,
                "key": key,
                "software": __version__,
            }
        )
        self._listener: Listener | None = None
        self._nursery: trio.Nursery | None = None
        self.clients: set[Endpoint] = set()
        self._accepted = 0  # they, and those whose task has not run yet
        self.refused_count = 0

    def open(self) -> None:
        """Bind the socket. Raises: `ConfigError` when another daemon has it."""
        self._listener = Listener([_bind(self._path)], self._on_accept)

    async def run(self) -> None:
        """Serve clients for ever."""
        if self._listener is None:
            return  # stopped before it ran
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self._listener.run()
        finally:
            self.stop_accepting()

    def stop_accepting(self) -> None:
        """Shutdown begins: no new clients. The socket file goes now and once: a successor may bind
        the same path while we still drain."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self._path.unlink(missing_ok=True)

    def _on_accept(self, accepted: socket.socket, address: str) -> None:
        if self._accepted >= CLIENTS_MAX or self._nursery is None:
            self.refused_count += 1
            accepted.close()
            return
        self._accepted += 1
        self._nursery.start_soon(self._serve, accepted)

    async def _serve(self, accepted: socket.socket) -> None:
        channel = Channel(accepted, self._flusher)
        endpoint = Endpoint(channel, self._router, self._deadlines, opener=False, ring="operator")
        endpoint.on_hello = _check_hello
        self.clients.add(endpoint)
        channel.queue(frames.frame(frames.HELLO, 0, self._hello))
        try:
            await endpoint.run()
        except RemoteProtocolError:
            self.refused_count += 1
        finally:
            self.clients.discard(endpoint)
            self._accepted -= 1
            endpoint.close(NoConnection("closed"))


def _check_hello(body: bytes) -> None:
    match loads_control(body):
        case {"role": "client", "version": 1}:
            return
    raise RemoteProtocolError("not a client of version 1")


def _bind(path: Path) -> socket.socket:
    """A listening Unix socket; a stale file of a dead daemon is replaced, a live one is not."""
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        _remove_stale(path)
    except OSError as error:
        raise _cannot_listen(path, error, "choose a directory that this user may write") from None
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o777 & ~_SOCKET_MODE)
    try:
        listening.bind(str(path))
    except OSError as error:
        listening.close()
        mend = "choose a directory that this user may write, with a path below 108 bytes"
        raise _cannot_listen(path, error, mend) from None
    finally:
        os.umask(mask)
    listening.listen(CLIENTS_MAX)
    return listening


def _cannot_listen(path: Path, error: OSError, mend: str) -> ConfigError:
    what = f"cannot listen on {path}: {error.strerror or error}"
    return ConfigError(what, mend=mend, key="[node] socket")


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(
            f"{path} exists and is not a socket",
            mend="remove it or choose another path",
            key="[node] socket",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise ConfigError(
        f"another drupeletd answers on {path}",
        mend="stop it, or give this node a [node] socket of its own",
        key="[node] socket",
    )
