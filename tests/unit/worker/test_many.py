"""Many calls in one: each with its own outcome, whatever the kind of function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from drupelet.errors import RemoteError, error_from_fields
from drupelet.wire.limits import MANY_CALLS_MAX
from drupelet.worker.many import many_target
from drupelet.worker.targets import IN_THREAD, INLINE, TASK, Target


def as_error(error: BaseException) -> RemoteError:
    return RemoteError(type(error).__name__, str(error))


def half(value: int) -> int:
    if value % 2:
        raise ValueError(f"{value} is odd")
    return value // 2


async def half_later(value: int) -> int:
    await trio.lowlevel.checkpoint()
    return half(value)


def kinds(answer: object) -> tuple[object, dict[int, str]]:
    assert isinstance(answer, list)
    values, errors = answer
    told = {index: error_from_fields(fields) for index, fields in errors.items()}
    return values, {
        index: each.kind for index, each in told.items() if isinstance(each, RemoteError)
    }


CALLS: list[object] = [[2], [3], [4], [], "x", [6, 7]]
EXPECTED = (
    [1, None, 2, None, None, None],
    {1: "ValueError", 3: "badarg", 4: "badarg", 5: "badarg"},
)


@pytest.mark.parametrize(("where", "how"), [("inline", INLINE), ("thread", IN_THREAD)])
def test_plain_functions_run_in_turn(where: str, how: int) -> None:
    combined = many_target(Target("m.half", half, where=where), CALLS, as_error)
    assert combined is not None
    assert combined.how == how
    assert kinds(combined.function(CALLS)) == EXPECTED


async def test_asynchronous_functions_run_at_once() -> None:
    combined = many_target(Target("m.half", half_later), CALLS, as_error)
    assert combined is not None
    assert combined.how == TASK
    assert kinds(await combined.function(CALLS)) == EXPECTED  # type: ignore[misc]


class FakeSlot:
    """A server that takes requests and answers them all."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    async def ask_all(
        self, verb: str, calls: list[list[int]], give_up: list[Callable[[], None]]
    ) -> list[tuple[object, object]]:
        give_up.append(lambda: self.asked.append("given up"))
        await trio.lowlevel.checkpoint()
        self.asked.append((verb, calls))
        return [
            (value // 2, None) if value % 2 == 0 else (None, ValueError("odd"))
            for (value,) in calls
        ]


async def test_a_server_gets_all_that_fit_in_their_order() -> None:
    target = Target("Maths.half", half, server="m.Maths")
    combined = many_target(target, CALLS, as_error)
    assert combined is not None
    assert combined.how == TASK
    with pytest.raises(RemoteError, match="mission_backoff"):  # it is not started
        await combined.function(CALLS)  # type: ignore[misc]
    target.slot = slot = FakeSlot()  # type: ignore[assignment]
    assert kinds(await combined.function(CALLS)) == EXPECTED  # type: ignore[misc]
    assert slot.asked == [("half", [[2], [3], [4]])]
    assert combined.stop is not None
    combined.stop()  # its caller gave up
    assert slot.asked[1:] == ["given up"]


def test_what_has_not_begun_when_the_call_is_cancelled_never_does() -> None:
    began: list[int] = []

    def work(value: int) -> int:
        began.append(value)
        if value == 2:
            combined.stop()  # type: ignore[misc,union-attr]
        return value

    combined = many_target(Target("m.work", work, where="thread"), [[1], [2], [3]], as_error)
    assert combined is not None
    assert kinds(combined.function([[1], [2], [3]])) == ([1, 2, None], {})
    assert began == [1, 2]


def test_the_maximum_and_one_above_and_other_shapes() -> None:
    target = Target("m.half", half)
    assert many_target(target, [[2]] * MANY_CALLS_MAX, as_error) is not None
    assert many_target(target, [[2]] * (MANY_CALLS_MAX + 1), as_error) is None
    assert many_target(target, {"a": 1}, as_error) is None
