"""S004-7 in namespaces: Alice and Bob behind a NAT each, and between them a relay with real TLS.

The steps of a call are those of seed 004, read from the logs of the three programs.
"""

from __future__ import annotations

import copy
import os
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from drupelet.relay.main import invite_text
from drupelet.wire import relay as wire
from drupelet.wire.keys import key_from_text
from tests.integration.cluster import Cluster, RealNode
from tests.integration.test_grants import done, grant, key_of
from tests.netns import stranger
from tests.netns.account import Account, patiently
from tests.netns.internet import (
    LIMIT_S,
    LINK_PORT,
    PROGRAMS,
    RELAY_PORT,
    WEB,
    Internet,
    Relay,
    at_home,
    at_public_address,
    authority,
    logged,
    memory_of,
    skip_without,
    until,
)
from tests.netns.lights import MISSIONS, Counting, alice_and_bob, noted, number, ready

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180)]


@dataclass
class World:
    """Alice and Bob behind a NAT each, a relay with TLS between, and what he may call."""

    net: Internet
    relay: Relay
    alice: RealNode
    bob: RealNode


@contextmanager
def a_world(directory: Path, by: str) -> Iterator[World]:
    with Internet(2) as net, Cluster(directory) as cluster:
        relay = Relay(net, directory / "relay")
        relay.start()
        try:
            with relay.behind_middlebox() if by == "long_poll" else nullcontext(relay) as shown:
                alice, bob = alice_and_bob(cluster, net, shown)
                _, file = grant(alice, "--to", key_of(bob), "--only", "temp,echo,note,dim")
                done(bob, "accept", at_public_address(file, net.public(0)))
                ready(bob)
                for node in (alice, bob):
                    assert re.search(rf" relay_up .*by={by}$", node.log, re.MULTILINE)
                yield World(net, relay, alice, bob)
        finally:
            relay.kill()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for the tests of this file: a link is tried again after 30 s, and it is that old."""
    skip_without(*PROGRAMS)
    with a_world(tmp_path_factory.mktemp("world"), "websocket") as made:
        yield made


def fields(log: str, step: str, **wanted: str) -> dict[str, str]:
    """The first line of a step with those fields, and where it is, as its field ""."""
    for line in re.finditer(rf": {step} (.*)$", log, re.MULTILINE):
        found = dict(part.partition("=")[::2] for part in line[1].split())
        if wanted.items() <= found.items():
            return {**found, "": f"{line.start():012}"}
    raise AssertionError(f"no step {step} with {wanted} in:\n{log[-4_000:]}")


def in_order(*steps: dict[str, str]) -> None:
    places = [step[""] for step in steps]
    assert places == sorted(places)


class Registry:
    """A relay, Alice, and strangers of whom each sees something else."""

    def __init__(self, net: Internet, cluster: Cluster, relay: Relay) -> None:
        self.net, self.cluster, self.relay = net, cluster, relay
        kitchen = (
            "from drupelet import mission\n\n@mission('kitchen')\ndef boil(): ...\n",
            ["boil"],
        )
        missions = {**MISSIONS, "kitchen": kitchen}
        words = [f'invite = "{relay.own("invite")}"']
        self.alice = at_home(cluster, net, [relay], "alice", 0, missions=missions, lines=words)
        self.alice.start()
        self.said: wire.Announce
        self.said_at = self.gone_after_s = 0.0
        self._accounts: list[Account] = []
        self._holder: Account | None = None
        self._killed, self._closed = threading.Event(), threading.Event()
        self._watching = threading.Thread(target=self._watch)  # from one test to another
        self._watching.start()

    def account(self, number: int) -> Account:
        """Of the holder with that number, out of the other home."""
        account = Account(self.relay.url, self.relay.ca_file, number, self.net.homes[1])
        self._accounts.append(account)
        return account

    def kill(self, holder: Account) -> None:
        """Kill Alice, and see how long `holder` is shown her."""
        self.alice.kill()
        self._holder = holder
        self._killed.set()

    def _watch(self) -> None:
        self._killed.wait()
        began = time.monotonic()
        while self._holder is not None and self._holder.catalogue():
            if self._closed.wait(0.5):
                return
        self.gone_after_s = time.monotonic() - began

    def gone(self) -> float:
        """After how many seconds she was seen no more."""
        assert self._holder is not None
        self._watching.join(LIMIT_S)
        return self.gone_after_s

    def close(self) -> None:
        """Hang up."""
        self._closed.set()
        self._killed.set()
        self._watching.join()
        for account in self._accounts:
            account.close()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One for the first and the last test: what is over after a minute is waited for between."""
    skip_without(*PROGRAMS)
    directory = tmp_path_factory.mktemp("registry")
    with Internet(2) as net, Cluster(directory) as cluster:
        relay = Relay(net, directory / "relay")
        relay.start()
        try:
            with closing(Registry(net, cluster, relay)) as made:
                yield made
        finally:
            relay.kill()


