"""The guards of tests/guards.py catch what they are for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LEAVING = {
    "logs an ERROR": ("import logging; logging.getLogger('x').error('broken %s', 1)", "broken 1"),
    "leaves a thread": (
        "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True,"
        " name='lost').start()",
        "a thread was left behind: lost",
    ),
    "leaves a child": (
        "import subprocess; subprocess.Popen(['sleep', '60'])",
        "a child process was left behind (now killed): ",
    ),
    "leaves a grandchild": (
        "import subprocess; subprocess.run(['sh', '-c', 'sleep 60 &'])",
        "a child process was left behind (now killed): ",
    ),
    "is marked and logs nothing": ("pass", "no ERROR was logged"),
}
CLEAN = {
    "logs a warning": "import logging; logging.getLogger('x').warning('hm')",
    "waits for its thread": "import threading; t = threading.Thread(target=int); t.start()",
    "waits for its child": "import subprocess; subprocess.run(['true'])",
    "uses trio's threads": "import trio; trio.run(trio.to_thread.run_sync, int)",
    "is marked and logs": "import logging; logging.getLogger('x').error('on purpose')",
}


def run(tmp_path: Path, name: str, body: str, *options: str) -> subprocess.CompletedProcess[str]:
    mark = "@pytest.mark.error_log('planted')\n" if "marked" in name else ""
    test = tmp_path / "test_planted.py"
    test.write_text(f"import pytest\n{mark}def test_planted(seed):\n    {body}\n    print(seed)\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.guards"]
    return subprocess.run(
        [*command, *options, str(test)],
        cwd=ROOT,
        env={**os.environ, "DRUPELET_GRACE_S": "0.2", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.mark.parametrize("name", LEAVING)
def test_a_guard_fails_the_test(name: str, tmp_path: Path) -> None:
    body, complaint = LEAVING[name]
    done = run(tmp_path, name, body)
    assert done.returncode == 1, done.stdout + done.stderr
    assert complaint in done.stdout


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_test_passes(name: str, tmp_path: Path) -> None:
    done = run(tmp_path, name, CLEAN[name])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_test_that_hangs_is_ended(tmp_path: Path) -> None:
    done = run(tmp_path, "hangs", "import threading; threading.Event().wait()", "--timeout=1")
    assert done.returncode == 1
    assert "Timeout" in done.stdout


def test_the_seed_is_shown_and_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRUPELET_SEED", "4711")
    done = run(tmp_path, "fails", "assert False")
    assert done.returncode == 1
    assert "(DRUPELET_SEED=4711)" in done.stdout
