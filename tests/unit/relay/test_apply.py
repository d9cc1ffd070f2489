"""PUT /apply/... at a relay, with real HTTP; a node that answers as the daemon does."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.core.grants import Grants
from drupelet.core.http_calls import HttpCalls
from drupelet.core.relay import Rate
from drupelet.core.relay_peers import Peers
from drupelet.core.requests import Answer, Callee, Run
from drupelet.errors import CallError, RemoteError
from drupelet.relay import apply
from drupelet.relay.service import Relay
from drupelet.wire import relay as wire
from drupelet.wire.announcements import encode_announcement, encode_offers
from drupelet.wire.codec import dumps, loads
from drupelet.wire.grants import Grant, Terms, issue, narrow
from drupelet.wire.http_calls import CBOR, JSON, path_to
from drupelet.wire.http_signatures import (
    SignedPut,
    bytes_field,
    check_digest,
    digest_of,
    headers_of,
    sign_put,
    verify_answer,
)
from drupelet.wire.keys import key_to_text
from drupelet.wire.limits import (
    APPLY_BODY_BYTES_MAX,
    APPLY_WAITING_MAX,
    APPLY_WAITING_PER_HOLDER_MAX,
    GRANT_BYTES_MAX,
)
from tests.unit.relay.curl import Curl, Said
from tests.unit.relay.nodes import (
    ALICE,
    BOB,
    FREE,
    TRUDY,
    Client,
    Node,
    connected,
    relay_at,
)

FREELY = {**FREE, **dict.fromkeys(("put", "puts"), Rate(count=10_000, period_s=1, burst=10_000))}


@dataclass
class Light:
    """Alice's node: answers PUTs as `services/relayed_calls.py` does."""

    who: Node = ALICE
    name: str = "alice"
    value: Any = 20.5
    failure: CallError | None = None
    calls: list[tuple[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.grants = Grants(self.who.key, lambda key: False)
        self.callee = Callee(self.who.seed, self.grants, os.urandom, trio.current_time())
        self.http = HttpCalls(self.callee, self.who.seed, self.name)

    def grant(self, holder: Node = BOB, terms: Terms | None = None) -> Grant:
        made = issue(
            self.who.seed,
            holder.key,
            "light",
            terms or Terms(functions=("temp",), delegable=1),
            os.urandom(8),
            sequence=self.grants.next_sequence,
        )
        self.grants.issued(made, trio.current_time())
        return made

    async def announce(self, client: Client, *holders: Node, sequence: int = 1) -> None:
        announcement = encode_announcement(
            self.who.seed,
            name=self.name,
            boot_key=self.callee.boot_key,
            token=self.callee.token,
            run=client.hello.run,
            sequence=sequence,
            offers=encode_offers(self.who.key, {"light": tuple(one.key for one in holders)}),
        )
        await client.ask(wire.Announce(ref=0, announcement=announcement))

    async def serve(self, client: Client) -> None:
        while True:
            [message] = await client.take()
            assert (message.kind, message.sender) == (wire.APPLY, wire.APPLY_KEY)
            now = trio.current_time()
            got = self.http.receive(message.id, message.body, now)
            if isinstance(got, Run):
                self.calls.append((got.target, loads(got.arguments)))
                outcome = self.failure or dumps(self.value)
                [got], _ = self.callee.finish(got.ticket, outcome, now)
            if isinstance(got, Answer):
                await client.ask(
                    wire.Send(
                        ref=0,
                        to=got.to,
                        id=os.urandom(16),
                        re=got.re,
                        kept_s=60,
                        receipt=False,
                        body=got.body,
                    )
                )


def signed(
    light: Light,
    grant: Grant,
    body: bytes = b"[1]",
    *,
    path: str = "",
    by: Node = BOB,
    content_type: str = JSON,
    created: float | None = None,
    once: str | None = None,
) -> SignedPut:
    put = SignedPut(
        path=path or path_to(light.name, "light", "temp"),
        content_type=content_type,
        content_digest=digest_of(body),
        grant=bytes_field(grant.data),
        idempotency_key=once,
    )
    when = int(time.time() if created is None else created)
    nonce = light.callee.token + os.urandom(16)
    signature_input, signature = sign_put(by.seed, put, created=when, nonce=nonce)
    return replace(put, signature_input=signature_input, signature=signature)


@asynccontextmanager
async def running(
    directory: Path, *, rates: Any = FREELY, **fields: Any
) -> AsyncIterator[tuple[Relay, Curl, Light, Grant]]:
    """A relay with Alice's node, and a grant of hers for Bob."""
    async with relay_at(directory, ALICE, TRUDY, rates=rates) as (relay, port):
        async with connected(port, ALICE) as client, trio.open_nursery() as nursery:
            light = Light(**fields)
            await light.announce(client, BOB)
            nursery.start_soon(light.serve, client)
            yield relay, Curl(port), light, light.grant()
            nursery.cancel_scope.cancel()


def verified(light: Light, put: SignedPut, said: Said) -> None:
    """Return if Alice said it, to this request."""
    verify_answer(
        light.who.key,
        put,
        said.status,
        said.headers["content-type"],
        said.headers["content-digest"],
        said.headers["signature-input"],
        said.headers["signature"],
    )
    check_digest(said.headers["content-digest"], said.body)


async def test_a_signed_put_runs_and_the_node_s_answer_comes_back(tmp_path: Path) -> None:
    async with running(tmp_path) as (relay, curl, light, grant):
        put = signed(light, grant)
        said = await curl.put(put)
        assert (said.status, said.json) == (200, 20.5)
        verified(light, put, said)
        assert light.calls == [("light/temp", [1])]
        by_key = signed(light, grant, path=path_to(key_to_text(ALICE.key), "light", "temp"))
        assert (await curl.put(by_key)).json == 20.5
        in_cbor = signed(light, grant, dumps([b"x"]), content_type=CBOR)
        said = await curl.put(in_cbor, dumps([b"x"]), Accept=CBOR)
        assert (said.headers["content-type"], loads(said.body)) == (CBOR, 20.5)
        verified(light, in_cbor, said)
        assert light.calls[2] == ("light/temp", [b"x"])
        assert relay.counts["puts_200"] == 3
        assert relay.gauges()["waiting_messages"] == 0


async def test_what_is_not_signed_or_altered_is_refused_by_the_relay(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, curl, light, grant):
        put = signed(light, grant)
        other = light.grant()
        for said, words in (
            (await curl.put(put, **{"Signature": None}), "signature is missing"),
            (await curl.put(put, **{"Signature-Input": None}), "signature-input is missing"),
            (await curl.put(put, **{"Signature": [put.signature] * 2}), "more than once"),
            (await curl.put(put, **{"Content-Digest": None}), "content-digest is missing"),
            (await curl.put(put, **{"Drupelet-Grant": None}), "drupelet-grant is missing"),
            (await curl.put(put, b"[2]"), "the body is not"),
            (
                await curl.put(replace(put, path=path_to("alice", "light", "off"))),
                "does not hold",
            ),
            (await curl.put(put, **{"Drupelet-Grant": bytes_field(other.data)}), "does not hold"),
            (await curl.put(put, **{"Content-Type": f"{JSON}; charset=utf-8"}), "does not hold"),
            (await curl.put(put, **{"Idempotency-Key": "k"}), "Idempotency-Key"),
            (
                await curl.put(put, b"[2]", **{"Content-Digest": digest_of(b"[2]")}),
                "does not hold",
            ),
        ):
            assert (said.status, said.kind) == (401, "unsigned"), said
            assert words in said.why and "drupelet sign" in said.why
            assert "accept-signature" in said.headers and "signature" not in said.headers
        assert not light.calls
        assert (await curl.put(put)).status == 200


async def test_a_replay_is_refused_by_the_node(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, curl, light, grant):
        put = signed(light, grant)
        assert (await curl.put(put)).status == 200
        said = await curl.put(put)
        assert (said.status, said.kind) == (409, "replayed")
        verified(light, put, said)
        assert len(light.calls) == 1


async def test_dates_count_at_the_relay_and_tokens_at_the_node(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, curl, light, grant):
        for off_s in (-600, 600, -310, 310):
            said = await curl.put(signed(light, grant, created=time.time() + off_s))
            assert (said.status, said.kind) == (401, "unsigned") and "clock" in said.why
        for off_s in (-290, 290):
            said = await curl.put(signed(light, grant, created=time.time() + off_s))
            assert said.status == 200
        put = signed(light, grant)
        light.callee = Callee(ALICE.seed, light.grants, os.urandom, trio.current_time())
        light.http = HttpCalls(light.callee, ALICE.seed, "alice")  # it started anew
        said = await curl.put(put)
        assert (said.status, said.kind) == (401, "stale")
        verified(light, put, said)
        assert said.json["error"]["token"] == light.callee.token.hex()
        assert "accept-signature" in said.headers


async def test_who_may_not(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, curl, light, grant):
        for put, words in (
            (signed(light, grant, by=TRUDY), "did not sign this"),
            (signed(light, grant, path=path_to("alice", "light", "off")), "temp of the mission"),
            (signed(light, grant, path=path_to("alice", "other", "temp")), "mission light"),
        ):
            said = await curl.put(put)
            assert (said.status, said.kind) == (403, "NotPermitted") and words in said.why
        junk = replace(grant, data=grant.data[:-1])
        said = await curl.put(signed(light, junk))
        assert said.status == 403 and "drupelet-grant" in said.why
        assert not light.calls
        light.grants.revoke(grant.id, trio.current_time())  # the relay does not know
        said = await curl.put(signed(light, grant))
        assert (said.status, said.kind) == (403, "Revoked")
        assert "signature" in said.headers


async def test_the_largest_grant_and_one_above(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, curl, light, grant):
        most = replace(grant, data=bytes(GRANT_BYTES_MAX))
        said = await curl.put(signed(light, most))
        assert said.status == 403 and "drupelet-grant" in said.why  # it was read
        said = await curl.put(signed(light, replace(grant, data=bytes(GRANT_BYTES_MAX + 3))))
        assert said.status == 401 and "too long" in said.why


def test_a_relay_without_puts_pays_nothing_for_them() -> None:
    code = "import drupelet.relay.web, sys; print([*sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = {name.partition(".")[0] for name in ast.literal_eval(done.stdout)}
    assert "starlette" in modules
    assert not modules & {"cryptography", "http_message_signatures", "http_sf"}


async def test_a_narrowed_grant_is_shown_by_its_chain(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, curl, light, grant):
        trudys = narrow(grant, BOB.seed, TRUDY.key, Terms(functions=("temp",)), os.urandom(8))
        assert (await curl.put(signed(light, trudys, by=TRUDY))).status == 200


async def test_requests_that_are_none(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, curl, light, grant):
        put = signed(light, grant)
        headers = headers_of(put)
        said = await curl.ask("POST", put.path, b"[1]", headers)
        assert (said.status, said.headers["allow"]) == (405, "PUT")
        assert (await curl.ask("PUT", put.path + "?x=1", b"[1]", headers)).status == 400
        for path in ("/apply/alice/light", "/apply/alice/light/te%6dp", "/apply/a/b/c/d"):
            said = await curl.ask("PUT", path, b"[1]", headers)
            assert said.status == 404 and "/apply/NODE/MISSION/FUNCTION" in said.why
        for content_type in (None, "text/plain"):
            said = await curl.put(put, **{"Content-Type": content_type})
            assert said.status == 415 and CBOR in said.why
        assert (await curl.put(signed(light, grant, b"{}"), b"{}")).status == 422
        assert not light.calls


async def test_the_largest_body_and_one_above(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, curl, light, grant):
        most = b'["' + b"x" * (APPLY_BODY_BYTES_MAX - 4) + b'"]'
        assert (await curl.put(signed(light, grant, most), most)).status == 200
        more = most + b" "
        said = await curl.put(signed(light, grant, more), more)
        assert (said.status, said.kind) == (413, "too_large")
        chunks = {"Content-Length": None, "Transfer-Encoding": "chunked"}
        chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(more), more)
        assert (await curl.put(signed(light, grant, more), chunked, **chunks)).status == 413


async def test_nodes_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "HERE_S", 0.2)
    async with running(tmp_path) as (relay, curl, light, grant):
        for name in ("nobody", key_to_text(TRUDY.key)):
            said = await curl.put(signed(light, grant, path=path_to(name, "light", "temp")))
            assert (said.status, said.kind) == (404, "NoConnection")
        misspelt = key_to_text(ALICE.key)[:-1] + "0"
        said = await curl.put(signed(light, grant, path=path_to(misspelt, "light", "temp")))
        assert said.status == 404 and "is it o?" in said.why
    async with relay_at(tmp_path, ALICE) as (relay, port):
        light = Light()
        async with connected(port, ALICE) as client:
            await light.announce(client, BOB)
        with trio.fail_after(10):
            while relay.gauges()["lines"]:
                await trio.testing.wait_all_tasks_blocked(0.01)
        said = await Curl(port).put(signed(light, light.grant()))
        assert (said.status, said.json["error"]["reason"]) == (502, "no_route")
        assert "nothing ran" in said.why
        assert relay.gauges()["waiting_messages"] == 0


