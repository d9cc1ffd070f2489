"""What runs by the right of one stranger's call, and when nothing of it does any more."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.lease import lease_var
from drupelet.process import Pid, spawn
from drupelet.process.running import open_runtime
from drupelet.wire.limits import LEASES_MAX
from drupelet.worker import leases as worker
from drupelet.worker.endings import Endings
from drupelet.worker.leases import Lease, Leases


class Rig:
    def __init__(self) -> None:
        self.settled: list[int] = []
        self.closed: list[int] = []
        self.endings = Endings(self.settled.append)
        self.leases = Leases(self.endings, self.closed.append)

    def open(self, ident: int) -> Lease:
        lease = self.leases.open(ident)
        assert lease is not None
        return lease

    @contextmanager
    def call(self, ident: int) -> Iterator[Lease]:
        """What runs in the block runs by its right."""
        lease = self.open(ident)
        token = lease_var.set(lease)
        yield lease
        lease_var.reset(token)
        lease.done(lease)


def test_it_is_closed_once_when_nothing_is_left() -> None:
    rig = Rig()
    lease = rig.open(2)
    lease.add("task", lambda: None)
    lease.done(lease)
    assert rig.closed == []
    lease.done("task")
    lease.done("task")
    assert (rig.closed, len(rig.leases)) == ([2], 0)
    assert rig.leases.get(2) is None


def test_all_of_it_is_told_to_end_and_waited_for() -> None:
    rig = Rig()
    one, other = rig.open(2), rig.open(4)
    ended: list[str] = []
    one.add("a", lambda: ended.append("a"))
    one.add("b", lambda: ended.append("b"))
    other.add("c", lambda: ended.append("c"))
    one.end()
    one.done(one)
    assert ended == ["a", "b"]
    assert rig.endings.ask(100, {2})
    one.done("a")
    one.add("late", lambda: ended.append("late"))  # begun by what is just ending
    assert ended == ["a", "b", "late"]
    one.done("b")
    assert (rig.settled, rig.closed) == ([100], [])  # it was asked before the late one began
    one.done("late")
    assert rig.closed == [2]
    one.add("later still", lambda: ended.append("later still"))  # nothing is kept of it
    assert (ended[-1], rig.closed) == ("later still", [2])
    other.add("d", lambda: None)
    assert len(rig.leases) == 1


def test_at_the_maximum_and_one_above() -> None:
    rig = Rig()
    for ident in range(2, 2 * LEASES_MAX + 2, 2):
        rig.open(ident)
    assert rig.leases.open(100_000) is None
    lease = rig.leases.get(2)
    assert lease is not None
    lease.done(lease)
    assert rig.leases.open(100_000) is not None


def test_a_thread_holds_it_and_so_do_those_that_it_starts() -> None:
    rig = Rig()
    doors = [threading.Event(), threading.Event()]
    started = threading.Event()
    inner = threading.Thread(target=doors[1].wait)

    def outer_body() -> None:
        inner.start()
        started.set()
        doors[0].wait()

    outer = threading.Thread(target=outer_body)
    foreign = threading.Thread(target=doors[1].wait)
    with rig.call(2):
        outer.start()
    foreign.start()  # of nobody's call
    assert started.wait(10)
    lease = rig.leases.get(2)
    assert lease is not None and lease.lingers
    for each, thread in zip(doors, (outer, inner), strict=True):
        rig.leases.look()
        assert rig.closed == []
        each.set()
        thread.join(10)
    foreign.join(10)
    rig.leases.look()
    assert rig.closed == [2]


def test_a_thread_of_no_call_holds_nothing() -> None:
    rig = Rig()
    door = threading.Event()
    rig.open(2)  # from now on threads are seen
    thread = threading.Thread(target=door.wait)
    thread.start()
    lease = rig.leases.get(2)
    assert lease is not None and not lease.lingers
    lease.done(lease)
    assert rig.closed == [2]
    door.set()
    thread.join(10)


def test_a_program_holds_it_until_it_was_waited_for() -> None:
    """In an interpreter of its own: pytest has children of other tests."""
    script = f"""
import subprocess, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from tests.unit.worker.test_leases import Rig
from drupelet.worker.leases import has_programs

rig = Rig()
print(has_programs())
with rig.call(2):
    program = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
rig.leases.look()
print(has_programs(), rig.closed)
program.communicate(b"\\n")
rig.leases.look()
print(has_programs(), rig.closed)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stdout.split("\n")[:3] == ["False", "True []", "False [2]"], result.stderr


async def test_threads_of_trio_are_not_held_against_it() -> None:
    rig = Rig()
    with rig.call(2) as lease:
        await trio.to_thread.run_sync(lambda: None)
        assert not lease.lingers
    assert rig.closed == [2]


async def test_processes_and_those_that_they_start_end_with_it() -> None:
    rig = Rig()
    ended: list[str] = []
    pids: list[Pid] = []

    async def sleep(name: str, then: Callable[[], object] | None = None) -> None:
        try:
            if then is not None:
                await then()  # type: ignore[misc]
            await trio.sleep_forever()
        finally:
            ended.append(name)

    async def child() -> None:
        pids.append(await spawn(sleep, "grandchild"))

    async with open_runtime() as runtime:
        with rig.call(2):
            pids.append(await spawn(sleep, "child", child))
        pids.append(await spawn(sleep, "another's"))
        await trio.testing.wait_all_tasks_blocked()
        lease = rig.leases.get(2)
        assert lease is not None and rig.closed == []
        lease.end()
        rig.endings.ask(100, {2})
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(ended) == ["child", "grandchild"]
        assert (rig.closed, rig.settled) == ([2], [100])
        assert len(runtime.processes) == 1


async def test_a_process_that_computes_in_a_thread_holds_it() -> None:
    rig = Rig()
    door, runs = threading.Event(), threading.Event()

    def compute() -> None:
        runs.set()
        door.wait()

    async with open_runtime():
        with rig.call(2) as lease:
            await spawn(compute, where="thread")
        await trio.to_thread.run_sync(runs.wait)
        lease.end()
        await trio.testing.wait_all_tasks_blocked()
        rig.leases.look()
        assert rig.closed == []  # its process has ended, the thread cannot be
        door.set()
        with trio.fail_after(10):
            while not rig.closed:
                rig.leases.look()
                await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("event", sorted(worker._PROGRAM_EVENTS))
def test_every_way_to_start_a_program_is_seen(event: str) -> None:
    rig = Rig()
    with rig.call(2) as lease:
        sys.audit(event, None, None, None)
        assert lease.lingers
