"""The processes of a mission, and calls that become requests to them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import drupelet.process.gen_server
from drupelet.errors import CallError, NoConnection, ProcessDown, RemoteError
from drupelet.process import exit, process_info, register, spawn, whereis
from drupelet.process.running import open_runtime
from drupelet.process.runtime import Runtime
from drupelet.process.table import LIMIT
from drupelet.wire.limits import WORKER_CALLS_MAX
from drupelet.worker.endings import Endings
from drupelet.worker.loading import Loaded
from drupelet.worker.servers import INTENSITY, Servers, as_remote
from drupelet.worker.targets import Target
from tests.unit.worker.modules import load_order, write

OVEN = """
from drupelet import GenServer
from drupelet.errors import RemoteError
import trio

@mission("m")
class Oven(GenServer):
    def init(self) -> None: self.degrees = 20; self.log = []
    def heat(self, by: int) -> int: self.degrees += by; self.log.append(by); return self.degrees
    def read(self) -> list: return self.log
    def crash(self) -> None: raise ValueError("bad")
    def refuse(self) -> None: raise RemoteError("too_hot", "wait")
    async def bake(self, seconds: float) -> int:
        await trio.sleep(seconds)
        return self.degrees
    @cast
    def cool(self) -> None: self.degrees = 20
"""

assert drupelet.process.gen_server  # loaded before a mission loads it, so that there is one


@pytest.fixture(autouse=True)
def modules_forgotten() -> Iterator[None]:
    modules, path = dict(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.path[:] = path


class FakeSession:
    """What a session would answer."""

    def __init__(self) -> None:
        self.running: dict[int, Any] = {}
        self.answers: dict[int, object] = {}
        self.casts = 0

    def finish(self, ident: int, target: Target, value: object) -> None:
        if ident < 0:
            self.casts += 1
        elif self.running.pop(ident, None) is not None:
            self.answers[ident] = value

    def fail(self, ident: int, target: Target, error: BaseException) -> None:
        if self.running.pop(ident, None) is not None:
            self.answers[ident] = error


class Rig:
    """A mission's servers that run, and its channel."""

    def __init__(self, runtime: Runtime, loaded: Loaded) -> None:
        self.runtime = runtime
        self.loaded = loaded
        self.session = FakeSession()
        self.settled: list[int] = []
        self.endings = Endings(self.settled.append)
        self.failures: list[str] = []
        self.lasts: list[bool] = []  # whether each answer was the last one that waited
        self.servers = Servers(runtime, lambda: self.loaded, self.endings)

    async def run(self, started: trio.Event) -> None:
        self.failures.append(await self.servers.run(started.set))

    def send(self, ident: int, verb: str, *args: object) -> None:
        """A call comes in; ident -1: a cast."""
        target = self.loaded.missions["m"][verb if "." in verb else f"Oven.{verb}"]
        assert target.slot is not None
        target.slot.serve(self.session, self._wake, ident, target, list(args))

    def _wake(self, was_last: bool) -> None:
        self.lasts.append(was_last)

    async def call(self, verb: str, *args: object) -> object:
        """The value of one call, or its error."""
        self.send(2, verb, *args)
        await trio.testing.wait_all_tasks_blocked()
        return self.session.answers.pop(2)


@asynccontextmanager
async def open_rig(*paths: str, exports: str | None = None) -> AsyncIterator[Rig]:
    loaded = load_order(*paths, exports=exports)
    async with open_runtime() as runtime:
        rig = Rig(runtime, loaded)
        started = trio.Event()
        runtime.nursery.start_soon(rig.run, started)
        with trio.fail_after(60):
            await started.wait()
        yield rig


@pytest.fixture
def oven(tmp_path: Path) -> str:
    return write(tmp_path, "oven", OVEN)


# -- calls


async def test_calls_and_casts_reach_one_process_that_has_a_name(oven: str) -> None:
    async with open_rig(oven) as rig:
        assert await rig.call("heat", 160) == 180
        rig.send(-1, "cool")
        assert rig.session.casts == 1
        assert await rig.call("heat", 5) == 25
        pid = await whereis("m.Oven")
        assert pid is not None
        assert process_info(pid)["received"] == 3
        assert rig.session.running == {}
        assert rig.lasts == [True, True]


