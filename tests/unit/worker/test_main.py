from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from drupelet.errors import EXIT_BAD_CONFIGURATION, EXIT_DONE, EXIT_FAILED, EXIT_USAGE
from drupelet.wire import frames
from drupelet.wire.bundles import content_of_kept, decode_bundle
from drupelet.wire.frames import FrameReader
from drupelet.wire.ids import Pid
from drupelet.wire.messages.workers import (
    WorkerFailure,
    WorkerHello,
    WorkerOrder,
    decode_hello,
    encode_order,
)
from drupelet.worker import main, sandbox
from drupelet.worker.loading import shipped_digest
from tests.unit.worker.calls import call, cast
from tests.unit.worker.daemons import serving
from tests.unit.worker.modules import ship, write
from tests.unit.worker.test_shipped import same_modules  # noqa: F401  a fixture

pytestmark = pytest.mark.usefixtures("same_modules")


@pytest.fixture
def no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """These run in the test's own process."""
    monkeypatch.setattr(sandbox, "limit", lambda memory_bytes: None)
    monkeypatch.setattr(sandbox, "show_name", lambda label: None)
    monkeypatch.setattr(os, "chdir", lambda path: None)


def order_frame(order: WorkerOrder) -> bytes:
    return frames.frame(frames.HELLO, 0, encode_order(order))


def test_serve_says_hello_and_answers() -> None:
    order = WorkerOrder(mission="echo", modules=("echo",), exports=("echo",))
    with serving(order) as daemon:
        assert list(daemon.start().missions) == ["echo"]
        assert daemon.ask(call(2, "echo/echo", "x")).values == {2: "x"}
        assert daemon.close() == EXIT_DONE


