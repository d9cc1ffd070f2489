"""The lessons on real nodes: one cluster for all of them, and once the lesson's own nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from drupelet.cli.lessons.course import LESSONS, Lesson
from tests.integration.cluster import REPOSITORY, Cluster, RealNode

LESSON_S = 20.0
NAMES = ("gandalf", "bilbo", "frodo")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def gandalf() -> Iterator[RealNode]:
    """The first of three nodes that see each other."""
    with tempfile.TemporaryDirectory(prefix="lessons-") as folder:
        with Cluster(Path(folder)) as cluster:
            first, second, third = NAMES
            nodes = [cluster.start(first, missions={})]
            nodes.append(cluster.start(second, *nodes, missions={}))
            nodes.append(cluster.start(third, *nodes, missions={}))
            for node in nodes:
                trio.run(node.wait_up, *(name for name in NAMES if name != node.name))
            yield nodes[0]


def performed(*words: str, environment: dict[str, str] | None = None) -> dict[str, object]:
    """`drupelet --json lesson ...`: its document; the exit code is 0."""
    done = subprocess.run(
        [sys.executable, "-m", "drupelet.cli.main", "--json", *words],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=4 * LESSON_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_a_lesson_on_real_nodes(lesson: Lesson, gandalf: RealNode) -> None:
    started = time.monotonic()
    found = performed("--socket", str(gandalf.socket_path), "lesson", str(lesson.number))
    assert time.monotonic() - started < LESSON_S
    simulated, real = found["simulated"], found["real"]
    assert isinstance(simulated, dict)
    assert isinstance(real, dict)
    assert real["nodes"][0] == "gandalf"
    assert set(real["nodes"]) == set(NAMES)
    assert real["printed"] == simulated["printed"]  # the same program, the same lines
    assert all(verdict["ok"] for verdict in real["verdicts"])
    assert "gandalf" in real["diagram"]
    assert bool(real["notes"]) is lesson.breaks  # what was not as in the simulator is said
    left = json.loads(gandalf.run("--json", "ps", "bilbo").stdout)
    assert "lesson." not in json.dumps(left)


def test_a_learners_own_file(gandalf: RealNode, tmp_path: Path) -> None:
    copied = performed("lesson", "8", "--copy", str(tmp_path))
    file = Path(str(copied["file"]))
    file.write_text(file.read_text().replace('"fine"', '"very wet"'))
    done = gandalf.run("lesson", "8", str(file))
    assert done.returncode == 1
    assert "expected: the line: gandalf asks bilbo for the weather: fine" in done.stdout
    assert "seen: the lines: " in done.stdout
    assert "Mend what FAILED first" in done.stdout


def test_without_a_cluster_it_starts_nodes_and_stops_them() -> None:
    """A lesson that kills one of them: there it is a real SIGKILL."""
    with tempfile.TemporaryDirectory(prefix="lesson-") as folder:
        environment = os.environ | {"XDG_STATE_HOME": folder, "XDG_RUNTIME_DIR": folder}
        environment.pop("DRUPELET_SOCKET", None)
        found = performed("lesson", "11", environment=environment)
        real = found["real"]
        assert isinstance(real, dict)
        assert (real["nodes"], real["notes"]) == (["gandalf", "bilbo", "frodo"], [])
        assert "kill bilbo" in real["diagram"]
        assert "bilbo is down" in real["diagram"]
