"""Nodes at a relay that let nobody in by a link; the first has a mission `light`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.config import RelayConfig
from drupelet.node import Node, open_node
from drupelet.relay.main import invite_text
from drupelet.relay.service import Relay
from drupelet.services import announcing, relay_link
from drupelet.wire.grant_files import decode_grant_file, encode_grant_file
from tests.unit.relay import nodes as relay_nodes
from tests.unit.relay.nodes import relay_at
from tests.unit.services.lights import LIGHT as CODE
from tests.unit.services.lights import TOML, grant
from tests.unit.services.nodes import make_config

INVITE = b"an invite's code"


@asynccontextmanager
async def nodes(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *names: str
) -> AsyncIterator[tuple[Relay, list[Node]]]:
    """A relay, and nodes at it that let nobody in by a link; the first has the mission light."""
    monkeypatch.setattr(relay_nodes, "NAME", "127.0.0.1")
    monkeypatch.setattr(announcing, "LOOK_S", 0.02)
    monkeypatch.setattr(relay_link, "FIRST_S", 0.05)
    missions = directory / names[0] / "missions.d"
    missions.mkdir(parents=True, exist_ok=True)
    (missions / "light.toml").write_text(TOML)
    (missions / "light.py").write_text(CODE)
    with trio.fail_after(60):
        async with contextlib.AsyncExitStack() as stack:
            relay, port = await stack.enter_async_context(relay_at(directory / "relay"))
            await relay.writer.write(lambda store: store.add_invite(INVITE, len(names)))
            url = f"http://127.0.0.1:{port}"
            running = []
            for name in names:
                config = replace(
                    make_config(directory, name, cookie=f"c{name}"),
                    relay=RelayConfig(url=(url,), invite=invite_text(INVITE)),
                )
                running.append(await stack.enter_async_context(open_node(config)))
            yield relay, running


async def give(alice: Node, bob: Node | None, to: Node, **terms: Any) -> str:
    """A grant whose file has an address at which nobody listens; its id."""
    made = await grant(alice, bob, **terms)
    file = decode_grant_file(made["text"])
    assert alice.relay is not None and file.relay == alice.relay.url
    await to.grants.accept(encode_grant_file(replace(file, addresses=(("127.0.0.1", 1),))))
    await announced(alice)
    return str(made["id"])


async def announced(node: Node) -> None:
    """Until the relay has its newest offers."""
    relay = node.relay
    assert relay is not None
    announcer = relay.announcer
    while announcer.version != announcer.offering.version():
        await announcer.announced.wait()
