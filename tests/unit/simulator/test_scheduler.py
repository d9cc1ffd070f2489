"""simulator/scheduler.py: order and the trace's hash."""

from __future__ import annotations

import pytest

from drupelet.simulator import scheduler as module
from drupelet.simulator.scheduler import Scheduler


def test_by_time_then_by_the_order_of_scheduling() -> None:
    scheduler = Scheduler()
    seen: list[str] = []
    scheduler.at(2.0, lambda: seen.append("c"))
    scheduler.at(1.0, lambda: seen.append("a"))
    scheduler.at(1.0, lambda: seen.append("b"))
    scheduler.at(9.0, lambda: seen.append("late"))
    scheduler.run_until(5.0)
    assert seen == ["a", "b", "c"]
    assert scheduler.now == 5.0


def test_the_past_is_now() -> None:
    scheduler = Scheduler()
    scheduler.run_until(5.0)
    seen: list[float] = []
    scheduler.at(1.0, lambda: seen.append(scheduler.now))
    scheduler.run_until(5.0)
    assert seen == [5.0]


def test_a_machine_that_wakes_itself_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVENTS_MAX", 100)
    scheduler = Scheduler()

    def again() -> None:
        scheduler.after(0.0, again)

    scheduler.after(0.0, again)
    with pytest.raises(RuntimeError, match="more than 100 events"):
        scheduler.run_until(1.0)


def test_the_hash_is_of_what_happened_and_when() -> None:
    hashes = set()
    for instant, what in ((1.0, "a"), (1.0, "b"), (2.0, "a")):
        scheduler = Scheduler()
        scheduler.run_until(instant)
        scheduler.trace(what)
        hashes.add(scheduler.trace_hash())
    assert len(hashes) == 3
