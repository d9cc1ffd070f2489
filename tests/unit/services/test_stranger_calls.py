"""Calls of strangers between two nodes of this process, with real workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from drupelet.config import GrantsConfig
from drupelet.errors import NoConnection, NotPermitted, RateLimited, RemoteError, Revoked
from drupelet.node import open_node
from drupelet.wire.keys import key_to_text
from tests.unit.services.lights import grant, nodes
from tests.unit.services.nodes import make_config, open_small_node


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
            while len(alice.holdings) < 50:
                await trio.lowlevel.checkpoint()
            answer = await alice.grants.revoke(made["id"])
            assert answer["calls"] == 50
            assert not len(alice.holdings)
        assert outcomes == ["revoked"] * 50
        with pytest.raises(Revoked):
            await bob.call("alice", "light", "temp")
        listed = alice.grants.listed()
        assert listed["issued"] == []


async def test_a_mission_that_does_not_compile_names_no_file_to_a_holder(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await bob.grants.accept((await grant(alice, bob))["text"])
        assert await bob.call("alice", "light", "temp") == 20
        export = alice.missions.exports[b"light/temp"]
        path = tmp_path / "alice" / "missions.d" / "light.py"
        error = RemoteError("file_wont_compile", f"{path}:3: invalid syntax")
        export.endpoint, export.unavailable = None, error
        with pytest.raises(RemoteError) as caught:
            await bob.call("alice", "light", "temp")
        assert caught.value.kind == "mission_refused"
        assert str(tmp_path) not in str(caught.value)
        with pytest.raises(RemoteError, match=str(path)):  # the owner is told
            await alice.call("alice", "light", "temp")
        entries = await alice.audit.read()
        assert entries[-1]["outcome"] == "RemoteError:mission_refused"


async def test_the_owners_own_limit_counts_over_all_grants(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with nodes(tmp_path, "alice"):
            pass  # makes the mission's files
        limits = GrantsConfig(caller_rate="2/h")
        made = replace(make_config(tmp_path, "alice", cookie="calice"), grants=limits)
        async with (
            open_node(made) as alice,
            open_small_node(tmp_path, "bob", cookie="cbob") as bob,
        ):
            for functions in (["temp"], ["on"]):
                await bob.grants.accept((await grant(alice, bob, functions=functions))["text"])
            assert await bob.call("alice", "light", "temp") == 20
            assert await bob.call("alice", "light", "on") == "on"
            with pytest.raises(RateLimited) as caught:
                await bob.call("alice", "light", "temp")
            assert 1_700 < caught.value.retry_after_s <= 1_800
