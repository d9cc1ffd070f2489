"""A newcomer's first GenServer: at most ten lines of README.md and MISSIONS.md, and one command."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from drupelet.errors import RemoteError
from drupelet.node import Node, open_node
from drupelet.worker.servers import INTENSITY
from tests import documents
from tests.integration.test_docs import ROOT, environment, staying  # noqa: F401  a fixture
from tests.unit.services.nodes import make_config

LINES_MAX = 10
CALL = re.compile(r"^\$ (?:\.venv/bin/)?drupelet (call kitchen kitchen Oven\..*)\n(.*)$", re.M)
GATE = re.compile(r"^\$ drupelet (call gate gate Gate\..*)\n(.*)$", re.M)
TOML = re.compile(r"^```toml\n(module = \"kitchen\.py\"\n.*?)^```", re.M | re.S)
DRUPELET = Path(sys.executable).parent / "drupelet"
DOCUMENTS = {name: (ROOT / name).read_text() for name in ("README.md", "daemon/docs/MISSIONS.md")}
COMMAND_S = 60

pytestmark = pytest.mark.timeout(120)


class Reader:
    """Who types what a document says."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:  # noqa: F811
        self.folder = folder
        self.environment = environment

    def run(self, words: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", f"exec {DRUPELET} {words}"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", DOCUMENTS)
def test_ten_lines_and_one_command(
    name: str,
    tmp_path: Path,
    environment: dict[str, str],  # noqa: F811
) -> None:
    text = documents.files(DOCUMENTS[name])["kitchen.py"]
    assert "GenServer" in text
    assert len(text.splitlines()) <= LINES_MAX
    file = tmp_path / "kitchen.py"
    file.write_text(text)
    (shown,) = CALL.findall(DOCUMENTS[name])
    words, value = shown
    reader = Reader(tmp_path, environment)
    with staying(f"{DRUPELET} run kitchen.py", tmp_path, "Ctrl-C stops it", environment):
        assert reader.run(words) == (0, f"{value}\n")
        code, said = reader.run("call kitchen kitchen Oven.handle_info 1")
        assert (code, "undef" in said) == (1, True)
        # It keeps its state while its code changes.
        file.write_text(text.replace("+= by", "+= 2 * by"))
        assert reader.run("nl kitchen.py")[0] == 0
        assert reader.run("call kitchen kitchen Oven.heat 10") == (0, f"{int(value) + 20}\n")


def test_a_state_machine_as_a_mission(tmp_path: Path, environment: dict[str, str]) -> None:  # noqa: F811
    document = DOCUMENTS["daemon/docs/MISSIONS.md"]
    (tmp_path / "gate.py").write_text(documents.files(document)["gate.py"])
    shown = GATE.findall(document)
    assert len(shown) == 2
    reader = Reader(tmp_path, environment)
    with staying(f"{DRUPELET} run gate.py", tmp_path, "Ctrl-C stops it", environment):
        for words, value in shown:
            assert reader.run(words) == (0, f"{value}\n")
        code, said = reader.run("call gate gate Gate.locked call 1")
        assert (code, "undef" in said) == (1, True)


# -- by an operator's missions.d


@asynccontextmanager
async def open_kitchen(tmp_path: Path) -> AsyncIterator[Node]:
    """A node with the file and the list of exports that MISSIONS.md shows."""
    text = DOCUMENTS["daemon/docs/MISSIONS.md"]
    config = make_config(tmp_path, "pi1")
    module = documents.files(text)["kitchen.py"].replace("by: int", "by")  # what crashes arrives
    (config.missions.dir / "kitchen.py").write_text(module)
    (listed,) = TOML.findall(text)
    (config.missions.dir / "kitchen.toml").write_text(listed)
    with trio.fail_after(60):
        async with open_node(config) as node:
            yield node


async def heat(node: Node, by: object) -> object:
    """The value, or the error's kind."""
    try:
        return await node.call("pi1", "kitchen", "Oven.heat", by)
    except RemoteError as error:
        return error.kind


async def test_installed_it_serves_what_is_listed(tmp_path: Path) -> None:
    async with open_kitchen(tmp_path) as node:
        (mission,) = [each for each in node.missions.snapshot() if each["name"] == "kitchen"]
        assert mission["exports"] == ["Oven.heat"]
        assert await heat(node, 160) == 180
        assert await node.call_many("pi1", "kitchen", "Oven.heat", [[1], [2], [3]]) == [
            181, 183, 186
        ]  # fmt: skip
        for name in ("Oven.init", "Oven.terminate", "Oven.handle_call", "Oven", "Oven.start_link"):
            with pytest.raises(RemoteError, match="undef"):
                await node.call("pi1", "kitchen", name, 1, 2)


async def test_a_crash_is_told_and_mended_and_too_many_end_the_mission(tmp_path: Path) -> None:
    async with open_kitchen(tmp_path) as node:
        assert await heat(node, 160) == 180
        values: list[object] = []

        async def gather(by: object) -> None:
            values.append(await heat(node, by))

        async with trio.open_nursery() as nursery:
            for by in ("hot", 1, 2):  # who waits behind a crash is told as well
                nursery.start_soon(gather, by)
        assert "TypeError" in values
        assert set(values) <= {"TypeError", 181, 183, 182, 21, 23, 22}
        assert await heat(node, 1) in (21, 22, 23, 24)  # a new state
        crashes = 1
        while await heat(node, "hot") == "TypeError":
            crashes += 1
        assert crashes > INTENSITY
        while (said := await heat(node, 5)) in ("mission_crashed", "mission_backoff"):
            await trio.lowlevel.checkpoint()
        assert said == 25
