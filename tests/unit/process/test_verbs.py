"""Which methods are verbs, and what a wrong request is told."""

from __future__ import annotations

import pytest

from drupelet import cast
from drupelet.mission import is_cast
from drupelet.process.verbs import (
    CALLBACKS,
    Verb,
    bad_arguments,
    check_names,
    find_verbs,
    own_names,
    undefined,
)


class Base:
    def stop(self) -> None: ...

    def init(self) -> None: ...

    def _private(self) -> None: ...


class Oven(Base):
    degrees = 20

    def heat(self, degrees: int, slowly: bool = False) -> None: ...

    @cast
    def cool(self) -> None: ...

    def many(self, first: int, *rest: int, named: int = 0, **others: int) -> None: ...

    @staticmethod
    def double(number: int) -> None: ...

    @classmethod
    def made(cls, number: int) -> None: ...

    async def later(self) -> None: ...

    def terminate(self, reason: object) -> None: ...

    @property
    def shown(self) -> int:
        return 0


def test_own_names_are_the_public_ones_that_are_no_callbacks() -> None:
    assert own_names(Base) == {"stop"}
    assert {"init", "terminate", "handle_call", "format_status"} <= CALLBACKS


def test_verbs_with_their_numbers_of_arguments() -> None:
    assert find_verbs(Oven, own=own_names(Base)) == {
        "cool": Verb("cool", True, 0, 0),
        "double": Verb("double", False, 1, 1),
        "heat": Verb("heat", False, 1, 2),
        "later": Verb("later", False, 0, 0),
        "made": Verb("made", False, 1, 1),
        "many": Verb("many", False, 1, (1 << 30) - 1),
    }


def test_the_mark_of_a_cast_is_that_of_missions() -> None:
    assert is_cast(Oven.cool)  # two rooms know it
    assert find_verbs(Oven, own=frozenset())["cool"].is_cast


def test_a_hidden_name_is_refused() -> None:
    class Wrong(Base):
        def stop(self) -> None: ...

    with pytest.raises(TypeError, match=r"Wrong\.stop: every GenServer has 'stop' already"):
        check_names(Wrong, own_names(Base))
    check_names(Oven, own_names(Base))


def test_what_a_wrong_request_is_told() -> None:
    verbs = find_verbs(Oven, own=own_names(Base))
    for request, told in {
        ("haet",): "Oven has no verb 'haet'; did you mean 'heat'?",
        ("zzz", 1): "Oven has no verb 'zzz'; its verbs: cool, double, heat",
        ("z" * 5_000,): f"Oven has no verb '{'z' * 80}'; its verbs",
        (1,): "Oven answers nothing but its verbs: cool",
        "heat": "Oven answers nothing but its verbs: cool",
        (): "Oven answers nothing but its verbs: cool",
    }.items():
        error = undefined("Oven", verbs, request)
        assert error.kind == "undef"
        assert error.message.startswith(told)
    assert undefined("Empty", {}, ("x",)).message == "Empty has no verb 'x'; its verbs: none"
    error = bad_arguments(Oven(), "heat", 1)
    assert error.kind == "badarg"
    assert error.message.endswith("-> 'None': 1 argument given")


def test_a_class_that_could_not_serve_does_not_come_into_being() -> None:
    class Arguments:
        def __init__(self, degrees: int) -> None: ...

    class Defaults:
        def __init__(self, degrees: int = 20, *, unit: str = "C") -> None: ...

        @staticmethod
        def scale() -> None: ...

        def anything(*words: str) -> None: ...

    class Selfless:
        def heat() -> None: ...  # type: ignore[misc]

    class SelflessCallback:
        def init() -> None: ...  # type: ignore[misc]

    with pytest.raises(TypeError, match=r"Arguments: what `start` is given goes to `init\(self"):
        find_verbs(Arguments, own=frozenset())
    assert set(find_verbs(Defaults, own=frozenset())) == {"scale", "anything"}
    for cls, name in ((Selfless, "heat"), (SelflessCallback, "init")):
        with pytest.raises(TypeError, match=rf"\.{name}: write `def {name}\(self\)`"):
            find_verbs(cls, own=frozenset())


def test_a_forgotten_self_is_told() -> None:
    class Calculator:
        def left(sweets, children) -> None: ...  # type: ignore[no-untyped-def]

        @classmethod
        def name(cls) -> None: ...

    told = bad_arguments(Calculator(), "left", 2).message
    assert told.startswith("Calculator.left(children) -> ")
    assert told.endswith(": 2 arguments given; `sweets` stands where `self` should")
    assert "self" not in bad_arguments(Calculator(), "name", 1).message
