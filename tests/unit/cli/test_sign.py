"""`drupelet sign`, with a daemon that answers as `services/http_calls.py` does."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from drupelet.cli import sign
from drupelet.errors import RemoteError
from tests.unit.cli.conftest import Run, fail_with
from tests.unit.client.fake_daemon import FakeDaemon

HEADERS = {
    "Content-Type": "application/json",
    "Signature-Input": 'drupelet=("@method" "@path");tag="drupelet"',
    "Idempotency-Key": "it's",
}
URL = "https://relay.example.org/apply/key/light/temp"


@pytest.fixture
def asked(daemon: FakeDaemon) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []

    def answer(*arguments: object) -> object:
        found.append(arguments)
        return {"method": "PUT", "url": URL, "headers": HEADERS}

    daemon.functions["/grants/sign"] = answer
    return found


def test_the_line_is_one_that_bash_takes_apart_again(
    asked: list[tuple[object, ...]], run: Run
) -> None:
    words = ("5", 'it\'s $HOME `x` "q" ä\n', '{"$bytes": "AA=="}', "!x")
    code, out, err = run("sign", "alice", "light", "temp", *words)
    assert (code, err) == (0, f"{sign.NOTE}\n")
    assert out.count("\n") == 1 and out.startswith("curl -X PUT https://")
    seen = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {out}"], capture_output=True, text=True, check=True
    ).stdout.split("\0")[:-1]
    assert seen == shlex.split(out)
    assert seen[:5] == ["curl", "-X", "PUT", URL, "-L"] and seen[-2] == "--data-binary"
    assert set(seen[5:-2:2]) == {"-H"}
    assert set(seen[6:-2:2]) == {f"{name}: {value}" for name, value in HEADERS.items()}
    value = [5, 'it\'s $HOME `x` "q" ä\n', {"$bytes": "AA=="}, "!x"]
    assert json.loads(seen[-1]) == value
    [(node, mission, function, body, text, once)] = asked
    assert (node, mission, function, text, once) == ("alice", "light", "temp", "", "")
    assert body == seen[-1].encode()


def test_in_json(asked: list[tuple[object, ...]], run: Run) -> None:
    code, out, err = run("--json", "sign", "alice", "light", "temp", "--key", "k")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"method": "PUT", "url": URL, "headers": HEADERS, "body": "[]"}
    assert asked[0][3:] == (b"[]", "", "k")


def test_with_a_file(asked: list[tuple[object, ...]], run: Run, tmp_path: Path) -> None:
    file = tmp_path / "bob.grant"
    file.write_text("drupelet-grant:x\n")
    assert run("sign", "--file", str(file), "alice", "light", "temp")[0] == 0
    assert asked[0][4] == "drupelet-grant:x\n"
    code, _, err = run("sign", "--file", str(tmp_path / "none"), "alice", "light", "temp")
    assert code == 1 and "cannot read" in err and len(asked) == 1


def test_failures(daemon: FakeDaemon, run: Run) -> None:
    daemon.functions["/grants/sign"] = fail_with(RemoteError("no_relay", "no relay: set [relay]"))
    code, _, err = run("sign", "alice", "light", "temp")
    assert code == 1 and "no relay: set [relay]" in err
    daemon.functions["/grants/sign"] = lambda *_: {"url": 1}
    code, _, err = run("sign", "alice", "light", "temp")
    assert code == 1 and "malformed answer" in err
    assert run("sign", "alice", "light")[0] == 2
    assert run("sign", "alice", "light", "temp", '{"$x": 1}')[0] == 2
