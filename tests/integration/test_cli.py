"""The command line against real nodes: what a new user is promised, line by line."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from drupelet.client import NodeDown, connect, open_client
from drupelet.errors import NoConnection, RemoteError

PROGRAM = str(Path(sys.executable).parent / "drupelet")
WAIT_S = 30.0
NAMES = ("gandalf", "bilbo", "frodo")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Demo:
    """`drupelet demo` in a process, with its own state, run directory and port mapper."""

    def __init__(self, directory: Path, *options: str, mapper_port: int | None = None) -> None:
        self.directory = directory
        self.mapper_port = mapper_port or free_port()
        run = directory / "run"
        run.mkdir(exist_ok=True)
        self.environ = os.environ | {
            "XDG_STATE_HOME": str(directory / "state"),
            "XDG_RUNTIME_DIR": str(run),
        }
        self.environ.pop("DRUPELET_SOCKET", None)
        self.log = ""
        self.process = subprocess.Popen(
            [PROGRAM, "demo", "--mapper-port", str(self.mapper_port), *options],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read the demo's output up to a line that matches. pytest's timeout bounds it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log += line
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"the demo ended without {pattern!r}:\n{self.log}")

    def stop(self, number: int = signal.SIGINT) -> int:
        assert self.process.stdout is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.log += self.process.stdout.read()
        self.process.stdout.close()
        return self.process.wait(WAIT_S)

    def socket_of(self, name: str) -> str:
        return str(self.directory / "run" / "drupelet" / f"{name}.sock")

    def pid_of(self, name: str) -> int:
        with connect(self.socket_of(name)) as node:
            status = node.call("", "node", "status")
        assert isinstance(status, dict)
        return int(status["pid"])

    def run(self, *argv: str, source: str | None = None) -> tuple[int, str, str]:
        done = subprocess.run(
            [PROGRAM, *argv],
            env=self.environ,
            input=source,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        if argv[0] != "shell":  # there it is the user's own line that raised
            assert "Traceback (most recent call last):\n" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    def json(self, *argv: str) -> tuple[int, object]:
        code, out, err = self.run("--json", *argv)
        assert err == ""
        return code, json.loads(out)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    running = Demo(tmp_path_factory.mktemp("demo"))
    try:
        running.wait_for("Ctrl-C stops all nodes")
        yield running
    finally:
        code = running.stop()
    assert code == 0, running.log


def wait_gone(pidfds: list[int]) -> None:
    """Wait for the end of processes, also of somebody else's children."""
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], WAIT_S)[0], "a node outlived its demo"
        os.close(pidfd)


# -- the demo's nodes answer


def test_the_commands_that_the_demo_prints_work(demo: Demo) -> None:
    lines = re.findall(r"^  (\S*drupelet (?!shell).*)$", demo.log, re.MULTILINE)
    commands = [command for line in lines for command in line.split("; ")]
    assert len(commands) >= 12
    for command in commands:
        code, out, err = demo.run(*shlex.split(command, comments=True)[1:])
        assert (code, bool(out), err) == (0, True, ""), command


def test_store_and_look_up_from_any_node(demo: Demo) -> None:
    assert demo.run("call", "gandalf", "kvs", "store", "weather", "fine") == (0, "true\n", "")
    for name in NAMES:
        through = ("--socket", demo.socket_of(name))
        found = demo.run(*through, "call", "gandalf", "kvs", "lookup", "weather")
        assert found == (0, '["ok", "fine"]\n', "")
    assert demo.run("call", "gandalf", "kvs", "lookup", "rain") == (0, "null\n", "")


def test_an_undefined_function_is_undef(demo: Demo) -> None:
    code, found = demo.json("call", "bilbo", "kvs", "nonsense")
    assert code == 1
    assert isinstance(found, dict)
    assert (found["error"]["kind"], found["error"]["class"]) == ("undef", "RemoteError")


def test_an_unknown_node_is_no_connection(demo: Demo) -> None:
    code, found = demo.json("call", "nobody", "kvs", "lookup", "x")
    assert code == 5
    assert isinstance(found, dict)
    assert (found["error"]["kind"], found["error"]["reason"]) == ("NoConnection", "no_such_node")


