"""The words in which checks fail. Time is virtual."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio.testing

from drupelet.cli.lessons.checks import Check, Run, Wrong, answer, equal, prints
from drupelet.process import ANY, Down, run, self, send

NAMES = ("pi1", "pi2", "pi3")


def see(check: Check, *printed: str) -> None:
    found = Run(cast(Any, None), printed, cast(Any, SimpleNamespace(names=NAMES)))
    trio.run(check.test, found)


def virtual(main: Any) -> Any:
    return run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_lines_in_their_order_with_others_between() -> None:
    check = prints("{here} asks {there}", "and {third} ... too", hint="h")
    see(check, "pi1 asks pi2", "and pi3 is there too")
    see(check, "well", "pi1 asks pi2", "so", "and pi3 (who?) too", "end")
    for printed in (
        ("and pi3 is there too", "pi1 asks pi2"),
        ("pi1 asks pi2", "and pi3 is there"),
        ("pi1 asks pi2 twice", "and pi3 is there too"),
        ("pi1 asks pi2",),
        (),
    ):
        with pytest.raises(Wrong):
            see(check, *printed)


def test_what_was_printed_is_shown() -> None:
    with pytest.raises(Wrong) as caught:
        see(prints("three", hint="h"), "one", "two")
    assert (caught.value.expected, caught.value.seen) == (
        "the line: three",
        "the lines: one | two",
    )
    with pytest.raises(Wrong) as caught:
        see(prints("three", hint="h"))
    assert caught.value.seen == "no line"
    with pytest.raises(Wrong) as caught:
        see(prints("three", hint="h"), "x" * 1_000)
    assert len(caught.value.seen) == 400


def test_a_line_is_text_and_no_pattern() -> None:
    see(prints("(a) [b] + *", hint="h"), "(a) [b] + *")
    with pytest.raises(Wrong):
        see(prints("a+", hint="h"), "aa")


def test_the_last_line_names_the_check() -> None:
    assert prints("one", "two", hint="h").what == "it prints: two"
    assert prints("one", what="it counts", hint="h").what == "it counts"


def test_equal() -> None:
    equal("of 2 + 2", 4, 4)
    with pytest.raises(Wrong, match="expected 4 of 2 \\+ 2, saw 5"):
        equal("of 2 + 2", 4, 5)


def test_an_answer() -> None:
    async def main() -> None:
        await send(self(), ("a", 1))
        assert await answer("from me", ("a", ANY)) == ("a", 1)
        for pattern, words in (
            (None, "a message from me"),
            (Down, "a Down from me"),
            (lambda message: False, "a message from me"),
            ("no", "the message 'no' from me"),
        ):
            with pytest.raises(Wrong) as caught:
                await answer("from me", pattern)
            assert (caught.value.expected, caught.value.seen) == (words, "nothing within 2 s")

    virtual(main)
