"""PUTs through a relay to a daemon, signed by another: `drupelet sign` without its command line."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.errors import NoConnection, NotPermitted, RemoteError
from drupelet.node import Node
from drupelet.services.system import OPERATOR
from drupelet.wire.grant_files import decode_grant_file, encode_grant_file
from drupelet.wire.http_signatures import SignedPut, bytes_field, digest_of, sign_put
from drupelet.wire.keys import key_to_text
from drupelet.wire.limits import APPLY_BODY_BYTES_MAX
from tests.unit.relay.curl import Curl, Said
from tests.unit.services.lights import grant
from tests.unit.services.relayed import announced, give, nodes


async def put(
    signer: Node,
    function: str,
    *args: Any,
    text: str = "",
    once: str = "",
    node: str = "alice",
    **headers: str,
) -> Said:
    """Sign and send."""
    made = await signed(signer, function, *args, text=text, once=once, node=node)
    return await send(made, *args, **headers)


async def signed(
    signer: Node, function: str, *args: Any, text: str = "", once: str = "", node: str = "alice"
) -> Any:
    body = json.dumps(args).encode()
    return await signer.http_calls.sign(node, "light", function, body, text, once)


async def send(made: Any, *args: Any, **headers: str) -> Said:
    host, path = made["url"].removeprefix("http://").split("/", 1)
    curl = Curl(int(host.partition(":")[2]))
    body = json.dumps(args).encode()
    return await curl.ask(made["method"], f"/{path}", body, {**made["headers"], **headers})


async def test_a_signed_put_runs_as_any_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        ident = await give(alice, bob, bob, functions=["temp", "size"], rate=[4, 100])
        made = await signed(bob, "temp", 5)
        assert made["method"] == "PUT"
        assert made["url"].endswith(f"/apply/{key_to_text(alice.key)}/light/temp")
        said = await send(made, 5)
        assert (said.status, said.json) == (200, 25)
        said = await send(made, 5)
        assert (said.status, said.kind) == (409, "replayed")
        said = await send(await signed(bob, "temp", 6), 7)
        assert (said.status, said.kind) == (401, "unsigned")
        said = await put(bob, "size", 1, 2)
        assert said.status in (422, 500)  # the worker's word for arguments that do not fit
        big = "x" * 60_000
        assert (await put(bob, "size", big)).json == 60_000
        assert (await put(bob, "temp")).json == 20
        said = await put(bob, "temp")
        assert (said.status, said.kind) == (429, "RateLimited") and "retry-after" in said.headers
        await alice.grants.revoke(ident)
        said = await put(bob, "temp")
        assert said.status in (403, 404)  # the node's word, or it is not shown to him any more
        entries: list[Any] = await alice.audit.read("light")
        calls = [each for each in entries if each["what"] == "call"]
        assert [each["function"] for each in calls] == ["temp", "size", "size", "temp"]
        assert {each["caller"] for each in calls} == {key_to_text(bob.key)}


async def test_what_is_revoked_while_it_runs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        ident = await give(alice, bob, bob)
        answers: list[Said] = []

        async def wait() -> None:
            answers.append(await put(bob, "slow", 30.0))

        later = await signed(bob, "temp")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            while not len(alice.holdings):
                await trio.testing.wait_all_tasks_blocked(0.01)
            await alice.grants.revoke(ident)
        assert [(each.status, each.kind) for each in answers] == [(403, "Revoked")]
        said = await send(later)
        assert said.status in (403, 404)


async def test_with_a_file_that_whoever_has_it_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        made = await grant(alice, None, functions=["temp"])
        await announced(alice)
        text = str(made["text"])
        assert (await put(bob, "temp", 1, text=text)).json == 21
        assert (await put(alice, "temp", 2, text=text)).json == 22  # the owner's own, for a phone
        with pytest.raises(RemoteError, match="a grant of alice, not of bob"):
            await put(bob, "temp", text=text, node="bob")
        with pytest.raises(NotPermitted):
            await put(bob, "on", text=text)
        with pytest.raises(RemoteError, match="bad_grant"):
            await put(bob, "temp", text="junk")
        narrowed = await alice.grants.issue("light", key_to_text(alice.key), {})
        with pytest.raises(RemoteError, match="not this node's"):
            await put(bob, "temp", text=str(narrowed["text"]))


async def test_a_client_of_its_own_gets_the_token_from_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No daemon, no account: the first PUT learns the token, the second runs."""
    async with nodes(tmp_path, monkeypatch, "alice") as (_, (alice,)):
        made = await grant(alice, None)
        await announced(alice)
        file = decode_grant_file(str(made["text"]))
        assert file.seed is not None and alice.relay is not None
        curl = Curl(int(alice.relay.url.rpartition(":")[2]))
        token = bytes(16)
        statuses = []
        for _ in range(2):
            unsigned = SignedPut(
                path="/apply/alice/light/temp",
                content_type="application/json",
                content_digest=digest_of(b"[1]"),
                grant=bytes_field(file.grant.data),
            )
            nonce = token + os.urandom(16)
            signature_input, signature = sign_put(
                file.seed, unsigned, created=int(time.time()), nonce=nonce
            )
            said = await curl.put(
                replace(unsigned, signature_input=signature_input, signature=signature)
            )
            statuses.append(said.status)
            if said.status == 401:
                token = bytes.fromhex(said.json["error"]["token"])
        assert statuses == [401, 200] and said.json == 21


async def test_what_cannot_be_signed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob, functions=["temp"])
        key = key_to_text(alice.key)
        assert (await put(bob, "temp", node=key)).status == 200
        for node, function, failure in (
            ("nobody", "temp", NoConnection),
            (key_to_text(bob.key), "temp", NoConnection),
            ("alice", "on", NotPermitted),
        ):
            with pytest.raises(failure):
                await put(bob, function, node=node)
        most = b'["' + b"x" * (APPLY_BODY_BYTES_MAX - 4) + b'"]'
        await bob.http_calls.sign("alice", "light", "temp", most, "", "k" * 200)
        for body, once, words in (
            (most + b" ", "", "65536 bytes"),
            (b"[]", "k" * 201, "200 letters"),
            (b"[]", "ä", "printable"),
        ):
            with pytest.raises(RemoteError, match=words):
                await bob.http_calls.sign("alice", "light", "temp", body, "", once)
        [held] = bob.grants.accepted.files()
        elsewhere = encode_grant_file(replace(held, relays=("https://other.example.org",)))
        with pytest.raises(RemoteError, match=r"no_relay: alice is at https://other.example.org"):
            await put(bob, "temp", text=elsewhere)
        monkeypatch.setattr(bob, "relay", None)
        for text in ("", encode_grant_file(replace(held, relays=()))):
            with pytest.raises(RemoteError, match=r"no_relay.*set \[relay\] url"):
                await put(bob, "temp", text=text)


async def test_only_the_operator_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes(tmp_path, monkeypatch, "alice") as (_, (alice,)):
        export = alice.missions.exports[b"grants/sign"]
        assert export.rings == OPERATOR


async def test_an_idempotency_key_runs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        values = [(await put(bob, "temp", 1, once="the-first")).json for _ in range(3)]
        assert values == [21, 21, 21]
        said = await put(bob, "temp", 2, once="the-first")
        assert (said.status, said.kind) == (422, "badarg")
        entries: list[Any] = await alice.audit.read("light")
        assert len([each for each in entries if each["what"] == "call"]) == 1
