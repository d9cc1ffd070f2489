"""Connections: each ends alone, and there are only so many."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.relay import listening
from drupelet.relay.listening import Server, open_listeners

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@asynccontextmanager
async def serving(app: Any = hello, **options: Any) -> AsyncIterator[tuple[Server, int]]:
    server = Server(app, **options)
    async with open_listeners(["127.0.0.1:0"]) as listeners, trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, listeners)
        yield server, listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def asked(stream: trio.SocketStream) -> bytes:
    await stream.send_all(REQUEST)
    answer = b""
    with trio.fail_after(5):
        while not answer.endswith(b"0\r\n\r\n"):  # the last chunk
            more = await stream.receive_some(65_536)
            assert more
            answer += more
    return answer


async def test_requests_on_one_connection() -> None:
    async with serving() as (server, port):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            for _again in range(3):
                assert b"200" in await asked(stream)
            assert server.connections == 1
        with trio.fail_after(5):
            while server.connections:
                await trio.testing.wait_all_tasks_blocked(0.01)


@pytest.mark.parametrize("maximum", ["connections_max", "per_address_max"])
async def test_connections_at_the_maximum_and_one_above(maximum: str) -> None:
    async with serving(**{maximum: 2}) as (_, port):
        first = await trio.open_tcp_stream("127.0.0.1", port)
        second = await trio.open_tcp_stream("127.0.0.1", port)
        async with first, second:
            assert b"200" in await asked(first)
            assert b"200" in await asked(second)
            third = await trio.open_tcp_stream("127.0.0.1", port)
            async with third:
                with trio.fail_after(5):
                    with suppress(trio.BrokenResourceError):
                        assert await third.receive_some(1) == b""
            assert b"200" in await asked(first)


async def test_an_error_in_one_connection_is_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = []

    class Fragile(listening._Connection):
        async def run(self) -> None:
            made.append(self)
            if len(made) == 1:
                raise UnicodeDecodeError("ascii", b"", 0, 1, "planted")
            await super().run()

    monkeypatch.setattr(listening, "_Connection", Fragile)
    with caplog.at_level(logging.WARNING):
        async with serving() as (_, port):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                assert await stream.receive_some(1) == b""
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                assert b"200" in await asked(stream)
    assert "planted" in caplog.text


@pytest.mark.parametrize("junk", [b"\xff" * 300, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /\r\n"])
async def test_junk_ends_nothing_but_itself(junk: bytes) -> None:
    async with serving() as (_, port):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(junk)
            await stream.send_eof()
            with trio.fail_after(5):
                while await stream.receive_some(65_536):
                    pass
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert b"200" in await asked(stream)


async def test_compression_is_not_agreed_upon() -> None:
    async def accepting(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    offer = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
    )
    async with serving(accepting) as (_, port):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(offer)
            answer = b""
            with trio.fail_after(5):
                while b"\r\n\r\n" not in answer:
                    more = await stream.receive_some(65_536)
                    assert more
                    answer += more
    assert answer.startswith(b"HTTP/1.1 101") and b"deflate" not in answer


async def test_stopping_does_not_wait_for_who_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hypercorn shields its sending; the socket is closed under it."""
    monkeypatch.setattr(listening, "GRACE_S", 0.05)
    sending = trio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        sending.set()
        while True:
            await send({"type": "http.response.body", "body": bytes(65_536), "more_body": True})

    with trio.fail_after(10):
        async with serving(endless) as (_, port):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(REQUEST)
            await sending.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)
    await stream.aclose()


async def test_addresses_that_cannot_be_had_are_told() -> None:
    async with open_listeners(["127.0.0.1:0", "[::1]:0"]) as listeners:
        assert len(listeners) == 2
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(OSError):
            async with open_listeners([f"127.0.0.1:{port}"]):
                pass


async def test_the_kernel_asks_whether_a_silent_peer_is_there() -> None:
    options = ("SO_KEEPALIVE", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_USER_TIMEOUT")
    found: list[int] = []
    async with serving(hello) as (server, port):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert b"200" in await asked(stream)
            [accepted] = server._streams
            for option in options:
                level = socket.SOL_SOCKET if option[:2] == "SO" else socket.IPPROTO_TCP
                found.append(accepted.socket.getsockopt(level, getattr(socket, option)))
    assert found == [1, listening.ALIVE_S, listening.ASK_S, listening.DEAD_S * 1_000]
