"""Links between whole nodes on loopback, and what strangers and broken members get."""

from __future__ import annotations

import secrets
import socket
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.config_values import Peer
from drupelet.core.candidates import Candidate
from drupelet.errors import NoConnection
from drupelet.node import Node, open_node
from drupelet.services import links
from drupelet.wire import frames
from drupelet.wire.codec import dumps
from drupelet.wire.frames import frame
from drupelet.wire.handshake import Initiator, make_credentials
from drupelet.wire.records import RecordOpener, RecordSealer
from tests.unit.services.nodes import make_config, open_small_node, shake, wait_up


async def reason_of(node: Node, name: str) -> str:
    """Why a call fails; it must be told within 2 s."""
    with trio.fail_after(2), pytest.raises(NoConnection) as caught:
        await node.call(name, "node", "ping")
    assert not caught.value.maybe_ran
    return caught.value.reason


async def test_two_nodes_link_and_call_each_other(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        async with open_small_node(tmp_path, "bilbo", gandalf) as bilbo:
            await wait_up(gandalf, "bilbo")
            await wait_up(bilbo, "gandalf")
            assert await gandalf.call("bilbo", "node", "ping") == "pong"
            assert await bilbo.call("gandalf", "node", "ping") == "pong"
        await wait_up(gandalf, "bilbo", up=False)
        snapshot = gandalf.membership.nodes()[0]
        assert (snapshot.state, snapshot.reason) == ("down", "stopping")


async def test_the_caller_is_told_of_another_cookie(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        async with open_small_node(tmp_path, "bilbo", gandalf, cookie="other") as bilbo:
            assert await reason_of(bilbo, "gandalf") == "bad_cookie"


async def test_the_caller_is_told_of_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        monkeypatch.setattr(links, "Initiator", partial(Initiator, version=9))
        async with open_small_node(tmp_path, "bilbo", gandalf) as bilbo:
            assert await reason_of(bilbo, "gandalf") == "version"


async def test_the_caller_is_told_of_a_closed_port_and_of_an_unknown_name(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    peers = (Peer(name="gandalf", host="127.0.0.1", port=port),)
    async with open_node(make_config(tmp_path, "bilbo", peers=peers)) as bilbo:
        assert await reason_of(bilbo, "gandalf") == "port_closed"
        assert await reason_of(bilbo, "sauron") == "no_such_node"


async def test_a_second_key_under_a_name_is_refused(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        async with open_small_node(tmp_path, "bilbo", gandalf):
            await wait_up(gandalf, "bilbo")
            impostor = tmp_path / "impostor"
            impostor.mkdir()
            (impostor / "cookie").write_bytes((tmp_path / "cookie").read_bytes())
            (impostor / "cookie").chmod(0o600)
            async with open_small_node(impostor, "bilbo", gandalf) as second:
                assert await reason_of(second, "gandalf") == "name_taken"
            assert await gandalf.call("bilbo", "node", "ping") == "pong"


async def test_a_rotated_cookie_is_used_and_the_old_one_accepted(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        await gandalf.keys.set_cookie("a new cookie for the shire")
        async with open_small_node(tmp_path, "bilbo", gandalf) as bilbo:
            assert await bilbo.call("gandalf", "node", "ping") == "pong"  # by the old one
        async with open_small_node(tmp_path, "frodo", cookie="fresh") as frodo:
            await frodo.keys.set_cookie("a new cookie for the shire")
            assert await links_to(frodo, gandalf) == "pong"


async def links_to(node: Node, other: Node) -> object:
    node.links.candidate(
        Candidate(
            source="static", host="127.0.0.1", port=other.port, name=other.name, key_prefix=""
        )
    )
    return await node.call(other.name, "node", "ping")


async def test_a_node_that_dials_itself_finds_out_and_goes_on(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        async with open_small_node(tmp_path, "bilbo", gandalf) as bilbo:
            bilbo.links.candidate(
                Candidate(
                    source="gossip", host="127.0.0.1", port=bilbo.port, name="", key_prefix=""
                )
            )
            assert await bilbo.call("gandalf", "node", "ping") == "pong"
            assert [each.name for each in bilbo.membership.nodes()] == ["gandalf"]


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 300,
        b"\xff" * 64,
        b"\0\x30\x01\x01" + b"x" * 46,
    ],
)
async def test_a_stranger_gets_no_byte(tmp_path: Path, junk: bytes) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        stream = await trio.open_tcp_stream("127.0.0.1", gandalf.port)
        async with stream:
            await stream.send_all(junk)
            got = b"?"
            with trio.fail_after(links.HANDSHAKE_S + 1):
                try:
                    got = await stream.receive_some()
                except trio.BrokenResourceError:
                    got = b""
            assert got == b""
        assert gandalf.links.handshake_failed_count == 1


async def test_a_malformed_member_loses_only_its_own_link(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        async with open_small_node(tmp_path, "bilbo", gandalf) as bilbo:
            await wait_up(bilbo, "gandalf")
            mallory = make_credentials(
                secrets.token_bytes(32),
                secrets.token_bytes(32),
                name="mallory",
                incarnation=1,
                port=1,
                software="x",
                psks=gandalf.credentials.psks,
            )
            sock, established = await shake(gandalf, mallory)
            sealer = RecordSealer(established.send)
            opener = RecordOpener(established.receive)
            hello = frames.split_record(opener.receive_data(await receive(sock))[0])[0]
            assert hello.kind == frames.HELLO
            await wait_up(gandalf, "mallory")
            sock.send(sealer.seal(frame(frames.CALL, 3, b"\0")))
            await wait_up(gandalf, "mallory", up=False)
            assert gandalf.links.protocol_error_count == 1
            assert await bilbo.call("gandalf", "node", "ping") == "pong"
            sock.close()


async def receive(sock: socket.socket) -> bytes:
    with trio.fail_after(2):
        await trio.lowlevel.wait_readable(sock)
    return sock.recv(65_536)


async def test_a_refused_guest_at_the_door_is_reset_not_told_of_a_cookie(tmp_path: Path) -> None:
    """Too many strangers: an honest member must not read that as a wrong cookie."""
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        waiting = [await trio.open_tcp_stream("127.0.0.1", gandalf.port) for _ in range(8)]
        await trio.testing.wait_all_tasks_blocked()
        async with open_small_node(tmp_path, "bilbo", gandalf) as bilbo:
            assert await reason_of(bilbo, "gandalf") == "overloaded"
        for stream in waiting:
            await stream.aclose()


async def test_a_suspended_node_learns_that_it_was_declared_dead(tmp_path: Path) -> None:
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        async with open_small_node(tmp_path, "bilbo", gandalf) as bilbo:
            await wait_up(gandalf, "bilbo")
            link = gandalf.links.link("bilbo")
            assert link is not None
            link.endpoint.close(NoConnection("down", maybe_ran=True))
            with trio.fail_after(5):
                await wait_declared_down(bilbo)
            assert await bilbo.call("gandalf", "node", "ping") == "pong"


async def wait_declared_down(node: Node) -> None:
    """It is told right after the link came up again."""
    told = trio.Event()
    node.links.listen(lambda event: told.set())
    while not node.links.declared_down_count:
        await told.wait()
        told = trio.Event()
        await trio.testing.wait_all_tasks_blocked(0.01)


async def test_watchers_hear_of_nodes_in_order(tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        gandalf.links.listen(lambda event: heard.append((event.kind, event.name)))
        async with open_small_node(tmp_path, "bilbo", gandalf):
            await wait_up(gandalf, "bilbo")
        await wait_up(gandalf, "bilbo", up=False)
    assert heard == [("up", "bilbo"), ("down", "bilbo")]


@pytest.mark.parametrize(("size", "count"), [(1_000_000, 100), (1_000_000, 30), (30_000, 1_000)])
async def test_two_nodes_that_flood_each_other_stay_linked(
    tmp_path: Path, size: int, count: int
) -> None:
    """Each had stopped reading until the other one read; both then declared the other dead."""
    outcomes: dict[str, int] = {}

    async def one(node: Node, other: str) -> None:
        try:
            await node.call(other, "echo", "echo", b"x" * size, timeout=30)
            outcomes["answered"] = outcomes.get("answered", 0) + 1
        except NoConnection as error:
            outcomes[error.reason] = outcomes.get(error.reason, 0) + 1

    async with open_small_node(tmp_path, "gandalf") as gandalf:
        async with open_small_node(tmp_path, "bilbo", gandalf) as bilbo:
            await wait_up(gandalf, "bilbo")
            await wait_up(bilbo, "gandalf")
            for node in (gandalf, bilbo):
                node.serve("echo", {"echo": lambda value: value})
            lost: list[str] = []
            gandalf.links.listen(lambda event: lost.append(event.reason))
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    for _ in range(count):
                        nursery.start_soon(one, gandalf, "bilbo")
                        nursery.start_soon(one, bilbo, "gandalf")
            assert set(outcomes) <= {"answered", "overloaded"}
            assert outcomes["answered"] > 0
            assert lost == []
            assert await gandalf.call("bilbo", "node", "ping") == "pong"
            assert gandalf.membership.nodes()[0].state == "up"


async def test_another_cookie_reads_so_at_each_try(tmp_path: Path) -> None:
    """Who failed is turned away at the door for a while; that is no reason of its own."""
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        async with open_small_node(tmp_path, "bilbo", gandalf, cookie="other") as bilbo:
            for _ in range(3):
                assert await reason_of(bilbo, "gandalf") == "bad_cookie"
                bilbo.links.membership.candidate(
                    Candidate(
                        source="static",
                        host="127.0.0.1",
                        port=gandalf.port,
                        name="gandalf",
                        key_prefix="",
                    ),
                    trio.current_time(),
                )
                established, sock, reason = await bilbo.links._shake("127.0.0.1", gandalf.port)
                assert (established, sock, reason) == (None, None, "bad_cookie")


async def test_a_node_whose_first_cookie_is_refused_gets_in_with_its_second(
    tmp_path: Path,
) -> None:
    """The one that rotated first dials one that did not: its new cookie fails, and closes the
    door for a second; the next try begins with the old cookie."""
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        async with open_small_node(tmp_path, "bilbo") as bilbo:
            await bilbo.keys.set_cookie("a new cookie for the shire")
            _, _, reason = await bilbo.links._shake("127.0.0.1", gandalf.port)
            assert reason == "bad_cookie"
            with trio.fail_after(3):
                while True:
                    established, sock, reason = await bilbo.links._shake("127.0.0.1", gandalf.port)
                    if established is not None:
                        break
                    assert reason == "bad_cookie"
                    await trio.testing.wait_all_tasks_blocked(0.1)
            assert sock is not None
            sock.close()


async def test_a_members_goodbye_is_one_of_our_words(tmp_path: Path) -> None:
    """It is shown to people and written to the log."""
    reasons: list[str] = []
    async with open_small_node(tmp_path, "gandalf") as gandalf:
        gandalf.links.listen(lambda event: reasons.append(event.reason))
        for said, shown in [("stopping", "stopping"), ("x\nERROR: all is lost", "closed")]:
            async with open_small_node(tmp_path, "bilbo", gandalf) as bilbo:
                await wait_up(gandalf, "bilbo")
                await wait_up(bilbo, "gandalf")
                reasons.clear()
                link = bilbo.links.link("gandalf")
                assert link is not None
                link.endpoint.channel.queue(frame(frames.GOODBYE, 0, dumps(said)))
                await wait_up(gandalf, "bilbo", up=False)
                assert reasons[0] == shown
