"""Pipes: in order, after the latency, stalled by a cut, ended with or without all of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.ladder.network import DEAD_S, Network, Path, Pipe
from drupelet.wire.limits import KEEPALIVE_S


class Ends:
    """What came out of a pipe."""

    def __init__(self, path: Path) -> None:
        self.got: list[tuple[object, float]] = []
        self.ended: list[str] = []
        self.silent_s: list[float] = []
        self.pipe = Pipe(path, self.receive, self.ended.append, self.silent)

    def receive(self, thing: object) -> None:
        self.got.append((thing, round(trio.current_time(), 6)))

    def silent(self) -> None:
        self.silent_s.append(trio.current_time())

    @property
    def things(self) -> list[object]:
        return [thing for thing, _ in self.got]


def virtual(main: Callable[[Network], Awaitable[Any]], seed: int = 1) -> None:
    async def first() -> None:
        network = Network(Random(seed))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.timers.run)
            await main(network)
            nursery.cancel_scope.cancel()

    trio.run(first, clock=trio.testing.MockClock(autojump_threshold=0))


def test_things_arrive_in_order_after_the_latency() -> None:
    async def main(network: Network) -> None:
        path = network.path(0.010)
        ends = Ends(path)
        start_s = trio.current_time()
        ends.pipe.send("a")
        await trio.sleep(0.004)
        path.latency_s = 0.001  # the second would overtake the first
        ends.pipe.send("b")
        await trio.sleep(1)
        assert [thing for thing, _ in ends.got] == ["a", "b"]
        assert ends.got[0][1] == pytest.approx(start_s + 0.010)
        assert ends.got[1][1] == ends.got[0][1]

    virtual(main)


def test_jitter_is_drawn_within_its_bounds() -> None:
    async def main(network: Network) -> None:
        path = network.path(0.010, 0.005)
        delays = [path.delay_s() for _ in range(200)]
        assert min(delays) >= 0.010
        assert max(delays) < 0.015
        assert max(delays) - min(delays) > 0.004

    virtual(main)


def test_a_cut_stalls_and_a_heal_delivers() -> None:
    async def main(network: Network) -> None:
        path = network.path(0.001)
        ends = Ends(path)
        ends.pipe.send("under way")
        path.cut()
        path.cut()  # is cut already
        ends.pipe.send("later")
        await trio.sleep(1.0)
        assert ends.things == []
        assert network.effects["stalled"] == 1
        path.heal()
        path.heal()
        await trio.sleep(0.1)
        assert ends.things == ["under way", "later"]
        assert not ends.silent_s  # too short to be noticed
        ends.pipe.send("after")
        await trio.sleep(0.1)
        assert ends.things[-1] == "after"

    virtual(main)


def test_who_hears_nothing_is_told_when_pings_would_have_been_missed() -> None:
    async def main(network: Network) -> None:
        path = network.path(0.001)
        ends, closed = Ends(path), Ends(path)
        closed.pipe.drop()
        cut_s = trio.current_time()
        path.cut()
        await trio.sleep(DEAD_S + 1)
        assert len(ends.silent_s) == 1
        assert DEAD_S - KEEPALIVE_S <= ends.silent_s[0] - cut_s <= DEAD_S
        assert closed.silent_s == []

    virtual(main)


def test_a_cut_that_was_mended_and_made_again_counts_anew() -> None:
    async def main(network: Network) -> None:
        path = network.path(0.001)
        ends = Ends(path)
        path.cut()
        await trio.sleep(DEAD_S - KEEPALIVE_S - 0.1)
        path.heal()
        path.cut()
        again_s = trio.current_time()
        await trio.sleep(DEAD_S + 1)
        assert len(ends.silent_s) == 1
        assert ends.silent_s[0] >= again_s + DEAD_S - KEEPALIVE_S

    virtual(main)


def test_an_end_comes_after_everything_else_and_nothing_after_it() -> None:
    async def main(network: Network) -> None:
        ends = Ends(network.path(0.001))
        ends.pipe.send("a")
        ends.pipe.close("goodbye")
        ends.pipe.close("again")
        ends.pipe.send("too late")
        assert len(ends.pipe) == 2
        await trio.sleep(0.1)
        assert (ends.things, ends.ended) == (["a"], ["goodbye"])
        assert ends.pipe not in ends.pipe.path.pipes

    virtual(main)


def test_a_reset_loses_a_part_and_may_cut_a_thing() -> None:
    seen: set[tuple[object, ...]] = set()

    async def main(network: Network) -> None:
        ends = Ends(network.path(0.001))
        for thing in ("aa", "bb", "cc"):
            ends.pipe.send(thing)
        ends.pipe.close("reset", lose=lambda thing: str(thing)[:1])
        await trio.sleep(0.1)
        assert ends.ended == ["reset"]
        whole = len(ends.things) - network.effects["cut_short"]
        assert network.effects["lost"] == 3 - whole
        seen.add(tuple(ends.things))

    for seed in range(40):
        virtual(main, seed)
    assert seen == {("a",), ("aa", "b"), ("aa", "bb", "c"), ("aa", "bb", "cc")}


def test_lost_power_gives_no_end_only_silence() -> None:
    async def main(network: Network) -> None:
        ends = Ends(network.path(0.001))
        ends.pipe.send("under way")
        ends.pipe.go_dark()
        await trio.sleep(DEAD_S + 1)
        assert (ends.things, ends.ended, len(ends.silent_s)) == ([], [], 1)
        assert network.effects["lost"] == 1

    virtual(main)


def test_a_dropped_pipe_brings_nothing_more() -> None:
    async def main(network: Network) -> None:
        ends = Ends(network.path(0.001))
        ends.pipe.send("a")
        ends.pipe.drop()
        ends.pipe.drop()
        await trio.sleep(0.1)
        assert (ends.things, ends.ended) == ([], [])

    virtual(main)
