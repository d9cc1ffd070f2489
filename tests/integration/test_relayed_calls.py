"""S004-7 on real processes: a call between two daemons that only a relay can bring together."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from drupelet.wire.grant_files import decode_grant_file, encode_grant_file
from tests.integration.cluster import Cluster, RealNode, free_port
from tests.integration.test_grants import done, failed, grant, key_of, start
from tests.integration.test_relay import drupelet_relay

LIMIT_S = 30.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


@contextmanager
def relay(directory: Path, port: int) -> Iterator[None]:
    """A relay at that port; it is killed in the end."""
    directory.mkdir(exist_ok=True)
    file = directory / "r.toml"
    file.write_text(
        f'[relay]\nnames = ["127.0.0.1"]\nstate_dir = "state"\nlisten = ["127.0.0.1:{port}"]\n'
    )
    command = [sys.executable, "-m", "drupelet.relay.main", "--config", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            yield
        finally:
            process.kill()


def at_relay(node: RealNode, url: str, invite: str) -> None:
    """Start it again with a relay, which it registers at."""
    node.stop()
    folder = node.directory / "conf.d"
    folder.mkdir()
    (folder / "relay.toml").write_text(f'[relay]\nurl = "{url}"\ninvite = "{invite}"\n')
    node.start()


def call(node: RealNode, *words: str) -> object:
    """A call that goes through as soon as both are at the relay."""
    until = time.monotonic() + LIMIT_S
    while True:
        result = node.run("--json", "call", *words)
        if result.returncode == 0:
            return json.loads(result.stdout)
        assert time.monotonic() < until, result.stdout + result.stderr


def without_addresses(file: str) -> str:
    """The same grant, with an address at which nobody listens: no link can be made."""
    path = Path(file)
    made = decode_grant_file(path.read_text())
    path.write_text(encode_grant_file(replace(made, addresses=(("127.0.0.1", 1),))))
    return file


def test_a_call_that_only_a_relay_can_carry(cluster: Cluster, tmp_path: Path) -> None:
    alice, bob = start(cluster, "alice", "bob")
    port, directory = free_port(), tmp_path / "relay"
    with relay(directory, port):
        invite = drupelet_relay(directory, "invite", "--uses", "2").strip()
        for node in (alice, bob):
            at_relay(node, f"http://127.0.0.1:{port}", invite)
        ident, file = grant(alice, "--to", key_of(bob), "--only", "temp,dim", "--rate", "100/m")
        done(bob, "accept", without_addresses(file))
        assert call(bob, "alice", "light", "temp") == 20
        assert call(bob, "alice", "light", "temp", "5") == 25
        code, error = failed(bob, "call", "alice", "light", "wipe")
        assert (code, error["kind"], error["message"]) == (3, "NotPermitted", "not permitted")
        assert "by_relay node=alice" in bob.log
    code, error = failed(bob, "call", "alice", "light", "temp")
    assert code in (5, 6)  # no relay: no way
    with relay(directory, port):
        assert call(bob, "alice", "light", "temp") == 20  # both came back by themselves
        done(alice, "revoke", ident)
        assert failed(bob, "call", "alice", "light", "temp")[0] in (3, 5)
        with alice.connect() as client:
            assert client.call("alice", "light", "dimming") == 0
