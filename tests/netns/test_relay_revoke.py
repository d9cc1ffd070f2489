"""S004-3 over a relay and links at once: what is revoked runs no more, and never again.

Alice has a cluster of five. Bob, behind his own NAT, calls her through the relay; Dave, to whom he
handed the grant on, calls from a visit in her house, on a link.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from drupelet.errors import CallError
from tests.integration.cluster import Cluster, RealNode
from tests.integration.test_grants import done, failed, grant, key_of
from tests.netns.internet import (
    LIMIT_S,
    LINK_PORT,
    WEB,
    Internet,
    Relay,
    at_home,
    at_public_address,
    logged,
    start_all,
    until,
)
from tests.netns.lights import MISSIONS, alice_and_bob, number, ready

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180)]

OTHERS = ("anna", "arne", "axel", "ada")
RUNNING = 200
LOCAL_BAR_S = 0.1  # on a machine that does nothing else
MEMBERS_BAR_S = 2.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


@pytest.fixture
def net(make_internet: Callable[[int], Internet]) -> Internet:
    return make_internet(2)


@pytest.fixture
def relay(net: Internet, tmp_path: Path) -> Iterator[Relay]:
    one = Relay(net, tmp_path / "relay")
    one.start()
    yield one
    one.kill()


class Calling:
    """Many calls of light/dim from a node, in a thread; what each was told."""

    def __init__(self, node: RealNode, count: int, timeout_s: float = 120.0) -> None:
        self.told: list[object] = []
        self._thread = threading.Thread(target=self._call, args=(node, count, timeout_s))
        self._thread.start()

    def _call(self, node: RealNode, count: int, timeout_s: float) -> None:
        with node.connect() as client:
            arguments = [[100.0]] * count
            self.told = client.call_many("alice", "light", "dim", arguments, timeout=timeout_s)

    def end(self) -> list[str]:
        """The classes of their errors."""
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        assert all(isinstance(each, CallError) for each in self.told), self.told[:3]
        return sorted(type(each).__name__ for each in self.told)


def nothing_runs(alice: RealNode) -> None:
    """Neither by the count of what runs, nor by what it does."""
    assert number(alice, "dimming") == 0
    before = number(alice, "beats")
    time.sleep(0.5)
    assert number(alice, "beats") == before
    assert number(alice, "dimming") == 0


def refused_for_ever(alice: RealNode, bob: RealNode, dave: RealNode) -> None:
    """Both are, and nothing runs."""
    # By the relay he does not even find her: she is not there for him any more. What he seals to
    # who she was before she was killed, nobody can open.
    by_relay = ("Revoked", "NoConnection", "Timeout")
    for node, kinds in ((bob, by_relay), (dave, ("Revoked",))):
        _, error = failed(node, "call", "--timeout", "3", "alice", "light", "temp")
        assert error["kind"] in kinds, error
    nothing_runs(alice)


def test_nothing_runs_when_revoke_has_answered_and_never_again(
    net: Internet, cluster: Cluster, relay: Relay
) -> None:
    alice, bob = alice_and_bob(cluster, net, relay)
    others = [
        at_home(
            cluster,
            net,
            (),
            name,
            0,
            missions=MISSIONS,
            cookie="alice",
            port=LINK_PORT + 1 + place,
            peers=(f"alice@{net.private(0)}:{LINK_PORT}",),
        )
        for place, name in enumerate(OTHERS)
    ]
    dave = at_home(cluster, net, (), "dave", 0, port=LINK_PORT + 10)
    start_all(*others, dave)
    trio.run(lambda: alice.wait_up(*OTHERS, timeout_s=LIMIT_S))
    ident, file = grant(alice, "--to", key_of(bob), "--only", "temp,dim", "--delegable", "1")
    handed_on = str(cluster.directory / "dave.grant")
    done(bob, "narrow", file, "--to", key_of(dave), "-o", handed_on)
    done(bob, "accept", at_public_address(file, net.public(0)))
    done(dave, "accept", handed_on)
    ready(bob)
    ready(dave)
    assert "by_relay node=alice" in bob.log and "by_relay" not in dave.log
    callers = [Calling(bob, RUNNING // 2), Calling(dave, RUNNING // 2)]
    until(lambda: number(alice, "dimming") == RUNNING, why=f"{number(alice, 'dimming')} run")
    with alice.connect() as client:
        began = time.monotonic()
        answer = client.call("", "grants", "revoke", ident, timeout=LIMIT_S)
        took_s = time.monotonic() - began
        if not answer["killed"]:
            assert client.call("", "light", "dimming") == 0
    print(f"revoked with {RUNNING} calls at five members in {took_s * 1e3:.0f} ms: {answer}")
    assert isinstance(answer, dict)
    assert answer["calls"] == RUNNING
    assert answer["members"] == dict.fromkeys(OTHERS, True)
    assert took_s <= MEMBERS_BAR_S
    nothing_runs(alice)
    for caller in callers:
        assert caller.end() == ["Revoked"] * (RUNNING // 2)
    refused_for_ever(alice, bob, dave)
    alice.signal(signal.SIGKILL)
    alice.wait()
    alice.start()
    logged(alice, "relay_up", 2)
    refused_for_ever(alice, bob, dave)
    # Once more, and she is killed as soon as it has answered.
    ident, file = grant(alice, "--to", key_of(dave), "--only", "temp")
    done(dave, "accept", file)
    ready(dave)
    with alice.connect() as client:
        client.call("", "grants", "revoke", ident, timeout=LIMIT_S)
        alice.signal(signal.SIGKILL)
    alice.wait()
    alice.start()
    code, error = failed(dave, "call", "alice", "light", "temp")
    assert (code, error["kind"]) == (3, "Revoked")


def test_calls_that_wait_at_the_relay_die_with_the_grant(
    net: Internet, cluster: Cluster, relay: Relay
) -> None:
    """They were accepted while Alice was away, and come back to her after she revoked."""
    alice, bob = alice_and_bob(cluster, net, relay)
    ident, file = grant(alice, "--to", key_of(bob), "--only", "temp,dim")
    done(bob, "accept", at_public_address(file, net.public(0)))
    ready(bob)
    net.cut(0, WEB)
    logged(alice, "relay_down")
    mark = len(relay.log)
    caller = Calling(bob, 50)
    until(lambda: relay.log[mark:].count(" accepted ") == 50)
    answer = done(alice, "revoke", ident)
    assert isinstance(answer, dict) and answer["calls"] == 0
    net.heal(0)
    assert caller.end() == ["Revoked"] * 50
    entries = done(alice, "log", "light")
    assert isinstance(entries, list)
    assert ("refused", "Revoked") in {(each["what"], each["outcome"]) for each in entries}
    net.cut(0, WEB)
    logged(alice, "relay_down", 2)
    caller = Calling(bob, 50, timeout_s=4.0)  # he knows from before where she is
    alice.signal(signal.SIGKILL)
    alice.wait()
    net.heal(0)
    alice.start()
    assert set(caller.end()) <= {"Timeout", "NoConnection", "Revoked"}
    until(lambda: relay.metrics()["drupelet_relay_waiting_messages"] == 0)
    assert number(alice, "count") == 0
