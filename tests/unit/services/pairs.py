"""Two routers joined by a socket pair, for the tests of services: no network, no processes."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
import trio.testing

from drupelet.errors import NoConnection
from drupelet.net.channel import Channel, Flusher
from drupelet.services.calls import Calls
from drupelet.services.deadlines import Deadlines
from drupelet.services.endpoint import Endpoint
from drupelet.services.missions import Export

MEMBERS = frozenset({"member", "operator"})


class OneNode:
    """A directory that knows one other node, "bob"."""

    def __init__(self, own_name: str) -> None:
        self.own_name = own_name
        self.endpoints: dict[str, Endpoint] = {}
        self.reason = "no_such_node"

    def endpoint(self, node: str) -> Endpoint | None:
        return self.endpoints.get(node)

    async def connect(self, node: str) -> Endpoint:
        await trio.lowlevel.checkpoint()
        raise NoConnection(self.reason)

    def connected(self) -> list[str]:
        return sorted(self.endpoints)


@dataclass
class Side:
    """One process's worth of services."""

    calls: Calls
    directory: OneNode
    exports: dict[bytes, Export]
    flusher: Flusher
    deadlines: Deadlines

    def serve(
        self, mission: str, rings: frozenset[str] = MEMBERS, **functions: Callable[..., object]
    ) -> None:
        for name, function in functions.items():
            target = f"{mission}/{name}".encode()
            self.exports[target] = make_export(target, inline=function, rings=rings)


def make_export(
    target: bytes,
    *,
    inline: Callable[..., object] | None = None,
    endpoint: Endpoint | None = None,
    rings: frozenset[str] = MEMBERS,
    digest: bytes = b"",
) -> Export:
    mission, _, function = target.decode().partition("/")
    export = Export(target=target, mission=mission, function=function, rings=rings)
    export.inline = inline
    export.endpoint = endpoint
    export.digest = digest
    return export


@asynccontextmanager
async def open_side(name: str) -> AsyncIterator[Side]:
    async with trio.open_nursery() as nursery:
        flusher = Flusher(nursery)
        deadlines = Deadlines()
        nursery.start_soon(flusher.run)
        nursery.start_soon(deadlines.run)
        exports: dict[bytes, Export] = {}
        calls = Calls(exports, nursery)
        calls.own_name = name.encode()
        directory = OneNode(name)
        calls.directory = directory
        yield Side(calls, directory, exports, flusher, deadlines)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def joined(
    alice: Side, bob: Side, *, ring: str = "member", opener_ring: str = "member"
) -> AsyncIterator[tuple[Endpoint, Endpoint]]:
    """Alice's endpoint to Bob (the opener) and Bob's to Alice, whom he takes for a `ring`."""
    left, right = socket.socketpair()
    ours = Endpoint(
        Channel(left, alice.flusher),
        alice.calls,
        alice.deadlines,
        opener=True,
        ring=opener_ring,
        name="bob",
    )
    theirs = Endpoint(
        Channel(right, bob.flusher), bob.calls, bob.deadlines, opener=False, ring=ring, name="alice"
    )
    alice.directory.endpoints["bob"] = ours
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.run)
        nursery.start_soon(theirs.run)
        await trio.testing.wait_all_tasks_blocked()
        yield ours, theirs
        ours.close(NoConnection("stopping"))
        theirs.close(NoConnection("stopping"))
    alice.directory.endpoints.pop("bob", None)
