"""The service with fakes in virtual time; the same with real processes is tests/integration."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.core.missions import HEALTHY_S, MissionSpec
from drupelet.errors import CallError, ConfigError, RemoteError, RemoteProtocolError, Timeout
from drupelet.services.launchers import FakeLauncher, FakeProcess
from drupelet.services.missions import RINGS, Missions
from drupelet.wire.codec import dumps, loads
from drupelet.wire.frames import FrameReader, split_call
from drupelet.wire.messages.workers import (
    ExportEntry,
    Problem,
    WorkerFailure,
    WorkerHello,
    WorkerOrder,
    decode_order,
    encode_hello,
)

DIGEST = bytes(range(16))
SPEC = MissionSpec(name="kvs", modules=("kvs",), exports=("store", "lookup"), source="kvs.toml")
HELLO = WorkerHello({"kvs": (ExportEntry("store"), ExportEntry("lookup", True, "l()"))}, DIGEST)


class FakeEndpoint:
    """services/endpoint.py without a channel."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.sock = sock
        self.name = name
        self.on_hello: Callable[[bytes], None] | None = None
        self.on_pong: Callable[[int], None] | None = None
        self.close_error: CallError | None = None
        self.open_calls = 0
        self.closed = False
        self.closed_with: CallError | None = None
        self.pings: list[int] = []
        self.loads_asked: list[object] = []
        self.answer: WorkerHello | WorkerFailure | bytes | Exception = HELLO
        self._ended = trio.Event()
        self._error: RemoteProtocolError | None = None

    async def run(self) -> str:
        try:
            await self._ended.wait()
        finally:
            self.close(self.close_error or RemoteError("closed", ""))
        if self._error is not None:
            raise self._error
        return "closed"

    async def call(self, prefix: bytes, args: bytes, deadline: float) -> bytes:
        """New code: waits until `answer` is given."""
        await trio.lowlevel.checkpoint()
        assert split_call(prefix).target == b"/load"
        self.loads_asked.append(loads(args))
        if isinstance(self.answer, Exception):
            raise self.answer
        body = self.answer if isinstance(self.answer, bytes) else encode_hello(self.answer)
        return b"\0" + dumps(body)

    def ping(self, token: int) -> None:
        self.pings.append(token)

    def close(self, error: CallError) -> None:
        if not self.closed:
            self.closed = True
            self.closed_with = error
            self.sock.close()
            self._ended.set()

    def say(self, hello: WorkerHello | WorkerFailure | bytes) -> None:
        """As the channel's reader does it: what a handler raises ends `run`."""
        assert self.on_hello is not None
        try:
            self.on_hello(hello if isinstance(hello, bytes) else encode_hello(hello))
        except RemoteProtocolError as error:
            self._error = error
            self._ended.set()


class Rig:
    def __init__(self, *specs: MissionSpec, state_dir: Path | None = None) -> None:
        self.launcher = FakeLauncher()
        self.endpoints: list[FakeEndpoint] = []
        self.missions = Missions(
            launcher=self.launcher,
            open_endpoint=self._open,
            state_dir=state_dir,
            random=lambda: 1.0,
        )
        for spec in specs:
            self.missions.add(spec)

    def _open(self, sock: socket.socket, name: str) -> FakeEndpoint:
        self.endpoints.append(FakeEndpoint(sock, name))
        return self.endpoints[-1]

    @property
    def process(self) -> FakeProcess:
        return self.launcher.started[-1][1]

    def state(self) -> object:
        return self.missions.snapshot()[-1]["state"]

    def kind(self) -> str:
        error = self.missions.exports[b"kvs/store"].unavailable
        return error.kind if isinstance(error, RemoteError) else ""


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.missions.run)
        await trio.testing.wait_all_tasks_blocked()
        yield rig
        nursery.cancel_scope.cancel()
    assert all(process.killed or process._code is not None for _, process in rig.launcher.started)


