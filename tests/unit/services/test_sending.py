"""Large bodies on their way out: room on the channel, turns, credit."""

from __future__ import annotations

from collections.abc import Callable

import trio

from drupelet.services.sending import UNDER_WAY_BYTES_MAX, Sending
from drupelet.wire import frames
from drupelet.wire.limits import BULK_ROOM_BYTES, FRAGMENT_BYTES_MAX, STREAM_CREDIT_BYTES
from tests.unit.services.pairs import joined, open_side


class Line:
    """A channel that sends when told to."""

    def __init__(self) -> None:
        self.small: list[bytes] = []
        self.bulk: list[bytes] = []
        self.bulk_bytes = 0
        self.on_room: Callable[[], None] = lambda: None

    def queue(self, frame: bytes) -> None:
        self.small.append(frame)

    def queue_bulk(self, frame: bytes) -> None:
        self.bulk.append(frame)
        self.bulk_bytes += len(frame)

    def send_one(self) -> frames.Frame:
        frame = self.bulk.pop(0)
        self.bulk_bytes -= len(frame)
        if self.bulk_bytes < BULK_ROOM_BYTES:
            self.on_room()
        return frames.split_record(frame)[0]


def start_bodies(count: int) -> tuple[Line, Sending]:
    line = Line()
    sending = Sending(line)  # type: ignore[arg-type]
    for ident in range(2, 2 + 2 * count, 2):
        sending.start(frames.CALL, ident, b"\0prefix", b"x" * 1_000_000)
    return line, sending


def test_what_is_in_line_stays_within_the_room() -> None:
    line, _ = start_bodies(40)
    assert len(line.small) == 40
    assert BULK_ROOM_BYTES < line.bulk_bytes <= BULK_ROOM_BYTES + 40 * (FRAGMENT_BYTES_MAX + 10)
    line, _ = start_bodies(1)
    assert line.bulk_bytes <= STREAM_CREDIT_BYTES + 100


def test_every_body_uses_its_whole_credit_and_those_that_wait_take_turns() -> None:
    line, _ = start_bodies(16)
    order: list[int] = []
    while line.bulk:
        order.append(line.send_one().ident)
    counts = {ident: order.count(ident) for ident in order}
    assert counts == dict.fromkeys(range(2, 34, 2), STREAM_CREDIT_BYTES // FRAGMENT_BYTES_MAX)
    assert len(set(order[-8:])) > 4  # they end together, not one after the other


def test_credit_goes_on_and_the_end_is_marked() -> None:
    line, sending = start_bodies(1)
    sent: list[frames.Frame] = []
    while 2 in sending or line.bulk:
        while line.bulk:
            sent.append(line.send_one())
        if 2 in sending:
            sending.credit(2, FRAGMENT_BYTES_MAX)
    assert sum(len(each.body) - 1 for each in sent) == 1_000_000 - FRAGMENT_BYTES_MAX
    assert [each.body[0] for each in sent] == [1] * (len(sent) - 1) + [0]


def test_a_body_that_was_dropped_sends_no_more() -> None:
    line, sending = start_bodies(8)
    in_line = len(line.bulk)
    for ident in range(2, 18, 2):
        sending.drop(ident)
    while line.bulk:
        line.send_one()
        in_line -= 1
    assert in_line == 0


def test_bodies_beyond_what_the_peer_may_hold_begin_later_in_order() -> None:
    line, sending = start_bodies(64)
    begun = UNDER_WAY_BYTES_MAX // 1_000_000
    assert len(line.small) == begun
    assert sending.held_bytes == (64 - begun) * 1_000_000
    sending.drop(2 * 64)  # one that had not begun
    sending.drop(2)
    assert len(line.small) == begun + 1
    for _ in range(10_000):
        while line.bulk:
            ident = line.send_one().ident
            if ident in sending:
                sending.credit(ident, FRAGMENT_BYTES_MAX)
        if not any(ident in sending for ident in range(2, 130, 2)):
            break
    assert sending.held_bytes == 0
    order = [frames.split_record(each)[0].ident for each in line.small]
    assert order == list(range(2, 2 * 64, 2))


async def test_many_large_calls_at_once_all_come_back() -> None:
    """100 calls of 1 MiB each way on one link: more than may wait on it, or be unfinished."""
    body = bytes(1_048_576)
    done = 0
    async with open_side("alice") as alice, open_side("bob") as bob:
        bob.serve("echo", echo=lambda value: value)
        async with joined(alice, bob):

            async def one() -> None:
                nonlocal done
                assert await alice.calls.call("bob", "echo", "echo", body, timeout=50) == body
                done += 1

            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(one)
    assert done == 100
