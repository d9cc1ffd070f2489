"""Whether nothing that was cancelled runs on: first with fakes, then with real workers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from socket import socket

import pytest
import trio
import trio.testing

from drupelet.errors import CallError, NoConnection, RemoteError, Timeout
from drupelet.node import Node
from drupelet.services.launchers import FakeProcess
from drupelet.services.settling import REAP_S, SETTLE_TARGET, Worker, settle
from drupelet.wire.codec import dumps
from drupelet.wire.frames import split_call
from drupelet.worker import endings
from tests.unit.services.nodes import open_small_node

YES = b"\0" + dumps(True)


class FakeEndpoint:
    """Answers in turn what it was given; then nothing within the deadline."""

    def __init__(self, *answers: bytes | CallError) -> None:
        self.closed = False
        self.answers = list(answers)

    async def call(self, prefix: bytes, args: bytes, deadline: float) -> bytes:
        assert (split_call(prefix).target, args) == (SETTLE_TARGET, dumps([[2, 4]]))
        await trio.lowlevel.checkpoint()
        if not self.answers:
            await trio.sleep_until(deadline)
            raise Timeout(maybe_ran=True)
        answer = self.answers.pop(0)
        if isinstance(answer, CallError):
            raise answer
        return answer


class Rig:
    def __init__(self, *, goes: bool = True) -> None:
        self.workers: dict[FakeEndpoint, Worker] = {}
        self.processes: list[FakeProcess] = []
        self._goes = goes

    def add(self, label: str, *answers: bytes | CallError) -> FakeEndpoint:
        endpoint = FakeEndpoint(*answers)
        process = FakeProcess(1_000, socket())
        process.sock.close()
        self.processes.append(process)
        self.workers[endpoint] = Worker(label, process)
        return endpoint

    async def settle(self, *endpoints: FakeEndpoint) -> list[str]:
        """As the service does it: a process that has ended is gone."""
        async with trio.open_nursery() as nursery:
            if self._goes:
                for worker in self.workers.values():
                    nursery.start_soon(self._reap, worker)
            calls = dict.fromkeys(endpoints, (2, 4))
            killed = await settle(self.workers, calls, 0.5)  # type: ignore[arg-type]
            nursery.cancel_scope.cancel()
        return killed

    @staticmethod
    async def _reap(worker: Worker) -> None:
        await worker.process.wait()
        worker.gone.set()


def test_both_ends_mean_the_same_target() -> None:
    assert endings.SETTLE_TARGET == SETTLE_TARGET


async def test_a_worker_that_says_yes_lives_on(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    one, other = rig.add("one", YES), rig.add("other")
    assert await rig.settle(one, one) == []
    assert await rig.settle() == []
    assert await rig.settle(FakeEndpoint()) == []  # its worker is no more
    assert not any(process.killed for process in rig.processes)
    assert trio.current_time() == 0
    assert await rig.settle(other) == ["other"]


async def test_silent_workers_are_killed_at_the_same_time(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig()
    silent = [rig.add(label) for label in ("b", "a")]
    well = rig.add("well", YES)
    assert await rig.settle(*silent, well) == ["a", "b"]
    assert trio.current_time() == 0.5
    assert [process.killed for process in rig.processes] == [True, True, False]
    assert "mission_unsettled mission=a" in caplog.text


@pytest.mark.parametrize("answer", [b"\0" + dumps(False), b"\0" + dumps(1), b"\1"])
async def test_any_other_answer_is_none(
    answer: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    rig = Rig()
    assert await rig.settle(rig.add("one", answer)) == ["one"]


async def test_a_channel_without_room_is_tried_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig()
    full = NoConnection("overloaded")
    refused = RemoteError("overloaded", "too many questions")
    assert await rig.settle(rig.add("one", full, refused, full, YES)) == []
    assert await rig.settle(rig.add("two", *[full] * 200)) == ["two"]


async def test_a_worker_that_closes_its_channel_is_killed_at_once_and_not_named(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig()
    endpoint = rig.add("one")
    endpoint.closed = True
    assert await rig.settle(endpoint) == []
    assert rig.processes[0].killed
    assert trio.current_time() == 0


async def test_a_process_that_does_not_go_is_not_waited_for_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig(goes=False)
    assert await rig.settle(rig.add("one")) == ["one"]
    assert trio.current_time() == pytest.approx(0.5 + REAP_S)


# -- real workers

KITCHEN = """
import os, threading
import trio
from drupelet import GenServer, mission

LOG = []
STARTED = []
DOOR = trio.Event()

@mission("kitchen")
async def tick(number: int) -> None:
    STARTED.append(number)
    while True:
        await trio.sleep(0.001)
        LOG.append(number)

@mission("kitchen")
async def clean_up() -> None:
    STARTED.append(0)
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await DOOR.wait()
            LOG.append("cleaned up")

@mission("kitchen", where="thread")
def compute(seconds: float) -> None:
    STARTED.append(0)
    threading.Event().wait(seconds)
    LOG.append("computed")

@mission("kitchen")
async def wait() -> None: await trio.sleep_forever()

@mission("kitchen")
class Oven(GenServer):
    async def bake(self) -> str:
        STARTED.append(0)
        await DOOR.wait()
        return "baked"
    def heat(self, number: int) -> None: LOG.append(number)

@mission("kitchen")
def open_door() -> None: DOOR.set()

@mission("kitchen")
def log() -> list: return list(LOG)

@mission("kitchen")
def started() -> int: return len(STARTED)

