"""Notices: their fields both ways, and what is none. test_codec.py has them as bytes."""

from __future__ import annotations

from typing import Any

import pytest

from drupelet.wire.ids import Pid, Ref
from drupelet.wire.notices import (
    CLASSES,
    Down,
    Exit,
    NodeDown,
    NodeUp,
    Request,
    notice_fields,
    notice_from_fields,
)

PID = Pid("bilbo", 7, 1 << 40 | 3)
REF = Ref("gandalf", 9, 4)
ALL = [
    Down(REF, PID, "normal"),
    Down(REF, ("kvs", "bilbo"), ("ValueError", "bad")),
    Exit(PID, {"why": [1, None]}),
    NodeUp("bilbo"),
    NodeDown("bilbo", "down"),
    Request((PID, REF), ("store", "k")),
]


@pytest.mark.parametrize("notice", ALL, ids=lambda each: type(each).__name__)
def test_fields_and_back(notice: Any) -> None:
    fields = notice_fields(notice)
    assert fields[0] == CLASSES.index(type(notice))
    assert len(fields) == len(type(notice).__match_args__) + 1
    assert notice_from_fields(fields) == notice


def test_they_match_by_class_as_the_docstring_shows() -> None:
    seen: list[object] = []
    for notice in ALL:
        match notice:
            case Down(ref=ref, pid=pid, reason=reason):
                seen.append((ref, pid, reason))
            case Exit(pid=pid, reason=reason):
                seen.append((pid, reason))
            case NodeUp(node=node):
                seen.append(node)
            case NodeDown(node=node, reason=reason):
                seen.append((node, reason))
            case Request(caller=caller, request=request):
                seen.append((caller, request))
    assert seen == [
        (REF, PID, "normal"),
        (REF, ("kvs", "bilbo"), ("ValueError", "bad")),
        (PID, {"why": [1, None]}),
        "bilbo",
        ("bilbo", "down"),
        ((PID, REF), ("store", "k")),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [5, "x"],
        [4, [PID, REF], 0],
        [4, (PID, PID), 0],
        [-1, "x"],
        [True, PID, 0],
        ["2", "x"],
        [2],
        [2, "x", "y"],
        [2, PID],
        [3, "x"],
        [0, PID, PID, 0],
        [0, REF, REF, 0],
        [0, REF, ("a",), 0],
        [0, REF, ["a", "b"], 0],
        [0, REF, ("a", 1), 0],
        [1, REF, 0],
    ],
)
def test_other_fields_are_refused(fields: list[object]) -> None:
    with pytest.raises(ValueError):
        notice_from_fields(fields)


def test_fields_of_another_type_are_refused_before_they_travel() -> None:
    for wrong in (NodeUp(PID), NodeDown("n", 1), Exit("p", 0), Down(REF, ("a", 2), 0)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="field of another type"):
            notice_fields(wrong)
