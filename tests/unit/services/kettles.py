"""Kettles on two nodes of this process, for tests that ship code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from drupelet.node import Node
from tests.unit.services.nodes import open_small_node, wait_up

TEXT = """from drupelet import mission
@mission("kettle")
def boil():
    return {!r}
"""
TOML = 'module = "{}"\nexports = ["boil"]\n'


def install(directory: Path, node: str, value: object, name: str = "kettle") -> Path:
    """The operator of `node` installs a kettle that answers `value`."""
    missions = directory / node / "missions.d"
    missions.mkdir(parents=True, exist_ok=True)
    (missions / "kettle.toml").write_text(TOML.format(f"{name}.py"))
    file = missions / f"{name}.py"
    file.write_text(TEXT.format(value))
    return file


def source(value: object) -> bytes:
    return TEXT.format(value).encode()


async def ship(
    node: Node, *modules: str, mission: str | None = None, **given: bytes
) -> dict[str, object]:
    """`code/ship` as the operator does it."""
    named: list[object] = [[name, None] for name in modules]
    named += [[name, text] for name, text in given.items()]
    return await node.code.ship(named, mission)


def states(answer: dict[str, object]) -> dict[str, object]:
    """node -> state, or the error's kind."""
    nodes = answer["nodes"]
    assert isinstance(nodes, dict)
    return {
        name: found["state"] if found["ok"] else found["error"]["kind"]
        for name, found in nodes.items()
    }


def digest(node: Node, mission: str = "kettle") -> str:
    return node.missions.digest(mission).hex()


@asynccontextmanager
async def two(
    directory: Path, one: object = "old", other: object = "old"
) -> AsyncIterator[tuple[Node, Node]]:
    """alice and bob, each with a kettle."""
    install(directory, "alice", one)
    install(directory, "bob", other)
    with trio.fail_after(60):
        async with open_small_node(directory, "alice") as alice:
            async with open_small_node(directory, "bob", alice) as bob:
                await wait_up(alice, "bob")
                await wait_up(bob, "alice")
                yield alice, bob