def test_run_tells_why_it_does_not_load(no_limits: None, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(order_frame(WorkerOrder(mission="x", modules=(f"{tmp_path}/x.py",))))
        assert main.run(theirs) == EXIT_BAD_CONFIGURATION
        (hello,) = FrameReader().receive_data(ours.recv(65_536))
        assert isinstance(decode_hello(hello.body), WorkerFailure)


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff" * 20,
        frames.frame(frames.PING, 0, bytes(8)),
        frames.frame(frames.HELLO, 0, b"\xa0"),
        order_frame(WorkerOrder(mission="x", modules=("kvs",))) * 2,
    ],
)
def test_a_daemon_that_speaks_otherwise(
    no_limits: None, sent: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(sent)
        assert main.run(theirs) == main.EXIT_PROTOCOL
    assert "bad frame" in capsys.readouterr().err


def test_a_daemon_that_is_gone(no_limits: None) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        assert main.run(theirs) == EXIT_DONE


@pytest.mark.parametrize("argv", [[], ["--fd=x"], ["--fd=-1"], ["--other=1"], ["--parent=1"]])
def test_options_that_are_wrong(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(argv)
    assert caught.value.code == EXIT_USAGE


# -- a mission with a GenServer

OVEN = """
from drupelet import GenServer, receive, send

@mission("m")
class Oven(GenServer):
    def init(self): self.degrees = 20
    def heat(self, by: int) -> int:
        self.degrees += by * {0}
        return self.degrees
    async def bake(self) -> str:
        await receive("done")
        return "by version {0}"
    @cast
    def cool(self): self.degrees = 20

@mission("m")
async def take_out():
    await send("m.Oven", "done")
"""


@pytest.fixture
def oven(tmp_path: Path) -> WorkerOrder:
    return WorkerOrder(mission="m", modules=(write(tmp_path, "zzo", OVEN.format(1)),))


def test_calls_and_casts_of_a_server(oven: WorkerOrder) -> None:
    with serving(oven) as daemon:
        entries = daemon.start().missions["m"]
        assert {each.name: each.is_cast for each in entries} == {
            "Oven.bake": False, "Oven.cool": True, "Oven.heat": False, "take_out": False
        }  # fmt: skip
        answers = daemon.ask(
            call(2, "m/Oven.heat", 5),
            call(4, "m/Oven.cool"),
            call(6, "m/Oven.heat", 1),
            call(8, "m/Oven.heat"),
            call(10, "m/Oven.heat", [1], [2], flags=frames.FLAG_MANY),
        )
        assert answers.values == {2: 25, 4: None, 6: 21, 10: [[22, 24], {}]}
        assert answers.errors[8].kind == "badarg"
        assert "Oven.heat(by: int) -> int: 0 arguments" in answers.errors[8].message
        answers = daemon.ask(
            call(12, "m/Oven.heat", "x"),
            call(14, "m/Oven.heat", [1], ["x"], [True], flags=frames.FLAG_MANY),
        )
        assert answers.errors[12].message == "Oven.heat(by): 'x' is no int"
        answer: Any = answers.values[14]
        assert answer[0] == [25, None, None]
        assert answer[1][2][2] == "Oven.heat(by): True is no int"
        answers = daemon.ask(cast("m/Oven.cool"), call(16, "m/Oven.heat", 0), count=1)
        assert answers.values[16] == 20  # the same server: nothing of that reached it
        assert daemon.close() == EXIT_DONE


def test_a_call_of_a_server_that_is_given_up(oven: WorkerOrder) -> None:
    with serving(oven) as daemon:
        daemon.start()
        cancel = frames.frame(frames.CANCEL, 2)
        sent = [call(2, "m/Oven.bake"), cancel, call(4, "m/Oven.heat", 1), call(6, "m/take_out")]
        answers = daemon.ask(*sent, count=2)
        assert answers.values == {4: 21, 6: None}
        assert answers.errors == {}


def test_new_code_takes_over_the_state(oven: WorkerOrder, tmp_path: Path) -> None:
    with serving(oven, cluster=True) as daemon:
        daemon.start()
        daemon.ask(call(2, "m/Oven.heat", 1), call(4, "m/Oven.bake"), count=1)
        answers = daemon.ask(
            load_call(6, tmp_path, OVEN.format(10)), call(8, "m/Oven.heat", 1), count=1
        )
        assert isinstance(decode_hello(answers.values[6]), WorkerHello)  # type: ignore[arg-type]
        assert set(answers.values) == {2, 6}  # the old verb is under way
        answers = daemon.ask(call(10, "m/take_out"), count=3)
        assert answers.values[4] == "by version 1"
        assert answers.values[8] == 31  # 20 + 1 + 10
        assert daemon.close() == EXIT_DONE


PLAIN = """
@mission("m")
def heat(by: int) -> int: return 20 + by
"""


def test_new_code_has_the_first_server_or_none_any_more(tmp_path: Path) -> None:
    """A worker without an event loop gets one; what is left without servers goes on with it."""
    order = WorkerOrder(mission="m", modules=(write(tmp_path, "zzo", PLAIN),))
    with serving(order) as daemon:
        daemon.start()
        first, second = load_call(4, tmp_path, OVEN.format(1)), load_call(10, tmp_path, PLAIN)
        answers = daemon.ask(call(2, "m/heat", 1), first, call(6, "m/Oven.heat", 5))
        assert (answers.values[2], answers.values[6]) == (21, 25)
        answers = daemon.ask(call(8, "m/Oven.heat", 5), second, call(12, "m/heat", 1))
        assert (answers.values[12], answers.errors) == (21, {})
        assert daemon.ask(call(14, "m/Oven.heat", 5)).errors[14].kind == "undef"
        answers = daemon.ask(load_call(16, tmp_path, OVEN.format(2)), call(18, "m/Oven.heat", 5))
        assert answers.values[18] == 30  # another process, with a new state
        assert daemon.close() == EXIT_DONE


def load_call(ident: int, directory: Path, text: str) -> bytes:
    """The daemon's order to take new code."""
    path = ship(directory, zzo=text)
    digest = shipped_digest(decode_bundle(content_of_kept(Path(path).read_bytes())))
    return call(ident, "/load", path, digest)


def test_a_server_is_restarted_and_too_often_is_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unchecked = write(tmp_path, "zzo", OVEN.format(1).replace("by: int", "by"))
    with serving(WorkerOrder(mission="m", modules=(unchecked,))) as daemon:
        daemon.start()
        daemon.ask(call(2, "m/Oven.heat", 100))
        for ident in (4, 6, 8):
            answers = daemon.ask(call(ident, "m/Oven.heat", "x"))
            assert answers.errors[ident].kind == "TypeError"
        assert daemon.ask(call(10, "m/Oven.heat", 1)).values[10] == 21
        answers = daemon.ask(call(12, "m/Oven.heat", "x"))
        assert answers.errors[12].kind == "TypeError"
        assert daemon.until_end() == EXIT_FAILED
    assert "m ends: its processes ended more than 3 times within 5 s" in capsys.readouterr().err


def test_a_server_that_does_not_start_is_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "zzo", OVEN.format(1).replace("self.degrees = 20", "1 / 0", 1))
    with serving(WorkerOrder(mission="m", modules=(path,))) as daemon:
        daemon.start()
        assert daemon.until_end() == EXIT_FAILED
    assert "division by zero" in capsys.readouterr().err


def test_a_daemon_that_goes_ends_servers_in_silence(
    oven: WorkerOrder, caplog: pytest.LogCaptureFixture
) -> None:
    """Their ends are told to a daemon that is no more: no traceback, and no failure."""
    with serving(oven, cluster=True) as daemon:
        daemon.start()
        daemon.ask(call(2, "m/Oven.heat", 1))
        match daemon.asked:
            case [["register", "m.Oven", pid]]:
                assert isinstance(pid, Pid) and pid.node == "alice"
            case other:
                pytest.fail(f"asked for {other}")
        assert daemon.close() == EXIT_DONE
    assert caplog.text == ""
