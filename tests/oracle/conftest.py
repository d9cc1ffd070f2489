"""Erlang's half: compiled and run once for each start of `erl`, when the first case asks for it.

Needs `erl`, `erlc` and `epmd` of Erlang/OTP 25 or later (Debian: erlang-base); without them every
comparison is skipped, and the reason says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.cluster import free_port
from tests.oracle.normal import parse

SOURCES = Path(__file__).parent / "erlang"
ERLANG_S = 100.0  # about 4 s here
TEST_S = 3 * ERLANG_S  # of one test and what it starts
# Idle schedulers that spin take the processor from ours.
FLAGS = {"ERL_FLAGS": "+sbwt none +sbwtdcpu none +sbwtdio none"}
PROGRAMS = ("erl", "erlc", "epmd")
ERTS = 13  # of OTP 25: the first with `peer`

Outcomes = dict[str, object]


@pytest.fixture(scope="session")
def beams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with Erlang's compiled half."""
    if missing := missing_erlang():
        pytest.skip(missing)
    directory = tmp_path_factory.mktemp("oracle")
    (directory / ".erlang.cookie").write_text("ORACLE")
    (directory / ".erlang.cookie").chmod(0o400)
    sources = sorted(map(str, SOURCES.glob("*.erl")))
    command = ["erlc", "-Wall", "-Werror", "-o", str(directory), *sources]
    subprocess.run(command, check=True, timeout=ERLANG_S, env=os.environ | FLAGS)
    return directory


def missing_erlang() -> str:
    """What this machine lacks; "" when Erlang's half can run."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"needs {', '.join(missing)} of Erlang/OTP (Debian: erlang-base)"
    shown = subprocess.run(["erl", "-version"], capture_output=True, text=True, timeout=ERLANG_S)
    version = shown.stderr.split()[-1:] or ["0"]
    if int(version[0].split(".")[0]) < ERTS:
        return f"needs Erlang/OTP 25 or later; erl -version says {shown.stderr.strip()!r}"
    return ""


def erl(directory: Path, modules: list[str], *options: str, **environment: str) -> Outcomes:
    """Run the cases of these modules in one Erlang node."""
    command = ["erl", "-noshell", *options, "-eval", f"oracle:main([{', '.join(modules)}])."]
    try:
        finished = subprocess.run(
            command,
            cwd=directory,
            env=os.environ | FLAGS | {"HOME": str(directory)} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ERLANG_S,
        )
    except subprocess.TimeoutExpired as error:
        printed = (error.stdout or b"")[-300:]
        raise AssertionError(f"Erlang's half hangs after the case that ends {printed!r}") from None
    lines = finished.stdout.splitlines()
    assert finished.returncode == 0 and lines and lines[-1] == "done", finished.stdout[-4_000:]
    return parse(lines[:-1])


@pytest.fixture(scope="session")
def otp(beams: Path) -> Outcomes:
    """Erlang's outcomes of the cases of one node, by name."""
    return erl(
        beams, [path.stem for path in sorted(SOURCES.glob("oracle_*.erl")) if is_group(path)]
    )


@pytest.fixture(scope="session")
def otp_nodes(beams: Path) -> Outcomes:
    """Erlang's outcomes of the cases of several nodes, by name."""
    port = str(free_port())
    environment = {"ERL_EPMD_PORT": port}
    mapper = subprocess.Popen(["epmd", "-address", "127.0.0.1", "-port", port])
    try:
        listen = ["-kernel", "inet_dist_use_interface", "{127,0,0,1}"]
        options = ["-sname", "oracle@localhost", "-start_epmd", "false", *listen]
        return erl(beams, ["oracle_nodes"], *options, **environment)
    finally:
        mapper.kill()
        mapper.wait()


def is_group(source: Path) -> bool:
    """Whether a module has cases of one node (and is no callback module)."""
    return source.stem != "oracle_nodes" and "cases() ->" in source.read_text()
