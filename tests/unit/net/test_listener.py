"""The accept loop: what must not stop it, and how it ends."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from drupelet.net import listener
from drupelet.net.listener import Listener


class Accepted:
    """Sockets that came in; `then` may raise."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.addresses: list[str] = []
        self.then: Callable[[], None] = lambda: None
        self.came = trio.Event()

    def __call__(self, accepted: socket.socket, address: str) -> None:
        self.sockets.append(accepted)
        self.addresses.append(address)
        self.came.set()
        self.came = trio.Event()
        self.then()

    async def wait(self, count: int) -> None:
        with trio.fail_after(5):
            while len(self.sockets) < count:
                await self.came.wait()


@pytest.fixture
def accepted() -> Iterator[Accepted]:
    found = Accepted()
    yield found
    for each in found.sockets:
        each.close()


@asynccontextmanager
async def listening(
    accepted: Accepted, *, count: int = 1
) -> AsyncIterator[tuple[Listener, list[socket.socket]]]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    service = Listener(sockets, accepted)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        yield service, sockets
        service.close()


def knock(listening: socket.socket) -> socket.socket:
    return socket.create_connection(listening.getsockname(), timeout=2)


async def test_hands_over_each_connection_with_its_address(accepted: Accepted) -> None:
    async with listening(accepted, count=2) as (_, sockets):
        with knock(sockets[0]), knock(sockets[1]), knock(sockets[1]):
            await accepted.wait(3)
    assert accepted.addresses == ["127.0.0.1"] * 3


async def test_more_than_one_pass_of_connections(accepted: Accepted) -> None:
    count = 2 * listener._ACCEPTS_PER_PASS + 1
    async with listening(accepted) as (_, [sock]):
        sock.listen(count)
        clients = [knock(sock) for _ in range(count)]
        await accepted.wait(count)
        for each in clients:
            each.close()


async def test_a_handler_whose_connection_broke_does_not_stop_it(accepted: Accepted) -> None:
    def broken() -> None:
        raise OSError(errno.ENOTCONN, "gone")

    async with listening(accepted) as (service, [sock]):
        accepted.then = broken
        with knock(sock):
            await accepted.wait(1)
        await trio.testing.wait_all_tasks_blocked()
        assert accepted.sockets[0].fileno() == -1, "what nobody took is closed"
        assert service.failed_count == 1
        accepted.then = lambda: None
        with knock(sock):
            await accepted.wait(2)


async def test_a_bug_in_the_handler_is_not_hidden(accepted: Accepted) -> None:
    def bug() -> None:
        raise AssertionError("ours")

    accepted.then = bug
    with pytest.RaisesGroup(pytest.RaisesGroup(AssertionError), flatten_subgroups=False):
        async with listening(accepted) as (_, [sock]):
            with knock(sock):
                await trio.sleep_forever()


async def test_no_descriptors_left_is_waited_out(accepted: Accepted) -> None:
    """EMFILE for real: this process may open no more for a while."""
    async with listening(accepted) as (service, [sock]):
        with knock(sock) as first:
            await accepted.wait(1)
            second = socket.socket()
            second.setblocking(False)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            lowest_free = os.dup(0)
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            try:
                second.connect_ex(sock.getsockname())
                with trio.fail_after(5):
                    while service.failed_count < 2:
                        await trio.testing.wait_all_tasks_blocked(0.01)
                assert len(accepted.sockets) == 1
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await accepted.wait(2)
            assert first.fileno() != -1
            second.close()


@pytest.mark.parametrize("number", sorted(listener._OF_THE_PEER))
async def test_a_connection_that_broke_while_it_waited_costs_no_pause(
    accepted: Accepted, number: int
) -> None:
    class Flaky:
        """A listening socket whose first accept fails."""

        def __init__(self, real: socket.socket) -> None:
            self._real = real
            self.failures = 1

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

        def accept(self) -> tuple[socket.socket, object]:
            if self.failures:
                self.failures -= 1
                raise OSError(number, os.strerror(number))
            return self._real.accept()

    with socket.create_server(("127.0.0.1", 0)) as real:
        real.setblocking(False)
        flaky = Flaky(real)
        service = Listener([flaky], accepted)  # type: ignore[list-item]
        with knock(real):
            service._accept_some(flaky)  # type: ignore[arg-type]
        assert len(accepted.sockets) == 1
        assert service.failed_count == 0


async def test_closing_ends_the_run_and_frees_the_numbers(accepted: Accepted) -> None:
    """A socket closed behind trio's back would leave its task asleep, and its number taken."""
    sock = socket.create_server(("127.0.0.1", 0))
    number = sock.fileno()
    service = Listener([sock], accepted)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.testing.wait_all_tasks_blocked()
        service.close()
        service.close()
        left, right = socket.socketpair()
        with left, right:
            assert number in (left.fileno(), right.fileno())
            again = left if left.fileno() == number else right
            other = right if again is left else left
            other.send(b"x")
            with trio.fail_after(2):
                await trio.lowlevel.wait_readable(again)


async def test_cancelling_closes_the_sockets(accepted: Accepted) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    with trio.move_on_after(0):
        await Listener([sock], accepted).run()
    assert sock.fileno() == -1
