"""Dialling: a connection, or the word that says why there is none."""

from __future__ import annotations

import socket
import struct

import pytest
import trio
import trio.testing

from drupelet.errors import NoConnection
from drupelet.net.dialer import dial


async def reason_of(host: str, port: int, timeout_s: float = 1.5) -> str:
    with trio.fail_after(2), pytest.raises(NoConnection) as caught:
        await dial(host, port, timeout_s=timeout_s)
    return caught.value.reason


async def test_a_connected_tuned_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = await dial("127.0.0.1", server.getsockname()[1])
        with sock, server.accept()[0] as accepted:
            assert sock.getpeername() == server.getsockname()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not sock.getblocking()
            accepted.send(b"x")
            await trio.lowlevel.wait_readable(sock)
            assert sock.recv(1) == b"x"


async def test_a_closed_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert await reason_of("127.0.0.1", port) == "port_closed"


async def test_a_host_without_a_way_there() -> None:
    assert await reason_of("224.0.0.1", 1) == "no_route"  # TCP and multicast never meet


async def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_: object, **__: object) -> list[object]:  # type: ignore[override]
            raise socket.gaierror(socket.EAI_NONAME, "no such name")

        async def getnameinfo(self, *_: object) -> tuple[str, str]:
            raise AssertionError

    trio.socket.set_custom_hostname_resolver(Resolver())
    assert await reason_of("sauron.invalid", 1) == "no_route"


async def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        class Resolver(trio.abc.HostnameResolver):
            async def getaddrinfo(self, *_: object, **__: object) -> list[object]:  # type: ignore[override]
                kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
                return [(*kind, ("127.0.0.3", port)), (*kind, ("127.0.0.1", port))]

            async def getnameinfo(self, *_: object) -> tuple[str, str]:
                raise AssertionError

        trio.socket.set_custom_hostname_resolver(Resolver())
        sock = await dial("gandalf.local", port)
        with sock:
            assert sock.getpeername()[0] == "127.0.0.1"


async def test_a_host_that_says_nothing_takes_no_longer_than_allowed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def resolve(host: str, port: int) -> object:
        await trio.sleep_forever()

    monkeypatch.setattr("drupelet.net.dialer._resolve", resolve)
    started = trio.current_time()
    with pytest.raises(NoConnection, match="no_route"):
        await dial("gandalf", 1, timeout_s=1.5)
    assert trio.current_time() - started == pytest.approx(1.5)


async def test_a_reset_at_the_door_is_no_missing_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel took the connection, the node reset it, before `connect` had returned here."""

    async def connect(family: int, address: object) -> socket.socket:
        await trio.lowlevel.checkpoint()
        raise ConnectionResetError

    monkeypatch.setattr("drupelet.net.dialer._connect", connect)
    assert await reason_of("127.0.0.1", 1) == "overloaded"


async def test_cancelling_leaves_no_socket_behind() -> None:
    full = socket.socket()
    with full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        for _ in range(4):  # its backlog is full: the next connect gets no answer
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
            waiting.append(sock)
        with trio.move_on_after(0.05) as scope:
            await dial(*full.getsockname())
        assert scope.cancelled_caught
        for sock in waiting:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
