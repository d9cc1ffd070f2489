"""Finding pids in encoded values, in every form that a decoder takes; and replacing them."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given

from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid, ProxyPid, Ref
from drupelet.wire.notices import CLASSES, Down, NodeUp
from drupelet.wire.proxies import may_hold_pids, replace_pids
from tests.unit.wire.test_codec import VALUES

PID = Pid("alice", 1, 2)
PROXY = ProxyPid("bob", b"s" * 16)


def found(value: object) -> list[object]:
    places: list[object] = []
    replace_pids(value, lambda each: places.append(each))
    return places


@given(VALUES)
def test_none_is_missed(value: Any) -> None:
    data = dumps(value)
    if found(loads(data)):
        assert may_hold_pids(data)


@pytest.mark.parametrize("value", [PID, PROXY, NodeUp("a"), Down(Ref("a", 1, 1), PID, "x")])
def test_longer_heads_hide_nothing(value: object) -> None:
    data = dumps({"deep": [value]})
    tag = dumps(value)[1]
    assert may_hold_pids(data)
    for head, size in ((b"\xd9", ">H"), (b"\xda", ">I"), (b"\xdb", ">Q")):
        longer = data.replace(bytes((0xD8, tag)), head + struct.pack(size, tag), 1)
        assert loads(longer) == {"deep": [value]}
        assert may_hold_pids(longer)


@pytest.mark.parametrize(
    "value", [None, 7, "text", [1.5, (Ref("a", 1, 1),)], {"k": b"\xd8\xd9"}, "ה" * 100, "Ĳڀ"]
)
def test_what_holds_none_is_not_opened(value: object) -> None:
    assert not may_hold_pids(dumps(value))


def test_bytes_that_look_like_one_are_a_false_alarm_only() -> None:
    value = [b"\xd8\x59", b"\xdb\0\0\0\0\0\0\0\x5d"]
    assert may_hold_pids(dumps(value))
    assert found(value) == []


def test_everywhere_in_lists_tuples_and_dicts_but_not_inside_of_notices() -> None:
    down = Down(Ref("a", 1, 1), PID, [PROXY])
    value = [PID, (1, PROXY), {"a": {"b": [PID]}, 7: down}]
    assert replace_pids(value, lambda each: type(each).__name__) == [
        "Pid", (1, "ProxyPid"), {"a": {"b": ["Pid"]}, 7: "Down"}
    ]  # fmt: skip
    assert found(value) == [PID, PROXY, PID, down]
    assert len(CLASSES) == 5
