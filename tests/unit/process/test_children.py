"""Child specifications, and how a child is stopped. Time is virtual."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.errors import NotSendable
from drupelet.process import (
    Exit,
    Pid,
    ProcessExit,
    flush,
    is_process_alive,
    receive,
    run,
    self,
    send,
    spawn_link,
    trap_exit,
    whereis,
)
from drupelet.process.behaviours import is_orderly
from drupelet.process.children import (
    Child,
    StartFailed,
    as_child,
    start_calls,
    start_child,
    stop_child,
    was_as_told,
)
from drupelet.process.current import this_process
from drupelet.process.gen_server import GenServer
from drupelet.process.supervisor import Supervisor


async def wait() -> None:
    await receive()


def virtual(main: Any) -> Any:
    return run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# -- specifications


def test_defaults() -> None:
    child = Child("a", wait)
    assert (child.restart, child.shutdown, child.type, child.name) == (
        "permanent",
        5.0,
        "worker",
        None,
    )
    assert (child.code, child.args, child.modules) == (wait, (), [__name__])
    child = Child("a", (Supervisor, ([],)))
    assert (child.shutdown, child.type, child.args) == (inf, "supervisor", ([],))
    assert Child("a", wait, type="supervisor").shutdown == inf
    assert Child("a", start_calls(wait)).modules == [__name__]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"restart": "always"}, ValueError),
        ({"type": "boss"}, ValueError),
        ({"shutdown": -1}, ValueError),
        ({"shutdown": True}, ValueError),
        ({"shutdown": "infinity"}, ValueError),
        ({"name": "no name"}, ValueError),
        ({"start": "wait"}, TypeError),
        ({"start": (wait, 1)}, TypeError),
        ({"start": (wait, 1, 2)}, TypeError),
        ({"start": (1, ())}, TypeError),
        ({"significant": True}, ValueError),  # and permanent
        ({"id": object()}, NotSendable),
        ({"id": ["a"]}, TypeError),
        ({"start": start_calls(wait), "name": "it"}, ValueError),
    ],
)
def test_what_cannot_be(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Child(**(dict[str, Any](id="a", start=wait) | fields))


def test_a_class_or_function_alone_has_its_name_as_id() -> None:
    assert as_child(wait) == Child("wait", wait)
    assert as_child(Supervisor).id == "Supervisor"
    assert as_child(Child("a", wait)).id == "a"
    for thing in ("wait", 1, None, start_calls(wait)):
        with pytest.raises(TypeError):
            as_child(thing)


def test_what_is_as_told() -> None:
    def told(reason: object, **fields: Any) -> bool:
        return was_as_told(Child("a", wait, **fields), reason, is_orderly(reason))

    assert told("shutdown")
    assert not told("normal")
    assert not told("killed")
    assert told("normal", restart="transient")
    assert told(("shutdown", "word"), restart="temporary")
    assert told("killed", shutdown="brutal_kill")
    assert not told("boom", restart="temporary")


# -- starting


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (start_calls(lambda: 1 / 0), ("ZeroDivisionError", "division by zero")),
        (start_calls(lambda: "pid"), ("bad_return", "'pid'")),
        (int, ("TypeError", "int has no start_link")),
    ],
)
def test_starts_that_fail(start: Any, reason: object) -> None:
    async def main() -> object:
        with pytest.raises(StartFailed) as caught:
            await start_child(this_process(), Child("a", start))
        return caught.value.reason

    assert run(main) == reason


def test_exit_in_a_start_function_is_the_reason() -> None:
    def start() -> Pid:
        raise ProcessExit("no luck")

    async def main() -> object:
        with pytest.raises(StartFailed) as caught:
            await start_child(this_process(), Child("a", start_calls(start)))
        return caught.value.reason

    assert run(main) == "no luck"


# -- stopping


@pytest.mark.parametrize(
    ("shutdown", "obeys", "reason", "seconds"),
    [
        (5.0, True, "shutdown", 1),
        (5.0, False, "killed", 5),
        (0, False, "killed", 0),
        (inf, True, "shutdown", 1),
        ("brutal_kill", True, "killed", 0),
    ],
)
def test_shutdown(shutdown: Any, obeys: bool, reason: object, seconds: float) -> None:
    async def child() -> None:
        trap_exit()
        message = await receive(Exit)
        if not obeys:
            await receive("never")
        await trio.sleep(1)
        raise ProcessExit(message.reason)

    async def main() -> None:
        trap_exit()
        await send(self(), "before")
        pid = await start_child(this_process(), Child("a", child))
        assert pid is not None
        began = trio.current_time()
        assert await stop_child(this_process(), pid, shutdown) == reason
        assert trio.current_time() - began == pytest.approx(seconds)
        assert not is_process_alive(pid)
        assert await flush() == ["before"]  # and no Exit, no Down

    virtual(main)


def test_one_that_ended_before_gives_its_own_reason() -> None:
    async def main() -> object:
        trap_exit()
        pid = await spawn_link(_boom)
        other = await spawn_link(_boom)
        await trio.testing.wait_all_tasks_blocked()
        reason = await stop_child(this_process(), pid, 5)
        assert await flush() == [Exit(other, "boom")]
        return reason

    assert virtual(main) == "boom"


def _boom() -> None:
    raise ProcessExit("boom")


def test_a_named_child_of_every_kind_is_registered() -> None:
    class Shelf(GenServer):
        def books(self) -> int:
            return 3

    async def main() -> None:
        kinds = (
            Child("function", wait, name="one"),
            Child("class", Shelf, name="two"),
            Child("start_link", Shelf.start_link, name="three"),
            Child("supervisor", (Supervisor, ([],)), name="four"),
        )
        for child in kinds:
            pid = await start_child(this_process(), child)
            assert pid is not None
            assert await whereis(str(child.name)) == pid
        assert await GenServer.call("two", "books") == 3

    virtual(main)
