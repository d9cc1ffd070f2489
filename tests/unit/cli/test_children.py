"""Children that stand in for `drupeletd`: small scripts that behave well, badly, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from drupelet.cli import children
from drupelet.cli.children import Child

NOTIFY = (
    "import os, signal, socket, sys, time\n"
    "to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    "to.connect(os.environ['NOTIFY_SOCKET'])\n"
)
READY = NOTIFY + "to.send(b'STATUS=x\\nREADY=1')\n"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> Any:
    real = subprocess.Popen

    def start(code: str) -> Child:
        monkeypatch.setattr(
            subprocess,
            "Popen",
            lambda command, **options: real([sys.executable, "-c", code], **options),
        )
        child = Child("bilbo", tmp_path / "none.toml", tmp_path, 7)
        nursery.start_soon(child.run)
        return child

    return start


async def test_the_log_is_shown_under_the_name_and_the_end_is_told(
    start: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    child = start(READY + "print('one\\n\\x1b[2Jtwo'); sys.stdout.write('no newline'); sys.exit(7)")
    await child.ended.wait()
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["bilbo   | one", "bilbo   | \ufffd[2Jtwo", "bilbo   | no newline"]
    assert child.how_it_ended() == "ended with exit code 7"
    assert not await child.wait_ready()


async def test_ready_and_stop(start: Any, tmp_path: Path) -> None:
    child = start(READY + "time.sleep(60)")
    assert await child.wait_ready()
    assert child.how_it_ended() == "runs"
    await child.stop()
    await child.ended.wait()
    assert child.how_it_ended() == "was killed by SIGTERM"
    await child.stop()
    assert os.listdir(tmp_path) == []


async def test_a_child_that_does_not_stop_is_killed(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "STOP_S", 0.1)
    child = start("import signal; signal.signal(15, signal.SIG_IGN)\n" + READY + "time.sleep(60)")
    assert await child.wait_ready()
    await child.stop()
    await child.ended.wait()
    assert child.how_it_ended() == "was killed by SIGKILL"


async def test_a_child_that_never_gets_ready(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "READY_S", 0.1)
    child = start("import time; time.sleep(60)")
    assert not await child.wait_ready()
    await child.stop()