def test_nodes_status_names_missions(demo: Demo) -> None:
    code, nodes = demo.json("nodes")
    assert code == 0
    assert isinstance(nodes, list)
    assert {(one["name"], one["state"]) for one in nodes} == {("bilbo", "up"), ("frodo", "up")}
    _, status = demo.json("status")
    assert isinstance(status, dict)
    assert {"name", "key", "version", "uptime_s"} <= set(status)
    assert status["name"] == "gandalf"
    for arguments in (("names",), ("names", "127.0.0.1")):
        _, names = demo.json(*arguments)
        assert isinstance(names, list)
        assert {one["name"] for one in names} == set(NAMES)
    _, missions = demo.json("missions")
    assert isinstance(missions, list)
    assert {"kvs", "echo"} <= {one["name"] for one in missions if one["state"] == "ready"}


def test_metrics_are_prometheus_text(demo: Demo) -> None:
    code, out, _ = demo.run("metrics")
    assert code == 0
    assert all(re.fullmatch(r"# .*|[a-z_]+(\{.*\})? \S+", line) for line in out.splitlines())
    assert "drupelet_nodes_up 2" in out


def test_ping(demo: Demo) -> None:
    code, found = demo.json("ping", "frodo")
    assert isinstance(found, dict)
    assert (code, found["ok"]) == (0, True)
    assert 0 < found["rtt_ms"] < 1_000
    code, found = demo.json("ping", "nobody")
    assert isinstance(found, dict)
    assert (code, found["ok"], found["reason"]) == (5, False, "no_such_node")


def test_why(demo: Demo) -> None:
    for arguments in (("bilbo",), ("bilbo", "kvs"), ("bilbo", "kvs", "store"), ("gandalf",)):
        code, found = demo.json("why", *arguments)
        assert isinstance(found, dict)
        assert (code, found["ok"]) == (0, True), found
    code, found = demo.json("why", "bilbo", "kvs", "nonsense")
    assert isinstance(found, dict)
    assert (code, found["ok"], found["step"], found["reason"]) == (1, False, "function", "undef")
    assert found["mend"]
    code, out, _ = demo.run("why", "nobody")
    assert code == 1
    assert "no_such_node" in out
    assert "mend: " in out


def test_multicall_and_cast(demo: Demo) -> None:
    code, found = demo.json("multicall", "all", "echo", "echo", "[1, 2]")
    assert (code, found) == (0, {name: {"value": [1, 2]} for name in NAMES})
    assert demo.run("cast", "bilbo", "kvs", "store", "cast", "yes")[0] == 0
    assert demo.run("call", "bilbo", "kvs", "lookup", "cast")[1] == '["ok", "yes"]\n'


def test_timeout(demo: Demo) -> None:
    code, found = demo.json("call", "bilbo", "echo", "echo_later", "x", "5", "--timeout", "0.1")
    assert isinstance(found, dict)
    assert (code, found["error"]["kind"], found["error"]["maybe_ran"]) == (6, "Timeout", True)


def test_values_arrive_as_sent(demo: Demo) -> None:
    for value in ('{"a": [1, 2.5, null, "é"]}', '{"$bytes": "AAE="}', '{"$float": "nan"}'):
        assert demo.run("call", "frodo", "echo", "echo", value) == (0, f"{value}\n", "")


def test_shell_from_a_pipe(demo: Demo) -> None:
    source = 'await call("bilbo", "echo", "echo", ("ok", 1))\nsorted(nodes())\n'
    assert demo.run("shell", source=source) == (0, "('ok', 1)\n['bilbo', 'frodo']\n", "")
    assert demo.run("shell", source="1 / 0\n")[0] == 1


