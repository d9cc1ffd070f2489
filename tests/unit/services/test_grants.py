"""Issuing, keeping and revoking grants, on nodes that are no members of each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drupelet.errors import NoConnection, NotPermitted, RemoteError, Revoked
from drupelet.wire.keys import key_to_text
from tests.unit.services.lights import grant, nodes


async def test_narrowed_for_charlie(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob", "charlie") as (alice, bob, charlie):
        made = await grant(alice, bob, functions=["temp", "on"], delegable=1)
        key = key_to_text(charlie.key)
        with pytest.raises(RemoteError, match="not among the functions"):
            await bob.grants.narrow(made["text"], key, {"functions": ["slow"]})
        less = await bob.grants.narrow(made["text"], key, {"functions": ["temp"]})
        await charlie.grants.accept(less["text"])  # type: ignore[arg-type]
        assert await charlie.call("alice", "light", "temp") == 20
        with pytest.raises(NotPermitted):
            await charlie.call("alice", "light", "on")


async def test_it_holds_after_a_start(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        gone, kept = await grant(alice, bob, functions=["on"]), await grant(alice, bob)
        await alice.grants.revoke(gone["id"])
        await bob.grants.accept(kept["text"])
        with pytest.raises(Revoked):
            await bob.grants.accept(gone["text"])  # its node was asked, and it is not kept
        assert [each.id_text for each in bob.grants.held("alice")] == [kept["id"]]
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        again = await bob.grants.accept(kept["text"].replace("# ", "# hello "))
        assert again["id"] == kept["id"]
        bob.grants.accepted.keep(
            [
                each.__class__(
                    grant=each.grant, name=each.name, addresses=(("127.0.0.1", alice.port),)
                )
                for each in bob.grants.accepted.files()
            ]
        )
        assert await bob.call("alice", "light", "temp") == 20
        await alice.grants.revoke("light")
        with pytest.raises(Revoked):
            await bob.call("alice", "light", "temp")


async def test_a_node_that_granted_nothing_lets_no_strangers_in(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        with pytest.raises(NoConnection):
            await bob.links.stranger_links.dial("127.0.0.1", alice.port, alice.key)


async def test_the_key_at_the_other_end_is_the_issuers(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await grant(alice, bob)
        endpoint = await bob.links.stranger_links.dial("127.0.0.1", alice.port, alice.key)
        assert endpoint.ring == "stranger"
        with pytest.raises(NoConnection, match="wrong_node"):
            await bob.links.stranger_links.dial("127.0.0.1", alice.port, bob.key)


@pytest.mark.parametrize(
    ("mission", "holder", "terms", "words"),
    [
        ("lihgt", "", {}, "no mission 'lihgt' here, but light"),
        ("node", "", {}, "no mission 'node' here"),
        ("light", "", {"functions": ["wipe"]}, "exports no 'wipe', but on, size"),
        ("light", "nobody", {}, "neither a member's name nor a key"),
        ("light", "", {"rate": [0, 1]}, "a rate is"),
        ("light", "", {"rate": "10/m"}, "wrong kind"),
        ("light", "", {"until": 5}, "terms are"),
        ("light", "", {"delegable": True}, "wrong kind"),
    ],
)
async def test_mistakes_are_told_at_once(
    tmp_path: Path, mission: str, holder: str, terms: dict[str, Any], words: str
) -> None:
    async with nodes(tmp_path, "alice") as (alice,):
        with pytest.raises(RemoteError, match=words):
            await alice.grants.issue(mission, holder, terms)
        assert alice.grants.listed()["issued"] == []


async def test_a_node_that_cannot_be_asked(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        made = await grant(alice, bob)
        alice.links.stranger_links.cut_all(NoConnection("closed"))
        alice.grants.accepts = lambda: False  # type: ignore[method-assign]
        assert (await bob.grants.accept(made["text"]))["asked"] is False
        assert [each.id_text for each in bob.grants.held("alice")] == [made["id"]]
        del alice.grants.accepts  # type: ignore[method-assign]
        assert (await bob.grants.accept(made["text"]))["asked"] is True


async def test_a_grant_that_is_forgotten_counts_here_no_more(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        first, second = await grant(alice, bob, functions=["on"]), await grant(alice, bob)
        for made in (first, second):
            await bob.grants.accept(made["text"])
        assert await bob.call("alice", "light", "temp") == 20
        done = await bob.grants.forget(second["id"])
        assert (done["id"], done["name"]) == (second["id"], "alice")
        with pytest.raises(NotPermitted):  # on a new link, which does not show it
            await bob.call("alice", "light", "temp")
        assert await bob.call("alice", "light", "on") == "on"
        for ident in (second["id"], "light"):
            with pytest.raises(RemoteError, match="no grant that was accepted here"):
                await bob.grants.forget(ident)
        await bob.grants.forget(first["id"])
        with pytest.raises(NoConnection):
            await bob.call("alice", "light", "on")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        assert bob.grants.listed()["accepted"] == []  # it was durable
        assert len(alice.grants.listed()["issued"]) == 2  # type: ignore[arg-type]


async def test_a_link_is_revoked_before_it_was_ever_used(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob", "charlie") as (alice, bob, charlie):
        made = await grant(alice, bob, delegable=1)
        less = await bob.grants.narrow(made["text"], key_to_text(charlie.key), {})
        answer = await alice.grants.revoke(str(less["id"]))
        assert (answer["seen"], answer["calls"]) == (False, 0)
        with pytest.raises(Revoked):
            await charlie.grants.accept(str(less["text"]))
        assert (await bob.grants.accept(made["text"]))["asked"]
        with pytest.raises(RemoteError, match="is revoked already"):
            await alice.grants.revoke(str(less["id"]))
        assert (await alice.grants.revoke(made["id"]))["seen"] is True
        with pytest.raises(RemoteError, match="no grant in force here"):  # nothing is handed on
            await alice.grants.revoke("ab" * 16)
