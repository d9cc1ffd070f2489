"""MOON-4 between two homes: eight letters, a NAT each, and a relay that they do not trust."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drupelet.wire.keys import key_from_text
from drupelet.wire.pairing import make_code
from drupelet.wire.relayed_pairing import plate_of
from tests.integration.cluster import Cluster, RealNode
from tests.integration.test_grants import done, failed
from tests.integration.test_pairing import outcome, showing, states, wait_states
from tests.netns.internet import LINK_PORT, WEB, Internet, Relay, at_home, logged, until
from tests.netns.lights import MISSIONS

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180)]

PAIRED_S = 20.0


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


def two_homes(cluster: Cluster, net: Internet, relay: Relay) -> tuple[RealNode, RealNode]:
    """Alice and Bob, strangers to each other, as they look on their own networks, too."""
    invite = f'invite = "{relay.own("invite", "--uses", "2")}"'
    nodes = []
    for home, (name, missions) in enumerate((("alice", MISSIONS), ("bob", {}))):
        node = at_home(
            cluster, net, [relay], name, home, missions=missions, lines=[invite], mdns=True
        )
        node.start()
        nodes.append(node)
    for node in nodes:
        logged(node, "relay_up")
    assert net.probe(net.homes[1], net.public(0), LINK_PORT) == "silence"
    assert net.probe(net.homes[0], net.public(1), LINK_PORT) == "silence"
    return nodes[0], nodes[1]


def calls(node: RealNode, *words: str) -> object:
    """A call that goes through as soon as the grant is announced."""

    def once() -> object:
        result = node.run("--json", "call", *words)
        return [json.loads(result.stdout)] if result.returncode == 0 else None

    found = until(once, why=node.log)
    assert isinstance(found, list)
    return found[0]


def test_a_grant_from_home_to_home(
    net: Internet, cluster: Cluster, relay: Relay, capsys: pytest.CaptureFixture[str]
) -> None:
    alice, bob = two_homes(cluster, net, relay)
    started = time.monotonic()
    with showing(alice, "--grant", "light", "--only", "temp", "--rate", "100/m") as (
        shown,
        program,
    ):
        assert shown["relay"] == relay.url
        letters = time.monotonic()
        answer = done(bob, "pair", str(shown["code"]).lower())
        assert isinstance(answer, dict)
        typed_s = time.monotonic() - letters
        assert (answer["name"], answer["key"], answer["by"]) == ("alice", shown["key"], "relay")
        assert outcome(program)[1]["by"] == "relay"
    assert calls(bob, "alice", "light", "temp", "5") == 25
    span_s = time.monotonic() - started
    with capsys.disabled():
        print(
            f"typed to paired: {typed_s:.1f} s; `drupelet pair` to a call: {span_s:.1f} s ", end=""
        )
    assert span_s < PAIRED_S
    assert failed(bob, "call", "alice", "light", "on")[0] == 3
    assert states(alice) == states(bob) == {}
    # The relay has neither the code nor the grant, on its disk or in its memory.
    code = str(shown["code"]).replace("-", "").encode()
    there = relay.state + relay.memory()
    assert key_from_text(str(shown["key"])) in there  # it is found where it is
    _, _, grant = (bob.state_dir / "grants").read_bytes().partition(b"drupelet-grant:")
    assert len(grant) > 200
    for secret in (code, str(shown["code"]).encode(), grant[:100], grant[100:200]):
        assert secret not in there
        assert secret not in (relay.log + alice.log + bob.log).encode()


def test_a_wrong_guess_through_the_relay_burns_the_code(
    net: Internet, cluster: Cluster, relay: Relay
) -> None:
    alice, bob = two_homes(cluster, net, relay)
    with showing(alice, "--grant", "light") as (shown, program):
        code = str(shown["code"]).replace("-", "")
        mistyped = code[:7] + ("B" if code[7] != "B" else "C")
        error = failed(bob, "pair", mistyped)[1]
        assert error["kind"] == "nobody_found", error
        assert f"the relay {relay.url} knows of no such code" in str(error["message"])
        assert program.poll() is None  # it is good yet
        assert failed(bob, "pair", another_of_its_plate(code))[1]["kind"] == "wrong_code"
        status, told = outcome(program)
        assert (status, told["error"]["kind"]) == (1, "burnt")
        assert "through the relay" in told["error"]["message"]
        assert "drupelet-relay deny" in told["error"]["mend"]
        assert failed(bob, "pair", code)[1]["kind"] == "nobody_found"


def another_of_its_plate(code: str) -> str:
    codes = (make_code(number.to_bytes(16, "big")) for number in range(100_000))
    return next(each for each in codes if plate_of(each) == plate_of(code) and each != code)


def test_members_need_a_way_to_each_other(net: Internet, cluster: Cluster, relay: Relay) -> None:
    alice, bob = two_homes(cluster, net, relay)
    with showing(alice) as (shown, program):
        result = bob.run("pair", str(shown["code"]))
        assert result.returncode == 0, result.stderr
        assert "paired with alice" in result.stdout and "through the relay" in result.stdout
        place = f"{net.private(0)}:{LINK_PORT}"
        assert f"no address of alice answers ({place})" in result.stderr
        assert "drupelet pair --grant MISSION" in result.stderr
        assert outcome(program)[1]["outcome"] == "paired"
    assert states(alice).get("bob") != "up"
    # What the note says: one port is opened, and named by the other.
    net.forward(0)
    bob.stop()
    (bob.directory / "conf.d" / "peers.toml").write_text(
        f'[link]\npeers = ["alice@{net.public(0)}:{LINK_PORT}"]\n'
    )
    bob.start()
    wait_states(bob, {"alice": "up"})
    assert done(bob, "call", "alice", "light", "temp") == 20


def test_no_relay_within_reach(net: Internet, cluster: Cluster, relay: Relay) -> None:
    alice, bob = two_homes(cluster, net, relay)
    net.cut(1, WEB)
    logged(bob, "relay_down")
    with showing(alice, "--grant", "light") as (shown, program):
        started = time.monotonic()
        error = failed(bob, "pair", str(shown["code"]))[1]
        assert error["kind"] == "relay_down", error
        assert time.monotonic() - started < PAIRED_S
        net.heal(1)
        logged(bob, "relay_up", 2)
        assert done(bob, "pair", str(shown["code"]))["by"] == "relay"  # type: ignore[index]
        assert outcome(program)[0] == 0
