from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drupelet.cli.verbs import VERBS
from tests.unit.cli.conftest import Run
from tests.unit.client.fake_daemon import FakeDaemon


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_parse(shell: str, run: Run, tmp_path: Path) -> None:
    code, out, _ = run("completion", shell)
    assert code == 0
    assert all(name in out for name in VERBS)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(out)
    subprocess.run([shell, "-n", str(script)], check=True, timeout=10)


def test_bash_completes_verbs_options_and_nodes(
    daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(run("completion", "bash")[1])
    program = tmp_path / "drupelet"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m drupelet.cli.main "$@"\n')
    program.chmod(0o755)

    def complete(*words: str) -> set[str]:
        line = " ".join(f"'{word}'" for word in words)
        code = (
            f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _drupelet; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        environ = dict(os.environ)
        if words[0] == "drupelet":
            environ["PATH"] = f"{tmp_path}:{environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", code],
            env=environ,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        return set(done.stdout.split())

    assert complete("drupelet", "no") == {"nodes"}
    assert complete("drupelet", "--js") == {"--json"}
    assert complete("drupelet", "ping", "bi") == {"bilbo"}
    assert complete(str(program), "ping", "bi") == {"bilbo"}  # as typed, on no PATH
    assert complete("drupelet", "--socket", "x", "call", "--ti") == {"--timeout"}
    assert complete("drupelet", "ps", "bi") == {"bilbo"}
    (tmp_path / "bob.grant").touch()
    given = str(tmp_path / "bob")
    assert complete("drupelet", "accept", given) == {f"{given}.grant"}
    narrowed = ("narrow", "--to", "key", "-o", "new")
    assert complete("drupelet", *narrowed, given) == {f"{given}.grant"}
    assert complete("drupelet", "grant", "light", "--ex") == {"--expires"}
    assert complete("drupelet", "trace", "a") == {"a@gandalf"}
