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
        await bob.grants.accept(gone["text"])
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
