"""The link to a relay: what breaks, and comes back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.config import RelayConfig
from drupelet.core import relay_choice
from drupelet.core.grants import Issued
from drupelet.core.relay import RATES, Allowances, Rate, Standing
from drupelet.core.relay_choice import By
from drupelet.errors import NoConnection
from drupelet.net import relay_socket
from drupelet.net.relay_http import RelayHttp
from drupelet.net.relay_way import NotPassed, Place, RelayCut, RelayGone
from drupelet.node import open_node
from drupelet.relay.main import invite_text
from drupelet.services import relay_link
from drupelet.services.announcing import Offered
from drupelet.services.relay_link import WINDOW, RelayLink
from drupelet.wire import relay as wire
from drupelet.wire.announcements import decode_announcement
from drupelet.wire.grants import Terms, issue
from drupelet.wire.limits import RELAY_CATALOGUE_MAX
from tests.unit.relay.nodes import ALICE, BOB, Node
from tests.unit.services.nodes import make_config, open_small_node
from tests.unit.services.relayed import give, nodes
from tests.unit.services.ways import FakeWay, Relays, passing


async def test_a_relay_that_forgot_us_is_entered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_socket, "PATH", "/v1/none")
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        assert alice.relay is not None and bob.relay is not None
        for node in (alice.relay, bob.relay):
            assert isinstance(node._way, RelayHttp)
            node._way._session = bytes(32)
        assert await bob.call("alice", "light", "temp", timeout=20.0) == 20


async def test_more_calls_than_may_wait_for_the_relay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_link, "QUEUED_MAX", 1)
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        answers: list[Any] = []

        async def call(number: int) -> None:
            answers.append(await bob.call("alice", "light", "temp", number, timeout=30.0))

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(call, number)
        assert sorted(answers) == list(range(20, 50))
        assert not alice.relayed._ends
        assert not len(alice.holdings)


async def test_calls_that_wait_for_the_relay_keep_no_answer_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it takes at once is used up: those that went are answered though the others wait."""
    monkeypatch.setattr(relay_link, "QUEUED_MAX", 1)
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (relay, (alice, bob)):
        await give(alice, bob, bob)
        assert await bob.call("alice", "light", "temp") == 20
        answers: list[Any] = []

        async def call() -> None:
            answers.append(await bob.call("alice", "light", "temp", timeout=60.0))
            if len(answers) == 10:
                nursery.cancel_scope.cancel()

        slow = Rate(count=1, period_s=3_600, burst=10)
        relay._allowances = Allowances({**RATES, "send": slow})
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _ in range(40):
                    nursery.start_soon(call)
        assert answers == [20] * 10


