"""Grants between real daemons with a cookie each, by the command line alone (S004-1, -3, -4)."""

from __future__ import annotations

import itertools
import json
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drupelet.errors import RateLimited
from tests.integration.cluster import Cluster, RealNode, drupelet

LIGHT = """
import trio
from drupelet import mission

running = 0

@mission("light")
def on():
    return "on"

@mission("light")
def off():
    return "off"

@mission("light")
def temp(offset: int = 0):
    return 20 + offset

@mission("light")
async def dim(seconds: float):
    global running
    running += 1
    try:
        await trio.sleep(seconds)
    finally:
        running -= 1

@mission("light")
def dimming():
    return running

def wipe():
    return "wiped"
"""
EXPORTS = '["on", "off", "temp", "dim", "dimming"]'
REFUSED = (
    "NotPermitted",
    "not permitted",
    "ask the node's owner for a grant, or check the spelling",
)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


def start(cluster: Cluster, *names: str) -> list[RealNode]:
    """Nodes that know nothing of each other; the first has the mission light."""
    for place, name in enumerate(names):
        cookie = cluster.directory / f"cookie-{name}"
        node = cluster.add(name, missions={}, cookie_file=cookie)
        if not place:
            folder = node.directory / "missions.d"
            folder.mkdir()
            (folder / "light.toml").write_text(f'module = "light.py"\nexports = {EXPORTS}\n')
            (folder / "light.py").write_text(LIGHT)
        node.start()
    return [cluster[name] for name in names]


def done(node: RealNode, *words: str) -> object:
    """A command that succeeds; its JSON document."""
    result = node.run("--json", *words)
    assert result.returncode == 0, f"{words}: {result.stdout}{result.stderr}"
    return json.loads(result.stdout)


def failed(node: RealNode, *words: str) -> tuple[int, dict[str, object]]:
    """A command that fails; its exit code and what it says of the error."""
    result = node.run("--json", *words)
    assert result.returncode, f"{words}: {result.stdout}"
    return result.returncode, json.loads(result.stdout)["error"]


def refusal(node: RealNode, *words: str) -> tuple[object, ...]:
    code, error = failed(node, "call", *words)
    assert code == 3
    assert error.keys() == {"kind", "message", "mend"}
    return error["kind"], error["message"], error["mend"]


def grant(alice: RealNode, *words: str) -> tuple[str, str]:
    """A new grant of light: its id and its file."""
    file = str(alice.directory / f"{len(list(alice.directory.glob('*.grant')))}.grant")
    made = done(alice, "grant", "light", "-o", file, *words)
    assert isinstance(made, dict)
    return str(made["id"]), file


def key_of(node: RealNode) -> str:
    return str(node.status()["key"])


def test_alice_lets_bob_read_the_temperature_and_nothing_else(cluster: Cluster) -> None:
    alice, bob, charlie = start(cluster, "alice", "bob", "charlie")
    assert failed(bob, "call", "alice", "light", "temp")[0] == 5  # nobody knows anybody
    _, file = grant(alice, "--to", key_of(bob), "--only", "temp")
    assert stat.S_IMODE(Path(file).stat().st_mode) == 0o600
    done(bob, "accept", file)
    assert done(bob, "call", "alice", "light", "temp") == 20
    assert done(bob, "call", "alice", "light", "temp", "5") == 25
    for mission, function in (
        ("light", "on"), ("light", "wipe"), ("light", "no_such"), ("no_such", "on"),
        ("os", "system"), ("light", "__import__"), ("light", "__class__"), ("light", "__dict__"),
        ("light", "temp.__globals__"), ("light", "os.system"), ("builtins", "eval"),
        ("node", "info"), ("node", "set_cookie"), ("grants", "issue"), ("grants", "merge"),
        ("code", "ship"), ("process", "list"),
    ):  # fmt: skip
        assert refusal(bob, "alice", mission, function, "x") == REFUSED, (mission, function)
    assert failed(alice, "call", "bob", "node", "info")[0] == 5  # not reciprocal
    code, error = failed(charlie, "accept", file)  # not for others
    assert (code, error["kind"]) == (1, "bad_grant")
    assert failed(charlie, "call", "alice", "light", "temp")[0] == 5  # not transitive
    assert failed(charlie, "call", "bob", "light", "temp")[0] == 5


def test_a_key_in_a_file_is_for_whoever_has_it(cluster: Cluster) -> None:
    alice, bob, charlie = start(cluster, "alice", "bob", "charlie")
    ident, file = grant(alice, "--only", "temp")
    for node in (bob, charlie):
        shown = done(node, "accept", file)
        assert isinstance(shown, dict)
        assert (shown["id"], shown["name"]) == (ident, "alice")
        assert done(node, "call", "alice", "light", "temp") == 20
        assert refusal(node, "alice", "light", "on") == REFUSED
        assert f"grant_shown id={ident} key={key_of(node)}" in alice.log  # who of them it was
    listed = done(alice, "grants")
    assert isinstance(listed, dict)
    assert [each["id"] for each in listed["issued"]] == [ident]


