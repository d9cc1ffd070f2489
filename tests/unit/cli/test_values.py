from __future__ import annotations

import datetime
import json
import math
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.cli.values import BadValue, dump, from_json, parse_argument, to_json
from drupelet.wire.ids import Pid, ProxyPid, Ref
from drupelet.wire.notices import Down, Request

SENDABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.uuids()
    | st.datetimes(timezones=st.just(datetime.UTC)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("a$") | st.integers(0, 9), inner),
    max_leaves=10,
)


@given(SENDABLE)
def test_every_value_survives_json(value: object) -> None:
    text = dump(value)
    strict = json.loads(text, parse_constant=lambda _: pytest.fail("NaN is not JSON"))
    assert from_json(strict) == value


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


def test_notices_have_their_fields() -> None:
    pid, ref = Pid("g", 1, 2), Ref("g", 1, 3)
    assert to_json(ProxyPid("g", b"s" * 16)) == {"$proxypid": "<proxy g 7373..>"}  # no right
    assert to_json([Down(ref, pid, "kill"), Request((pid, ref), 7)]) == [
        {"$down": {"ref": {"$ref": str(ref)}, "pid": {"$pid": str(pid)}, "reason": "kill"}},
        {"$request": {"caller": [{"$pid": str(pid)}, {"$ref": str(ref)}], "request": 7}},
    ]
