"""Missions in real processes, behind a whole node: whatever one does hurts nobody else."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from drupelet.errors import CallError, RemoteError
from drupelet.node import Node, open_node
from drupelet.services.missions import MissionSpec
from tests.unit.services.nodes import make_config

HOSTILE = """
import ctypes, os, socket, sys, threading
from drupelet import cast, mission

PATHS = ["/proc/self/fd/" + name for name in os.listdir("/proc/self/fd")]
OPEN = {path: os.readlink(path) for path in PATHS if os.path.lexists(path)}  # trio's own come later
FILES = list(OPEN.values())

CHANNEL = next(int(path[14:]) for path, name in OPEN.items() if name.startswith("socket:"))

@mission("bad")
def crash() -> None: os._exit(7)

@mission("bad")
def fault() -> None: ctypes.string_at(0)

@mission("bad")
def spin() -> None:
    while True: pass

@mission("bad")
def allocate() -> int: return len(bytearray(1 << 30))

@mission("bad")
def say(count: int) -> None:
    for n in range(count): print("line", n, "\\x1b[31m")
    os.write(1, b"native\\n")

@mission("bad")
def surroundings() -> list:
    return [os.getcwd(), sorted(os.environ), FILES, os.getsid(0) == os.getpid()]

@mission("bad")
def flood(what: bytes, megabytes: int) -> None:
    sock = socket.socket(fileno=os.dup(CHANNEL))
    sock.setblocking(True)
    for _ in range(megabytes << 20 >> 16): sock.sendall(what)

@mission("bad")
def leave_a_child() -> int:
    pid = os.fork()
    if pid == 0:
        while True: os.read(0, 1); threading.Event().wait()
    return pid

@mission("bad")
class Oven:
    def __init__(self) -> None: self.degrees = 20
    def heat(self, degrees: int) -> int: self.degrees = degrees; return degrees
    def read(self) -> int: return self.degrees
    @cast
    def cool(self) -> None: self.degrees = 20

@mission("bad")
async def wait_for_ever() -> None:
    import trio
    await trio.sleep_forever()
