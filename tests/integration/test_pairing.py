"""Pairing two real daemons with a cookie each, by the command line alone (MOON-4)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drupelet.services.pairing import WATCH_S
from drupelet.wire.pairing import Invitation, encode_invitation
from tests.integration.cluster import REPOSITORY, Cluster, RealNode
from tests.integration.test_grants import done, failed, start

PAIRED_S = 20.0
GONE = ("nobody_waits", "NoConnection")  # a busy machine may not answer in time


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


@contextmanager
def showing(
    node: RealNode, *words: str
) -> Iterator[tuple[dict[str, object], subprocess.Popen[str]]]:
    """`drupelet pair` on `node`: what it shows, and the program that waits."""
    command = [sys.executable, "-m", "drupelet.cli.main", "--socket", str(node.socket_path)]
    program = subprocess.Popen(
        [*command, "--json", "pair", *words], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    try:
        assert program.stdout is not None
        yield json.loads(program.stdout.readline()), program
    finally:
        program.kill()
        program.wait(5)
        assert program.stdout is not None
        program.stdout.close()


def outcome(program: subprocess.Popen[str]) -> tuple[int, dict[str, object]]:
    """The second document, and the exit code."""
    assert program.stdout is not None
    text = program.stdout.readline()
    return program.wait(10), json.loads(text)


def states(node: RealNode) -> dict[str, str]:
    found = done(node, "nodes")
    assert isinstance(found, list)
    return {each["name"]: each["state"] for each in found}


def wait_states(node: RealNode, wanted: dict[str, str]) -> None:
    deadline = time.monotonic() + PAIRED_S
    while (found := states(node)) != wanted:
        assert time.monotonic() < deadline, f"{node.name} sees {found}; its log:\n{node.log}"


def test_from_pair_to_nodes_in_twenty_seconds(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    alice, bob = start(cluster, "alice", "bob")
    started = time.monotonic()
    with showing(alice) as (shown, program):
        answer = done(bob, "pair", str(shown["code"]), "--host", f"127.0.0.1:{alice.port}")
        assert isinstance(answer, dict)
        assert (answer["name"], answer["key"], answer["linked"]) == ("alice", shown["key"], True)
        bobs_key = str(bob.status()["key"])
        assert outcome(program) == (
            0,
            {"outcome": "paired", "by": "link", "name": "bob", "key": bobs_key},
        )
    wait_states(alice, {"bob": "up"})
    wait_states(bob, {"alice": "up"})
    span_s = time.monotonic() - started
    with capsys.disabled():
        print(f"from `drupelet pair` to `drupelet nodes` on both: {span_s:.1f} s ", end="")
    assert span_s < PAIRED_S
    assert done(bob, "call", "alice", "light", "temp") == 20
    # It holds after a restart of the one that was given the cookie, killed or not.
    bob.kill()
    wait_states(alice, {"bob": "down"})
    bob.start()
    wait_states(alice, {"bob": "up"})
    for node in (alice, bob):
        code = str(shown["code"])
        assert code not in node.log
        assert code.replace("-", "") not in node.log
        assert (cluster.directory / "cookie-alice").read_text().split()[-1] not in node.log


def test_one_wrong_guess_burns_the_code(cluster: Cluster) -> None:
    alice, bob = start(cluster, "alice", "bob")
    place = f"127.0.0.1:{alice.port}"
    with showing(alice) as (shown, program):
        code, error = failed(bob, "pair", "ZZZZ-ZZZZ", "--host", place)
        assert (code, error["kind"]) == (1, "wrong_code")
        assert "new code" in str(error["mend"])
        status, told = outcome(program)
        assert status == 1
        match told["error"]:
            case {"kind": "burnt", "message": str(message)}:
                assert "bob" in message
            case other:
                raise AssertionError(other)
        assert failed(bob, "pair", str(shown["code"]), "--host", place)[1]["kind"] in GONE
    assert states(bob) == {}


def test_a_grant_and_no_membership(cluster: Cluster) -> None:
    alice, bob = start(cluster, "alice", "bob")
    with showing(alice, "--grant", "light", "--only", "temp") as (shown, program):
        answer = done(bob, "pair", str(shown["invitation"]))  # what the QR code has
        assert isinstance(answer, dict)
        assert "temp" in answer["sentence"]
        assert outcome(program)[0] == 0
    assert done(bob, "call", "alice", "light", "temp") == 20
    assert failed(bob, "call", "alice", "light", "on")[0] == 3
    assert states(bob) == {}


def test_who_ends_the_command_takes_the_code_back(cluster: Cluster) -> None:
    alice, bob = start(cluster, "alice", "bob")
    with showing(alice) as (shown, program):
        program.send_signal(signal.SIGKILL)
        program.wait(5)
        # Killed before or after it waits; an invitation of another key is no guess.
        other = encode_invitation(Invitation(code="ABCDEFGH", key=bytes(32), name="alice"))
        place = f"127.0.0.1:{alice.port}"
        deadline = time.monotonic() + 6 * WATCH_S
        while (error := failed(bob, "pair", other, "--host", place)[1])["kind"] != "nobody_waits":
            assert error["kind"] == "NoConnection", error
            assert time.monotonic() < deadline, alice.log
        assert "outcome=cancelled" in alice.log
        error = failed(bob, "pair", str(shown["code"]), "--host", place)[1]
        assert error["kind"] in GONE, error
