"""MOON-4: two machines on one network become one cluster, by eight letters and nothing else.

mDNS is all they have. They have dialled each other with the wrong cookie, so each leaves the other
alone and is turned away at the other's door. A third machine is of the cluster already, a fourth of
none.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, RealNode
from tests.integration.test_grants import done, failed
from tests.integration.test_pairing import GONE, outcome, showing, states, wait_states
from tests.netns.conftest import Lan

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs iproute2"),
]

LINK_PORT = 4370
PAIRED_S = 20.0
TURNED_AWAY_S = 20.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


def machine(cluster: Cluster, lan: Lan, index: int, name: str, cookie: str = "") -> RealNode:
    """A node with mDNS, and a cookie of its own or that of another."""
    return cluster.start(
        name,
        prefix=("ip", "netns", "exec", lan.nodes[index]),
        listen=lan.address(index),
        port=LINK_PORT,
        cookie_file=cluster.directory / f"cookie-{cookie or name}",
        mdns=True,
    )


def wait_turned_away(node: RealNode) -> None:
    """Until the node has failed handshakes of the others: it has an address to turn away."""
    deadline = time.monotonic() + TURNED_AWAY_S
    while True:
        lines = node.run("metrics").stdout.splitlines()
        counts = dict(line.split() for line in lines if not line.startswith("#"))
        if float(counts["drupelet_handshakes_failed_total"]) >= 2:
            return
        assert time.monotonic() < deadline, counts


def test_eight_letters_and_nothing_else(
    make_lan: Callable[..., Lan], cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    lan = make_lan(4)
    alice, bob, charlie = (
        machine(cluster, lan, index, name) for index, name in enumerate(("alice", "bob", "charlie"))
    )
    dave = machine(cluster, lan, 3, "dave", "alice")
    wait_states(alice, {"dave": "up"})
    for node in (alice, dave):
        wait_turned_away(node)
    assert states(bob) == {}
    started = time.monotonic()
    with showing(alice) as (shown, program):
        answer = done(bob, "pair", str(shown["code"]))
        assert isinstance(answer, dict)
        assert (answer["name"], answer["key"]) == ("alice", shown["key"])
        assert outcome(program)[1]["name"] == "bob"
    for node, others in (
        (alice, ("bob", "dave")),
        (bob, ("alice", "dave")),
        (dave, ("alice", "bob")),
    ):
        wait_states(node, dict.fromkeys(others, "up"))
    span_s = time.monotonic() - started
    with capsys.disabled():
        print(
            f"from `drupelet pair` to `drupelet nodes` on three, by mDNS: {span_s:.1f} s ", end=""
        )
    assert span_s < PAIRED_S
    assert done(alice, "call", "bob", "echo", "echo", "hello") == "hello"
    assert states(charlie) == {}
    with showing(alice) as (shown, program):
        assert failed(charlie, "pair", "ZZZZ-ZZZZ")[1]["kind"] == "wrong_code"
        assert outcome(program)[0] == 1
        kind = failed(charlie, "pair", str(shown["code"]))[1]["kind"]
        assert kind in GONE
    assert states(charlie) == {}
