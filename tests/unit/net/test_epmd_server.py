"""The mapper's sockets: what comes, what goes out, and that nothing stops the listener."""

from __future__ import annotations

import contextlib
import errno
import math
import socket
import struct
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from drupelet.net import epmd_server, ports
from drupelet.net.epmd_server import Arrival, EpmdServer
from drupelet.wire import limits


@pytest.fixture
def server() -> Iterator[EpmdServer]:
    made = EpmdServer([ports.open_listener("127.0.0.1", 0, backlog=epmd_server.BACKLOG)])
    yield made
    made.close()


def address_of(server: EpmdServer) -> tuple[str, int]:
    (listener,) = server._listeners.values()
    name = listener.getsockname()
    return name[0], name[1]


def dial(server: EpmdServer, data: bytes = b"") -> socket.socket:
    sock = socket.create_connection(address_of(server), timeout=5)
    if data:
        sock.sendall(data)
    return sock


async def next_arrival(server: EpmdServer) -> Arrival:
    with trio.fail_after(5):
        while True:
            arrivals = await server.wait(math.inf)
            if arrivals:
                (arrival,) = arrivals
                return arrival


async def test_request_comes_with_its_connection_and_is_answered(server: EpmdServer) -> None:
    with dial(server, b"question") as client:
        connection, data, local = await next_arrival(server)
        assert (data, local) == (b"question", True)
        assert server.answer(connection, b"answer", keep=False)
        assert not server.is_open(connection)
        assert client.recv(100) == b"answer"
        assert client.recv(100) == b""


async def test_silent_connection_costs_nothing_until_it_speaks(server: EpmdServer) -> None:
    with dial(server) as client:
        assert await server.wait(trio.current_time() + 0.05) == []
        client.sendall(b"late")
        assert (await next_arrival(server)).data == b"late"


async def test_kept_connection_reports_its_end(server: EpmdServer) -> None:
    with dial(server, b"q") as client:
        connection, _, _ = await next_arrival(server)
        assert server.answer(connection, b"held", keep=True)
        assert client.recv(100) == b"held"
    assert await next_arrival(server) == Arrival(connection, b"", True)
    server.drop(connection)
    assert not server.is_open(connection)


async def test_reset_is_an_end(server: EpmdServer) -> None:
    client = dial(server, b"q")
    connection, _, _ = await next_arrival(server)
    server.watch(connection)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert (await next_arrival(server)).data == b""


async def test_watched_connection_brings_its_pieces(server: EpmdServer) -> None:
    with dial(server, b"a") as client:
        connection, _, _ = await next_arrival(server)
        server.watch(connection)
        client.sendall(b"b")
        assert await next_arrival(server) == Arrival(connection, b"b", True)


async def test_what_is_too_long_is_seen_to_be(server: EpmdServer) -> None:
    with dial(server, b"x" * (limits.MAPPER_REQUEST_BYTES_MAX + 100)):
        _, data, _ = await next_arrival(server)
        assert data is not None and len(data) == limits.MAPPER_REQUEST_BYTES_MAX + 1


async def test_actions_on_a_connection_that_is_gone_do_nothing(server: EpmdServer) -> None:
    server.drop(4_711)
    server.watch(4_711)
    assert not server.answer(4_711, b"x", keep=True)


async def test_pass_is_bounded_and_takes_up_where_it_ended(server: EpmdServer) -> None:
    clients = [dial(server, b"q") for _ in range(2 * epmd_server.PASS_ACCEPTS_MAX)]
    try:
        passes = [1, 2, 4, 8, 16, 32, epmd_server.PASS_ACCEPTS_MAX, 1]
        assert [len(await server.wait(math.inf)) for _ in passes] == passes
        assert list(server._budgets.values()) == [1]  # back to the lone look-up
    finally:
        for client in clients:
            client.close()


async def big_answers(server: EpmdServer, count: int) -> AsyncIterator[tuple[int, socket.socket]]:
    for _ in range(count):
        client = dial(server, b"q")
        connection, _, _ = await next_arrival(server)
        yield connection, client


async def test_slow_reader_gets_the_whole_answer(server: EpmdServer) -> None:
    answer = bytes(range(256)) * (limits.MAPPER_ANSWER_BYTES_MAX // 256)
    with dial(server, b"q") as client:
        connection, _, _ = await next_arrival(server)
        assert server.answer(connection, answer, keep=False)
        assert server.is_open(connection)  # it did not fit

        def read_all() -> bytes:
            parts = []
            while data := client.recv(65_536):
                parts.append(data)
            return b"".join(parts)

        async with trio.open_nursery() as nursery:
            got: list[bytes] = []

            async def read() -> None:
                got.append(await trio.to_thread.run_sync(read_all))
                nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            while True:
                await server.wait(math.inf)
        assert got == [answer]
        assert not server.is_open(connection)


async def test_unread_answers_at_their_maximum_and_one_above(
    server: EpmdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epmd_server.limits, "MAPPER_REQUEST_S", 60.0)
    answer = b"x" * limits.MAPPER_ANSWER_BYTES_MAX
    taken, clients = [], []
    with contextlib.ExitStack() as closing:
        async for connection, client in big_answers(server, limits.MAPPER_UNSENT_MAX + 1):
            clients.append(closing.enter_context(client))
            taken.append(server.answer(connection, answer, keep=False))
        assert taken == [True] * limits.MAPPER_UNSENT_MAX + [False]
        soon = trio.current_time() + 0.05
        for waiting, unsent in server._unsent.items():  # however slow this machine was until here
            server._unsent[waiting] = unsent._replace(deadline=soon)
        with trio.fail_after(5):
            while server._connections:  # their time ends
                await server.wait(math.inf)


class FailingListener:
    """A listener whose accept fails so many times before it works."""

    def __init__(self, inner: socket.socket, error: int, count: int) -> None:
        self._inner = inner
        self._error = error
        self.count = count

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def _accept(self) -> object:
        if self.count:
            self.count -= 1
            raise OSError(self._error, "made up")
        return self._inner._accept()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECONNABORTED, errno.EPERM, errno.EIO]
)
async def test_no_error_of_accept_stops_the_listener(
    error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epmd_server, "ACCEPT_REST_S", 0.01)
    listener = FailingListener(ports.open_listener("127.0.0.1", 0), error, 2)
    server = EpmdServer([listener])  # type: ignore[list-item]
    try:
        with dial(server, b"q"):
            assert (await next_arrival(server)).data == b"q"
        assert server.accept_errors == 2
        assert listener.count == 0
    finally:
        server.close()


async def test_rests_instead_of_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = FailingListener(ports.open_listener("127.0.0.1", 0), errno.EMFILE, 1_000_000)
    server = EpmdServer([listener])  # type: ignore[list-item]
    try:
        with dial(server, b"q"):
            for _ in range(3):
                assert await server.wait(trio.current_time() + 0.02) == []
            assert server.accept_errors == 1
    finally:
        server.close()


def test_who_is_local() -> None:
    assert epmd_server._is_loopback("127.0.1.1")
    assert epmd_server._is_loopback("::1")
    assert not epmd_server._is_loopback("192.0.2.1")
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sock,
    ):
        assert epmd_server._is_local(sock, ("127.0.0.1", 1))
        assert not epmd_server._is_local(sock, ("192.0.2.1", 1))


async def test_close_shows_everybody_the_end(server: EpmdServer) -> None:
    with dial(server, b"q") as client:
        connection, _, _ = await next_arrival(server)
        server.answer(connection, b"held", keep=True)
        assert client.recv(10) == b"held"
        server.close()
        assert client.recv(10) == b""
