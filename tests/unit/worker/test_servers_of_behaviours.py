"""Marked classes that are no GenServers: what callers reach of them, and what they never do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import drupelet.process.serving
from drupelet.errors import RemoteError
from drupelet.process import process_info, send, whereis
from drupelet.wire.ids import Pid
from drupelet.wire.messages.workers import INVALID_EXPORT, INVALID_FN_AND_ARITY
from tests.unit.worker.modules import problems_of, write
from tests.unit.worker.test_servers import modules_forgotten, open_rig

assert drupelet.process.serving  # loaded before a mission loads it, so that there is one

__all__ = ["modules_forgotten"]

DOOR = """
from drupelet import GenStatem, verb
import trio

@mission("m")
class Door(GenStatem):
    def init(self): self.entered = 0; return "locked"
    @verb
    def enter(self, code: int) -> str: ...
    @verb
    def count(self) -> int: ...
    @verb
    def wait(self) -> str:
        "Answers when it is open."
    @verb
    def slow(self, seconds: float) -> str: ...
    @cast
    def push(self) -> None: ...

    async def locked(self, kind, content):
        match kind, content:
            case "call", ("enter", 1234):
                self.entered += 1
                self.reply("welcome")
                return "opened"
            case "call", ("enter", _): self.reply("wrong")
            case "call", ("wait",): self.postpone()
            case "call", ("slow", seconds):
                await trio.sleep(seconds)
                self.reply("slow")
            case "call", ("count",): self.reply(self.entered)

    def opened(self, kind, content):
        match kind, content:
            case "cast", ("push",): return "locked"
            case "call", ("wait",):
                self.entered += 100
                self.reply("open")
            case "call", ("count",): self.reply(self.entered)
"""
ALARMS = """
from drupelet import GenEvent, verb
from drupelet.errors import RemoteError

@mission("m")
class Alarms(GenEvent):
    def init(self): self.seen = []
    @cast
    def raised(self, what: str) -> None: ...
    @verb
    def seen_so_far(self) -> list: ...
    @verb
    def fail(self, how: str) -> None: ...

    def handle_event(self, event):
        self.seen.append(event[1])
    def handle_call(self, request):
        match request:
            case ("seen_so_far",): return self.seen
            case ("fail", "politely"): raise RemoteError("too_loud", "wait")
            case ("fail", _): raise ValueError("bad")
"""
TREE = """
from drupelet import Child, GenServer, Supervisor

class Lamp(GenServer):
    def on(self): return "on"

@mission("m")
class Lamps(Supervisor):
    def init(self): return [Child("left", Lamp), Child("right", Lamp)]
