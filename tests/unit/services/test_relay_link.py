"""The link to a relay: what breaks, and comes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.config import RelayConfig
from drupelet.errors import (
    NoConnection,
)
from drupelet.node import open_node
from drupelet.services import relay_link
from tests.unit.services.nodes import make_config
from tests.unit.services.relayed import give, nodes


async def test_a_relay_that_forgot_us_is_entered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        assert alice.relay is not None and bob.relay is not None
        for node in (alice.relay, bob.relay):
            node._http._session = bytes(32)
        assert await bob.call("alice", "light", "temp", timeout=20.0) == 20


async def test_more_calls_than_may_wait_for_the_relay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_link, "QUEUED_MAX", 1)
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        answers: list[Any] = []

        async def call(number: int) -> None:
            answers.append(await bob.call("alice", "light", "temp", number, timeout=30.0))

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(call, number)
        assert sorted(answers) == list(range(20, 50))
        assert not alice.relayed._ends
        assert not alice.grants.strangers._running


async def test_without_an_account_there_is_no_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relay_link, "ONLINE_S", 0.3)
    async with nodes(tmp_path, monkeypatch, "alice") as (_, (alice,)):
        assert alice.relay is not None
        config = replace(
            make_config(tmp_path, "trudy", cookie="ctrudy"),
            relay=RelayConfig(url=alice.relay.url),
        )
        async with open_node(config) as trudy:
            await give(alice, trudy, trudy)
            with pytest.raises(NoConnection, match="^no_route"):
                await trudy.call("alice", "light", "on")
    [told] = [each.message for each in caplog.records if "relay_down" in each.message]
    assert "why=not_registered: register with an invite" in told  # once, however often it tries
