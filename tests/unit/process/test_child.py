"""The program that computes one value, from within and as a program."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drupelet.process import child
from drupelet.process.child import answer, find, read_request
from drupelet.process.computing import LOADING
from drupelet.wire.codec import dumps, loads
from drupelet.wire.limits import BODY_BYTES_MAX

HERE = "tests.unit.process.computations"
WAIT_S = 30


@pytest.fixture(autouse=True)
def imports_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def request(name: str, *args: object, module: str = HERE, file: str = "") -> bytes:
    return dumps([module, file, name, list(args), list(sys.path), {}])


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(child.LENGTH_BYTES, "big") + body


@pytest.mark.parametrize(
    ("name", "args", "told"),
    [
        ("square", (7,), ["value", 49]),
        ("leave", (("a", 1),), ["exit", ("a", 1)]),
        ("bad", (), ["error", "ValueError", "bad"]),
        ("end", (3,), ["error", "SystemExit", "3"]),
        ("no_such", (), ["error", "AttributeError"]),
        ("a_function", (), ["error", "NotSendable"]),
    ],
)
def test_every_outcome_is_an_answer(
    name: str, args: tuple[object, ...], told: list[object]
) -> None:
    assert loads(answer(request(name, *args)))[: len(told)] == told


def test_what_is_no_data_is_told_as_text() -> None:
    [kind, reason] = loads(child._exit(child))
    assert (kind, str(reason)[:7]) == ("exit", "<module")


def test_an_exception_without_a_text() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert child._text_of(Mute()) == "(the exception has no text)"
    assert child._clean("\udcff") == "?"


@pytest.mark.parametrize("body", [b"", b"\xff", dumps(5), dumps(["a", "b"])])
def test_a_malformed_request_is_an_error(body: bytes) -> None:
    assert loads(answer(body))[:2] == ["error", "RemoteProtocolError"]


def test_a_request_is_whole_and_not_too_long() -> None:
    assert read_request(io.BytesIO(framed(b"abc"))) == b"abc"
    for torn in (b"", b"\0\0", framed(b""), framed(b"abc")[:-1]):
        assert read_request(io.BytesIO(torn)) is None
    longest = framed(bytes(BODY_BYTES_MAX))
    assert len(read_request(io.BytesIO(longest)) or b"") == BODY_BYTES_MAX
    assert read_request(io.BytesIO(framed(bytes(BODY_BYTES_MAX + 1)))) is None


def test_a_file_is_loaded_under_another_name(tmp_path: Path) -> None:
    file = tmp_path / "kitchen.py"
    file.write_text(
        "import os\n"
        "SEEN = __name__, os.environ.get('DRUPELET_COMPUTING_LOADS')\n"
        "class Oven:\n    @staticmethod\n    def seen():\n        return SEEN\n"
    )
    assert find("__main__", str(file), "Oven.seen", {})() == ("drupelet_computing___main__", "1")
    assert LOADING not in os.environ
    with pytest.raises(ImportError, match="no Python file"):
        find("m", str(tmp_path / "kitchen.txt"), "f", {})


def test_a_module_that_raises_leaves_no_mark(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("1 / 0\n")
    told = loads(answer(request("f", module="broken", file=str(file))))
    assert told[:2] == ["error", "ZeroDivisionError"]
    assert "broken.py" in told[3]
    assert LOADING not in os.environ


def test_modules_of_no_file_are_imported_from_their_sources() -> None:
    sources = {
        "memory_a": "import memory_b\ndef f():\n    return memory_b.VALUE\n",
        "memory_b": "VALUE = 8\n",
    }
    assert find("memory_a", "", "f", sources)() == 8
    told = loads(answer(dumps(["memory_c", "", "f", [], [], {"memory_c": "def f():\n  1 / 0\n"}])))
    assert "1 / 0" in told[3]  # the traceback shows the line


# -- as a program


def start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "drupelet.process.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_it_answers_and_ends_without_the_threads_of_the_function(tmp_path: Path) -> None:
    file = tmp_path / "threads.py"
    file.write_text(
        "import threading\n"
        "def f():\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "    print('to people')\n"
        "    return 5\n"
    )
    with start() as program:
        assert program.stdin is not None and program.stdout is not None
        program.stdin.write(framed(request("f", module="threads", file=str(file))))
        program.stdin.flush()
        assert loads(program.stdout.read()) == ["value", 5]  # nothing but the answer
        assert program.wait(WAIT_S) == child.EXIT_DONE
        assert program.stderr is not None and program.stderr.read() == b"to people\n"


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """Before it knows what to do, and in the midst of an endless computation."""
    with start() as program:
        assert program.communicate(timeout=WAIT_S)[0] == b""
        assert program.returncode == child.EXIT_ALONE
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with start() as program:
        assert program.stdin is not None
        program.stdin.write(framed(request("write_pid", str(fifo))))
        program.stdin.flush()
        assert fifo.read_text() == str(program.pid)  # it computes
        program.stdin.close()
        assert program.wait(WAIT_S) == child.EXIT_ALONE


def test_ctrl_c_is_the_parents_affair(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with start() as program:
        assert program.stdin is not None and program.stdout is not None
        program.stdin.write(framed(request("write_pid", str(fifo))))
        program.stdin.flush()
        assert fifo.read_text() == str(program.pid)
        program.send_signal(signal.SIGINT)
        program.stdin.close()
        assert program.stdout.read() == b""
        assert program.wait(WAIT_S) == child.EXIT_ALONE
        assert program.stderr is not None
        assert program.stderr.read() == b""  # no KeyboardInterrupt
