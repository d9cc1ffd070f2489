"""Large bodies: fragments under credit, put together again, and senders that do not keep to it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import NoConnection, RemoteProtocolError
from drupelet.wire import limits
from drupelet.wire.bodies import Assembly, Incoming, Outgoing, first_fragment
from drupelet.wire.frames import CREDIT, DATA, FLAG_MORE, U32, split_record

FRAGMENT = limits.FRAGMENT_BYTES_MAX
CREDIT_BYTES = limits.STREAM_CREDIT_BYTES


def more(count: int) -> bytes:
    return bytes((FLAG_MORE,)) + bytes(count)


def transfer(body: bytes) -> tuple[bytes, int]:
    """Send `body` from an Outgoing to an Incoming; (what arrived, frames of credit)."""
    flags, first = first_fragment(body)
    assert flags == FLAG_MORE
    outgoing, incoming, credits = Outgoing(6, body), Incoming(first), 0
    for _ in range(len(body) // FRAGMENT + 2):
        assert not outgoing.finished
        for data in outgoing.take():
            (came,) = split_record(data)
            assert (came.kind, came.ident) == (DATA, 6)
            assert len(data) <= limits.FRAME_BYTES_MAX
            whole, credit = incoming.receive(6, came.body)
            if whole is not None:
                assert outgoing.finished
                return whole, credits
            if credit:
                (grant,) = split_record(credit)
                assert (grant.kind, grant.ident) == (CREDIT, 6)
                outgoing.add_credit(U32.unpack(grant.body)[0])
                credits += 1
    raise AssertionError("no end: credit was lost")


@pytest.mark.parametrize(
    "size",
    [
        FRAGMENT + 1,
        2 * FRAGMENT,
        2 * FRAGMENT + 1,
        FRAGMENT + CREDIT_BYTES,
        FRAGMENT + CREDIT_BYTES + 1,
        3_000_001,
        limits.BODY_BYTES_MAX,
    ],
)
def test_bodies_arrive(size: int) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    whole, credits = transfer(body[:size])
    assert whole == body[:size]
    assert type(whole) is bytes
    assert credits <= 2 * size // CREDIT_BYTES + 1


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(FRAGMENT + 1, 2_000_000))
def test_bodies_of_any_size_arrive(size: int) -> None:
    assert len(transfer(bytes(size))[0]) == size


def test_a_small_body_needs_no_data_frames() -> None:
    assert first_fragment(b"") == (0, b"")
    assert first_fragment(bytes(FRAGMENT)) == (0, bytes(FRAGMENT))
    assert first_fragment(bytes(FRAGMENT + 1)) == (FLAG_MORE, bytes(FRAGMENT))
    assert Outgoing(2, bytes(FRAGMENT)).finished
    assert list(Outgoing(2, bytes(FRAGMENT)).take()) == []


def test_a_sender_stops_at_its_credit() -> None:
    outgoing = Outgoing(2, bytes(FRAGMENT + CREDIT_BYTES + 10))
    assert sum(len(data) - 10 for data in outgoing.take()) == CREDIT_BYTES
    assert list(outgoing.take()) == []
    outgoing.add_credit(3)
    (data,) = outgoing.take()
    assert split_record(data)[0].body == more(3)
    outgoing.add_credit(2**32 - 1)
    (data,) = outgoing.take()
    assert split_record(data)[0].body == b"\x00" + bytes(7)
    assert outgoing.finished


def test_data_at_the_credit_and_one_byte_above() -> None:
    incoming = Incoming(b"first", bytes_max=10**9)
    # Credit comes back from half of it on, so a sender that never waits is caught by one frame.
    whole, credit = incoming.receive(1, more(CREDIT_BYTES))
    assert whole is None
    assert credit is not None
    with pytest.raises(RemoteProtocolError, match="credit"):
        Incoming(b"first").receive(1, more(CREDIT_BYTES + 1))


def test_a_body_at_the_maximum_and_one_byte_above() -> None:
    assert Incoming(b"ab", bytes_max=5).receive(1, b"\x00cde") == (b"abcde", None)
    with pytest.raises(RemoteProtocolError, match="too large"):
        Incoming(b"ab", bytes_max=5).receive(1, b"\x00cdef")
    with pytest.raises(RemoteProtocolError, match="too large"):
        Incoming(b"ab", bytes_max=5).receive(1, b"\x01cdef")


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x00"])
def test_a_frame_without_data_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="empty"):
        Incoming(b"x").receive(1, data)


def test_crumbs_take_no_more_memory_than_their_bytes() -> None:
    incoming = Incoming(b"")
    for _ in range(10_000):
        incoming.receive(1, b"\x01x")
    assert incoming.size == 10_000
    assert incoming._buffer.__sizeof__() < 3 * incoming.size
    whole, _ = incoming.receive(1, b"\x00y")
    assert whole == b"x" * 10_000 + b"y"


def test_unfinished_bodies_of_a_channel_share_one_maximum() -> None:
    assembly = Assembly(bytes_max=100)
    done: list[bytes] = []
    assert assembly.start(2, b"a" * 60, done.append)
    assert assembly.start(4, b"b" * 40, done.append)
    assert not assembly.start(6, b"c", done.append)
    assert 6 not in assembly
    assembly.drop(4)
    assert assembly.start(6, b"c" * 40, done.append)
    assert assembly.receive(2, b"\0" + b"A") is None  # the last one: whole, so it counts no more
    assert done == [b"a" * 60 + b"A"]
    assert assembly.start(8, b"d" * 60, done.append)
    with pytest.raises(NoConnection, match="overloaded"):
        assembly.receive(8, b"\x01" + b"D")
    assert 8 not in assembly
    assert assembly.start(8, b"d" * 60, done.append), "its bytes count no more"
