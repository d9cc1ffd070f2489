"""Grants from programs: beside a daemon, as a part of its node, and as a mission of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from drupelet import missions
from drupelet.client import open_client
from drupelet.errors import NotPermitted, RemoteError, RemoteProtocolError, Revoked
from drupelet.node import Node
from drupelet.process.running import open_runtime
from drupelet.wire.keys import key_to_text
from tests.unit.services.nodes import open_small_node

LIGHT = """
from drupelet import mission, missions

@mission("light")
def temp():
    return 20

@mission("light")
def on():
    return "on"

@mission("light")
async def give():
    return (await missions.grant("light")).text
"""


def install(directory: Path) -> None:
    folder = directory / "alice" / "missions.d"
    folder.mkdir(parents=True)
    (folder / "light.toml").write_text('module = "light.py"\nexports = ["temp", "on", "give"]\n')
    (folder / "light.py").write_text(LIGHT)


def socket_of(node: Node) -> Path:
    return node.config.node.socket


async def test_grant_accept_narrow_and_revoke(tmp_path: Path) -> None:
    install(tmp_path)
    with trio.fail_after(60):
        async with (
            open_small_node(tmp_path, "alice", cookie="a") as alice,
            open_small_node(tmp_path, "bob", cookie="b") as bob,
            open_small_node(tmp_path, "dave", cookie="d") as dave,
        ):
            given = await missions.grant(
                "light", to=key_to_text(bob.key), only="temp, on", rate="100/m", burst=50,
                concurrent=2, bytes=1_000, expires="30d", delegable=1, socket=socket_of(alice),
            )  # fmt: skip
            assert "on and temp of the mission light on alice, 100 times a minute" in given.sentence
            assert "30 days" in given.sentence
            assert given.text not in repr(given)
            held = await missions.accept(given.text, socket=socket_of(bob))
            assert (held.id, await bob.call("alice", "light", "on")) == (given.id, "on")
            with pytest.raises(RemoteError, match="200 times in 20 seconds is more than"):
                await held.narrow(rate=(200, 20))
            less = await held.narrow(to=key_to_text(dave.key), only=["temp"], expires=3_600)
            await missions.accept(less.text, socket=socket_of(dave))
            assert await dave.call("alice", "light", "temp") == 20
            with pytest.raises(NotPermitted):
                await dave.call("alice", "light", "on")
            listed = await missions.grants(socket=socket_of(alice))
            assert [each["id"] for each in listed["issued"]] == [given.id]
            await missions.accept(given.text, socket=socket_of(bob))
            await held.forget()
            with pytest.raises(RemoteError, match="no grant that was accepted here"):
                await missions.forget(held.id, socket=socket_of(bob))
            await missions.accept(given.text, socket=socket_of(bob))
            assert (await given.revoke())["calls"] == 0
            for node in (bob, dave):
                with pytest.raises(Revoked):
                    await node.call("alice", "light", "temp")
            with pytest.raises(RemoteError, match="no grant, key, or mission of which one"):
                await missions.revoke("cellar", socket=socket_of(alice))


async def test_a_mission_is_not_its_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # no daemon of this machine is asked
    install(tmp_path)
    with trio.fail_after(60):
        async with open_small_node(tmp_path, "alice") as alice:
            async with open_client(socket_of(alice)) as client:
                with pytest.raises(RemoteError, match="NotPermitted: grants/issue is not for a w"):
                    await client.call("", "light", "give", timeout=20)
            assert alice.grants.listed()["issued"] == []


class Recorder:
    """The transport of a program that is part of a node."""

    congested = False

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.calls: list[tuple[object, ...]] = []

    def send(self, signal: bytes) -> None: ...

    async def wait_sendable(self) -> None:
        await trio.lowlevel.checkpoint()

    async def call(
        self, node: str, mission: str, function: str, args: Sequence[object], timeout: float
    ) -> object:
        await trio.lowlevel.checkpoint()
        self.calls.append((node, mission, function, *args))
        return self.answer

    async def cast(self, node: str, mission: str, function: str, args: Sequence[object]) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_part_of_a_node_asks_on_its_own_connection() -> None:
    transport = Recorder({"id": "1", "text": "t", "sentence": "s"})
    async with open_runtime(transport):
        made = await missions.grant("light", rate="1/s")
        await made.narrow(delegable=2)
        assert (await missions.accept("t")).id == "1"
    assert transport.calls == [
        ("", "grants", "issue", "light", "", {"rate": (1, 1), "delegable": 0}),
        ("", "grants", "narrow", "t", "", {"delegable": 2}),
        ("", "grants", "accept", "t"),
    ]


async def test_terms_that_cannot_be_read_and_answers_that_are_none() -> None:
    transport = Recorder(None)
    async with open_runtime(transport):
        for terms in ({"rate": "10"}, {"expires": "30"}, {"only": ","}):
            with pytest.raises(ValueError, match="it is|between"):
                await missions.grant("light", **terms)  # type: ignore[arg-type]
        assert transport.calls == []
        for ask in (
            lambda: missions.grant("light"),
            lambda: missions.accept("t"),
            missions.grants,
            lambda: missions.revoke("light"),
        ):
            with pytest.raises(RemoteProtocolError, match="malformed answer of grants"):
                await ask()
