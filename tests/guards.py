"""What no test may leave behind: an ERROR log record, a running thread, a child process.

A pytest plugin, loaded by tests/conftest.py; tests/tidy/test_guards.py shows that each guard
catches what it is for. A test that must cause an ERROR record says so and why:
``@pytest.mark.error_log("the store is broken on purpose")``; such a test fails without one.

Every test gets its seed from its own name and DRUPELET_SEED (0 when not set); trio's scheduler and
the `random` module start from it, so that a failed test fails again.
"""

from __future__ import annotations

import ctypes
import logging
import os
import random
import select
import signal
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import trio

GRACE_S = float(
    os.environ.get("DRUPELET_GRACE_S", "2")
)  # for threads and children that are ending when a test returns
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)

hypothesis.settings.register_profile("repeatable", derandomize=True, print_blob=True)
hypothesis.settings.register_profile("explore", print_blob=True, max_examples=1_000)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "error_log(reason): the test must cause an ERROR log record")
    hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
    # Orphans of our children become ours: a worker that survives its daemon is seen.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # trio's own switch for its hypothesis plugin: tasks are shuffled from its seeded generator.
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[attr-defined]


def base_seed() -> int:
    return int(os.environ.get("DRUPELET_SEED", "0"))


def pytest_report_header() -> str:
    return f"DRUPELET_SEED={base_seed()}"


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """The test's seed; shown when the test fails."""
    value = zlib.crc32(request.node.nodeid.encode()) ^ base_seed()
    request.node.add_report_section("setup", "seed", f"seed {value} (DRUPELET_SEED={base_seed()})")
    random.seed(value)
    trio._core._run._r.seed(value)  # type: ignore[attr-defined]
    return value


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    threads = set(threading.enumerate())
    children = _children()
    records = _ErrorRecords()
    root = logging.getLogger()
    root.addHandler(records)
    try:
        yield
    finally:
        root.removeHandler(records)
    complaints = [
        *_error_records(records.seen, request.node.get_closest_marker("error_log")),
        *_stray_threads(threads),
        *_stray_children(children),
    ]
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


class _ErrorRecords(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(f"{record.name}: {record.getMessage()}")


def _error_records(seen: list[str], marker: pytest.Mark | None) -> list[str]:
    if marker is None:
        return [f"an ERROR was logged: {text}" for text in seen]
    return [] if seen else ["no ERROR was logged, although the test is marked error_log"]


def _stray_threads(before: set[threading.Thread]) -> list[str]:
    strays = []
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("Trio thread "):
            continue  # an idle one of trio's cache; a busy one bears its task's name
        thread.join(GRACE_S)
        if thread.is_alive() and not thread.name.startswith("Trio thread "):
            strays.append(f"a thread was left behind: {thread.name}")
    return strays


def _children() -> set[int]:
    """The process ids of our living children."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(int(word) for word in (task / "children").read_text().split())
        except OSError:
            continue  # the thread has ended
    return {pid for pid in found if _state(pid) not in ("Z", "X", "")}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def _stray_children(before: set[int]) -> list[str]:
    strays = []
    for pid in _children() - before:
        if _ends_soon(pid):
            continue
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        strays.append(f"a child process was left behind (now killed): {pid} {command}")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return strays


def _ends_soon(pid: int) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], GRACE_S)[0])
    finally:
        os.close(descriptor)
