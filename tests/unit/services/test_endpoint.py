"""Endpoints: calls, bodies, streams and forwarding, through real sockets."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from drupelet.errors import NoConnection, NotSendable, RemoteError, RemoteProtocolError, Timeout
from drupelet.net.channel import Channel
from drupelet.services.endpoint import Endpoint
from drupelet.wire import frames
from drupelet.wire.codec import dumps, loads
from drupelet.wire.frames import frame
from drupelet.wire.limits import BODY_BYTES_MAX, FRAGMENT_BYTES_MAX
from tests.unit.services.pairs import joined, make_export, open_side


@pytest.mark.parametrize(
    "size",
    [0, 1, FRAGMENT_BYTES_MAX - 10, FRAGMENT_BYTES_MAX, FRAGMENT_BYTES_MAX + 1, 3_000_000],
)
async def test_a_body_of_any_size_comes_back(size: int) -> None:
    async with open_side("alice") as alice, open_side("bob") as bob:
        bob.serve("echo", echo=lambda value: value)
        async with joined(alice, bob):
            assert await alice.calls.call("bob", "echo", "echo", b"x" * size) == b"x" * size


async def test_a_body_at_the_maximum_and_one_above() -> None:
    async with open_side("alice") as alice, open_side("bob") as bob:
        bob.serve("size", size=len)
        async with joined(alice, bob):
            fits = b"x" * (BODY_BYTES_MAX - 6)  # array head, byte string head
            assert await alice.calls.call("bob", "size", "size", fits) == len(fits)
            with pytest.raises(NotSendable, match="more than"):
                await alice.calls.call("bob", "size", "size", fits + b"x")


async def test_a_value_above_the_maximum_is_refused_not_sent() -> None:
    async with open_side("alice") as alice, open_side("bob") as bob:
        bob.serve("make", make=lambda size: b"x" * size)
        async with joined(alice, bob):
            with pytest.raises(RemoteError, match="not_sendable"):
                await alice.calls.call("bob", "make", "make", BODY_BYTES_MAX + 1)


async def test_many_calls_each_get_their_own_answer() -> None:
    async with open_side("alice") as alice, open_side("bob") as bob:
        bob.serve("double", double=lambda value: 2 * value)
        results: dict[int, object] = {}

        async def one(number: int) -> None:
            results[number] = await alice.calls.call("bob", "double", "double", number)

        async with joined(alice, bob):
            async with trio.open_nursery() as nursery:
                for number in range(500):
                    nursery.start_soon(one, number)
        assert results == {number: 2 * number for number in range(500)}


async def test_call_many_keeps_the_order_and_tells_failures_apart() -> None:
    def half(value: int) -> int:
        if value % 2:
            raise ValueError(f"{value} is odd")
        return value // 2

    async with open_side("alice") as alice, open_side("bob") as bob:
        bob.serve("half", half=half)
        async with joined(alice, bob):
            answers = await alice.calls.call_many("bob", "half", "half", [[n] for n in range(100)])
    assert [answers[n] for n in range(0, 100, 2)] == list(range(50))
    odd = answers[1]
    assert isinstance(odd, RemoteError)
    assert (odd.kind, odd.message) == ("ValueError", "1 is odd")


async def test_a_closed_channel_ends_every_call_with_its_reason() -> None:
    async with open_side("alice") as alice, open_side("bob") as bob:

        async def never() -> None:
            await trio.sleep_forever()

        bob.serve("sleep", never=never)
        errors: list[NoConnection] = []

        async def one() -> None:
            with pytest.raises(NoConnection) as caught:
                await alice.calls.call("bob", "sleep", "never")
            errors.append(caught.value)

        async with joined(alice, bob) as (_, theirs):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(one)
                await trio.testing.wait_all_tasks_blocked()
                theirs.close(NoConnection("stopping"))
    assert [(each.reason, each.maybe_ran) for each in errors] == [("closed", True)] * 10


async def test_a_deadline_ends_a_call_and_cancels_it_at_the_callee() -> None:
    cancelled = trio.Event()

    async def slow() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with open_side("alice") as alice, open_side("bob") as bob:
        bob.serve("slow", slow=slow)
        async with joined(alice, bob):
            with pytest.raises(Timeout) as caught:
                await alice.calls.call("bob", "slow", "slow", timeout=0.05)
            assert caught.value.maybe_ran
            with trio.fail_after(2):
                await cancelled.wait()


async def test_cancelling_the_caller_cancels_the_call() -> None:
    cancelled = trio.Event()

    async def slow() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with open_side("alice") as alice, open_side("bob") as bob:
        bob.serve("slow", slow=slow)
        async with joined(alice, bob) as (ours, _):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(alice.calls.call, "bob", "slow", "slow")
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            with trio.fail_after(2):
                await cancelled.wait()
            assert ours.open_calls == 0


async def test_a_call_is_forwarded_with_its_body_both_ways() -> None:
    """client -> Alice -> Bob: Alice never opens the arguments."""
    async with open_side("client") as client, open_side("alice") as alice, open_side("bob") as bob:
        bob.serve("echo", echo=lambda value: value)
        async with joined(client, alice, ring="operator") as (to_alice, _), joined(alice, bob):
            for size in (10, FRAGMENT_BYTES_MAX + 5, 2_000_000):
                prefix = frames.call_body(b"bob/echo/echo", b"", timeout_ms=4000)
                body = await to_alice.call(prefix, dumps([b"y" * size]), trio.current_time() + 4)
                assert loads(body[1:]) == b"y" * size


async def test_a_forwarded_call_dies_with_the_far_link() -> None:
    async with open_side("client") as client, open_side("alice") as alice, open_side("bob") as bob:
        started = trio.Event()

        async def never() -> None:
            started.set()
            await trio.sleep_forever()

        bob.serve("sleep", never=never)
        async with joined(client, alice, ring="operator") as (to_alice, _):
            async with joined(alice, bob) as (to_bob, _):
                async with trio.open_nursery() as nursery:

                    async def call() -> None:
                        with pytest.raises(NoConnection) as caught:
                            prefix = frames.call_body(b"bob/sleep/never", b"")
                            await to_alice.call(prefix, b"\x80", float("inf"))
                        assert caught.value.maybe_ran

                    nursery.start_soon(call)
                    await started.wait()
                    to_bob.close(NoConnection("down", maybe_ran=True))


@pytest.mark.parametrize(
    "bad",
    [
        frame(frames.CALL, 2, b"\0"),
        frame(frames.CALL, 0, frames.call_body(b"a/b", b"\x80")),
        frame(frames.CALL, 1, frames.call_body(b"a/b", b"\x80")),
        frame(frames.REPLY, 1, b""),
        frame(frames.CREDIT, 2, b"\0"),
        frame(frames.PING, 0, b""),
        frame(frames.PONG, 0, b"123"),
        frame(frames.HELLO, 0, b"\xa0"),
        frame(frames.GOSSIP, 0, b"\x80"),
        frame(frames.GOODBYE, 0, b"\x60"),
        frame(frames.OPEN, 1, b"x"),
        b"\0\0\0\x05\xff\0\0\0\0",
    ],
)
async def test_what_a_peer_must_not_send_closes_its_channel_only(bad: bytes) -> None:
    async with open_side("bob") as bob:
        left, right = socket.socketpair()
        endpoint = Endpoint(
            Channel(right, bob.flusher), bob.calls, bob.deadlines, opener=False, ring="member"
        )
        left.send(bad)
        with trio.fail_after(2), pytest.raises(RemoteProtocolError):
            await endpoint.run()
        assert endpoint.closed
        left.close()


async def test_late_and_unknown_answers_are_ignored() -> None:
    async with open_side("alice") as alice, open_side("bob") as bob:
        bob.serve("echo", echo=lambda value: value)
        async with joined(alice, bob) as (ours, theirs):
            for kind, body in [
                (frames.REPLY, b"\0\xf6"),
                (frames.ERROR, b"\x80"),
                (frames.DATA, b"\0x"),
                (frames.CREDIT, b"\0\0\0\1"),
                (frames.CANCEL, b""),
                (frames.CLOSE, b""),
            ]:
                theirs.channel.queue(frame(kind, 4242, body))
            assert await alice.calls.call("bob", "echo", "echo", 1) == 1
            assert not ours.closed


async def test_a_worker_that_is_down_is_told_with_its_reason() -> None:
    async with open_side("alice") as alice, open_side("bob") as bob:
        export = make_export(b"kvs/store")
        export.unavailable = RemoteError("mission_backoff", "kvs is tried again in 2 s")
        bob.exports[b"kvs/store"] = export
        async with joined(alice, bob):
            with pytest.raises(RemoteError, match="tried again"):
                await alice.calls.call("bob", "kvs", "store", 1, 2)
