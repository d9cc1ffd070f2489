"""Proxy pids between nodes that only a relay joins, which may be hostile. Real workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from drupelet.client.asynchronous import Client
from drupelet.core import proxies as core
from drupelet.core import words as peers
from drupelet.core.relay import Allowances, Rate
from drupelet.errors import NotPermitted, NotSendable, RemoteError
from drupelet.node import Node
from drupelet.relay.service import Relay
from drupelet.services import words
from drupelet.wire import relay as wire
from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid, ProxyPid
from drupelet.wire.messages.processes import DOWN, MONITOR, SEND, proxy_name
from drupelet.wire.words import is_word
from tests.unit.services import relayed
from tests.unit.services.relayed import give
from tests.unit.services.test_processes import Recorder, attached
from tests.unit.services.test_proxies import EXPORTS, PIDS, call, messages, seen_by, watched_at


@asynccontextmanager
async def alice_and_bob(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *, bearer: bool = False
) -> AsyncIterator[tuple[Relay, Node, Node]]:
    """As on links (test_proxies.py), with a grant of all of it; no address of Alice answers."""
    exports = ", ".join(f'"{each}"' for each in EXPORTS)
    monkeypatch.setattr(relayed, "TOML", f'module = "light.py"\nexports = [{exports}]\n')
    code = PIDS.replace("import trio\n", "import trio\nimport trio.testing\n")
    monkeypatch.setattr(relayed, "CODE", code)
    async with relayed.nodes(directory, monkeypatch, "alice", "bob") as (relay, (alice, bob)):
        await give(alice, None if bearer else bob, bob, functions=EXPORTS)
        yield relay, alice, bob
        assert alice.links.stranger_links.count == 0


@asynccontextmanager
async def meeting(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *, bearer: bool = False
) -> AsyncIterator[tuple[Relay, Node, Node, Recorder, Client]]:
    """Those, and a program of Bob's with processes."""
    async with (
        alice_and_bob(directory, monkeypatch, bearer=bearer) as (relay, alice, bob),
        attached(bob) as (runtime, client),
    ):
        yield relay, alice, bob, runtime, client


def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is silent is gone sooner."""
    monkeypatch.setattr(words, "TICK_S", 0.1)
    monkeypatch.setattr(peers, "GONE_S", 0.5)


def words_of(node: Node) -> words.Words:
    assert node.relayed.words is not None
    return node.relayed.words


def daemon(node: Node) -> Pid:
    return Pid(node.name, node.credentials.incarnation, 0)


async def keeper(client: Client) -> ProxyPid:
    """A process of Alice's that keeps what it gets."""
    proxy = (await call(client, "keeper"))["pid"][0]
    assert isinstance(proxy, ProxyPid)
    return proxy


async def test_bobs_pid_in_an_argument_takes_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with meeting(tmp_path, monkeypatch) as (_, alice, bob, runtime, client):
        pid = runtime.process(1)
        kind, _ = await call(client, "tell", pid, ("temp", 20))
        assert kind == "ProxyPid"
        (signal,) = await runtime.wait(SEND)
        assert (loads(signal.body), signal.receiver) == (("temp", 20), pid)
        value = {"list": [pid], "tuple": (1, pid), "deep": {"er": [{"pid": pid}]}}
        await call(client, "tell_all", value)
        await runtime.wait(SEND, 4)
        assert messages(runtime)[1:] == ["nested"] * 3
        assert len(alice.proxies.held) == len(bob.proxies.given) == 1


async def test_alices_pid_takes_messages_in_order_and_comes_back_as_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with meeting(tmp_path, monkeypatch) as (_, _alice, bob, runtime, client):
        proxy = await keeper(client)
        for number in range(50):
            runtime.send(SEND, daemon(bob), dumps(number), name=proxy_name(proxy))
        assert await call(client, "seen", 50) == list(range(50))
        assert await call(client, "kind", proxy, "it") == "Pid"
        assert await call(client, "pass_on", proxy) == proxy
        body = dumps([runtime.process(1)])
        runtime.send(SEND, daemon(bob), body, name=proxy_name(proxy))
        ((sent,),) = (await call(client, "seen", 52))[51:]
        assert sent == runtime.process(1)


@pytest.mark.parametrize("end", ["process", "time"])
async def test_alice_gets_a_down_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    if end == "time":
        monkeypatch.setattr(core, "LIFETIME_S", 1.0)
    async with meeting(tmp_path, monkeypatch) as (_, alice, _bob, runtime, client):
        await alice.call("alice", "light", "stand_by")
        await call(client, "watch", runtime.process(1))
        await watched_at(alice)
        if end == "process":
            (watched,) = await runtime.wait(MONITOR)
            body = dumps(("ValueError", "a secret of Bob"))
            runtime.send(DOWN, watched.sender, body, ref=watched.ref)
        (entry,) = await seen_by(alice, 1)
        assert (entry[0], entry[2]) == ("down", {"process": "noproc", "time": "expired"}[end])
        assert len(alice.proxies.held) == 0


