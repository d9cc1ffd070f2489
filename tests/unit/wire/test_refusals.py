"""What a refusal says: what, where, and the mend; never the value itself."""

from __future__ import annotations

import datetime
import enum
from typing import Any

import pytest

from drupelet.errors import DrupeletError, NotSendable
from drupelet.wire import limits
from drupelet.wire.ids import Pid, Ref
from drupelet.wire.notices import Exit
from drupelet.wire.refusals import explain


class Colour(enum.IntEnum):
    RED = 1


def a_function() -> None:
    pass


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        ([{"callback": a_function}], '[0]["callback"]', "function is code, and only data travels"),
        ((1, [Colour.RED]), "[1][0]", "would arrive as a plain int; send int"),
        ({"a": {2}}, '["a"]', "sorted list"),
        ({7: [object()]}, "[7][0]", "send its fields in a dict"),
        ({"n": 2**63}, '["n"]', "64 bits; send it as text"),
        (["\udc80"], "[0]", "lone surrogate at 0; send it as bytes"),
        ([datetime.datetime(2026, 1, 1)], "[0]", "without a time zone"),
        ([{1.5: 0}], "[0] key a float", "keys of a dict are str or int"),
        ({"\udc80": 0}, 'key "\\udc80"', "lone surrogate"),
        ({2**70: 0}, "key a int", "64 bits"),
        ({'say "x"\n': object}, '["say \\"x\\"\\n"]', "code"),
        ({"k" * 100: object}, f'["{"k" * 40}..."]', "code"),
        (object(), "", "an object is not data"),
        ([Exit(Pid("n", 1, 2), [object])], '[0]["reason"][0]', "code"),
        ([Exit(Ref("n", 1, 2), 0)], "[0]", "a Exit with a field of another type"),  # type: ignore[arg-type]
        (slice(1), "", "a slice is not data"),
    ],
)
def test_the_place_and_the_mend(value: Any, path: str, words: str) -> None:
    error = explain(value)
    assert isinstance(error, NotSendable)
    assert isinstance(error, TypeError)
    assert isinstance(error, DrupeletError)
    assert error.path == path
    assert words in str(error)
    assert str(error).startswith(path)


def test_the_value_itself_is_never_shown() -> None:
    class Secret(str):
        pass

    for value in (Secret("hunter2"), ["hunter2\ud800"], {"k": Secret("hunter2")}):
        assert "hunter2" not in str(explain(value))


def test_a_shared_value_is_no_cycle() -> None:
    shared = [1]
    assert "itself" not in str(explain([shared, shared, object()]))
    shared.append(shared)  # type: ignore[arg-type]
    assert explain([shared]).path == "[0][1]"


def test_depth_is_named_where_it_begins() -> None:
    value: Any = 1
    for _ in range(limits.VALUE_DEPTH_MAX + 1):
        value = [value]
    assert explain(value).path == "[0]" * limits.VALUE_DEPTH_MAX
    assert "16 containers deep" in str(explain(value))


def test_it_ends_on_what_grows_without_end() -> None:
    value: Any = []
    for _ in range(15):
        value = [value] * 20
    assert "items" in str(explain(value))


def test_integer_keys_are_counted() -> None:
    most: dict[Any, Any] = {n: None for n in range(limits.MAP_INT_KEYS_MAX + 1)}
    assert "send a list of pairs" in str(explain(most))


def test_what_has_no_fault_is_too_large() -> None:
    assert "bytes altogether" in str(explain([1, "a", (b"x",)]))
