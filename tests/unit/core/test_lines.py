"""Lines: in order, exactly once, across links that change, deliver late and break."""

from __future__ import annotations

import contextlib
from collections import deque
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.core.lines import (
    ACK_BYTES,
    ACK_S,
    BYTES_MAX,
    DATA_BYTES_MAX,
    HEADER,
    PAUSE_BYTES,
    RESUME_BYTES,
    SEGMENT_BYTES_MAX,
    WINDOW_BYTES,
    Arrived,
    Line,
)
from drupelet.errors import RemoteProtocolError
from drupelet.wire.limits import FRAGMENT_BYTES_MAX


class Side:
    """A line with its own epochs, and what the other side got, by our epoch."""

    def __init__(self) -> None:
        self.last_epoch = 1
        self.line = Line(1)
        self.got: list[bytes] = []
        self.lost_count = 0

    def next_epoch(self) -> int:
        self.last_epoch += 1
        return self.last_epoch

    def receive(self, segment: bytes, now: float = 0.0) -> Arrived:
        arrived = self.line.receive(segment, self.next_epoch(), now)
        if arrived.lost:
            self.lost_count += 1
            self.got.append(b"|")
        if arrived.data:
            self.got.append(arrived.data)
        return arrived

    def reset(self) -> None:
        self.line.reset(self.next_epoch())
        self.got.append(b"|")

    @property
    def text(self) -> bytes:
        return b"".join(self.got)


def carry(left: Side, right: Side, now: float = 0.0) -> None:
    """Everything that both have to say, over one good link."""
    while True:
        out, back = left.line.take_segments(), right.line.take_segments()
        if not out and not back:
            return
        for segment in out:
            assert len(segment) <= SEGMENT_BYTES_MAX
            right.receive(segment, now)
        for segment in back:
            left.receive(segment, now)


def joined() -> tuple[Side, Side]:
    left, right = Side(), Side()
    left.line.link_changed()
    right.line.link_changed()
    carry(left, right)
    return left, right


def test_bytes_go_both_ways_and_acknowledgements_ride_along() -> None:
    left, right = joined()
    left.line.send(b"hello")
    carry(left, right)
    assert right.text == b"hello"
    assert left.line.waiting_bytes == 5
    right.line.send(b"yes")
    carry(left, right)
    assert left.text == b"yes"
    assert left.line.waiting_bytes == 0
    assert right.line.waiting_bytes == 3


def test_nothing_is_sent_before_there_is_a_link_and_the_peer_is_known() -> None:
    left, right = Side(), Side()
    left.line.send(b"early")
    assert left.line.take_segments() == []
    left.line.link_changed()
    (hello,) = left.line.take_segments()
    assert len(hello) == HEADER.size
    right.line.link_changed()
    right.receive(hello)
    carry(left, right)
    assert right.text == b"early"


def test_a_quiet_line_acknowledges_in_the_end() -> None:
    left, right = joined()
    left.line.send(b"one way")
    carry(left, right, now=5.0)
    assert right.line.next_timer() == 5.0 + ACK_S
    right.line.handle_timer(5.0)
    assert right.line.take_segments() == []
    right.line.handle_timer(5.0 + ACK_S)
    assert right.line.next_timer() == inf
    carry(left, right, now=6.0)
    assert left.line.waiting_bytes == 0


def test_much_is_acknowledged_at_once() -> None:
    left, right = joined()
    left.line.send(bytes(ACK_BYTES - 1))
    carry(left, right)
    assert left.line.waiting_bytes == ACK_BYTES - 1
    left.line.send(b"x")
    carry(left, right)
    assert left.line.waiting_bytes == 0


def test_a_segment_fits_one_fragment_and_the_window_bounds_them() -> None:
    left, _ = joined()
    assert SEGMENT_BYTES_MAX < FRAGMENT_BYTES_MAX
    left.line.send(bytes(WINDOW_BYTES + 1))
    segments = left.line.take_segments()
    assert sum(len(each) - HEADER.size for each in segments) == WINDOW_BYTES
    assert max(map(len, segments)) == DATA_BYTES_MAX + HEADER.size
    assert left.line.take_segments() == []


def test_another_link_sends_again_and_the_receiver_drops_what_it_has() -> None:
    left, right = joined()
    left.line.send(b"one")
    first = left.line.take_segments()
    right.receive(first[0])
    left.line.send(b"two")
    lost_with_the_link = left.line.take_segments()
    left.line.link_changed()
    carry(left, right)
    assert right.text == b"onetwo"
    for late in first + lost_with_the_link:
        assert right.receive(late).data == b""
    assert left.line.statistics().again_count == 1


def test_pause_at_the_maximum_and_one_above_and_resume() -> None:
    left, right = joined()
    left.line.send(bytes(PAUSE_BYTES))
    assert not left.line.paused
    left.line.send(b"x")
    assert left.line.paused
    while left.line.waiting_bytes > RESUME_BYTES:
        assert left.line.paused
        for segment in left.line.take_segments():
            right.receive(segment)
        for segment in right.line.take_segments():
            left.receive(segment)
    assert not left.line.paused


