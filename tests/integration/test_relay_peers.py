"""S004-9's second relay, on real processes: kept in step, each of the two killed, nothing lost."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionClosed, HandshakeError

from drupelet.core.relay import ANNOUNCED_S
from drupelet.relay.main import invite_code
from drupelet.wire import relay as wire
from drupelet.wire.keys import key_to_text
from drupelet.wire.relay import RelayRefused
from tests.integration.relays import RealRelay, two_relays
from tests.unit.relay.nodes import ALICE, BOB, TRUDY, Client, Node, connected, node, send

HEARD_S = 2.0  # a denial, at the other relay
LIMIT_S = 30.0
PAUSE_S = 0.05  # between two looks
ASK_S = 0.25  # between two questions of one account: it has 5 a second
_GONE = (ConnectionClosed, HandshakeError, OSError, trio.BrokenResourceError)


@pytest.fixture
def relays(tmp_path: Path) -> Iterator[tuple[RealRelay, RealRelay]]:
    with two_relays(tmp_path) as running:
        yield running


async def until(
    check: Callable[[], Awaitable[bool]], limit_s: float = LIMIT_S, pause_s: float = PAUSE_S
) -> None:
    with trio.fail_after(limit_s):
        while True:
            if await check():
                return
            await trio.sleep(pause_s)


async def until_shown(relay: RealRelay, words: str) -> None:
    """Until the owner's list has these words."""

    async def check() -> bool:
        return words in await trio.to_thread.run_sync(relay.run, "accounts")

    await until(check)


async def until_more(ids: set[bytes], count: int) -> None:
    goal = len(ids) + count

    async def check() -> bool:
        return len(ids) >= goal

    await until(check)


async def in_step(*relays: RealRelay) -> None:
    for relay in relays:
        await until_shown(relay, "  in step\n")


async def register(relay: RealRelay, invite: bytes, *nodes: Node) -> None:
    for one in nodes:
        async with connected(relay.port) as client:
            await client.ask(one.register(client.hello.nonce, invite=invite))


async def enters(relay: RealRelay, who: Node, code: str = "") -> None:
    """Until a login of `who` is answered so; at first the other relay may not have heard of it."""

    async def check() -> bool:
        answer = ""
        async with connected(relay.port) as client:
            try:
                await client.ask(who.login(client.hello.nonce))
            except RelayRefused as refusal:
                answer = refusal.code
        return answer == code

    await until(check)


async def nodes_seen(client: Client) -> dict[bytes, list[str]]:
    found = await client.ask(wire.Catalogue(ref=0, after=b""))
    return {key: missions for key, _, _, missions in found}


async def until_seen(client: Client, *nodes: Node, limit_s: float = LIMIT_S) -> None:
    async def check() -> bool:
        return (await nodes_seen(client)).keys() == {one.key for one in nodes}

    await until(check, limit_s, ASK_S)


async def test_accounts_invites_and_the_catalogue_are_one(
    relays: tuple[RealRelay, RealRelay],
) -> None:
    a, b = relays
    await in_step(a, b)
    invite = invite_code(a.run("invite", "--uses", "2"))
    await register(a, invite, ALICE)
    await register(b, invite, BOB)  # the invite is the other relay's
    for relay in relays:
        async with connected(relay.port) as client:
            with pytest.raises(RelayRefused, match="^bad_invite"):  # used up, wherever it is shown
                await client.ask(TRUDY.register(client.hello.nonce, invite=invite))
        for who in (ALICE, BOB):
            await enters(relay, who)
    async with connected(b.port) as client:
        with pytest.raises(RelayRefused, match="^not_verified"):
            await client.ask(TRUDY.register(client.hello.nonce, email="trudy@example.org"))
    await enters(a, TRUDY, "not_verified")
    assert a.run("approve", "trudy@example.org").startswith("approved")
    await enters(b, TRUDY)
    async with (
        connected(a.port, ALICE) as alice,
        connected(b.port, BOB) as bob,
        connected(b.port, TRUDY) as trudy,
        connected(a.port, BOB) as bob_at_a,
    ):
        said = ALICE.announcement(alice.hello.run, 1, BOB)
        await alice.ask(wire.Announce(ref=0, announcement=said))
        await until_seen(bob, ALICE)
        shown = await bob.ask(wire.Find(ref=0, node=ALICE.key, grant=b""))
        assert shown == await bob_at_a.ask(wire.Find(ref=0, node=ALICE.key, grant=b""))
        assert await nodes_seen(trudy) == {}  # it is not for her, at neither
        with pytest.raises(RelayRefused, match="^not_found"):
            await trudy.ask(wire.Find(ref=0, node=ALICE.key, grant=b""))
        await alice.ask(wire.Withdraw(ref=0))
        await until_seen(bob)


async def test_a_denial_at_one_ends_the_session_at_the_other(
    relays: tuple[RealRelay, RealRelay],
) -> None:
    a, b = relays
    await in_step(a, b)
    await register(a, invite_code(a.run("invite")), BOB)
    await enters(b, BOB)
    async with connected(b.port, BOB) as bob:
        await trio.to_thread.run_sync(a.run, "deny", key_to_text(BOB.key))
        since = time.monotonic()
        with trio.fail_after(LIMIT_S):
            await bob.closed.wait()
        assert time.monotonic() - since <= HEARD_S
    for relay in relays:
        await enters(relay, BOB, "denied")
    b.kill()
    await trio.to_thread.run_sync(a.run, "approve", key_to_text(BOB.key))
    b.start()  # it was away, and catches up
    await enters(b, BOB)
    await in_step(a, b)


