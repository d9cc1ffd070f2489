"""What Alice and Bob run in the relay's tests, and what those do again and again."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path

from drupelet.errors import CallError
from tests.integration.cluster import Cluster, RealNode
from tests.netns.internet import LIMIT_S, Internet, Relay, at_home, logged, start_all, until

# `ran` counts what began, `dimming` what runs now, `beats` rises only while something runs.
LIGHT = """
import trio
from drupelet import mission

ran = dimming_now = beats_now = 0
notes = []

@mission("light")
def on():
    global ran
    ran += 1
    return "on"

@mission("light")
def temp(offset: int = 0):
    return 20 + offset

@mission("light")
def echo(text: str):
    return text

@mission("light")
def note(number: int):
    notes.append(number)
    return number

@mission("light")
def noted():
    return notes

@mission("light")
def count():
    return ran

@mission("light")
async def dim(seconds: float):
    global dimming_now, ran, beats_now
    ran += 1
    dimming_now += 1
    try:
        until = trio.current_time() + seconds
        while trio.current_time() < until:
            await trio.sleep(0.1)
            beats_now += 1
    finally:
        dimming_now -= 1

@mission("light")
def dimming():
    return dimming_now

@mission("light")
def beats():
    return beats_now
"""
EXPORTS = ("on", "temp", "echo", "note", "noted", "count", "dim", "dimming", "beats")
# Who waits is a process of its own; another one calls, and sends it what came of it.
ASKER = """
from drupelet import mission, receive, rpc, send, spawn
from drupelet import self as own_pid
from drupelet.errors import CallError

async def call(to, function, args, timeout):
    try:
        value = await rpc.call("alice", "light", function, args, timeout=timeout)
        found = ["value", value]
    except CallError as error:
        found = [type(error).__name__, getattr(error, "maybe_ran", None)]
    await send(to, ("came", found))

@mission("asker")
async def ask(function: str, args: list, timeout: float):
    await spawn(call, own_pid(), function, args, timeout)
    match await receive(timeout=timeout + 60):
        case ("came", found):
            return found
"""
MISSIONS = {"light": (LIGHT, EXPORTS)}
ASKING = {"asker": (ASKER, ("ask",))}


def alice_and_bob(
    cluster: Cluster, internet: Internet, *relays: Relay
) -> tuple[RealNode, RealNode]:
    """Alice at home 0 with the mission light, Bob at home 1, both at the relay."""
    invite = relays[0].own("invite", "--uses", "2")
    words = [f'invite = "{invite}"']
    alice = at_home(cluster, internet, relays, "alice", 0, missions=MISSIONS, lines=words)
    bob = at_home(cluster, internet, relays, "bob", 1, missions=ASKING, lines=words)
    start_all(alice, bob)
    for node in (alice, bob):
        logged(node, "relay_up")
    return alice, bob


def hand_on(bob: RealNode, file: str, keys: Sequence[str]) -> list[str]:
    """Files of narrowed grants, one for each key; beside Bob's own file."""
    made = []
    with bob.connect() as client:
        for place, key in enumerate(keys):
            answer = client.call("", "grants", "narrow", Path(file).read_text(), key, {})
            assert isinstance(answer, dict)
            made.append(f"{file}.{place}")
            Path(made[-1]).write_text(str(answer["text"]))
    return made


def local(node: RealNode, function: str, *args: object) -> object:
    """A function of light, asked by the owner of its node."""
    with node.connect() as client:
        return client.call("", "light", function, *args, timeout=LIMIT_S)


def number(node: RealNode, function: str) -> int:
    """The same where it is a number."""
    value = local(node, function)
    assert isinstance(value, int)
    return value


def noted(alice: RealNode, *, above: int = -1, below: int = 1_000_000) -> list[int]:
    """The numbers between them with which light/note ran, sorted."""
    values = local(alice, "noted")
    assert isinstance(values, list)
    return sorted(each for each in values if above < each < below)


def ready(bob: RealNode, function: str = "temp", *words: str) -> None:
    """Wait until a call of Bob's goes through: the relay hears of a new grant within a second."""
    until(
        lambda: bob.run("--json", "call", "alice", "light", function, *words).returncode == 0,
        why=f"no call of {bob.name}'s goes through:\n{bob.log}",
    )


class Counting:
    """Calls of light/note with FIRST and so on, by a few lanes in threads, until `end`."""

    FIRST = 1_000
    LANES = 4

    def __init__(self, bob: RealNode) -> None:
        self.acknowledged: list[int] = []
        self.failed: dict[int, str] = {}
        self._numbers = itertools.count(self.FIRST)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(bob,)) for _ in range(self.LANES)
        ]
        for thread in self._threads:
            thread.start()

    def _call(self, bob: RealNode) -> None:
        with bob.connect() as client:
            while not self._stop.wait(0.02):
                number = next(self._numbers)
                try:
                    assert client.call("alice", "light", "note", number, timeout=8) == number
                    self.acknowledged.append(number)
                except CallError as error:
                    self.failed[number] = type(error).__name__

    def end(self) -> None:
        """After the calls that are under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive()

    def agree_with(self, alice: RealNode) -> None:
        """What was acknowledged was done, and nothing twice, and nothing else."""
        ran = noted(alice, above=self.FIRST - 1)
        assert len(ran) == len(set(ran))
        assert set(self.acknowledged) <= set(ran)
        assert set(ran) <= set(self.acknowledged) | self.failed.keys()
        assert set(self.failed.values()) <= {"NoConnection", "Timeout"}
