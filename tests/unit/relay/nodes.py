"""Nodes for the relay's tests: keys, announcements, and a client over a real WebSocket."""

from __future__ import annotations

import itertools
import os
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from drupelet.core.relay import Account, Rate, Standing
from drupelet.relay.listening import Server, open_listeners
from drupelet.relay.service import Relay
from drupelet.relay.store import Store
from drupelet.relay.web import Web
from drupelet.wire import relay as wire
from drupelet.wire import sodium
from drupelet.wire.announcements import encode_announcement, encode_offers
from drupelet.wire.limits import RELAY_FRAME_BYTES_MAX

NAME = "relay.test"
FREE: Mapping[str, Rate] = {
    kind: Rate(count=100_000, period_s=1, burst=100_000)
    for kind in ("send", "announce", "ask", "login", "session", "register")
}


@dataclass(frozen=True)
class Node:
    """Somebody with a key."""

    seed: bytes

    @property
    def key(self) -> bytes:
        return sodium.ed25519_public(self.seed)

    def login(self, nonce: bytes, *, ref: int = 0, audience: str = NAME) -> wire.Login:
        proof = wire.prove(self.seed, "login", audience, nonce)
        return wire.Login(ref=ref, key=self.key, audience=audience, signature=proof)

    def register(
        self, nonce: bytes, *, invite: bytes | None = None, email: str | None = None
    ) -> wire.Register:
        proof = wire.prove(self.seed, "register", NAME, nonce)
        return wire.Register(
            ref=0,
            key=self.key,
            audience=NAME,
            signature=proof,
            name="node",
            invite=invite,
            email=email,
        )

    def announcement(self, run: bytes, sequence: int, *holders: Node) -> bytes:
        offers = {"kitchen": tuple(holder.key for holder in holders)}
        return encode_announcement(
            self.seed,
            name="node",
            boot_key=bytes(32),
            token=bytes(16),
            run=run,
            sequence=sequence,
            offers=encode_offers(self.key, offers),
        )


def node(number: int) -> Node:
    return Node(number.to_bytes(32, "big"))


ALICE, BOB, TRUDY = node(1), node(2), node(3)


def send(to: Node, body: bytes = b"sealed", **changed: Any) -> wire.Send:
    fields: dict[str, Any] = {
        "ref": 0,
        "to": to.key,
        "id": os.urandom(16),
        "re": None,
        "kept_s": 3_600,
        "receipt": False,
        "body": body,
    }
    return wire.Send(**{**fields, **changed})


def approved(store: Store, *nodes: Node) -> None:
    accounts = [
        Account(key=one.key, name="node", email="", standing=Standing.APPROVED) for one in nodes
    ]
    store.commit(
        [lambda store, account=account: store.put_account(account) for account in accounts]
    )


class Client:
    """A node's end of `/v1/link`. What is delivered waits in `inbox`."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.socket = socket
        self.closed = trio.Event()
        self.hello: wire.Hello
        self._refs = itertools.count(1)
        self._answers: dict[int, wire.FromRelay] = {}
        self._answered = trio.Event()
        self._in, self.inbox = trio.open_memory_channel[wire.Deliver](2_000)

    async def start(self) -> None:
        """Read the hello."""
        hello = wire.decode_from_relay(await self.socket.get_message())
        assert isinstance(hello, wire.Hello)
        self.hello = hello

    async def read(self) -> None:
        """Until the socket closes."""
        while True:
            told = wire.decode_from_relay(await self.socket.get_message())
            if isinstance(told, wire.Deliver):
                self._in.send_nowait(told)
                continue
            assert isinstance(told, wire.Done | wire.Refused)
            self._answers[told.ref] = told
            self._answered.set()
            self._answered = trio.Event()

    async def ask(self, message: Any) -> Any:
        """The value of the answer. Raises: `RelayRefused`."""
        ref = next(self._refs)
        fields = {name: getattr(message, name) for name in message.__slots__}
        await self.socket.send_message(wire.encode(type(message)(**{**fields, "ref": ref})))
        while ref not in self._answers:
            await self._answered.wait()
        told = self._answers.pop(ref)
        if isinstance(told, wire.Refused):
            raise wire.RelayRefused(told.code, told.text, told.retry_after_ms / 1_000)
        assert isinstance(told, wire.Done)
        return told.value

    async def take(self, count: int = 1) -> list[wire.Deliver]:
        """The next messages, acknowledged."""
        taken = [await self.inbox.receive() for _ in range(count)]
        await self.ask(wire.Ack(ref=0, number=taken[-1].number))
        return taken


@asynccontextmanager
async def connected(
    port: int, who: Node | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Client]:
    """A client of `who`, logged in."""
    stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
    if tls is not None:
        stream = trio.SSLStream(stream, tls, server_hostname=NAME, https_compatible=True)
    async with stream, trio.open_nursery() as nursery:
        socket = await wrap_client_stream(
            nursery, stream, "127.0.0.1", "/v1/link", max_message_size=RELAY_FRAME_BYTES_MAX
        )
        client = Client(socket)
        await client.start()
        nursery.start_soon(_read_quietly, client)
        if who is not None:
            await client.ask(who.login(client.hello.nonce))
        yield client
        await socket.aclose()
        nursery.cancel_scope.cancel()


async def _read_quietly(client: Client) -> None:

    with suppress(ConnectionClosed):
        await client.read()
    client.closed.set()


@asynccontextmanager
async def relay_at(
    directory: Path, *nodes: Node, rates: Mapping[str, Rate] = FREE, **options: Any
) -> AsyncIterator[tuple[Relay, int]]:
    """A relay on a port of this machine, where `nodes` have accounts."""
    store = Store(directory)
    try:
        approved(store, *nodes)
        relay = Relay(store, names=[NAME], entropy=os.urandom, rates=rates)
        server = Server(Web(relay, entropy=os.urandom, **options).app)
        async with open_listeners(["127.0.0.1:0"]) as listeners, trio.open_nursery() as nursery:
            port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(relay.run)
            nursery.start_soon(server.serve, listeners)
            yield relay, port
            nursery.cancel_scope.cancel()
    finally:
        store.close()


def refused(code: str) -> pytest.RaisesExc[wire.RelayRefused]:
    return pytest.raises(wire.RelayRefused, match=f"^{code}")


@asynccontextmanager
async def running(directory: Path, *nodes: Any, **options: Any) -> AsyncIterator[Relay]:
    store = Store(directory)
    try:
        approved(store, *nodes)
        relay = Relay(store, names=[NAME], entropy=os.urandom, **{"rates": FREE, **options})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.run)
            yield relay
            nursery.cancel_scope.cancel()
    finally:
        store.close()


def certificate(directory: Path, name: str = f"DNS:{NAME}") -> Path:
    """Makes cert.pem, for that name, and key.pem; openssl must be installed."""
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=relay"
    files = ["-addext", f"subjectAltName={name}", "-keyout", "key.pem", "-out", "cert.pem"]
    command = ["openssl", *made.split(), *files]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    return directory / "cert.pem"
