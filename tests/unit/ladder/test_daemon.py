"""Simulated daemons: links are made, lost and replaced as the real ones are."""

from __future__ import annotations

import pytest
import trio

from drupelet.errors import NoConnection
from drupelet.ladder import Cluster, Conditions, Event, simulate
from drupelet.ladder.daemon import CONNECT_S
from drupelet.ladder.network import DEAD_S

EVEN = Conditions(latency_s=0.001, jitter_s=0.0)


def events(cluster: Cluster, *kinds: str) -> list[tuple[str, object, object]]:
    return [
        (each.kind, each.where, each.what)
        for each in cluster.trace.entries
        if isinstance(each, Event) and each.kind in kinds
    ]


def test_every_node_meets_every_other_once() -> None:
    async def main(cluster: Cluster) -> list[tuple[str, object, object]]:
        await trio.sleep(60)
        for name, daemon in cluster.daemons.items():  # both ends use the same link
            for other in daemon.up:
                link, theirs = daemon.link_of(other), cluster.daemon(other).link_of(name)
                assert link is not None
                assert link.other is theirs
        return events(cluster, "up", "down")

    names = ("a", "b", "c")
    for seed in range(10):
        found = simulate(main, nodes=names, seed=seed)
        assert sorted(found) == [("up", x, y) for x in names for y in names if x != y]


def test_a_goodbye_is_told_on_both_sides_and_forgotten() -> None:
    async def main(cluster: Cluster) -> None:
        assert cluster.daemon("a").disconnect("b")
        assert not cluster.daemon("a").disconnect("nobody")
        await trio.sleep(0.5)
        assert sorted(events(cluster, "down")) == [("down", "a", "b"), ("down", "b", "a")]
        await cluster.wait_connected()

    simulate(main, nodes=("a", "b"), conditions=EVEN)


@pytest.mark.parametrize("dark", [True, False])
def test_a_node_that_is_killed_is_missed_at_once_or_when_it_is_silent(dark: bool) -> None:
    async def main(cluster: Cluster) -> None:
        since_s = trio.current_time()
        cluster.kill("b", dark=dark)
        await trio.sleep(2 * DEAD_S)
        (down,) = [each for each in cluster.trace.entries if each.kind == "down"]
        assert isinstance(down, Event)
        span_s = down.at_s - since_s
        assert 0.5 < span_s <= DEAD_S + 0.01 if dark else span_s <= 0.02

    simulate(main, nodes=("a", "b"), conditions=EVEN)


def test_who_wants_a_node_is_told_the_link_or_none_in_time() -> None:
    async def main(cluster: Cluster) -> None:
        daemon = cluster.daemon("a")
        assert (await daemon.connect("b")).peer.name == "b"
        since_s = trio.current_time()
        with pytest.raises(NoConnection):
            await daemon.connect("nobody")
        cluster.cut("a", "b")
        await trio.sleep(DEAD_S + 1)
        since_s = trio.current_time()
        with pytest.raises(NoConnection):
            await daemon.connect("b")
        assert trio.current_time() - since_s <= CONNECT_S + 0.01
        cluster.heal()
        await cluster.wait_connected()
        assert (await daemon.connect("b")).peer.name == "b"

    simulate(main, nodes=("a", "b"), conditions=EVEN)


def test_a_node_that_does_not_run_refuses() -> None:
    async def main(cluster: Cluster) -> None:
        daemon = cluster.daemon("a")
        cluster.kill("b")
        await trio.sleep(1)
        since_s = trio.current_time()
        with pytest.raises(NoConnection):
            await daemon.connect("b")
        assert trio.current_time() - since_s < 0.1  # no silence: it is refused
        await cluster.restart("b")
        await cluster.wait_connected()
        assert daemon.up["b"] == cluster.daemon("b").incarnation

    simulate(main, nodes=("a", "b"), conditions=EVEN)


def test_the_first_end_to_notice_dials_and_the_other_hears_of_it() -> None:
    """One end lost the link, the other did not: it learns it from the new one."""

    async def main(cluster: Cluster) -> None:
        cluster.drop_links("a", "b", one_end=True)
        await cluster.wait_connected()
        await trio.sleep(DEAD_S + 1)
        downs = events(cluster, "down")
        assert ("down", "a", "b") in downs
        await cluster.wait_connected()

    for seed in range(5):
        simulate(main, nodes=("a", "b"), seed=seed)


def test_unknown_things_on_a_link_are_an_error() -> None:
    async def main(cluster: Cluster) -> None:
        daemon = cluster.daemon("a")
        link = daemon.link_of("b")
        assert link is not None
        with pytest.raises(AssertionError, match="unknown"):
            daemon.received(link, ("nonsense",))
        daemon.gone(link, "closed")
        daemon.received(link, ("nonsense",))  # it is closed: nobody reads it
        daemon.gone(link, "closed")

    simulate(main, nodes=("a", "b"))
