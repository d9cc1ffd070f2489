"""Sockets of the port mapper: every listener and every connection in one epoll set, in one task.

Decides nothing about names. `wait` says what came, `answer`, `watch` and `drop` do what is told.

Why not a task per connection: a look-up is four system calls, so a trio task, its cancel scope and
its wake-ups would be most of the work, and 10,000 held names would be 10,000 tasks (5.8 KiB each).
Here a whole pass of accepted connections is read, answered and closed inline, a connection that is
only held costs its socket object, and trio sees one descriptor: the epoll set itself.

- TCP_DEFER_ACCEPT: the kernel shows a connection when its request is there (or after 5 s), so the
  common look-up is one wake-up, and somebody who connects and says nothing costs us nothing.
- An error of `accept` never ends the listener. Those of accept(2) that concern one connection are
  passed over; after any other, such as no descriptors, the listeners rest ACCEPT_REST_S (an epoll
  set is level-triggered: going on would spin).
- A pass takes at most PASS_ACCEPTS_MAX connections, then the daemon's other tasks get their turn.
- An answer that does not fit the socket buffer (NAMES of thousands of names) waits for its reader
  MAPPER_REQUEST_S long; at most MAPPER_UNSENT_MAX do.

A connection's number is its descriptor. It can be given out again only by `accept`, which happens
in `wait` alone, so it is unique between two calls of `wait`; callers skip what `is_open` denies.

- Accepted sockets are of the C class (`socket.SocketType`), got from `_accept`, which is what
  `socket.accept` wraps in every Python 3: its wrapper converts two enums per connection, and the
  look-up takes 10 % longer.

Ideas rejected: trio.serve_tcp (one exception ends it); SO_REUSEPORT and threads (nothing to gain on
look-ups of 25 us).
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

import trio

from drupelet.wire import limits

BACKLOG: Final = 1_024  # look-ups of a whole cluster that comes up at once
PASS_ACCEPTS_MAX: Final = 64  # 64 look-ups are about 2 ms of the daemon's loop
PASS_EVENTS_MAX: Final = 256
ACCEPT_REST_S: Final = 0.1
_RECEIVE_BYTES: Final = limits.MAPPER_REQUEST_BYTES_MAX + 1  # one more shows what is too long
_ONE_CONNECTION_ERRNOS: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPERM,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
    }
)
_DEFER_ACCEPT_S: Final = 5
_SEND: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_SEND_LAST: Final = _SEND | socket.MSG_MORE  # the close that follows sends data and FIN as one


class Arrival(NamedTuple):
    """Something came. `data` None: a connection opened and is silent; b"": it ended."""

    connection: int
    data: bytes | None
    local: bool


class _Unsent(NamedTuple):
    rest: memoryview
    deadline: float


class EpmdServer:
    """The listeners and their connections. Owns them all; `close` closes them all."""

    def __init__(self, listeners: Sequence[socket.socket]) -> None:
        self._epoll = select.epoll()
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._loopback_only = {
            number: _is_loopback(listener.getsockname()[0])
            for number, listener in self._listeners.items()
        }
        self._shapes = {
            number: (int(listener.family), int(listener.type), listener.proto)
            for number, listener in self._listeners.items()
        }
        # Accepts of the next pass: doubled while a pass is full, so that a lone look-up is answered
        # before we look for the next one in vain.
        self._budgets = dict.fromkeys(self._listeners, 1)
        self._connections: dict[int, socket.SocketType] = {}
        self._remote: set[int] = set()  # watched connections from other machines
        self._unsent: dict[int, _Unsent] = {}  # in order of their deadlines
        self._resting_until = math.inf  # inf: the listeners are in the epoll set
        self.accept_errors = 0
        for number, listener in self._listeners.items():
            with contextlib.suppress(OSError):  # an optimisation; where it is missing, watch() does
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _DEFER_ACCEPT_S)
            self._epoll.register(number, select.EPOLLIN)

    async def wait(self, deadline: float) -> list[Arrival]:
        """What came, at the latest at `deadline` (then perhaps nothing). Always a checkpoint."""
        deadline = min(deadline, self._resting_until)
        for unsent in self._unsent.values():
            deadline = min(deadline, unsent.deadline)
            break  # the oldest is the first
        if deadline == math.inf:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
        else:
            with trio.move_on_at(deadline):
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            self._handle_timer(trio.current_time())
        arrivals: list[Arrival] = []
        for number, mask in self._epoll.poll(0, PASS_EVENTS_MAX):
            if number in self._listeners:
                self._accept(number, arrivals)
            elif mask & select.EPOLLOUT:
                self._send_rest(number)
            else:
                self._receive(number, arrivals)
        return arrivals

    def is_open(self, connection: int) -> bool:
        """Whether the connection is still there."""
        return connection in self._connections

    def watch(self, connection: int) -> None:
        """Tell what comes on this connection, and its end."""
        if connection in self._connections:
            self._epoll.register(connection, select.EPOLLIN)

    def answer(self, connection: int, data: bytes, *, keep: bool) -> bool:
        """Send `data`; then close the connection, or keep and watch it.

        Returns False when the connection is gone: a kept one will not be reported then.
        """
        sock = self._connections.get(connection)
        if sock is None:
            return False
        try:
            sent = sock.send(data, _SEND if keep else _SEND_LAST)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.drop(connection)
            return False
        if sent == len(data) and not keep:
            self.drop(connection)
        elif sent == len(data):
            self._set_events(connection, select.EPOLLIN)
        elif keep or len(self._unsent) >= limits.MAPPER_UNSENT_MAX:
            self.drop(connection)  # six bytes that do not fit: a peer that plays games
            return False
        else:
            deadline = trio.current_time() + limits.MAPPER_REQUEST_S
            self._unsent[connection] = _Unsent(memoryview(data)[sent:], deadline)
            self._set_events(connection, select.EPOLLOUT)
        return True

    def drop(self, connection: int) -> None:
        """Close the connection."""
        sock = self._connections.pop(connection, None)
        if sock is not None:
            self._unsent.pop(connection, None)
            self._remote.discard(connection)
            sock.close()  # takes it out of the epoll set as well

    def close(self) -> None:
        """Close everything. Whoever is registered here sees the end of its connection."""
        for listener in self._listeners.values():
            listener.close()
        for connection in list(self._connections):
            self.drop(connection)
        self._epoll.close()

    def _accept(self, number: int, arrivals: list[Arrival]) -> None:
        listener = self._listeners[number]
        always_local = self._loopback_only[number]
        family, kind, protocol = self._shapes[number]
        budget = self._budgets[number]
        taken = 0
        while taken < budget:
            taken += 1
            try:
                connection, peer = listener._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                self._budgets[number] = max(taken - 1, 1)
                return
            except OSError as error:
                self.accept_errors += 1
                if error.errno in _ONE_CONNECTION_ERRNOS:
                    continue
                self._rest(trio.current_time())
                return
            try:
                sock = socket.SocketType(family, kind, protocol, connection)
            except OSError:  # it asks the kernel for the socket's name
                self.accept_errors += 1
                os.close(connection)
                continue
            self._connections[connection] = sock
            local = always_local or _is_local(sock, peer)
            if not local:
                self._remote.add(connection)
            data: bytes | None
            try:
                data = sock.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                data = None
            except OSError:
                data = b""
            if data == b"":
                self.drop(connection)  # nobody knows of it yet
            else:
                arrivals.append(Arrival(connection, data, local))
        self._budgets[number] = min(budget * 2, PASS_ACCEPTS_MAX)

    def _receive(self, connection: int, arrivals: list[Arrival]) -> None:
        sock = self._connections.get(connection)
        if sock is None:
            return
        try:
            data = sock.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        arrivals.append(Arrival(connection, data, connection not in self._remote))

    def _send_rest(self, connection: int) -> None:
        unsent = self._unsent.get(connection)
        sock = self._connections.get(connection)
        if unsent is None or sock is None:
            return
        try:
            sent = sock.send(unsent.rest, _SEND_LAST)
        except BlockingIOError:
            return
        except OSError:
            self.drop(connection)
            return
        if sent == len(unsent.rest):
            self.drop(connection)
        else:
            self._unsent[connection] = unsent._replace(rest=unsent.rest[sent:])

    def _set_events(self, connection: int, events: int) -> None:
        try:
            self._epoll.register(connection, events)
        except FileExistsError:
            self._epoll.modify(connection, events)

    def _rest(self, now: float) -> None:
        if self._resting_until == math.inf:
            self._resting_until = now + ACCEPT_REST_S
            for number in self._listeners:
                self._epoll.unregister(number)

    def _handle_timer(self, now: float) -> None:
        if now >= self._resting_until:
            self._resting_until = math.inf
            for number in self._listeners:
                self._epoll.register(number, select.EPOLLIN)
        for connection, unsent in list(self._unsent.items()):
            if now < unsent.deadline:
                break
            self.drop(connection)


def _is_loopback(address: str) -> bool:
    return address == "::1" or address.startswith("127.")


def _is_local(sock: socket.SocketType, peer: tuple[str, int]) -> bool:
    """Whether the peer is this machine: a loopback address, or the one that it dialed."""
    if _is_loopback(peer[0]):
        return True
    try:
        return bool(sock.getsockname()[0] == peer[0])
    except OSError:
        return False