def test_processes_are_found_watched_and_reached_with_what_ps_prints(demo: Demo) -> None:
    """A pid as `ps` prints it, pasted into bash for `trace`, and into the shell."""
    code, rows = demo.json("ps")
    assert isinstance(rows, list)
    assert code == 0
    assert {row["pid"].split(".")[0] for row in rows if row["mission"] == "kvs"} == {
        f"<{name}" for name in NAMES
    }
    (line,) = [line for line in demo.run("ps", "bilbo")[1].splitlines() if " kvs.Kvs " in line]
    pid = line.split()[0]
    for pasted in (pid, f"'<{pid}>'", "kvs.Kvs@bilbo"):
        tracing = subprocess.Popen(
            ["bash", "-c", f"exec {PROGRAM} trace {pasted}"],
            env=demo.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert tracing.stdout is not None
        try:
            assert tracing.stdout.readline() == f"tracing {pid}; Ctrl-C ends it\n"
            source = f"send({pid}, 'one'); send(<{pid}>, 'two'); self()\n"
            code, out, err = demo.run("shell", source=source)
            assert (code, err) == (0, "")
            me = out.strip()
            for word in ("one", "two"):
                wanted = rf" +\d+\.\d+  receive   '{word}'  from {me[1:-1]}\n"
                assert re.fullmatch(wanted, tracing.stdout.readline())
        finally:
            tracing.send_signal(signal.SIGINT)
            assert tracing.wait(WAIT_S) == 0
            tracing.stdout.close()
    code, _, err = demo.run("trace", me[1:-1])  # of a shell that has ended
    assert (code, "runs any more" in err, "mend: " in err) == (1, True, True)
    code, _, err = demo.run("trace", "nobody@frodo")
    assert (code, "registered as 'nobody'" in err) == (1, True)
    assert demo.run("ps", "nobody")[0] == demo.run("trace", "x@nobody")[0] == 5


def test_the_shell_is_a_process_of_the_cluster(demo: Demo) -> None:
    """Two shells, of two nodes: they find, link and hear each other."""
    other = subprocess.Popen(
        [PROGRAM, "--socket", demo.socket_of("bilbo"), "shell"],
        env=demo.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdin is not None and other.stdout is not None
    try:
        other.stdin.write("register('there'); whereis('there') == self()\n")
        other.stdin.write("word, who = receive(); word; send(who, 'heard it')\n")
        other.stdin.flush()
        assert other.stdout.readline() == "True\n"
        code, out, err = demo.run(
            "shell",
            source="there = whereis('there', 'bilbo'); there.node\n"
            "ref = monitor(there); send(('there', 'bilbo'), ('hello', self())); receive(str)\n"
            "exit(there, 'kill'); receive(Down, timeout=10).reason\n"
            "whereis('there', 'bilbo'); monitor_node('bilbo'); [row['function'] for row in "
            "processes('bilbo') if row['runtime'] == 'client']\n",
        )
        assert (code, err) == (0, "")
        assert out.splitlines() == ["'bilbo'", "'heard it'", "'killed'", "['drupelet.shell']"]
    finally:
        rest = other.communicate(timeout=WAIT_S)[0]
    assert rest == "'hello'\n"
    assert other.returncode == 0  # between two lines the shell's process is another, that is all


def test_status_is_quick(demo: Demo) -> None:
    spans_s = []
    for _ in range(5):
        started_s = time.monotonic()
        assert demo.run("status")[0] == 0
        spans_s.append(time.monotonic() - started_s)
    assert min(spans_s) <= 0.15


def test_a_second_demo_names_the_first(demo: Demo) -> None:
    code, out, err = demo.run("demo")
    assert (code, out) == (1, "")
    assert f"process {demo.process.pid}" in err


def test_run_serves_a_file_in_the_demo(demo: Demo, tmp_path: Path) -> None:
    file = tmp_path / "kitchen.py"
    file.write_text(
        "from drupelet import mission\n\n"
        "@mission('kitchen')\n"
        "def boil(litres: float) -> str:\n"
        "    return f'boiled {litres} l'\n"
    )
    running = subprocess.Popen(
        [PROGRAM, "run", str(file)],
        env=demo.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert running.stdout is not None
    try:
        assert "serves kitchen.py" in running.stdout.readline()
        assert demo.run("--socket", demo.socket_of("kitchen"), "ping", "gandalf")[0] == 0
        called = demo.run("call", "kitchen", "kitchen", "boil", "1.5")
        assert called == (0, '"boiled 1.5 l"\n', "")
    finally:
        running.send_signal(signal.SIGINT)
        assert running.wait(WAIT_S) == 0
        running.stdout.close()


# -- the client library against real nodes


async def test_the_trio_client(demo: Demo) -> None:
    async with open_client(demo.socket_of("gandalf")) as node:
        assert await node.call("bilbo", "kvs", "store", "a", ("t", b"\0")) is True
        assert await node.call("bilbo", "kvs", "lookup", "a") == ("ok", ("t", b"\0"))
        many = await node.call_many("frodo", "echo", "echo", [[n] for n in range(3_000)])
        assert many == list(range(3_000))
        assert set(await node.multicall(None, "node", "ping")) == set(NAMES)
        big = os.urandom(3_000_000)
        assert await node.call("frodo", "echo", "echo", big) == big
        with pytest.raises(RemoteError):
            await node.call("frodo", "kvs", "lookup")
        with trio.move_on_after(0.05):
            await node.call("frodo", "echo", "echo_later", 1, 5.0)
        assert await node.call("frodo", "echo", "echo", 1) == 1


# -- ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_node_outlives_the_demo(tmp_path: Path, number: int) -> None:
    running = Demo(tmp_path, "-n", "2")
    running.wait_for("Ctrl-C stops all nodes")
    pidfds = [os.pidfd_open(running.pid_of(name)) for name in NAMES[:2]]
    code = running.stop(number)
    assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    wait_gone(pidfds)
    if number == signal.SIGTERM:
        assert list((tmp_path / "run" / "drupelet").iterdir()) == []
        stopped = re.findall(r"^(\w+) +\| .* stopping signal=SIGTERM", running.log, re.MULTILINE)
        assert stopped == ["bilbo", "gandalf"]


async def test_a_killed_node_is_noticed(tmp_path: Path) -> None:
    running = Demo(tmp_path)
    try:
        await trio.to_thread.run_sync(running.wait_for, "Ctrl-C stops all nodes")
        pid = await trio.to_thread.run_sync(running.pid_of, "frodo")
        async with open_client(running.socket_of("gandalf")) as node:
            events = node.monitor_nodes()
            await node.nodes()  # the stream is open there: its frame went first
            killed_s = trio.current_time()
            os.kill(pid, signal.SIGKILL)
            with trio.fail_after(5.0):
                event = await anext(events)
            assert isinstance(event, NodeDown)
            assert event.name == "frodo"
            assert trio.current_time() - killed_s <= 0.5
            with pytest.raises(NoConnection):
                await node.call("frodo", "kvs", "lookup", "x")
        await trio.to_thread.run_sync(running.wait_for, "node frodo was killed by SIGKILL")
        code, _, _ = await trio.to_thread.run_sync(lambda: running.run("ping", "frodo"))
        assert code == 5
    finally:
        code = await trio.to_thread.run_sync(running.stop)
    assert code == 0


def test_the_demo_steps_aside_for_a_foreign_port_and_says_a_taken_name(
    demo: Demo, tmp_path: Path
) -> None:
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        running = Demo(tmp_path, "-n", "1", mapper_port=foreign.getsockname()[1])
        assert running.stop(0) == 1
    assert "no port mapper" in running.log
    running = Demo(tmp_path, "-n", "1", mapper_port=demo.mapper_port)
    assert running.stop(0) == 1
    assert "gandalf registered already" in running.log


def test_a_node_that_cannot_start_is_told(tmp_path: Path) -> None:
    cookie = tmp_path / "state" / "drupelet" / "cookie"
    running = Demo(tmp_path, "-n", "2")
    running.wait_for("Ctrl-C stops all nodes")
    assert running.stop() == 0
    (tmp_path / "state" / "drupelet" / "demo" / "bilbo" / "missions.d" / "bad.toml").write_text("x")
    running = Demo(tmp_path, "-n", "2")
    assert running.stop(0) == 1
    assert "node bilbo ended with exit code 78" in running.log
    assert "bad.toml:1" in running.log
    cookie.chmod(0o644)
    running = Demo(tmp_path, "-n", "2")
    assert running.stop(0) == 78
    assert "chmod 600" in running.log


def test_a_reader_of_the_demo_that_goes_away_ends_it(tmp_path: Path) -> None:
    running = Demo(tmp_path, "-n", "2")
    running.wait_for("Ctrl-C stops all nodes")
    pidfds = [os.pidfd_open(running.pid_of(name)) for name in NAMES[:2]]
    assert running.process.stdout is not None
    running.process.stdout.close()
    os.kill(running.pid_of("bilbo"), signal.SIGTERM)  # so that there is something to write
    wait_gone(pidfds)
    assert running.process.wait(WAIT_S) == 141


def test_drupeletd_checks_its_configuration(tmp_path: Path) -> None:
    daemon = [str(Path(PROGRAM).with_name("drupeletd")), "--config", str(tmp_path / "d.toml")]

    def check(text: str) -> tuple[int, str, str]:
        (tmp_path / "d.toml").write_text(text)
        done = subprocess.run(
            [*daemon, "--check-config"], capture_output=True, text=True, timeout=10
        )
        return done.returncode, done.stdout, done.stderr

    code, out, err = check('[node]\nname = "gandalf"\n')
    assert (code, err) == (0, "")
    assert 'name = "gandalf"' in out
    code, out, err = check('[node]\nnaem = "gandalf"\n')
    assert (code, out) == (78, "")
    assert "d.toml:2" in err
    assert "naem" in err
