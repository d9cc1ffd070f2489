"""One relay serves from a directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from drupelet.errors import DrupeletError
from drupelet.relay.serving import is_served, serving

HOLD = """
import sys
from pathlib import Path
from drupelet.relay.serving import serving
with serving(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_at_a_time_and_the_verbs_see_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert not is_served(state)
    with serving(state):
        assert is_served(state)
        with pytest.raises(DrupeletError, match="another drupelet-relay serves"), serving(state):
            pass
    assert not is_served(state)
    with serving(state):
        pass


def test_a_process_that_is_killed_serves_no_more(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert is_served(tmp_path)
        process.kill()
        process.wait()
        assert not is_served(tmp_path)