@mission("kitchen")
def pid() -> int: return os.getpid()
"""
EXPORTS = [
    "tick", "clean_up", "compute", "wait", "Oven.bake", "Oven.heat", "open_door", "log", "started",
    "pid",
]  # fmt: skip


class Kitchen:
    """A node with a real worker."""

    def __init__(self, node: Node) -> None:
        self.node = node

    async def call(self, function: str, *args: object) -> object:
        return await self.node.call("alice", "kitchen", function, *args, timeout=30)

    async def wait_started(self, count: int) -> None:
        while await self.call("started") != count:
            pass

    async def settle(self, within_s: float) -> list[str]:
        endpoint = self.node.missions.exports[b"kitchen/log"].endpoint
        assert endpoint is not None
        began = trio.current_time()
        calls = {endpoint: range(1, 1_000)}  # all that were ever made
        killed = await self.node.missions.settle(calls, within_s)
        print(f"settled after {(trio.current_time() - began) * 1000:.1f} ms, killed {killed}")
        return killed


@asynccontextmanager
async def open_kitchen(directory: Path) -> AsyncIterator[Kitchen]:
    missions = directory / "alice" / "missions.d"
    missions.mkdir(parents=True)
    (missions / "kitchen.py").write_text(KITCHEN)
    (missions / "kitchen.toml").write_text(f'module = "kitchen.py"\nexports = {EXPORTS}\n')
    with trio.fail_after(50):
        async with open_small_node(directory, "alice") as node:
            kitchen = Kitchen(node)
            await _until_it_serves(kitchen)
            yield kitchen


async def _until_it_serves(kitchen: Kitchen) -> None:
    while True:
        try:
            await kitchen.call("pid")
        except RemoteError as error:
            assert error.kind in ("mission_backoff", "mission_crashed")
            await trio.lowlevel.checkpoint()
        else:
            return


@asynccontextmanager
async def in_flight(*calls: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Calls that are cancelled when the block is left."""
    async with trio.open_nursery() as nursery:
        for each in calls:
            nursery.start_soon(each)
        yield
        nursery.cancel_scope.cancel()


async def test_nothing_of_200_calls_runs_on(tmp_path: Path) -> None:
    async with open_kitchen(tmp_path) as kitchen:

        def tick(number: int) -> Callable[[], Awaitable[object]]:
            return lambda: kitchen.call("tick", number)

        async with in_flight(*map(tick, range(200))):
            await kitchen.wait_started(200)
        assert await kitchen.settle(10) == []
        ran = await kitchen.call("log")
        for _ in range(20):
            assert await kitchen.call("log") == ran


async def test_a_thread_that_goes_on_costs_the_worker_its_life(tmp_path: Path) -> None:
    async with open_kitchen(tmp_path) as kitchen:
        pid = await kitchen.call("pid")
        assert isinstance(pid, int)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_is_told_of_the_crash, kitchen)
            async with in_flight(lambda: kitchen.call("compute", 2)):
                await kitchen.wait_started(1)
            assert await kitchen.settle(0.2) == ["kitchen"]
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        await _until_it_serves(kitchen)
        assert await kitchen.call("pid") != pid
        assert await kitchen.settle(10) == []


async def _is_told_of_the_crash(kitchen: Kitchen) -> None:
    with pytest.raises(RemoteError, match="mission_crashed"):
        await kitchen.call("wait")


async def test_a_thread_that_ends_in_time_is_waited_for(tmp_path: Path) -> None:
    async with open_kitchen(tmp_path) as kitchen:
        async with in_flight(lambda: kitchen.call("compute", 0.05)):
            await kitchen.wait_started(1)
        assert await kitchen.settle(20) == []
        assert await kitchen.call("log") == ["computed"]


async def test_50_requests_in_a_mailbox_are_never_handled(tmp_path: Path) -> None:
    baked: list[object] = []
    async with open_kitchen(tmp_path) as kitchen, trio.open_nursery() as nursery:

        async def bake() -> None:
            baked.append(await kitchen.call("Oven.bake"))

        def heat(number: int) -> Callable[[], Awaitable[object]]:
            return lambda: kitchen.call("Oven.heat", number)

        nursery.start_soon(bake)
        await kitchen.wait_started(1)
        async with in_flight(*map(heat, range(50))):
            await trio.testing.wait_all_tasks_blocked()
        assert await kitchen.settle(10) == []
        assert baked == []  # somebody else's, so it goes on
        await kitchen.call("open_door")
        await kitchen.call("Oven.heat", 1_000)
        assert await kitchen.call("log") == [1_000]
    assert baked == ["baked"]


async def test_a_finally_is_waited_for_up_to_the_limit(tmp_path: Path) -> None:
    order: list[object] = []
    async with open_kitchen(tmp_path) as kitchen:
        async with in_flight(lambda: kitchen.call("clean_up")):
            await kitchen.wait_started(1)

        async def settle() -> None:
            order.append(await kitchen.settle(20))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(settle)
            for _ in range(20):
                assert await kitchen.call("log") == []
            order.append("opens")
            await kitchen.call("open_door")
        assert order == ["opens", []]
        assert await kitchen.call("log") == ["cleaned up"]


async def test_a_finally_that_takes_longer_is_not(tmp_path: Path) -> None:
    async with open_kitchen(tmp_path) as kitchen:
        async with in_flight(lambda: kitchen.call("clean_up")):
            await kitchen.wait_started(1)
        assert await kitchen.settle(0.1) == ["kitchen"]
