"""The socket of a chan: any failure reads as closed, and nothing waits for ever."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from drupelet.chan.link import Link, come_in, fresh_secrets, stream_of
from drupelet.errors import AuthFail, NoConnection, NotSendable
from drupelet.wire import guests, limits
from drupelet.wire.chan import Closed, Value
from drupelet.wire.guests import GuestServer
from tests.unit.chan.links import link_and_raw, link_pair

PASSWORD = b"ABXy45"


async def test_values_pings_and_the_end() -> None:
    one, two = link_pair()
    assert await one.send_value(("store", "joe"))
    assert await one.send_ping()
    assert await one.send_close()
    assert await two.receive() == [Value(("store", "joe")), Closed()]
    one.close()
    one.close()
    assert await two.receive() is None
    assert not await two.send_ping()
    assert await one.receive() is None
    assert not await one.send_ping()


async def test_what_cannot_be_sent_raises_and_closes_nothing() -> None:
    one, two = link_pair()
    with pytest.raises(NotSendable):
        await one.send_value(print)
    assert await one.send_value(1)
    assert await two.receive() == [Value(1)]


async def test_bytes_that_cannot_be_read_as_closed() -> None:
    link, raw, _ = link_and_raw()
    await raw.send_all(b"\0\x20" + bytes(32))
    assert await link.receive() is None


async def test_part_of_a_value_is_nothing_yet() -> None:
    link, raw, machine = link_and_raw()
    data = machine.send_value("whole")
    await raw.send_all(data[:5])
    assert await link.receive() == []
    await raw.send_all(data[5:])
    assert await link.receive() == [Value("whole")]


async def test_silence_reads_as_closed(autojump_clock: trio.testing.MockClock) -> None:
    link, _, _ = link_and_raw()
    started = trio.current_time()
    assert await link.receive() is None
    assert trio.current_time() - started == limits.CHAN_SILENCE_S


async def test_who_takes_nothing_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    link, _, _ = link_and_raw(lockstep=True)
    started = trio.current_time()
    assert not await link.send_value("never read")
    assert trio.current_time() - started == limits.CHAN_SEND_S


def test_secrets_are_fresh() -> None:
    one, two = fresh_secrets(), fresh_secrets()
    assert len({one.static, one.ephemeral, one.private, two.static, two.private}) == 5
    assert "..." in repr(one)


async def _serve(sock: socket.socket, password: bytes = PASSWORD) -> Link:
    stream = stream_of(sock)
    machine = GuestServer({"nameServer": password}, b"", fresh_secrets())
    while not machine.tried:
        await stream.send_all(machine.receive_data(await stream.receive_some(65_536)))
    word = guests.WELCOME if machine.proof_holds() else guests.AUTH_FAIL
    await stream.send_all(machine.answer(word))
    if machine.admitted is None:
        stream.socket.close()
        raise AuthFail("wrong")
    return Link(stream, machine.admitted, stream.socket.close)


async def test_a_guest_comes_in() -> None:
    one, two = socket.socketpair()
    links: list[Link] = []

    async def serve() -> None:
        links.append(await _serve(two))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        link = await come_in(one, "nameServer", PASSWORD)
    await link.send_value("here")
    assert await links[0].receive() == [Value("here")]
    link.close()
    links[0].close()


async def test_a_refused_guests_socket_is_closed() -> None:
    one, two = socket.socketpair()

    async def serve() -> None:
        with pytest.raises(AuthFail):
            await _serve(two)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(AuthFail):
            await come_in(one, "nameServer", b"guess")
    assert one.fileno() == two.fileno() == -1


@pytest.mark.parametrize(
    ("said", "reason"),
    [(b"", "closed"), (b"HTTP/1.1 400 Bad Request\r\n", "version"), (b"\0\0\3\0", "overloaded")],
)
async def test_what_else_may_answer(said: bytes, reason: str) -> None:
    one, two = socket.socketpair()
    two.sendall(said)
    two.close()  # before our first byte: only what was said counts
    with pytest.raises(NoConnection) as caught:
        await come_in(one, "nameServer", PASSWORD)
    assert caught.value.reason == reason
    assert one.fileno() == -1


async def test_a_server_that_resets_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        accepted.close()  # with a reset
        with pytest.raises(NoConnection, match="closed"):
            await come_in(one, "nameServer", PASSWORD)


async def test_turned_away_by_a_server_that_is_gone_already() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
        one.send(b"?")  # unread at the close: the kernel resets the connection
        accepted.sendall(guests.turn_away(guests.AUTH_FAIL, 7.0))
        accepted.close()
        with pytest.raises(AuthFail) as caught:
            await come_in(one, "nameServer", PASSWORD)
        assert caught.value.retry_after_s == 7


async def test_cancelling_closes_the_socket() -> None:
    one, two = socket.socketpair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_in, one, "nameServer", PASSWORD)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert one.fileno() == -1
    two.close()
