"""Functions served inside the daemon: one call, and many that travel as one."""

from __future__ import annotations

import pytest
import trio

from drupelet.errors import (
    NoConnection,
    NotSendable,
    RemoteError,
    RemoteProtocolError,
    Timeout,
    error_from_fields,
)
from drupelet.services.inline import (
    as_call_error,
    encode_chunks,
    join_answers,
    run_inline,
    run_many,
    run_many_in_turn,
)
from drupelet.wire.codec import dumps, loads
from drupelet.wire.limits import MANY_CALLS_MAX
from tests.unit.services.pairs import make_export


def half(value: int) -> int:
    if value % 2:
        raise ValueError(f"{value} is odd")
    return value // 2


async def half_later(value: int) -> int:
    await trio.lowlevel.checkpoint()
    return half(value)


HALF = make_export(b"m/half", inline=half)
LATER = make_export(b"m/half", inline=half_later)


async def test_one_call_of_either_kind() -> None:
    assert loads(await run_inline(HALF, [4])) == 2
    assert loads(await run_inline(LATER, [4])) == 2
    with pytest.raises(RemoteError, match="3 is odd"):
        await run_inline(LATER, [3])


async def test_many_calls_each_have_their_outcome() -> None:
    for export in (HALF, LATER):
        answer = run_many(export, [[2], [3], [4]])
        values, errors = await answer if export is LATER else answer  # type: ignore[misc]
        assert values == [1, None, 2]
        error = error_from_fields(errors[1])
        assert isinstance(error, RemoteError)
        assert error.kind == "ValueError"
    assert await run_many_in_turn(HALF, [[6]]) == [[3], {}]


def test_many_calls_at_the_maximum_and_one_above_and_other_shapes() -> None:
    assert run_many(HALF, [[2]] * MANY_CALLS_MAX) == [[1] * MANY_CALLS_MAX, {}]
    for wrong in ([[2]] * (MANY_CALLS_MAX + 1), [2], [[2], "x"]):
        with pytest.raises(RemoteProtocolError):
            run_many(HALF, wrong)


def test_answers_are_put_together_in_order() -> None:
    chunks = [[[1], [2]], [[3]], [[4]]]
    bodies = [
        b"\0" + dumps([[10, None], {1: [2, True]}]),
        NoConnection("closed", maybe_ran=True),
        b"\0" + dumps([[40], {}]),
    ]
    first, second, third, fourth = join_answers(chunks, bodies)
    assert (first, fourth) == (10, 40)
    assert isinstance(second, Timeout)
    assert isinstance(third, NoConnection)


@pytest.mark.parametrize("value", [1, [], [[1], {}], [[1, 2], {5: [2, True]}], [[1, 2], {"x": []}]])
def test_another_shape_of_answer_is_the_peers_fault(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        join_answers([[[1], [2]]], [b"\0" + dumps(value)])


def test_what_a_failure_becomes() -> None:
    assert as_call_error(HALF, Timeout(maybe_ran=True)).__class__ is Timeout
    unsent = as_call_error(HALF, NotSendable("a function"))
    assert isinstance(unsent, RemoteError)
    assert unsent.kind == "not_sendable"


def test_what_is_too_large_for_one_body_goes_in_more() -> None:
    lists: list[list[object]] = [[bytes(6 * 1024 * 1024)] for _ in range(5)]
    chunks = encode_chunks(lists)
    assert [len(chunk) for chunk, _ in chunks] == [2, 1, 2]
    assert [each for chunk, _ in chunks for each in chunk] == lists
    with pytest.raises(NotSendable):
        encode_chunks([[1], [bytes(17 * 1024 * 1024)]])
    with pytest.raises(NotSendable):
        encode_chunks([[1], [lambda: 1]])
