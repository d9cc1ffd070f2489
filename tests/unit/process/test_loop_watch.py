"""The loop watch: what holds the loop is named, with its place, once a minute."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.lowlevel

from drupelet import GenServer
from drupelet.mission import cast
from drupelet.process import behaviours, loop_watch, receive, run, self, send, spawn
from drupelet.process.current import this_runtime
from drupelet.process.loop_watch import HELD_S, PLACES_MAX, QUIET_S, LoopWatch, watch_loop
from drupelet.process.running import open_runtime

HERE = "test_loop_watch.py"


class Wall:
    """A clock of the wall that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    """What every watch of the test goes by."""
    wall = Wall()
    monkeypatch.setattr(LoopWatch.__init__, "__defaults__", (wall,))
    return wall


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.WARNING, "drupelet.process"):
        yield


def line_of(function: Any, offset: int = 0) -> str:
    return f"{HERE}:{function.__code__.co_firstlineno + offset}"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if "loop_held" in each.getMessage()]


def test_a_long_step_is_named_with_its_place(wall: Wall, caplog: pytest.LogCaptureFixture) -> None:
    async def slow() -> None:
        await trio.lowlevel.checkpoint()
        wall.now += 0.051
        await receive()

    async def main() -> None:
        pid = await spawn(slow)
        await trio.testing.wait_all_tasks_blocked()
        [line] = lines(caplog)
        assert f"pid={pid} " in line
        assert f"function={__name__}.{slow.__qualname__} " in line
        assert f"place={line_of(slow, 3)} ms=51 " in line
        assert 'where="thread"' in line  # the mend

    run(main)
    assert len(lines(caplog)) == 1


