"""Arguments: what each annotation takes, and what is told of what it does not take."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet import Length, Range
from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid
from drupelet.worker.arguments import SHOWN_CHARS_MAX, BadAnnotation, compile_checks, complaint


class Kettle(typing.TypedDict):
    litres: float


Litres = typing.NewType("Litres", float)
NOW, IDENT, PID = datetime(2026, 1, 1, tzinfo=UTC), UUID(int=7), Pid("gandalf", 1, 2)
VALUES: tuple[object, ...] = (
    None, True, 0, 7, -1.5, "", "text", b"", b"bytes", [], [1], ["x"], (1, 2), {}, {"a": 1},
    {1: "x"}, NOW, IDENT, PID,
)  # fmt: skip


def found(hint: object, value: object) -> str:
    return complaint("boil", compile_checks([("litres", hint)]), [value])


@pytest.mark.parametrize(
    ("hint", "takes"),
    [
        (int, lambda v: type(v) is int),
        (float, lambda v: type(v) in (int, float)),
        (bool, lambda v: type(v) is bool),
        (str, lambda v: type(v) is str),
        (bytes, lambda v: type(v) is bytes),
        (None, lambda v: v is None),
        (datetime, lambda v: v is NOW),
        (UUID, lambda v: v is IDENT),
        (list, lambda v: type(v) in (list, tuple)),
        (tuple, lambda v: type(v) in (list, tuple)),
        (dict, lambda v: type(v) is dict),
        (Kettle, lambda v: type(v) is dict),
        (Litres, lambda v: type(v) in (int, float)),
        (list[int], lambda v: type(v) in (list, tuple) and v != ["x"]),
        (tuple[int, ...], lambda v: type(v) in (list, tuple) and v != ["x"]),
        (tuple[int, int], lambda v: v == (1, 2)),
        (list[Any], lambda v: type(v) in (list, tuple)),
        (list[Literal["x"]], lambda v: v in ([], ["x"])),
        (dict[str, int], lambda v: v in ({}, {"a": 1})),
        (Mapping[int, str], lambda v: v in ({}, {1: "x"})),
        (dict[object, object], lambda v: type(v) is dict),
        (int | None, lambda v: v is None or type(v) is int),
        (typing.Optional[str], lambda v: v is None or type(v) is str),  # noqa: UP045
        (int | list[str], lambda v: type(v) is int or v in ([], ["x"])),
        (int | object, lambda v: True),
        (Literal["text", 7], lambda v: v in ("text", 7)),
        (Literal[1, None], lambda v: v is None),  # neither True nor 1.0
        (Annotated[int, "metres"], lambda v: type(v) is int),
        (Annotated[float, Range(0, 7)], lambda v: type(v) is int),
        (Annotated[float, Range(high=0)], lambda v: type(v) in (int, float) and v <= 0),
        (Annotated[int, Range(1)], lambda v: v == 7),
        (Annotated[str, Length(1, 4)], lambda v: v == "text"),
        (Annotated[bytes, Length(0, 4)], lambda v: v == b""),
        (Annotated[list[int], Length(1, 1)], lambda v: v == [1]),
        (Annotated[dict, Length(0, 0)], lambda v: v == {}),
        (Annotated[int | None, Range(7, 7)], lambda v: v in (None, 7)),
        (Annotated[int, Range(7, 7)] | None, lambda v: v in (None, 7)),
        (Annotated[str | list, Length(1, 9), Range], None),
        (object, lambda v: True),
        (Any, lambda v: True),
        (Pid, lambda v: True),
        (Sequence[int], lambda v: True),
        ("Unknown", lambda v: True),
        (typing.TypeVar("T"), lambda v: True),
        (list[list[int]], lambda v: v in ([], ()) if type(v) in (list, tuple) else False),
    ],
)
def test_what_an_annotation_takes(hint: object, takes: Callable[[object], bool] | None) -> None:
    if takes is None:
        with pytest.raises(BadAnnotation, match=r"Range\(1, 5\)"):
            found(hint, 1)
        return
    for value in VALUES:
        good = bool(takes(value)) and not (hint == Literal["text", 7] and value is True)
        assert (found(hint, value) == "") is good, value


@pytest.mark.parametrize(
    ("hint", "value", "told"),
    [
        (Annotated[float, Range(0.1, 5)], 7, "(litres): 7 is more than 5"),
        (Annotated[float, Range(0.1, 5)], 0, "(litres): 0 is less than 0.1"),
        (Annotated[float, Range(0.1, 5)], "1", "(litres): '1' is no float"),
        (Annotated[float, Range(0.1, 5)], float("nan"), "(litres): nan is no number"),
        (Annotated[int, Range(1, 5)] | None, 6, "(litres): 6 is more than 5"),
        (Annotated[str, Length(1, 3)], "", "(litres): 0 characters, at least 1"),
        (Annotated[bytes, Length(1, 3)], b"1234", "(litres): 4 bytes, at most 3"),
        (Annotated[list[int], Length(1, 3)], [1] * 4, "(litres): 4 items, at most 3"),
        (list[int], [1, 2, True], "(litres[2]): True is no int"),
        (list[Annotated[int, Range(1)]], [1, 0], "(litres[1]): 0 is less than 1"),
        (list[list[str]], [[], ["a", 1]], "(litres[1][1]): 1 is no str"),
        (tuple[int, str], [1, 2], "(litres[1]): 2 is no str"),
        (tuple[int, str], [1], "(litres): 1 items, and it has 2"),
        (dict[str, int], {"a": "b"}, "(litres['a']): 'b' is no int"),
        (dict[str, int], {1: 1}, "(litres): key 1 is no str"),
        (Literal["on", "off"], "of", "(litres): 'of' is none of 'on', 'off'"),
        (int | None, "x", "(litres): 'x' is no int | None"),
        (int, [1], "(litres): a list is no int"),
        (int, "x" * 50, f"(litres): {'x' * SHOWN_CHARS_MAX!r}... is no int"),
        (int, None, "(litres): None is no int"),
    ],
)
def test_what_is_told(hint: object, value: object, told: str) -> None:
    assert found(hint, value) == f"boil{told}"


def test_each_argument_has_its_check_and_one_left_out_has_none() -> None:
    checks = compile_checks([("a", object), ("b", int), ("c", object), ("d", Any)])
    assert len(checks) == 2  # what is behind the last that is checked costs nothing
    assert complaint("f", checks, ["x", 1, "x", "x"]) == ""
    assert complaint("f", checks, ["x"]) == ""
    assert complaint("f", checks, ["x", "y"]) == "f(b): 'y' is no int"
    assert compile_checks([("a", object), ("b", Pid)]) == ()


@pytest.mark.parametrize(
    ("hint", "why"),
    [
        (Annotated[str, Range(1, 5)], "Range(1, 5) is for int and float, not for str"),
        (
            Annotated[int, Length(1, 5)],
            "Length(1, 5) is for str, bytes, list and dict, not for int",
        ),
        (Annotated[Any, Range(1, 5)], "Range(1, 5) is for int and float"),
        (list[Annotated[int, Length]], "write what it goes from and to: Length(1, 5)"),
    ],
)
def test_what_cannot_be_meant(hint: object, why: str) -> None:
    with pytest.raises(BadAnnotation) as caught:
        compile_checks([("a", hint)])
    assert why in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_value_fits_or_is_told_in_one_short_line(value: object) -> None:
    value = loads(dumps(value))  # as it comes over a border
    for hint in (
        list[list[int]], dict[str, list[str]], Annotated[float, Range(-1, 1)] | str, int | None,
        Annotated[dict[str, Any] | bytes, Length(1, 2)], Literal["", 0],
    ):  # fmt: skip
        text = found(hint, value)
        assert "\n" not in text and len(text) < 400