async def test_a_node_that_polls_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "HERE_S", 600.0)  # it is told at once, not at the end
    async with relay_at(tmp_path, ALICE, rates=FREELY) as (_, port):
        light = Light()
        async with connected(port, ALICE) as client:
            await light.announce(client, BOB)
        async with trio.open_nursery() as nursery:
            answers: list[Said] = []

            async def ask() -> None:
                answers.append(await Curl(port).put(signed(light, light.grant())))

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.1)
            async with connected(port, ALICE) as client, trio.open_nursery() as serving:
                serving.start_soon(light.serve, client)
                with trio.fail_after(10):
                    while not answers:
                        await trio.testing.wait_all_tasks_blocked(0.01)
                serving.cancel_scope.cancel()
            assert answers[0].status == 200


async def test_a_node_at_another_relay_is_asked_there(tmp_path: Path) -> None:
    async with running(tmp_path / "there") as (_, there, light, grant):
        async with relay_at(tmp_path / "here", ALICE, rates=FREELY) as (relay, port):
            async with connected(port, ALICE) as client:
                await light.announce(client, BOB)
                relay.peer_urls = {TRUDY.key: f"http://127.0.0.1:{there.port}"}
                relay.peers = Peers([TRUDY.key])
                relay.peers[TRUDY.key].present.add(ALICE.key)
                async with trio.open_nursery() as nursery:  # here she is served here
                    nursery.start_soon(light.serve, client)
                    assert (await Curl(port).put(signed(light, grant))).status == 200
                    nursery.cancel_scope.cancel()
            with trio.fail_after(10):
                while relay.gauges()["lines"]:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            put = signed(light, grant)
            said = await Curl(port).put(put)
            assert (said.status, said.kind) == (307, "elsewhere")
            assert said.headers["location"] == f"http://127.0.0.1:{there.port}{put.path}"
            assert (await there.put(put)).status == 200  # the same, as it is


