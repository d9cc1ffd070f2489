from __future__ import annotations

import datetime
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.wire.ids import Pid, ProxyPid, Ref
from drupelet.wire.json_forms import BadValue, from_json, to_json
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
    text = json.dumps(to_json(value), allow_nan=False)
    strict = json.loads(text, parse_constant=lambda _: pytest.fail("NaN is not JSON"))
    assert from_json(strict) == value


def test_what_json_lacks_has_a_form() -> None:
    assert to_json(("ok", b"\0")) == ["ok", {"$bytes": "AA=="}]
    assert to_json(math.inf) == {"$float": "inf"}
    assert to_json({"$x": 1}) == {"$map": [["$x", 1]]}
    for malformed in ({"$bytes": "?"}, {"$pid": "<a.1.2>"}, {"$map": [[None, 1]]}):
        with pytest.raises(BadValue):
            from_json(malformed)


def test_notices_have_their_fields() -> None:
    pid, ref = Pid("g", 1, 2), Ref("g", 1, 3)
    assert to_json(ProxyPid("g", b"s" * 16)) == {"$proxypid": "<proxy g 7373..>"}  # no right
    assert to_json([Down(ref, pid, "kill"), Request((pid, ref), 7)]) == [
        {"$down": {"ref": {"$ref": str(ref)}, "pid": {"$pid": str(pid)}, "reason": "kill"}},
        {"$request": {"caller": [{"$pid": str(pid)}, {"$ref": str(ref)}], "request": 7}},
    ]
