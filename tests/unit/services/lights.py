"""Nodes that are no members of each other; the first has a mission `light`, with real workers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from drupelet.node import Node
from drupelet.wire.keys import key_to_text
from tests.unit.services.nodes import open_small_node

LIGHT = """
import trio
from drupelet import mission

@mission("light")
def on():
    return "on"

@mission("light")
def temp(offset: int = 0):
    return 20 + offset

@mission("light")
def size(text: str):
    return len(text)

@mission("light")
async def slow(seconds: float):
    await trio.sleep(seconds)
    return "slow"

def wipe():
    return "wiped"
"""
TOML = 'module = "light.py"\nexports = ["on", "temp", "size", "slow"]\n'


@asynccontextmanager
async def nodes(directory: Path, *names: str) -> AsyncIterator[list[Node]]:
    """Nodes with a cookie each; the first has the mission light."""
    missions = directory / names[0] / "missions.d"
    missions.mkdir(parents=True, exist_ok=True)
    (missions / "light.toml").write_text(TOML)
    (missions / "light.py").write_text(LIGHT)
    with trio.fail_after(60):
        async with contextlib.AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(open_small_node(directory, name, cookie=f"c{name}"))
                for name in names
            ]


async def grant(alice: Node, holder: Node | None, **terms: Any) -> dict[str, Any]:
    text = key_to_text(holder.key) if holder is not None else ""
    return await alice.grants.issue("light", text, terms)
