from __future__ import annotations

import math
import uuid

import pytest

from drupelet.cli.values import BadValue, dump, parse_argument, to_json
from drupelet.wire.ids import Pid


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("weather", "weather"),
        ("", ""),
        ("1", 1),
        ("-0.5", -0.5),
        ('"1"', "1"),
        ("true", True),
        ("null", None),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("[1, ", "[1, "),
        ('{"a": [1]}', {"a": [1]}),
        ('{"$bytes": "AAE="}', b"\0\1"),
        ('{"$float": "-inf"}', -math.inf),
        ('{"$map": [[1, "one"], ["$x", {"$bytes": ""}]]}', {1: "one", "$x": b""}),
        ('{"$uuid": "00000000-0000-0000-0000-000000000001"}', uuid.UUID(int=1)),
    ],
)
def test_what_parses_as_json_is_that_value_and_else_a_string(text: str, value: object) -> None:
    parsed = parse_argument(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        '{"$bytes": "?"}',
        '{"$bytes": 1}',
        '{"$other": 1}',
        '{"$map": [1]}',
        '{"$map": [[null, 1]]}',
        '{"$float": "1"}',
        '{"$uuid": "x"}',
        "[" * 100_000,
    ],
)
def test_malformed_forms_are_refused(text: str) -> None:
    with pytest.raises(BadValue):
        parse_argument(text)


def test_what_json_lacks() -> None:
    assert dump(("ok", b"\0")) == '["ok", {"$bytes": "AA=="}]'
    assert dump(math.nan) == '{"$float": "nan"}'
    assert dump("\ud800") == '"\\ud800"'
    assert isinstance(to_json(Pid("gandalf", 1, 2)), dict)


def test_what_is_nested_deeper_than_python_goes_is_refused() -> None:
    for depth in range(200, 1_200, 100):  # json is done with it, and the walk is not
        text = "[" * depth + "]" * depth
        try:
            parse_argument(text)
        except BadValue as error:
            assert "nested too deep" in str(error)
