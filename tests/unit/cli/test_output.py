from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from drupelet.cli.output import explain, mend, span
from drupelet.errors import NotPermitted, RemoteError
from tests.unit.cli.conftest import FAILURES, Run, fail_with, program
from tests.unit.client.fake_daemon import FakeDaemon


@pytest.mark.parametrize(
    ("function", "code", "kind"),
    [
        ("remote", 1, "KeyError"),
        ("undef", 1, "undef"),
        ("timeout", 6, "Timeout"),
        ("down", 5, "NoConnection"),
        ("forbidden", 3, "NotPermitted"),
        ("mismatch", 1, "CodeMismatch"),
    ],
)
def test_failures_have_exit_codes_and_kinds(
    daemon: FakeDaemon, run: Run, function: str, code: int, kind: str
) -> None:
    got, out, err = run("--json", "call", "gandalf", "m", function)
    error = json.loads(out)["error"]
    assert (got, error["kind"], err) == (code, kind, "")
    assert isinstance(error["message"], str)
    if isinstance(FAILURES[function], RemoteError):
        assert error["class"] == "RemoteError"
    got, out, err = run("call", "gandalf", "m", function)
    assert (got, out) == (code, "")
    assert err.startswith("drupelet: ")


def test_no_daemon_says_how_to_start_one(tmp_path: Path, run: Run) -> None:
    socket = ("--socket", str(tmp_path / "none"))
    code, out, err = run(*socket, "status")
    assert (code, out) == (5, "")
    assert "no such socket" in err
    assert "drupelet demo" in err
    code, out, _ = run(*socket, "--json", "call", "n", "m", "f")
    assert (code, json.loads(out)["error"]["reason"]) == (5, "no_daemon")
    code, out, _ = run(*socket, "--json", "why", "n")
    assert (code, json.loads(out)["step"]) == (1, "daemon")


def test_control_characters_of_a_peer_do_not_reach_the_terminal(
    daemon: FakeDaemon, run: Run
) -> None:
    daemon.functions["/node/nodes"] = lambda: [{"name": "\x1b[2J", "state": "up"}]
    assert "\x1b" not in run("nodes")[1]
    daemon.functions["/m/undef"] = fail_with(RemoteError("undef", "\x1b[2J"))  # type: ignore[assignment]
    assert "\x1b" not in run("call", "gandalf", "m", "undef")[2]
    daemon.functions["/kvs/lookup"] = lambda _: "\x1b[2J\x9b"
    assert run("call", "gandalf", "kvs", "lookup", "x")[1] == '"\\u001b[2J\\u009b"\n'


def test_several_lines_of_a_refusal_stay_lines(daemon: FakeDaemon, run: Run) -> None:
    error = RemoteError("invalid_export", "k.py:1: one\nk.py:2: two")
    daemon.functions["/m/undef"] = fail_with(error)  # type: ignore[assignment]
    err = run("call", "gandalf", "m", "undef")[2]
    assert err == "drupelet: invalid_export: k.py:1: one\ndrupelet: k.py:2: two\n"


def test_a_reader_that_goes_away_ends_it_quietly(daemon: FakeDaemon) -> None:
    daemon.functions["/node/metrics"] = lambda: "x\n" * 500_000
    running = subprocess.Popen(program("metrics"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.read(1)
    running.stdout.close()
    assert running.stderr.read() == b""
    running.stderr.close()
    assert running.wait(10) == 141


def test_a_message_that_says_what_to_do_gets_no_other_mend() -> None:
    assert "node info" in mend(RemoteError("undef", "no mission 'x'"))
    assert mend(RemoteError("undef", "no 'lokup'; did you mean lookup?")) == ""
    assert "check the spelling" in mend(NotPermitted())
    assert "--bytes" in mend(NotPermitted("13 bytes of arguments; the grant allows 10"))
    assert mend(RemoteError("undef", "no code of 'x'; `drupelet nl FILE.py` ships it")) == ""


def test_what_a_function_raised_and_where_to_look() -> None:
    assert "node's log has the line" in mend(RemoteError("TypeError", "bad"))
    assert mend(RemoteError("TypeError", "bad", "Traceback: ...")) == ""  # it is shown
    assert mend(RemoteError("no_water", "bad")) == ""


def test_a_kind_is_not_told_twice() -> None:
    assert explain(RemoteError("file_wont_compile", "k.py:4: file_wont_compile: no ':'"))[0] == (
        "drupelet: k.py:4: file_wont_compile: no ':'"
    )
    assert explain(RemoteError("badarg", "f(x)"))[0] == "drupelet: badarg: f(x)"
    used = RemoteError("badarg", "this idempotency key was used for another call")
    assert "--key of its own" in explain(used)[-1]
    assert len(explain(RemoteError("badarg", "f has no key: `drupelet call --key TEXT`"))) == 1


@pytest.mark.parametrize(
    ("left_s", "shown"),
    [(0.5, "less than a second"), (1.0, "1 second"), (7_300.0, "2 hours"), (86_400.0, "1 day")],
)
def test_what_is_left(left_s: float, shown: str) -> None:
    assert span(left_s) == shown