async def test_bob_watches_alices_also_one_that_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon(monkeypatch)
    monkeypatch.setattr(peers, "GONE_S", 60.0)
    async with meeting(tmp_path, monkeypatch) as (_, alice, bob, runtime, client):
        proxy = await keeper(client)
        runtime.send(MONITOR, daemon(bob), ref=7, name=proxy_name(proxy))
        runtime.send(SEND, daemon(bob), dumps("end"), name=proxy_name(proxy))
        (down,) = await runtime.wait(DOWN)
        assert (down.ref, loads(down.body)) == (7, "noproc")
        gone = await call(client, "ended")
        runtime.send(MONITOR, daemon(bob), ref=8, name=proxy_name(gone))
        assert (await runtime.wait(DOWN, 2))[1].ref == 8
        assert len(bob.proxies.held) == len(alice.proxies.given) == 0


async def test_what_a_grant_gave_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        alice_and_bob(tmp_path, monkeypatch) as (_relay, alice, bob),
        attached(bob) as (runtime, client),
        attached(alice) as (other, _),
    ):
        await alice.call("alice", "light", "stand_by")
        proxy = await keeper(client)
        runtime.send(MONITOR, daemon(bob), ref=7, name=proxy_name(proxy))
        # One that goes in a message is under the grant by which the other has called.
        (end,) = words_of(alice)._ends.values()
        left = loads(alice.proxies.outgoing(end, dumps(other.process(1))))
        assert alice.proxies.given.given_to(bob.key) == 2
        await alice.grants.revoke("light")
        assert alice.proxies.given.given_to(bob.key) == 0
        (down,) = await runtime.wait(DOWN)
        assert (down.ref, loads(down.body)) == (7, "revoked")
        assert isinstance(left, ProxyPid) and bob.proxies.held.key_of(proxy.secret) is None


@pytest.mark.parametrize("rights", [1, 2])
async def test_bobs_pids_are_over_with_his_last_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rights: int
) -> None:
    async with meeting(tmp_path, monkeypatch) as (_, alice, bob, runtime, client):
        await alice.call("alice", "light", "stand_by")
        await call(client, "watch", runtime.process(1))
        await watched_at(alice)
        (end,) = words_of(alice)._ends.values()
        (right,) = end.rights.values()
        if rights == 2:
            other = await give(alice, bob, bob, functions=["tell"])
            core_grants = alice.grants.strangers.grants
            several = map(core_grants.grant_of, alice.relayed._in_force())
            grant = next(each for each in several if each.id_text == other)
            end.rights[grant.id] = replace(right, grant=grant)
        await alice.grants.revoke(right.grant.id_text)
        if rights == 2:
            assert len(alice.proxies.held) == 1
            await alice.grants.revoke("light")
        (entry,) = await seen_by(alice, 1)
        assert (entry[0], entry[2]) == ("down", "revoked")
        assert len(alice.proxies.held) == 0


async def test_who_is_silent_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soon(monkeypatch)
    async with meeting(tmp_path, monkeypatch) as (_, alice, bob, runtime, client):
        await alice.call("alice", "light", "stand_by")
        await call(client, "watch", runtime.process(1))
        await watched_at(alice)
        proxy = await keeper(client)
        runtime.send(MONITOR, daemon(bob), ref=7, name=proxy_name(proxy))
        with trio.move_on_after(2.0):  # longer than a silent one has
            await runtime.wait(DOWN)
            raise AssertionError("who answers is not gone")
        assert await alice.call("alice", "light", "seen", 0) == []
        started = words_of(bob)
        started._ends.clear()  # as after a restart: Bob knows nothing of it any more
        (entry,) = await seen_by(alice, 1)
        assert (entry[0], entry[2]) == ("down", "noconnection")
        assert len(alice.proxies.held) == len(alice.proxies.given) == 0


async def test_bob_hears_that_alice_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon(monkeypatch)
    async with meeting(tmp_path, monkeypatch) as (_, alice, bob, runtime, client):
        proxy = await keeper(client)
        runtime.send(MONITOR, daemon(bob), ref=7, name=proxy_name(proxy))
        assert alice.relay is not None
        alice.relay.on_kind.clear()
        (down,) = await runtime.wait(DOWN)
        assert (down.ref, loads(down.body)) == (7, "noconnection")


async def test_what_is_left_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soon(monkeypatch)
    monkeypatch.setattr(core, "LIFETIME_S", 0.5)
    async with meeting(tmp_path, monkeypatch) as (_, alice, bob, _, client):
        await keeper(client)
        assert len(words_of(alice)._ends) == len(words_of(bob)._ends) == 1
        while words_of(alice)._ends or words_of(bob)._ends:
            await trio.lowlevel.checkpoint()
        for node in (alice, bob):
            assert not node.proxies._away and not len(words_of(node)._peers)


# -- a hostile relay


Alter = Callable[[Node, wire.Deliver], list[wire.Deliver]]


