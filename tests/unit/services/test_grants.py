"""Grants between two nodes of this process that are no members of each other, with real workers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from drupelet.errors import NoConnection, NotPermitted, RateLimited, RemoteError, Revoked
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


async def test_bob_calls_what_alice_granted_and_nothing_else(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob", "charlie") as (alice, bob, charlie):
        with pytest.raises(NoConnection):
            await bob.call("alice", "light", "temp")
        made = await grant(alice, bob, functions=["temp"])
        shown = await bob.grants.accept(made["text"])
        assert (shown["name"], shown["id"]) == ("alice", made["id"])
        assert await bob.call("alice", "light", "temp") == 20
        assert await bob.call("alice", "light", "temp", 5) == 25
        refusals = set()
        for mission, function in (
            ("light", "on"), ("light", "wipe"), ("light", "no_such"), ("no_such", "on"),
            ("node", "info"), ("os", "system"), ("light", "__import__"), ("grants", "issue"),
            ("grants", "merge"), ("process", "list"), ("code", "load"),
        ):  # fmt: skip
            with pytest.raises(NotPermitted) as caught:
                await bob.call("alice", mission, function)
            refusals.add(str(caught.value))
        assert refusals == {"not permitted"}
        with pytest.raises(NoConnection):  # not reciprocal
            await alice.call("bob", "light", "temp")
        with pytest.raises(RemoteError, match="for the key"):  # not for others
            await charlie.grants.accept(made["text"])


async def test_the_way_back_of_a_strangers_link_has_no_rights(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await bob.grants.accept((await grant(alice, bob))["text"])
        await bob.call("alice", "light", "temp")
        (link,) = alice.links.stranger_links._links
        from drupelet.wire import frames
        from drupelet.wire.codec import dumps

        for target in (b"node/info", b"light/on", b"process/list"):
            with pytest.raises(NotPermitted):
                await link.endpoint.call(
                    frames.call_body(target, b""), dumps([]), trio.current_time() + 5
                )


async def test_whoever_has_the_file_may_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "drupelet.grants")
    async with nodes(tmp_path, "alice", "bob", "charlie") as (alice, bob, charlie):
        made = await grant(alice, None, functions=["temp"])
        assert "Keep it secret" in made["text"]
        for node in (bob, charlie):
            await node.grants.accept(made["text"])
            assert await node.call("alice", "light", "temp") == 20
            with pytest.raises(NotPermitted):
                await node.call("alice", "light", "on")
        shown = [each.getMessage() for each in caplog.records if "grant_shown" in each.message]
        assert shown == [
            f"grant_shown id={made['id']} key={key_to_text(node.key)}" for node in (bob, charlie)
        ]


async def test_narrowed_for_charlie(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob", "charlie") as (alice, bob, charlie):
        made = await grant(alice, bob, functions=["temp", "on"], delegable=1)
        key = key_to_text(charlie.key)
        with pytest.raises(RemoteError, match="not among the functions"):
            await bob.grants.narrow(made["text"], key, {"functions": ["slow"]})
        less = await bob.grants.narrow(made["text"], key, {"functions": ["temp"]})
        await charlie.grants.accept(less["text"])  # type: ignore[arg-type]
        assert await charlie.call("alice", "light", "temp") == 20
        with pytest.raises(NotPermitted):
            await charlie.call("alice", "light", "on")


async def test_the_rate(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await bob.grants.accept((await grant(alice, bob, rate=[3, 3_600]))["text"])
        for _ in range(3):
            await bob.call("alice", "light", "temp")
        with pytest.raises(RateLimited) as caught:
            await bob.call("alice", "light", "temp")
        assert 0 < caught.value.retry_after_s <= 1_200


async def test_large_arguments_and_values(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await bob.grants.accept((await grant(alice, bob, bytes=2_000_000))["text"])
        assert await bob.call("alice", "light", "size", "x" * 1_000_000) == 1_000_000
        with pytest.raises(NotPermitted, match="the grant allows 2000000"):
            await bob.call("alice", "light", "size", "x" * 3_000_000)
        await bob.cast("alice", "light", "temp")
        for answer in await bob.call_many("alice", "light", "temp", [[1], [2]]):
            assert isinstance(answer, NotPermitted)


async def test_revoking_cancels_what_runs_and_refuses_what_comes(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        made = await grant(alice, bob)
        await bob.grants.accept(made["text"])
        outcomes: list[object] = []

        async def call() -> None:
            try:
                outcomes.append(await bob.call("alice", "light", "slow", 60, timeout=90))
            except Revoked as error:
                outcomes.append(error.word)

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(call)
            while len(alice.grants._running) < 50:
                await trio.lowlevel.checkpoint()
            answer = await alice.grants.revoke(made["id"])
            assert answer["calls"] == 50
            assert not alice.grants._running
        assert outcomes == ["revoked"] * 50
        with pytest.raises(Revoked):
            await bob.call("alice", "light", "temp")
        listed = alice.grants.listed()
        assert listed["issued"] == []


async def test_it_holds_after_a_start(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        gone, kept = await grant(alice, bob, functions=["on"]), await grant(alice, bob)
        await alice.grants.revoke(gone["id"])
        await bob.grants.accept(kept["text"])
        await bob.grants.accept(gone["text"])
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        again = await bob.grants.accept(kept["text"].replace("# ", "# hello "))
        assert again["id"] == kept["id"]
        bob.grants.accepted.keep(
            [
                each.__class__(
                    grant=each.grant, name=each.name, addresses=(("127.0.0.1", alice.port),)
                )
                for each in bob.grants.accepted.files()
            ]
        )
        assert await bob.call("alice", "light", "temp") == 20
        await alice.grants.revoke("light")
        with pytest.raises(Revoked):
            await bob.call("alice", "light", "temp")


async def test_a_node_that_granted_nothing_lets_no_strangers_in(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        with pytest.raises(NoConnection):
            await bob.links.stranger_links.dial("127.0.0.1", alice.port, alice.key)


async def test_the_key_at_the_other_end_is_the_issuers(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await grant(alice, bob)
        endpoint = await bob.links.stranger_links.dial("127.0.0.1", alice.port, alice.key)
        assert endpoint.ring == "stranger"
        with pytest.raises(NoConnection, match="wrong_node"):
            await bob.links.stranger_links.dial("127.0.0.1", alice.port, bob.key)


@pytest.mark.parametrize(
    ("mission", "holder", "terms", "words"),
    [
        ("lihgt", "", {}, "no mission 'lihgt' here, but light"),
        ("node", "", {}, "no mission 'node' here"),
        ("light", "", {"functions": ["wipe"]}, "exports no 'wipe', but on, size"),
        ("light", "nobody", {}, "neither a member's name nor a key"),
        ("light", "", {"rate": [0, 1]}, "a rate is"),
        ("light", "", {"rate": "10/m"}, "wrong kind"),
        ("light", "", {"until": 5}, "terms are"),
        ("light", "", {"delegable": True}, "wrong kind"),
    ],
)
async def test_mistakes_are_told_at_once(
    tmp_path: Path, mission: str, holder: str, terms: dict[str, Any], words: str
) -> None:
    async with nodes(tmp_path, "alice") as (alice,):
        with pytest.raises(RemoteError, match=words):
            await alice.grants.issue(mission, holder, terms)
        assert alice.grants.listed()["issued"] == []
