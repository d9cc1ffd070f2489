"""Proxy pids between two nodes of this process that are no members of each other, real workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from drupelet.client.asynchronous import Client
from drupelet.core import proxies as core
from drupelet.errors import CallError, NoConnection, NotPermitted, NotSendable, RemoteError
from drupelet.node import Node
from drupelet.services.endpoint import Endpoint
from drupelet.wire import frames
from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid, ProxyPid, Ref
from drupelet.wire.limits import BODY_BYTES_MAX
from drupelet.wire.messages.processes import (
    DEMONITOR,
    DOWN,
    MONITOR,
    SEND,
    SERIAL_SHIFT,
    proxy_name,
)
from drupelet.wire.notices import Down, Exit, NodeDown, Request
from tests.unit.services.lights import grant
from tests.unit.services.nodes import open_small_node
from tests.unit.services.test_processes import Recorder, attached

PIDS = """
import trio
from drupelet import Down, ask, exit, is_process_alive, link, mission, monitor, process_info
from drupelet import receive, register, send, spawn

got = []

@mission("light")
async def tell(pid, message):
    await send(pid, message)
    return type(pid).__name__, str(pid)

@mission("light")
async def tell_all(value):
    for pid in (value["list"][0], value["tuple"][1], value["deep"]["er"][0]["pid"]):
        await send(pid, "nested")

@mission("light")
async def attack(pid):
    outcomes = []
    for attempt in (
        lambda: exit(pid, "kill"), lambda: link(pid), lambda: process_info(pid),
        lambda: is_process_alive(pid),
    ):
        try:
            attempt()
            outcomes.append("worked")
        except TypeError as error:
            outcomes.append(str(error))
    for attempt in (lambda: ask(pid, "x"), lambda: register("bob", pid)):
        try:
            await attempt()
            outcomes.append("worked")
        except TypeError as error:
            outcomes.append(str(error))
    return outcomes

async def keep(pid=None):
    if pid is not None:
        monitor(pid)
    while True:
        match await receive():
            case "end":
                return
            case ("watch", other):
                monitor(other)
            case Down(pid=pid, reason=reason):
                got.append(("down", str(pid), reason))
            case message:
                got.append(message)

watcher = []

@mission("light")
async def stand_by():
    watcher.append(await spawn(keep))

@mission("light")
async def watch(pid):
    if watcher:
        await send(watcher[0], ("watch", pid))
    else:
        await spawn(keep, pid)

@mission("light")
async def keeper():
    return {"pid": [await spawn(keep)]}

@mission("light")
async def ended():
    async def nothing():
        pass
    pid = await spawn(nothing)
    await trio.testing.wait_all_tasks_blocked()
    return pid

@mission("light")
async def seen(count):
    while len(got) < count:
        await trio.sleep(0.01)
    return got

@mission("light")
async def pass_on(pid):
    return pid

@mission("light")
async def kind(pid, message=None):
    await send(pid, message)
    return type(pid).__name__
"""
EXPORTS = [
    "tell", "tell_all", "attack", "watch", "keeper", "ended", "seen", "pass_on", "kind",
    "stand_by",
]  # fmt: skip


@asynccontextmanager
async def alice_and_bob(directory: Path) -> AsyncIterator[tuple[Node, Node]]:
    missions = directory / "alice" / "missions.d"
    missions.mkdir(parents=True)
    exports = ", ".join(f'"{each}"' for each in EXPORTS)
    (missions / "light.toml").write_text(f'module = "light.py"\nexports = [{exports}]\n')
    (missions / "light.py").write_text(
        PIDS.replace("import trio\n", "import trio\nimport trio.testing\n")
    )
    with trio.fail_after(60):
        async with (
            open_small_node(directory, "alice", cookie="a") as alice,
            open_small_node(directory, "bob", cookie="b") as bob,
        ):
            await bob.grants.accept((await grant(alice, bob))["text"], ask=False)
            yield alice, bob


async def call(client: Client, function: str, *args: object) -> Any:
    return await client.call("alice", "light", function, *args)


async def seen_by(alice: Node, count: int) -> list[Any]:
    """What Alice's processes got, when it is that many."""
    found = await alice.call("alice", "light", "seen", count)
    assert isinstance(found, list)
    return found


