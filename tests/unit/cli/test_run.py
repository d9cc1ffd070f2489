from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from drupelet.cli.grammar import UsageError, parse
from drupelet.cli.output import Failed
from drupelet.cli.run import _config, _first, _greet, default_name
from drupelet.cli.verbs import VERBS
from drupelet.net.sockets import make_run_directory
from drupelet.services.missions import Export
from drupelet.wire.limits import NAME_CHARS_MAX
from tests.unit.cli.conftest import Run

if TYPE_CHECKING:
    from drupelet.node import Node


@pytest.mark.parametrize(
    ("file", "host", "name"),
    [
        ("kitchen.py", "pi", "kitchen"),
        ("my kitchen (2).py", "pi", "my-kitchen-2"),
        ("a.b.py", "pi", "a-b"),
        ("küche.py", "pi", "k-che"),
        ("???.py", "pi3.local", "pi3"),
        ("???.py", "", "node"),
        ("x" * NAME_CHARS_MAX + ".py", "pi", "x" * NAME_CHARS_MAX),
        ("x" * (NAME_CHARS_MAX + 1) + ".py", "pi", "x" * NAME_CHARS_MAX),
    ],
)
def test_default_name(file: str, host: str, name: str) -> None:
    assert default_name(Path(file), host) == name


def test_mistakes_are_told(run: Run, tmp_path: Path) -> None:
    code, _, err = run("run", str(tmp_path / "none.py"))
    assert (code, "is no file" in err) == (1, True)
    file = tmp_path / "kitchen.py"
    file.touch()
    assert run("run", str(file), "--name", "a b")[0] == 2
    code, _, err = run("run", str(file), "--name", "x" * (NAME_CHARS_MAX + 1))
    assert (code, f"1 to {NAME_CHARS_MAX}" in err) == (2, True)
    (tmp_path / "kitchen.txt").touch()
    code, _, err = run("run", str(tmp_path / "kitchen.txt"))
    assert (code, "end in .py" in err) == (1, True)


def test_where_it_listens_and_whose_cookie_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    shared = tmp_path / "state" / "drupelet" / "cookie"
    found = _config(parse(["run", "k.py"], VERBS), "k")
    assert (found.link.listen, found.link.cookie_file) == (("127.0.0.1",), shared)
    words = ["run", "light.py", "--alone", "--listen", "0.0.0.0"]
    found = _config(parse(words, VERBS), "alice")
    assert (found.link.listen, found.portmapper.enabled) == (("0.0.0.0",), False)
    assert found.link.cookie_file.read_text() != shared.read_text()
    with pytest.raises(UsageError, match=r"--listen 'eth0' is no address; 0\.0\.0\.0 is all"):
        _config(parse(["run", "k.py", "--listen", "eth0"], VERBS), "k")


def test_a_name_that_runs_here_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    file = tmp_path / "kitchen.py"
    file.touch()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(make_run_directory() / "kitchen.sock"))
        other.listen()
        code, _, err = run("run", str(file))
    assert (code, "--name" in err) == (1, True)


class FakeMissions:
    """What the greeting asks of `services/missions.py`."""

    def __init__(self, *functions: str, problem: str = "") -> None:
        self.problem = problem
        self.exports = {
            b"kitchen/" + one.encode(): Export(
                b"kitchen/" + one.encode(), "kitchen", one, frozenset(), signature=f"{one}(x: int)"
            )
            for one in functions
        }
        self.exports[b"node/ping"] = Export(
            b"node/ping", "node", "ping", frozenset(), inline=lambda: None
        )
        self.exports[b"process/signals"] = Export(
            b"process/signals", "process", "signals", frozenset(), raw=lambda *_: None
        )

    def snapshot(self) -> list[dict[str, object]]:
        return [{"state": "refused" if self.problem else "ready", "problem": self.problem}]


def greet(missions: FakeMissions, alone: bool = False) -> None:
    node = SimpleNamespace(name="pi1", port=4370, missions=missions)
    _greet(cast("Node", node), Path("kitchen.py"), alone)


def test_greeting_lists_what_can_be_called(capsys: pytest.CaptureFixture[str]) -> None:
    greet(FakeMissions("boil"))
    out = capsys.readouterr().out
    assert "call pi1 kitchen boil    # boil(x: int)" in out
    assert "ping" not in out
    assert "signals" not in out  # for other daemons, not for people
    for count, more in ((8, False), (9, True)):
        greet(FakeMissions(*(f"f{number}" for number in range(count))))
        out = capsys.readouterr().out
        assert (out.count(" call "), "... and 1 more" in out) == (8, more)
    greet(FakeMissions("boil"), alone=True)  # no other node of this machine can call it
    assert "--socket pi1 call pi1 kitchen boil" in capsys.readouterr().out
    greet(FakeMissions())
    assert "nothing to call yet" in capsys.readouterr().out


def test_a_file_that_does_not_load_ends_it() -> None:
    problem = "file_wont_compile: /k.py:4: invalid syntax"
    with pytest.raises(Failed, match=r"kitchen\.py does not load:\n/k\.py:4: invalid syntax"):
        greet(FakeMissions(problem=problem))
    failed = Failed("broken", mend="")
    assert _first(ExceptionGroup("", [ExceptionGroup("", [failed])])) is failed