async def test_requests_keep_the_order_of_the_channel(oven: str) -> None:
    async with open_rig(oven) as rig:
        for number in range(49):
            rig.send(-1 if number % 3 else 2 * number, "heat", number)
        await trio.testing.wait_all_tasks_blocked()
        assert rig.lasts == [False] * 16 + [True]
        assert await rig.call("read") == list(range(49))


async def test_the_kinds_of_failure(oven: str) -> None:
    async with open_rig(oven) as rig:
        for verb, kind, message in (
            ("refuse", "too_hot", "wait"),
            ("crash", "ValueError", "bad"),
        ):
            error = await rig.call(verb)
            assert isinstance(error, RemoteError)
            assert (error.kind, error.message) == (kind, message)
        assert await rig.call("heat", 1) == 21  # it was restarted


async def test_what_comes_while_it_is_down_waits(oven: str) -> None:
    async with open_rig(oven) as rig:
        rig.send(2, "heat", 1)
        rig.send(4, "crash")
        rig.send(6, "heat", 2)  # in the mailbox of the one that crashes
        await trio.lowlevel.checkpoint()
        assert await whereis("m.Oven") is None
        rig.send(8, "heat", 3)
        rig.send(10, "heat", 4)
        rig.send(-1, "heat", 5)
        rig.session.running[8]()  # its caller gives up
        await trio.testing.wait_all_tasks_blocked()
        answers = rig.session.answers
        assert answers[2] == 21
        assert isinstance(answers[4], RemoteError)
        assert isinstance(answers[6], RemoteError)
        assert answers[10] == 24
        assert await rig.call("read") == [4, 5]
        assert 8 not in answers


async def test_a_caller_that_gives_up_is_forgotten(oven: str, autojump_clock: Any) -> None:
    async with open_rig(oven) as rig:
        rig.send(2, "bake", 10)
        await trio.sleep(1)
        rig.session.running.pop(2)()
        assert not rig.runtime.asks or all(
            ask.timer is not None for ask in rig.runtime.asks.values()
        )
        await trio.sleep(20)
        assert rig.session.answers == {}
        assert await rig.call("heat", 1) == 21


async def test_many_at_once_keep_their_order(oven: str, autojump_clock: Any) -> None:
    async with open_rig(oven) as rig:
        slot = rig.servers.slots["m.Oven"]
        assert await slot.ask_all("heat", []) == []
        outcomes = await slot.ask_all("heat", [[number] for number in range(20)])
        assert outcomes == [(20 + sum(range(n + 1)), None) for n in range(20)]
        outcomes = await slot.ask_all("refuse", [[], [1]])
        assert [str(error) for _, error in outcomes] == [
            "too_hot: wait", "badarg: Oven.refuse() -> None: 1 argument given"
        ]  # fmt: skip
        outcomes = await slot.ask_all("crash", [[], []])
        assert [str(error) for _, error in outcomes] == ["ValueError: bad"] * 2
        with trio.move_on_after(1) as scope:
            await slot.ask_all("bake", [[10], [10]])
        assert scope.cancelled_caught
        assert all(ask.timer is not None for ask in rig.runtime.asks.values())


# -- callers that give up


async def test_50_requests_that_were_cancelled_are_not_handled(
    oven: str, autojump_clock: Any
) -> None:
    async with open_rig(oven) as rig:
        rig.send(2, "bake", 10)
        await trio.sleep(1)
        for number in range(50):
            rig.send(4 + 2 * number, "heat", number)
        rig.send(200, "heat", 1_000)  # somebody else's
        for number in range(50):
            rig.session.running.pop(4 + 2 * number)()
        assert rig.endings.ask(300)
        assert rig.settled == [300]  # at once: none has begun
        await trio.sleep(20)
        assert rig.session.answers == {2: 20, 200: 1_020}
        assert await rig.call("read") == [1_000]


