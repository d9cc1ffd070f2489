"""What is shown of a process, and how an exception becomes a reason."""

from __future__ import annotations

import functools
import traceback

import pytest

from drupelet.errors import ProcessExit
from drupelet.process.information import (
    author_traceback,
    describe,
    end_of,
    function_name,
    is_awaitable,
    reason_of,
    unwrap,
)
from drupelet.process.runtime import Runtime
from drupelet.wire.codec import dumps
from drupelet.wire.ids import Pid, Ref, check_plain_name
from tests.unit.process.values import Sans

PIDS = [Pid("bilbo", 1, number) for number in (9, 3)]


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def test_the_fields_of_a_process() -> None:
    kernel = Sans()
    process = kernel.new_process(test_the_fields_of_a_process)
    assert describe(process) == {
        "pid": process.pid,
        "names": [],
        "function": f"{__name__}.test_the_fields_of_a_process",
        "status": "running",
        "parent": None,
        "messages": 0,
        "received": 0,
        "dropped": 0,
        "reductions": 0,
        "links": [],
        "monitors": 0,
        "watchers": 0,
        "trap_exit": False,
    }
    process.waiting = object()
    process.links = set(PIDS)
    process.monitors = {Ref("bilbo", 1, 5): PIDS[0]}
    process.watchers = {5: PIDS[0], 6: PIDS[1]}
    process.parent = PIDS[0]
    process.names = ["oven"]
    shown = describe(process)
    assert shown["status"] == "receive" and shown["parent"] == PIDS[0]
    assert shown["links"] == sorted(PIDS, key=str)
    assert (shown["monitors"], shown["watchers"], shown["names"]) == (1, 2, ["oven"])
    dumps(shown)  # `drupelet ps` shows it from another node
    process.exiting = True
    assert describe(process)["status"] == "exiting"


def test_the_name_of_a_function() -> None:
    assert function_name(function_name) == "drupelet.process.information.function_name"
    assert function_name(Runtime.start) == "drupelet.process.runtime.Runtime.start"
    assert function_name("a task") == "a task"
    assert function_name(None) == "None"
    assert "partial" in function_name(functools.partial(print))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("bad"), ("ValueError", "bad")),
        (KeyError("k"), ("KeyError", "'k'")),
        (Mute(), ("Mute", "(the exception has no text)")),
        (ValueError(), ("ValueError", "")),
        (ValueError("x" * 5_000), ("ValueError", "x" * 1_000)),
    ],
)
def test_the_reason_of_an_exception(error: BaseException, reason: object) -> None:
    assert reason_of(error) == reason
    assert end_of(error) == reason
    assert end_of(ExceptionGroup("one", [ExceptionGroup("two", [error])])) == reason  # type: ignore[list-item]


def test_the_reason_of_an_exit_and_of_groups() -> None:
    assert end_of(ProcessExit(("why", 1))) == ("why", 1)
    assert end_of(ExceptionGroup("one", [ProcessExit("why")])) == "why"
    both = ExceptionGroup("two", [ProcessExit("why"), ValueError("bad")])
    assert end_of(both) == ("ExceptionGroup", "two (2 sub-exceptions)")
    assert unwrap(both) is both
    assert unwrap(BaseExceptionGroup("one", [both])) is both


def test_what_is_awaited() -> None:
    async def function() -> None: ...

    coroutine = function()
    assert is_awaitable(coroutine)
    coroutine.close()
    assert not is_awaitable(None) and not is_awaitable(5)
    with pytest.raises(TypeError, match="no yield"):
        is_awaitable(each for each in "abc")


def test_a_traceback_begins_at_the_author_s_first_line() -> None:
    try:
        is_awaitable(each for each in "abc")
    except TypeError as error:
        here = author_traceback(error)
        assert here is not None and here.tb_frame.f_code.co_filename == __file__
        inner = error.__traceback__.tb_next  # type: ignore[union-attr]
        assert author_traceback(TypeError("on purpose").with_traceback(inner)) is None
    try:
        check_plain_name(5)  # type: ignore[arg-type]
    except TypeError as error:
        inner = error.__traceback__.tb_next  # type: ignore[union-attr]
        assert author_traceback(TypeError("a bug of ours").with_traceback(inner)) is inner
    assert author_traceback(ValueError("never raised")) is None


def test_the_frames_behind_the_authors() -> None:
    def frames(error: BaseException) -> list[str]:
        return [each.name for each in traceback.extract_tb(author_traceback(error))]

    def author(name: object) -> None:
        check_plain_name(name)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="is not a name") as told:
        author("a b")
    assert frames(told.value)[-1] == "author"  # raised on purpose: how is no matter of the author's
    with pytest.raises(TypeError) as bug:
        author(5)
    assert frames(bug.value)[-1] == "check_plain_name"  # and a bug of ours is seen
