"""The `node` mission: what members and the operator are told, and the stream of node events."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from drupelet.client import Client, NodeDown, NodeUp, open_client
from drupelet.errors import NoConnection, NotPermitted, RemoteError
from drupelet.node import Node
from drupelet.wire.keys import key_to_text
from tests.unit.services.nodes import open_small_node, wait_up

OPERATOR_ONLY = ("status", "ping_node", "why", "names", "metrics", "missions", "set_cookie")


@asynccontextmanager
async def two(tmp_path: Path) -> AsyncIterator[tuple[Node, Node, Client]]:
    """gandalf, bilbo, and an operator's client at bilbo."""
    async with (
        open_small_node(tmp_path, "gandalf") as gandalf,
        open_small_node(tmp_path, "bilbo", gandalf) as bilbo,
        open_client(bilbo.config.node.socket) as client,
    ):
        await wait_up(gandalf, "bilbo")
        await wait_up(bilbo, "gandalf")
        yield gandalf, bilbo, client


async def test_members_get_the_public_half(tmp_path: Path) -> None:
    async with two(tmp_path) as (gandalf, bilbo, _):
        assert await bilbo.call("gandalf", "node", "ping") == "pong"
        info = await bilbo.call("gandalf", "node", "info")
        assert isinstance(info, dict)
        assert (info["name"], info["key"]) == ("gandalf", key_to_text(gandalf.key))
        nodes = await bilbo.call("gandalf", "node", "nodes")
        assert isinstance(nodes, list)
        assert [(each["name"], each["state"]) for each in nodes] == [("bilbo", "up")]
        for function in OPERATOR_ONLY:
            with pytest.raises(NotPermitted):
                await bilbo.call("gandalf", "node", function)


async def test_an_operator_of_one_node_is_only_a_member_elsewhere(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, _, client):
        assert await client.call("gandalf", "node", "ping") == "pong"
        with pytest.raises(NotPermitted):
            await client.call("gandalf", "node", "status")
        with pytest.raises(NotPermitted):
            await client.call("gandalf", "node", "set_cookie", "mine now, all of it")


async def test_status_and_nodes(tmp_path: Path) -> None:
    async with two(tmp_path) as (gandalf, bilbo, client):
        status = await client.call("", "node", "status")
        assert isinstance(status, dict)
        assert (status["name"], status["port"]) == ("bilbo", bilbo.port)
        assert (status["nodes_up"], status["nodes_down"]) == (1, 0)
        assert status["rss_bytes"] > 1_000_000
        assert status["mapper"] == "off"
        (node,) = await client.nodes()
        assert node["key"] == key_to_text(gandalf.key)
        assert (node["host"], node["port"]) == ("127.0.0.1", gandalf.port)


async def test_ping_node(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, _, client):
        for name in ("gandalf", "bilbo"):
            told = await client.ping(name)
            assert told["ok"] is True
            assert isinstance(told["rtt_ms"], float)
        told = await client.ping("sauron")
        assert (told["ok"], told["reason"]) == (False, "no_such_node")
        assert told["message"]


async def test_names_of_a_host_without_a_mapper(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, _, client):
        with pytest.raises(NoConnection) as caught:
            await client.call("", "node", "names", "127.0.0.2")
        assert caught.value.reason == "no_mapper"


@pytest.mark.parametrize("text", ["", "  \n", None, 7, ["x"]])
async def test_a_cookie_that_is_none_is_refused(tmp_path: Path, text: object) -> None:
    async with two(tmp_path) as (_, bilbo, client):
        psks = bilbo.credentials.psks
        with pytest.raises(RemoteError, match="badarg"):
            await client.call("", "node", "set_cookie", text)
        assert bilbo.credentials.psks == psks


async def test_a_cookie_can_be_changed(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, bilbo, client):
        assert await client.call("", "node", "set_cookie", " a new cookie for all of us \n") is True
        assert len(bilbo.credentials.psks) == 2


async def test_metrics_are_prometheus_text(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, _, client):
        text = await client.call("", "node", "metrics")
        assert isinstance(text, str)
        lines = text.splitlines()
        assert text.endswith("\n")
        values = dict(line.split(" ") for line in lines if not line.startswith("#"))
        assert values["drupelet_nodes_up"] == "1"
        for line in lines:
            assert re.fullmatch(
                r"# TYPE drupelet_[a-z_]+ (gauge|counter)|drupelet_[a-z_]+ [0-9.e+]+", line
            ), line
        typed = [line.split(" ")[2] for line in lines if line.startswith("#")]
        assert typed == list(values), "each has its type, once"


async def test_events_tell_who_comes_and_goes(tmp_path: Path) -> None:
    async with two(tmp_path) as (gandalf, bilbo, client):
        events = client.monitor_nodes()
        await client.nodes()
        async with open_small_node(tmp_path, "frodo", gandalf, bilbo):
            with trio.fail_after(5):
                event = await anext(events)
            assert isinstance(event, NodeUp)
            assert event.name == "frodo"
        with trio.fail_after(5):
            event = await anext(events)
        assert isinstance(event, NodeDown)
        assert (event.name, event.reason) == ("frodo", "stopping")
        await events.aclose()


async def test_a_watcher_that_left_is_forgotten(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, bilbo, client):
        before = len(bilbo.links._listeners)
        for _ in range(3):
            events = client.monitor_nodes()
            await client.nodes()
            assert len(bilbo.links._listeners) == before + 1
            await events.aclose()
            await client.nodes()
            assert len(bilbo.links._listeners) == before
        async with open_client(bilbo.config.node.socket) as other:
            other.monitor_nodes()
            await other.nodes()
            assert len(bilbo.links._listeners) == before + 1
        await client.nodes()
        assert len(bilbo.links._listeners) == before


async def test_watchers_at_the_maximum_and_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(tmp_path) as (_, bilbo, client):
        monkeypatch.setattr(
            "drupelet.services.links._NODE_LISTENERS_MAX", len(bilbo.links._listeners) + 1
        )
        first = client.monitor_nodes()
        await client.nodes()
        second = client.monitor_nodes()
        with trio.fail_after(2), pytest.raises(NoConnection):
            await anext(second)
        assert await client.call("", "node", "ping") == "pong", "its channel goes on"
        await first.aclose()
