"""A node's side of a relay over HTTP, against the relay itself."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from drupelet.net.relay_http import RelayHttp, open_http
from drupelet.net.relay_way import Place, RelayGone
from drupelet.wire import relay as wire
from drupelet.wire.limits import RELAY_MESSAGE_BYTES_MAX
from drupelet.wire.relay import RelayRefused
from tests.unit.relay import nodes
from tests.unit.relay.nodes import ALICE, BOB, TRUDY, Node, relay_at, send


@asynccontextmanager
async def relay(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *known: Node
) -> AsyncIterator[str]:
    """A relay that goes by the name 127.0.0.1; its address."""
    monkeypatch.setattr(nodes, "NAME", "127.0.0.1")
    with trio.fail_after(60):
        async with relay_at(directory, *known) as (_, port):
            yield f"http://127.0.0.1:{port}"


async def test_messages_and_their_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with relay(tmp_path, monkeypatch, ALICE, BOB) as url:
        alice, bob = RelayHttp(Place(url, ALICE.seed)), RelayHttp(Place(url, BOB.seed))
        await alice.login()
        await bob.login()
        assert len(alice.run_id) == 16 and alice.run_id == bob.run_id
        largest = send(BOB, bytes(RELAY_MESSAGE_BYTES_MAX))
        asked = send(BOB, b"request")
        assert await bob.poll(0, 0.0) == []
        async with trio.open_nursery() as nursery:
            got: list[wire.Deliver] = []

            async def take() -> None:
                got.extend(await bob.poll(0))

            nursery.start_soon(take)
            assert await alice.ask(asked) is None
        [message] = got
        assert (message.sender, message.id, message.body) == (ALICE.key, asked.id, b"request")
        await bob.ask(wire.Ack(ref=0, number=message.number))
        await alice.ask(largest)
        [second] = await bob.poll(message.number)
        assert second.number > message.number and len(second.body) == RELAY_MESSAGE_BYTES_MAX
        alice.close()
        bob.close()
        with pytest.raises(RelayRefused, match="^denied"):  # the session went with it
            await bob.poll(0)
        bob.close()


async def test_registering_and_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with relay(tmp_path, monkeypatch, ALICE) as url:
        trudy = RelayHttp(Place(url, TRUDY.seed))
        with pytest.raises(RelayRefused, match="^not_registered"):
            await trudy.login()
        with pytest.raises(RelayRefused, match="^bad_invite"):
            await trudy.register("trudy", invite=bytes(16))
        with pytest.raises(RelayRefused, match="^denied"):
            await trudy.ask(send(ALICE))
        trudy.close()


async def test_a_poll_that_is_given_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relay(tmp_path, monkeypatch, ALICE) as url:
        alice = RelayHttp(Place(url, ALICE.seed))
        await alice.login()
        with trio.move_on_after(0.05) as scope:
            await alice.poll(0)
        assert scope.cancelled_caught
        assert await alice.poll(0, 0.0) == []  # another connection
        alice.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + bytes(300_000),
    ],
)
async def test_what_is_no_relay_is_told_as_such(answer: bytes) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_accept_one, listeners[0], serve)
            url = f"http://127.0.0.1:{port_of(listeners[0])}"
            client = RelayHttp(Place(url, os.urandom(32)))
            with pytest.raises(RelayGone):
                await client.login()
            client.close()
            await listeners[0].aclose()
    with pytest.raises(RelayGone):  # nobody listens
        await client.login()


async def _accept_one(listener: trio.SocketListener, serve: object) -> None:
    assert callable(serve)
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it had read enough
        await serve(await listener.accept())


def port_of(listener: trio.SocketListener) -> int:
    name: tuple[str, int] = listener.socket.getsockname()
    return name[1]


async def test_tls_is_not_left_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        port = plain.getsockname()[1]
        place = Place(f"https://127.0.0.1:{port}", os.urandom(32), tmp_path / "no.pem")
        client = RelayHttp(place)
        with pytest.raises(RelayGone, match=r"no\.pem"):
            await client.login()


async def test_an_idle_connection_that_the_relay_ended_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relay(tmp_path, monkeypatch, ALICE, BOB) as url:
        alice = RelayHttp(Place(url, ALICE.seed))
        await alice.login()
        for line in alice._open.values():
            assert line.connection.sock is not None
            line.connection.sock.shutdown(socket.SHUT_RDWR)
        await alice.ask(send(BOB))
        alice.close()


async def test_what_is_begun_is_asked_when_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relay(tmp_path, monkeypatch, ALICE, BOB) as url:
        async with open_http(Place(url, ALICE.seed)) as alice:
            await alice.login()
            first, second = send(ALICE, b"1"), send(ALICE, b"2")
            asked = [await alice.begin(each) for each in (first, second)]
            for each in asked:
                assert await each.value() is None
            assert [each.id for each in await alice.messages()] == [first.id, second.id]
            await alice.ask(send(ALICE, b"3"))
            assert [each.body for each in await alice.messages()] == [b"3"]  # each once
        assert not alice._open
