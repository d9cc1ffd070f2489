"""Streams: order, credit, ends; and that bulk does not delay a call."""

from __future__ import annotations

import hashlib

import pytest
import trio
import trio.testing

from drupelet.errors import NoConnection, NotPermitted, RemoteError
from drupelet.services.endpoint import Endpoint
from drupelet.services.streams import Stream
from drupelet.wire import frames
from drupelet.wire.frames import frame
from drupelet.wire.limits import STREAM_CREDIT_BYTES, STREAMS_PER_LINK_MAX
from tests.unit.services.pairs import MEMBERS, Side, joined, open_side


def accept(side: Side, accepted: list[Stream]) -> None:
    def handler(endpoint: Endpoint, stream: Stream) -> None:
        accepted.append(stream)

    side.calls.serve_stream("test/bytes", handler, MEMBERS)


async def test_bytes_arrive_whole_and_in_order_then_the_end() -> None:
    data = bytes(range(256)) * 12_000  # 3 MB: twelve windows
    accepted: list[Stream] = []
    digest = hashlib.sha256()
    async with open_side("alice") as alice, open_side("bob") as bob:
        accept(bob, accepted)
        async with joined(alice, bob) as (ours, _):
            stream = ours.open_stream(b"test/bytes")

            async def send() -> None:
                await stream.send_all(data)
                stream.end()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                while not accepted:
                    await trio.testing.wait_all_tasks_blocked()
                while part := await accepted[0].receive_some():
                    digest.update(part)
    assert digest.digest() == hashlib.sha256(data).digest()


async def test_a_sender_stops_at_the_window_of_a_reader_that_does_not_read() -> None:
    accepted: list[Stream] = []
    async with open_side("alice") as alice, open_side("bob") as bob:
        accept(bob, accepted)
        async with joined(alice, bob) as (ours, theirs):
            stream = ours.open_stream(b"test/bytes")
            with trio.move_on_after(0.3) as scope:
                await stream.send_all(b"x" * (STREAM_CREDIT_BYTES + 1))
            assert scope.cancelled_caught
            assert theirs.channel.bytes_received < STREAM_CREDIT_BYTES + 1000
            await accepted[0].receive_some()


async def test_a_sender_beyond_its_credit_loses_its_link() -> None:
    accepted: list[Stream] = []
    async with open_side("alice") as alice, open_side("bob") as bob:
        accept(bob, accepted)
        with pytest.RaisesGroup(
            pytest.RaisesExc(Exception, match="credit"), flatten_subgroups=True
        ):
            async with joined(alice, bob) as (ours, _):
                stream = ours.open_stream(b"test/bytes")
                for _ in range(STREAM_CREDIT_BYTES // 32_768 + 1):
                    data = b"\x01" + b"x" * 32_768
                    ours.channel.queue_bulk(frame(frames.DATA, stream.ident, data))
                await trio.sleep_forever()


async def test_an_unknown_type_is_refused() -> None:
    async with open_side("alice") as alice, open_side("bob") as bob:
        async with joined(alice, bob) as (ours, _):
            stream = ours.open_stream(b"no/such")
            with pytest.raises(RemoteError, match="undef"):
                await stream.receive_some()


async def test_streams_at_the_maximum_and_one_above() -> None:
    accepted: list[Stream] = []
    async with open_side("alice") as alice, open_side("bob") as bob:
        accept(bob, accepted)
        async with joined(alice, bob) as (ours, _):
            for _ in range(STREAMS_PER_LINK_MAX):
                ours.open_stream(b"test/bytes")
            above = ours.open_stream(b"test/bytes")
            with pytest.raises(NoConnection, match="overloaded"):
                await above.receive_some()
            assert len(accepted) == STREAMS_PER_LINK_MAX


async def test_both_ends_hear_when_the_link_dies() -> None:
    accepted: list[Stream] = []
    async with open_side("alice") as alice, open_side("bob") as bob:
        accept(bob, accepted)
        async with joined(alice, bob) as (ours, theirs):
            stream = ours.open_stream(b"test/bytes")
            await stream.send_all(b"hello")
            while not accepted:
                await trio.testing.wait_all_tasks_blocked()
            assert await accepted[0].receive_some() == b"hello"
            heard: list[str] = []
            accepted[0].on_closed = lambda: heard.append("closed")
            ours.close(NoConnection("stopping"))
            with pytest.raises(NoConnection):
                await stream.receive_some()
            with trio.fail_after(2), pytest.raises(NoConnection):
                await accepted[0].receive_some()
            assert heard == ["closed"]
            assert theirs.closed


async def test_a_call_overtakes_queued_bulk() -> None:
    """While 2 MB of stream wait, a call's frames go first."""
    order: list[str] = []
    accepted: list[Stream] = []
    async with open_side("alice") as alice, open_side("bob") as bob:
        accept(bob, accepted)
        bob.serve("mark", mark=lambda: order.append("call"))
        async with joined(alice, bob) as (ours, _):
            stream = ours.open_stream(b"test/bytes")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, b"x" * STREAM_CREDIT_BYTES)
                await alice.calls.call("bob", "mark", "mark")
                while sum(len(part) for part in accepted[0]._parts) < STREAM_CREDIT_BYTES:
                    await trio.testing.wait_all_tasks_blocked()
                order.append("stream")
    assert order == ["call", "stream"]


async def test_data_that_comes_in_the_same_read_as_its_open_is_not_lost() -> None:
    """A handler that starts a task is too late for it; the stream must exist before."""
    got = trio.Event()
    async with open_side("alice") as alice, open_side("bob") as bob:
        async with trio.open_nursery() as nursery:

            async def read(stream: Stream) -> None:
                assert await stream.receive_some() == b"first"
                got.set()

            bob.calls.serve_stream(
                "test/late", lambda _, stream: nursery.start_soon(read, stream), MEMBERS
            )
            async with joined(alice, bob) as (ours, _):
                stream = ours.open_stream(b"test/late")
                assert stream.send_item_nowait(b"first")
                with trio.fail_after(2):
                    await got.wait()


async def test_a_stream_of_another_ring_is_refused_like_any_call() -> None:
    async with open_side("alice") as alice, open_side("bob") as bob:
        bob.calls.serve_stream("test/bytes", lambda _, stream: None, frozenset({"operator"}))
        async with joined(alice, bob) as (ours, _):
            with pytest.raises(NotPermitted):
                await ours.open_stream(b"test/bytes").receive_some()
        async with joined(alice, bob, ring="stranger") as (ours, _):
            for stream_type in (b"test/bytes", b"no/such"):
                with pytest.raises(NotPermitted):
                    await ours.open_stream(stream_type).receive_some()
