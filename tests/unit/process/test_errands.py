"""Requests that can be taken back, alone and in a server's mailbox."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from drupelet.errors import ProcessDown
from drupelet.process import trace
from drupelet.process.errands import Errand
from drupelet.process.gen_server import GenServer
from drupelet.process.kernel import Ask
from drupelet.process.running import open_runtime
from drupelet.process.runtime import Runtime
from drupelet.process.table import Process
from drupelet.wire.ids import Pid, Ref
from drupelet.wire.notices import Request

CALLER = (Pid("alice", 1, 0), Ref("alice", 1, 7))


def test_one_that_has_not_begun_never_does() -> None:
    told: list[str] = []
    errand = Errand(CALLER, ("heat", bytes(1_000)))
    assert not errand.taken_back
    assert errand.take_back(lambda: told.append("over"))
    assert errand.taken_back
    assert errand.request is None  # it keeps no arguments
    assert not errand.begin()
    assert errand.take_back(lambda: told.append("again"))
    assert told == []


def test_one_that_is_under_way_tells_its_end() -> None:
    told: list[str] = []
    errand = Errand(CALLER, ("heat", 5))
    assert errand.begin()
    assert not errand.take_back(lambda: told.append("over"))
    assert not errand.taken_back
    assert (told, errand.request) == ([], ("heat", 5))
    errand.end()
    assert told == ["over"]


def test_one_that_is_over() -> None:
    told: list[str] = []
    errand = Errand(CALLER, ("heat", 5))
    assert errand.begin()
    errand.end()
    assert errand.take_back(lambda: told.append("over"))
    assert not errand.taken_back
    assert told == []


def test_it_is_a_request_for_everybody_else() -> None:
    match Errand(CALLER, "read"):
        case Request(caller, request):
            assert (caller, request) == (CALLER, "read")
        case _:
            pytest.fail("no request")


# -- in a server


class Answers:
    """Takes the answers in the place of a task."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def wake(self, value: object) -> None:
        self.said.append(value)

    def wake_error(self, error: Exception) -> None:
        self.said.append(error)


class Oven(GenServer):
    def init(self) -> None:
        self.log: list[object] = []
        self.door = trio.Event()

    async def bake(self, what: object) -> object:
        self.log.append(what)
        await self.door.wait()
        return what

    async def crash(self) -> None:
        await self.door.wait()
        raise ValueError("bad")

    def put_off(self) -> str:
        self.continue_with("later")
        return "put off"

    async def handle_continue(self, argument: object) -> None:
        await self.door.wait()
        self.log.append(argument)

    def rest(self) -> None:
        self.timeout_after(10)

    def handle_info(self, message: object) -> None:
        self.log.append(message)

    def handle_call(self, request: object, caller: object) -> None:
        self.log.append(request)


class Kitchen:
    def __init__(self, runtime: Runtime, process: Process) -> None:
        self.runtime = runtime
        self.process = process
        self.answers = Answers()

    @property
    def oven(self) -> Oven:
        assert isinstance(self.process.state, Oven)
        return self.process.state

    def ask(self, *request: object) -> Errand:
        number = self.runtime.new_ref()
        self.runtime.asks[number] = Ask(self.process.pid, self.answers)
        errand = self.runtime.ask_local(
            self.process, number, self.runtime.pid, request, kind=Errand
        )
        assert isinstance(errand, Errand)
        return errand


async def open_kitchen(runtime: Runtime) -> Kitchen:
    process = runtime.find(await Oven.start())
    assert process is not None
    return Kitchen(runtime, process)


async def test_a_server_skips_what_was_taken_back() -> None:
    async with open_runtime() as runtime:
        kitchen = await open_kitchen(runtime)
        handed, *others = [kitchen.ask("bake", number) for number in range(50)]
        assert handed.take_back(lambda: None)  # handed to the server, which has not run since
        for each in others[:-1]:
            assert each.take_back(lambda: None)
        kitchen.oven.door.set()
        await trio.testing.wait_all_tasks_blocked()
        assert kitchen.oven.log == [49]
        assert kitchen.answers.said == [49]


