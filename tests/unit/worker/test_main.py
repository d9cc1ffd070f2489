from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from drupelet.errors import EXIT_BAD_CONFIGURATION, EXIT_DONE, EXIT_USAGE
from drupelet.wire import frames
from drupelet.wire.frames import FrameReader
from drupelet.wire.messages.workers import (
    WorkerFailure,
    WorkerHello,
    WorkerOrder,
    decode_hello,
    encode_order,
)
from drupelet.worker import main, sandbox
from tests.unit.worker.calls import Answers, call


@pytest.fixture
def no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """These run in the test's own process."""
    monkeypatch.setattr(sandbox, "limit", lambda memory_bytes: None)
    monkeypatch.setattr(sandbox, "show_name", lambda label: None)
    monkeypatch.setattr(os, "chdir", lambda path: None)


def order_frame(order: WorkerOrder) -> bytes:
    return frames.frame(frames.HELLO, 0, encode_order(order))


def test_serve_says_hello_and_answers() -> None:
    ours, theirs = socket.socketpair()
    order = WorkerOrder(mission="kvs", modules=("kvs",), exports=("lookup",))
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main.serve(theirs, order, FrameReader())))
    thread.start()
    answers = Answers()
    with ours, theirs:
        ours.sendall(call(2, "kvs/lookup", "x"))
        while not answers.values:
            answers.receive(ours.recv(65_536))
        hello = decode_hello(answers.control[0][1])
        ours.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    assert isinstance(hello, WorkerHello)
    assert codes == [EXIT_DONE]


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
