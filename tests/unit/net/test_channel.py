"""Channels over socket pairs: order, record borders, full sockets, closing; and the Flusher."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.net.channel import Channel, Flusher, tune_tcp
from drupelet.wire import frames
from drupelet.wire.frames import FrameReader, frame
from drupelet.wire.limits import FRAME_BYTES_MAX, HELD_BYTES_MAX, OUT_BYTES_MAX
from drupelet.wire.noise import CipherState
from drupelet.wire.records import RecordOpener, RecordSealer

CALL, DATA, PING = frames.CALL, frames.DATA, frames.PING


@dataclass
class Heard:
    """Everything that came, in order; `then` is called with each frame."""

    got: list[tuple[int, int, bytes]] = field(default_factory=list)
    passes: int = 0
    then: Callable[[int, bytes], None] | None = None

    def handlers(self) -> list[Callable[[int, bytes], None]]:
        def take(kind: int) -> Callable[[int, bytes], None]:
            def handler(ident: int, body: bytes) -> None:
                self.got.append((kind, ident, body))
                if self.then is not None:
                    self.then(ident, body)

            return handler

        return [take(kind) for kind in range(frames.KIND_MAX + 1)]

    def on_pass(self) -> None:
        self.passes += 1


@dataclass
class End:
    channel: Channel
    heard: Heard
    reasons: list[str] = field(default_factory=list)

    async def run(self, initial: bytes = b"") -> None:
        self.reasons.append(await self.channel.run(initial))


@asynccontextmanager
async def open_end(
    flusher: Flusher, sock: socket.socket, keys: tuple[bytes, bytes] | None
) -> AsyncIterator[End]:
    heard = Heard()
    if keys is None:
        channel = Channel(sock, flusher)
    else:
        channel = Channel(
            sock,
            flusher,
            sealer=RecordSealer(CipherState(keys[0])),
            opener=RecordOpener(CipherState(keys[1])),
        )
    channel.start(heard.handlers(), heard.on_pass)
    try:
        yield End(channel, heard)
    finally:
        channel.close("closed")


@asynccontextmanager
async def open_flusher() -> AsyncIterator[Flusher]:
    async with trio.open_nursery() as nursery:
        flusher = Flusher(nursery)
        nursery.start_soon(flusher.run)
        yield flusher
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def pair(*, sealed: bool, running: bool = True) -> AsyncIterator[tuple[End, End]]:
    """Two ends; both run unless told otherwise, then only the first does."""
    left, right = socket.socketpair()
    for each in (left, right):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
    keys = (b"a" * 32, b"b" * 32) if sealed else None
    async with (
        open_flusher() as flusher,
        open_end(flusher, left, keys) as ours,
        open_end(flusher, right, keys and keys[::-1]) as theirs,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(ours.run)
        if running:
            nursery.start_soon(theirs.run)
        await trio.testing.wait_all_tasks_blocked()
        yield ours, theirs
        ours.channel.close("closed")
        theirs.channel.close("closed")


both = pytest.mark.parametrize("sealed", [False, True], ids=["bare", "sealed"])


@both
async def test_a_burst_over_many_record_borders_arrives_whole_and_in_order(sealed: bool) -> None:
    sizes = [0, 1, 100, 30_000, FRAME_BYTES_MAX - frames.HEADER_BYTES, 7, 40_000, 40_000] * 20
    bodies = [bytes([index % 251]) * size for index, size in enumerate(sizes)]
    async with pair(sealed=sealed) as (ours, theirs):
        for index, body in enumerate(bodies):
            ours.channel.queue(frame(CALL, index, body))
        with trio.fail_after(10):
            while len(theirs.heard.got) < len(bodies):
                await trio.testing.wait_all_tasks_blocked()
        assert [(ident, body) for _, ident, body in theirs.heard.got] == list(enumerate(bodies))
        assert ours.channel.queued_bytes == 0
        assert not ours.channel.congested


@both
async def test_small_frames_overtake_bulk(sealed: bool) -> None:
    async with pair(sealed=sealed) as (ours, theirs):
        for index in range(8):
            ours.channel.queue_bulk(frame(DATA, index, b"\1" + b"x" * 1_000))
        ours.channel.queue(frame(CALL, 99))
        await trio.testing.wait_all_tasks_blocked()
        kinds = [kind for kind, _, _ in theirs.heard.got]
        assert kinds == [CALL] + [DATA] * 8
        assert [ident for kind, ident, _ in theirs.heard.got if kind == DATA] == list(range(8))


@both
async def test_small_frames_overtake_bulk_that_waits_at_a_full_socket(sealed: bool) -> None:
    async with pair(sealed=sealed, running=False) as (ours, theirs):
        for index in range(64):
            ours.channel.queue_bulk(frame(DATA, index, b"\1" + b"x" * 30_000))
        await trio.testing.wait_all_tasks_blocked()
        ours.channel.queue(frame(CALL, 99))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.run)
            with trio.fail_after(5):
                while len(theirs.heard.got) < 65:
                    await trio.testing.wait_all_tasks_blocked()
            theirs.channel.close("closed")
        position = [kind for kind, _, _ in theirs.heard.got].index(CALL)
        assert position < 32, "it waited behind what the kernel did not have yet"


async def test_a_lone_frame_goes_at_once_and_nobody_wakes_up() -> None:
    async with pair(sealed=False, running=False) as (ours, theirs):
        ours.channel.send_frame_now(frame(PING, 0, b"12345678"))
        assert FrameReader().receive_data(theirs.channel._socket.recv(100))[0].kind == PING


async def test_a_lone_frame_does_not_overtake_what_is_queued() -> None:
    async with pair(sealed=False) as (ours, theirs):
        ours.channel.queue(frame(CALL, 1))
        ours.channel.send_frame_now(frame(CALL, 2))
        await trio.testing.wait_all_tasks_blocked()
        assert [ident for _, ident, _ in theirs.heard.got] == [1, 2]


async def test_a_peer_that_does_not_read_makes_us_congested_and_drains_later() -> None:
    body = b"x" * 60_000
    async with pair(sealed=True, running=False) as (ours, theirs):
        count = 0
        while not ours.channel.congested:
            ours.channel.queue(frame(CALL, count, body))
            count += 1
            await trio.testing.wait_all_tasks_blocked()
        assert OUT_BYTES_MAX < ours.channel.queued_bytes < OUT_BYTES_MAX + 2 * len(body)
        assert not ours.channel.closed
        waited = trio.Event()

        async def wait() -> None:
            await ours.channel.wait_sendable()
            waited.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not waited.is_set()
            nursery.start_soon(theirs.run)
            with trio.fail_after(10):
                await waited.wait()
                while len(theirs.heard.got) < count:
                    await trio.testing.wait_all_tasks_blocked()
            theirs.channel.close("closed")
        assert [ident for _, ident, _ in theirs.heard.got] == list(range(count))
        assert ours.channel.queued_bytes == 0


async def test_a_congested_end_still_reads() -> None:
    """Two ends that stop reading until the other one reads would wait for ever."""
    async with pair(sealed=False, running=False) as (ours, theirs):
        while not ours.channel.congested:
            ours.channel.queue(frame(CALL, 2, b"x" * 60_000))
            await trio.testing.wait_all_tasks_blocked()
        theirs.channel.send_frame_now(frame(CALL, 7))
        await trio.testing.wait_all_tasks_blocked()
        assert ours.heard.got == [(CALL, 7, b"")]


@pytest.mark.parametrize("bulk", [False, True])
async def test_a_peer_that_never_reads_is_cut_off_at_the_maximum(bulk: bool) -> None:
    piece = frame(DATA if bulk else CALL, 2, b"x" * 60_000)
    async with pair(sealed=False, running=False) as (ours, _):
        channel = ours.channel
        queue = channel.queue_bulk if bulk else channel.queue
        highest = 0
        for _ in range(HELD_BYTES_MAX // len(piece) + 20):
            queue(piece)
            await trio.lowlevel.checkpoint()
            if channel.closed:
                break
            highest = max(highest, channel.queued_bytes + channel.bulk_bytes)
        assert channel.close_reason == "overloaded"
        assert HELD_BYTES_MAX - 2 * len(piece) < highest <= HELD_BYTES_MAX
        await trio.testing.wait_all_tasks_blocked()
        assert ours.reasons == ["overloaded"]
        queue(piece)  # harmless, and not kept
        await trio.testing.wait_all_tasks_blocked()
        assert not channel._out
        assert not channel._bulk


@both
async def test_closing_in_a_read_pass_ends_it(sealed: bool) -> None:
    async with pair(sealed=sealed) as (ours, theirs):
        theirs.heard.then = lambda ident, body: theirs.channel.close("superseded")
        for index in range(3):
            ours.channel.queue(frame(CALL, index, b"x" * 60_000))  # one record each
        await trio.testing.wait_all_tasks_blocked()
        assert theirs.reasons == ["superseded"]
        assert ours.reasons == ["closed"]
        if sealed:
            assert len(theirs.heard.got) == 1


async def test_the_first_reason_of_a_close_counts() -> None:
    async with pair(sealed=False) as (ours, _):
        ours.channel.close("down")
        ours.channel.close("stopping")
        assert ours.channel.close_reason == "down"
        await trio.testing.wait_all_tasks_blocked()
        assert ours.reasons == ["down"]


async def test_closing_frees_those_who_wait_to_send() -> None:
    async with pair(sealed=False, running=False) as (ours, _):
        while not ours.channel.congested:
            ours.channel.queue(frame(CALL, 2, b"x" * 60_000))
            await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.channel.wait_sendable)
            await trio.testing.wait_all_tasks_blocked()
            ours.channel.close("closed")


async def test_a_reset_while_much_waits_is_a_close_like_any_other() -> None:
    async with pair(sealed=False, running=False) as (ours, theirs):
        while not ours.channel.congested:
            ours.channel.queue(frame(CALL, 2, b"x" * 60_000))
            await trio.testing.wait_all_tasks_blocked()
        theirs.channel.close("closed")
        await trio.testing.wait_all_tasks_blocked()
        assert ours.reasons == ["closed"]


@both
async def test_what_the_peer_must_not_send_is_raised_and_closes(sealed: bool) -> None:
    left, right = socket.socketpair()
    keys = (b"a" * 32, b"b" * 32) if sealed else None
    async with open_flusher() as flusher, open_end(flusher, left, keys) as ours:
        with right:
            right.send(b"\0\0\0\1\0\0" * 20)
            with trio.fail_after(2), pytest.raises(RemoteProtocolError):
                await ours.channel.run()
        assert ours.channel.close_reason == "closed"


async def test_what_was_read_with_the_handshake_comes_first() -> None:
    left, right = socket.socketpair()
    async with open_flusher() as flusher, open_end(flusher, left, None) as ours:
        right.send(frame(CALL, 2)[4:])
        right.close()
        with trio.fail_after(2):
            await ours.run(frame(CALL, 1) + frame(CALL, 2)[:4])
    assert [ident for _, ident, _ in ours.heard.got] == [1, 2]


async def test_handlers_answers_leave_in_one_go_after_the_pass() -> None:
    async with pair(sealed=True) as (ours, theirs):
        theirs.heard.then = lambda ident, body: theirs.channel.queue(frame(CALL, ident + 1))
        for index in range(0, 20, 2):
            ours.channel.queue(frame(CALL, index))
        await trio.testing.wait_all_tasks_blocked()
        assert [ident for _, ident, _ in ours.heard.got] == list(range(1, 21, 2))
        assert theirs.heard.passes == 1
        assert ours.heard.passes == 1


async def test_counts_what_went_and_came() -> None:
    async with pair(sealed=True) as (ours, theirs):
        ours.channel.queue(frame(CALL, 2, b"x" * 1_000))
        await trio.testing.wait_all_tasks_blocked()
        assert ours.channel.bytes_sent == theirs.channel.bytes_received == 1_000 + 9 + 2 + 16


async def test_a_frame_larger_than_a_record_is_our_own_bug() -> None:
    left, right = socket.socketpair()
    async with open_flusher() as flusher, open_end(flusher, left, (b"a" * 32, b"b" * 32)) as ours:
        with right, pytest.raises(LocalProtocolError):
            ours.channel._out.extend([b"x" * (FRAME_BYTES_MAX + 1), b"y"])
            ours.channel.send_now()


async def test_cancelling_a_reader_closes_its_socket() -> None:
    left, right = socket.socketpair()
    async with open_flusher() as flusher, open_end(flusher, left, None) as ours:
        with right:
            with trio.move_on_after(0):
                await ours.channel.run()
            assert ours.channel.closed
            assert right.recv(1) == b""


def test_tuning_puts_nagle_off() -> None:
    with socket.socket() as sock:
        tune_tcp(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, 25) == 131_072