async def test_a_verb_under_way_is_waited_for(oven: str, autojump_clock: Any) -> None:
    async with open_rig(oven) as rig:
        rig.send(2, "bake", 10)
        await trio.sleep(1)
        rig.session.running.pop(2)()
        assert rig.endings.ask(4)
        await trio.sleep(8)
        assert rig.settled == []
        await trio.sleep(2)
        assert rig.settled == [4]


async def test_many_in_one_call_are_given_up_before_the_server_goes_on(
    oven: str, autojump_clock: Any
) -> None:
    async with open_rig(oven) as rig:
        slot = rig.servers.slots["m.Oven"]
        give_up: list[Callable[[], None]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slot.ask_all, "bake", [[10], [20], [30]], give_up)
            await trio.sleep(1)
            for each in give_up:
                each()
            assert rig.endings.ask(4)
            nursery.cancel_scope.cancel()
        assert len(rig.endings) == 1
        await trio.sleep(10)
        assert rig.settled == [4]
        assert await rig.call("heat", 1) == 21


async def test_what_waits_for_a_restart_is_not_handled_after_it(oven: str) -> None:
    async with open_rig(oven) as rig:
        pid = await whereis("m.Oven")
        assert pid is not None
        exit(pid, "kill")
        await trio.lowlevel.checkpoint()
        rig.send(2, "heat", 1)
        rig.session.running.pop(2)()
        assert rig.endings.ask(4)
        assert rig.settled == [4]
        assert await rig.call("read") == []


# -- bounds


async def test_a_full_mailbox_at_the_maximum_and_one_above(oven: str) -> None:
    async with open_rig(oven) as rig:
        rig.send(0, "heat", 0)  # to the server itself, which waits for it
        for number in range(1, LIMIT + 1):
            rig.send(2 * number, "heat", 0)
        assert rig.session.answers == {}
        ident = 2 * LIMIT + 2
        rig.send(ident, "heat", 0)
        rig.send(-1, "heat", 1)
        error = rig.session.answers[ident]
        assert isinstance(error, RemoteError)
        assert error.kind == "overloaded"
        await trio.testing.wait_all_tasks_blocked()
        assert rig.session.answers[ident - 2] == 20
        assert await rig.call("heat", 0) == 20


async def test_the_line_of_a_server_that_is_down_at_the_maximum_and_one_above(oven: str) -> None:
    async with open_rig(oven) as rig:
        pid = await whereis("m.Oven")
        assert pid is not None
        exit(pid, "kill")
        for number in range(WORKER_CALLS_MAX):
            rig.send(2 * number, "heat", 1)
        assert rig.session.answers == {}
        rig.send(2 * WORKER_CALLS_MAX, "heat", 1)
        error = rig.session.answers[2 * WORKER_CALLS_MAX]
        assert isinstance(error, RemoteError)
        assert error.kind == "overloaded"
        await trio.testing.wait_all_tasks_blocked()
        assert await rig.call("heat", 0) == 20 + WORKER_CALLS_MAX


# -- starts and ends


@pytest.mark.parametrize("crashes", [INTENSITY, INTENSITY + 1])
async def test_too_many_restarts_end_the_worker(
    crashes: int, oven: str, autojump_clock: Any
) -> None:
    async with open_rig(oven) as rig:
        for _ in range(crashes):
            await rig.call("crash")
        await trio.sleep(1)
        assert len(rig.failures) == (crashes > INTENSITY)
        for failure in rig.failures:
            assert failure == "its processes ended more than 3 times within 5 s"


@pytest.mark.parametrize(
    ("init", "reason"),
    [("1 / 0", "division by zero"), ("return IGNORE", "ignored")],
)
async def test_a_start_that_fails_is_told(init: str, reason: str, tmp_path: Path) -> None:
    text = f"""
from drupelet import GenServer, IGNORE
@mission("m")
class Oven(GenServer):
    def init(self):
        {init}
    def read(self): ...
"""
    path = write(tmp_path, "failing", text)
    async with open_runtime() as runtime:
        rig = Rig(runtime, load_order(path, exports=None))
        rig.send(2, "read")  # waits
        failure = await rig.servers.run(lambda: None)
        assert "failed_to_start_child" in failure
        assert "m.Oven" in failure
        assert reason in failure