async def test_two_of_one_name(tmp_path: Path) -> None:
    """Anybody with an account may call himself alice; the grant says which one is meant."""
    async with running(tmp_path) as (_, curl, light, grant):
        async with connected(curl.port, TRUDY) as client:
            trudys = Light(TRUDY)
            await trudys.announce(client, BOB)
            assert (await curl.put(signed(light, grant))).json == 20.5
            # a member's grant counts on another member: here neither of the two issued it
            bobs = issue(BOB.seed, BOB.key, "light", Terms(), os.urandom(8), sequence=1)
            said = await curl.put(signed(light, bobs))
            assert said.status == 404 and "2 nodes call themselves so" in said.why


async def test_failures_of_the_call(tmp_path: Path) -> None:
    async with running(tmp_path, failure=RemoteError("ValueError", "no")) as (
        _,
        curl,
        light,
        grant,
    ):
        said = await curl.put(signed(light, grant))
        assert (said.status, said.kind, said.why) == (500, "ValueError", "no")
        slow = light.grant(terms=Terms(rate=(1, 60)))
        await curl.put(signed(light, slow))
        said = await curl.put(signed(light, slow))
        assert (said.status, said.kind) == (429, "RateLimited")
        assert 50 <= int(said.headers["retry-after"]) <= 60


