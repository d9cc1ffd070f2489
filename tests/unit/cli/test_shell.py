from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import drupelet
from drupelet.wire.frames import CALL, CANCEL
from drupelet.wire.ids import Pid
from drupelet.wire.messages.processes import SERIAL_SHIFT
from tests.unit.client.fake_daemon import FakeDaemon, Silence

ME = Pid("gandalf", 7, (3 << SERIAL_SHIFT) + 1)  # a runtime's first process is the shell's
ATTACHED = {"node": "gandalf", "incarnation": 7, "serial": 3, "nodes": ["bilbo"]}
COMMAND = [sys.executable, "-m", "drupelet.cli.main", "shell"]


def silent() -> object:
    raise Silence


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    functions: dict[str, Callable[..., object]] = {
        "/process/attach": lambda modules: ATTACHED,
        "/kvs/lookup": lambda key: ("ok", key),
        "/m/silent": silent,
        "/node/nodes": lambda: [{"name": "bilbo", "state": "up"}],
        "bilbo/node/ping": lambda: "pong",
        "gandalf/process/list": lambda: [{"pid": ME, "function": "f", "runtime": "kvs"}],
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
        "for name in [one['name'] for one in await node.nodes()]:\n"
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


def test_it_is_typed_as_in_erl(daemon: FakeDaemon) -> None:
    """No `await`; pids as they are printed; the shell is one process from line to line."""
    done = piped(
        daemon,
        f"""\
me = self(); me
spawn(lambda: send(me, "hello"))
receive()
async def echo():
    while True:
        who, what = await receive()
        await send(who, ("echo", what))

pid = spawn(echo)
[send(pid, (me, each)) for each in (1, 2)] and receive(timeout=5)
receive(timeout=5)
send({ME}, "to <a.1.2>"); send({str(ME)[1:-1]}, {{"a": [me]}})
flush(); flush()
ref = monitor(pid); exit(pid, "kill"); receive(timeout=5).reason
trap_exit(False); is_process_alive(pid)
node(), node.name, nodes(), ping("bilbo"), is_alive()
call("", "kvs", "lookup", "weather")
i()
""",
    )
    assert done.stderr == ""
    shown = done.stdout.splitlines()
    assert shown[0] == str(ME)
    assert shown[2:5] == ["'hello'", "('echo', 1)", "('echo', 2)"]
    assert shown[5:7] == [f"['to <a.1.2>', {{'a': [{ME}]}}]", "[]"]
    assert shown[7:10] == ["'killed'", "False", "False"]
    assert shown[10:12] == ["('gandalf', 'gandalf', [], 'pong', True)", "('ok', 'weather')"]
    assert shown[12].split()[:2] == ["PID", "FUNCTION"]
    assert shown[13].split() == [str(ME)[1:-1], "f", "kvs"]
    assert done.returncode == 0


def test_an_exit_signal_ends_the_shells_process_and_not_the_shell(daemon: FakeDaemon) -> None:
    done = piped(
        daemon,
        "x = 1; me = self()\n"
        "link(spawn(lambda: exit('boom'))); receive()\n"
        "exit(('bang', self()))\n"
        "x, self() != me, is_process_alive(me)\n"
        "trap_exit(True); link(spawn(lambda: exit('boom'))); receive(timeout=5).reason\n",
    )
    assert done.stdout.splitlines() == ["(1, True, False)", "False", "'boom'"]
    assert f"process {ME} of this shell ended: 'boom'; it goes on as <gandalf.7." in done.stderr
    assert "ended: ('bang', <gandalf.7." in done.stderr
    assert done.returncode == 1


def test_a_crash_elsewhere_is_told_with_the_users_frames(daemon: FakeDaemon) -> None:
    done = piped(
        daemon,
        "async def f():\n    raise ValueError('bad')\n\n"
        "pid, ref = spawn_monitor(f); receive(timeout=5).reason\n",
    )
    assert done.stdout == "('ValueError', 'bad')\n"
    assert "process_crashed" in done.stderr
    assert done.stderr.count("File ") == 1
    assert done.returncode == 0  # no line raised


@pytest.mark.parametrize(
    ("source", "mend"),
    [
        ("async def f():\n    send(1, 2)\n\n", "write `await send(...)`"),
        ("async def f(): pass\n\nspawn(f, node='bilbo')", "drupelet nl FILE.py"),
        ("send(<gandalf.1>, 1)", "SyntaxError"),
        ("receive(timeout=0)", "no message"),
        ("link('x')", "takes a Pid"),
        ("spawn('kvs.loop')", "module:function"),
        ("spwan(1)", "Did you mean: 'spawn'?"),
        ("spawn(print())", "write spawn(f, x) and not spawn(f(x))"),
        ("send(5, 1)", "a process is a Pid, a name or (name, node), not 5"),
        ("link(5)", "takes a Pid"),
    ],
)
def test_mistakes_teach(daemon: FakeDaemon, source: str, mend: str) -> None:
    done = piped(daemon, f"{source}\n")
    assert (done.returncode, done.stdout.strip()) == (1, "")
    assert mend in done.stderr
    assert "/drupelet/" not in done.stderr  # no frames of ours


def test_every_public_name_is_there(daemon: FakeDaemon) -> None:
    left_out = {"at_start", "become", "mission", "net_kernel", "run", "__version__"}
    names = sorted(set(drupelet.__all__) - left_out)
    extra = ["call", "call_many", "multicall", "i", "nl", "trace", "trio", "quit"]
    source = f"[each for each in {names + extra} if each not in globals()]\n"
    source += f"[each for each in {left_out} if each in globals()]\n"
    done = piped(daemon, source)
    assert (done.stdout, done.stderr) == ("[]\n[]\n", "")


def test_bundled_missions_can_be_imported(daemon: FakeDaemon) -> None:
    done = piped(daemon, "import dist_demo, resa\ndist_demo.loop.__module__\n")
    assert (done.stdout, done.stderr) == ("'dist_demo'\n", "")


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
        terminal.wait_for(f"You are process {ME} of gandalf")
        terminal.wait_for("drupelet> ")
        terminal.type('await call("", "m", "silent")\n')
        daemon.wait_frame(CALL)  # process/attach
        daemon.wait_frame(CALL)
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("cancelled")
        daemon.wait_frame(CANCEL)
        terminal.wait_for("drupelet> ")
        terminal.type("print(6 * 8); receive()\n")
        terminal.wait_for("\n48")
        terminal.wait_for("Ctrl-C cancels it")  # nobody knows how long it will wait
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("cancelled")
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