async def test_from_order_to_ready(autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    async with running(Rig(SPEC, state_dir=tmp_path)) as rig:
        assert (rig.state(), rig.kind()) == ("starting", "mission_backoff")
        (order,) = FrameReader().receive_data(rig.process.sock.recv(65_536))
        assert decode_order(order.body).exports == ("store", "lookup")
        assert (tmp_path / "missions" / "kvs").stat().st_mode & 0o777 == 0o700
        rig.endpoints[0].say(HELLO)
        store, lookup = rig.missions.exports[b"kvs/store"], rig.missions.exports[b"kvs/lookup"]
        assert store.endpoint is rig.endpoints[0]
        assert (store.unavailable, store.digest, store.rings) == (None, DIGEST, RINGS)
        assert (store.is_cast, lookup.is_cast, lookup.signature) == (False, True, "l()")
        assert rig.missions.digest("kvs") == DIGEST
        assert rig.missions.digest("none") == b""
        (shown,) = rig.missions.snapshot()
        assert shown == {
            "name": "kvs", "exports": ["store", "lookup"], "digest": DIGEST.hex(),
            "state": "ready", "problem": "", "restarts": 0,
        }  # fmt: skip


async def test_ready_does_not_wait_for_a_slow_worker_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig(SPEC)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(3):
            await nursery.start(rig.missions.run)
        nursery.cancel_scope.cancel()


async def test_a_crash_is_told_and_mended(autojump_clock: trio.testing.MockClock) -> None:
    async with running(Rig(SPEC)) as rig:
        rig.endpoints[0].say(HELLO)
        rig.process.exit(-11)
        with trio.fail_after(1):
            await rig.launcher.started_one.wait()
        closed_with = rig.endpoints[0].closed_with
        assert isinstance(closed_with, RemoteError)
        assert closed_with.kind == "mission_crashed"
        await trio.testing.wait_all_tasks_blocked()
        rig.endpoints[1].say(HELLO)
        assert rig.missions.exports[b"kvs/store"].endpoint is rig.endpoints[1]
        assert rig.missions.snapshot()[0]["restarts"] == 1


async def test_a_closed_channel_ends_the_worker(autojump_clock: trio.testing.MockClock) -> None:
    async with running(Rig(SPEC)) as rig:
        rig.endpoints[0].say(HELLO)
        rig.endpoints[0].close(RemoteError("closed", ""))
        await trio.testing.wait_all_tasks_blocked()
        assert rig.kind() == "mission_backoff"
        with trio.fail_after(2):
            await rig.process.wait()
        assert rig.process.killed


async def test_a_stuck_worker_is_killed_and_an_idle_one_is_left_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(Rig(SPEC)) as rig:
        endpoint = rig.endpoints[0]
        endpoint.say(HELLO)
        endpoint.on_pong(99)  # type: ignore[misc]
        process = rig.process
        with trio.move_on_after(HEALTHY_S):
            await process.wait()
        assert endpoint.pings == [] and not process.killed
        endpoint.open_calls = 1
        began = trio.current_time()
        with trio.fail_after(20):
            await process.wait()
        assert 10.0 <= trio.current_time() - began <= 12.5
        assert endpoint.pings == [1] and process.killed
        assert isinstance(endpoint.closed_with, RemoteError)
        assert endpoint.closed_with.kind == "mission_stuck"


async def test_a_mission_that_does_not_load(autojump_clock: trio.testing.MockClock) -> None:
    problem = Problem(kind="invalid_export", file="kvs.py", line=3, message="no store")
    async with running(Rig(SPEC)) as rig:
        rig.endpoints[0].say(WorkerFailure((problem,)))
        rig.process.exit(78)
        with trio.move_on_after(100):
            await rig.launcher.started_one.wait()
        assert len(rig.launcher.started) == 1
        assert (rig.state(), rig.kind()) == ("refused", "invalid_export")
        assert "kvs.py:3" in str(rig.missions.snapshot()[0]["problem"])


@pytest.mark.parametrize("hello", [b"", b"\xa0", b"\xff" * 100])
async def test_a_worker_that_lies_in_its_hello_is_killed(
    autojump_clock: trio.testing.MockClock, hello: bytes
) -> None:
    async with running(Rig(SPEC)) as rig:
        process = rig.process
        rig.endpoints[0].say(hello)
        with trio.fail_after(1):
            await process.wait()
        assert process.killed


async def test_a_worker_cannot_widen_its_list(autojump_clock: trio.testing.MockClock) -> None:
    wide = WorkerHello(
        {"kvs": (ExportEntry("store"), ExportEntry("more")), "node": (ExportEntry("ping"),)}, DIGEST
    )
    async with running(Rig(SPEC)) as rig:
        rig.endpoints[0].say(wide)
        assert set(rig.missions.exports) == {b"kvs/store", b"kvs/lookup"}
        missing = rig.missions.exports[b"kvs/lookup"]
        assert isinstance(missing.unavailable, RemoteError)
        assert missing.unavailable.kind == "undef"


async def test_a_process_that_cannot_be_started_is_tried_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig(SPEC)
    rig.launcher.failures = 3
    async with running(rig):
        with trio.fail_after(10):
            while not rig.launcher.started:
                await rig.launcher.started_one.wait()


async def test_run_file_serves_what_is_marked(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig(SPEC, MissionSpec(name="", modules=("/x/kitchen.py",)))
    rig.missions.add_system("node", {"ping": lambda: "pong"}, RINGS)
    async with running(rig):
        two = rig.endpoints[[e.name for e in rig.endpoints].index("kitchen")]
        assert rig.missions.snapshot()[-1]["name"] == "kitchen"
        boil = ExportEntry("boil")
        two.say(WorkerHello({"a": (boil,), "b": (boil,), "kvs": (boil,), "node": (boil,)}, DIGEST))
        assert {b"a/boil", b"b/boil"} < set(rig.missions.exports)
        assert b"kvs/boil" not in rig.missions.exports
        assert b"node/boil" not in rig.missions.exports
        assert rig.missions.exports[b"node/ping"].inline is not None
        assert [shown["name"] for shown in rig.missions.snapshot()] == ["node", "kvs", "a", "b"]


def test_names_are_taken_once_and_files_are_read(tmp_path: Path) -> None:
    rig = Rig(SPEC)
    with pytest.raises(ConfigError, match="there already"):
        rig.missions.add(SPEC)
    (tmp_path / "kvs.toml").write_text('module = "kvs"\nexports = ["store"]\n')
    missions = Missions(tmp_path, launcher=FakeLauncher(), open_endpoint=FakeEndpoint)
    assert set(missions.exports) == {b"kvs/store"}


# -- new code

PROBLEM = Problem(kind="file_wont_compile", file="shipped/x/kvs.py", line=3, message="bad")
FAILURE = WorkerFailure((PROBLEM,))
NEW = WorkerHello({"kvs": (ExportEntry("store"), ExportEntry("lookup"))}, bytes(16))


def order_of(rig: Rig) -> WorkerOrder:
    (order,) = FrameReader().receive_data(rig.process.sock.recv(65_536))
    return decode_order(order.body)


async def test_new_code_in_place(autojump_clock: trio.testing.MockClock) -> None:
    async with running(Rig(SPEC)) as rig:
        rig.endpoints[0].say(HELLO)
        export = rig.missions.exports[b"kvs/lookup"]
        rig.endpoints[0].answer = NEW
        await rig.missions.load_code(SPEC, "/code/kvs.next", bytes(16))
        assert rig.endpoints[0].loads_asked == [["/code/kvs.next", bytes(16)]]
        assert rig.missions.exports[b"kvs/lookup"] is export
        assert (export.digest, export.is_cast) == (bytes(16), False)
        assert rig.missions.digest("kvs") == bytes(16)
        assert not rig.process.killed


async def test_new_code_that_does_not_load(autojump_clock: trio.testing.MockClock) -> None:
    async with running(Rig(SPEC)) as rig:
        rig.endpoints[0].say(HELLO)
        rig.endpoints[0].answer = FAILURE
        with pytest.raises(RemoteError, match="kvs.py:3: file_wont_compile: bad"):
            await rig.missions.load_code(SPEC, "/x", bytes(16))
        assert rig.missions.digest("kvs") == DIGEST
        assert (rig.state(), rig.kind()) == ("ready", "")


@pytest.mark.parametrize("answer", [Timeout(True), b"\xa0", b"\xff"])
async def test_a_worker_that_does_not_say_what_came_of_it_is_killed(
    autojump_clock: trio.testing.MockClock, answer: bytes | Exception
) -> None:
    async with running(Rig(SPEC)) as rig:
        rig.endpoints[0].say(HELLO)
        rig.endpoints[0].answer = answer
        process = rig.process
        with pytest.raises(RemoteError, match="mission_stuck"):
            await rig.missions.load_code(SPEC, "/x", bytes(16))
        assert process.killed


async def test_each_start_asks_which_code(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig(SPEC)
    asked: list[MissionSpec] = []

    async def code_for(spec: MissionSpec) -> str:
        asked.append(spec)
        return f"/code/{len(asked)}"

    rig.missions.code_for = code_for
    async with running(rig):
        assert order_of(rig).shipped == "/code/1"
        rig.process.exit(1)
        with trio.fail_after(1):
            await rig.launcher.started_one.wait()
        assert order_of(rig).shipped == "/code/2"
        assert asked == [SPEC, SPEC]


async def test_new_code_mends_a_mission_that_was_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(Rig(SPEC)) as rig, trio.open_nursery() as nursery:
        rig.endpoints[0].say(FAILURE)
        nursery.start_soon(rig.missions.load_code, SPEC, "/new", DIGEST)
        await trio.testing.wait_all_tasks_blocked()
        assert len(rig.launcher.started) == 1  # the former process is not gone yet
        rig.process.exit(78)
        await trio.testing.wait_all_tasks_blocked()
        assert order_of(rig).shipped == "/new"
        rig.endpoints[1].say(HELLO)
        await trio.testing.wait_all_tasks_blocked()
        assert rig.state() == "ready"


async def test_new_code_that_mends_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with running(Rig(SPEC)) as rig:
        rig.endpoints[0].say(HELLO)
        rig.process.exit(-9)
        await trio.sleep(0.55)  # its channel's grace, and half of the wait before a restart
        assert rig.state() == "backoff"

        async def load() -> None:
            with pytest.raises(RemoteError, match="kvs.py:3"):
                await rig.missions.load_code(SPEC, "/new", DIGEST)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            await trio.testing.wait_all_tasks_blocked()
            assert order_of(rig).shipped == "/new"
            rig.endpoints[-1].say(FAILURE)
            await trio.testing.wait_all_tasks_blocked()
            rig.process.exit(78)
        await trio.testing.wait_all_tasks_blocked()
        assert order_of(rig).shipped == ""  # the operator's, once more
        rig.endpoints[-1].say(HELLO)
        assert rig.state() == "ready"


SPAWNED = MissionSpec(name="tools", modules=("tools",), exports=())


@pytest.mark.parametrize("loads", [True, False])
async def test_code_of_no_mission_gets_a_worker_of_its_own(
    autojump_clock: trio.testing.MockClock, loads: bool
) -> None:
    outcome: list[str] = []
    async with running(Rig(SPEC)) as rig:
        rig.endpoints[0].say(HELLO)

        async def load() -> None:
            try:
                await rig.missions.load_code(SPAWNED, "/new", DIGEST)
                outcome.append("loaded")
            except RemoteError as error:
                outcome.append(error.kind)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            await trio.testing.wait_all_tasks_blocked()
            order = order_of(rig)
            assert (order.mission, order.exports, order.shipped) == ("tools", (), "/new")
            rig.endpoints[1].say(WorkerHello({"tools": ()}, DIGEST) if loads else FAILURE)
            if not loads:
                rig.process.exit(78)
        names = [shown["name"] for shown in rig.missions.snapshot()]
        assert set(rig.missions.exports) == {b"kvs/store", b"kvs/lookup"}
        if loads:
            assert (outcome, names) == (["loaded"], ["kvs", "tools"])
            # asked once more: it answers when its processes are the node's
            assert rig.endpoints[1].loads_asked == [["/new", DIGEST]]
            assert rig.missions.snapshot()[1]["digest"] == DIGEST.hex()
            assert rig.missions.specs() == [SPEC, SPAWNED]
        else:
            assert (outcome, names) == (["file_wont_compile"], ["kvs"])
            with trio.move_on_after(100):
                await rig.launcher.started_one.wait()
            assert len(rig.launcher.started) == 2


async def test_marks_that_stay_keep_their_place(autojump_clock: trio.testing.MockClock) -> None:
    spec = MissionSpec(name="", modules=("/x/kitchen.py",))
    async with running(Rig(spec)) as rig:
        rig.endpoints[0].say(WorkerHello({"a": (ExportEntry("f"), ExportEntry("g"))}, DIGEST))
        f, g = rig.missions.exports[b"a/f"], rig.missions.exports[b"a/g"]
        hello = WorkerHello({"a": (ExportEntry("f"), ExportEntry("h"))}, bytes(16))
        rig.endpoints[0].answer = hello
        await rig.missions.load_code(spec, "/x", bytes(16))
        assert set(rig.missions.exports) == {b"a/f", b"a/h"}
        assert rig.missions.exports[b"a/f"] is f
        assert (f.digest, g.digest) == (bytes(16), b"")  # a prepared call of g carries none
