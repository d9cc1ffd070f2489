from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.client.fake_daemon import FakeDaemon, Silence

COMMAND = [sys.executable, "-m", "drupelet.cli.main", "shell"]


def silent() -> object:
    raise Silence


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    functions = {
        "/kvs/lookup": lambda key: ("ok", key),
        "/m/silent": silent,
        "/node/nodes": lambda: [{"name": "bilbo", "state": "up"}],
    }
    with FakeDaemon(tmp_path / "s", functions) as running:
        yield running


def environ(daemon: FakeDaemon) -> dict[str, str]:
    state = str(daemon.path.parent)
    return os.environ | {"DRUPELET_SOCKET": str(daemon.path), "XDG_STATE_HOME": state}


def piped(daemon: FakeDaemon, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *options],
        input=source,
        capture_output=True,
        text=True,
        timeout=20,
        env=environ(daemon),
    )


def test_lines_of_a_pipe_run_and_their_values_are_printed(daemon: FakeDaemon) -> None:
    done = piped(
        daemon,
        'await call("", "kvs", "lookup", "weather")\n'
        "x = 1\n"
        "\n"
        "def double(n):\n"
        "    return 2 * n\n"
        "double(x + _[1].count('e'))\n"
        "for name in [one['name'] for one in await nodes()]:\n"
        "    print(name)\n"
        "else:\n"
        "    print('all')\n"
        "async with trio.open_nursery() as nursery:\n"
        "    nursery.start_soon(call, '', 'kvs', 'lookup', 1)",
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["('ok', 'weather')", "6", "bilbo", "all"]
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("1 +", "SyntaxError"),
        ("(1", "not complete"),
        ('await call("", "kvs", "nonsense")', "undef"),
        ('await call("", "kvs", "lookup", print)', "args[0]"),
    ],
)
def test_a_line_that_raises_gives_exit_code_1_and_the_rest_runs(
    daemon: FakeDaemon, source: str, message: str
) -> None:
    done = piped(daemon, f"{source}\n" + ("" if source == "(1" else "'after'\n"))
    assert done.returncode == 1
    assert message in done.stderr
    assert "shell.py" not in done.stderr
    assert ("after" in done.stdout) is (source != "(1")


def test_a_forgotten_await_is_told(daemon: FakeDaemon) -> None:
    done = piped(daemon, 'call("", "kvs", "lookup", "weather")\n1\n')
    assert done.returncode == 0
    assert done.stderr == "nothing was called: write `await` before it\n"


def test_exit_leaves_with_its_code(daemon: FakeDaemon) -> None:
    assert piped(daemon, "raise SystemExit(7)\n1").returncode == 7
    assert piped(daemon, "exit()\n1").returncode == 0


def test_no_daemon(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--socket", str(tmp_path / "none")],
        input="1\n",
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stdout) == (5, "")
    assert "no such socket" in done.stderr


class Terminal:
    """The shell at a pseudo-terminal."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            COMMAND,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ(daemon),
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def wait_for(self, text: str) -> None:
        while text not in self.seen:
            self.seen += os.read(self._master, 4_096).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def close(self) -> None:
        os.close(self._master)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


def test_ctrl_c_cancels_the_line_and_ctrl_d_leaves(daemon: FakeDaemon) -> None:
    terminal = Terminal(daemon)
    try:
        terminal.wait_for("drupelet> ")
        terminal.type('await call("", "m", "silent")\n')
        daemon.wait_frame(1)
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("cancelled")
        daemon.wait_frame(5)
        terminal.wait_for("drupelet> ")
        terminal.type("6 *")
        terminal.wait_for("6 *")
        terminal.process.send_signal(signal.SIGINT)  # at the prompt: forgets what was typed
        terminal.type("\n")  # a signal just before readline's select(2) waits for the next key
        terminal.wait_for("drupelet> ")
        terminal.type("6 * 7\n")
        terminal.wait_for("\n42")
        terminal.wait_for("drupelet> ")
        terminal.type("\x04")
        assert terminal.process.wait(10) == 0
    finally:
        terminal.close()
    assert "6 * 7" in (daemon.path.parent / "drupelet" / "history").read_text()