def refused(code: str) -> pytest.RaisesExc[wire.RelayRefused]:
    return pytest.raises(wire.RelayRefused, match=f"^{code}")


def test_who_comes_in_and_what_he_sees(registry: Registry) -> None:
    """S004-9: the refusals are distinct, and a catalogue has what is granted and no more."""
    relay, alice = registry.relay, registry.alice
    one, other, both, nobody = (registry.account(number) for number in range(4))
    false = copy.copy(relay)  # whose certificate another authority made
    false.ca_file = authority(relay.directory / "false", WEB)
    dora = at_home(registry.cluster, registry.net, [false], "dora", 1)
    dora.start()
    logged(dora, "certificate does not hold")
    assert "relay_up" not in dora.log
    dora.stop()
    with refused("not_registered"):
        one.login()
    with refused("not_verified"):
        one.register(email="one@example.org")
    with refused("not_verified"):
        one.login()
    with refused("denied"):
        one.login(seed=stranger.seed_of(1))  # with somebody else's signature
    with refused("denied"):
        other.login(seed=stranger.seed_of(0))  # also where there is no account
    with refused("bad_invite"):
        other.register(invite=invite_text(bytes(16)))
    relay.own("approve", "one@example.org")
    patiently(one.login, "not_verified")
    invite = relay.own("invite", "--uses", "3")
    for each in (other, both, nobody):
        each.register(invite=invite)
        each.login()
    for holders, mission in (((0, 2), "light"), ((1, 2), "kitchen")):
        for holder in holders:
            to = ("--to", stranger.key_of(holder))
            done(alice, "grant", mission, *to, "-o", str(alice.directory / f"{mission}{holder}"))
    until(lambda: both.catalogue() == {"alice": ["kitchen", "light"]})
    assert one.catalogue() == {"alice": ["light"]}
    assert other.catalogue() == {"alice": ["kitchen"]}
    assert nobody.catalogue() == {}
    with refused("not_found"):
        nobody.ask(wire.Find(ref=0, node=key_from_text(key_of(alice)), grant=b""))
    with refused("not_found"):  # the same for what does not exist
        nobody.ask(wire.Find(ref=0, node=bytes(32), grant=b""))
    # An announcement counts once, for who signed it.
    said = wire.Announce(ref=0, announcement=one.announcement({"shed": (nobody.key,)}))
    registry.said, registry.said_at = said, time.monotonic()
    one.ask(said)
    assert nobody.catalogue() == {"stranger": ["shed"]}
    with refused("replayed"):
        one.ask(said)
    with refused("denied"):
        other.ask(said)
    for each in (one, other, nobody):
        each.close()
    registry.kill(both)


def test_nothing_that_begins_outside_comes_in(world: World) -> None:
    """To neither of them; out goes everything. Each proved its key to the relay, by TLS."""
    net = world.net
    for home, there in ((0, 1), (1, 0)):
        assert net.probe(net.homes[home], net.private(home), LINK_PORT) == "open"
        assert net.probe(net.homes[there], net.public(home), LINK_PORT) == "silence"
        assert net.probe(net.web, net.public(home), LINK_PORT) == "silence"
        assert net.probe(net.homes[there], net.private(home), LINK_PORT) != "open"
        assert net.probe(net.homes[home], WEB, RELAY_PORT) == "open"
    assert world.relay.metrics()["drupelet_relay_announced_nodes"] == 2


