"""When a question is answered, without anything that runs."""

from __future__ import annotations

from drupelet.wire.limits import SETTLES_MAX, WORKER_CALLS_MAX
from drupelet.worker.endings import Endings


def make() -> tuple[Endings, list[int]]:
    settled: list[int] = []
    return Endings(settled.append), settled


def test_nothing_was_cancelled() -> None:
    endings, settled = make()
    endings.ended("x")
    assert endings.ask(2)
    assert settled == [2]


def test_a_question_waits_for_what_was_cancelled_before_and_for_nothing_later() -> None:
    endings, settled = make()
    endings.cancelled("a")
    endings.cancelled("b")
    assert endings.ask(2)
    endings.cancelled("c")
    assert endings.ask(4)
    assert len(endings) == 3
    endings.ended("b")
    assert settled == []
    endings.ended("a")
    endings.ended("a")
    assert settled == [2]
    endings.cancelled("d")
    endings.ended("c")
    assert settled == [2, 4]
    endings.ended("d")
    assert settled == [2, 4]
    assert len(endings) == 0


def test_several_questions_are_answered_at_once_and_in_order() -> None:
    endings, settled = make()
    endings.cancelled("a")
    assert endings.ask(2) and endings.ask(4)
    endings.cancelled("b")
    assert endings.ask(6)
    endings.ended("b")
    assert settled == []
    endings.ended("a")
    assert settled == [2, 4, 6]


def test_who_asked_gives_up() -> None:
    endings, settled = make()
    endings.cancelled("a")
    assert endings.ask(2) and endings.ask(4)
    endings.forget(2)
    endings.forget(8)
    endings.ended("a")
    assert settled == [4]


def test_questions_at_the_maximum_and_one_above() -> None:
    endings, settled = make()
    endings.cancelled("a")
    for ident in range(SETTLES_MAX):
        assert endings.ask(ident)
    assert not endings.ask(SETTLES_MAX)
    endings.ended("a")
    assert settled == list(range(SETTLES_MAX))
    assert endings.ask(SETTLES_MAX)


def test_as_many_endings_as_there_may_be_calls() -> None:
    endings, settled = make()
    for number in range(WORKER_CALLS_MAX):
        endings.cancelled(number)
    assert endings.ask(2)
    for number in range(WORKER_CALLS_MAX):
        assert settled == []
        endings.ended(number)
    assert settled == [2]