def test_refused_at_the_maximum_and_one_above() -> None:
    line = Line(1)
    piece = bytes(BYTES_MAX // 4)
    assert all(line.send(piece) for _ in range(4))
    assert not line.send(b"x")
    assert line.statistics().refused_count == 1
    assert line.waiting_bytes == BYTES_MAX


def test_after_a_reset_nothing_of_before_and_the_peer_learns_that_it_was_lost() -> None:
    left, right = joined()
    left.line.send(b"old")
    late = left.line.take_segments()
    right.line.send(b"kept by right, never told")
    left.reset()
    left.line.send(b"new")
    left.line.link_changed()
    carry(left, right)
    assert right.lost_count == 1
    assert right.text == b"|new"
    assert left.text == b"|"
    assert right.receive(late[0]) == Arrived(b"", False)
    right.line.send(b"again")
    carry(left, right)
    assert left.text == b"|again"
    assert left.lost_count == 0


def test_both_told_node_down() -> None:
    left, right = joined()
    left.line.send(b"old")
    late = left.line.take_segments()
    for side in (left, right):
        side.reset()
        side.line.link_changed()
    assert right.receive(late[0]) == Arrived(b"", False)
    left.line.send(b"new")
    carry(left, right)
    assert (right.text, right.lost_count, left.lost_count) == (b"|new", 0, 0)


@pytest.mark.parametrize("segment", [b"", bytes(31), bytes(32), b"\xff" * 32])
def test_what_is_no_segment(segment: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Line(1).receive(segment, 2, 0.0)


def test_an_acknowledgement_of_what_was_not_sent() -> None:
    line = Line(1)
    line.send(b"abc")
    line.receive(HEADER.pack(1, 1, 0, 3), 2, 0.0)
    with pytest.raises(RemoteProtocolError):
        line.receive(HEADER.pack(1, 1, 0, 4), 2, 0.0)


def test_a_gap_is_dropped() -> None:
    line = Line(1)
    assert line.receive(HEADER.pack(1, 1, 5, 0) + b"x", 2, 0.0).data == b""
    assert line.receive(HEADER.pack(1, 1, 0, 0) + b"x", 2, 0.0).data == b"x"
    assert line.statistics().stale_count == 1


class World:
    """Two sides, links between them that are each in order, and what must hold."""

    def __init__(self) -> None:
        self.sides = (Side(), Side())
        self.links: list[tuple[deque[bytes], deque[bytes]]] = []
        self.uses: list[int | None] = [None, None]  # which link each side sends on
        self.count = 0
        # What a side sent, cut by its own epochs: token -> its side's epoch number then.
        self.epochs: dict[bytes, tuple[int, int]] = {}

    def send(self, at: int) -> None:
        self.count += 1
        token = b"<%d>" % self.count
        self.epochs[token] = (at, self.sides[at].line.epoch)
        self.sides[at].line.send(token)

    def flush(self, at: int) -> None:
        link = self.uses[at]
        if link is not None:
            self.links[link][at].extend(self.sides[at].line.take_segments())

    def open(self, at: int) -> None:
        self.links.append((deque(), deque()))
        self.use(at, len(self.links) - 1)

    def use(self, at: int, link: int) -> None:
        self.uses[at] = link
        self.sides[at].line.link_changed()
        self.flush(at)

    def deliver(self, to: int, link: int) -> None:
        queue = self.links[link][1 - to]
        if queue:
            self.sides[to].receive(queue.popleft())
            self.flush(to)

    def settle(self) -> None:
        """One good link in the end; late segments of others before, between and after."""
        late = len(self.links)
        self.open(0)
        self.use(1, len(self.links) - 1)
        for _ in range(200):
            for to in (0, 1):
                self.deliver(to, late)
                for link in range(late):
                    self.deliver(to, link)
        for at in (0, 1):
            self.sides[at].line.handle_timer(inf)
            self.flush(at)
            self.deliver(1 - at, late)

    def check(self) -> None:
        for to in (0, 1):
            text = self.sides[to].text
            for part in text.split(b"|"):
                tokens = [b"<" + each for each in part.split(b"<")[1:]]
                assert b"".join(tokens) == part, "bytes in the middle of a stream"
                numbers = [int(each[1:-1]) for each in tokens]
                epochs = [self.epochs[each] for each in tokens]
                assert all(sender != to for sender, _ in epochs)
                assert numbers == sorted(set(numbers)), "order, or twice"
                assert len(set(epochs)) <= 1, "two epochs without a word between"
            all_tokens = [b"<" + each for each in text.replace(b"|", b"").split(b"<")[1:]]
            assert len(set(all_tokens)) == len(all_tokens), "twice"
            order = [self.epochs[each][1] for each in all_tokens]
            assert order == sorted(order), "an old epoch after a new one"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "deliver", "deliver", "open", "use", "reset"]),
        st.integers(0, 1),
        st.integers(0, 5),
    ),
    max_size=80,
)


@settings(derandomize=True, deadline=None, max_examples=500)
@given(STEPS)
def test_in_order_once_and_nothing_old_after_new(steps: list[tuple[str, int, int]]) -> None:
    world = World()
    for what, at, which in steps:
        side = world.sides[at]
        match what:
            case "send":
                world.send(at)
                world.flush(at)
            case "deliver" if world.links:
                world.deliver(at, which % len(world.links))
            case "open":
                world.open(at)
            case "use" if world.links:
                world.use(at, which % len(world.links))
            case "reset":
                side.reset()
                world.uses[at] = None
    world.settle()
    world.check()
    for at in (0, 1):
        assert world.sides[at].line.waiting_bytes == 0
        sent = [token for token, (by, _) in world.epochs.items() if by == at]
        last = world.sides[at].line.epoch
        present = [token for token in sent if world.epochs[token][1] == last]
        text = world.sides[1 - at].text
        assert all(token in text for token in present), "lost though nobody told so"


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.binary(max_size=60), max_size=20), st.data())
def test_junk_is_the_peers_fault(pieces: list[bytes], draw: Any) -> None:
    line = Line(1)
    line.link_changed()
    for epoch, piece in enumerate(pieces, 2):
        head = draw.draw(st.booleans())
        segment = HEADER.pack(1, 1, 0, 0) + piece if head else piece
        with contextlib.suppress(RemoteProtocolError):
            line.receive(segment, epoch, 0.0)
        line.take_segments()
