"""Whole nodes inside the test's process: on loopback, without discovery, mapper or workers."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from drupelet.config import (
    Config,
    LinkConfig,
    MdnsConfig,
    MissionsConfig,
    NodeConfig,
    PortMapperConfig,
)
from drupelet.config_values import Peer
from drupelet.net.dialer import dial
from drupelet.net.secure_stream import initiate
from drupelet.node import Node, open_node
from drupelet.wire.handshake import ROLE_MEMBER, Credentials, Established, Initiator


def make_config(
    directory: Path,
    name: str,
    *,
    peers: tuple[Peer, ...] = (),
    cookie: str = "cookie",
    port: int = 0,
) -> Config:
    state_dir = directory / name
    missions = state_dir / "missions.d"
    missions.mkdir(parents=True, exist_ok=True)
    return Config(
        node=NodeConfig(
            name=name, state_dir=state_dir, socket=state_dir / "sock", environment="dev"
        ),
        link=LinkConfig(
            listen=("127.0.0.1",),
            port_min=port,
            port_max=port,
            peers=peers,
            cookie_file=directory / cookie,
        ),
        mdns=MdnsConfig(enabled=False),
        portmapper=PortMapperConfig(enabled=False, port=1),  # whatever runs on this machine
        missions=MissionsConfig(dir=missions, launcher="subprocess"),
    )


@asynccontextmanager
async def open_small_node(
    directory: Path, name: str, *known: Node, cookie: str = "cookie"
) -> AsyncIterator[Node]:
    """A node that knows the addresses of `known`."""
    peers = tuple(Peer(name=each.name, host="127.0.0.1", port=each.port) for each in known)
    async with open_node(make_config(directory, name, peers=peers, cookie=cookie)) as node:
        yield node


async def wait_up(node: Node, name: str, *, up: bool = True) -> None:
    """Until `node` sees `name` come up (or go down)."""
    changed = trio.Event()
    node.links.listen(lambda event: changed.set())
    with trio.fail_after(5):
        while (node.links.endpoint(name) is not None) != up:
            await changed.wait()
            changed = trio.Event()


async def shake(node: Node, credentials: Credentials) -> tuple[socket.socket, Established]:
    """A member's handshake by hand, for what comes after it."""
    sock = await dial("127.0.0.1", node.port)
    machine = Initiator(credentials, role=ROLE_MEMBER, ephemeral=secrets.token_bytes(32))
    return sock, await initiate(sock, machine)
