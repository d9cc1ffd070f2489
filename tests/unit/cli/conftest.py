"""A fake daemon with a node's functions, and the command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drupelet.cli.main import main
from drupelet.errors import CodeMismatch, NoConnection, NotPermitted, RemoteError, Timeout
from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid
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


def ship(modules: list[list[object]], mission: str | None) -> object:
    """`services/code.py`: `broken` does not load here; only of `all` every node is content."""
    names = [
        f"{name}/{len(source) if isinstance(source, bytes) else '-'}" for name, source in modules
    ]
    if modules[0][0] == "broken":
        raise RemoteError("file_wont_compile", "shipped/1f/broken.py:3: file_wont_compile: bad")
    nodes: dict[str, object] = {"gandalf": {"ok": True, "state": "loaded"}}
    if modules[0][0] != "all":
        nodes["bilbo"] = {"ok": True, "state": "known"}
        error = {"kind": "invalid_export", "message": "kettle.py:3: no boil"}
        nodes["sam"] = {"ok": False, "error": error}
    if modules[0][0] == "strange":
        return {"nodes": []}
    return {
        "mission": mission or "/".join(names),
        "digest": "0123456789abcdef",
        "sequence": 7,
        "nodes": nodes,
    }


GANDALF = Pid("gandalf", 17, 42)
PROCESSES: list[dict[str, object]] = [
    {"pid": Pid("gandalf", 17, 43), "names": [], "function": "mission_kvs.Kvs", "runtime": "kvs"}
    | {"status": "receive", "messages": 3, "received": 9, "links": [GANDALF], "parent": GANDALF},
    {"pid": GANDALF, "names": ["a", "b"], "function": "\x1b[2Jevil", "runtime": "kvs"}
    | {"status": "running", "messages": 0, "received": 0, "links": [], "parent": None},
    {"runtime": "echo", "state": "silent"},
]


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
        "/code/ship": ship,
        "/once/ask": lambda node, target, key, args: dumps([node, target, len(key), loads(args)]),
        "/once/post": lambda node, target, key, args: node == "bilbo" or key is not None,
        "/once/waiting": lambda: [{"node": "bilbo", "target": "kvs/store", "why": "sent"}],
        "/process/list": lambda: PROCESSES,
        "gandalf/process/list": lambda: PROCESSES,
        "bilbo/process/list": list,
        "sam/process/list": fail_with(NoConnection("down")),
        "strange/process/list": lambda: ["nothing"],
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


def program(*argv: str) -> list[str]:
    return [sys.executable, "-m", "drupelet.cli.main", *argv]
