"""The trio client: many tasks, one connection to the local daemon.

*Owns* one socket and three tasks in a nursery that `open_client` opens: a reader, a writer and a
sweeper. *Cancellation*: a cancelled call tells the daemon (CANCEL) and returns at once.

What decides its speed (each costs more than the rest of a call, see adr/0003)
- per call no task, event, lock, memory channel or cancel scope: the caller parks itself with
  `wait_task_rescheduled` and the reader wakes it;
- a bare non-blocking socket; a call that is alone is sent by its caller, and calls that come
  together are joined and sent by the writer once all callers of that pass have parked;
- one sweeper for all deadlines. It sleeps until the nearest one, and a call only looks whether its
  own is nearer, so calls that are answered in time never touch it;
- `call_many` and `multicall`: one flush, one wake-up, however many calls.

Idea rejected: a heap or wheel of deadlines (an entry for every call of the last `timeout` seconds,
answered or not: 500,000 at full speed).
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from os import PathLike
from typing import Final, NoReturn, TypeAlias

import outcome
import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from drupelet.client.blocking import RECEIVE_BYTES, window_end
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
from drupelet.wire import limits
from drupelet.wire.codec import loads
from drupelet.wire.idempotency import ASK, MISSION, POST, IdempotencyKey, question, value_of

SWEEP_S: Final = 0.01  # two sweeps are at least this far apart: one looks at up to 65,536 calls
CLOSE_S: Final = 1.0  # to send what is queued when the client closes

_Result: TypeAlias = bytes | CallError | None
_RaiseCancel: TypeAlias = Callable[[], NoReturn]


@asynccontextmanager
async def open_client(socket: str | PathLike[str] | None = None) -> AsyncIterator[Client]:
    """A client of the local daemon: ``async with open_client() as node: await node.call(...)``.

    `socket` is the path of its Unix socket; without one, see `drupelet.net.sockets`.

    Raises: `NoConnection` ("no_daemon"), naming the sockets that were tried; `ConfigError` when the
    directory that holds them is open to other users. What the body raises passes as it is.
    """
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            "open_client is for trio programs, trio.run(main); in others, asyncio's too, "
            "use drupelet.client.connect, in a thread where it must not block"
        )
    client = await _connect(socket)
    failure: Exception | None = None
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            nursery.start_soon(client._run_reader)
            nursery.start_soon(client._run_writer)
            nursery.start_soon(client._run_sweeper)
            try:
                yield client
                with trio.move_on_after(CLOSE_S):
                    await client._drain()
            except Exception as error:  # kept out of the nursery, which would wrap it in a group
                failure = error
            nursery.cancel_scope.cancel()
    finally:
        client._end()
    if failure is not None:
        raise failure


async def _connect(path: str | PathLike[str] | None) -> Client:
    tried: list[tuple[str, str]] = []
    for candidate in sockets.candidate_sockets(path):
        try:
            connection = sockets.connect_nowait(candidate)
        except OSError as error:
            tried.append((candidate, sockets.why_not(error)))
            continue
        client = Client(connection)
        try:
            await client._exchange_hello()
        except (NoConnection, RemoteProtocolError, OSError) as error:
            connection.close()
            if isinstance(error, NoConnection) and error.reason == "version":
                raise
            tried.append((candidate, str(error)))
            continue
        except BaseException:
            connection.close()
            raise
        return client
    raise sockets.NoDaemon(tuple(tried))


class _One:
    """The sink of one call: the task that waits for it."""

    __slots__ = ("client", "deadline_s", "ident", "task")

    def __init__(self, client: Client, task: Task, deadline_s: float) -> None:
        self.client = client
        self.task = task
        self.deadline_s = deadline_s
        self.ident = 0

    def settle(self, ident: int, result: _Result) -> None:
        reschedule(self.task, outcome.Value(result))

    def abort(self, _: _RaiseCancel) -> Abort:
        self.client._abandon((self.ident,))
        return Abort.SUCCEEDED


class _Group:
    """The sink of many calls that one task waits for."""

    __slots__ = ("client", "deadline_s", "places", "results", "task")

    def __init__(self, client: Client, task: Task, deadline_s: float, count: int) -> None:
        self.client = client
        self.task = task
        self.deadline_s = deadline_s
        self.places: dict[int, int] = {}  # id -> place in results; what is open
        self.results: list[_Result] = [None] * count

    def settle(self, ident: int, result: _Result) -> None:
        self.results[self.places.pop(ident)] = result
        if not self.places:
            reschedule(self.task)

    def abort(self, _: _RaiseCancel) -> Abort:
        self.client._abandon(tuple(self.places))
        return Abort.SUCCEEDED


class NodeEvents:
    """`NodeUp` and `NodeDown` as they happen; ``async for``, one task at a time.

    The stream is open from the moment this object is made, so nothing in between is missed; it is
    closed by `aclose` or with the client. What waits is bounded by the stream's credit.
    """

    deadline_s: Final = float("inf")

    def __init__(self, client: Client) -> None:
        self._client = client
        self._items: deque[bytes] = deque()
        self._task: Task | None = None
        self._ended = False
        self._error: CallError | None = None
        self._ident, data = client._session.open_stream(EVENTS_STREAM, self)
        client._submit(data)

    def settle(self, ident: int, result: _Result) -> None:
        """A frame of the stream came (called by the reader)."""
        if isinstance(result, bytes):
            self._items.append(result)
        else:
            self._ended = True
            self._error = result
        if self._task is not None:
            reschedule(self._task)
            self._task = None

    def __aiter__(self) -> NodeEvents:
        return self

    async def __anext__(self) -> NodeEvent:
        await trio.lowlevel.checkpoint()
        while not self._items:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            if self._task is not None:
                raise trio.BusyResourceError("another task reads these node events")
            self._task = current_task()

            def abort(_: _RaiseCancel) -> Abort:
                self._task = None
                return Abort.SUCCEEDED

            await wait_task_rescheduled(abort)
        return decode_event(self._items.popleft())

    async def aclose(self) -> None:
        """Close the stream; a task that waits on it gets StopAsyncIteration."""
        if not self._ended:
            self.settle(self._ident, None)
            self._client._close_stream(self._ident)
        await trio.lowlevel.checkpoint()


class Client:
    """One connection to the local daemon, shared by any number of tasks. Made by `open_client`."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._session: Session[_One | _Group | NodeEvents] = Session()
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._writer: Task | None = None  # parked: nothing is queued and nothing half sent
        self._sweep_s = float("inf")  # when the sweeper looks next
        self._sweep_scope = trio.CancelScope()
        self._drainer: Task | None = None
        self._alone = True  # the last read settled at most one call: send the next one directly
        self._closed = False
        self._collect: Callable[[], bytes] | None = None
        self._on_end: Callable[[], None] | None = None

    @property
    def name(self) -> str:
        """The local node's name."""
        return self._session.peer.name if self._session.peer else ""

    @property
    def key(self) -> str:
        """The local node's key, as text."""
        return self._session.peer.key if self._session.peer else ""

    # -- calls

    async def call(
        self,
        node_name: str,
        mission: str,
        function: str,
        *args: object,
        timeout: float = TIMEOUT_S,
        idempotency_key: IdempotencyKey | None = None,
    ) -> object:
        """Call `function` of `mission` on `node_name` ("" is the local node); wait for its value.

        `timeout` in seconds; `math.inf` waits for ever. A cancelled call is cancelled there too,
        but not one with an `idempotency_key`: of the calls with one key one runs, and all get its
        outcome, for seven days, so calling again is safe.

        Raises: `CallError` (its subclasses say what happened), `NotSendable` before a byte is sent.
        """
        target = call_target(node_name, mission, function)
        if idempotency_key is not None:
            asked = question(node_name, mission, function, args, idempotency_key)
            return value_of(await self.call("", MISSION, ASK, *asked, timeout=timeout))
        encoded = encode_arguments(args)
        wire_ms = timeout_ms(timeout)
        self._check_room(len(encoded))
        deadline_s = trio.current_time() + timeout + TIMEOUT_GRACE_S
        sink = _One(self, current_task(), deadline_s)
        sink.ident, data = self._session.call(target, encoded, wire_ms, sink)
        self._submit(data)
        if deadline_s < self._sweep_s:
            self._hasten_sweeper(deadline_s)
        result = await wait_task_rescheduled(sink.abort)
        if isinstance(result, bytes):
            return loads(result)
        raise result

    async def cast(
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
        target = call_target(node_name, mission, function)
        if idempotency_key is not None:
            asked = question(node_name, mission, function, args, idempotency_key)
            await self.call("", MISSION, POST, *asked)
            return
        encoded = encode_arguments(args)
        self._check_room(len(encoded))
        self._submit(self._session.cast(target, encoded))
        await trio.lowlevel.checkpoint()

    async def call_many(
        self,
        node_name: str,
        mission: str,
        function: str,
        arguments: Iterable[Sequence[object]],
        *,
        timeout: float = TIMEOUT_S,
    ) -> list[object]:
        """Many calls of one function, all under way at once; their values or `CallError`s in order.

        `arguments` has one sequence of arguments for each call. Beyond 2,048 calls or 2 MiB they go
        in several flushes, under the one deadline.
        """
        encoded = [encode_arguments(tuple(each)) for each in arguments]
        target = call_target(node_name, mission, function)
        return await self._many([target] * len(encoded), encoded, timeout)

    async def multicall(
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
        encoded = encode_arguments(args)
        rest_s = timeout
        if nodes is None:
            deadline_s = trio.current_time() + timeout
            known = await self.nodes(timeout=timeout)
            nodes = [self.name, *(str(one["name"]) for one in known if one.get("state") == "up")]
            rest_s = deadline_s - trio.current_time()
        names = list(dict.fromkeys(nodes))
        targets = [call_target(name, mission, function) for name in names]
        results = await self._many(targets, [encoded] * len(names), rest_s)
        return dict(zip(names, results, strict=True))

    async def nodes(self, *, timeout: float = TIMEOUT_S) -> list[dict[str, object]]:
        """The other nodes: ``{"name", "key", "state": "up" | "down", ...}`` each."""
        value = await self.call("", "node", "nodes", timeout=timeout)
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise RemoteProtocolError("malformed list of nodes")
        return value

    async def ping(self, name: str, *, timeout: float = TIMEOUT_S) -> dict[str, object]:
        """``{"ok": True, "rtt_ms": ...}`` or ``{"ok": False, "reason": ...}``."""
        value = await self.call("", "node", "ping_node", name, timeout=timeout)
        if not isinstance(value, dict):
            raise RemoteProtocolError("malformed ping result")
        return value

    def monitor_nodes(self) -> NodeEvents:
        """`NodeUp` and `NodeDown` from now on: ``async for event in node.monitor_nodes()``."""
        self._check_room(0)
        return NodeEvents(self)

    async def _many(
        self, targets: list[bytes], encoded: list[bytes], timeout: float
    ) -> list[object]:
        if not targets:
            await trio.lowlevel.checkpoint()
        results: list[object] = []
        deadline_s = trio.current_time() + timeout
        while len(results) < len(targets):
            start, end = len(results), window_end(encoded, len(results))
            results += await self._window(targets[start:end], encoded[start:end], deadline_s)
        return results

    async def _window(
        self, targets: list[bytes], encoded: list[bytes], deadline_s: float
    ) -> list[object]:
        try:
            wire_ms = timeout_ms(deadline_s - trio.current_time())
            self._check_room(0)
        except (Timeout, NoConnection) as error:
            await trio.lowlevel.checkpoint()
            return [error for _ in targets]
        group = _Group(self, current_task(), deadline_s + TIMEOUT_GRACE_S, len(targets))
        parts: list[bytes] = []
        for place, target in enumerate(targets):
            try:
                ident, data = self._session.call(target, encoded[place], wire_ms, group)
            except NoConnection as error:  # CALLS_PER_LINK_MAX is reached
                group.results[place] = error
                continue
            group.places[ident] = place
            parts.append(data)
        if parts:
            self._submit(b"".join(parts))
            if group.deadline_s < self._sweep_s:
                self._hasten_sweeper(group.deadline_s)
            await wait_task_rescheduled(group.abort)
        return [loads(one) if isinstance(one, bytes) else one for one in group.results]

    def _check_room(self, size: int) -> None:
        if self._closed:
            raise NoConnection("closed")
        if self._out_bytes + size > limits.OUT_BYTES_MAX + limits.BODY_BYTES_MAX:
            raise NoConnection("overloaded")

    def _abandon(self, idents: tuple[int, ...]) -> None:
        if not self._closed:
            self._submit(b"".join([self._session.cancel(ident) for ident in idents]))

    def _close_stream(self, ident: int) -> None:
        data = self._session.close_stream(ident)
        if not self._closed:
            self._submit(data)

    # -- processes (carrier.py)

    def carry(
        self,
        on_signals: Callable[[bytes], None],
        collect: Callable[[], bytes],
        on_end: Callable[[], None],
    ) -> None:
        """Signals of processes: who takes those that come, and what is to be sent when the writer
        has its turn."""
        self._session.on_signals = on_signals
        self._collect = collect
        self._on_end = on_end

    def wake_writer(self) -> None:
        """`collect` has something: in the next scheduler pass."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            reschedule(writer)

    # -- the socket

    def _submit(self, data: bytes) -> None:
        """Send now if nothing else is under way, else leave it to the writer. Never blocks."""
        writer = self._writer
        if writer is not None and self._alone and len(self._session.calls) <= 1:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # the reader sees the end of the connection too, and settles every call
            if sent == len(data):
                return
            data = data[sent:]
        self._out.append(data)
        self._out_bytes += len(data)
        if writer is not None:
            self._writer = None
            reschedule(writer)

    async def _run_writer(self) -> None:
        def abort(_: _RaiseCancel) -> Abort:
            self._writer = None
            return Abort.SUCCEEDED

        while True:
            self._collect_signals()
            if not self._out:
                self._writer = current_task()
                if self._drainer is not None:
                    reschedule(self._drainer)
                    self._drainer = None
                await wait_task_rescheduled(abort)
                self._collect_signals()
            view = memoryview(b"".join(self._out))
            self._out.clear()
            self._out_bytes = 0
            while view:
                try:
                    view = view[self._socket.send(view) :]
                except BlockingIOError:
                    self._out_bytes += len(view)
                    await trio.lowlevel.wait_writable(self._socket.fileno())
                    self._out_bytes -= len(view)
                except (OSError, trio.ClosedResourceError):
                    return  # as in _submit; what is queued after this stays within its bound

    def _collect_signals(self) -> None:
        if self._collect is not None:
            signals = self._collect()
            if signals:
                self._out.append(signals)

    async def _run_reader(self) -> None:
        session, connection = self._session, self._socket
        buffer = memoryview(bytearray(RECEIVE_BYTES))  # made once: see RECEIVE_BYTES
        while True:
            await trio.lowlevel.wait_readable(connection.fileno())
            try:
                count = connection.recv_into(buffer)
                if not count:
                    break
                settled, answers = session.receive_data(bytes(buffer[:count]))
            except BlockingIOError:
                continue
            except (OSError, RemoteProtocolError):
                break
            self._alone = len(settled) <= 1
            for sink, ident, result in settled:
                sink.settle(ident, result)
            if answers:
                self._submit(answers)
        self._end()

    def _end(self) -> None:
        """The connection is of no more use: every call that waits fails."""
        if self._closed:
            return
        self._closed = True
        for sink, ident, result in self._session.end():
            sink.settle(ident, result)
        if self._on_end is not None:
            self._on_end()
        if self._drainer is not None:
            reschedule(self._drainer)
            self._drainer = None
        trio.lowlevel.notify_closing(self._socket.fileno())
        self._socket.close()

    async def _drain(self) -> None:
        """Wait until all that was submitted is in the kernel."""

        def abort(_: _RaiseCancel) -> Abort:
            self._drainer = None
            return Abort.SUCCEEDED

        if self._closed or (self._writer is not None and not self._out):
            return
        self._drainer = current_task()
        await wait_task_rescheduled(abort)

    async def _exchange_hello(self) -> None:
        with trio.move_on_after(HELLO_S):
            self._socket.send(self._session.hello())  # the first bytes into an empty buffer: all go
            while self._session.peer is None:
                await trio.lowlevel.wait_readable(self._socket.fileno())
                data = self._socket.recv(RECEIVE_BYTES)
                if not data:
                    raise NoConnection("closed")
                self._session.receive_data(data)
            return
        raise NoConnection("silent")

    # -- deadlines

    def _hasten_sweeper(self, deadline_s: float) -> None:
        self._sweep_s = deadline_s
        self._sweep_scope.cancel()

    async def _run_sweeper(self) -> None:
        """Fail the calls whose deadline has passed. Sleeps until the nearest one."""
        while True:
            with trio.CancelScope() as self._sweep_scope:
                await trio.sleep_until(self._sweep_s)
            now = trio.current_time()
            if now < self._sweep_s:
                continue  # a nearer deadline came
            late: list[tuple[_One | _Group | NodeEvents, int]] = []
            nearest_s = float("inf")
            for ident, sink in self._session.calls.items():
                if sink.deadline_s <= now:
                    late.append((sink, ident))
                elif sink.deadline_s < nearest_s:
                    nearest_s = sink.deadline_s
            self._sweep_s = max(nearest_s, now + SWEEP_S)
            if late:
                self._abandon(tuple(ident for _, ident in late))
                for sink, ident in late:
                    sink.settle(ident, Timeout(maybe_ran=True))
