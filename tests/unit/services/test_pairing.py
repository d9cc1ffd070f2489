"""Pairing between nodes of this process that have a cookie each."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.errors import NoConnection, NotPermitted, RemoteError
from drupelet.node import Node
from drupelet.services import pairing
from drupelet.services.endpoint import Endpoint
from drupelet.services.joining import _call
from drupelet.wire.keys import key_to_text
from drupelet.wire.limits import PAIR_RUNS_MAX, PAIR_S
from drupelet.wire.pairing import (
    begin,
    code_from_text,
    decode_handed,
    decode_share,
    encode_proof,
    encode_start,
)
from tests.unit.services.lights import nodes
from tests.unit.services.nodes import wait_up

WRONG = "ZZZZZZZZ"


@asynccontextmanager
async def waiting(node: Node, *arguments: Any) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A code that `node` shows, and what became of it when the block ends."""
    outcomes: list[dict[str, Any]] = []

    async def wait() -> None:
        outcomes.append(await node.pairing.wait())

    shown: Any = await node.pairing.open(*arguments)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        yield shown["code"], outcomes
        node.pairing.cancel()


async def join(node: Node, code: str, other: Node) -> dict[str, Any]:
    return await node.pairing._joining.join(code, f"127.0.0.1:{other.port}")


async def dial(node: Node, other: Node) -> Endpoint:
    return await node.links.stranger_links.dial("127.0.0.1", other.port, None)


async def guess(node: Node, endpoint: Endpoint, other: Node, code: str) -> object:
    """A try by hand."""
    run = begin(
        code_from_text(code),
        session=endpoint.binding,
        own_key=node.key,
        private=secrets.token_bytes(32),
        initiator=True,
    )
    run.receive(decode_share(await _call(endpoint, "start", encode_start(run.public))), other.key)
    return await _call(endpoint, "step", encode_proof(run.proof()))


async def test_two_clusters_become_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        with pytest.raises(NoConnection):  # nobody waits: strangers are not let in
            await dial(bob, alice)
        started = trio.current_time()
        async with waiting(alice) as (code, outcomes):
            answer = await join(bob, code.lower(), alice)
        expected = {"name": "alice", "key": key_to_text(alice.key), "host": "127.0.0.1"}
        assert answer == expected | {
            "port": alice.port, "by": "link", "addresses": [["127.0.0.1", alice.port]],
            "gives": "member", "linked": True, "sentence": ""
        }  # fmt: skip
        assert outcomes == [
            {"outcome": "paired", "by": "link", "name": "bob", "key": key_to_text(bob.key)}
        ]
        await wait_up(alice, "bob")
        assert await bob.call("alice", "light", "temp") == 20
        assert trio.current_time() - started < 10
        assert bob.credentials.psks == (alice.credentials.psks[0], *bob.credentials.psks[1:])
        assert len(bob.credentials.psks) == 2
        for node in (alice, bob):  # what failed before is no reason to wait
            assert node.links.admission.forgiving_until > trio.current_time()
        text = await alice.keys.cookie_text()
        for secret in (code, code_from_text(code), text):
            assert secret not in caplog.text