async def test_an_idempotency_key_runs_once(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, curl, light, grant):
        for _ in range(3):
            said = await curl.put(signed(light, grant, once="the-first"))
            assert said.json == 20.5
        assert len(light.calls) == 1


async def test_rates_of_an_address_and_of_a_holder(tmp_path: Path) -> None:
    for kind in ("puts", "put"):
        rates = {**FREELY, kind: Rate(count=1, period_s=60, burst=1)}
        async with running(tmp_path / kind, rates=rates) as (_, curl, light, grant):
            assert (await curl.put(signed(light, grant))).status == 200
            said = await curl.put(signed(light, grant))
            assert (said.status, said.kind) == (429, "RateLimited")
            assert 50 <= int(said.headers["retry-after"]) <= 60
            if kind == "put":  # a forged one is not charged to the holder, another holder may
                trudys = light.grant(TRUDY)
                assert (await curl.put(signed(light, trudys, by=TRUDY))).status == 200


async def test_waiting_puts_at_the_maximum_and_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert APPLY_WAITING_PER_HOLDER_MAX < APPLY_WAITING_MAX
    for name in ("APPLY_WAITING_PER_HOLDER_MAX", "APPLY_WAITING_MAX"):
        monkeypatch.setattr(apply, name, 2)
        async with relay_at(tmp_path, ALICE, rates=FREELY) as (_, port):
            light, curl = Light(), Curl(port)
            grant = light.grant()
            async with connected(port, ALICE) as client, trio.open_nursery() as nursery:
                await light.announce(client, BOB)
                statuses: list[int] = []

                async def ask(
                    light: Light = light,
                    grant: Grant = grant,
                    curl: Curl = curl,
                    statuses: list[int] = statuses,
                ) -> None:
                    statuses.append((await curl.put(signed(light, grant))).status)

                for _ in range(2):
                    nursery.start_soon(ask)
                with trio.fail_after(10):
                    while client.inbox.statistics().current_buffer_used < 2:
                        await trio.testing.wait_all_tasks_blocked(0.01)
                said = await curl.put(signed(light, grant))
                assert (said.status, said.headers["retry-after"]) == (503, "1")
                assert said.json["error"]["reason"] == "overloaded"
                nursery.start_soon(light.serve, client)
                with trio.fail_after(10):
                    while len(statuses) < 2:
                        await trio.testing.wait_all_tasks_blocked(0.01)
                assert statuses == [200, 200]
                for _ in range(3):  # there is room again
                    assert (await curl.put(signed(light, grant))).status == 200
                nursery.cancel_scope.cancel()
        monkeypatch.undo()