def hostile(alter: Alter, *several: Node) -> list[bytes]:
    """What comes to these is what `alter` makes of each word; all words that came."""
    overheard: list[bytes] = []
    for node in several:
        assert node.relay is not None
        take = node.relay.on_kind[wire.MESSAGE]

        def altered(message: wire.Deliver, node: Node = node, take: Any = take) -> None:
            if not is_word(message.body):
                return take(message)
            overheard.append(message.body)
            for each in alter(node, message):
                take(each)
            return None

        node.relay.on_kind[wire.MESSAGE] = altered
    return overheard


async def sent(runtime: Recorder, bob: Node, client: Client, count: int) -> ProxyPid:
    proxy = await keeper(client)
    for number in range(count):
        runtime.send(SEND, daemon(bob), dumps(number), name=proxy_name(proxy))
    return proxy


async def test_what_comes_twice_or_late_is_heard_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with meeting(tmp_path, monkeypatch) as (_, alice, bob, runtime, client):
        kept: list[wire.Deliver] = []

        def again(node: Node, message: wire.Deliver) -> list[wire.Deliver]:
            kept.append(message)
            return [message, *kept]  # all that there ever was

        overheard = hostile(again, alice)
        await sent(runtime, bob, client, 10)
        assert await call(client, "seen", 10) == list(range(10))
        await call(client, "pass_on", 1)
        assert await call(client, "seen", 0) == list(range(10))
        assert len(overheard) >= 10
        assert words_of(alice).dropped_count >= 55


async def test_what_is_altered_or_crossed_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with meeting(tmp_path, monkeypatch) as (_, alice, bob, runtime, client):

        def alter(node: Node, message: wire.Deliver) -> list[wire.Deliver]:
            body = message.body
            bad = [
                body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
                for at in (16, 32, 48, len(body) - 1)
            ]
            return [
                *(replace(message, body=each) for each in (*bad, body[:20], body[:48])),
                replace(message, sender=alice.key),
                replace(message, sender=bytes(32)),
                message,
            ]

        overheard = hostile(alter, alice)
        proxy = await sent(runtime, bob, client, 3)
        assert await call(client, "seen", 3) == [0, 1, 2]
        assert words_of(alice).dropped_count >= 8 * 3
        for each in overheard:
            assert proxy.secret not in each and dumps(1) * 4 not in each


async def test_a_lost_word_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with meeting(tmp_path, monkeypatch) as (_, alice, bob, runtime, client):
        count = [0]

        def lose(node: Node, message: wire.Deliver) -> list[wire.Deliver]:
            count[0] += 1
            return [] if count[0] == 3 else [message]

        proxy = await keeper(client)
        hostile(lose, alice)
        for number in range(6):
            runtime.send(SEND, daemon(bob), dumps(number), name=proxy_name(proxy))
        got = await call(client, "seen", 5)
        assert got == sorted(got) and set(got) < set(range(6))


# -- what does not travel


async def test_a_kept_cast_carries_no_pid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with meeting(tmp_path, monkeypatch) as (_, _alice, bob, runtime, _client):
        with pytest.raises((NotSendable, RemoteError, NotPermitted), match="pid"):
            await bob.cast("alice", "light", "pass_on", runtime.process(1))


async def test_a_bearer_grant_carries_no_pid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who signs is the grant's own key, and at the relay there is no such account."""
    async with meeting(tmp_path, monkeypatch, bearer=True) as (_, alice, _bob, runtime, client):
        with pytest.raises(RemoteError, match="a pid travels on a link"):
            await call(client, "pass_on", runtime.process(1))
        with pytest.raises(RemoteError, match="a pid travels on a link"):
            await call(client, "keeper")
        assert await call(client, "pass_on", 1) == 1
        assert not words_of(alice)._ends and len(alice.proxies.given) == 0


async def test_a_relay_that_wants_it_slower_loses_none_and_keeps_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with meeting(tmp_path, monkeypatch) as (relay, _alice, bob, runtime, client):
        proxy = await keeper(client)
        rates = {**relay._allowances._rates, "send": Rate(count=40, period_s=1, burst=5)}
        monkeypatch.setattr(relay, "_allowances", Allowances(rates))
        for number in range(60):
            runtime.send(SEND, daemon(bob), dumps(number), name=proxy_name(proxy))
        assert await call(client, "seen", 60) == list(range(60))


async def test_more_than_may_wait_is_dropped_and_said_to_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with meeting(tmp_path, monkeypatch) as (_, _alice, bob, runtime, client):
        proxy = await keeper(client)
        monkeypatch.setattr(words, "WORDS_WAITING_MAX", 0)
        runtime.send(SEND, daemon(bob), dumps(0), name=proxy_name(proxy))
        while not bob.proxies.dropped_count:
            await trio.lowlevel.checkpoint()
        monkeypatch.undo()
        runtime.send(SEND, daemon(bob), dumps(1), name=proxy_name(proxy))
        assert await call(client, "seen", 1) == [1]