def test_the_steps_of_a_call_by_websocket(world: World) -> None:
    steps_of_a_call(world)


def test_the_steps_of_a_call_by_the_long_poll(tmp_path: Path) -> None:
    """Where a proxy lets no WebSocket pass."""
    skip_without(*PROGRAMS)
    with a_world(tmp_path, "long_poll") as poor:
        steps_of_a_call(poor)


def steps_of_a_call(world: World) -> None:
    relay, alice, bob = world.relay, world.alice, world.bob
    mark = len(bob.log), len(relay.log), len(alice.log)
    with bob.connect() as client:
        assert client.call("", "asker", "ask", "temp", [5], 30.0, timeout=60) == ["value", 25]
    stored = fields(bob.log[mark[0] :], "stored", target="light/temp")
    response = fields(alice.log[mark[2] :], "response", re=stored["id"])
    # Alice hears that her answer was taken perhaps after Bob has it.
    logged(alice, f" sent id={response['id']}")
    sent_by_bob, relayed, at_alice = (
        log[start:] for log, start in zip((bob.log, relay.log, alice.log), mark, strict=True)
    )
    # The sender keeps it, and gives its process a number to wait for; the relay takes it.
    sent = fields(sent_by_bob, "sent", id=stored["id"])
    accepted = fields(relayed, "accepted", id=stored["id"], re="none")
    # The callee's receiver, which waited, gets it, applies it, and answers the same way.
    delivered = fields(relayed, "delivered", id=stored["id"])
    applied = fields(at_alice, "apply", id=stored["id"], target="light/temp")
    answered = fields(at_alice, "sent", id=response["id"])
    accepted_back = fields(relayed, "accepted", id=response["id"], re=stored["id"])
    delivered_back = fields(relayed, "delivered", id=response["id"])
    # The response names the request: the one who waits gets it, and nobody else.
    matched = fields(sent_by_bob, "matched", id=response["id"], re=stored["id"])
    settled = fields(sent_by_bob, "settled", call=stored["call"], outcome="ok")
    assert matched["call"] == stored["call"]
    assert accepted["from"] == accepted_back["to"] == delivered_back["to"]
    assert accepted["to"] == accepted_back["from"] == delivered["to"]
    in_order(stored, sent)
    in_order(stored, matched, settled)
    in_order(accepted, accepted_back)  # what is on the disk is delivered before it is told
    in_order(delivered, accepted_back)
    in_order(delivered, delivered_back)
    in_order(applied, response, answered)
    # One that takes too long: who waits is told that it may have run, and it is cancelled.
    with bob.connect() as client:
        told = client.call("", "asker", "ask", "dim", [60.0], 1.5, timeout=60)
    assert told == ["Timeout", True]
    until(lambda: number(alice, "dimming") == 0, why="it runs on though nobody waits")


def test_the_relay_sees_nothing_of_what_is_said(world: World) -> None:
    """What waits at it is on its disk and was in its memory: neither has a word of the call."""
    relay, alice, bob = world.relay, world.alice, world.bob
    canary = "canary" + os.urandom(12).hex()
    ready(bob, "echo", '"first"')
    answers: list[object] = []

    def ask() -> None:
        with bob.connect() as client:
            answers.append(client.call("alice", "light", "echo", canary, timeout=60))

    mark, at_bob = len(relay.log), len(bob.log)
    alice.signal(signal.SIGSTOP)  # so that it waits at the relay
    try:
        caller = threading.Thread(target=ask)
        caller.start()
        until(lambda: " accepted " in relay.log[mark:])
        stored = fields(bob.log[at_bob:], "stored")
        ident = bytes.fromhex(stored["id"])
        disk, memory = relay.state, relay.memory()
        in_bobs_memory = memory_of(bob.pid)
    finally:
        alice.signal(signal.SIGCONT)
    caller.join(60)
    assert answers == [canary]
    assert ident in disk and ident in memory  # we do look where it is
    assert canary.encode() in in_bobs_memory
    disk, memory = disk + relay.state, memory + relay.memory()  # with the answer
    for word in (canary, "light/echo"):
        assert word.encode() not in disk, word
        assert word.encode() not in memory, word
        assert word not in relay.log, word


