"""Pids between strangers, on real daemons with a cookie each (S004-6, word by word).

The ten minutes of a proxy's life are shortened in tests/unit/services/test_proxies.py, which no
daemon can be told to do; 10^6 forged ones are in tests/unit/core/test_proxies.py.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, RealNode

WAIT_S = 20.0  # on a busy machine

LIGHT = """
import trio
from drupelet import (
    Down, ask, at_start, exit, is_process_alive, link, mission, monitor, process_info, receive,
    send, spawn, spawn_link
)

pids, downs = [], []
watching = 0

async def watch(pid):
    global watching
    monitor(pid)
    watching += 1
    downs.append((await receive(Down)).reason)

# What a stranger's call starts ends with his right: who is to hear of that is started by another.
@at_start
async def start_host():
    return await spawn_link(host, name="host")

async def host():
    while True:
        await spawn(watch, await receive())

def find(value):
    match value:
        case dict():
            value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [pid for each in value for pid in find(each)]
    return [value]

@mission("light")
async def subscribe(value):
    for pid in find(value):
        pids.append(pid)
        await send("host", pid)
    while watching < len(pids):
        await trio.sleep(0.01)
    return [str(pid)[:10] for pid in pids]

@mission("light")
async def tell(message):
    for pid in pids:
        await send(pid, message)
    return "sent"

@mission("light")
def ended():
    return downs

@mission("light")
async def attack():
    outcomes = []
    for attempt in (
        lambda: exit(pids[0], "kill"), lambda: link(pids[0]), lambda: process_info(pids[0]),
        lambda: is_process_alive(pids[0]), lambda: ask(pids[0], "how are you"),
    ):
        try:
            answer = attempt()
            if answer is not None:
                await answer
            outcomes.append("worked")
        except TypeError:
            outcomes.append("refused")
    return outcomes
"""
DESK = """
from drupelet import exit, mission, receive, rpc, spawn, spawn_monitor

processes, messages = [], []

async def listen():
    while True:
        messages.append(await receive())

@mission("desk")
async def start(count: int):
    for _ in range(count):
        processes.append(await spawn(listen))
    one, two, three = processes
    value = [one, {"nested": {"deeper": [two]}}, ("tuple", three)]
    return await rpc.call("alice", "light", "subscribe", (value[:2] + [(three,)],))

@mission("desk")
def got():
    return messages

@mission("desk")
def kill(place: int):
    exit(processes[place], "kill")

async def passes_a_lambda():
    await rpc.call("alice", "light", "subscribe", ({"callback": [lambda: 1]},))

@mission("desk")
async def crash():
    other = await spawn(listen)
    pid, ref = await spawn_monitor(passes_a_lambda)
    down = await receive()
    return [down.pid == pid, down.reason, len(messages)]
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


def start(cluster: Cluster, name: str, mission: str, code: str, exports: list[str]) -> RealNode:
    """A node that knows nothing of the others, with one mission."""
    node = cluster.add(name, missions={}, cookie_file=cluster.directory / f"cookie-{name}")
    folder = node.directory / "missions.d"
    folder.mkdir()
    listed = json.dumps(exports)
    (folder / f"{mission}.toml").write_text(f'module = "{mission}.py"\nexports = {listed}\n')
    (folder / f"{mission}.py").write_text(code)
    node.start()
    return node


def done(node: RealNode, *words: str) -> object:
    """A command that succeeds; its JSON document."""
    result = node.run("--json", *words)
    assert result.returncode == 0, f"{words}: {result.stdout}{result.stderr}"
    return json.loads(result.stdout)


def until(node: RealNode, *words: str, count: int) -> list[object]:
    """The list that a call gives, when it is that long: what sends it needs no answer."""
    deadline = time.monotonic() + WAIT_S
    with node.connect() as client:
        while True:
            assert time.monotonic() < deadline, words
            value = client.call(*words)
            assert isinstance(value, list)
            if len(value) >= count:
                return value


@pytest.fixture
def friends(cluster: Cluster) -> tuple[RealNode, RealNode]:
    """Alice with the light, and Bob with his desk, whom she granted it."""
    light = ["subscribe", "tell", "ended", "attack"]
    alice = start(cluster, "alice", "light", LIGHT, light)
    bob = start(cluster, "bob", "desk", DESK, ["start", "got", "kill", "crash"])
    file = str(alice.directory / "bob.grant")
    done(alice, "grant", "light", "--to", str(bob.status()["key"]), "-o", file)
    done(bob, "accept", file)
    return alice, bob


def test_bobs_pids_take_messages_and_nothing_else_until_they_end(
    friends: tuple[RealNode, RealNode],
) -> None:
    alice, bob = friends
    kinds = done(bob, "call", "bob", "desk", "start", "3")
    assert kinds == ["<proxy bob"] * 3
    assert done(alice, "call", "alice", "light", "tell", "hello") == "sent"
    assert until(bob, "bob", "desk", "got", count=3) == ["hello"] * 3
    assert done(alice, "call", "alice", "light", "attack") == ["refused"] * 5
    done(bob, "call", "bob", "desk", "kill", "0")
    assert until(alice, "alice", "light", "ended", count=1) == ["noproc"]
    assert done(alice, "call", "alice", "light", "tell", "again") == "sent"  # to all three
    assert until(bob, "bob", "desk", "got", count=5)[3:] == ["again"] * 2
    bob.signal(signal.SIGKILL)
    bob.wait()
    assert until(alice, "alice", "light", "ended", count=3)[1:] == ["noconnection"] * 2
    assert done(alice, "call", "alice", "light", "tell", "nobody") == "sent"


def test_revoking_ends_them(friends: tuple[RealNode, RealNode]) -> None:
    alice, bob = friends
    done(bob, "call", "bob", "desk", "start", "3")
    done(alice, "call", "alice", "light", "tell", "hello")  # after its monitors, and in order
    assert until(bob, "bob", "desk", "got", count=3) == ["hello"] * 3
    done(alice, "revoke", "light")
    assert until(alice, "alice", "light", "ended", count=3) == ["revoked"] * 3
    assert done(alice, "call", "alice", "light", "tell", "late") == "sent"
    assert done(bob, "call", "bob", "desk", "got") == ["hello"] * 3


def calls_of(alice: RealNode) -> list[object]:
    """The functions that strangers called."""
    entries = done(alice, "log", "light")
    assert isinstance(entries, list)
    return [each["function"] for each in entries if each["what"] == "call"]


def test_a_lambda_crashes_who_passes_it_and_nothing_is_sent(
    friends: tuple[RealNode, RealNode],
) -> None:
    alice, bob = friends
    answer = done(bob, "call", "bob", "desk", "crash")
    assert isinstance(answer, list)
    assert (answer[0], answer[1][0], answer[2]) == (True, "NotSendable", 0)
    assert '["callback"][0]' in answer[1][1]
    assert calls_of(alice) == []
    done(bob, "call", "bob", "desk", "start", "3")  # others live
    assert calls_of(alice) == ["subscribe"]
    assert done(alice, "call", "alice", "light", "tell", "hello") == "sent"
    assert until(bob, "bob", "desk", "got", count=3) == ["hello"] * 3