"""


@asynccontextmanager
async def open_hostile(tmp_path: Path, *, stuck_s: float = 10.0) -> AsyncIterator[Node]:
    module = tmp_path / "bad.py"
    module.write_text(HOSTILE)
    config = make_config(tmp_path, "a")
    kvs = Path(__file__).parents[2] / "config" / "missions.d" / "kvs.toml"
    (config.missions.dir / "kvs.toml").write_text(kvs.read_text())
    spec = MissionSpec(name="", modules=(str(module),), stuck_s=stuck_s)
    with trio.fail_after(30):
        async with open_node(config, [spec]) as node:
            await node.call("a", "kvs", "store", "weather", "fine")
            yield node
            # The other mission never noticed: its memory is its worker's.
            assert await node.call("a", "kvs", "lookup", "weather") == ("ok", "fine")
            states = {m["name"]: m["restarts"] for m in node.missions.snapshot()}
            assert states["kvs"] == 0


async def fails(node: Node, function: str, *args: object) -> RemoteError:
    with pytest.raises(CallError) as caught:
        await node.call("a", "bad", function, *args)
    assert isinstance(caught.value, RemoteError), caught.value
    return caught.value


async def wait_ready(node: Node) -> None:
    """Until the hostile mission serves again."""
    while True:
        try:
            await node.call("a", "bad", "Oven.read")
        except RemoteError as error:
            assert error.kind in ("mission_backoff", "mission_crashed")
            await trio.lowlevel.checkpoint()
        else:
            return


@pytest.mark.parametrize("function", ["crash", "fault"])
async def test_a_crash_is_told_and_mended(tmp_path: Path, function: str) -> None:
    async with open_hostile(tmp_path) as node:
        assert (await fails(node, function)).kind == "mission_crashed"
        await wait_ready(node)
        assert await node.call("a", "bad", "Oven.heat", 99) == 99


async def test_an_endless_loop_is_killed(tmp_path: Path) -> None:
    async with open_hostile(tmp_path, stuck_s=0.5) as node:
        began = trio.current_time()
        error = await fails(node, "spin")
        assert error.kind == "mission_stuck"
        assert trio.current_time() - began < 3
        await wait_ready(node)


async def test_an_async_call_that_waits_is_not_stuck(tmp_path: Path) -> None:
    async with open_hostile(tmp_path, stuck_s=1.0) as node:
        with trio.move_on_after(2.5):
            await node.call("a", "bad", "wait_for_ever")
        assert await node.call("a", "bad", "Oven.read") == 20
        assert [m["restarts"] for m in node.missions.snapshot() if m["name"] == "bad"] == [0]


async def test_a_gigabyte_is_a_memory_error_and_the_mission_lives(tmp_path: Path) -> None:
    async with open_hostile(tmp_path) as node:
        await node.call("a", "bad", "Oven.heat", 99)
        assert (await fails(node, "allocate")).kind == "MemoryError"
        assert await node.call("a", "bad", "Oven.read") == 99


async def test_state_and_casts(tmp_path: Path) -> None:
    async with open_hostile(tmp_path) as node:
        await node.call("a", "bad", "Oven.heat", 99)
        assert await node.call("a", "bad", "Oven.cool") is None
        assert await node.call("a", "bad", "Oven.read") == 20
        assert (await fails(node, "Oven.heat")).kind == "badarg"
        assert (await fails(node, "Oven.init")).kind == "undef"


async def test_prints_come_to_the_log_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "drupelet.mission")
    async with open_hostile(tmp_path) as node:
        await node.call("a", "bad", "say", 3)
        await node.call("a", "bad", "say", 20_000)
    lines = [record.getMessage() for record in caplog.records if "printed" in record.getMessage()]
    assert "mission=bad printed: line 0 ?[31m" in lines
    assert "mission=bad printed: native" in lines
    assert len(lines) < 2_000


async def test_what_a_worker_sees(tmp_path: Path) -> None:
    async with open_hostile(tmp_path) as node:
        cwd, names, files, own_session = await node.call("a", "bad", "surroundings")
        assert cwd == str(tmp_path / "a" / "missions" / "bad")
        assert names == ["HOME", "LANG", "MALLOC_ARENA_MAX", "PATH"]
        kinds = sorted(re.sub(r"[0-9]+", "N", name) for name in files)
        assert kinds == ["/dev/null", "pipe:[N]", "pipe:[N]", "socket:[N]"]
        assert own_session


REPLY_FRAME = b"\0\0\0\7\3\0\xff\xff\xfe\0\xf6"  # to a call that nobody made
PONG_FRAME = b"\0\0\0\x0d\x0b\0\0\0\0\0\0\0\0\0\0\0\1"


@pytest.mark.parametrize("what", [b"\xff", REPLY_FRAME, PONG_FRAME])
async def test_a_flood_of_frames_hurts_nobody_else(tmp_path: Path, what: bytes) -> None:
    async with open_hostile(tmp_path) as node:
        error = None
        try:
            await node.call("a", "bad", "flood", what * (65_536 // len(what)), 4)
        except CallError as caught:
            error = caught
        # Frames that lead nowhere are dropped; bytes that are no frames end the worker.
        assert (error is None) == (what != b"\xff"), error
        await wait_ready(node)
        assert await node.call("a", "kvs", "lookup", "weather") == ("ok", "fine")


def state_of(pid: int) -> str:
    """The letter of proc(5), or "" for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


async def test_what_a_mission_leaves_behind_dies_with_it(tmp_path: Path) -> None:
    async with open_hostile(tmp_path) as node:
        pid = await node.call("a", "bad", "leave_a_child")
        assert isinstance(pid, int)
        assert state_of(pid) not in ("", "Z")
        await fails(node, "crash")
        await wait_ready(node)
        assert state_of(pid) in ("", "Z")


async def test_a_mission_that_does_not_load_tells_its_callers_where(tmp_path: Path) -> None:
    config = make_config(tmp_path, "a")
    (config.missions.dir / "m.py").write_text("def f(:\n")
    (config.missions.dir / "m.toml").write_text('module = "m.py"\nexports = ["f"]\n')
    with trio.fail_after(20):
        async with open_node(config) as node:
            with pytest.raises(RemoteError) as caught:
                await node.call("a", "m", "f")
            assert caught.value.kind == "file_wont_compile"
            assert "m.py:1" in caught.value.message
            assert [m["state"] for m in node.missions.snapshot() if m["name"] == "m"] == ["refused"]