def test_a_relay_that_is_killed_loses_nothing_that_it_accepted(tmp_path: Path) -> None:
    skip_without(*PROGRAMS)
    with a_world(tmp_path, "websocket") as own:
        killed_between(own)


def killed_between(world: World) -> None:
    """The relay, when it has accepted and not delivered."""
    net, relay, alice, bob = world.net, world.relay, world.alice, world.bob
    spans = []
    with bob.connect() as client:
        for _ in range(20):
            began = time.monotonic()
            assert client.call("alice", "light", "temp", timeout=30) == 20
            spans.append((time.monotonic() - began) / 2)
    middle_ms = sorted(spans)[10] * 1e3
    print(f"delivered in {middle_ms:.1f} ms (half of a call); the way itself takes 0 ms")
    assert middle_ms < 500  # the bar of 50 ms and a round trip is for a machine with time
    net.cut(0, WEB)  # Alice is not there
    logged(alice, "relay_down")
    answers: list[list[object]] = []

    def ask() -> None:
        with bob.connect() as client:
            told = client.call_many("alice", "light", "note", [[n] for n in range(30)], timeout=50)
            answers.append(told)

    mark = len(relay.log)
    caller = threading.Thread(target=ask)
    caller.start()
    until(lambda: relay.log[mark:].count(" accepted ") == 30)
    relay.kill()
    with closing(sqlite3.connect(relay.directory / "state" / "relay.sqlite3")) as kept:
        assert kept.execute("select count(*) from messages").fetchone() == (30,)
    relay.start()
    net.heal(0)
    caller.join(60)
    assert answers == [list(range(30))]
    assert noted(alice, below=30) == list(range(30))  # and nothing ran twice


def test_calls_move_to_a_link_that_comes_up_and_back_to_the_relay(world: World) -> None:
    """Of the calls that were acknowledged none is lost or done twice, over both switches."""
    net, relay, alice, bob = world.net, world.relay, world.alice, world.bob
    assert "grant_shown" not in alice.log  # no link: the router lets none in

    def accepted() -> float:
        return relay.metrics()["drupelet_relay_messages_accepted_total"]

    def calls_by(way: str, still_s: float = 0.5) -> bool:
        """Whether calls go by the link or the relay now: none of their messages, or some."""
        done_before, before = len(counting.acknowledged), accepted()
        time.sleep(still_s)
        went = len(counting.acknowledged) > done_before
        return went and (accepted() > before) is (way == "relay")

    counting = Counting(bob)
    try:
        assert until(lambda: calls_by("relay"))
        began = time.monotonic()
        net.forward(0)
        until(lambda: "grant_shown" in alice.log)
        until(lambda: calls_by("link"))
        to_link_s = time.monotonic() - began
        by_relay = bob.log.count("by_relay")
        began = time.monotonic()
        net.close(0, host=net.public(1))
        until(lambda: bob.log.count("by_relay") > by_relay and calls_by("relay"))
        to_relay_s = time.monotonic() - began
    finally:
        counting.end()
    print(
        f"to the link in {to_link_s:.1f} s, back in {to_relay_s:.1f} s; "
        f"{len(counting.acknowledged)} calls acknowledged, not: {counting.failed}"
    )
    assert to_link_s < 45  # a link is tried again after 30 s
    assert to_relay_s < 30
    counting.agree_with(alice)


def test_who_is_gone_is_not_shown_and_no_replay_brings_him_back(registry: Registry) -> None:
    """S004-9: out of the catalogue within 30 s; an announcement is refused for ever."""
    gone_after_s = registry.gone()
    print(f"who was killed was shown for {gone_after_s:.1f} s more")
    assert 0 < gone_after_s <= 30 + 2
    time.sleep(max(0.0, registry.said_at + 61 - time.monotonic()))
    one, nobody = registry.account(0), registry.account(3)
    for each in (one, nobody):
        each.login()
    assert nobody.catalogue() == {}
    with refused("replayed"):
        one.ask(registry.said)
    assert nobody.catalogue() == {}
