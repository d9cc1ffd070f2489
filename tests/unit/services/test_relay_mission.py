"""The `relay` mission: a node's connection to its relay, for its operator."""

from __future__ import annotations

from pathlib import Path

import pytest

from drupelet.errors import CallError, NotPermitted, RemoteError
from drupelet.services.relay_mission import RelayMission
from drupelet.wire.keys import key_to_text
from tests.unit.services.lights import grant
from tests.unit.services.nodes import open_small_node
from tests.unit.services.relayed import announced, give, nodes


def mission(node: object) -> RelayMission:
    return RelayMission(node.relay, node.grants.accepted)  # type: ignore[attr-defined]


async def test_what_is_told_of_the_relay_and_of_who_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        await announced(bob)
        told = mission(bob).status()
        assert bob.relay is not None
        assert (told["state"], told["way"], told["url"]) == ("up", "websocket", bob.relay.url)
        assert told["account"] == key_to_text(bob.key) and told["why"] == ""
        [row] = await mission(bob).catalogue()
        assert row == {
            "name": "alice",
            "key": key_to_text(alice.key),
            "missions": ["light"],
            "granted": ["light"],
        }
        bob.grants.accepted.keep([])
        [row] = await mission(bob).catalogue()
        assert row["granted"] == []  # made, and not yet accepted
        assert await mission(alice).catalogue() == []


async def test_a_new_grant_is_there_within_two_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the haste of these tests: LOOK_S as it is, and an idle machine's share of it."""
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        monkeypatch.undo()
        assert await mission(bob).catalogue() == []
        made = await grant(alice, bob)
        await announced(alice)
        assert [row["name"] for row in await mission(bob).catalogue()] == ["alice"]
        await alice.grants.revoke(made["id"])
        await announced(alice)
        assert await mission(bob).catalogue() == []


async def test_without_a_relay(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "alice") as alice:
        told = mission(alice).status()
        assert told["state"] == "off" and "set [relay] url" in str(told["mend"])
        with pytest.raises(RemoteError, match="uses no relay: set"):
            await mission(alice).catalogue()


async def test_it_is_the_operators(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "alice") as alice:
        async with open_small_node(tmp_path, "bob", alice) as bob:
            for function in ("status", "catalogue"):
                with pytest.raises(CallError) as caught:
                    await bob.call("alice", "relay", function)
                assert isinstance(caught.value, NotPermitted)
