"""Two clusters on one network, found by mDNS alone: they leave each other alone, and grants work.

Each node dials the other once as a member, with the wrong cookie. That must not turn away the one
that comes again as the holder of a grant.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, RealNode
from tests.integration.test_grants import done, key_of
from tests.netns.conftest import Lan
from tests.netns.test_pairing import machine

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs iproute2"),
]

WATCHED_S = 25.0
FAILED_MAX = 2  # by both address families, once each


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


def failures(node: RealNode) -> int:
    lines = node.run("metrics").stdout.splitlines()
    counts = dict(line.split() for line in lines if not line.startswith("#"))
    return int(float(counts["drupelet_handshakes_failed_total"]))


def test_a_grant_between_two_clusters_of_one_network(
    make_lan: Callable[..., Lan], cluster: Cluster
) -> None:
    lan = make_lan(2)
    alice, bob = (machine(cluster, lan, index, name) for index, name in enumerate(("alice", "bob")))
    ends = time.monotonic() + WATCHED_S
    while time.monotonic() < ends and min(failures(alice), failures(bob)) < FAILED_MAX + 1:
        bob.run("status")
    assert 1 <= failures(alice) <= FAILED_MAX and 1 <= failures(bob) <= FAILED_MAX
    file = str(alice.directory / "echo.grant")
    done(alice, "grant", "echo", "--to", key_of(bob), "-o", file)
    accepted = bob.run("accept", file)
    assert accepted.returncode == 0 and "could not be asked" not in accepted.stderr, accepted
    assert done(bob, "call", "alice", "echo", "echo", "tea") == "tea"
    bob.stop()
    bob.start()  # it dials as a member again, once
    assert done(bob, "call", "alice", "echo", "echo", "more") == "more"