async def test_a_start_that_takes_too_long(tmp_path: Path, autojump_clock: Any) -> None:
    text = """
from drupelet import GenServer
import trio
@mission("m")
class Oven(GenServer):
    async def init(self): await trio.sleep_forever()
    def read(self): ...
"""
    path = write(tmp_path, "endless", text)
    async with open_runtime() as runtime:
        rig = Rig(runtime, load_order(path, exports=None))
        assert await rig.servers.run(lambda: None) == "its processes did not start within 30 s"


async def test_a_taken_name_is_no_obstacle(oven: str, caplog: pytest.LogCaptureFixture) -> None:
    loaded = load_order(oven, exports=None)
    async with open_runtime() as runtime:
        other = await spawn(trio.sleep_forever)
        await register("m.Oven", other)
        rig = Rig(runtime, loaded)
        started = trio.Event()
        runtime.nursery.start_soon(rig.run, started)
        await started.wait()
        assert await rig.call("heat", 1) == 21
        assert "server_without_name" in caplog.text


async def test_functions_marked_at_start_run_first_and_their_processes_are_kept(
    tmp_path: Path,
) -> None:
    text = """
from drupelet import GenServer, at_start, receive, spawn_link, whereis

STARTS = []

@at_start
def plain() -> None: STARTS.append("plain")

@at_start
async def start_helper():
    STARTS.append("helper")
    return await spawn_link(help_, name="helper")

async def help_() -> None:
    await receive("end")

@mission("m")
class Oven(GenServer):
    async def init(self): self.helper = await whereis("helper")
    def read(self) -> object: return [self.helper, list(STARTS)]
"""
    path = write(tmp_path, "starting", text)
    async with open_rig(path) as rig:
        helper, starts = await rig.call("read")  # type: ignore[misc]
        assert helper == await whereis("helper")
        assert starts == ["plain", "helper"]
        exit(helper, "shutdown")  # an orderly end is no reason to start it again
        await trio.testing.wait_all_tasks_blocked()
        assert await whereis("helper") is None
    async with open_rig(path) as rig:
        helper = await whereis("helper")
        assert helper is not None
        exit(helper, "boom")
        await trio.testing.wait_all_tasks_blocked()
        assert await whereis("helper") not in (None, helper)


async def test_new_code_keeps_the_state_starts_what_is_new_and_stops_what_is_gone(
    oven: str, tmp_path: Path
) -> None:
    more = '\n@mission("m")\nclass Pot(GenServer):\n    def stir(self) -> str: return "stirred"\n'
    newer = OVEN.replace("self.degrees += by", "self.degrees += 2 * by") + more
    async with open_rig(oven) as rig:
        assert await rig.call("heat", 10) == 30
        old = rig.loaded
        rig.loaded = load_order(write(tmp_path, "newer", newer), exports=None)
        rig.runtime.newest = lambda cls: (
            rig.loaded.servers["m.Oven"] if cls is old.servers["m.Oven"] else cls
        )
        rig.servers.take()
        await rig.servers.change()
        assert await rig.call("heat", 10) == 50
        assert await rig.servers.slots["m.Pot"].ask_all("stir", [[]]) == [("stirred", None)]
        pid = await whereis("m.Pot")
        assert pid is not None

        rig.loaded = load_order(write(tmp_path, "newest", OVEN), exports=None)
        rig.servers.take()
        await rig.servers.change()
        assert await whereis("m.Pot") is None
        assert set(rig.servers.slots) == {"m.Oven"}
        oven_pid = await whereis("m.Oven")
        assert oven_pid is not None
        exit(oven_pid, "kill")  # a restart runs the newest class
        await trio.testing.wait_all_tasks_blocked()
        assert await rig.call("heat", 10) == 30


POT = """
from drupelet import GenServer
@mission("m")
class Pot(GenServer):
    def init(self): {0}
    def stir(self) -> str: return "stirred"
"""


