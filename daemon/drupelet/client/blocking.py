"""The blocking client: plain sockets, for scripts and the command line. Never imports trio.

One call at a time costs it less than the trio client (no loop to go through). A client belongs to
one thread; calls of a `multicall` or `call_many` are all under way at once.

*Owns* one socket. An interrupted call (Ctrl-C) is cancelled at the daemon.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import Final

from drupelet.client.protocol import (
    EVENTS_STREAM,
    HELLO_S,
    TIMEOUT_GRACE_S,
    TIMEOUT_S,
    NodeEvent,
    Session,
    call_target,
    check_names,
    decode_event,
    encode_arguments,
    timeout_ms,
)
from drupelet.errors import CallError, NoConnection, RemoteProtocolError, Timeout
from drupelet.net import sockets
from drupelet.wire.codec import loads
from drupelet.wire.idempotency import ASK, MISSION, POST, IdempotencyKey, question, value_of

# One read takes a whole credit window. Read into one buffer: making and shrinking an object of this
# size for each answer was a quarter of a call's time.
RECEIVE_BYTES: Final = 262_144
CALLS_AT_ONCE_MAX: Final = 2_048  # of one call_many under way: half of what a mission worker takes
BYTES_AT_ONCE_MAX: Final = 2 * 1024 * 1024  # half of what the daemon lets wait on a link


def connect(socket: str | PathLike[str] | None = None) -> BlockingClient:
    """A client of the local daemon, to be used in ``with``.

    `socket` is the path of its Unix socket; without one, see `drupelet.net.sockets`.

    Raises: `NoConnection` ("no_daemon"), naming the sockets that were tried; `ConfigError` when the
    directory that holds them is open to other users.
    """
    tried: list[tuple[str, str]] = []
    for path in sockets.candidate_sockets(socket):
        try:
            connection = sockets.connect_nowait(path)
        except OSError as error:
            tried.append((path, sockets.why_not(error)))
            continue
        client = BlockingClient(connection)
        try:
            client.wait_hello()
        except (NoConnection, RemoteProtocolError, OSError) as error:
            client.close()
            if isinstance(error, NoConnection) and error.reason == "version":
                raise
            tried.append((path, str(error)))
            continue
        except BaseException:
            client.close()
            raise
        return client
    raise sockets.NoDaemon(tuple(tried))


class BlockingClient:
    """One connection to the local daemon. Made by `connect`."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._session: Session[int] = Session()
        self._results: dict[int, bytes | CallError | None] = {}
        self._items: dict[int, list[bytes]] = {}
        self._closed = False
        self._poll = select.poll()

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Twice does no harm."""
        self._closed = True
        self._socket.close()

    @property
    def name(self) -> str:
        """The local node's name."""
        return self._session.peer.name if self._session.peer else ""

    @property
    def key(self) -> str:
        """The local node's key, as text."""
        return self._session.peer.key if self._session.peer else ""

    @property
    def software(self) -> str:
        """The local daemon's software and version."""
        return self._session.peer.software if self._session.peer else ""

    def wait_hello(self) -> None:
        """Exchange HELLO. Raises: `NoConnection`, `RemoteProtocolError`."""
        deadline_s = time.monotonic() + HELLO_S
        self._poll.register(self._socket, select.POLLIN)
        self._send(self._session.hello(), deadline_s)
        while self._session.peer is None:
            if not self._receive(deadline_s):
                raise NoConnection("silent")

    # -- calls

    def call(
        self,
        node_name: str,
        mission: str,
        function: str,
        *args: object,
        timeout: float = TIMEOUT_S,
        idempotency_key: IdempotencyKey | None = None,
    ) -> object:
        """Call `function` of `mission` on `node_name` ("" is the local node); wait for its value.

        `timeout` in seconds; `math.inf` waits for ever. Of the calls with one `idempotency_key` one
        runs, and all get its outcome, for seven days: calling again is safe.

        Raises: `CallError` (its subclasses say what happened), `NotSendable` before a byte is sent.
        """
        target = call_target(node_name, mission, function)
        if idempotency_key is not None:
            asked = question(node_name, mission, function, args, idempotency_key)
            return value_of(self.call("", MISSION, ASK, *asked, timeout=timeout))
        result = self._many([target], [encode_arguments(args)], timeout)[0]
        if isinstance(result, CallError):
            raise result
        return result

    def cast(
        self,
        node_name: str,
        mission: str,
        function: str,
        *args: object,
        idempotency_key: IdempotencyKey | None = None,
    ) -> None:
        """Send a call that has no answer. Whether it arrives is not told.

        With an `idempotency_key` it is on disk when this returns, and runs once, within seven days,
        also when the node is away now. Raises: `CallError` when it cannot be kept.
        """
        if idempotency_key is not None:
            self.post(node_name, mission, function, *args, idempotency_key=idempotency_key)
            return
        data = self._session.cast(call_target(node_name, mission, function), encode_arguments(args))
        self._send(data, time.monotonic() + TIMEOUT_S)

    def post(
        self,
        node_name: str,
        mission: str,
        function: str,
        *args: object,
        idempotency_key: IdempotencyKey | None = None,
    ) -> bool:
        """A cast that the local node answers: True when it keeps it, False when it sent it once.

        It keeps one with a key, and any to a node that granted us something.
        """
        call_target(node_name, mission, function)
        asked = question(node_name, mission, function, args, idempotency_key)
        return self.call("", MISSION, POST, *asked) is True

    def call_many(
        self,
        node_name: str,
        mission: str,
        function: str,
        arguments: Iterable[Sequence[object]],
        *,
        timeout: float = TIMEOUT_S,
    ) -> list[object]:
        """Many calls of one function, all under way at once; their values or `CallError`s in order.

        `arguments` has one sequence of arguments for each call.
        """
        encoded = [encode_arguments(tuple(each)) for each in arguments]
        target = call_target(node_name, mission, function)
        return self._many([target] * len(encoded), encoded, timeout)

    def multicall(
        self,
        nodes: Iterable[str] | None,
        mission: str,
        function: str,
        *args: object,
        timeout: float = TIMEOUT_S,
    ) -> dict[str, object]:
        """One call on many nodes with one deadline; ``{node: value or CallError}``.

        `nodes` None: the local node and every node that is up.
        """
        check_names(nodes)
        deadline_s = time.monotonic() + timeout
        names = list(dict.fromkeys(self._all_nodes(timeout) if nodes is None else nodes))
        targets = [call_target(name, mission, function) for name in names]
        encoded = encode_arguments(args)
        rest_s = deadline_s - time.monotonic() if nodes is None else timeout
        return dict(zip(names, self._many(targets, [encoded] * len(names), rest_s), strict=True))

    def nodes(self, *, timeout: float = TIMEOUT_S) -> list[dict[str, object]]:
        """The other nodes: ``{"name", "key", "state": "up" | "down", ...}`` each."""
        value = self.call("", "node", "nodes", timeout=timeout)
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise RemoteProtocolError("malformed list of nodes")
        return value

    def ping(self, name: str, *, timeout: float = TIMEOUT_S) -> dict[str, object]:
        """``{"ok": True, "rtt_ms": ...}`` or ``{"ok": False, "reason": ...}``."""
        value = self.call("", "node", "ping_node", name, timeout=timeout)
        if not isinstance(value, dict):
            raise RemoteProtocolError("malformed ping result")
        return value

    def monitor_nodes(self) -> Iterator[NodeEvent]:
        """`NodeUp` and `NodeDown` as they happen, until the connection ends or the caller stops."""
        ident, data = self._session.open_stream(EVENTS_STREAM, 0)
        items = self._items[ident] = []
        self._send(data, time.monotonic() + TIMEOUT_S)
        return self._events(ident, items)

    def _events(self, ident: int, items: list[bytes]) -> Iterator[NodeEvent]:
        try:
            while True:
                while items:
                    yield decode_event(items.pop(0))
                if ident in self._results:
                    ended = self._results.pop(ident)
                    if isinstance(ended, CallError):
                        raise ended
                    return
                self._receive(None)
        finally:
            del self._items[ident]
            if ident in self._session.streams and not self._closed:
                with contextlib.suppress(NoConnection):
                    self._send(self._session.close_stream(ident), time.monotonic() + TIMEOUT_S)

    def _all_nodes(self, timeout: float) -> list[str]:
        up = [str(one["name"]) for one in self.nodes(timeout=timeout) if one.get("state") == "up"]
        return [self.name, *up]

    def _many(self, targets: list[bytes], encoded: list[bytes], timeout: float) -> list[object]:
        results: list[object] = []
        deadline_s = time.monotonic() + timeout
        while len(results) < len(targets):
            start, end = len(results), window_end(encoded, len(results))
            results += self._window(targets[start:end], encoded[start:end], deadline_s)
        return results

    def _window(
        self, targets: list[bytes], encoded: list[bytes], deadline_s: float
    ) -> list[object]:
        session = self._session
        if self._closed:
            raise NoConnection("closed")
        try:
            wire_ms = timeout_ms(deadline_s - time.monotonic())
        except Timeout as error:
            return [error for _ in targets]
        idents: list[int] = []
        try:
            parts: list[bytes] = []
            for target, arguments in zip(targets, encoded, strict=True):
                ident, data = session.call(target, arguments, wire_ms, 0)
                idents.append(ident)
                parts.append(data)
            try:
                self._send(b"".join(parts), deadline_s + TIMEOUT_GRACE_S)
                for ident in idents:  # all are under way: wait for the first that is missing
                    while ident not in self._results:
                        if not self._receive(deadline_s + TIMEOUT_GRACE_S):
                            raise Timeout(maybe_ran=True)
            except (NoConnection, Timeout) as error:
                for ident in idents:
                    self._results.setdefault(ident, error)
            return [self._take(ident) for ident in idents]
        finally:
            self._cancel([ident for ident in idents if ident in session.calls])

    def _take(self, ident: int) -> object:
        result = self._results.pop(ident)
        return loads(result) if isinstance(result, bytes) else result

    def _cancel(self, idents: list[int]) -> None:
        if not idents:
            return
        data = b"".join([self._session.cancel(ident) for ident in idents])
        for ident in idents:
            self._results.pop(ident, None)
        with contextlib.suppress(NoConnection, Timeout):
            self._send(data, time.monotonic() + TIMEOUT_GRACE_S)

    # -- the socket

    def _send(self, data: bytes, deadline_s: float) -> None:
        """Send all, reading meanwhile, so that two full directions cannot wait for each other."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                self._poll.modify(self._socket, select.POLLIN | select.POLLOUT)
                try:
                    ready = self._poll.poll(_wait_ms(deadline_s))
                finally:
                    self._poll.modify(self._socket, select.POLLIN)
                if not ready:
                    self._end()  # half a frame went: the connection is of no more use
                    raise Timeout(maybe_ran=True) from None
                if ready[0][1] & select.POLLIN:
                    answers = self._receive_nowait()
                    view = memoryview(bytes(view) + answers) if answers else view
            except OSError:
                self._end()
                raise NoConnection("closed", maybe_ran=True) from None

    def _receive(self, deadline_s: float | None) -> bool:
        """Wait for bytes and take them in. False: none came before the deadline."""
        if self._closed:
            raise NoConnection("closed", maybe_ran=True)
        if not self._poll.poll(None if deadline_s is None else _wait_ms(deadline_s)):
            return False
        answers = self._receive_nowait()
        if answers:
            self._send(answers, time.monotonic() + TIMEOUT_S if deadline_s is None else deadline_s)
        return True

    def _receive_nowait(self) -> bytes:
        try:
            count = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return b""
        except OSError:
            count = 0
        if not count:
            self._end()
            raise NoConnection("stopping" if self._session.goodbye else "closed", maybe_ran=True)
        try:
            settled, answers = self._session.receive_data(bytes(self._buffer[:count]))
        except RemoteProtocolError:
            self._end()
            raise
        for _, ident, result in settled:
            items = self._items.get(ident)
            if items is not None and isinstance(result, bytes):
                items.append(result)
            else:
                self._results[ident] = result
        return answers

    def _end(self) -> None:
        for _, ident, result in self._session.end():
            self._results[ident] = result
        self.close()


def window_end(encoded: list[bytes], start: int) -> int:
    """How far one flush of many calls goes from `start`: at least one call."""
    end, size = start, 0
    last = min(len(encoded), start + CALLS_AT_ONCE_MAX)
    while end < last and (end == start or size + len(encoded[end]) <= BYTES_AT_ONCE_MAX):
        size += len(encoded[end])
        end += 1
    return end


def _wait_ms(deadline_s: float) -> float | None:
    span_s = deadline_s - time.monotonic()
    if span_s > 1e6:  # for ever, as far as poll(2) with its 32 bits of milliseconds goes
        return None
    return max(0.0, span_s * 1_000)