"""


@pytest.fixture
def door(tmp_path: Path) -> Iterator[str]:
    yield write(tmp_path, "door", DOOR)


# -- a state machine


async def test_a_machines_verbs_are_events_of_its_states(door: str) -> None:
    async with open_rig(door) as rig:
        assert set(rig.loaded.missions["m"]) == {
            f"Door.{verb}" for verb in ("enter", "count", "wait", "slow", "push")
        }
        assert rig.loaded.missions["m"]["Door.enter"].shown == "Door.enter(code: int) -> str"
        assert await rig.call("Door.enter", 1) == "wrong"
        assert await rig.call("Door.enter", 1234) == "welcome"
        error = await rig.call("Door.enter", 1234)
        assert isinstance(error, RemoteError)
        assert error.kind == "undef" and "in state 'opened'" in error.message
        rig.send(-1, "Door.push")
        assert await rig.call("Door.enter", 1234) == "welcome"
        pid = await whereis("m.Door")
        assert pid is not None and process_info(pid)["received"] == 5


async def test_what_a_machine_put_off_can_be_taken_back(door: str) -> None:
    async with open_rig(door) as rig:
        rig.send(4, "Door.wait")
        rig.send(6, "Door.wait")
        await trio.testing.wait_all_tasks_blocked()
        rig.session.running.pop(4)()  # its caller gives up, or has no right any more
        assert await rig.call("Door.enter", 1234) == "welcome"
        await trio.testing.wait_all_tasks_blocked()
        assert rig.session.answers == {6: "open"}
        assert await rig.call("Door.count") == 101  # the first one never ran


async def test_what_a_machine_does_now_is_finished_and_told(door: str, autojump_clock: Any) -> None:
    async with open_rig(door) as rig:
        rig.send(4, "Door.slow", 5.0)
        await trio.sleep(1)
        rig.session.running.pop(4)()
        assert rig.endings.ask(9)
        assert rig.settled == []
        await trio.sleep(10)
        assert rig.settled == [9]


@pytest.mark.parametrize("name", ["locked", "opened", "init", "handle_event", "state_timeout"])
def test_what_is_no_verb_cannot_be_exported(door: str, name: str) -> None:
    [problem] = problems_of(door, exports=f"Door.{name}")
    assert problem.kind == INVALID_EXPORT
    assert (
        "never callable from outside" in problem.message or "write @verb above" in problem.message
    )


def test_a_verb_with_a_body_is_a_mistake(tmp_path: Path) -> None:
    code = "from drupelet import GenStatem, verb\nclass Door(GenStatem):\n    @verb\n"
    path = write(tmp_path, "door", code + "    def enter(self, code): return code\n")
    [problem] = problems_of(path, exports="Door.enter")
    assert "Door.enter: a verb has no body, only `...`" in problem.message


def test_a_machine_that_wants_arguments_cannot_start(tmp_path: Path) -> None:
    code = DOOR.replace("def init(self)", "def init(self, code)")
    [problem] = problems_of(write(tmp_path, "door", code), exports="Door.count")
    assert problem.kind == INVALID_FN_AND_ARITY and "without arguments" in problem.message


# -- an event manager


async def test_events_and_calls_reach_the_handler(tmp_path: Path) -> None:
    async with open_rig(write(tmp_path, "alarms", ALARMS)) as rig:
        rig.send(-1, "Alarms.raised", "smoke")
        rig.send(-1, "Alarms.raised", "water")
        assert await rig.call("Alarms.seen_so_far") == ["smoke", "water"]
        error = await rig.call("Alarms.fail", "politely")
        assert isinstance(error, RemoteError) and error.kind == "too_loud"
        assert await rig.call("Alarms.seen_so_far") == ["smoke", "water"]
        manager = await whereis("m.Alarms")
        assert isinstance(manager, Pid)
        await send(manager, ("$gen_notify", ("raised", "from inside")))  # as members may
        assert await rig.call("Alarms.seen_so_far") == ["smoke", "water", "from inside"]


async def test_a_handler_that_crashes_starts_anew(tmp_path: Path) -> None:
    async with open_rig(write(tmp_path, "alarms", ALARMS)) as rig:
        former = await whereis("m.Alarms")
        rig.send(-1, "Alarms.raised", "smoke")
        error = await rig.call("Alarms.fail", "hard")
        assert isinstance(error, RemoteError) and (error.kind, error.message) == (
            "ValueError",
            "bad",
        )
        assert await rig.call("Alarms.seen_so_far") == []
        assert await whereis("m.Alarms") not in (None, former)


# -- a supervisor


async def test_a_supervisor_is_asked_and_not_told_what_to_run(tmp_path: Path) -> None:
    path = write(tmp_path, "lamps", TREE)
    async with open_rig(path) as rig:
        assert await rig.call("Lamps.count_children") == {
            "specs": 2,
            "active": 2,
            "supervisors": 0,
            "workers": 2,
        }
        children = await rig.call("Lamps.which_children")
        assert isinstance(children, list) and [each[0] for each in children] == ["right", "left"]
        assert await rig.call("Lamps.terminate_child", "left") is None
        assert isinstance(await rig.call("Lamps.restart_child", "left"), Pid)
        error = await rig.call("Lamps.terminate_child", "middle")
        assert isinstance(error, RemoteError)
    for name in ("start_child", "delete_child", "start_link", "stop", "strategy"):
        [problem] = problems_of(path, exports=f"Lamps.{name}")
        assert problem.kind == INVALID_EXPORT
