"""Every command that README.md and daemon/docs show is run, and prints what they say it prints.

Documents that talk to a cluster get one: `drupelet demo`, as the reader has it by then, with
folders and a port mapper of its own, so that it meets no other cluster on the machine.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests import documents

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "daemon" / "docs").rglob("*.md"))]
WITH_COMMANDS = [path for path in DOCUMENTS if documents.commands(path.read_text())]
NEEDS_CLUSTER = re.compile(r"drupelet (?!run|demo|chan|version|--version|--help)\w+ ")
UP = "up and see each other"
COMMAND_S = 60
STOP_S = 15

pytestmark = pytest.mark.timeout(300)


@contextmanager
def staying(command: str, folder: Path, sign: str, environment: dict[str, str]) -> Iterator[None]:
    """A command in the foreground of its own terminal, up to the line that holds `sign`."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            seen = []
            for line in process.stdout:  # the test's own time limit bounds the wait
                seen.append(line)
                if sign in line:
                    break
            else:
                pytest.fail(f"{command} ended with:\n{''.join(seen)}")
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A reader's checkout: everything of the repository, and room for the document's own files."""
    for entry in ROOT.iterdir():
        if entry.name not in (".git", ".venv"):
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    for part in ("pyvenv.cfg", "lib"):  # without them `python` would know no package
        (tmp_path / ".venv" / part).symlink_to(Path(sys.prefix) / part)
    return tmp_path


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """State and sockets in a folder of its own, with a name short enough for a socket's path."""
    with tempfile.TemporaryDirectory(prefix="docs-") as name:
        folders = {"XDG_STATE_HOME": f"{name}/state", "XDG_RUNTIME_DIR": f"{name}/run"}
        for each in folders.values():
            Path(each).mkdir(mode=0o700)
        yield {**os.environ, **folders, "PYTHONUNBUFFERED": "1"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert isinstance(port, int)
    return port


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=lambda path: path.name)
def test_the_commands_of_a_document(path: Path, folder: Path, environment: dict[str, str]) -> None:
    text = path.read_text()
    for name, body in documents.files(text).items():
        (folder / name).write_text(body)
    listed = documents.commands(text)
    with ExitStack() as stack:
        if any(NEEDS_CLUSTER.search(command.text) for command in listed):
            demo = f".venv/bin/drupelet demo --mapper-port {free_port()}"
            stack.enter_context(staying(demo, folder, UP, environment))
        for command in listed:
            if command.stays:
                stack.enter_context(staying(command.text, folder, "", environment))
                continue
            done = subprocess.run(
                ["bash", "-c", command.text],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=COMMAND_S,
            )
            where = f"{path.relative_to(ROOT)}:{command.line}: $ {command.text}"
            assert done.returncode == 0, f"{where}\n{done.stdout}"
            assert documents.matches(command.output, done.stdout), f"{where}\n{done.stdout}"
