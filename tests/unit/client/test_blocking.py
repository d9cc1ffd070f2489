from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from drupelet.client import NodeDown, NodeUp, connect
from drupelet.client.blocking import BYTES_AT_ONCE_MAX, CALLS_AT_ONCE_MAX, window_end
from drupelet.errors import (
    CodeMismatch,
    NoConnection,
    NotPermitted,
    NotSendable,
    RemoteError,
    RemoteProtocolError,
    Timeout,
)
from drupelet.net.sockets import NoDaemon
from drupelet.wire import limits
from drupelet.wire.codec import dumps
from drupelet.wire.frames import CANCEL, CAST, CLOSE, DATA, OPEN, PING, PONG, REPLY, frame
from tests.unit.client.fake_daemon import HELLO_FIELDS, FakeDaemon, Hangup, Silence


def silent(*_: object) -> object:
    raise Silence


def hang_up(*_: object) -> object:
    raise Hangup


def fail_with(error: Exception) -> object:
    def function(*_: object) -> object:
        raise error

    return function


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    functions = {
        "/echo/echo": lambda value: value,
        "bilbo/echo/echo": lambda value: value,
        "frodo/echo/echo": fail_with(NoConnection("down")),
        "gandalf/echo/echo": lambda value: value,
        "/echo/silent": silent,
        "bilbo/echo/silent": silent,
        "/echo/hang_up": hang_up,
        "/node/nodes": lambda: [
            {"name": "bilbo", "key": "k2", "state": "up"},
            {"name": "sam", "key": "k4", "state": "down"},
        ],
        "/node/ping_node": lambda name: {"ok": True, "rtt_ms": 0.1, "name": name},
    }
    with FakeDaemon(tmp_path / "s", functions) as running:  # type: ignore[arg-type]
        yield running


