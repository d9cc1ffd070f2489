"""Pairing two real daemons that find each other only at a relay, by the command line alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, RealNode, free_port
from tests.integration.relays import two_relays
from tests.integration.test_grants import done, failed, start
from tests.integration.test_pairing import PAIRED_S, outcome, showing, wait_states
from tests.integration.test_relay import drupelet_relay
from tests.integration.test_relayed_calls import at_relay, call, relay

LIMIT_S = 30.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


def wait_logged(words: str, *nodes: RealNode) -> None:
    """Until the logs of these have `words`; a question to each in between."""
    until = time.monotonic() + LIMIT_S
    for node in nodes:
        while words not in node.log:
            assert time.monotonic() < until, node.log
            node.status()


def test_a_code_finds_its_node_at_the_relay(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alice, bob, charlie = start(cluster, "alice", "bob", "charlie")
    port, directory = free_port(), tmp_path / "relay"
    url = f"http://127.0.0.1:{port}"
    with relay(directory, port):
        invite = drupelet_relay(directory, "invite", "--uses", "3").strip()
        for node in (alice, bob, charlie):
            at_relay(node, url, invite)
        wait_logged("relay_up", alice, bob, charlie)
        started = time.monotonic()
        with showing(alice) as (shown, program):
            assert shown["relay"] == url
            answer = done(bob, "pair", str(shown["code"]))
            assert isinstance(answer, dict)
            assert (answer["by"], answer["linked"]) == ("relay", True)  # its address holds here
            told = outcome(program)[1]
            assert (told["by"], told["name"]) == ("relay", "bob")
        wait_states(bob, {"alice": "up"})
        span_s = time.monotonic() - started
        with capsys.disabled():
            print(f"from `drupelet pair` to `drupelet nodes`, by a relay: {span_s:.1f} s ", end="")
        assert span_s < PAIRED_S
        with showing(alice, "--grant", "light", "--only", "temp") as (shown, program):
            answer = done(charlie, "pair", str(shown["invitation"]))
            assert isinstance(answer, dict) and answer["gives"] == "grant"
            assert outcome(program)[0] == 0
        assert call(charlie, "alice", "light", "temp") == 20
        for node in (alice, bob, charlie):
            assert str(shown["code"]).replace("-", "") not in node.log
    # Without the relay a code is shown all the same, and says where it is good.
    wait_logged("relay_down", alice)
    with showing(alice, "--grant", "light") as (shown, _):
        assert (shown["relay"], shown["relay_problem"]) == ("", "it cannot be reached now")
        error = failed(charlie, "pair", str(shown["code"]))[1]
        assert error["kind"] == "relay_down" and url in str(error["message"])


def test_two_at_different_relays_that_are_kept_in_step(cluster: Cluster, tmp_path: Path) -> None:
    """Each uses the first of its list; the lists are the other way round."""
    alice, bob = start(cluster, "alice", "bob")
    (tmp_path / "relays").mkdir()
    with two_relays(tmp_path / "relays") as (first, second):
        invite = first.run("invite", "--uses", "2").strip()
        for node, urls in ((alice, (first.url, second.url)), (bob, (second.url, first.url))):
            node.stop()
            folder = node.directory / "conf.d"
            folder.mkdir()
            listed = ", ".join(f'"{url}"' for url in urls)
            (folder / "relay.toml").write_text(f'[relay]\nurl = [{listed}]\ninvite = "{invite}"\n')
            node.start()
        wait_logged(f"relay_up url={first.url}", alice)
        wait_logged(f"relay_up url={second.url}", bob)
        with showing(alice, "--grant", "light", "--only", "temp") as (shown, program):
            assert shown["relay"] == first.url
            answer = done(bob, "pair", str(shown["code"]))
            assert isinstance(answer, dict) and answer["by"] == "relay"
            assert outcome(program)[1]["name"] == "bob"
        assert call(bob, "alice", "light", "temp") == 20