def test_a_step_that_is_not_longer_is_not_named(
    wall: Wall, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(5):
            wall.now += HELD_S - 0.001
            await trio.lowlevel.checkpoint()

    run(main)
    assert lines(caplog) == []


def test_what_ends_in_the_step_shows_where_it_began(
    wall: Wall, caplog: pytest.LogCaptureFixture
) -> None:
    def slow() -> None:
        wall.now += 1

    async def main() -> None:
        await spawn(slow)
        await trio.testing.wait_all_tasks_blocked()

    run(main)
    [line] = lines(caplog)
    assert f"place={line_of(slow)} ms=1000 " in line


def test_the_innermost_line_of_the_author_counts(
    wall: Wall, caplog: pytest.LogCaptureFixture
) -> None:
    async def inner() -> None:
        wall.now += 1
        await trio.lowlevel.checkpoint()  # trio's frames are not the author's

    async def main() -> None:
        await trio.testing.wait_all_tasks_blocked()  # until the watch is there
        await inner()

    run(main)
    [line] = lines(caplog)
    assert f"place={line_of(inner, 2)} " in line


class Oven(GenServer):
    wall = Wall()

    def heat(self, degrees: int) -> int:
        self.wall.now += 1
        return degrees

    async def wait(self) -> None:
        self.wall.now += 1
        await trio.lowlevel.checkpoint()

    @cast
    def cool(self) -> None:
        self.wall.now += 1

    def handle_info(self, message: object) -> None:
        self.wall.now += 1

    def handle_call(self, request: object, caller: object) -> None:
        self.wall.now += 1


def test_a_server_shows_the_method(wall: Wall, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        Oven.wall = wall
        pid = await Oven.start()
        await GenServer.call(pid, "heat", 5)
        await trio.testing.wait_all_tasks_blocked()
        await GenServer.call(pid, "wait")
        await trio.testing.wait_all_tasks_blocked()
        await GenServer.cast(pid, "cool")
        await trio.testing.wait_all_tasks_blocked()
        await send(pid, "anything")
        await trio.testing.wait_all_tasks_blocked()
        await GenServer.call(pid, "no_verb")
        await trio.testing.wait_all_tasks_blocked()

    run(main)
    found = lines(caplog)
    assert all(f"function={__name__}.Oven " in each for each in found)
    places = [each.split("place=")[1].split()[0] for each in found]
    assert places == [
        line_of(Oven.heat),
        line_of(Oven.wait, 2),
        line_of(Oven.cool),
        line_of(Oven.handle_info),
        line_of(Oven.handle_call),
    ]


def test_a_method_that_it_does_not_have_is_not_ours() -> None:
    class Small(GenServer):
        def verb(self) -> None: ...

    for message in ("anything", ("$gen_cast", 5), None):
        assert loop_watch._begins(Small, message) == line_of(Small.verb)
    assert loop_watch._CAST == behaviours.CAST


def test_a_task_that_is_no_process(wall: Wall, caplog: pytest.LogCaptureFixture) -> None:
    async def slow() -> None:
        wall.now += 1

    async def main() -> None:
        async with open_runtime(), trio.open_nursery() as nursery:
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(slow)

    trio.run(main)
    [line] = lines(caplog)
    assert "pid=none " in line
    assert f"{slow.__qualname__} place=? " in line


def test_one_line_a_minute_for_each_place(wall: Wall, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(4):
            wall.now += 1
            await trio.lowlevel.checkpoint()
        assert len(lines(caplog)) == 1
        wall.now += 1
        await trio.lowlevel.checkpoint()  # another place
        assert len(lines(caplog)) == 2
        for _ in range(2):
            wall.now += QUIET_S
            await trio.lowlevel.checkpoint()

    run(main)
    counts = [each.split("last_line=")[1].split(":")[0] for each in lines(caplog)]
    assert counts == ["0", "0", "0", "0"]
    assert "times_since_the_last_line=0" in lines(caplog)[0]


def test_how_many_there_were_meanwhile(wall: Wall, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await trio.testing.wait_all_tasks_blocked()
        for seconds in (1, 1, 1, QUIET_S):
            wall.now += seconds
            await trio.lowlevel.checkpoint()

    run(main)
    counts = [each.split("last_line=")[1].split(":")[0] for each in lines(caplog)]
    assert counts == ["0", "2"]


def test_so_many_places_are_remembered(wall: Wall, monkeypatch: pytest.MonkeyPatch) -> None:
    number = [0]
    monkeypatch.setattr(loop_watch, "place", lambda task, function: f"x.py:{number[0]}")

    async def main() -> None:
        watch = LoopWatch()
        task = trio.lowlevel.current_task()
        for number[0] in range(PLACES_MAX):
            watch._report(task, 1.0)
        assert len(watch._told) == PLACES_MAX
        number[0] += 1
        watch._report(task, 1.0)
        assert len(watch._told) == PLACES_MAX
        assert {where for _, where in watch._told} >= {"x.py:1", f"x.py:{PLACES_MAX}"}

    trio.run(main)


def test_one_watch_for_all_runtimes_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[object] = []
    removed: list[object] = []
    monkeypatch.setattr(trio.lowlevel, "add_instrument", added.append)
    monkeypatch.setattr(trio.lowlevel, "remove_instrument", removed.append)

    async def main() -> None:
        with watch_loop():
            with watch_loop():
                assert len(added) == 1
            assert removed == []
        assert removed == added
        with watch_loop():
            assert len(added) == 2

    trio.run(main)


@pytest.mark.parametrize(
    ("message", "names"),
    [
        (None, ["handle_info"]),
        (("$gen_cast", ("cool", 1)), ["cool", "handle_cast"]),
        (("$gen_cast", 5), ["handle_cast"]),
        (("heat", 5), ["handle_info"]),
    ],
)
def test_which_method_took_a_message(message: object, names: list[str]) -> None:
    assert loop_watch._callbacks(message) == names


def test_a_definition_that_is_not_there() -> None:
    function = types.SimpleNamespace(__module__="no_such_module", __qualname__="a.b")
    assert loop_watch._definition(function) is function
    assert loop_watch._begins(function, None) == "?"
    assert loop_watch._definition(None) is None
    assert loop_watch._begins(type("Empty", (), {}), None) == "?"
    assert sys.modules[__name__].Oven is loop_watch._definition(Oven)


def test_the_real_clock(caplog: pytest.LogCaptureFixture) -> None:
    async def busy() -> None:
        from time import perf_counter

        end = perf_counter() + 2 * HELD_S
        while perf_counter() < end:
            pass

    async def main() -> None:
        assert isinstance(this_runtime().nursery, trio.Nursery)
        await spawn(busy)
        await send(self(), 1)
        await trio.testing.wait_all_tasks_blocked()

    run(main)
    assert [each for each in lines(caplog) if "busy" in each]
