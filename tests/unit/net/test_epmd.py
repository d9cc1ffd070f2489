"""Asking a mapper: sound answers, and for every failure the reason that a person can act on."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from drupelet.errors import NoConnection
from drupelet.net import epmd as client
from drupelet.wire import epmd
from drupelet.wire.epmd import MapperEntry

BILBO = MapperEntry(name="bilbo", port=4371, extra=b"drupelet/1")


@asynccontextmanager
async def fake_mapper(*answers: bytes, keep: bool = False) -> AsyncIterator[int]:
    """A mapper that gives these answers, one per connection, in pieces of 3 bytes."""
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen()

    async def serve() -> None:
        for answer in answers:
            sock, _ = await listener.accept()
            with sock:
                await sock.recv(1_024)
                for start in range(0, len(answer), 3):
                    await sock.send(answer[start : start + 3])
                if keep:
                    await sock.recv(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            yield listener.getsockname()[1]
        finally:
            nursery.cancel_scope.cancel()
            listener.close()


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def reason_of(ask: Callable[[], object]) -> str:
    with pytest.raises(NoConnection) as caught:
        await ask()  # type: ignore[misc]
    return caught.value.reason


async def test_lookup_of_a_name() -> None:
    async with fake_mapper(epmd.look_up_response(BILBO)) as port:
        entry = await client.lookup("127.0.0.1", "bilbo", port=port)
    assert entry == BILBO
    assert entry.drupelet_version == 1


async def test_name_that_is_not_registered_or_cannot_be() -> None:
    async with fake_mapper(epmd.NOT_REGISTERED) as port:
        assert await client.lookup("127.0.0.1", "nobody", port=port) is None
    assert await client.lookup("127.0.0.1", "no body", port=1) is None


async def test_names_in_pieces() -> None:
    answer = epmd.names_response(4369, [("gandalf", 1), ("bilbo", 2)])
    async with fake_mapper(answer) as port:
        assert await client.names("127.0.0.1", port=port) == [("gandalf", 1), ("bilbo", 2)]


async def test_closed_port_is_no_mapper() -> None:
    port = closed_port()
    assert await reason_of(lambda: client.lookup("127.0.0.1", "a", port=port)) == "no_mapper"
    assert await reason_of(lambda: client.names("127.0.0.1", port=port)) == "no_mapper"


async def test_host_that_does_not_resolve_is_no_route() -> None:
    # neither is a host name at all, so no resolver on the way is asked
    for host in ("a" * 300, "mor\0dor"):
        assert await reason_of(lambda host=host: client.lookup(host, "a")) == "no_route"


async def test_address_without_a_route() -> None:
    # TCP to a multicast address has no route on any machine, whatever network it is in
    assert await reason_of(lambda: client.lookup("224.0.0.1", "a")) == "no_route"


@pytest.mark.parametrize(
    "junk",
    [b"HTTP/1.1 400\r\n\r\n", b"", b"\x77", b"\x77\x00\x00\x01M\x00\x00\x06\x00\x05\xff\xff"],
)
async def test_something_else_on_the_port_is_no_mapper(junk: bytes) -> None:
    async with fake_mapper(junk) as port:
        assert await reason_of(lambda: client.lookup("127.0.0.1", "a", port=port)) == "no_mapper"


async def test_answer_about_another_name_is_no_answer() -> None:
    async with fake_mapper(epmd.look_up_response(BILBO)) as port:
        assert await reason_of(lambda: client.lookup("127.0.0.1", "a", port=port)) == "no_mapper"


async def test_answer_that_never_ends() -> None:
    flood = b"\0\0\0\0" + b"x" * (client.limits.MAPPER_ANSWER_BYTES_MAX + 1)
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen()

    async def serve() -> None:
        sock, _ = await listener.accept()
        with sock, suppress(trio.BrokenResourceError):
            await trio.SocketStream(sock).send_all(flood)

    with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            port = listener.getsockname()[1]
            assert await reason_of(lambda: client.names("127.0.0.1", port=port)) == "no_mapper"


async def test_silent_mapper_ends_with_the_time_given() -> None:
    async with fake_mapper(b"", keep=True) as port:
        started = trio.current_time()
        reason = await reason_of(lambda: client.lookup("127.0.0.1", "a", port=port, timeout_s=0.1))
        assert reason == "no_mapper"
        assert 0.09 < trio.current_time() - started < 1.0


async def test_every_address_of_a_host_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first address swallows everything; it gets its share of the time and no more."""
    async with fake_mapper(b"", keep=True) as deaf, fake_mapper(epmd.NOT_REGISTERED) as port:

        async def two(*_: object, **__: object) -> list[object]:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", where))
                for where in (deaf, port)
            ]

        monkeypatch.setattr(trio.socket, "getaddrinfo", two)
        assert await client.lookup("two", "a", timeout_s=0.4) is None


async def test_registration_is_held_until_the_mapper_goes() -> None:
    answer = epmd.register_response(77, highest_version=0)
    async with fake_mapper(answer, keep=True) as port:
        registration = await client.register("127.0.0.1", BILBO, port=port)
        assert (registration.name, registration.creation) == ("bilbo", 77)
        with trio.move_on_after(0.05) as scope:
            await registration.wait_lost()
        assert scope.cancelled_caught
    with trio.fail_after(2):
        await registration.wait_lost()
    registration.close()


async def test_taken_name_tells_by_whom() -> None:
    refusal = epmd.register_response(None, highest_version=0)
    async with fake_mapper(refusal, epmd.look_up_response(BILBO)) as port:
        with pytest.raises(client.NameTaken, match=r"'bilbo' is taken .* by a node on port 4371"):
            await client.register("127.0.0.1", BILBO, port=port)
    async with fake_mapper(refusal, epmd.NOT_REGISTERED) as port:
        with pytest.raises(client.NameTaken, match="by another node"):
            await client.register("127.0.0.1", BILBO, port=port)
