"""The whole command line against a fake daemon, in this process and as a program."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drupelet.cli.main import main
from drupelet.cli.verbs import VERBS
from drupelet.errors import (
    CodeMismatch,
    NoConnection,
    NotPermitted,
    RemoteError,
    Timeout,
)
from tests.unit.client.fake_daemon import FakeDaemon, Silence

Run = Callable[..., tuple[int, str, str]]
NODES = [{"name": "bilbo", "key": "k2", "state": "up"}, {"name": "sam", "key": "", "state": "down"}]
FAILURES = {
    "remote": RemoteError("KeyError", "'x'", "Traceback (most recent call last): ..."),
    "undef": RemoteError("undef", "no such function"),
    "timeout": Timeout(True),
    "down": NoConnection("down", True),
    "forbidden": NotPermitted(),
    "mismatch": CodeMismatch("aa", "bb"),
}


def fail_with(error: Exception) -> object:
    def function(*_: object) -> object:
        raise error

    return function


def silent(*_: object) -> object:
    raise Silence


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    functions: dict[str, object] = {
        "/kvs/store": lambda key, value: True,
        "/kvs/lookup": lambda key: ("ok", "fine"),
        "bilbo/kvs/lookup": lambda key: ("ok", key),
        "/m/silent": silent,
        "/node/nodes": lambda: NODES,
        "/node/status": lambda: {"name": "gandalf", "uptime_s": 1.25, "missions": []},
        "/node/names": lambda host="": [{"name": f"gandalf{host}", "port": 4370}],
        "/node/metrics": lambda: "drupelet_nodes_up 1\n",
        "/node/missions": lambda: [
            {"name": "kvs", "exports": ["store"], "digest": "d", "state": "ready"}
        ],
        "/node/ping_node": lambda name: (
            {"ok": True, "rtt_ms": 0.25} if name == "bilbo" else {"ok": False, "reason": "no_route"}
        ),
        "/node/why": lambda name, *rest: {
            "ok": name == "bilbo",
            "step": None if name == "bilbo" else "port",
            "reason": "" if name == "bilbo" else "port_closed",
            "mend": "" if name == "bilbo" else "start it",
            "steps": [{"step": "name", "ok": True, "detail": f"known {rest}"}],
        },
    }
    functions |= {f"/m/{name}": fail_with(error) for name, error in FAILURES.items()}
    path = tmp_path / "daemon.sock"
    monkeypatch.setenv("DRUPELET_SOCKET", str(path))
    with FakeDaemon(path, functions) as running:  # type: ignore[arg-type]
        yield running


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*argv: str) -> tuple[int, str, str]:
        code = main(list(argv))
        captured = capsys.readouterr()
        assert "Traceback (most recent call last):\n" not in captured.err
        return code, captured.out, captured.err

    return run


def test_call_prints_the_value_as_json(daemon: FakeDaemon, run: Run) -> None:
    assert run("call", "gandalf", "kvs", "store", "weather", "fine") == (0, "true\n", "")
    assert run("call", "bilbo", "kvs", "lookup", "weather") == (0, '["ok", "weather"]\n', "")
    assert run("--json", "call", "bilbo", "kvs", "lookup", "1") == (0, '["ok", 1]\n', "")


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


def test_a_slow_call_times_out(daemon: FakeDaemon, run: Run) -> None:
    code, out, _ = run("--json", "call", "gandalf", "m", "silent", "--timeout", "0.01")
    assert code == 6
    assert json.loads(out)["error"]["maybe_ran"] is True


def test_lists_and_records(daemon: FakeDaemon, run: Run) -> None:
    assert json.loads(run("nodes", "--json")[1]) == NODES
    assert run("nodes")[1].splitlines()[1].split() == ["bilbo", "up", "k2"]
    assert json.loads(run("status", "--json")[1])["name"] == "gandalf"
    assert "uptime_s  1.2" in run("status")[1]
    assert json.loads(run("names", "--json")[1]) == [{"name": "gandalf", "port": 4370}]
    assert "gandalfhost" in run("names", "host")[1]
    assert json.loads(run("missions", "--json")[1])[0]["state"] == "ready"
    assert run("missions")[1].splitlines()[1].split() == ["kvs", "ready", "store", "d"]
    assert run("metrics") == (0, "drupelet_nodes_up 1\n", "")
    assert json.loads(run("metrics", "--json")[1]) == "drupelet_nodes_up 1\n"
    assert set(json.loads(run("version", "--json")[1])) == {"version", "python"}
    assert run("cast", "bilbo", "kvs", "lookup", "x") == (0, "", "")
    assert run("cast", "bilbo", "kvs", "lookup", "x", "--json") == (0, "null\n", "")


def test_ping(daemon: FakeDaemon, run: Run) -> None:
    assert run("ping", "bilbo") == (0, "bilbo answers in 0.25 ms\n", "")
    assert run("--json", "ping", "bilbo") == (0, '{"ok": true, "rtt_ms": 0.25}\n', "")
    assert run("--json", "ping", "x") == (5, '{"ok": false, "reason": "no_route"}\n', "")
    code, out, err = run("ping", "x")
    assert (code, out) == (5, "x does not answer: no_route\n")
    assert "mend: " in err


def test_why_names_the_step_and_the_mend(daemon: FakeDaemon, run: Run) -> None:
    code, out, _ = run("why", "frodo")
    assert code == 1
    for text in ("ok    name", "broken step: port", "port_closed", "mend: start it"):
        assert text in out
    code, out, _ = run("--json", "why", "frodo", "kvs", "store")
    assert (code, json.loads(out)["steps"][0]["detail"]) == (1, "known ('kvs', 'store')")
    assert run("why", "bilbo")[0] == 0


def test_multicall(daemon: FakeDaemon, run: Run) -> None:
    code, out, _ = run("--json", "multicall", "bilbo,sam", "kvs", "lookup", "x")
    found = json.loads(out)
    assert (code, found["bilbo"]) == (1, {"value": ["ok", "x"]})
    assert found["sam"]["error"]["kind"] == "undef"
    code, out, _ = run("multicall", "bilbo", "kvs", "lookup", "x")
    assert (code, out) == (0, 'bilbo  ["ok", "x"]\n')
    assert run("multicall", ",", "kvs", "lookup")[0] == 2


def test_usage_is_exit_code_2(run: Run) -> None:
    code, out, err = run("grant", "kitchen")
    assert (code, out) == (2, "")
    assert "unknown verb 'grant'" in err
    code, out, _ = run("--json", "grant", "kitchen")
    assert (code, json.loads(out)["error"]["kind"]) == (2, "UsageError")
    assert run()[0] == 2
    assert run("call", "n", "m", "f", '{"$bytes": 1}')[0] == 2


def test_a_value_that_is_no_data_is_refused_here(daemon: FakeDaemon, run: Run) -> None:
    code, out, _ = run("--json", "call", "gandalf", "kvs", "lookup", str(2**63))
    assert (code, json.loads(out)["error"]["kind"]) == (1, "NotSendable")
    code, out, _ = run("--json", "call", "gandalf", "kvs", "lookup", "\udcff")
    assert (code, json.loads(out)["error"]["kind"]) == (1, "NotSendable")


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


def test_a_bug_is_told_without_a_traceback(daemon: FakeDaemon, run: Run) -> None:
    daemon.functions["/node/status"] = lambda: 1
    code, _, err = run("status")
    assert (code, "malformed status" in err) == (1, True)


def test_an_internal_error_says_how_to_report(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> int:
        raise ZeroDivisionError("x")

    monkeypatch.setattr("drupelet.cli.nodes.version", broken)
    code, _, err = run("version")
    assert (code, "report" in err) == (1, True)
    assert json.loads(run("version", "--json")[1])["error"]["kind"] == "Internal"
    assert main(["version", "--debug"]) == 1
    assert "Traceback (most recent call last):\n" in capsys.readouterr().err


def test_control_characters_of_a_peer_do_not_reach_the_terminal(
    daemon: FakeDaemon, run: Run
) -> None:
    daemon.functions["/node/nodes"] = lambda: [{"name": "\x1b[2J", "state": "up"}]
    assert "\x1b" not in run("nodes")[1]
    daemon.functions["/m/undef"] = fail_with(RemoteError("undef", "\x1b[2J"))  # type: ignore[assignment]
    assert "\x1b" not in run("call", "gandalf", "m", "undef")[2]
    daemon.functions["/kvs/lookup"] = lambda _: "\x1b[2J\x9b"
    assert run("call", "gandalf", "kvs", "lookup", "x")[1] == '"\\u001b[2J\\u009b"\n'


@pytest.mark.parametrize("name", VERBS)
def test_help_of_every_verb(name: str, run: Run) -> None:
    code, out, err = run(name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith("usage: drupelet")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_parse(shell: str, run: Run, tmp_path: Path) -> None:
    code, out, _ = run("completion", shell)
    assert code == 0
    assert all(name in out for name in VERBS)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(out)
    subprocess.run([shell, "-n", str(script)], check=True, timeout=10)


def test_bash_completes_verbs_options_and_nodes(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(run("completion", "bash")[1])
    program = tmp_path / "drupelet"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m drupelet.cli.main "$@"\n')
    program.chmod(0o755)

    def complete(*words: str) -> set[str]:
        line = " ".join(f"'{word}'" for word in words)
        code = (
            f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _drupelet; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        environ = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", code],
            env=environ,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        return set(done.stdout.split())

    assert complete("drupelet", "no") == {"nodes"}
    assert complete("drupelet", "--js") == {"--json"}
    assert complete("drupelet", "ping", "bi") == {"bilbo"}
    assert complete("drupelet", "--socket", "x", "call", "--ti") == {"--timeout"}


# -- as a program


def program(*argv: str) -> list[str]:
    return [sys.executable, "-m", "drupelet.cli.main", *argv]


def test_the_quick_verbs_import_neither_trio_nor_argparse(daemon: FakeDaemon) -> None:
    code = (
        "import sys; from drupelet.cli.main import main; main(['status'])\n"
        "print([n for n in ('trio', 'asyncio', 'argparse', 'logging') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


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


def test_ctrl_c_ends_it_quietly_and_cancels_the_call(daemon: FakeDaemon) -> None:
    running = subprocess.Popen(
        program("call", "gandalf", "m", "silent"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    daemon.wait_frame(1)
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=10) == (b"", b"")
    assert running.returncode == 130
    daemon.wait_frame(5)