def test_calling_too_often(cluster: Cluster) -> None:
    alice, bob = start(cluster, "alice", "bob")
    _, file = grant(alice, "--to", key_of(bob), "--rate", "3/1h", "--burst", "2")
    done(bob, "accept", file)
    for _ in range(2):
        assert done(bob, "call", "alice", "light", "temp") == 20
    code, error = failed(bob, "call", "alice", "light", "temp")
    assert (code, error["kind"]) == (4, "RateLimited")
    assert isinstance(error["retry_after_s"], float)
    assert 0 < error["retry_after_s"] <= 1_200
    _, file = grant(alice, "--to", key_of(bob), "--only", "on", "--rate", "10/s")
    done(bob, "accept", file)
    with bob.connect() as client:
        started = time.monotonic()
        answers = client.call_many("alice", "light", "on", [[]] * 300, timeout=20)
        span_s = time.monotonic() - started
    ran = answers.count("on")
    assert 10 <= ran <= 10 + 10 * span_s + 1
    assert {type(each) for each in answers} == {str, RateLimited}


def test_taking_it_back_while_a_call_runs_and_for_ever(cluster: Cluster) -> None:
    alice, bob = start(cluster, "alice", "bob")
    ident, file = grant(alice, "--to", key_of(bob))
    done(bob, "accept", file)
    outcome: list[subprocess.CompletedProcess[str]] = []

    def call() -> None:
        words = ("--json", "call", "--timeout", "90", "alice", "light", "dim", "60")
        outcome.append(drupelet(*words, socket_path=bob.socket_path))

    caller = threading.Thread(target=call)
    caller.start()
    with alice.connect() as client:
        while not client.call("", "light", "dimming"):
            assert caller.is_alive()
        answer = done(alice, "revoke", ident)
        assert isinstance(answer, dict)
        assert answer["calls"] == 1
        if not answer["killed"]:  # on a busy machine its worker may not answer in time
            assert client.call("", "light", "dimming") == 0  # nothing of it runs any more
    caller.join(10)
    assert outcome, "the caller was not told"
    error = json.loads(outcome[0].stdout)["error"]
    assert (outcome[0].returncode, error["kind"], error["word"]) == (3, "Revoked", "revoked")
    assert _is_revoked(bob)  # and told so, though nothing else is granted here
    alice.signal(signal.SIGKILL)
    alice.wait()
    alice.start()
    assert _is_revoked(bob)
    assert done(alice, "grants") == {"issued": [], "accepted": []}
    _, file = grant(alice, "--to", key_of(bob), "--only", "temp")  # a new one counts again
    done(bob, "accept", file)
    assert done(bob, "call", "alice", "light", "temp") == 20


def _is_revoked(node: RealNode) -> bool:
    code, error = failed(node, "call", "alice", "light", "temp")
    return (code, error["kind"]) == (3, "Revoked")


KITCHEN = """
import trio
from drupelet import mission, spawn

running = []

async def run(name):
    running.append(name)
    try:
        await trio.sleep_forever()
    finally:
        running.remove(name)

@mission("kitchen")
async def leave(name: str): await spawn(run, name)

@mission("kitchen")
async def bake(name: str): await run(name)

@mission("kitchen")
def at_work() -> list: return sorted(running)
"""


def test_what_calls_left_behind_ends_too(cluster: Cluster) -> None:
    alice = cluster.add("alice", missions={}, cookie_file=cluster.directory / "cookie-alice")
    folder = alice.directory / "missions.d"
    folder.mkdir()
    exports = '["leave", "bake", "at_work"]'
    (folder / "kitchen.toml").write_text(f'module = "kitchen.py"\nexports = {exports}\n')
    (folder / "kitchen.py").write_text(KITCHEN)
    alice.start()
    bob = cluster.add("bob", missions={}, cookie_file=cluster.directory / "cookie-bob")
    bob.start()
    grants = []
    for functions in ("leave,bake", "leave"):
        file = str(alice.directory / f"{functions}.g")
        words = ("grant", "kitchen", "--to", key_of(bob), "--only", functions, "-o", file)
        made = done(alice, *words)
        assert isinstance(made, dict)
        grants.append(str(made["id"]))
        done(bob, "accept", file)
    with alice.connect() as client:
        client.call("", "kitchen", "leave", "alice's own")
        for name in ("one", "two"):
            assert done(bob, "call", "alice", "kitchen", "leave", name) is None
        assert bob.run("cast", "alice", "kitchen", "bake", "three").returncode == 0
        while client.call("", "kitchen", "at_work") != ["alice's own", "one", "three", "two"]:
            assert bob.pid
        answer = done(alice, "revoke", grants[0])
        assert isinstance(answer, dict)
        assert answer["calls"] == 3
        if not answer["killed"]:  # on a busy machine its worker may not answer in time
            assert client.call("", "kitchen", "at_work") == ["alice's own"]
    assert done(bob, "call", "alice", "kitchen", "leave", "four") is None  # by the other one


