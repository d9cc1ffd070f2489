"""Message diagrams: what stands where, and that they stay within their frame."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from drupelet import (
    Request,
    ask,
    exit,
    link,
    monitor,
    receive,
    reply,
    self,
    send,
    send_after,
    spawn,
    spawn_link,
    trap_exit,
)
from drupelet.ladder import Cluster, Conditions, Trace, draw, simulate
from drupelet.ladder.diagram import LANES_MAX
from drupelet.wire.ids import Pid, Ref

EVEN = Conditions(latency_s=0.001, jitter_s=0.0)


async def kitchen() -> None:
    while True:
        match await receive():
            case Request() as request:
                await reply(request.caller, "tea")
            case ("boil", caller, litres):
                await send(caller, ("tea", litres))
            case "crash":
                exit("burnt")


async def start_kitchen() -> Pid:
    return await spawn(kitchen)


async def customer(pid: Pid) -> None:
    monitor(pid)
    await send(pid, ("boil", self(), 2))
    await receive()
    await ask(pid, "more")
    await send(pid, "crash")
    await receive()
    await send(pid, "hello?")
    await trio.sleep(1)


async def main_of_two(cluster: Cluster) -> Trace:
    pid = await cluster.on("bilbo", start_kitchen)
    await cluster.on("gandalf", customer, pid)
    cluster.cut("gandalf", "bilbo")
    return cluster.trace


def test_a_run_as_people_read_it() -> None:
    shown = draw(simulate(main_of_two, conditions=EVEN))
    assert (
        shown + "\n"
        == """\
           bilbo                                                     gandalf
           start_kitchen                kitchen                      customer
    0.0 ms │────────── spawn ──────────>│
    0.0 ms                              │<──────── monitor ──────────│
    0.0 ms                              │< ("boil", <customer>, 2) ──│
    2.1 ms                              │──────── ("tea", 2) ───────>│
    3.2 ms                              │<─────── ask "more" ────────│
    4.3 ms                              │─────── reply "tea" ───────>│
    5.4 ms                              │<──────── "crash" ──────────│
    6.5 ms                              x ends: "burnt"              │
    6.5 ms                               ─────── down "burnt" ──────>│
    7.6 ms                               x──────── "hello?" ─────────│
   1.008 s ~~~~ cut gandalf bilbo ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~
"""
    )


def test_two_lanes_have_their_words_on_the_arrow() -> None:
    async def ping(pid: Pid) -> None:
        await send(pid, ("boil", self(), "ä\n"))
        await receive()

    async def main(cluster: Cluster) -> Trace:
        pid = cluster.daemon("bilbo").attachments[1].runtime.start(kitchen, ()).pid
        await cluster.on("gandalf", ping, pid)
        return cluster.trace

    lines = draw(simulate(main, conditions=EVEN)).splitlines()
    assert lines[0].split() == ["gandalf", "bilbo"]
    assert '─ ("boil", <ping>, "ä\\n") ─' in lines[2]
    assert lines[2].endswith(">│")
    assert "│<─" in lines[3]
    assert '─ ("tea", "ä\\n") ─' in lines[3]


def test_what_happens_within_one_process() -> None:
    async def alone() -> None:
        send_after(20.0, self(), "tick")
        await receive()
        trap_exit(True)
        pid = await spawn_link(fails)
        await receive()
        link(pid)  # noproc
        await receive()

    async def fails() -> None:
        exit("no")

    async def main(cluster: Cluster) -> Trace:
        await cluster.on("a", alone)
        return cluster.trace

    shown = draw(simulate(main, nodes=("a",)))
    assert 'o timer "tick"' in shown
    assert 'exit "no"' in shown
    assert 'exit "noproc"' in shown


def test_a_late_message_says_how_late() -> None:
    async def one(cluster: Cluster) -> Trace:
        pid = await cluster.on("b", start_kitchen)
        cluster.stretch("a", "b", 0.25)
        await cluster.on("a", ask, pid, "x")
        return cluster.trace

    shown = draw(simulate(one, nodes=("a", "b"), conditions=EVEN))
    assert 'ask "x" +251.0 ms' in shown
    assert 'reply "tea"' in shown
    assert 'reply "tea" +' not in shown


def test_with_many_processes_each_node_has_a_lane() -> None:
    async def meet(pids: list[Pid]) -> None:
        for pid in pids:
            await send(pid, ("boil", self(), 1))
            await receive()

    async def main(cluster: Cluster) -> Trace:
        pids = [await cluster.on("bilbo", start_kitchen) for _ in range(LANES_MAX)]
        await cluster.on("gandalf", meet, pids)
        cluster.kill("bilbo")
        return cluster.trace

    lines = draw(simulate(main, conditions=EVEN)).splitlines()
    assert lines[0].split() == ["bilbo", "gandalf"]
    assert any('("boil", <meet>, 1) (meet > kitchen)' in line for line in lines)
    assert any('("tea", 1) (kitchen 2 > meet)' in line for line in lines)
    assert any("~~~~ kill bilbo ~~~~" in line for line in lines)


@pytest.mark.parametrize("columns", [60, 80, 100])
@pytest.mark.parametrize("clients", range(1, LANES_MAX + 2))
def test_it_stays_within_its_columns(columns: int, clients: int) -> None:
    async def main(cluster: Cluster) -> Trace:
        pid = await cluster.on("bilbo", start_kitchen)
        for _ in range(clients):
            await cluster.on("gandalf", ask, pid, "long " * 50)
        return cluster.trace

    lines = draw(simulate(main), columns=columns).splitlines()
    assert max(len(line) for line in lines) <= columns
    assert sum("…" in line for line in lines) >= 1


async def test_at_most_so_many_rows(autojump_clock: trio.testing.MockClock) -> None:
    trace = Trace()
    one, other = Pid("a", 1, 1), Pid("b", 1, 1)
    for number in range(5):
        trace.delivered(trace.message("send", one, other, number), other)
    assert len(draw(trace, rows=5).splitlines()) == 2 + 5
    lines = draw(trace, rows=4).splitlines()
    assert len(lines) == 2 + 4 + 1
    assert lines[-1] == "... and 1 more"
    trace.left_off = 1_000
    assert draw(trace).endswith("... and 1,000 more")


async def test_values_are_short_and_readable(autojump_clock: trio.testing.MockClock) -> None:
    trace = Trace()
    one, other = Pid("a", 1, 1), Pid("b", 1, 1)
    for value in (
        (1,),
        [],
        {"k": (None, 2.5)},
        Ref("a", 1, 9),
        b"x",
        [[[[[[[[1]]]]]]]],
        Pid("c", 1, 2),
    ):
        trace.delivered(trace.message("send", one, other, value), other)
    shown = draw(trace)
    for text in ("(1,)", "[]", '{"k": (None, 2.5)}', "#9", "b'x'", "[[[[[[…]]]]]]", "<<c.1.2>>"):
        assert f" {text} " in shown


async def test_nothing_happened(autojump_clock: trio.testing.MockClock) -> None:
    assert draw(Trace()) == ""
