"""S004-9 with two relays that are kept in step: whoever is at either finds and calls the other.

Alice prefers the first, Bob the second; each of the two is killed in turn, under calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from drupelet.wire import relay as wire
from tests.integration.cluster import Cluster
from tests.integration.test_grants import done, grant, key_of
from tests.netns import stranger
from tests.netns.account import Account, patiently
from tests.netns.internet import (
    WEB2,
    Internet,
    Relay,
    at_home,
    at_public_address,
    logged,
    start_all,
    until,
)
from tests.netns.lights import MISSIONS, Counting, ready

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


@pytest.fixture
def net(make_internet: Callable[[int], Internet]) -> Internet:
    return make_internet(2)


@pytest.fixture
def relays(net: Internet, tmp_path: Path) -> Iterator[tuple[Relay, Relay]]:
    first = Relay(net, tmp_path / "relay1")
    second = Relay(net, tmp_path / "relay2", host=WEB2)
    for one, other in ((first, second), (second, first)):
        peer = (
            f'url = "{other.url}"',
            f'key = "{other.own("key")}"',
            f'ca_file = "{other.ca_file}"',
        )
        one.configure("[[relay.peers]]", *peer)
    for one in (first, second):
        one.start()
    yield first, second
    for one in (first, second):
        one.kill()


def refused(account: Account, code: str) -> bool:
    """Whether it is refused so, when it asks or logs in."""
    try:
        account.login()
    except wire.RelayRefused as refusal:
        return refusal.code == code
    return False


def test_either_relay_serves_both_and_each_may_die(
    net: Internet, cluster: Cluster, relays: tuple[Relay, Relay]
) -> None:
    first, second = relays
    until(lambda: all("in step" in one.own("accounts") for one in relays))
    words = [f'invite = "{first.own("invite", "--uses", "2")}"']  # Bob shows it at the second
    alice = at_home(cluster, net, [first, second], "alice", 0, missions=MISSIONS, lines=words)
    bob = at_home(cluster, net, [second, first], "bob", 1, lines=words)
    start_all(alice, bob)
    for node, relay in ((alice, first), (bob, second)):
        logged(node, f"relay_up url={relay.url} ")
    # The second shows what was announced at the first, to those who were approved there.
    first.own("approve", stranger.key_of(0))
    to = ("--to", stranger.key_of(0))
    done(alice, "grant", "light", *to, "-o", str(alice.directory / "stranger"))
    with closing(Account(second.url, second.ca_file, 0, net.homes[1])) as account:
        patiently(account.login, "not_registered")
        until(lambda: account.catalogue() == {"alice": ["light"]})
        first.own("deny", stranger.key_of(0))
        began = time.monotonic()
        until(lambda: refused(account, "denied"))
        print(f"denied at one, refused at the other {time.monotonic() - began:.1f} s later")
    _, file = grant(alice, "--to", key_of(bob), "--only", "temp,note")
    done(bob, "accept", at_public_address(file, net.public(0)))
    ready(bob)
    assert all(" accepted " in one.log for one in relays)  # from the one relay to the other
    counting = Counting(bob)

    def more(count: int = 20) -> None:
        """Calls are acknowledged, now."""
        goal = len(counting.acknowledged) + count
        until(lambda: len(counting.acknowledged) >= goal)

    try:
        more()
        second.kill()
        began = time.monotonic()
        logged(bob, f"relay_up url={first.url} ")
        more()
        moved_s = time.monotonic() - began
        second.start()
        until(lambda: "in step" in first.own("accounts"))
        first.kill()
        began = time.monotonic()
        for node, times in ((alice, 1), (bob, 2)):
            logged(node, f"relay_up url={second.url} ", times)
        more()
        both_moved_s = time.monotonic() - began
    finally:
        counting.end()
    print(
        f"one moved in {moved_s:.1f} s, both in {both_moved_s:.1f} s; "
        f"{len(counting.acknowledged)} calls acknowledged, {len(counting.failed)} not"
    )
    counting.agree_with(alice)