async def test_a_message_goes_to_the_relay_where_its_recipient_is(
    relays: tuple[RealRelay, RealRelay],
) -> None:
    a, b = relays
    await in_step(a, b)
    await register(a, invite_code(a.run("invite", "--uses", "2")), ALICE, BOB)
    await enters(b, BOB)
    with trio.fail_after(LIMIT_S):
        async with connected(b.port, BOB) as bob:
            early = send(ALICE, receipt=True)
            await bob.ask(early)  # she is nowhere: it waits at B
            async with connected(a.port, ALICE) as alice:
                [delivered] = await alice.take()
                assert (delivered.id, delivered.sender) == (early.id, BOB.key)
                [receipt] = await bob.take()
                assert (receipt.kind, receipt.re) == (wire.RECEIPT, early.id)
                answer = send(BOB, re=early.id)
                await alice.ask(answer)
                [back] = await bob.take()
                assert (back.id, back.re) == (answer.id, early.id)
                await alice.ask(wire.Withdraw(ref=0))
            waits = send(ALICE)
            await bob.ask(waits)
        # and she comes to B instead, where it lies
        async with connected(b.port, ALICE) as alice:
            [delivered] = await alice.take()
            assert delivered.id == waits.id


async def test_kill_9_of_either_loses_nothing_accepted(
    relays: tuple[RealRelay, RealRelay],
) -> None:
    """Senders and recipients at both; one relay after the other is killed while they send."""
    a, b = relays
    await in_step(a, b)
    senders, recipients = [node(10), node(11)], [node(20), node(21)]
    invite = invite_code(a.run("invite", "--uses", "4"))
    await register(a, invite, *senders, *recipients)
    for who in [*senders, *recipients]:
        await enters(b, who)
    accepted: set[bytes] = set()
    delivered: set[bytes] = set()
    homes = {senders[0]: a, senders[1]: b, recipients[0]: a, recipients[1]: b}

    async def sends(client: Client) -> None:
        for number in itertools.count():
            said = send(recipients[number % 2], os.urandom(400))
            await client.ask(said)
            accepted.add(said.id)
            await trio.sleep(0.002)  # mailboxes stay small

    async def receives(client: Client) -> None:
        while True:
            one = await client.inbox.receive()
            delivered.add(one.id)  # before the relay hears of it: its answer may not come
            await client.ask(wire.Ack(ref=0, number=one.number))

    async with trio.open_nursery() as nursery:
        for who in recipients:
            nursery.start_soon(always, homes[who], who, receives)
        with trio.CancelScope() as sending:
            async with trio.open_nursery() as senders_tasks:
                for who in senders:
                    senders_tasks.start_soon(always, homes[who], who, sends)
                for victim in (a, b, a):
                    await until_more(accepted, 100)
                    await trio.to_thread.run_sync(victim.kill)
                    await until_more(accepted, 50)  # the living one goes on
                    await trio.to_thread.run_sync(victim.start)
                sending.cancel()

        async def all_delivered() -> bool:
            return not accepted - delivered

        await until(all_delivered)
        nursery.cancel_scope.cancel()
    assert len(accepted) >= 450


async def always(relay: RealRelay, who: Node, does: Callable[[Client], Awaitable[None]]) -> None:
    """`who` is connected there and does that, again on each new connection."""

    async def once(client: Client, scope: trio.CancelScope) -> None:
        await does(client)
        scope.cancel()

    while True:
        try:
            async with connected(relay.port, who) as client, trio.open_nursery() as nursery:
                nursery.start_soon(once, client, nursery.cancel_scope)
                await client.closed.wait()
                nursery.cancel_scope.cancel()
        except* (*_GONE, RelayRefused):
            pass
        await trio.sleep(PAUSE_S)


async def test_the_owner_sees_how_the_other_relay_stands(
    relays: tuple[RealRelay, RealRelay],
) -> None:
    a, b = relays
    await in_step(a, b)
    b.kill()
    await until_shown(a, f"{b.key}  {b.url}  away: ")
    assert "this relay does not run" in b.run("accounts")
    b.start()
    await in_step(a, b)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
async def test_by_tls_and_only_with_the_certificate_that_the_owner_named(tmp_path: Path) -> None:
    with two_relays(tmp_path, tls=True) as (a, b):
        await in_step(a, b)
        assert b.url.startswith("https://")
        a.kill()
        a.configure(f'[[relay.peers]]\nurl = "{b.url}"\nkey = "{b.key}"\n')  # no ca_file
        a.start()
        await until_shown(a, "certificate verify failed")


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_who_is_gone_is_out_of_both_and_a_replay_is_refused_at_both(
    relays: tuple[RealRelay, RealRelay],
) -> None:
    a, b = relays
    await in_step(a, b)
    await register(a, invite_code(a.run("invite", "--uses", "2")), ALICE, BOB)
    await enters(b, BOB)
    await enters(b, ALICE)
    async with connected(a.port, BOB) as at_a, connected(b.port, BOB) as at_b:
        async with connected(a.port, ALICE) as alice:
            said = ALICE.announcement(alice.hello.run, 1, BOB)
            await alice.ask(wire.Announce(ref=0, announcement=said))
            since = time.monotonic()
            for bob in (at_a, at_b):
                await until_seen(bob, ALICE)
        for bob in (at_a, at_b):
            await until_seen(bob, limit_s=2 * LIMIT_S)
        assert time.monotonic() - since <= ANNOUNCED_S + 1.0
        await trio.sleep(max(0.0, since + 61.0 - time.monotonic()))
        for relay in relays:
            async with connected(relay.port, ALICE) as alice:
                with pytest.raises(RelayRefused, match="^replayed"):
                    await alice.ask(wire.Announce(ref=0, announcement=said))
        for bob in (at_a, at_b):
            assert await nodes_seen(bob) == {}
