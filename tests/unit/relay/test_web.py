"""The relay on loopback, with real WebSockets and real HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed

from drupelet.relay import web
from drupelet.relay.web import Expiring
from drupelet.wire import relay as wire
from drupelet.wire.codec import dumps, loads
from drupelet.wire.limits import RELAY_FRAME_BYTES_MAX, RELAY_MESSAGE_BYTES_MAX
from drupelet.wire.relay import RelayRefused
from tests.unit.relay.nodes import ALICE, BOB, TRUDY, Node, connected, relay_at, send


def refused(code: str) -> pytest.RaisesExc[RelayRefused]:
    return pytest.raises(RelayRefused, match=f"^{code}")


# -- WebSocket


async def test_a_request_goes_there_and_its_answer_back(tmp_path: Path) -> None:
    async with relay_at(tmp_path, ALICE, BOB) as (relay, port):
        async with connected(port, ALICE) as alice, connected(port, BOB) as bob:
            request = send(BOB, b"request", receipt=True)
            await alice.ask(request)
            [message] = await bob.take()
            assert (message.sender, message.id, message.body) == (ALICE.key, request.id, b"request")
            await bob.ask(send(ALICE, b"reply", re=message.id))
            receipt, reply = await alice.take(2)
            assert (receipt.kind, receipt.re) == (wire.RECEIPT, request.id)
            assert (reply.kind, reply.re, reply.body) == (wire.MESSAGE, request.id, b"reply")
        assert relay.gauges()["waiting_messages"] == 0


async def test_what_came_while_it_was_away_is_delivered_in_order(tmp_path: Path) -> None:
    async with relay_at(tmp_path, ALICE, BOB) as (_, port):
        async with connected(port, ALICE) as alice:
            for number in range(150):  # more than two windows
                await alice.ask(send(BOB, b"%d" % number))
        async with connected(port, BOB) as bob:
            got: list[wire.Deliver] = []
            for _ in range(15):
                got += await bob.take(10)
        assert [message.body for message in got] == [b"%d" % number for number in range(150)]


async def test_the_largest_message_and_one_above(tmp_path: Path) -> None:
    async with relay_at(tmp_path, ALICE, BOB) as (_, port):
        async with connected(port, ALICE) as alice, connected(port, BOB) as bob:
            body = bytes(RELAY_MESSAGE_BYTES_MAX)
            await alice.ask(send(BOB, body))
            [message] = await bob.take()
            assert message.body == body
            with pytest.raises(ConnectionClosed) as closed:
                await alice.socket.send_message(wire.encode(send(BOB, body + b"x")))
                while True:
                    await alice.socket.get_message()
            assert closed.value.reason is not None
            assert closed.value.reason.code == 4400
            await bob.ask(wire.Withdraw(ref=0))  # the others go on


async def test_two_relays_at_once_for_one_key(tmp_path: Path) -> None:
    """Both connections of a node get what comes; one acknowledges for both."""
    async with relay_at(tmp_path, ALICE, BOB) as (relay, port):
        async with connected(port, BOB) as first, connected(port, BOB) as second:
            async with connected(port, ALICE) as alice:
                await alice.ask(send(BOB))
            assert (await first.inbox.receive()) == (await second.take())[0]
        assert relay.gauges()["waiting_messages"] == 0


async def test_a_login_that_is_refused_is_told_why_and_ends(tmp_path: Path) -> None:
    async with relay_at(tmp_path, ALICE) as (relay, port):
        async with connected(port) as stranger:
            with refused("not_registered"):
                await stranger.ask(BOB.login(stranger.hello.nonce))
            with refused("denied"):
                await stranger.ask(ALICE.login(bytes(32)))
            with refused("not_verified"):
                await stranger.ask(BOB.register(stranger.hello.nonce, email="b@x"))
            with pytest.raises(ConnectionClosed):
                while True:
                    await stranger.socket.send_message(b"")
                    await trio.testing.wait_all_tasks_blocked(0.01)
        code = b"i" * 16
        await relay.writer.write(lambda store: store.add_invite(code, 1))
        async with connected(port) as trudy:
            await trudy.ask(TRUDY.register(trudy.hello.nonce, invite=code))
            await trudy.ask(TRUDY.login(trudy.hello.nonce))
            await trudy.ask(send(ALICE))


@pytest.mark.parametrize("said", [b"junk", "text", wire.encode(send(ALICE))])
async def test_nothing_but_a_login_is_heard_first(tmp_path: Path, said: bytes | str) -> None:
    async with relay_at(tmp_path, ALICE) as (relay, port):
        async with connected(port) as stranger:
            for _ in range(web.LOGIN_TRIES):
                try:
                    await stranger.socket.send_message(said)
                except ConnectionClosed:
                    break
            with trio.fail_after(5), pytest.raises(ConnectionClosed):
                while True:
                    await stranger.socket.send_message(said)
                    await trio.testing.wait_all_tasks_blocked(0.01)
        assert relay.counts["messages_accepted"] == 0


async def test_who_does_not_log_in_or_falls_silent_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "LOGIN_S", 0.1)
    monkeypatch.setattr(web, "SILENCE_S", 0.2)
    async with relay_at(tmp_path, ALICE) as (relay, port):
        for who in (None, ALICE):
            async with connected(port, who) as node:
                with trio.fail_after(10):
                    while not node.socket.closed:
                        await trio.testing.wait_all_tasks_blocked(0.02)
        with trio.fail_after(10):
            while relay.gauges()["lines"]:
                await trio.testing.wait_all_tasks_blocked(0.02)


async def test_the_catalogue_over_the_wire(tmp_path: Path) -> None:
    async with relay_at(tmp_path, ALICE, BOB, TRUDY) as (_, port):
        async with connected(port, ALICE) as alice, connected(port, BOB) as bob:
            announcement = ALICE.announcement(alice.hello.run, 1, BOB)
            await alice.ask(wire.Announce(ref=0, announcement=announcement))
            [[key, name, beacon, missions]] = await bob.ask(wire.Catalogue(ref=0, after=b""))
            assert (key, name, missions) == (ALICE.key, "node", ["kitchen"])
            found = await bob.ask(wire.Find(ref=0, node=ALICE.key, grant=b""))
            assert found == [key, name, beacon, missions]
            async with connected(port, TRUDY) as trudy:
                assert await trudy.ask(wire.Catalogue(ref=0, after=b"")) == []
            with refused("replayed"):
                await alice.ask(wire.Announce(ref=0, announcement=announcement))


# -- HTTP


class Caller:
    """A node that has only HTTP."""

    def __init__(self, port: int, who: Node) -> None:
        self.port = port
        self.who = who
        self.headers: dict[str, str] = {}

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        def blocking() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            try:
                connection.request(method, path, body, {**self.headers, **(headers or {})})
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()

        return await trio.to_thread.run_sync(blocking)

    async def hello(self) -> wire.Hello:
        hello = wire.decode_from_relay((await self.request("GET", "/v1/hello"))[1])
        assert isinstance(hello, wire.Hello)
        return hello

    async def say(self, message: Any, **headers: str) -> tuple[int, wire.FromRelay]:
        status, body = await self.request("POST", "/v1/say", wire.encode(message), headers)
        return status, wire.decode_from_relay(body)

    async def login(self) -> None:
        nonce = (await self.hello()).nonce
        _, told = await self.say(self.who.login(nonce), **{"drupelet-nonce": nonce.hex()})
        assert isinstance(told, wire.Done)
        self.headers["authorization"] = f"Bearer {told.value.hex()}"

    async def poll(self, after: int, wait_s: float) -> list[wire.FromRelay]:
        status, body = await self.request("GET", f"/v1/messages?after={after}&wait_s={wait_s}")
        assert status == 200
        return [wire.decode_from_relay(message) for message in loads(body)]


async def test_long_poll_for_who_has_no_websocket(tmp_path: Path) -> None:
    async with relay_at(tmp_path, ALICE, BOB) as (relay, port):
        bob = Caller(port, BOB)
        await bob.login()
        assert await bob.poll(0, 0.05) == []
        got: list[Any] = []

        async def wait() -> None:
            got.extend(await bob.poll(0, 20))

        async with connected(port, ALICE) as alice, trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            with trio.fail_after(10):
                while relay.gauges()["lines"] != 2:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            await alice.ask(send(BOB, b"one"))
        assert [message.body for message in got] == [b"one"]
        assert await bob.poll(0, 0) != [] and await bob.poll(got[0].number, 0.05) == []
        status, told = await bob.say(wire.Ack(ref=5, number=got[0].number))
        assert (status, told) == (200, wire.Done(ref=5, value=None))
        assert await bob.poll(0, 0.05) == []
        status, told = await bob.say(send(ALICE, b"reply", ref=6))
        assert told == wire.Done(ref=6, value=None)


async def test_a_nonce_is_for_one_login_and_a_session_is_needed(tmp_path: Path) -> None:
    async with relay_at(tmp_path, ALICE) as (_, port):
        alice = Caller(port, ALICE)
        for headers in ({}, {"authorization": "Bearer " + "00" * 32}, {"authorization": "x"}):
            status, told = await alice.say(send(ALICE), **headers)
            assert status == 401 and isinstance(told, wire.Refused) and told.code == "denied"
            assert (await alice.request("GET", "/v1/messages", headers=headers))[0] == 401
        nonce = (await alice.hello()).nonce
        told = (await alice.say(ALICE.login(nonce), **{"drupelet-nonce": nonce.hex()}))[1]
        assert isinstance(told, wire.Done)
        for header in (nonce.hex(), "zz" * 32, ""):
            status, again = await alice.say(ALICE.login(nonce), **{"drupelet-nonce": header})
            assert status == 403 and isinstance(again, wire.Refused) and again.code == "denied"


async def test_registration_by_http(tmp_path: Path) -> None:
    async with relay_at(tmp_path) as (relay, port):
        await relay.writer.write(lambda store: store.add_invite(b"i" * 16, 1))
        bob = Caller(port, BOB)
        nonce = (await bob.hello()).nonce
        made = BOB.register(nonce, invite=b"i" * 16)
        status, told = await bob.say(made, **{"drupelet-nonce": nonce.hex()})
        assert (status, told) == (200, wire.Done(ref=0, value=None))
        await bob.login()


async def test_bad_requests_get_a_clear_answer(tmp_path: Path) -> None:
    async with relay_at(tmp_path, ALICE) as (_, port):
        alice = Caller(port, ALICE)
        await alice.login()
        for body in (b"", b"junk", dumps([4]), bytes(RELAY_FRAME_BYTES_MAX + 1)):
            status, answer = await alice.request("POST", "/v1/say", body)
            told = wire.decode_from_relay(answer)
            assert status == 400 and isinstance(told, wire.Refused) and told.code == "malformed"
        for query in (
            "after=x",
            "after=-1",
            "wait_s=nan",
            "wait_s=-1",
            "after=99999999999999999999",
        ):
            assert (await alice.request("GET", f"/v1/messages?{query}"))[0] == 400, query
        assert (await alice.request("GET", "/v1/nothing"))[0] == 404
        assert (await alice.request("GET", "/v1/say"))[0] == 405
        status, told = await alice.say(send(BOB, ref=3))
        assert status == 404 and isinstance(told, wire.Refused) and told.code == "not_found"


async def test_metrics_are_prometheus_text(tmp_path: Path) -> None:
    async with relay_at(tmp_path, ALICE, BOB) as (_, port):
        async with connected(port, ALICE) as alice:
            await alice.ask(send(BOB))
            with refused("not_found"):
                await alice.ask(send(TRUDY))
            caller = Caller(port, ALICE)
            assert await caller.request("GET", "/healthz") == (200, b"ok\n")
            text = (await caller.request("GET", "/metrics"))[1].decode()
        values = dict(line.split(" ") for line in text.splitlines() if not line.startswith("#"))
        assert values["drupelet_relay_lines"] == "1"
        assert values["drupelet_relay_accounts"] == "2"
        assert values["drupelet_relay_waiting_messages"] == "1"
        assert values["drupelet_relay_messages_accepted_total"] == "1"
        assert values["drupelet_relay_refused_not_found_total"] == "1"
        assert text.count("# TYPE ") == len(values)
        assert json.dumps(values)  # numbers and names only


async def test_behind_a_proxy_its_word_for_the_address_counts(tmp_path: Path) -> None:
    for behind, expected in ((True, "198.51.100.7"), (False, "127.0.0.1")):
        async with relay_at(tmp_path, ALICE, behind_proxy=behind) as (relay, port):
            seen = []
            enter = relay.enter

            async def noting(message: Any, nonce: bytes, address: str) -> bytes:
                seen.append(address)  # noqa: B023
                return await enter(message, nonce, address)  # noqa: B023

            relay.enter = noting  # type: ignore[method-assign]
            caller = Caller(port, ALICE)
            caller.headers["x-forwarded-for"] = "203.0.113.9, 198.51.100.7"
            await caller.login()
            assert seen == [expected]


# -- what is given out


async def test_secrets_end_and_the_oldest_goes_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    kept = Expiring(10.0, 2)
    for secret in (b"a", b"b", b"c"):
        kept.put(secret, secret)
    assert len(kept) == 2 and kept.take(b"a") is None
    assert kept.take(b"b") == b"b" and kept.take(b"b") is None
    autojump_clock.jump(10.0)
    assert kept.take(b"c") is None
