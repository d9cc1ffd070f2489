"""Clones: what a third node saw is told to the one that cannot see it, and shown on all."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from drupelet.client import open_client
from drupelet.core.clones import CLONES_MAX
from drupelet.core.members import PeerInfo
from drupelet.errors import NotPermitted, RemoteError
from drupelet.node import Node
from drupelet.services.clones import HOST_CHARS_MAX, CloneWatch
from tests.unit.services.nodes import open_small_node, wait_up


def watch(node: Node) -> CloneWatch:
    return CloneWatch(node.links, node.calls, node.missions)


async def test_a_clone_is_told_to_the_node_and_shown(tmp_path: Path) -> None:
    async with (
        open_small_node(tmp_path, "gandalf") as gandalf,
        open_small_node(tmp_path, "bilbo", gandalf) as bilbo,
        open_client(gandalf.config.node.socket) as at_gandalf,
        open_client(bilbo.config.node.socket) as at_bilbo,
    ):
        await wait_up(bilbo, "gandalf")
        assert "clone" not in await at_gandalf.call("", "node", "status")  # type: ignore[operator]
        seen_by_bilbo = watch(bilbo)
        await seen_by_bilbo.look()
        now = trio.current_time()
        copy = PeerInfo(key=gandalf.key, name="gandalf", incarnation=9, host="10.0.0.5", port=4370)
        bilbo.links.membership.clones.refused("superseded", copy, now - 100.0, now)
        await seen_by_bilbo.look()
        status = await at_gandalf.call("", "node", "status")
        assert isinstance(status, dict)
        assert status["clone"].startswith(
            "another live node has the key of this one: it is at 10.0.0.5; on the copy, stop"
        )
        nodes = await at_bilbo.call("", "node", "nodes")
        assert isinstance(nodes, list)
        assert nodes[0]["clone"] == "another live node has its key: 10.0.0.5"
        assert "clone" not in await at_bilbo.call("", "node", "status")  # type: ignore[operator]
        gandalf.links.membership.clones.told("10.0.0.6", now)
        await seen_by_bilbo.look()  # not again so soon
        assert gandalf.links.membership.clones.of(gandalf.key, now) == "10.0.0.6"


async def test_a_member_that_refuses_us_is_named(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        gandalf.links.membership.clones.refused_by("10.0.0.9", "superseded", trio.current_time())
        own = watch(gandalf)
        await own.look()
        assert "the node at 10.0.0.9 is linked with it" in own.warning()


async def test_only_members_tell_and_only_hosts(tmp_path: Path) -> None:
    async with (
        open_small_node(tmp_path, "gandalf") as gandalf,
        open_small_node(tmp_path, "bilbo", gandalf) as bilbo,
        open_client(gandalf.config.node.socket) as client,
    ):
        await wait_up(bilbo, "gandalf")
        with pytest.raises(NotPermitted):
            await client.call("", "clones", "seen", "10.0.0.5")
        for bad in ("", "x" * (HOST_CHARS_MAX + 1), 3):
            with pytest.raises(RemoteError, match="badarg"):
                await bilbo.call("gandalf", "clones", "seen", bad)
        for number in range(CLONES_MAX + 1):  # one line about ourselves, whatever they say
            assert await bilbo.call("gandalf", "clones", "seen", f"host{number}") is True
        assert len(gandalf.links.membership.clones.seen(trio.current_time())) == 1