async def test_a_verb_under_way_is_finished_and_told() -> None:
    told: list[str] = []
    async with open_runtime() as runtime:
        kitchen = await open_kitchen(runtime)
        errand = kitchen.ask("bake", 1)
        await trio.testing.wait_all_tasks_blocked()
        assert not errand.take_back(lambda: told.append("over"))
        assert told == []
        kitchen.oven.door.set()
        await trio.testing.wait_all_tasks_blocked()
        assert told == ["over"]


async def test_what_a_verb_put_off_belongs_to_it() -> None:
    told: list[str] = []
    async with open_runtime() as runtime:
        kitchen = await open_kitchen(runtime)
        errand = kitchen.ask("put_off")
        await trio.testing.wait_all_tasks_blocked()
        assert kitchen.answers.said == ["put off"]
        assert not errand.take_back(lambda: told.append("over"))
        kitchen.oven.door.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (told, kitchen.oven.log) == (["over"], ["later"])


async def test_a_crash_is_an_end_too() -> None:
    told: list[str] = []
    async with open_runtime() as runtime:
        kitchen = await open_kitchen(runtime)
        errand = kitchen.ask("crash")
        await trio.testing.wait_all_tasks_blocked()
        assert not errand.take_back(lambda: told.append("over"))
        kitchen.oven.door.set()
        await trio.testing.wait_all_tasks_blocked()
        assert told == ["over"]
        (error,) = kitchen.answers.said
        assert isinstance(error, ProcessDown)


async def test_what_was_taken_back_does_not_end_an_idle_time(autojump_clock: Any) -> None:
    async with open_runtime() as runtime:
        kitchen = await open_kitchen(runtime)
        kitchen.ask("rest")
        await trio.sleep(5)
        kitchen.ask("bake", 1).take_back(lambda: None)
        await trio.sleep(20)
        assert kitchen.oven.log == ["timeout"]


async def test_one_that_is_taken_back_while_the_code_changes() -> None:
    class Newer(Oven):
        async def code_change(self, former: type) -> None:
            await self.door.wait()

    async with open_runtime() as runtime:
        kitchen = await open_kitchen(runtime)
        runtime.newest = lambda cls: Newer if cls is Oven else cls
        errand = kitchen.ask("bake", 1)
        await trio.testing.wait_all_tasks_blocked()
        assert errand.take_back(lambda: None)
        kitchen.oven.door.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (type(kitchen.oven), kitchen.oven.log) == (Newer, [])


async def test_a_trace_shows_it_as_the_request_that_it_is() -> None:
    async with open_runtime() as runtime:
        kitchen = await open_kitchen(runtime)
        async with trace(kitchen.process.pid) as events:
            kitchen.oven.door.set()
            errand = kitchen.ask("bake", 1)
            event = await anext(events)
        assert event.kind == "receive"
        assert event.message == Request(errand.caller, ("bake", 1))


def test_one_that_was_put_off_waits_again() -> None:
    errand = Errand(CALLER, ("heat", 5))
    assert errand.begin()
    errand.wait_again()
    assert errand.take_back(lambda: None)
    assert errand.taken_back


def test_one_that_was_put_off_after_its_asker_gave_up_never_begins() -> None:
    told: list[str] = []
    errand = Errand(CALLER, ("heat", 5))
    assert errand.begin()
    assert not errand.take_back(lambda: told.append("over"))
    errand.wait_again()
    assert told == ["over"]
    assert not errand.begin()


def test_its_end_is_told_though_it_was_put_off_and_somebody_waits() -> None:
    told: list[str] = []
    errand = Errand(CALLER, ("heat", 5))
    errand.when_over(lambda: told.append("over"))
    assert errand.begin()
    errand.wait_again()
    assert not errand.taken_back and told == []
    assert errand.begin()
    assert not errand.take_back(lambda: told.append("asker"))
    errand.end()
    assert told == ["asker", "over"]