def test_what_was_handed_on_ends_with_its_middle(cluster: Cluster) -> None:
    alice, bob, charlie, dave = start(cluster, "alice", "bob", "charlie", "dave")
    _, file = grant(alice, "--to", key_of(bob), "--only", "temp,on", "--delegable", "2")
    done(bob, "accept", file)
    code, error = failed(bob, "narrow", file, "--to", key_of(charlie), "--only", "off")
    assert (code, "off is not among the functions" in str(error["message"])) == (1, True)
    for_charlie, for_dave = (str(cluster.directory / name) for name in ("charlie.g", "dave.g"))
    middle = done(
        bob, "narrow", file, "--to", key_of(charlie), "--delegable", "1", "-o", for_charlie
    )
    words = ("narrow", for_charlie, "--to", key_of(dave), "--only", "temp", "-o", for_dave)
    done(charlie, *words)
    done(charlie, "accept", for_charlie)
    done(dave, "accept", for_dave)
    assert done(charlie, "call", "alice", "light", "on") == "on"
    assert done(dave, "call", "alice", "light", "temp") == 20
    assert refusal(dave, "alice", "light", "on") == REFUSED
    code, error = failed(dave, "narrow", for_dave)
    assert (code, "cannot be handed on" in str(error["message"])) == (1, True)
    assert isinstance(middle, dict)
    done(alice, "revoke", middle["id"])
    assert _is_revoked(dave)
    assert _is_revoked(charlie)
    assert done(bob, "call", "alice", "light", "temp") == 20


def test_the_log_shows_who_called_and_what_was_changed(cluster: Cluster) -> None:
    """SEC-3: a changed byte and a missing record are named; a cut end shows by an older hash."""
    alice, bob = start(cluster, "alice", "bob")
    ident, file = grant(alice, "--to", key_of(bob), "--only", "temp")
    done(bob, "accept", file)
    for _ in range(4):
        assert done(bob, "call", "alice", "light", "temp") == 20
    assert refusal(bob, "alice", "light", "on") == REFUSED
    with alice.connect() as client:  # a member's call is nobody's business
        assert client.call("", "light", "on") == "on"
    entries = done(alice, "log", "light", "--since", "1h")
    assert isinstance(entries, list)
    seen = [(each["what"], each["function"], each["outcome"]) for each in entries]
    calls = [("call", "temp", "ok")] * 4
    assert seen == [("granted", "", ""), *calls, ("refused", "on", "NotPermitted")]
    assert {each["caller"] for each in entries} == {key_of(bob)}
    assert {each["note"] for each in entries if each["what"] == "call"} == {ident}
    shown = alice.run("log", "light").stdout.splitlines()
    assert [line.split()[2:5] for line in shown][1] == ["call", f"{key_of(bob)[:8]}…", "light/temp"]
    assert done(alice, "log", "no_such_mission") == []
    verdict = done(alice, "log", "--check")
    assert isinstance(verdict, dict)
    assert (verdict["good"], verdict["entries"]) == (True, 6)
    remembered = str(verdict["hash"])
    log = alice.state_dir / "audit" / "00000001.log"
    good = log.read_bytes()
    records = [good[begin:end] for begin, end in itertools.pairwise(_records(good))]
    byte = b"".join([records[0], records[1].replace(b"temp", b"tamp"), *records[2:]])
    for changed, where in ((byte, 1), (b"".join(records[:2] + records[3:]), 2)):
        log.write_bytes(changed)
        result = alice.run("log", "--check")
        place = f"changed: 00000001.log at byte {sum(map(len, records[:where]))}: "
        assert (result.returncode, result.stdout.startswith(place)) == (1, True), result
    log.write_bytes(good)
    assert alice.run("log", "--check").returncode == 0
    log.write_bytes(b"".join(records[:-2]))
    assert "the end was cut off" in alice.run("log", "--check").stdout  # it remembers what it wrote
    alice.stop()
    alice.start()
    assert alice.run("log", "--check").returncode == 0  # and now nothing shows it ...
    result = alice.run("log", "--check", "--hash", remembered)  # ... but who wrote the hash down
    assert (result.returncode, "no entry has that hash" in result.stdout) == (1, True)


def _records(data: bytes) -> list[int]:
    """Where they begin, and the end."""
    places = [0]
    while places[-1] < len(data):
        places.append(places[-1] + 4 + int.from_bytes(data[places[-1] : places[-1] + 4], "big"))
    return places
