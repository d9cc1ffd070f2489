"""The link to a relay: what breaks, and comes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.config import RelayConfig
from drupelet.core.relay import RATES, Allowances, Rate
from drupelet.errors import (
    NoConnection,
)
from drupelet.node import open_node
from drupelet.services import relay_link
from drupelet.wire import relay as wire
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


async def test_calls_that_wait_for_the_relay_keep_no_answer_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it takes at once is used up: those that went are answered though the others wait."""
    monkeypatch.setattr(relay_link, "QUEUED_MAX", 1)
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (relay, (alice, bob)):
        await give(alice, bob, bob)
        assert await bob.call("alice", "light", "temp") == 20
        answers: list[Any] = []

        async def call() -> None:
            answers.append(await bob.call("alice", "light", "temp", timeout=60.0))
            if len(answers) == 10:
                nursery.cancel_scope.cancel()

        slow = Rate(count=1, period_s=3_600, burst=10)
        relay._allowances = Allowances({**RATES, "send": slow})
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _ in range(40):
                    nursery.start_soon(call)
        assert answers == [20] * 10


async def test_many_calls_ask_once_where_a_node_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay answers five questions of a node in a second, and refuses the others."""
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        assert bob.relay is not None
        link, questions = bob.relay, []
        found = link._found

        async def counted(question: wire.Find) -> Any:
            questions.append(question)
            return await found(question)

        monkeypatch.setattr(link, "_found", counted)
        answers: list[Any] = []

        async def call() -> None:
            answers.append(await bob.call("alice", "light", "temp", timeout=30.0))

        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for _ in range(40):
                    nursery.start_soon(call)
        assert answers == [20] * 80
        assert len(questions) == 1
        assert not link._finding


async def test_where_a_node_is_not_all_hear_that_and_who_gave_up_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "bob") as (_, (bob,)):
        assert bob.relay is not None
        link, gate, asked = bob.relay, trio.Event(), []

        async def nobody(question: wire.Find) -> Any:
            asked.append(question)
            await gate.wait()
            raise NoConnection("no_such_node")

        monkeypatch.setattr(link, "_found", nobody)
        told: list[str] = []

        async def look(scope: trio.CancelScope) -> None:
            with scope:
                try:
                    await link.beacon(bytes(32), b"")
                except NoConnection as error:
                    told.append(error.reason)

        first = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            for scope in (first, trio.CancelScope(), trio.CancelScope()):
                nursery.start_soon(look, scope)
                await trio.testing.wait_all_tasks_blocked()
            assert len(asked) == 1
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert len(asked) == 2  # another one asks in its place
            gate.set()
        assert told == ["no_such_node"] * 2
        assert len(asked) == 2


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
