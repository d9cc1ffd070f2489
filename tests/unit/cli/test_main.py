from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from drupelet.cli.main import main
from drupelet.cli.verbs import VERBS
from tests.unit.cli.conftest import Run, program
from tests.unit.client.fake_daemon import FakeDaemon


def test_usage_is_exit_code_2(run: Run) -> None:
    code, out, err = run("frob", "kitchen")
    assert (code, out) == (2, "")
    assert "unknown verb 'frob'" in err
    code, out, _ = run("--json", "frob", "kitchen")
    assert (code, json.loads(out)["error"]["kind"]) == (2, "UsageError")
    assert run()[0] == 2
    assert run("call", "n", "m", "f", '{"$bytes": 1}')[0] == 2


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


@pytest.mark.parametrize("name", VERBS)
def test_help_of_every_verb(name: str, run: Run) -> None:
    code, out, err = run(name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith("usage: drupelet")


# -- as a program


def test_the_quick_verbs_import_neither_trio_nor_argparse(daemon: FakeDaemon) -> None:
    code = (
        "import sys; from drupelet.cli.main import main; main(['status'])\n"
        "print([n for n in ('trio', 'asyncio', 'argparse', 'logging') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_ctrl_c_ends_it_quietly_and_cancels_the_call(daemon: FakeDaemon) -> None:
    running = subprocess.Popen(
        program("call", "gandalf", "m", "silent"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    daemon.wait_frame(1)
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=10) == (b"", b"")
    assert running.returncode == 130
    daemon.wait_frame(5)
