"""How behaviours answer calls from outside."""

from __future__ import annotations

from typing import Any

import pytest

from drupelet.errors import RemoteError
from drupelet.mission import cast, verb
from drupelet.process.gen_event import NOTIFY, GenEvent
from drupelet.process.gen_server import GenServer
from drupelet.process.gen_statem import GenStatem
from drupelet.process.serving import face_of
from drupelet.process.supervisor import Supervisor


class Oven(GenServer):
    def heat(self, by: int) -> int:
        return by


class Door(GenStatem):
    def init(self) -> str:
        return "locked"

    @verb
    def enter(self, code: int) -> str: ...

    @cast
    def push(self) -> None: ...

    def locked(self, kind: Any, content: Any) -> None:
        """A state."""


class Alarms(GenEvent):
    @verb
    def count(self) -> int: ...


class Pump:
    def start(self) -> None: ...


@pytest.mark.parametrize(
    ("cls", "verbs"),
    [
        (Oven, {"heat"}),
        (Door, {"enter", "push"}),
        (Alarms, {"count"}),
        (
            Supervisor,
            {"which_children", "count_children", "restart_child", "terminate_child"},
        ),
    ],
)
def test_only_verbs_are_reached(cls: type, verbs: set[str]) -> None:
    face = face_of(cls)
    assert face is not None and set(face.verbs) == verbs
    assert face_of(Pump) is None


def test_a_marked_method_is_no_state() -> None:
    class Gate(Door):
        pass

    assert Gate._GenStatem__states == {"locked"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("cls", "asked", "told"),
    [
        (Oven, ("go", 1, 2), ("$gen_cast", ("go", 1, 2))),
        (Alarms, ("call", f"{__name__}.Alarms", ("go", 1, 2)), (NOTIFY, ("go", 1, 2))),
    ],
)
def test_what_a_call_becomes(cls: type, asked: object, told: object) -> None:
    face = face_of(cls)
    assert face is not None
    assert face.request("go", [1, 2]) == asked
    assert face.message("go", [1, 2]) == told


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (("error", ("ValueError", "bad")), "ValueError", "bad"),
        (("error", "bad_module"), "process_down", "is about to start anew"),
        (("error", ("shutdown", 5)), "refused", "'shutdown', 5"),
        ("what", "refused", "means nothing"),
    ],
)
def test_what_a_manager_answers(answer: object, kind: str, words: str) -> None:
    face = face_of(Alarms)
    assert face is not None
    with pytest.raises(RemoteError) as caught:
        face.value(answer)
    assert caught.value.kind == kind and words in caught.value.message
    assert face.value(("ok", 5)) == 5
