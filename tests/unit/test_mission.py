from __future__ import annotations

import subprocess
import sys

import pytest

from drupelet import Length, Range, cast, mission
from drupelet.mission import Mark, is_cast, marks_of


def test_a_mark_leaves_the_function_as_it_was() -> None:
    def boil(litres: float) -> str:
        return f"boiled {litres} l"

    marked = mission("kitchen")(boil)
    assert marked is boil
    assert marked(1.5) == "boiled 1.5 l"
    assert marks_of(boil) == (Mark("kitchen", "inline"),)


def test_marks_for_two_missions_and_again_for_one() -> None:
    @mission("a", where="thread")
    @mission("b")
    @mission("a")
    def work() -> None: ...

    assert marks_of(work) == (Mark("b", "inline"), Mark("a", "thread"))


def test_only_a_class_can_go_without_its_name() -> None:
    class Oven:
        pass

    assert marks_of(mission("kitchen", prefix=False)(Oven)) == (Mark("kitchen", "inline", False),)
    assert marks_of(mission("kitchen", once=True)(Oven)) == (
        Mark("kitchen", "inline", True, once=True),
    )
    with pytest.raises(TypeError, match="prefix=False is for classes"):
        mission("kitchen", prefix=False)(print_nothing)


def print_nothing() -> None: ...


def test_a_subclass_does_not_inherit_a_mark() -> None:
    @mission("kitchen")
    class Oven:
        pass

    class Hidden(Oven):
        pass

    assert marks_of(Oven)
    assert marks_of(Hidden) == ()


def test_cast_marks_and_nothing_else_does() -> None:
    @cast
    def cool() -> None: ...

    def heat() -> None: ...

    assert is_cast(cool)
    assert not is_cast(heat)


@pytest.mark.parametrize("name", ["k" * 63, "a-b_c", "7"])
def test_names_that_are_good(name: str) -> None:
    mission(name)


@pytest.mark.parametrize("name", ["", "k" * 64, "a/b", "a b", "küche", "a.b", "-", 7, print])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="mission"):
        mission(name)


def test_what_cannot_be_marked() -> None:
    with pytest.raises(TypeError, match="function or a class"):
        mission("kitchen")(7)  # type: ignore[type-var]
    with pytest.raises(ValueError, match='use "inline" or "thread"'):
        mission("kitchen", where="gpu")


@pytest.mark.parametrize("first", ["import drupelet.mission", "from drupelet.mission import cast"])
def test_the_function_wins_over_the_module_of_its_name(first: str) -> None:
    """Whoever imports the module first: a mission file must get the function."""
    code = f"{first}\nfrom drupelet import mission\nassert mission('a')(lambda: 1)() == 1"
    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=20)


def test_limits_say_what_they_are() -> None:
    assert repr([Range(1, 5), Range(high=0.5), Length(1, 64)]) == (
        "[Range(1, 5), Range(-inf, 0.5), Length(1, 64)]"
    )
    assert (Range(1).low, Range(1).high) == (1, float("inf"))


@pytest.mark.parametrize(
    ("limit", "ends", "error"),
    [
        (Range, (5, 1), ValueError),
        (Range, (float("nan"), 1), ValueError),
        (Range, ("1", "5"), TypeError),
        (Range, (True, 5), TypeError),
        (Length, (5, 1), ValueError),
        (Length, (-1, 1), ValueError),
        (Length, (1, 2.5), TypeError),
    ],
)
def test_limits_that_nothing_is_within(
    limit: type, ends: tuple[object, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        limit(*ends)