async def test_one_wrong_guess_burns_the_code(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        async with waiting(alice) as (code, outcomes):
            with pytest.raises(RemoteError, match="wrong_code"):
                await join(bob, WRONG, alice)
            while not outcomes:
                await trio.lowlevel.checkpoint()
            assert outcomes == [
                {"outcome": "burnt", "by": "link", "name": "bob", "key": key_to_text(bob.key)}
            ]
            with pytest.raises((RemoteError, NoConnection)):
                await join(bob, code, alice)
        assert len(bob.credentials.psks) == 1
        async with waiting(alice) as (code, _):  # a new code is good
            assert (await join(bob, code, alice))["linked"]


async def test_a_grant_instead(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        with pytest.raises(RemoteError, match="exports no 'tmep'"):
            await alice.pairing.open("light", {"functions": ["tmep"]})
        async with waiting(alice, "light", {"functions": ["temp"]}) as (code, outcomes):
            answer = await join(bob, code, alice)
        assert answer["gives"] == "grant"
        assert "temp" in answer["sentence"]
        assert outcomes[0]["outcome"] == "paired"
        assert await bob.call("alice", "light", "temp") == 20
        with pytest.raises(NotPermitted):
            await bob.call("alice", "light", "on")
        assert len(bob.credentials.psks) == 1


async def test_a_flood_of_a_stranger_has_one_guess(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob", "mallory") as (alice, bob, mallory):
        async with waiting(alice) as (code, outcomes):
            links = [await dial(mallory, alice) for _ in range(4)]
            for endpoint in links:
                for _ in range(5):  # asking costs the code nothing
                    assert await _call(endpoint, "look") == {"gives": "member", "version": 1}
                with pytest.raises(NotPermitted):
                    await _call(endpoint, "step", encode_proof(bytes(64)))
                with pytest.raises(NotPermitted):
                    await _call(endpoint, "done")
            assert not outcomes
            wrong = []
            for endpoint in links:
                try:
                    await guess(mallory, endpoint, alice, WRONG)
                except (RemoteError, NotPermitted, NoConnection) as error:
                    wrong.append(str(error).partition(":")[0])
            assert wrong[0] == "wrong_code"
            assert "wrong_code" not in wrong[1:]
            with pytest.raises((RemoteError, NoConnection)):
                await join(bob, code, alice)
        assert [each["outcome"] for each in outcomes] == ["burnt"]
        assert len(links) < PAIR_RUNS_MAX


async def test_who_carries_words_between_two_links_gets_nothing(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob", "mallory") as (alice, bob, mallory):
        async with waiting(alice) as (code, outcomes):
            inner = await dial(mallory, alice)
            # Bob's run is with mallory's link to him: another handshake's hash, another key.
            run = begin(
                code_from_text(code), session=bytes(32), own_key=bob.key,
                private=secrets.token_bytes(32), initiator=True,
            )  # fmt: skip
            share = decode_share(await _call(inner, "start", encode_start(run.public)))
            run.receive(share, mallory.key)
            with pytest.raises(RemoteError, match="wrong_code"):
                await _call(inner, "step", encode_proof(run.proof()))
        assert [each["outcome"] for each in outcomes] == ["burnt"]


async def test_a_proof_is_good_once(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        async with waiting(alice) as (code, outcomes):
            endpoint = await dial(bob, alice)
            handed = decode_handed(await guess(bob, endpoint, alice, code))
            assert handed.cookie == await alice.keys.cookie_text()
            with pytest.raises(NotPermitted):
                await guess(bob, endpoint, alice, code)
            other = await dial(bob, alice)
            with pytest.raises(NotPermitted):
                await _call(other, "done")
            assert await _call(endpoint, "done") is True
        assert [each["outcome"] for each in outcomes] == ["paired"]


async def test_when_nobody_waits_any_more_the_code_is_gone(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await alice.pairing.open()
        with trio.move_on_after(0.01):
            await alice.pairing.wait()
        assert not alice.pairing.is_open()
        with pytest.raises(RemoteError, match="no_pairing"):
            await alice.pairing.wait()
        async with waiting(alice) as (code, _):
            stranger = await dial(bob, alice)
            assert not stranger.closed
        while not stranger.closed:  # the links of strangers go with it
            await trio.lowlevel.checkpoint()
        with pytest.raises((RemoteError, NoConnection)):
            await join(bob, code, alice)
        assert alice.pairing.cancel() is False


async def test_a_code_that_nobody_ever_waited_for_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        monkeypatch.setattr(pairing, "WATCH_S", 0.0)
        shown: Any = await alice.pairing.open()
        with pytest.raises(RemoteError, match="nobody_waits"):
            await join(bob, shown["code"], alice)
        assert not alice.pairing.is_open()
        async with waiting(alice) as (code, _):
            assert (await join(bob, code, alice))["linked"]


async def test_a_new_code_takes_the_place_of_a_former_one(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice") as (alice,):
        async with waiting(alice) as (_, outcomes):
            shown: Any = await alice.pairing.open()
            while not outcomes:
                await trio.lowlevel.checkpoint()
            assert outcomes[0]["outcome"] == "cancelled"
            assert alice.pairing.is_open()
            assert shown["span_s"] == PAIR_S
            assert (shown["name"], shown["key"]) == ("alice", key_to_text(alice.key))


async def test_a_cookie_that_is_in_no_file_is_not_handed_over(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice") as (alice,):
        await alice.keys.set_cookie("another one entirely")
        with pytest.raises(RemoteError, match="cookie_unknown"):
            await alice.pairing.open()


async def test_malformed_words_close_the_link_and_burn_nothing(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        async with waiting(alice) as (code, outcomes):
            for function, words in (("start", b"\xff"), ("start", encode_start(bytes(32))),
                                    ("step", b""), ("step", None)):  # fmt: skip
                endpoint = await dial(bob, alice)
                with pytest.raises(NoConnection):
                    await _call(endpoint, function, words)
            endpoint = await dial(bob, alice)
            with pytest.raises(RemoteError, match="pair_version"):
                await _call(endpoint, "start", b"\xa1gversion\x02")
            assert not outcomes
            assert (await join(bob, code, alice))["linked"]


async def test_what_is_the_operators_is_nobody_elses(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob), contextlib.AsyncExitStack():
        async with waiting(alice):
            endpoint = await dial(bob, alice)
            for function in ("open", "wait", "cancel", "join"):
                with pytest.raises(NotPermitted):
                    await _call(endpoint, function)
