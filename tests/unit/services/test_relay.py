"""Strangers' calls through a relay, by nodes that cannot reach each other."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.config import RelayConfig
from drupelet.core.requests import Wanted
from drupelet.errors import (
    CallError,
    NoConnection,
    NotPermitted,
    NotSendable,
    RateLimited,
    RemoteError,
    Revoked,
    Timeout,
)
from drupelet.node import Node, open_node
from drupelet.relay.main import invite_text
from drupelet.relay.service import Relay
from drupelet.services import relay as service
from drupelet.wire.codec import dumps
from drupelet.wire.grant_files import decode_grant_file, encode_grant_file
from drupelet.wire.ids import Pid
from drupelet.wire.keys import key_to_text
from tests.unit.relay import nodes as relay_nodes
from tests.unit.relay.nodes import relay_at
from tests.unit.services.lights import LIGHT as CODE
from tests.unit.services.lights import TOML, grant
from tests.unit.services.nodes import make_config

INVITE = b"an invite's code"


@asynccontextmanager
async def nodes(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *names: str
) -> AsyncIterator[tuple[Relay, list[Node]]]:
    """A relay, and nodes at it that let nobody in by a link; the first has the mission light."""
    monkeypatch.setattr(relay_nodes, "NAME", "127.0.0.1")
    monkeypatch.setattr(service, "LOOK_S", 0.02)
    monkeypatch.setattr(service, "FIRST_S", 0.05)
    missions = directory / names[0] / "missions.d"
    missions.mkdir(parents=True)
    (missions / "light.toml").write_text(TOML)
    (missions / "light.py").write_text(CODE)
    with trio.fail_after(60):
        async with contextlib.AsyncExitStack() as stack:
            relay, port = await stack.enter_async_context(relay_at(directory / "relay"))
            await relay.writer.write(lambda store: store.add_invite(INVITE, len(names)))
            url = f"http://127.0.0.1:{port}"
            running = []
            for name in names:
                config = replace(
                    make_config(directory, name, cookie=f"c{name}"),
                    relay=RelayConfig(url=url, invite=invite_text(INVITE)),
                )
                running.append(await stack.enter_async_context(open_node(config)))
            yield relay, running


async def give(alice: Node, bob: Node | None, to: Node, **terms: Any) -> str:
    """A grant whose file has an address at which nobody listens; its id."""
    made = await grant(alice, bob, **terms)
    file = decode_grant_file(made["text"])
    assert alice.relay is not None and file.relay == alice.relay.url
    await to.grants.accept(encode_grant_file(replace(file, addresses=(("127.0.0.1", 1),))))
    await announced(alice)
    return str(made["id"])


async def announced(node: Node) -> None:
    """Until the relay has its newest offers."""
    relay = node.relay
    assert relay is not None
    while relay._announced_for != relay._granted():
        await relay.announced.wait()


async def test_a_call_that_no_link_can_carry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (relay, (alice, bob)):
        await give(alice, bob, bob, functions=["temp", "size"], rate=[4, 100])
        assert await bob.call("alice", "light", "temp") == 20
        assert await bob.call("alice", "light", "temp", 5) == 25
        with pytest.raises(NotPermitted):
            await bob.call("alice", "light", "on")
        with pytest.raises(RemoteError, match="badarg|TypeError"):
            await bob.call("alice", "light", "size", 1, 2)
        assert await bob.call("alice", "light", "size", "x" * 100_000) == 100_000
        with pytest.raises(RateLimited):
            await bob.call("alice", "light", "temp")
        assert alice.links.stranger_links.count == 0
        assert relay.counts["messages_accepted"] >= 10


async def test_what_is_revoked_runs_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        ident = await give(alice, bob, bob)
        failures = []

        async def wait() -> None:
            with pytest.raises(Revoked) as caught:
                await bob.call("alice", "light", "slow", 30.0, timeout=30.0)
            failures.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            while not alice.grants.strangers._running:
                await trio.testing.wait_all_tasks_blocked(0.01)
            done = await alice.grants.revoke(ident)
            assert done["calls"] == 1 and not alice.grants.strangers._running
        assert len(failures) == 1
        with pytest.raises((Revoked, NoConnection)):  # it is not shown to him any more
            await bob.call("alice", "light", "temp")


async def test_a_link_goes_before_the_relay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (relay, (alice, bob)):
        made = await grant(alice, bob)
        await bob.grants.accept(made["text"])
        assert await bob.call("alice", "light", "temp") == 20
        assert alice.links.stranger_links.count == 1
        assert relay.gauges()["waiting_messages"] == 0
        assert relay.counts["messages_accepted"] == 0


async def test_a_link_is_tried_again_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        assert await bob.call("alice", "light", "temp") == 20
        way = bob.grants.endpoint("alice")
        assert way is not None and not way.direct
        assert await bob.grants.dead("alice") == {}
        monkeypatch.setattr(
            bob.grants.accepted, "_addresses_of", lambda name, key: [("127.0.0.1", alice.port)]
        )
        assert bob.grants.endpoint("alice") is way
        bob.grants.accepted._again_at[alice.key] = trio.current_time()
        assert await bob.call("alice", "light", "temp") == 20
        assert alice.links.stranger_links.count == 1


async def test_whoever_has_the_file_and_whoever_got_it_from_him(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob", "charlie") as (_, three):
        alice, bob, charlie = three
        await give(alice, None, bob, delegable=1)
        assert await bob.call("alice", "light", "temp") == 20
        [held] = bob.grants.accepted.files()
        narrowed = await bob.grants.narrow(
            encode_grant_file(held), key_to_text(charlie.key), {"functions": ["on"]}
        )
        await charlie.grants.accept(str(narrowed["text"]))
        assert await charlie.call("alice", "light", "on") == "on"
        with pytest.raises(NotPermitted):
            await charlie.call("alice", "light", "temp")


async def test_pids_casts_and_idempotency_keys_do_not_travel_this_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        pid = Pid("bob", 1, 1)
        with pytest.raises(NotSendable, match="through a relay"):
            await bob.call("alice", "light", "size", pid)
        with pytest.raises(NotPermitted, match="no casts"):
            await bob.cast("alice", "light", "on")
        with pytest.raises(NotPermitted, match="one call at a time"):
            await bob.call_many("alice", "light", "on", [[], []])
        assert bob.relay is not None and alice.relay is not None
        [file] = bob.grants.accepted.files()
        wanted = Wanted(
            callee=alice.key,
            boot_key=alice.relay.callee.boot_key,
            grant=file.grant.data,
            seed=bob.identity.seed,
            target="light/on",
            arguments=dumps([]),
            deadline=trio.current_time() + 30,
            idempotency_key=bytes(16),
        )
        sent = bob.relay.caller.call(wanted, alice.relay.callee.token, trio.current_time())
        results: list[bytes | CallError] = []
        done = trio.Event()

        def settled(result: bytes | CallError) -> None:
            results.append(result)
            done.set()

        bob.relay._waiting[sent.call] = settled
        bob.relay._queue(sent.to, sent.id, None, sent.body, sent.call)
        await done.wait()
        assert "keeps no idempotency keys" in str(results)


async def test_who_is_away_has_perhaps_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        assert alice.relay is not None and bob.relay is not None
        monkeypatch.setattr(alice.relay, "_take", lambda message: None)
        with pytest.raises(Timeout) as caught:
            await bob.call("alice", "light", "on", timeout=0.5)
        assert caught.value.maybe_ran and len(bob.relay.caller) == 0


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
    monkeypatch.setattr(service, "QUEUED_MAX", 1)
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        answers: list[Any] = []

        async def call(number: int) -> None:
            answers.append(await bob.call("alice", "light", "temp", number, timeout=30.0))

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(call, number)
        assert sorted(answers) == list(range(20, 50))
        assert alice.relay is not None and not alice.relay._ends
        assert not alice.grants.strangers._running


async def test_without_an_account_there_is_no_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "ONLINE_S", 0.3)
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