async def test_a_node_that_does_not_answer_and_answers_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "_MORE_S", 0.1)
    async with relay_at(tmp_path, ALICE, TRUDY, rates=FREELY) as (relay, port):
        light = Light()
        async with connected(port, ALICE) as client, connected(port, TRUDY) as trudy:
            await light.announce(client, BOB)
            async with trio.open_nursery() as nursery:
                answers: list[Said] = []

                async def ask() -> None:
                    put = signed(light, light.grant())
                    answers.append(await Curl(port).put(put, Prefer="wait=1"))

                nursery.start_soon(ask)
                [message] = await client.take()
                for who in (trudy, client):  # another node; then an answer to nothing
                    re = message.id if who is trudy else os.urandom(16)
                    await who.ask(
                        wire.Send(
                            ref=0,
                            to=wire.APPLY_KEY,
                            id=os.urandom(16),
                            re=re,
                            kept_s=1,
                            receipt=False,
                            body=b"x",
                        )
                    )
            [said] = answers
            assert (said.status, said.kind) == (504, "Timeout")
            assert said.json["error"]["maybe_ran"] is True
            assert relay.counts["answers_dropped"] == 2
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                [message] = await client.take()
                junk = wire.Send(
                    ref=0,
                    to=wire.APPLY_KEY,
                    id=os.urandom(16),
                    re=message.id,
                    kept_s=1,
                    receipt=False,
                    body=b"junk",
                )
                await client.ask(junk)
            assert (answers[1].status, answers[1].kind) == (502, "malformed")
