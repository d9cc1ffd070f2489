"""Strangers' calls through a relay, by nodes that cannot reach each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.errors import (
    NoConnection,
    NotPermitted,
    RateLimited,
    RemoteError,
    Revoked,
    Timeout,
)
from drupelet.wire.grant_files import decode_grant_file, encode_grant_file
from drupelet.wire.ids import Pid
from drupelet.wire.keys import key_to_text
from tests.unit.services.lights import grant
from tests.unit.services.relayed import give, nodes


async def test_who_accepts_is_told_that_the_first_call_will_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        made = await grant(alice, bob)
        file = replace(decode_grant_file(made["text"]), addresses=(("127.0.0.1", 1),))
        answer = await bob.grants.accept(encode_grant_file(file))
        assert (answer["asked"], answer["by_relay"]) == (False, True)


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


async def test_who_debugs_sees_each_step_of_a_call_and_not_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        caplog.set_level("DEBUG", "drupelet.relay")
        assert await bob.call("alice", "light", "temp", 5) == 25
    told = [r.getMessage() for r in caplog.records if r.levelname == "DEBUG"]
    told = [each for each in told if not each.startswith(("accepted", "delivered", "taken"))]
    words = [each.partition(" ")[0] for each in told]
    assert sorted(words) == sorted(
        ["stored", "sent", "apply", "response", "sent", "matched", "settled"]
    )
    stored, applied, response, matched = (
        dict(part.split("=", 1) for part in told[words.index(step)].split()[1:])
        for step in ("stored", "apply", "response", "matched")
    )
    assert stored["target"] == applied["target"] == "light/temp"
    assert stored["id"] == applied["id"] == response["re"] == matched["re"]
    assert (response["id"], stored["call"]) == (matched["id"], matched["call"])


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
            while not len(alice.holdings):
                await trio.testing.wait_all_tasks_blocked(0.01)
            done = await alice.grants.revoke(ident)
            assert done["calls"] == 1 and not len(alice.holdings)
        assert len(failures) == 1
        with pytest.raises((Revoked, NoConnection)):  # it is not shown to him any more
            await bob.call("alice", "light", "temp")


async def test_what_is_granted_anew_is_shown_and_not_what_was_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        for _ in range(2):
            ident = await give(alice, bob, bob)
            assert await bob.call("alice", "light", "temp") == 20
            await alice.grants.revoke(ident)
        assert len(bob.grants.accepted.files()) == 2


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


async def test_casts_with_pids_and_many_calls_in_one_do_not_travel_this_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        pid = Pid("bob", 1, 1)
        with pytest.raises(NotPermitted, match="no cast with a pid"):
            await bob.cast("alice", "light", "size", pid)
        with pytest.raises(NotPermitted, match="one call at a time"):
            await bob.call_many("alice", "light", "on", [[], []])


async def test_who_is_away_has_perhaps_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        assert alice.relay is not None and bob.relay is not None
        alice.relay.on_kind.clear()
        with pytest.raises(Timeout) as caught:
            await bob.call("alice", "light", "on", timeout=0.5)
        assert caught.value.maybe_ran and len(bob.relayed.caller) == 0