class Kitchen:
    """A mission whose code changes."""

    def __init__(self, rig: Rig, tmp_path: Path) -> None:
        self.rig = rig
        self.tmp_path = tmp_path
        self.count = 0

    def take(self, text: str) -> None:
        self.count += 1
        path = write(self.tmp_path, f"version{self.count}", text)
        self.rig.loaded = load_order(path, exports=None)
        self.rig.servers.take()

    def stir(self) -> list[str]:
        """A request; its value or error stands in the list, once it came."""
        said: list[str] = []
        slot = self.rig.servers.slots["m.Pot"]
        slot.submit("stir", (), lambda value, error: said.append(str(error or value)))
        return said


STIRRED = ["stirred"]
NOT_STARTED = ["process_down: the server did not start: ('ZeroDivisionError', 'division by zero')"]
LACKING = ["process_down: the mission's new code has no such server"]


async def test_a_new_server_that_does_not_start(oven: str, tmp_path: Path) -> None:
    async with open_rig(oven) as rig:
        kitchen = Kitchen(rig, tmp_path)
        kitchen.take(OVEN + POT.format("1 / 0"))
        waits = kitchen.stir()
        await rig.servers.change()
        assert (waits, kitchen.stir()) == (NOT_STARTED, NOT_STARTED)
        assert await rig.call("heat", 1) == 21  # the others serve on
        kitchen.take(OVEN + POT.format("pass"))
        await rig.servers.change()
        said = kitchen.stir()
        await trio.testing.wait_all_tasks_blocked()
        assert (said, rig.failures) == (STIRRED, [])


async def test_who_waits_for_a_server_that_new_code_lacks_is_told(
    oven: str, tmp_path: Path
) -> None:
    async with open_rig(oven) as rig:
        kitchen = Kitchen(rig, tmp_path)
        kitchen.take(OVEN + POT.format("pass"))
        await rig.servers.change()
        pid = await whereis("m.Pot")
        assert pid is not None
        taken, in_mailbox = kitchen.stir(), kitchen.stir()
        kitchen.take(OVEN)
        exit(pid, "kill")
        rig.servers.slots["m.Pot"].submit("stir", (), None)
        in_line = kitchen.stir()
        await rig.servers.change()
        assert (taken, in_line) == (STIRRED, LACKING)
        assert in_mailbox == ["process_down: the server ended: 'killed'"]
        assert set(rig.servers.slots) == {"m.Oven"}


async def test_code_that_changes_while_it_changes(oven: str, tmp_path: Path) -> None:
    async with open_rig(oven) as rig:
        kitchen = Kitchen(rig, tmp_path)
        kitchen.take(OVEN + POT.format("pass"))
        await rig.servers.change()
        kitchen.take(OVEN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.servers.change)  # stops the pot
            while await whereis("m.Pot"):
                await trio.lowlevel.checkpoint()
            kitchen.take(OVEN + POT.format("pass"))
            waits = kitchen.stir()
            nursery.start_soon(rig.servers.change)
        await trio.testing.wait_all_tasks_blocked()
        assert waits == STIRRED


async def test_a_change_when_the_supervisor_has_ended(oven: str, tmp_path: Path) -> None:
    async with open_rig(oven) as rig:
        assert rig.servers._supervisor is not None
        exit(rig.servers._supervisor, "kill")
        await trio.testing.wait_all_tasks_blocked()
        assert rig.failures == ["the supervisor of its processes ended: 'killed'"]
        kitchen = Kitchen(rig, tmp_path)
        kitchen.take(OVEN + POT.format("pass"))
        await rig.servers.change()


def test_what_a_caller_is_told_of_a_server_that_is_gone() -> None:
    for error, kind in (
        (ProcessDown(("KeyError", "'x'")), "KeyError"),
        (ProcessDown("killed"), "process_down"),
        (ProcessDown(("shutdown", 3)), "process_down"),
        (ValueError("bad"), "ValueError"),
    ):
        told = as_remote(error)
        assert isinstance(told, RemoteError)
        assert told.kind == kind
    gone = NoConnection("down")
    assert as_remote(gone) is gone
    assert isinstance(as_remote(gone), CallError)
