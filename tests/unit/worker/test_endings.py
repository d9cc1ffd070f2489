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


def test_a_question_about_some_calls() -> None:
    endings, settled = make()
    endings.cancelled("a", 2)
    endings.cancelled("b", 4)
    endings.cancelled("c", 4)
    endings.cancelled("b", 6)  # said twice: it is the first one's
    assert endings.ask(10, {4}) and endings.ask(12, {6, 8}) and endings.ask(14, set())
    assert settled == [12, 14]
    endings.cancelled("d", 4)  # later
    endings.ended("b")
    assert settled == [12, 14]
    endings.ended("c")
    assert settled == [12, 14, 10]
    assert endings.ask(16, {2}) and endings.ask(18, {2})
    endings.forget(16)
    endings.ended("a")
    assert settled == [12, 14, 10, 18]


def test_both_kinds_of_questions_count() -> None:
    endings, _ = make()
    endings.cancelled("a", 2)
    for number in range(SETTLES_MAX):
        assert endings.ask(number, {2} if number % 2 else None)
    assert not endings.ask(1_000, {2})
    assert not endings.ask(1_000)
