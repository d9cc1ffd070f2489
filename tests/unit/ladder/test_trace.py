"""The trace: what was sent, whether and where it arrived, and the hash over all of it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from drupelet.ladder import trace as trace_module
from drupelet.ladder.trace import Event, Message, Trace
from drupelet.wire.ids import Pid

ALICE, BOB = Pid("alice", 1, 5), Pid("bob", 1, 6)


async def test_a_message_arrives_where_it_is_taken(autojump_clock: trio.testing.MockClock) -> None:
    trace = Trace()
    sent_s = trio.current_time()
    message = trace.message("send", ALICE, ("name", "bob"), {"a": 1})
    trace.under_way("key", message)
    await trio.sleep(0.5)
    assert trace.arrived("key", BOB)
    assert not trace.arrived("key", BOB)
    expected = Message("send", ALICE, ("name", "bob"), {"a": 1}, sent_s, sent_s + 0.5, BOB)
    assert trace.entries == [expected]


async def test_equal_keys_arrive_in_order(autojump_clock: trio.testing.MockClock) -> None:
    trace = Trace()
    one, two = (trace.message("send", ALICE, BOB, number) for number in (1, 2))
    trace.under_way("same", one)
    trace.under_way("same", two)
    assert trace.arrived("same", None)
    assert one.arrived_s is not None
    assert (one.taker, two.arrived_s) == (None, None)


async def test_the_hash_is_over_everything(autojump_clock: trio.testing.MockClock) -> None:
    def noted(what: object, *, arrives: bool) -> str:
        trace = Trace()
        message = trace.message("send", ALICE, BOB, what)
        trace.event("end", BOB, "normal")
        if arrives:
            trace.delivered(message, BOB)
        return trace.hash()

    assert noted(1, arrives=True) == noted(1, arrives=True)
    different = {noted(1, arrives=True), noted(2, arrives=True), noted(1, arrives=False)}
    assert len(different) == 3


async def test_at_most_so_many_entries_and_the_hash_goes_on(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(trace_module, "EVENTS_MAX", 2)
    trace = Trace()
    trace.event("start", ALICE, "main")
    trace.event("end", ALICE, "normal")
    assert (len(trace.entries), trace.left_off) == (2, 0)
    before = trace.hash()
    trace.event("cut", "alice", "bob")
    assert (len(trace.entries), trace.left_off) == (2, 1)
    assert isinstance(trace.entries[-1], Event)
    assert trace.entries[-1].kind == "end"
    assert trace.hash() != before