async def watched_at(alice: Node) -> None:
    """Until the process that `watch` started has its monitor: it may begin after the answer."""
    while not any(any(each.values()) for each in alice.proxies.held._by_key.values()):
        await trio.lowlevel.checkpoint()


def messages(runtime: Recorder) -> list[object]:
    return [loads(each.body) for each in runtime.signals if each.kind == SEND]


async def test_bobs_pid_in_an_argument_takes_messages_and_nothing_else(tmp_path: Path) -> None:
    async with alice_and_bob(tmp_path) as (alice, bob), attached(bob) as (runtime, client):
        pid = runtime.process(1)
        kind, shown = await call(client, "tell", pid, ("temp", 20))
        (proxy,) = alice.proxies.held._key_of
        assert (kind, shown) == ("ProxyPid", f"<proxy bob {proxy.hex()[:4]}..>")
        (signal,) = await runtime.wait(SEND)
        assert (loads(signal.body), signal.receiver) == (("temp", 20), pid)
        assert signal.sender == Pid("bob", bob.credentials.incarnation, 0)  # of whom, nobody says
        value = {"list": [pid], "tuple": (1, pid), "deep": {"er": [{"pid": pid}]}}
        await call(client, "tell_all", value)
        await runtime.wait(SEND, 4)
        assert messages(runtime)[1:] == ["nested"] * 3
        assert (
            len(alice.proxies.held) == len(bob.proxies.given) == 1
        )  # the same pid, the same proxy
        outcomes = await call(client, "attack", pid)
        assert len(outcomes) == 6
        assert {each.partition(",")[0] for each in outcomes} == {
            "a proxy pid takes send and monitor"
        }
        assert {each.kind for each in runtime.signals} <= {SEND, MONITOR, 16}  # UP


async def test_alices_pid_in_a_value_takes_messages_and_comes_back_as_itself(
    tmp_path: Path,
) -> None:
    async with alice_and_bob(tmp_path) as (_, bob), attached(bob) as (runtime, client):
        proxy = (await call(client, "keeper"))["pid"][0]
        assert isinstance(proxy, ProxyPid)
        daemon = Pid("bob", bob.credentials.incarnation, 0)
        for number in range(3):
            runtime.send(SEND, daemon, dumps(number), name=proxy_name(proxy))
        assert await call(client, "seen", 3) == [0, 1, 2]
        assert await call(client, "kind", proxy, 3) == "Pid"
        assert await call(client, "pass_on", proxy) == proxy
        runtime.send(SEND, daemon, dumps([runtime.process(1)]), name=proxy_name(proxy))
        ((sent,),) = (await call(client, "seen", 5))[4:]
        assert sent == runtime.process(1)  # a proxy there, and its giver's own again here


