"""Traces: every message of a process in order, here and over wires, and what bounds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from drupelet.errors import ProcessDown
from drupelet.process import (
    Mailbox,
    Pid,
    Request,
    ask,
    exit,
    flush,
    processes,
    receive,
    register,
    reply,
    run,
    self,
    send,
    send_nowait,
    spawn,
)
from drupelet.process.errands import Errand
from drupelet.process.gen_server import GenServer
from drupelet.process.runtime import Runtime
from drupelet.process.tracing import RemoteTracer, TraceEvent, trace
from drupelet.wire.codec import dumps
from drupelet.wire.ids import Ref, make_pid
from drupelet.wire.limits import TRACE_EVENTS_MAX, TRACERS_MAX, VALUE_DEPTH_MAX
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import encode_signal
from tests.unit.process.wires import INCARNATION, Wires, on, open_wires, settle, virtual


async def server(friend: Pid | None = None) -> None:
    """Answers a request with it, passes other messages on to `friend`, ends when told to."""
    while True:
        match await receive():
            case Request(caller=caller, request=request):
                await reply(caller, request)
            case ("end", reason):
                exit(reason)
            case message if friend is not None:
                await send(friend, message)


def shown(events: list[TraceEvent], **names: Pid) -> list[tuple[str, object, object]]:
    """Kind, message and peer, with names in the place of pids."""
    labels: dict[object, object] = {pid: name for name, pid in names.items()}

    def plain(value: object) -> object:
        if isinstance(value, Request):
            return ("request", labels.get(value.caller[0], value.caller[0]), value.request)
        return labels.get(value, value) if isinstance(value, Pid) else value

    return [(each.kind, plain(each.message), plain(each.peer)) for each in events]


# -- here


def test_everything_of_a_process_in_order() -> None:
    async def main() -> None:
        me = self()
        pid = await spawn(server, me)
        async with trace(pid) as events:
            await send(pid, ["a"])
            assert await receive() == ["a"]
            assert await ask(pid, 5) == 5
            await send(pid, ("end", "done"))
            seen = [event async for event in events]  # it ends with the process
            assert shown(seen, me=me) == [
                ("receive", ["a"], "me"),
                ("send", ["a"], "me"),
                ("receive", ("request", "me", 5), "me"),
                ("reply", 5, "me"),
                ("receive", ("end", "done"), "me"),
                ("exit", "done", None),
            ]
            assert {each.pid for each in seen} == {pid}

    run(main)


def test_several_processes_share_one_order() -> None:
    async def main() -> None:
        me = self()
        last = await spawn(server, me, name="last")
        first = await spawn(server, last)
        async with trace(first, "last") as events:
            await send(first, 1)
            assert await receive() == 1
            assert [(each.pid == first, each.kind) for each in events.read()] == [
                (True, "receive"),
                (True, "send"),
                (False, "receive"),
                (False, "send"),
            ]
            assert events.read() == []

    run(main)


def test_what_the_tracing_process_does_itself() -> None:
    async def main() -> None:
        me = self()
        async with trace(me) as events:
            pid = await spawn(server)
            await ask(pid, 1)
            send_nowait(me, 2)
            assert await receive() == 2
            assert shown(events.read(), me=me, pid=pid) == [
                ("spawn", f"{__name__}.server", "pid"),
                ("ask", 1, "pid"),
                ("answer", 1, "pid"),
                ("send", 2, "me"),
                ("receive", 2, "me"),
            ]

    run(main)


def test_a_trace_changes_nothing_and_sees_no_later_change() -> None:
    async def main() -> None:
        pid = await spawn(server, self())
        async with trace(pid) as events:
            await send(pid, [1])
            received: Any = await receive()
            received.append(2)
            assert [each.message for each in events.read()] == [[1], [1]]

    run(main)


def test_a_request_is_shown_as_it_was() -> None:
    async def grow() -> None:
        while True:
            message = await receive(Request)
            if isinstance(message.request, list):
                message.request.append("changed")
            await reply(message.caller, None)

    async def main() -> None:
        pid = await spawn(grow)
        async with trace(pid) as events:
            await ask(pid, [1])
            await ask(pid, 2)
            seen = [each.message for each in events.read() if each.kind == "receive"]
            assert [each.request for each in seen if isinstance(each, Request)] == [[1], 2]

    run(main)


def test_the_end_of_a_trace() -> None:
    async def main() -> None:
        pid = await spawn(server)
        async with trace(pid) as events, trace(pid) as others:
            await ask(pid, 1)
        process = pid_process(pid)
        assert process.tracers is None
        await ask(pid, 2)
        assert len(events.read()) == len(others.read()) == 2  # of the first request only

    run(main)


def pid_process(pid: Pid) -> Any:
    from drupelet.process.current import this_runtime

    return this_runtime().find(pid)


def test_a_trace_wakes_when_something_happens() -> None:
    async def main() -> None:
        pid = await spawn(server)
        async with trace(pid) as events, trio.open_nursery() as nursery:
            nursery.start_soon(ask, pid, 7)
            assert (await anext(events)).kind == "receive"
            assert (await anext(events)).kind == "reply"

    run(main)


def test_nobody_to_trace() -> None:
    async def main() -> None:
        pid = await spawn(lambda: None)
        await trio.testing.wait_all_tasks_blocked()
        for nobody in (pid, "nobody"):
            with pytest.raises(ProcessDown, match="noproc"):
                async with trace(nobody):
                    pass
        async with trace() as events:
            assert [event async for event in events] == []

    run(main)


def test_the_buffer_is_bounded_and_tells_where_it_is_not_whole() -> None:
    async def main() -> None:
        pid = await spawn(server, mailbox=Mailbox(limit=100))
        async with trace(pid, events_max=2) as events:
            for number in range(5):
                await send(pid, number)
            seen = events.read()
            assert [(each.kind, each.message) for each in seen] == [
                ("receive", 0),
                ("receive", 1),
                ("overflow", 3),
            ]
            assert seen[-1].pid == pid
            for number in range(3):
                await send(pid, number)
            assert (await anext(events)).message == 0
            await send(pid, 9)  # there is room for it, after the gap
            assert [(each.kind, each.message) for each in events.read()] == [
                ("receive", 1),
                ("overflow", 1),
                ("receive", 9),
            ]

    run(main)


@pytest.mark.parametrize("events_max", [0, TRACE_EVENTS_MAX + 1, -1])
def test_the_size_of_the_buffer_has_bounds(events_max: int) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="100,000 events"):
            async with trace(self(), events_max=events_max):
                pass
        for good in (1, TRACE_EVENTS_MAX):
            async with trace(self(), events_max=good):
                pass

    run(main)


def test_a_process_has_so_many_traces() -> None:
    async def nested(pid: Pid, count: int) -> None:
        if count:
            async with trace(pid):
                await nested(pid, count - 1)
        else:
            with pytest.raises(ValueError, match="16 traces"):
                async with trace(pid):
                    pass

    async def main() -> None:
        await nested(await spawn(server), TRACERS_MAX)

    run(main)


# -- across nodes


async def start(runtime: Runtime, function: Callable[..., Any] = server, *args: object) -> Pid:
    pid = runtime.start(function, args).pid
    await settle()
    return pid


def across(test: Callable[[Wires, Runtime, Runtime], Any], seed: int = 0) -> None:
    """``test(wires, alice, bob)`` as a process of alice."""

    async def main() -> None:
        async with open_wires(seed) as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            await settle()
            await on(alice, test, wires, alice, bob)

    virtual(main)


@pytest.mark.parametrize("seed", range(6))
def test_a_process_of_another_node(seed: int) -> None:
    async def body(wires: Wires, alice: Runtime, bob: Runtime) -> None:
        me = self()
        pid = await start(bob, server, me)
        async with trace(pid) as events:
            await send(pid, "a")  # the trace holds since it was opened
            assert await receive() == "a"
            assert await ask(pid, 5) == 5
            # what was before an answer is there when the answer is
            assert shown(events.read(), me=me) == [
                ("receive", "a", "me"),
                ("send", "a", "me"),
                ("receive", ("request", "me", 5), "me"),
                ("reply", 5, "me"),
            ]
            await send(pid, ("end", "done"))
            seen = [event async for event in events]
            assert shown(seen, me=me) == [
                ("receive", ("end", "done"), "me"),
                ("exit", "done", None),
            ]
        assert not (alice.remote or alice.find(me) is None)
        assert [each["pid"] for each in await alone(alice)] == [me]  # no collector is left

    across(body, seed)


def test_calls_of_a_server_of_another_node() -> None:
    """Requests that come through a worker are `Errand`s, which are no data: they are shown too."""

    class Oven(GenServer):
        def heat(self, by: int) -> int:
            return by

    async def body(wires: Wires, alice: Runtime, bob: Runtime) -> None:
        pid = await on(bob, Oven.start)
        oven = bob.find(pid)
        assert oven is not None
        async with trace(pid) as events:
            errand = Errand((bob.pid, Ref("bob", INCARNATION, 7)), ("heat", 5))
            bob.put(oven, errand, bob.pid)
            assert await GenServer.call(pid, "heat", 6) == 6
            assert shown(events.read(), me=self(), worker=bob.pid) == [
                ("receive", ("request", "worker", ("heat", 5)), "worker"),
                ("reply", 5, "worker"),
                ("receive", ("request", "me", ("heat", 6)), "me"),
                ("reply", 6, "me"),
            ]

    across(body)


async def alone(runtime: Runtime) -> list[dict[str, Any]]:
    """As `processes` of this runtime, whoever else is on the node."""
    return [runtime.describe(each) for each in runtime.processes.values()]


def test_one_beside_us_and_one_by_name() -> None:
    async def body(wires: Wires, alice: Runtime, bob: Runtime) -> None:
        beside = await wires.attach("alice")
        await settle()
        other = await start(beside)

        async def named() -> None:
            await register("clerk")
            await server()

        clerk = await start(bob, named)
        async with trace(other, ("clerk", "bob")) as events:
            await ask(other, 1)
            await ask(clerk, 2)
            assert [(each.pid, each.kind) for each in events.read()] == [
                (other, "receive"),
                (other, "reply"),
                (clerk, "receive"),
                (clerk, "reply"),
            ]
        with pytest.raises(ProcessDown):
            async with trace(("nobody", "bob")):
                pass

    across(body)


def test_it_is_told_when_the_process_is_out_of_sight() -> None:
    async def body(wires: Wires, alice: Runtime, bob: Runtime) -> None:
        pids = [await start(bob) for _ in range(2)]
        gone = make_pid("bob", INCARNATION, pids[0].number + 500)
        async with trace(*pids, gone) as events:
            event = await anext(events)
            assert (event.kind, event.pid, event.message) == ("exit", gone, "noproc")
            bob.exit_process(bob.processes[pids[0].number], "boom")
            wires.cut("alice", "bob")
            seen = {event.pid: event.message async for event in events}
            assert seen.pop(pids[1]) == "noconnection"
            assert seen.pop(pids[0]) in ("boom", "noconnection")
            assert seen == {}
        wires.heal("alice", "bob")
        await settle()
        assert bob.processes[pids[1].number].tracers is None  # it lost us as well

    across(body)


def test_a_tracer_that_dies_is_forgotten() -> None:
    async def body(wires: Wires, alice: Runtime, bob: Runtime) -> None:
        carol = await wires.attach("carol")
        await settle()
        pid = await start(bob)

        async def watch() -> None:
            async with trace(pid):
                await trio.sleep_forever()

        await start(carol, watch)
        assert len(bob.processes[pid.number].tracers or ()) == 1
        wires.kill(carol)
        await settle()
        assert bob.processes[pid.number].tracers is None

    across(body)


def test_the_end_of_a_trace_of_elsewhere() -> None:
    async def body(wires: Wires, alice: Runtime, bob: Runtime) -> None:
        pid = await start(bob)
        async with trace(pid):
            assert bob.processes[pid.number].tracers is not None
        await settle()
        assert bob.processes[pid.number].tracers is None
        assert not bob.processes[pid.number].watchers
        assert await flush() == []

    across(body)


def test_a_full_way_costs_events_and_says_how_many() -> None:
    async def body(wires: Wires, alice: Runtime, bob: Runtime) -> None:
        pid = await start(bob)
        end = wires.nodes["bob"][0]
        async with trace(pid) as events:
            await send(pid, 1)
            await settle()
            end.congested = True
            for number in (2, 3):
                await send(pid, number)
            await settle()
            end.congested = False
            await send(pid, 4)
            await settle()
            assert [(each.kind, each.message) for each in events.read()] == [
                ("receive", 1),
                ("overflow", 2),
                ("receive", 4),
            ]

    across(body)


def test_what_is_too_deep_for_an_event_is_counted() -> None:
    async def body(wires: Wires, alice: Runtime, bob: Runtime) -> None:
        pid = await start(bob)
        deep: object = "core"
        for _ in range(VALUE_DEPTH_MAX):
            deep = [deep]
        async with trace(pid) as events:
            await send(pid, deep)
            await send(pid, 1)
            await settle()
            assert [(each.kind, each.message) for each in events.read()] == [
                ("overflow", 1),
                ("receive", 1),
            ]

    across(body)


def test_a_collector_hears_nobody_else() -> None:
    async def body(wires: Wires, alice: Runtime, bob: Runtime) -> None:
        pid = await start(bob)
        async with trace(pid) as events:
            [collector] = [each for each in alice.processes.values() if each.pid != self()]
            assert alice.describe(collector)["function"] == "drupelet.process.tracing.Events"
            for forged in (5, ("trace", self(), "receive", 1, None), ("trace", pid, 5, 1, None)):
                await send(collector.pid, forged)
            assert events.read() == []
            exit(collector.pid, "kill")  # and a trace without one ends
            assert [(e.kind, e.message) async for e in events] == [("exit", "killed")]

    across(body)


def test_two_that_trace_each_others_collectors_are_quiet() -> None:
    async def body(wires: Wires, alice: Runtime, bob: Runtime) -> None:
        pid = await start(bob)
        async with trace(pid):
            [collector] = [each for each in alice.processes.values() if each.pid != self()]

            async def watch() -> None:
                async with trace(collector.pid):
                    await trio.sleep_forever()

            await start(bob, watch)
            [theirs] = [
                each.pid
                for each in bob.processes.values()
                if bob.describe(each)["function"] == "drupelet.process.tracing.Events"
            ]
            async with trace(theirs) as events:
                before = len(wires.routed)
                await send(pid, 1)
                await settle()
                assert len(wires.routed) - before == 2  # the message and its event
                assert events.read() == []

    across(body)


def test_too_many_traces_from_elsewhere_are_dropped() -> None:
    async def body(wires: Wires, alice: Runtime, bob: Runtime) -> None:
        pid = await start(bob)
        for number in range(1, TRACERS_MAX + 2):
            sender = make_pid("alice", INCARNATION, alice.pid.number + 1_000 + number)
            alice.transmit(encode_signal(wire.TRACE, pid, sender, 0, dumps(True)))
        await settle()
        assert len(bob.processes[pid.number].tracers or ()) == TRACERS_MAX
        assert bob.dropped_count == 1

    across(body)


def test_tracers_of_the_same_collector_are_one() -> None:
    async def body(wires: Wires, alice: Runtime, bob: Runtime) -> None:
        one, same = RemoteTracer(bob, self()), RemoteTracer(alice, self())
        assert one == same
        assert hash(one) == hash(same)
        assert one != RemoteTracer(bob, bob.pid)
        assert one != self()

    across(body)


def test_shown_to_people() -> None:
    async def main() -> None:
        async with trace(self()) as events:
            await send(self(), 1)
            [_, event] = events.read()
            assert event == TraceEvent(
                kind="receive", pid=self(), message=1, peer=self(), at=event.at
            )
        assert len(await processes()) == 1

    run(main)
