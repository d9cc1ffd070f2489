"""Links of strangers: keepalive and calls, bounded, and nothing else."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

import pytest
import trio

from drupelet.errors import NoConnection
from drupelet.net.secure_stream import respond
from drupelet.services import stranger_links
from drupelet.wire import frames
from drupelet.wire.codec import dumps
from drupelet.wire.frames import frame
from drupelet.wire.handshake import Responder
from tests.unit.services.lights import grant, nodes


async def test_membership_never_hears_of_a_stranger(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await bob.grants.accept((await grant(alice, bob))["text"])
        assert await bob.call("alice", "light", "temp") == 20
        assert (alice.membership.nodes(), bob.membership.nodes()) == ([], [])
        assert (alice.links.connected(), bob.links.connected()) == ([], [])
        assert (alice.links.stranger_links.count, bob.links.stranger_links.count) == (1, 1)


@pytest.mark.parametrize("kind", [frames.GOSSIP, frames.GOODBYE])
async def test_a_stranger_that_gossips_is_cut_off(tmp_path: Path, kind: int) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        await bob.grants.accept((await grant(alice, bob))["text"])
        await bob.call("alice", "light", "temp")
        endpoint = bob.grants.endpoint("alice")
        assert endpoint is not None
        endpoint.channel.queue(frame(kind, 0, dumps([1])))
        while alice.links.stranger_links.count:
            await trio.lowlevel.checkpoint()
        await bob.links.stranger_links.wait_none()
        assert await bob.call("alice", "light", "temp") == 20  # the next link is good


async def test_links_with_one_key_at_the_maximum_and_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stranger_links, "STRANGERS_PER_KEY_MAX", 2)
    async with nodes(tmp_path, "alice", "bob", "charlie") as (alice, bob, charlie):
        await grant(alice, bob)
        for _ in range(2):
            await bob.links.stranger_links.dial("127.0.0.1", alice.port, alice.key)
        with pytest.raises(NoConnection, match="overloaded"):
            await bob.links.stranger_links.dial("127.0.0.1", alice.port, alice.key)
        monkeypatch.setattr(stranger_links, "STRANGERS_MAX", 3)
        await charlie.links.stranger_links.dial("127.0.0.1", alice.port, alice.key)
        monkeypatch.setattr(stranger_links, "STRANGERS_PER_KEY_MAX", 9)
        with pytest.raises(NoConnection, match="overloaded"):
            await charlie.links.stranger_links.dial("127.0.0.1", alice.port, alice.key)


async def test_the_uninvited_are_cut_and_what_we_dialled_is_not(tmp_path: Path) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        made = await grant(alice, bob)
        await bob.grants.accept(made["text"])
        assert await bob.call("alice", "light", "temp") == 20
        shown = bob.grants.endpoint("alice")
        assert shown is not None
        other = await bob.links.stranger_links.dial("127.0.0.1", alice.port, None)
        assert other.key == alice.key
        bob.links.stranger_links.cut_uninvited(lambda endpoint: False)
        alice.links.stranger_links.cut_uninvited(alice.grants.strangers.knows)
        while not other.closed:
            await trio.lowlevel.checkpoint()
        assert not shown.closed
        assert await bob.call("alice", "light", "temp") == 20


async def test_who_shakes_hands_and_does_not_greet_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, "alice", "bob") as (alice, bob):
        with socket.create_server(("127.0.0.1", 0)) as server:

            async def mute() -> None:
                accepted, _ = await trio.socket.from_stdlib_socket(server).accept()
                plain = socket.socket(fileno=accepted.detach())
                plain.setblocking(False)
                machine = Responder(
                    alice.credentials, ephemeral=secrets.token_bytes(32), accept_strangers=True
                )
                with plain:
                    await respond(plain, machine)
                    await trio.sleep_forever()

            async with trio.open_nursery() as nursery:
                server.setblocking(False)
                nursery.start_soon(mute)
                port = server.getsockname()[1]
                monkeypatch.setattr(stranger_links, "HANDSHAKE_S", 0.1)
                with pytest.raises(NoConnection, match="silent"):
                    await bob.links.stranger_links.dial("127.0.0.1", port, alice.key)
                await bob.links.stranger_links.wait_none()
                nursery.cancel_scope.cancel()


async def test_stopping_says_goodbye(tmp_path: Path) -> None:
    async with nodes(tmp_path, "bob") as (bob,):
        async with nodes(tmp_path, "alice") as (alice,):
            await bob.grants.accept((await grant(alice, bob))["text"])
            assert await bob.call("alice", "light", "temp") == 20
            started = trio.current_time()
        assert trio.current_time() - started < 1.5
        await bob.links.stranger_links.wait_none()
        with pytest.raises(NoConnection):
            await bob.call("alice", "light", "temp")
