"""MODEL-6: what a state machine does with any events is what a reference of ten lines does."""

from __future__ import annotations

from typing import Any

import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from drupelet.process import run
from drupelet.process.gen_statem import GenStatem
from tests.unit.process.servers import virtual

STATES = ("one", "two", "three")
EVENTS_MAX = 60  # postponing and going back and forth has no end of its own

# what a state does with an event: put it off?, the next state, events to insert
Rule = tuple[bool, str, list[int]]
Rules = dict[tuple[str, int], Rule]
RULE = st.tuples(st.booleans(), st.sampled_from(STATES), st.lists(st.integers(0, 3), max_size=2))
RULES = st.dictionaries(st.tuples(st.sampled_from(STATES), st.integers(0, 3)), RULE)


class Machine(GenStatem):
    def init(self, rules: Rules, log: list[tuple[str, int]]) -> str:
        self.rules, self.log = rules, log
        return "one"

    def _do(self, kind: Any, event: int) -> Any:
        if len(self.log) == EVENTS_MAX:
            return None
        self.log.append((self.state, event))
        put_off, state, inserted = self.rules.get((self.state, event), (False, self.state, []))
        for each in inserted:
            self.next_event("internal", each)
        if put_off:
            self.postpone()
        return state

    one = two = three = _do


def reference(rules: Rules, events: list[int]) -> list[tuple[str, int]]:
    """OTP's rule on plain lists."""
    state, waiting, put_off, log = "one", list(events), list[int](), list[tuple[str, int]]()
    while waiting and len(log) < EVENTS_MAX:
        event = waiting.pop(0)
        log.append((state, event))
        postponed, following, inserted = rules.get((state, event), (False, state, []))
        put_off += [event] * postponed
        if following != state:
            state, waiting, put_off = following, put_off + waiting, []
        waiting = inserted + waiting
    return log


@given(RULES, st.lists(st.integers(0, 3), max_size=12))
@example({("one", 0): (True, "one", []), ("one", 1): (True, "two", [2])}, [0, 0, 1, 3])
def test_the_order_of_any_events(rules: Rules, events: list[int]) -> None:
    async def main() -> list[tuple[str, int]]:
        log: list[tuple[str, int]] = []
        machine = await Machine.start(rules, log)
        for event in events:
            await GenStatem.cast(machine, event)
        await trio.testing.wait_all_tasks_blocked()
        return log

    assert run(main, clock=virtual()) == reference(rules, events)


def test_the_rules_that_are_tried_do_all_there_is() -> None:
    """Postponing, retrying and inserting happen: the reference is not compared with nothing."""
    rules: Rules = {
        ("one", 0): (True, "one", []),
        ("one", 1): (False, "two", [3]),
        ("two", 0): (True, "two", []),
        ("two", 2): (False, "three", []),
    }
    assert reference(rules, [0, 0, 1, 2]) == [
        ("one", 0),
        ("one", 0),
        ("one", 1),
        ("two", 3),
        ("two", 0),
        ("two", 0),
        ("two", 2),
        ("three", 0),
        ("three", 0),
    ]