def test_importing_the_library_imports_no_trio() -> None:
    code = (
        "import sys, drupelet.client, drupelet.client.blocking\n"
        "print([name for name in ('trio', 'asyncio', 'argparse') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_call_gives_the_value(daemon: FakeDaemon) -> None:
    with connect(str(daemon.path)) as node:
        assert (node.name, node.key) == ("gandalf", "k1")
        for value in (True, ("ok", "fine"), None, b"\0", {"a": [1, 2.5]}):
            assert node.call("", "echo", "echo", value) == value
        assert node.call("bilbo", "echo", "echo", ("ok", "fine")) == ("ok", "fine")


@pytest.mark.parametrize("size", [limits.FRAGMENT_BYTES_MAX, 1_000_000, 15 * 1024 * 1024])
def test_large_bodies_go_both_ways(daemon: FakeDaemon, size: int) -> None:
    with connect(str(daemon.path)) as node:
        assert node.call("", "echo", "echo", b"x" * size, timeout=30.0) == b"x" * size
        assert node.call("", "echo", "echo", 1) == 1


def test_a_body_above_the_maximum_is_refused_before_a_byte_is_sent(daemon: FakeDaemon) -> None:
    with connect(str(daemon.path)) as node:
        daemon.wait_frame(14)
        with pytest.raises(NotSendable):
            node.call("", "echo", "echo", b"x" * limits.BODY_BYTES_MAX)
        with pytest.raises(NotSendable):
            node.cast("", "echo", "echo", b"x" * limits.FRAGMENT_BYTES_MAX)
        with pytest.raises(NotSendable):
            node.call("", "echo", "echo", print)
        assert daemon.frames.empty()


@pytest.mark.parametrize(
    "error",
    [
        RemoteError("KeyError", "'x'", "Traceback"),
        Timeout(False),
        NoConnection("bad_cookie", True),
        NotPermitted(),
        CodeMismatch("aa", "bb"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failures_come_as_they_were_raised(tmp_path: Path, error: Exception) -> None:
    functions = {"/m/f": fail_with(error)}
    with (
        FakeDaemon(tmp_path / "s", functions) as daemon,  # type: ignore[arg-type]
        connect(str(daemon.path)) as node,
        pytest.raises(type(error)) as raised,
    ):
        node.call("", "m", "f")
    assert vars(raised.value) == vars(error)


def test_an_unknown_function_is_undef(daemon: FakeDaemon) -> None:
    with connect(str(daemon.path)) as node, pytest.raises(RemoteError) as raised:
        node.call("", "kvs", "nonsense")
    assert raised.value.kind == "undef"


def test_a_late_call_times_out_and_is_cancelled(daemon: FakeDaemon) -> None:
    with connect(str(daemon.path)) as node:
        with pytest.raises(Timeout) as raised:
            node.call("", "echo", "silent", timeout=0.01)
        assert raised.value.maybe_ran
        ident = daemon.wait_frame(CANCEL).ident
        daemon.send(frame(REPLY, ident, b"\0" + dumps("late")))
        assert node.call("", "echo", "echo", 2) == 2


def test_a_timeout_that_is_over_already_sends_nothing(daemon: FakeDaemon) -> None:
    with connect(str(daemon.path)) as node:
        with pytest.raises(Timeout) as raised:
            node.call("", "echo", "echo", timeout=0.0)
        assert not raised.value.maybe_ran
        with pytest.raises(ValueError, match="NaN"):
            node.call("", "echo", "echo", timeout=float("nan"))


def test_the_end_of_the_connection_fails_the_call(daemon: FakeDaemon) -> None:
    with connect(str(daemon.path)) as node:
        for _ in range(2):
            with pytest.raises(NoConnection) as raised:
                node.call("", "echo", "hang_up")
            assert raised.value.reason == "closed"


def test_call_many_keeps_the_order_and_the_errors(daemon: FakeDaemon) -> None:
    count = CALLS_AT_ONCE_MAX + 1
    with connect(str(daemon.path)) as node:
        assert node.call_many("", "echo", "echo", [[n] for n in range(count)]) == list(range(count))
        assert node.call_many("", "echo", "echo", []) == []
        failed = node.call_many("frodo", "echo", "echo", [[1], [2]])
    assert [type(one) for one in failed] == [NoConnection, NoConnection]


def test_multicall_has_one_deadline(daemon: FakeDaemon) -> None:
    with connect(str(daemon.path)) as node:
        found = node.multicall(["bilbo", "frodo", "bilbo"], "echo", "echo", 7)
        assert found["bilbo"] == 7
        assert isinstance(found["frodo"], NoConnection)
        assert node.multicall(None, "echo", "echo", 7) == {"gandalf": 7, "bilbo": 7}
        late = node.multicall(["bilbo"], "echo", "silent", timeout=0.01)
        assert isinstance(late["bilbo"], Timeout)
        for one in ("all", b"all"):
            with pytest.raises(NotSendable, match="list of names"):
                node.multicall(one, "echo", "echo", 7)  # type: ignore[arg-type]


def test_cast_nodes_ping(daemon: FakeDaemon) -> None:
    with connect(str(daemon.path)) as node:
        node.cast("bilbo", "echo", "echo", 1)
        assert daemon.wait_frame(CAST).ident == 0
        assert [one["name"] for one in node.nodes()] == ["bilbo", "sam"]
        assert node.ping("bilbo")["ok"] is True


def test_idempotency_keys(daemon: FakeDaemon) -> None:
    daemon.functions["/once/ask"] = lambda node, target, key, args: dumps([target, key, args])
    daemon.functions["/once/post"] = lambda node, target, key, args: key is not None
    with connect(str(daemon.path)) as node:
        asked = node.call("bilbo", "echo", "echo", 1, idempotency_key=b"k" * 16)
        assert asked == ["echo/echo", b"k" * 16, dumps([1])]
        node.cast("bilbo", "echo", "echo", 1, idempotency_key="order-17")
        assert node.post("bilbo", "echo", "echo", 1, idempotency_key="order-17")
        assert not node.post("bilbo", "echo", "echo", 1)
        daemon.functions["/once/post"] = fail_with(RemoteError("not_durable", "no space left"))
        with pytest.raises(RemoteError, match="no space"):
            node.cast("bilbo", "echo", "echo", 1, idempotency_key="order-17")
        with pytest.raises(NotSendable, match="idempotency_key"):
            node.call("bilbo", "echo", "echo", 1, idempotency_key="")


def test_monitor_nodes(daemon: FakeDaemon) -> None:
    with connect(str(daemon.path)) as node:
        events = node.monitor_nodes()
        ident = daemon.wait_frame(OPEN).ident
        up = {"event": "up", "name": "bilbo", "key": "k2", "reason": ""}
        down = {"event": "down", "name": "bilbo", "key": "k2", "reason": "closed"}
        daemon.send(frame(DATA, ident, b"\1" + dumps(up)) + frame(DATA, ident, b"\1" + dumps(down)))
        assert next(events) == NodeUp(name="bilbo", key="k2")
        assert next(events) == NodeDown(name="bilbo", key="k2", reason="closed")
        daemon.send(frame(CLOSE, ident))
        assert list(events) == []
        assert daemon.wait_frame(CLOSE).ident == ident


def test_a_ping_is_answered(daemon: FakeDaemon) -> None:
    with connect(str(daemon.path)) as node:
        daemon.functions["/echo/pinged"] = lambda: daemon.send(frame(PING, 0, b"12345678"))
        node.call("", "echo", "pinged")
        assert daemon.wait_frame(PONG).body == b"12345678"


def test_no_daemon_names_what_was_tried(tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    with pytest.raises(NoDaemon) as raised:
        connect(path)
    assert raised.value.reason == "no_daemon"
    assert path in str(raised.value)
    assert "drupelet demo" in str(raised.value)


def test_the_first_that_answers_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "drupelet"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("DRUPELET_SOCKET", raising=False)
    (directory / "gandalf.sock").touch()  # of a daemon that was killed
    with (
        FakeDaemon(directory / "bilbo.sock", hello=HELLO_FIELDS | {"name": "bilbo"}),
        connect() as n,
    ):
        assert n.name == "bilbo"


def test_another_version_is_said(tmp_path: Path) -> None:
    with (
        FakeDaemon(tmp_path / "s", hello=HELLO_FIELDS | {"version": 2}),
        pytest.raises(NoConnection) as raised,
    ):
        connect(str(tmp_path / "s"))
    assert raised.value.reason == "version"


def test_junk_from_the_daemon_is_a_protocol_error(daemon: FakeDaemon) -> None:
    with connect(str(daemon.path)) as node:
        daemon.functions["/echo/junk"] = lambda: daemon.send(b"\xff" * 64)
        with pytest.raises(RemoteProtocolError):
            node.call("", "echo", "junk")
        with pytest.raises(NoConnection):
            node.call("", "echo", "echo", 1)


def test_window_end() -> None:
    assert window_end([b""] * CALLS_AT_ONCE_MAX, 0) == CALLS_AT_ONCE_MAX
    assert window_end([b""] * (CALLS_AT_ONCE_MAX + 1), 0) == CALLS_AT_ONCE_MAX
    half = b"x" * (BYTES_AT_ONCE_MAX // 2)
    assert window_end([half, half, b"x"], 0) == 2
    assert window_end([half * 4, half], 0) == 1


def test_no_thread_is_left() -> None:
    assert [one.name for one in threading.enumerate() if one.name.startswith("fake")] == []
