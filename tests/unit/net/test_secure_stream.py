"""The handshake over a socket: what each side reads into bytes, silence, an end and a reset."""

from __future__ import annotations

import secrets
import socket
import struct
from collections.abc import Iterator

import pytest
import trio

from drupelet.errors import RemoteProtocolError
from drupelet.net.secure_stream import initiate, respond
from drupelet.wire.handshake import (
    ROLE_MEMBER,
    Credentials,
    Established,
    HandshakeRefused,
    Initiator,
    Responder,
    make_credentials,
)
from drupelet.wire.records import RecordOpener, RecordSealer
from tests.people import ALICE, BOB, Person

PSK = b"p" * 32


def credentials(person: Person, name: str, *psks: bytes) -> Credentials:
    return make_credentials(
        person.key_seed,
        secrets.token_bytes(32),
        name=name,
        incarnation=1,
        port=4370,
        software="test",
        psks=psks or (PSK,),
    )


def initiator(*psks: bytes, **options: int) -> Initiator:
    return Initiator(
        credentials(ALICE, "alice", *psks),
        role=ROLE_MEMBER,
        ephemeral=secrets.token_bytes(32),
        **options,
    )


def responder(*psks: bytes) -> Responder:
    return Responder(
        credentials(BOB, "bob", *psks),
        ephemeral=secrets.token_bytes(32),
        accept_strangers=False,
    )


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield left, right


async def test_two_members_know_each_other_and_share_keys(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    found: dict[str, Established] = {}

    async def answer() -> None:
        found["bob"] = await respond(sockets[1], responder())

    with trio.fail_after(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            found["alice"] = await initiate(sockets[0], initiator())
    assert found["alice"].peer.name == "bob"
    assert found["bob"].peer.name == "alice"
    record = RecordSealer(found["alice"].send).seal(b"hello")
    assert RecordOpener(found["bob"].receive).receive_data(record) == [b"hello"]


async def refusals(
    sockets: tuple[socket.socket, socket.socket], ours: Initiator, theirs: Responder
) -> tuple[str, str]:
    """What the dialling and the accepting side say of one handshake."""
    words = {"dialled": "", "accepted": ""}

    async def answer() -> None:
        try:
            await respond(sockets[1], theirs)
        except (HandshakeRefused, RemoteProtocolError) as error:
            words["accepted"] = getattr(error, "reason", "protocol")
        sockets[1].close()

    with trio.fail_after(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            try:
                await initiate(sockets[0], ours)
            except HandshakeRefused as refused:
                words["dialled"] = refused.reason
    return words["dialled"], words["accepted"]


async def test_another_cookie_is_silence_that_the_dialler_can_read(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    told = await refusals(sockets, initiator(b"q" * 32), responder())
    assert told == ("bad_cookie", "protocol")


async def test_another_version_is_told_to_a_member(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    assert await refusals(sockets, initiator(version=9), responder()) == ("version", "version")


async def test_either_of_two_cookies_is_taken(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    assert await refusals(sockets, initiator(), responder(b"q" * 32, PSK)) == ("", "")


async def test_a_reset_says_nothing_of_the_cookie() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        with sock:
            sock.setblocking(False)
            accepted, _ = server.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()
            with trio.fail_after(2), pytest.raises(HandshakeRefused) as caught:
                await initiate(sock, initiator())
    assert caught.value.reason == "overloaded"


async def test_an_end_after_the_first_answer_is_no_cookie_either(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    async def answer() -> None:
        machine = responder()
        await trio.lowlevel.wait_readable(sockets[1])
        whole = machine.receive_data(sockets[1].recv(4_096))
        sockets[1].send(whole[:10])
        sockets[1].close()

    with trio.fail_after(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with pytest.raises(HandshakeRefused) as caught:
                await initiate(sockets[0], initiator())
    assert caught.value.reason == "closed"


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff", b"\0\0"])
async def test_junk_gets_no_answer(
    sockets: tuple[socket.socket, socket.socket], junk: bytes
) -> None:
    sockets[0].send(junk)
    sockets[0].shutdown(socket.SHUT_WR)
    with trio.fail_after(2), pytest.raises((RemoteProtocolError, HandshakeRefused)):
        await respond(sockets[1], responder())
    with pytest.raises(BlockingIOError):
        sockets[0].recv(1)


async def test_one_byte_at_a_time_does(sockets: tuple[socket.socket, socket.socket]) -> None:
    machine = initiator()
    first = machine.start()

    async def drip() -> None:
        for index in range(len(first)):
            sockets[0].send(first[index : index + 1])
            await trio.lowlevel.checkpoint()
        while machine.established is None:
            await trio.lowlevel.wait_readable(sockets[0])
            sockets[0].send(machine.receive_data(sockets[0].recv(7)))

    with trio.fail_after(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            established = await respond(sockets[1], responder())
    assert established.peer.name == "alice"
