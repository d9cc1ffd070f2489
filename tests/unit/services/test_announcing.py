"""When a node announces itself, and what it says while nothing changes."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from drupelet.core.relay_choice import By
from drupelet.net.relay_socket import SILENT_S
from drupelet.net.relay_way import ANSWER_S, Place, RelayGone
from drupelet.relay.web import SILENCE_S
from drupelet.services import announcing
from drupelet.services.announcing import ANNOUNCE_S, LOOK_S, QUIET_S, Announcer, Offered
from drupelet.wire import relay as wire
from drupelet.wire.announcements import decode_announcement
from tests.unit.net.fake_relay import Fake, against
from tests.unit.relay.nodes import ALICE, BOB
from tests.unit.services.ways import Answer, FakeWay, passing


class Grants:
    """What this node offers."""

    def __init__(self, *missions: str) -> None:
        self.missions = list(missions)

    def version(self) -> int:
        return len(self.missions)

    def offered(self) -> Offered:
        return Offered({name: (BOB.key,) for name in self.missions}, bytes(32), bytes(16))


def way_of(answer: Answer = lambda way, message: None, run: bytes = b"r" * 16) -> FakeWay:
    return FakeWay(Place("https://relay", ALICE.seed), By.WEBSOCKET, answer, run)


def announcer(grants: Grants) -> Announcer:
    return Announcer(grants, seed=ALICE.seed, name="alice")


def said(way: FakeWay) -> list[Any]:
    return [decode_announcement(each.announcement) for each in way.of(wire.Announce)]


async def test_each_20_s_and_without_the_offers_that_the_relay_has(
    autojump_clock: trio.testing.MockClock,
) -> None:
    grants, way = Grants("light"), way_of()
    made = announcer(grants)
    await made.announce(way)
    with trio.move_on_after(10 * ANNOUNCE_S + 1):
        await made.run(way)
    announcements = said(way)
    assert len(announcements) == 11
    assert [each.offers is None for each in announcements] == [False] + [True] * 10
    assert [each.beacon.sequence for each in announcements] == list(range(1, 12))
    assert all(len(each.announcement) < 300 for each in way.of(wire.Announce)[1:])


async def test_a_node_that_offers_nothing_is_quiet(autojump_clock: trio.testing.MockClock) -> None:
    way, made = way_of(), announcer(Grants())
    with trio.move_on_after(10 * QUIET_S + 1):
        await made.run(way)
    assert len(said(way)) == 11
    assert {each.offers is None for each in said(way)} == {False}  # the relay need not ask for them


async def test_a_quiet_node_does_not_take_its_relay_for_dead(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Nobody pings: the answers to its announcements are all that comes."""
    assert QUIET_S + ANSWER_S <= SILENT_S and 2 * QUIET_S < SILENCE_S

    async def script(fake: Fake) -> None:
        while True:
            await fake.done(*await fake.questions(1))

    async with against(monkeypatch, script) as way:
        with trio.move_on_after(600.0) as scope:
            await announcer(Grants()).run(way)
        assert scope.cancelled_caught and way.gone is None


async def test_a_change_is_said_within_a_second(autojump_clock: trio.testing.MockClock) -> None:
    grants, way = Grants(), way_of()
    made = announcer(grants)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run, way)
        await passing(3.3)
        for mission in ("light", "kitchen"):
            grants.missions.append(mission)
            changed = trio.current_time()
            await made.announced.wait()
            assert trio.current_time() - changed <= LOOK_S
            assert made.version == grants.version()
            assert set(said(way)[-1].offers) == set(grants.missions)
        nursery.cancel_scope.cancel()


async def test_a_change_while_it_is_said_is_said_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    grants = Grants("light")

    def answer(way: FakeWay, message: Any) -> None:
        if len(way.heard) == 1:
            grants.missions.append("kitchen")

    way = way_of(answer)
    with trio.move_on_after(3 * LOOK_S):
        await announcer(grants).run(way)
    assert [len(each.offers) for each in said(way)] == [1, 2]


async def test_another_run_of_the_relay_and_what_it_wants(
    autojump_clock: trio.testing.MockClock,
) -> None:
    grants = Grants("light")
    made = announcer(grants)
    first = way_of()
    await made.announce(first)
    await made.announce(first)
    other = way_of(run=b"s" * 16)
    await made.announce(other)  # it knows nothing
    assert [(each.beacon.sequence, each.offers is None) for each in said(other)] == [(1, False)]

    def forgot(way: FakeWay, message: Any) -> None:
        if decode_announcement(message.announcement).offers is None:
            raise wire.RelayRefused("offers_wanted")

    forgetful = way_of(forgot, run=b"s" * 16)
    await made.announce(forgetful)
    assert [each.offers is None for each in said(forgetful)] == [True, False]

    def further(way: FakeWay, message: Any) -> None:
        if decode_announcement(message.announcement).beacon.sequence <= 40:
            raise wire.RelayRefused("replayed", "last: 40")

    ahead = way_of(further, run=b"s" * 16)
    await made.announce(ahead)
    assert said(ahead)[-1].beacon.sequence == 41


async def test_a_relay_that_takes_nothing_is_left() -> None:
    def never(way: FakeWay, message: Any) -> None:
        raise wire.RelayRefused("replayed", "last: 999999999999999999")

    with pytest.raises(RelayGone, match="takes no announcement"):
        await announcer(Grants("light")).announce(way_of(never))


async def test_too_many_changes_wait_and_other_refusals_end_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    refusals = ["rate_limited", "busy", "rate_limited", "denied"]

    def answer(way: FakeWay, message: Any) -> None:
        if refusals:
            raise wire.RelayRefused(refusals.pop(0), "", 4.0)

    way = way_of(answer)
    started = trio.current_time()
    with pytest.raises(wire.RelayRefused, match="denied"):
        await announcer(Grants("light")).run(way)
    assert trio.current_time() - started == pytest.approx(12.0)
    assert announcing.LATER == ("rate_limited", "busy")


async def test_who_leaves_says_nothing_more(autojump_clock: trio.testing.MockClock) -> None:
    way, made = way_of(), announcer(Grants("light"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run, way)
        await made.announced.wait()
        made.leaving = True
    assert len(said(way)) == 1
