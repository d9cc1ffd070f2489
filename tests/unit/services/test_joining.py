"""Finding the node that shows the code, and what a failure is called."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.config_values import Peer
from drupelet.core.candidates import Candidate
from drupelet.core.pairing import Pairing
from drupelet.errors import NoConnection, RemoteError
from drupelet.node import Node, open_node
from drupelet.services import joining
from drupelet.store.paired import FILE
from drupelet.wire.keys import key_prefix, key_to_text
from drupelet.wire.limits import PAIR_SPENT_MAX
from tests.unit.services.lights import nodes
from tests.unit.services.nodes import make_config, open_small_node, wait_up
from tests.unit.services.test_pairing import WRONG, join, waiting


def seen(node: Node, *others: Node) -> None:
    """mDNS named them."""
    for other in others:
        prefix = key_prefix(key_to_text(other.key))
        node.links.candidate(
            Candidate(
                source="mdns", host="127.0.0.1", port=other.port, name=other.name, key_prefix=prefix
            )
        )


async def search(node: Node, code: str, host: str = "") -> dict[str, Any]:
    return await node.pairing._joining.join(code, host)


async def test_on_a_network_the_one_that_waits_is_found(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob", "charlie") as (alice, bob, charlie):
        async with waiting(alice) as (code, _):
            seen(bob, charlie, alice)  # and they dial each other, with the wrong cookie
            started = trio.current_time()
            answer = await search(bob, code)
            assert (answer["name"], answer["linked"]) == ("alice", True)
            assert trio.current_time() - started < 20
        assert await bob.call("alice", "light", "temp") == 20
        assert len(charlie.credentials.psks) == 1


async def test_addresses_that_say_nothing_take_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        monkeypatch.setattr(joining, "LOOK_S", 1.0)
        with contextlib.ExitStack() as stack:
            silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(9)]

            def flood() -> None:
                for each in silent:
                    bob.links.candidate(
                        Candidate(
                            source="mdns",
                            host="127.0.0.1",
                            port=each.getsockname()[1],
                            name="silent",
                            key_prefix="",
                        )
                    )

            async with waiting(alice) as (code, _):
                seen(bob, alice)
                flood()
                started = trio.current_time()
                assert (await search(bob, code))["name"] == "alice"
                assert trio.current_time() - started < 8
            with pytest.raises(RemoteError, match="nobody_"):
                monkeypatch.setattr(joining, "FIND_S", 0.2)
                await search(bob, WRONG)
            while bob.links.stranger_links.count:
                await trio.lowlevel.checkpoint()


async def test_by_a_name_that_was_seen(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        async with waiting(alice) as (code, _):
            with pytest.raises(RemoteError, match="bad_host"):
                await search(bob, code, "alice")
            seen(bob, alice)
            assert (await search(bob, code, "alice"))["linked"]


async def test_when_two_wait_the_person_says_which(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob", "charlie") as (alice, bob, charlie):
        async with waiting(alice) as (code, outcomes), waiting(charlie) as (_, others):
            seen(bob, charlie, alice)
            for each in (alice, charlie):  # both are dialled in one round, whoever is first
                assert each.pairing.is_open()
            with pytest.raises(RemoteError, match="several_wait") as caught:
                await search(bob, code)
            for each in (alice, charlie):
                assert f"{each.name} ({key_prefix(key_to_text(each.key))})" in str(caught.value)
            assert not outcomes
            assert not others
            assert (await search(bob, code, f"127.0.0.1:{alice.port}"))["name"] == "alice"


async def test_an_invitation_has_everything(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        shown: Any = await alice.pairing.open()
        with pytest.raises(RemoteError, match="own_code"):
            await search(alice, shown["invitation"])
        assert (await search(bob, shown["invitation"]))["linked"]


async def test_an_invitation_of_another_key_is_not_used(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob", "charlie") as (alice, bob, charlie):
        shown: Any = await alice.pairing.open()
        async with waiting(charlie):
            with pytest.raises(NoConnection, match="wrong_node"):
                await search(bob, shown["invitation"], f"127.0.0.1:{charlie.port}")
            assert charlie.pairing.is_open()


async def test_failures_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "FIND_S", 0.3)
    async with nodes(tmp_path, "alice", "bob", "charlie") as (alice, bob, charlie):
        for text, words in (("ABC", "bad_code: a code has 8"), ("drupelet-pair:x", "bad_code")):
            with pytest.raises(RemoteError, match=words):
                await search(bob, text)
        with pytest.raises(RemoteError, match="nobody_found"):
            await search(bob, WRONG)
        seen(bob, charlie)
        with pytest.raises(RemoteError, match=f"nobody_waits: .*127.0.0.1:{charlie.port}"):
            await search(bob, WRONG)
        with pytest.raises(RemoteError, match="nobody_waits"):
            await join(bob, WRONG, alice)
        with pytest.raises(NoConnection, match="port_closed"):
            await search(bob, WRONG, "127.0.0.1:1")
        with pytest.raises(RemoteError, match="bad_host"):
            await search(bob, WRONG, "127.0.0.1:none")
        async with waiting(alice) as (code, outcomes):
            with pytest.raises(NoConnection, match="wrong_node"):
                await join(alice, code, alice)
            assert not outcomes


async def test_a_code_is_tried_once(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        async with waiting(alice):
            with pytest.raises(RemoteError, match="wrong_code"):
                await join(bob, WRONG, alice)
        async with waiting(alice) as (_, outcomes):
            with pytest.raises(RemoteError, match="code_spent"):
                await join(bob, WRONG, alice)
            assert not outcomes
        spent = bob.pairing._joining._spent
        assert spent.maxlen == PAIR_SPENT_MAX
        spent.extend(f"{number:08}" for number in range(PAIR_SPENT_MAX))
        assert WRONG not in spent


async def test_two_nodes_of_one_name(tmp_path: Path) -> None:
    async with (
        open_small_node(tmp_path, "alice", cookie="c1") as alice,
        open_small_node(tmp_path / "other", "alice", cookie="c2") as other,
    ):
        async with waiting(alice) as (code, outcomes):
            with pytest.raises(RemoteError, match="name_taken"):
                await join(other, code, alice)
            assert not outcomes


async def test_who_does_not_have_the_code_hands_nothing_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, "mallory", "bob") as (mallory, bob):
        async with waiting(mallory):
            monkeypatch.setattr(Pairing, "prove", lambda *_: bytes(64))
            with pytest.raises(RemoteError, match="does not have this code"):
                await join(bob, WRONG, mallory)
        assert len(bob.credentials.psks) == 1
        assert not (bob.config.node.state_dir / FILE).exists()


async def test_the_cookie_outlives_a_restart_and_yields_to_the_operator(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with nodes(tmp_path, "alice") as (alice,):
        config = make_config(tmp_path, "bob", cookie="cbob")
        async with open_node(config) as bob:
            async with waiting(alice) as (code, _):
                # Bob has dialled alice for a while, with his own cookie.
                seen(bob, alice)
                await trio.testing.wait_all_tasks_blocked(0.05)
                await join(bob, code, alice)
        async with open_node(config) as bob:
            assert bob.credentials.psks[0] == alice.credentials.psks[0]
            assert len(bob.credentials.psks) == 2
            seen(bob, alice)
            await wait_up(bob, "alice")
        (tmp_path / "cbob").write_text("one that the operator wrote later\n")
        async with open_node(config) as bob:
            assert len(bob.credentials.psks) == 1
        assert "paired_cookie_ignored" in caplog.text


async def test_a_chosen_cookie_opens_only_its_own_environment(tmp_path: Path) -> None:
    (tmp_path / "calice").write_text("some unusual words that nobody guesses\n")
    (tmp_path / "calice").chmod(0o600)
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        alice.pairing._environment = "prod"
        async with waiting(alice) as (code, _):
            with pytest.raises(RemoteError, match='environment = "prod" and this one "dev"'):
                await join(bob, code, alice)
        assert len(bob.credentials.psks) == 1


async def test_static_peers_count_too(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice") as (alice,):
        peers = (Peer(name="alice", host="127.0.0.1", port=alice.port),)
        config = make_config(tmp_path, "bob", peers=peers, cookie="cbob")
        async with open_node(config) as bob, waiting(alice) as (code, _):
            assert (await search(bob, code))["linked"]
