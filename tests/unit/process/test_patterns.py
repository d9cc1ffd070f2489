"""Which message a pattern takes: laws, the table of the docstring, and what is no pattern."""

from __future__ import annotations

import abc
import math
from typing import Any, Optional, Protocol

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from drupelet.process import ANY, Down, Exit, NodeDown, Pid, Ref, Request
from drupelet.process.data import copy_data
from drupelet.process.patterns import fits, runs_code
from tests.unit.process.values import VALUES, same

PID = Pid("gandalf", 1, 2)
REF = Ref("gandalf", 1, 3)
TYPES = (str, int, float, bool, bytes, list, tuple, dict, Pid, Ref, Down, Exit, type(None))


def no_nan(value: Any) -> bool:
    return "nan" not in repr(value).lower() or same_without_nan(value)


def same_without_nan(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isnan(value)
    if isinstance(value, (list, tuple)):
        return all(map(same_without_nan, value))
    if isinstance(value, dict):
        return all(map(same_without_nan, value.values()))
    if isinstance(value, (Down, Exit)):
        return same_without_nan(value.reason)
    return not isinstance(value, Request) or same_without_nan(value.request)


@settings(max_examples=100)
@given(VALUES)
def test_data_is_a_pattern_that_takes_its_copy(value: Any) -> None:
    assume(no_nan(value))
    assert fits(value, copy_data(value))


@settings(max_examples=100)
@given(VALUES, VALUES)
def test_data_takes_what_is_the_same_and_of_a_dict_what_has_more(one: Any, other: Any) -> None:
    def model(wanted: Any, message: Any) -> bool:
        if type(wanted) is not type(message):
            return False
        if isinstance(wanted, (list, tuple)):
            return len(wanted) == len(message) and all(map(model, wanted, message))
        if isinstance(wanted, dict):
            return all(key in message and model(wanted[key], message[key]) for key in wanted)
        return bool(wanted == message)

    assert fits(one, other) == model(one, other)
    assert fits([one], [other]) == model([one], [other])
    assert fits({"a": one}, {"a": other, "b": one}) == model(one, other)


@given(VALUES)
def test_any_and_types(value: Any) -> None:
    assert fits(ANY, value) and fits(object, value)
    for kind in TYPES:
        expected = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
        assert fits(kind, value) == expected
        assert fits((kind, ANY), (value, 1)) == expected
        assert fits(kind | Pid, value) == (expected or isinstance(value, Pid))


@given(st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3), max_leaves=4))
def test_a_pattern_of_plain_data_runs_no_code(value: Any) -> None:
    def notices(value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return any(map(notices, value))
        if isinstance(value, dict):
            return any(map(notices, value.values()))
        return isinstance(value, (Down, Exit, NodeDown, Request)) or "Node" in type(value).__name__

    assert runs_code(value) == notices(value)  # the reason in a notice may be anything
    assert runs_code([value, lambda m: True])
    assert runs_code({"a": ("b", lambda m: True)})


@pytest.mark.parametrize(
    ("pattern", "taken", "left"),
    [
        (("ok", ANY, int), ("ok", None, 1), ("ok", 1)),
        (("ok", ANY, int), ("ok", [], 2), ("ok", None, True)),
        (["a", ANY], ["a", 1], ("a", 1)),
        ({"kind": "temp"}, {"kind": "temp", "data": 1}, {"data": 1}),
        ({}, {"any": 1}, []),
        (1, 1, True),
        (1, 1, 1.0),
        (True, True, 1),
        ("", "", b""),
        ((), (), []),
        (("ok", None), ("ok", None), ("ok", 0)),
        (Down, Down(REF, PID, 1), Exit(PID, 1)),
        (Exit(PID, "x"), Exit(PID, "x"), Exit(PID, "y")),
        (int | str, "a", 1.5),
        (int | None, None, "None"),
        (("n", int | str), ("n", 5), ("n", True)),
        (lambda m: m > 3, 4, 3),
        (("n", lambda m: m > 3), ("n", 4), ("n", 3)),
    ],
)
def test_the_table(pattern: object, taken: object, left: object) -> None:
    assert fits(pattern, taken)
    assert not fits(pattern, left)


def test_nan_is_taken_by_its_type_only() -> None:
    assert not fits(float("nan"), float("nan"))
    assert fits(float, float("nan"))


@pytest.mark.parametrize(
    "pattern",
    [list[int], dict[str, int], ("a", tuple[int, ...]), int | list[str], {"a": list[int]}],
)
def test_what_looks_like_a_type_and_is_none(pattern: object) -> None:
    with pytest.raises(TypeError, match="is no pattern: a type takes its instances"):
        runs_code(pattern)


@pytest.mark.parametrize("pattern", [list[int], list[str], Optional[int]])  # noqa: UP045
def test_it_takes_nothing_either(pattern: object) -> None:
    with pytest.raises(TypeError, match="is no pattern"):
        fits(pattern, "abc")


def test_an_async_function_would_take_everything() -> None:
    async def pattern(message: object) -> bool:
        return False

    for wanted, message in ((pattern, 1), (("x", pattern), ("x", 1))):
        with pytest.raises(TypeError, match="is async; a pattern is a plain function"):
            fits(wanted, message)  # and no "was never awaited"


class Sized(abc.ABC):
    @abc.abstractmethod
    def size(self) -> int: ...


class Named(Protocol):
    name: str


def test_classes_that_decide_themselves_are_the_author_s_code() -> None:
    assert runs_code(Sized) and not fits(Sized, 1)
    assert runs_code(Named)
    with pytest.raises(TypeError):  # Python's word: it is no runtime protocol
        fits(Named, 1)


def test_an_object_of_the_author_is_never_asked() -> None:
    class Evil:
        def __eq__(self, other: object) -> bool:
            raise AssertionError

        __hash__ = None  # type: ignore[assignment]

    assert not fits(Evil(), 5)
    assert runs_code(Evil())
    assert runs_code(Down(REF, PID, Evil()))


def test_its_name_is_shown() -> None:
    assert repr(ANY) == "ANY"
    assert same(repr(("ok", ANY)), "('ok', ANY)")