async def test_many_calls_ask_once_where_a_node_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay answers five questions of a node in a second, and refuses the others."""
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        assert bob.relay is not None
        link, questions = bob.relay, []
        found = link._found

        async def counted(question: wire.Find) -> Any:
            questions.append(question)
            return await found(question)

        monkeypatch.setattr(link, "_found", counted)
        answers: list[Any] = []

        async def call() -> None:
            answers.append(await bob.call("alice", "light", "temp", timeout=30.0))

        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for _ in range(40):
                    nursery.start_soon(call)
        assert answers == [20] * 80
        assert len(questions) == 1
        assert not link._finding


async def test_where_a_node_is_not_all_hear_that_and_who_gave_up_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "bob") as (_, (bob,)):
        assert bob.relay is not None
        link, gate, asked = bob.relay, trio.Event(), []

        async def nobody(question: wire.Find) -> Any:
            asked.append(question)
            await gate.wait()
            raise NoConnection("no_such_node")

        monkeypatch.setattr(link, "_found", nobody)
        told: list[str] = []

        async def look(scope: trio.CancelScope) -> None:
            with scope:
                try:
                    await link.beacon(bytes(32), b"")
                except NoConnection as error:
                    told.append(error.reason)

        first = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            for scope in (first, trio.CancelScope(), trio.CancelScope()):
                nursery.start_soon(look, scope)
                await trio.testing.wait_all_tasks_blocked()
            assert len(asked) == 1
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert len(asked) == 2  # another one asks in its place
            gate.set()
        assert told == ["no_such_node"] * 2
        assert len(asked) == 2


async def test_without_an_account_there_is_no_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relay_link, "ONLINE_S", 0.3)
    async with nodes(tmp_path, monkeypatch, "alice") as (_, (alice,)):
        assert alice.relay is not None
        config = replace(
            make_config(tmp_path, "trudy", cookie="ctrudy"),
            relay=RelayConfig(url=alice.relay.urls),
        )
        async with open_node(config) as trudy:
            await give(alice, trudy, trudy)
            with pytest.raises(NoConnection, match="^no_route"):
                await trudy.call("alice", "light", "on")
    [told] = [each.message for each in caplog.records if "relay_down" in each.message]
    assert "why=not_registered: register with an invite" in told  # once, however often it tries


# -- the way, and the relay


async def test_one_of_a_files_relays_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        assert bob.relay is not None
        accepted, elsewhere = bob.grants.accepted, "https://elsewhere.example.org"
        [file] = accepted.files()
        accepted.keep([replace(file, relays=(elsewhere, bob.relay.url))])
        assert await bob.call("alice", "light", "temp") == 20
        accepted.keep([replace(file, relays=(elsewhere,))])
        accepted._endpoints.clear()
        with pytest.raises(NoConnection):
            await bob.call("alice", "light", "temp")


async def test_a_websocket_where_it_passes_else_the_poll_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_choice, "POLL_S", 1.0)
    monkeypatch.setattr(relay_socket, "PATH", "/v1/none")
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        assert alice.relay is not None and bob.relay is not None
        assert await bob.call("alice", "light", "temp", timeout=20.0) == 20
        assert {each.relay.status()["way"] for each in (alice, bob)} == {"long poll"}
        monkeypatch.setattr(relay_socket, "PATH", "/v1/link")
        answers = 0
        while {each.relay.status()["way"] for each in (alice, bob)} != {"websocket"}:
            assert await bob.call("alice", "light", "temp", timeout=20.0) == 20  # all the while
            answers += 1
        assert await bob.call("alice", "light", "temp", timeout=20.0) == 20


async def test_out_of_the_catalogue_when_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, monkeypatch, "alice", "bob") as (_, (alice, bob)):
        await give(alice, bob, bob)
        assert alice.relay is not None and bob.relay is not None
        [seen] = await bob.relay.catalogue()
        assert (seen.beacon.name, seen.beacon.key) == ("alice", alice.key)
        assert seen.missions == ("light",)
        assert await alice.relay.catalogue() == []  # nobody granted her anything
        await alice.stop()
        assert await bob.relay.catalogue() == []


async def test_an_address_waits_for_the_owner_and_is_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relay_link, "REFUSED_FIRST_S", 0.1)
    async with nodes(tmp_path, monkeypatch, "alice") as (relay, (alice,)):
        assert alice.relay is not None
        config = replace(
            make_config(tmp_path, "bob", cookie="cbob"),
            relay=RelayConfig(
                url=alice.relay.urls, email="bob@example.org", invite=invite_text(bytes(16))
            ),
        )
        async with open_node(config) as bob:
            assert bob.relay is not None
            while bob.relay.status()["state"] != "not_verified":
                await trio.testing.wait_all_tasks_blocked(0.01)
            status = bob.relay.status()
            assert status["why"] == "not_verified: the owner of the relay has not approved it yet"
            assert "drupelet-relay approve bob@example.org" in str(status["mend"])
            [account] = [each for each in relay.accounts._accounts.values() if each.email]
            assert (account.key, account.email) == (bob.key, "bob@example.org")
            relay.accounts.put(replace(account, standing=Standing.APPROVED))
            while bob.relay.status()["state"] != "up":
                await trio.testing.wait_all_tasks_blocked(0.01)
            relay.accounts.put(replace(account, standing=Standing.DENIED))
            bob.relay._carrying.cancel()
            while bob.relay.status()["state"] != "denied":
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert "its owner has denied this node" in str(bob.relay.status()["mend"])
    told = [each.message for each in caplog.records if "relay_down" in each.message]
    assert [each.partition("why=")[2].partition(":")[0] for each in told].count("not_verified") == 1
    assert "let this node in with" in told[0].replace("lets", "let")


async def test_a_version_is_another_when_grants_change_and_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_small_node(tmp_path, "alice") as alice:
        relayed, grants, looks = alice.relayed, alice.grants.grants, 0
        in_force, now = grants.in_force, trio.current_time()

        def counted(at: float) -> list[Issued]:
            nonlocal looks
            looks += 1
            return in_force(at)

        monkeypatch.setattr(grants, "in_force", counted)
        seen = [relayed.version()]
        for sequence, expires_s in ((1, 60), (2, 3_600)):
            terms = Terms(expires_s=expires_s)
            made = issue(alice.identity.seed, BOB.key, "light", terms, bytes(8), sequence=sequence)
            grants.issued(made, now)
            seen.append(relayed.version())
        grants.revoke(made.id, now)
        seen.append(relayed.version())
        monkeypatch.setattr(trio, "current_time", lambda: now + 59.0)
        seen.append(relayed.version())
        monkeypatch.setattr(trio, "current_time", lambda: now + 61.0)
        seen += [relayed.version(), relayed.version()]
    assert [late - early for early, late in pairwise(seen)] == [1, 1, 1, 0, 1, 0]
    assert looks == 5


def test_a_node_without_a_relay_loads_nothing_for_one() -> None:
    """2 MB on a computer with 512."""
    program = "import sys, drupelet.node; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    assert not {b"wsproto", b"h11", b"http.client"} & set(loaded.split())


# -- a relay in memory


class Nothing:
    """Offers nothing."""

    def version(self) -> int:
        return 0

    def offered(self) -> Offered:
        return Offered({}, bytes(32), bytes(16))


@asynccontextmanager
async def link_at(
    monkeypatch: pytest.MonkeyPatch, relays: Relays, *urls: str, email: str = ""
) -> AsyncIterator[RelayLink]:
    monkeypatch.setattr(relay_link, "_open", relays.open)
    config = RelayConfig(url=urls or ("https://one",), email=email)
    link = RelayLink(config, seed=ALICE.seed, name="alice", offering=Nothing())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        yield link
        nursery.cancel_scope.cancel()


def queue(link: RelayLink, *idents: int) -> list[NoConnection]:
    """Messages with those ids; what they were refused with."""
    refused: list[NoConnection] = []
    for ident in idents:
        link.send(BOB.key, ident.to_bytes(16, "big"), None, b"", refused.append)
    return refused


def sent(way: FakeWay) -> list[int]:
    return [int.from_bytes(each.id, "big") for each in way.of(wire.Send)]


async def test_what_a_relay_did_not_say_to_have_is_said_to_the_next(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    def two_of_them(way: FakeWay, message: Any) -> Any:
        silent = way.place.url == "https://one" and isinstance(message, wire.Send)
        return FakeWay.WAIT if silent and len(way.of(wire.Send)) > 2 else None

    relays = Relays(two_of_them)

    def opening(by: By, place: Place) -> None:
        if relays.ways and place.url == "https://one":
            raise RelayGone("it fell")

    relays.opening = opening
    async with link_at(monkeypatch, relays, "https://one", "https://two") as link:
        queue(link, *range(7))
        one = await relays.way(0)
        while len(one.waiting) < 5:
            await one.changed.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert link.status()["queued"] == 5 and link.url == "https://one"
        one.fail(RelayCut("killed"))
        two = await relays.way(1)
        while len(sent(two)) < 5:
            await two.changed.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert (sent(one), sent(two)) == (list(range(7)), [2, 3, 4, 5, 6])
        status = link.status()
        assert (status["queued"], status["sent"], status["url"]) == (0, 7, "https://two")
        assert trio.current_time() <= 1.0  # one more try of the first, then the second at once
        assert [url for _, url, _ in relays.tried] == ["https://one"] * 2 + ["https://two"]
        two.fail(RelayCut("a router"))
        await relays.way(2)
        assert link.url == "https://two"  # it stays there


async def test_some_are_sent_ahead_and_the_rest_waits(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    relays = Relays(lambda way, said: FakeWay.WAIT if isinstance(said, wire.Send) else None)
    async with link_at(monkeypatch, relays) as link:
        queue(link, *range(3 * WINDOW))
        way = await relays.way(0)
        for done in range(3 * WINDOW):
            await trio.testing.wait_all_tasks_blocked()
            assert len(sent(way)) == min(WINDOW + done, 3 * WINDOW)
            way.waiting.popleft().done.set()
        await trio.testing.wait_all_tasks_blocked()
        assert sent(way) == list(range(3 * WINDOW)) and link.status()["queued"] == 0


async def test_refusals_of_messages(
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "drupelet.relay")
    said = iter(["rate_limited", "", "mailbox_full", "not_found", "busy", "", ""])

    def answer(way: FakeWay, message: Any) -> None:
        code = next(said) if isinstance(message, wire.Send) else ""
        if code:
            raise wire.RelayRefused(code, "", 2.0)

    relays = Relays(answer)
    async with link_at(monkeypatch, relays) as link:
        refused = queue(link, 0, 1, 2, 3)
        way = await relays.way(0)
        await passing(10.0)
        assert link.status()["queued"] == 0
        assert sent(way) == [0, 1, 2, 3, 0, 0] and link.status()["sent"] == 2
        assert [each.reason for each in refused] == ["overloaded", "no_such_node"]
        told = [each for each in caplog.messages if each.startswith("refused ")]
        codes = ("mailbox_full", "not_found")
        assert told == [
            f"refused id={number:032x} code={code}" for number, code in enumerate(codes, 2)
        ]
        assert len(relays.ways) == 1 and trio.current_time() >= 2.0


async def test_messages_are_acknowledged_together(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    relays = Relays(lambda way, said: FakeWay.WAIT if isinstance(said, wire.Ack) else None)
    async with link_at(monkeypatch, relays) as link:
        taken: list[int] = []
        link.on_kind[wire.MESSAGE] = lambda message: taken.append(message.number)
        way = await relays.way(0)

        def deliver(number: int) -> wire.Deliver:
            return wire.Deliver(
                number=number, kind=0, sender=BOB.key, id=bytes(16), re=None, body=b""
            )

        for number in range(1, 30):
            way.tell(deliver(number))
            await trio.testing.wait_all_tasks_blocked()
        assert taken == list(range(1, 30))  # nobody waits for the relay's disk
        assert [each.number for each in way.of(wire.Ack)] == [1]
        way.waiting.popleft().done.set()
        await trio.testing.wait_all_tasks_blocked()
        assert [each.number for each in way.of(wire.Ack)] == [1, 29]


async def test_a_broken_way_is_tried_again_for_ever_and_told_once(
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    relays = Relays()

    def refuse(by: By, place: Place) -> None:
        raise RelayGone("Connection refused\x1b[31m")

    relays.opening = refuse
    with caplog.at_level("INFO", "drupelet.relay"):
        async with link_at(monkeypatch, relays) as link:
            await passing(300.0)
            waits = [late - early for (early, *_), (late, *_) in pairwise(relays.tried)]
            assert len(waits) > 40 and max(waits) <= 8.0  # seconds after a restart
            assert link.status()["state"] == "down"
            relays.opening = lambda by, place: None
            await passing(8.1)
            assert link.status()["state"] == "up" and link.status()["why"] == ""
    told = [each.message for each in caplog.records if each.name == "drupelet.relay"]
    assert len(told) == 2 and told[0].startswith(
        "relay_down url=https://one why=Connection refused"
    )
    assert "\x1b" not in told[0] and told[1] == "relay_up url=https://one by=websocket"


async def test_two_broken_relays_are_told_once_each(
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    relays = Relays()

    def refuse(by: By, place: Place) -> None:
        if place.url == "https://one":
            raise RelayGone("Connection refused")
        if by is By.WEBSOCKET:
            raise NotPassed("HTTP status 400")
        raise RelayGone("no relay's language")

    relays.opening = refuse
    async with link_at(monkeypatch, relays, "https://one", "https://two"):
        await passing(300.0)
    assert len(relays.tried) > 100
    told = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert told == [
        "relay_down url=https://one why=Connection refused",
        "relay_down url=https://two why=no relay's language",
    ]


async def test_questions_wait_for_the_connection_and_then_say_that_there_is_none(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    relays = Relays()

    def later(by: By, place: Place) -> None:
        if trio.current_time() < 3.0:
            raise RelayGone("not yet")

    monkeypatch.setattr(relay_link, "ONLINE_S", 30.0)
    relays.opening = later
    relays.answer = lambda way, said: [] if isinstance(said, wire.Catalogue) else None
    async with link_at(monkeypatch, relays) as link:
        assert await link.catalogue() == []
        relays.opening = lambda by, place: (_ for _ in ()).throw(RelayGone("gone"))
        relays.ways[0].fail(RelayGone("gone"))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(NoConnection, match="^no_route"):
            await link.catalogue()
        assert 30.0 <= trio.current_time() <= 3.0 + 8.0 + 30.0


def entry(number: int, *missions: str) -> list[Any]:
    """An entry of the catalogue, as the relay has it."""
    made = Node(number.to_bytes(32, "big"))
    beacon = decode_announcement(made.announcement(b"r" * 16, 1)).beacon
    return [made.key, "what the relay says", beacon.data, list(missions)]


async def test_the_catalogue_page_by_page_without_what_is_forged(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    entries = sorted((entry(number + 1, "light") for number in range(130)), key=lambda one: one[0])
    forged = entries[5][2]
    entries[5][2] = forged[:-1] + bytes([forged[-1] ^ 1])

    def answer(way: FakeWay, said: Any) -> Any:
        if isinstance(said, wire.Catalogue):
            return [each for each in entries if each[0] > said.after][:64]
        return None

    relays = Relays(answer)
    async with link_at(monkeypatch, relays) as link:
        seen = await link.catalogue()
        assert [each.beacon.key for each in seen] == [
            each[0] for place, each in enumerate(entries) if place != 5
        ]
        assert {each.beacon.name for each in seen} == {"node"}  # as it signed
        assert len((await relays.way(0)).of(wire.Catalogue)) == 3


@pytest.mark.parametrize("above", [0, 1])
async def test_as_many_entries_as_are_shown_and_one_above(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, above: int
) -> None:
    count = RELAY_CATALOGUE_MAX + above
    entries = sorted(
        (entry(number + 1, "light") for number in range(count)), key=lambda one: one[0]
    )

    def answer(way: FakeWay, said: Any) -> Any:
        if isinstance(said, wire.Catalogue):
            return [each for each in entries if each[0] > said.after][:64]
        return None

    async with link_at(monkeypatch, Relays(answer)) as link:
        assert len(await link.catalogue()) == RELAY_CATALOGUE_MAX


@pytest.mark.parametrize(
    "page", [None, "x", [entry(1)] * 65, [entry(2), entry(1)], [entry(1)] * 64]
)
async def test_a_catalogue_that_does_not_end_or_is_none(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, page: Any
) -> None:
    if isinstance(page, list) and len(page) == 2:
        page = sorted(page, key=lambda one: one[0], reverse=True)
    relays = Relays(lambda way, said: page if isinstance(said, wire.Catalogue) else None)
    async with link_at(monkeypatch, relays) as link:
        with pytest.raises(NoConnection, match="^no_route"):
            await link.catalogue()
