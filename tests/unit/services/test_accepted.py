"""Accepted grants: shown once on each link, dialled again when it ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from drupelet.errors import NoConnection, RemoteError, Revoked
from drupelet.node import Node
from drupelet.services import accepted
from drupelet.services.endpoint import Endpoint
from drupelet.wire.keys import key_to_text
from tests.unit.services.lights import grant, nodes
from tests.unit.services.nodes import open_small_node


async def test_many_calls_at_once_open_one_link(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await bob.grants.accept((await grant(alice, bob))["text"])
        answers = []

        async def call() -> None:
            answers.append(await bob.call("alice", "light", "temp"))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(call)
        assert answers == [20] * 20
        assert alice.links.stranger_links.count == 1


async def test_a_link_that_ended_is_dialled_again(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await bob.grants.accept((await grant(alice, bob))["text"])
        await bob.call("alice", "light", "temp")
        alice.links.stranger_links.cut_all(NoConnection("closed"))
        await bob.links.stranger_links.wait_none()
        assert bob.grants.endpoint("alice") is None
        assert await bob.call("alice", "light", "temp") == 20


async def test_who_is_turned_away_for_others_failures_tries_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await bob.grants.accept((await grant(alice, bob))["text"], ask=False)
        admission = alice.links.admission
        admission.admit("127.0.0.1", trio.current_time())
        admission.finished("127.0.0.1", False, trio.current_time())
        assert await bob.call("alice", "light", "temp") == 20
        assert admission.statistics().refused_penalty_count == 1
        alice.links.stranger_links.cut_all(NoConnection("closed"))
        await bob.links.stranger_links.wait_none()
        monkeypatch.setattr("drupelet.services.accepted.TURNED_AWAY_S", 0.0)
        for _ in range(2):
            admission.admit("127.0.0.1", trio.current_time())
        for _ in range(2):
            admission.finished("127.0.0.1", False, trio.current_time() + 60)
        with pytest.raises(NoConnection) as caught:
            await bob.call("alice", "light", "temp")
        assert caught.value.reason == "overloaded"


async def test_a_second_grant_is_shown_on_the_open_link(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await bob.grants.accept((await grant(alice, bob, functions=["temp"]))["text"])
        await bob.call("alice", "light", "temp")
        await bob.grants.accept((await grant(alice, None, functions=["on"]))["text"])
        assert await bob.call("alice", "light", "on") == "on"
        assert await bob.call("alice", "light", "temp") == 20
        assert alice.links.stranger_links.count == 1


async def test_one_good_grant_of_two_is_enough(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        gone, good = await grant(alice, bob), await grant(alice, bob, functions=["temp"])
        for made in (gone, good):
            await bob.grants.accept(made["text"])
        assert await bob.grants.dead("alice") == {}
        with pytest.raises(RemoteError, match="was granted by alice, who can take it back"):
            await bob.grants.revoke(gone["id"])
        await alice.grants.revoke(gone["id"])
        for _ in range(2):  # the link stays, with the other one
            dead = await bob.grants.dead("alice")
            assert list(dead) == [bytes.fromhex(gone["id"])]
            assert isinstance(dead[bytes.fromhex(gone["id"])], Revoked)
        assert await bob.call("alice", "light", "temp") == 20
        await alice.grants.revoke(key_to_text(bob.key))
        await grant(alice, bob)  # something is granted, so that strangers are let in
        await bob.links.stranger_links.wait_none()
        with pytest.raises(Revoked):
            await bob.call("alice", "light", "temp")


async def test_addresses_are_tried_in_turn_and_the_key_decides(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob", "charlie") as (alice, bob, charlie):
        await bob.grants.accept((await grant(alice, bob))["text"])
        (file,) = bob.grants.accepted.files()
        places = (("127.0.0.1", 1), ("127.0.0.1", charlie.port), ("127.0.0.1", alice.port))
        bob.grants.accepted.keep([replace(file, addresses=places)])
        assert await bob.call("alice", "light", "temp") == 20
        bob.grants.accepted.keep([replace(file, addresses=())])
        alice.links.stranger_links.cut_all(NoConnection("closed"))
        await bob.links.stranger_links.wait_none()
        with pytest.raises(NoConnection):
            await bob.call("alice", "light", "temp")


async def test_an_address_that_says_nothing_does_not_cost_the_next_one_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await bob.grants.accept((await grant(alice, bob))["text"])
        (file,) = bob.grants.accepted.files()
        alice.links.stranger_links.cut_all(NoConnection("closed"))
        await bob.links.stranger_links.wait_none()
        silent = [(f"192.0.2.{number}", 4370) for number in range(1, 4)]
        bob.grants.accepted.keep([replace(file, addresses=(*silent, ("127.0.0.1", alice.port)))])
        real, ended = bob.links.stranger_links.dial, []

        async def dial(host: str, port: int, key: bytes | None) -> Endpoint:
            if host != "127.0.0.1":
                try:
                    await trio.sleep_forever()
                finally:
                    ended.append(host)
            return await real(host, port, key)

        monkeypatch.setattr(bob.links.stranger_links, "dial", dial)
        assert await bob.call("alice", "light", "temp", timeout=30.0) == 20
        assert sorted(ended) == [host for host, _ in silent]
        assert alice.links.stranger_links.count == 1


async def test_of_two_that_answer_at_once_one_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepted, "NEXT_S", 0.0)
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await bob.grants.accept((await grant(alice, bob))["text"])
        (file,) = bob.grants.accepted.files()
        alice.links.stranger_links.cut_all(NoConnection("closed"))
        await bob.links.stranger_links.wait_none()
        places = (("127.0.0.1", alice.port), ("localhost", alice.port))
        bob.grants.accepted.keep([replace(file, addresses=places)])
        real, made = bob.links.stranger_links.dial, []

        async def dial(host: str, port: int, key: bytes | None) -> Endpoint:
            with trio.CancelScope(shield=True):  # both get there
                made.append(await real(host, port, key))
            return made[-1]

        monkeypatch.setattr(bob.links.stranger_links, "dial", dial)
        assert await bob.call("alice", "light", "temp", timeout=30.0) == 20
        assert len(made) == 2 and sum(each.closed for each in made) == 1


async def test_two_nodes_of_one_name(tmp_path: Path) -> None:
    async with nodes(tmp_path / "a", "alice", "bob") as (alice, bob):
        await bob.grants.accept((await grant(alice, bob))["text"])
        async with nodes(tmp_path / "b", "alice") as (other,):
            made = await grant(other, bob)
            with pytest.raises(RemoteError, match="another node called alice"):
                await bob.grants.accept(made["text"])


async def wait_connected(node: Node, names: list[str]) -> None:
    """Until exactly these members are linked; a stranger's link does not count."""
    with trio.fail_after(10):
        while node.links.connected() != names:
            await trio.lowlevel.checkpoint()


async def test_a_grant_cannot_take_a_members_name(tmp_path: Path) -> None:
    """Neither while that member is up nor while it is down; only the file came from a stranger."""
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await bob.grants.accept((await grant(alice, bob))["text"])
        assert await bob.call("alice", "light", "temp") == 20
        async with open_small_node(tmp_path / "member", "alice", bob, cookie="../cbob") as member:
            await wait_connected(bob, ["alice"])
            with pytest.raises(RemoteError, match="undef"):  # the member has no such mission
                await bob.call("alice", "light", "temp")
            made = await grant(alice, bob)
            with pytest.raises(RemoteError, match="alice is the name of a member"):
                await bob.grants.accept(made["text"])
            assert bob.membership.key_of("alice@127.0.0.1") == member.key
        await wait_connected(bob, [])
        with pytest.raises(NoConnection):
            await bob.call("alice", "light", "temp")
