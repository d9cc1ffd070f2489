"""S004-6 between two homes: pids behind a NAT each, by a relay with TLS, and taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster
from tests.integration.test_grants import done, grant, key_of
from tests.integration.test_proxies import DESK, LIGHT
from tests.netns.internet import Internet, Relay, at_home, at_public_address, logged, until
from tests.netns.lights import ready

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180)]


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


def test_pids_from_home_to_home_until_they_are_taken_back(
    net: Internet, cluster: Cluster, relay: Relay
) -> None:
    invite = [f'invite = "{relay.own("invite", "--uses", "2")}"']
    light = {"light": (LIGHT, ("subscribe", "tell", "ended", "attack"))}
    desk = {"desk": (DESK, ("start", "got", "kill", "crash"))}
    alice = at_home(cluster, net, [relay], "alice", 0, missions=light, lines=invite)
    bob = at_home(cluster, net, [relay], "bob", 1, missions=desk, lines=invite)
    for node in (alice, bob):
        node.start()
    for node in (alice, bob):
        logged(node, "relay_up")
    _, file = grant(alice, "--to", key_of(bob))
    done(bob, "accept", at_public_address(file, net.public(0)))
    ready(bob, "ended")

    def ends() -> list[object]:
        found = done(alice, "call", "alice", "light", "ended")
        assert isinstance(found, list)
        return found

    def got() -> list[object]:
        found = done(bob, "call", "bob", "desk", "got")
        assert isinstance(found, list)
        return found

    def words() -> float:
        return relay.metrics()["drupelet_relay_messages_accepted_total"]

    kinds = done(bob, "call", "bob", "desk", "start", "3")
    assert isinstance(kinds, list) and len(kinds) == 3
    before = words()
    assert done(alice, "call", "alice", "light", "tell", "a secret of Alice") == "sent"
    until(lambda: len(got()) == 3, why=bob.log)
    assert words() >= before + 3  # by the relay, which cannot read it
    assert b"a secret of Alice" not in relay.state + relay.memory()
    assert done(alice, "call", "alice", "light", "attack") == ["refused"] * 5
    done(bob, "call", "bob", "desk", "kill", "0")
    until(lambda: ends() == ["noproc"], why=alice.log)
    assert done(alice, "call", "alice", "light", "tell", "again") == "sent"  # to all three
    until(lambda: got()[3:] == ["again"] * 2, why=bob.log)
    done(alice, "revoke", "light")
    assert done(alice, "call", "alice", "light", "tell", "late") == "sent"
    # What Alice says to Bob comes in order: had it left, it would be there before this answer.
    _, file = grant(alice, "--to", key_of(bob))
    done(bob, "accept", at_public_address(file, net.public(0)))
    ready(bob, "ended")
    assert len(got()) == 5