@pytest.mark.parametrize("end", ["process", "time", "messages", "revoked", "link"])
async def test_alice_gets_a_down_at_its_end(
    tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if end == "time":
        monkeypatch.setattr(core, "LIFETIME_S", 0.3)
    elif end == "messages":
        monkeypatch.setattr(core, "PROXY_MESSAGES_MAX", 2)
    async with alice_and_bob(tmp_path) as (alice, bob):
        # What Bob's call starts ends with his right; who is to hear of that is Alice's own.
        await alice.call("alice", "light", "stand_by")
        async with attached(bob) as (runtime, client):
            await call(client, "watch", runtime.process(1))
            await watched_at(alice)
            if end == "process":
                (watched,) = await runtime.wait(MONITOR)
                body = dumps(("ValueError", "a secret of Bob"))
                runtime.send(DOWN, watched.sender, body, ref=watched.ref)
            elif end == "messages":
                for text in ("one", "two", "too much"):  # who sends hears that it was sent
                    assert (await call(client, "tell", runtime.process(1), text))[0] == "ProxyPid"
                sent = await runtime.wait(SEND, 2)
                assert [loads(each.body) for each in sent] == ["one", "two"]
            elif end == "revoked":
                await alice.grants.revoke("light")
            elif end == "link":
                for link in list(bob.links.stranger_links._links):
                    link.endpoint.close(NoConnection("closed"))
            (entry,) = await seen_by(alice, 1)
            why = {"process": "noproc", "link": "noconnection"}
            why |= {"time": "expired", "messages": "expired"}
            assert entry[0] == "down"
            assert entry[1].startswith("<proxy bob ")
            assert entry[2] == why.get(end, "revoked")
            assert len(alice.proxies.held) == 0


async def test_bobs_death_is_told(tmp_path: Path) -> None:
    async with alice_and_bob(tmp_path) as (alice, bob):
        async with attached(bob) as (runtime, client):
            await call(client, "watch", runtime.process(1))
            await watched_at(alice)
        (entry,) = await seen_by(alice, 1)
        assert entry[2] == "noproc"  # his program's end ends its processes
        assert len(bob.proxies.given) == 0


async def test_bob_watches_alices(tmp_path: Path) -> None:
    async with alice_and_bob(tmp_path) as (alice, bob), attached(bob) as (runtime, client):
        daemon = Pid("bob", bob.credentials.incarnation, 0)
        proxy = (await call(client, "keeper"))["pid"][0]
        runtime.send(MONITOR, daemon, ref=7, name=proxy_name(proxy))
        runtime.send(MONITOR, daemon, ref=8, name=proxy_name(proxy))
        runtime.send(DEMONITOR, daemon, ref=8, name=proxy_name(proxy))
        runtime.send(SEND, daemon, dumps("end"), name=proxy_name(proxy))
        (down,) = await runtime.wait(DOWN)
        assert (down.ref, loads(down.body)) == (7, "noproc")
        runtime.send(SEND, daemon, dumps("late"), name=proxy_name(proxy))  # dropped
        runtime.send(MONITOR, daemon, ref=9, name=proxy_name(proxy))
        assert (await runtime.wait(DOWN, 2))[1].ref == 9
        gone = await call(client, "ended")
        runtime.send(MONITOR, daemon, ref=10, name=proxy_name(gone))
        assert (await runtime.wait(DOWN, 3))[2].ref == 10
        assert await call(client, "seen", 0) == []
        assert len(bob.proxies.held) == len(alice.proxies.given) == 0


async def test_its_budget(tmp_path: Path) -> None:
    async with alice_and_bob(tmp_path) as (alice, bob), attached(bob) as (runtime, client):
        await call(client, "pass_on", runtime.process(1))
        (proxy,) = bob.proxies.given._by_secret.values()
        proxy.messages_left = 2
        for number in range(4):
            await call(client, "tell", runtime.process(1), number)  # always said to be sent
        # dropped by Alice, who was told that it is over, or by Bob
        while alice.proxies.dropped_count + bob.proxies.given.forged_count < 2:
            await trio.lowlevel.checkpoint()
        await runtime.wait(SEND, 2)
        assert messages(runtime) == [0, 1]


def stranger_link(node: Node) -> Endpoint:
    (link,) = node.links.stranger_links._links
    return link.endpoint


FORGED: list[object] = [
    Pid("alice", 1, 1 << SERIAL_SHIFT | 1),
    Exit(Pid("alice", 1, 1), "kill"),
    NodeDown("alice"),
    Request((Pid("alice", 1, 1), Ref("alice", 1, 1)), "x"),
    Down(Ref("alice", 1, 1), Pid("alice", 1, 1), "x"),
]


async def test_pids_and_notices_of_strangers_are_refused(tmp_path: Path) -> None:
    async with alice_and_bob(tmp_path) as (alice, bob), attached(bob) as (runtime, client):
        await call(client, "pass_on", runtime.process(1))
        endpoint = stranger_link(bob)
        prefix = frames.call_body(b"light/pass_on", b"", timeout_ms=5_000)
        for body in map(dumps, FORGED):
            for form in (body, body.replace(b"\xd8", b"\xd9\x00")):
                with pytest.raises(NotPermitted, match="of a stranger"):
                    await endpoint.call(prefix, b"\x81\x81" + form, trio.current_time() + 5)
        (secret,) = bob.proxies.given._by_secret
        way = stranger_link(alice)
        for each in (*FORGED, "good"):
            way.cast(frames.call_body(b"grants/send", secret + dumps([each])), b"")
        await runtime.wait(SEND)
        assert messages(runtime) == [["good"]]
        assert bob.proxies.dropped_count == len(FORGED)


async def test_what_cannot_go_to_a_stranger(tmp_path: Path) -> None:
    async with alice_and_bob(tmp_path) as (_, bob), attached(bob) as (_, client):
        for call_it in (client.call, bob.call):
            with pytest.raises(NotSendable) as caught:
                await call_it("alice", "light", "pass_on", {"call": [lambda: 1]})
            assert caught.value.path.endswith('["call"][0]')
        assert bob.links.stranger_links.count == 0  # not even a link was opened
        for value in (NodeDown("x"), ProxyPid("charlie", b"c" * 16)):
            with pytest.raises(RemoteError, match=r"cannot go to alice|cannot be passed on"):
                await call(client, "pass_on", value)


async def test_what_is_no_value_is_refused_at_the_border(tmp_path: Path) -> None:
    malformed = [b"\xd8\x59", b"\xd8\x5d\x80", b"\xd8\x5c\x81\x09"]
    # full to the last byte, and its pids have a longer name here
    grows = dumps([ProxyPid("a", b"s" * 16), bytes(BODY_BYTES_MAX - 40)])
    async with alice_and_bob(tmp_path) as (alice, bob), attached(bob) as (runtime, client):
        await call(client, "pass_on", runtime.process(1))
        (secret,) = bob.proxies.given._by_secret
        way = stranger_link(alice)
        way.name = "a_name_that_is_longer"
        for body in (*malformed, grows):
            with pytest.raises(RemoteError) as caught:
                alice.proxies.incoming(way, body)
            assert caught.value.kind == "badarg"
        for body in malformed:
            way.cast(frames.call_body(b"grants/send", secret + body), b"")
        way.cast(frames.call_body(b"grants/send", secret + dumps("good")), b"")
        await runtime.wait(SEND)
        assert messages(runtime) == ["good"]
        assert bob.proxies.dropped_count == len(malformed)


async def test_bodies_without_pids_pass_as_they_are(tmp_path: Path) -> None:
    async with alice_and_bob(tmp_path) as (alice, bob):
        await bob.call("alice", "light", "pass_on", 1)
        for body in (dumps(["x" * 100]), dumps([b"\xd8\x59"]), b"\xff not even a value"):
            assert alice.proxies.incoming(stranger_link(alice), body) is body
            assert alice.proxies.outgoing(stranger_link(alice), body) is body


async def test_guesses_reach_nobody(tmp_path: Path) -> None:
    async with alice_and_bob(tmp_path) as (alice, bob), attached(bob) as (runtime, client):
        await call(client, "pass_on", runtime.process(1))
        way = stranger_link(alice)
        for number in range(100):
            way.cast(frames.call_body(b"grants/send", number.to_bytes(16, "big") + dumps(1)), b"")
        for short in (b"", b"x" * 15):
            way.cast(frames.call_body(b"grants/send", short), b"")
            way.cast(frames.call_body(b"grants/down", short), b"")
        await call(client, "tell", runtime.process(1), "good")
        await runtime.wait(SEND)
        assert messages(runtime) == ["good"]
        assert bob.proxies.given.forged_count == 100


async def test_too_many_of_one_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "PROXIES_PER_KEY_MAX", 3)
    async with alice_and_bob(tmp_path) as (alice, bob), attached(bob) as (runtime, client):
        pids = [runtime.process(number) for number in range(1, 5)]
        assert await call(client, "pass_on", pids[:3]) == pids[:3]
        with pytest.raises(RemoteError, match="has 1,024 pids of ours"):
            await call(client, "pass_on", pids)
        forged = [ProxyPid("bob", bytes([number]) * 16) for number in range(4)]
        with pytest.raises(CallError, match="overloaded"):
            await stranger_link(bob).call(
                frames.call_body(b"light/pass_on", b"", timeout_ms=5_000),
                dumps([forged]),
                trio.current_time() + 5,
            )
        assert len(alice.proxies.held) == 3


async def test_large_bodies_with_pids_and_casts(tmp_path: Path) -> None:
    async with alice_and_bob(tmp_path) as (_, bob), attached(bob) as (runtime, client):
        pid = runtime.process(1)
        large = [pid, "x" * 200_000]
        assert await call(client, "pass_on", large) == large
        await client.cast("alice", "light", "tell", pid, "cast")
        await runtime.wait(SEND)
        assert messages(runtime) == ["cast"]
