"""A local message is what it would be elsewhere: same values, same refusals, nothing shared."""

from __future__ import annotations

import collections
import datetime
import enum
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import NotSendable
from drupelet.process.data import copy_data, data_or_text
from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid, Ref
from drupelet.wire.limits import MAP_INT_KEYS_MAX, VALUE_DEPTH_MAX
from drupelet.wire.notices import CLASSES, Down, Exit, NodeUp, Request, notice_fields
from tests.unit.process.values import VALUES, same

PID = Pid("gandalf", 1, 2)
REF = Ref("gandalf", 1, 3)


class Color(enum.IntEnum):
    RED = 1


class Point(NamedTuple):
    x: int


class Secret:
    def __repr__(self) -> str:
        raise ValueError("nothing to see")


BAD: list[object] = [
    lambda: None,
    len,
    object(),
    {1, 2},
    2**63,
    -(2**63) - 1,
    1j,
    Color.RED,
    Point(1),
    collections.OrderedDict(a=1),
    type("Text", (str,), {})("text"),
    datetime.datetime(2026, 11, 21),
    datetime.date(2026, 11, 21),
    {(1, 2): 3},
    {True: 1},
    {None: 1},
    {2**63: 1},
    dict.fromkeys(range(MAP_INT_KEYS_MAX + 1)),
    Down(REF, PID, len),
    Down(5, PID, 1),  # type: ignore[arg-type]
    Down(REF, ("only one",), 1),  # type: ignore[arg-type]
    Exit("pid", 1),  # type: ignore[arg-type]
    NodeUp(5),  # type: ignore[arg-type]
    Request((PID, 5), 1),  # type: ignore[arg-type]
    Request((PID, REF), len),
    ValueError("x"),
    int,
]
WRAPS: list[Callable[[object], object]] = [
    lambda value: [1, value],
    lambda value: (1, value),
    lambda value: {"a": value},
    lambda value: {5: value},
    lambda value: Exit(PID, value),
    lambda value: Request((PID, REF), [value]),
]


def mutables(value: Any) -> Iterator[int]:
    """The identities of what in it could be changed."""
    if isinstance(value, CLASSES):
        value = notice_fields(value)[1:]
        for item in value:
            yield from mutables(item)
        return
    if isinstance(value, (list, dict)):
        yield id(value)
    if isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from mutables(item)


@settings(max_examples=150)
@given(VALUES)
def test_a_copy_is_the_same_and_shares_nothing_that_can_change(value: Any) -> None:
    copied = copy_data(value)
    assert same(copied, value)
    assert not set(mutables(value)) & set(mutables(copied))


@settings(max_examples=100)
@given(VALUES)
def test_a_copy_is_what_arrives_elsewhere(value: Any) -> None:
    # a dict's order is the one thing that a node border does not keep
    assert dumps(loads(dumps(value))) == dumps(copy_data(value))


@settings(max_examples=150)
@given(st.sampled_from(BAD), st.lists(st.sampled_from(WRAPS), max_size=4))
def test_what_is_no_data_is_refused_in_the_same_words(
    bad: object, wraps: list[Callable[[object], object]]
) -> None:
    for wrap in wraps:
        bad = wrap(bad)
    with pytest.raises(NotSendable) as here:
        copy_data(bad)
    with pytest.raises(NotSendable) as elsewhere:
        dumps(bad)
    assert str(here.value) == str(elsewhere.value)
    assert here.value.path == elsewhere.value.path


def test_the_words_of_a_refusal() -> None:
    for value, text in (
        ([1, {"a": len}], r'\[1\]\["a"\]: a builtin_function_or_method|\[1\]\["a"\]: .*'),
        ({"size": [2**64]}, r'\["size"\]\[0\]: an integer beyond 64 bits; send it as text'),
        ([{1, 2}], r"\[0\]: a set has no order; send a sorted list"),
    ):
        with pytest.raises(NotSendable, match=text):
            copy_data(value)


@pytest.mark.parametrize("wrap", WRAPS[:5])
def test_as_deep_as_may_be_and_one_deeper(wrap: Callable[[object], object]) -> None:
    value: object = 1
    for _ in range(VALUE_DEPTH_MAX):
        value = wrap(value)
    assert same(copy_data(value), value)
    dumps(value)
    deeper = wrap(value)
    for refuse in (copy_data, dumps):
        with pytest.raises(NotSendable, match="deep"):
            refuse(deeper)


@pytest.mark.parametrize("wrap", [lambda _: [], lambda _: {}, lambda _: ()])
def test_an_empty_one_too_deep(wrap: Callable[[object], object]) -> None:
    value = wrap(None)
    for _ in range(VALUE_DEPTH_MAX - 1):
        value = [value]
    copy_data(value)
    with pytest.raises(NotSendable, match="deep"):
        copy_data([value])


def test_a_cycle_is_refused_at_once() -> None:
    ring: list[Any] = [1]
    ring += [ring, ring, ring]
    parent: dict[str, Any] = {"children": []}
    parent["children"] += [{"parent": parent} for _ in range(20)]
    for value in (ring, parent, (ring,)):
        with pytest.raises(NotSendable, match="contains itself; send a copy without the cycle"):
            copy_data(value)


def test_what_cannot_change_is_passed_as_it_is() -> None:
    for value in ("text", b"bytes", 1.5, None, True, PID, REF, uuid.UUID(int=5), 2**63 - 1):
        assert copy_data(value) is value
    value = ("a", b"b", PID)
    assert copy_data(value) is value


def test_bytes_that_can_change_come_as_bytes() -> None:
    changing = bytearray(b"abc")
    copied = copy_data([changing, memoryview(changing)])
    changing[0] = 0
    assert copied == [b"abc", b"abc"]


def test_integer_keys_as_many_as_may_be() -> None:
    many = dict.fromkeys(range(MAP_INT_KEYS_MAX))
    assert copy_data(many) == many and copy_data(many) is not many


def test_a_reason_may_be_anything() -> None:
    listed = ["a"]
    assert data_or_text(listed) == ["a"] and data_or_text(listed) is not listed
    assert data_or_text(len) == "<built-in function len>"
    assert data_or_text(Secret()) == "(a Secret that has no text)"
    assert len(str(data_or_text({"x" * 5_000}))) == 1_000
