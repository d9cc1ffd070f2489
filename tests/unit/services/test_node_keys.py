"""The cookies of a node, as its links take them."""

from __future__ import annotations

from pathlib import Path

from drupelet.node import open_node
from tests.unit.services.nodes import make_config


async def test_a_changed_cookie_is_kept_besides_the_old_one(tmp_path: Path) -> None:
    async with open_node(make_config(tmp_path, "gandalf")) as node:
        old = node.credentials.psks
        for text in ("first new cookie of ours", "second new cookie of ours"):
            await node.keys.set_cookie(text)
            assert len(node.credentials.psks) == 2
        assert old[0] not in node.credentials.psks
        await node.keys.set_cookie("second new cookie of ours")
        assert len(node.credentials.psks) == 2
        assert node.links.credentials is node.credentials


async def test_a_cookie_to_keep(tmp_path: Path) -> None:
    async with open_node(make_config(tmp_path, "gandalf")) as node:
        former = await node.keys.cookie_text()
        assert former == (tmp_path / "cookie").read_text().split()[-1]
        node.links.failures["192.0.2.1", 4370] = ("bad_cookie", 1)
        await node.keys.keep_cookie("a new cookie of ours")
        assert node.links.failures == {}
        assert await node.keys.cookie_text() == "a new cookie of ours"
        kept = (tmp_path / "gandalf" / "paired-cookie").read_text().splitlines()
        assert kept[-2:] == ["a new cookie of ours", former]
        await node.keys.keep_cookie("a new cookie of ours")
        assert len(node.credentials.psks) == 2
        await node.keys.set_cookie("one that is in no file")
        assert await node.keys.cookie_text() == ""
    async with open_node(make_config(tmp_path, "gandalf")) as node:
        assert await node.keys.cookie_text() == "a new cookie of ours"
