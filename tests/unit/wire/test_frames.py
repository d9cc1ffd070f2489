"""Frames: what is packed comes apart again, however it is cut on the way."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import RemoteProtocolError
from drupelet.wire import frames, limits
from drupelet.wire.frames import CALL, DATA, HEADER_BYTES, PING, Frame, FrameReader, frame

BODY_BYTES_MAX = limits.FRAME_BYTES_MAX - HEADER_BYTES
FRAMES = st.builds(
    Frame,
    st.integers(1, frames.KIND_MAX),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=40),
)


def packed(parts: list[Frame]) -> bytes:
    return b"".join(frame(*part) for part in parts)


def test_the_bytes_of_a_frame() -> None:
    assert frame(PING, 0, b"12345678").hex() == "0000000d" + "0a" + "00000000" + "3132333435363738"
    assert frame(DATA, 258).hex() == "00000005" + "06" + "00000102"


def test_the_plain_kinds_are_those_of_the_enum() -> None:
    for kind in frames.Kind:
        assert getattr(frames, kind.name) == kind.value
    assert max(frames.Kind) == frames.KIND_MAX == len(frames.Kind)


@settings(derandomize=True, deadline=None)
@given(st.lists(FRAMES, max_size=10))
def test_a_record_comes_apart(parts: list[Frame]) -> None:
    assert frames.split_record(packed(parts)) == parts


@settings(derandomize=True, deadline=None)
@given(st.lists(FRAMES, min_size=1, max_size=6), st.lists(st.integers(0, 300), max_size=12))
def test_a_stream_comes_apart_wherever_it_is_cut(parts: list[Frame], cuts: list[int]) -> None:
    data = packed(parts)
    reader = FrameReader()
    edges = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    came = [
        part
        for start, end in itertools.pairwise(edges)
        for part in reader.receive_data(data[start:end])
    ]
    assert came == parts


def test_a_stream_comes_apart_byte_by_byte() -> None:
    parts = [Frame(CALL, 2, b"abc"), Frame(PING, 0, b""), Frame(DATA, 2**32 - 1, bytes(300))]
    reader = FrameReader()
    came = [part for byte in packed(parts) for part in reader.receive_data(bytes((byte,)))]
    assert came == parts
    assert reader.receive_data(b"") == []


def test_a_record_cut_anywhere_is_refused() -> None:
    whole = packed([Frame(CALL, 2, b"abc"), Frame(PING, 0, b"12345678")])
    first = len(frame(CALL, 2, b"abc"))
    for end in range(1, len(whole)):
        if end == first:
            continue
        with pytest.raises(RemoteProtocolError):
            frames.split_record(whole[:end])


@pytest.mark.parametrize("kind", [0, frames.KIND_MAX + 1, 255])
def test_unknown_kinds_are_refused(kind: int) -> None:
    for read in (frames.split_record, FrameReader().receive_data):
        with pytest.raises(RemoteProtocolError, match="kind"):
            read(frame(kind, 0, b"x"))


@pytest.mark.parametrize("length", [0, 4, limits.FRAME_BYTES_MAX - 3, 2**31, 2**32 - 1])
def test_lengths_out_of_range_are_refused_at_once(length: int) -> None:
    data = length.to_bytes(4, "big") + bytes((PING,)) + bytes(4)
    for read in (frames.split_record, FrameReader().receive_data):
        with pytest.raises(RemoteProtocolError):
            read(data)


def test_a_body_at_the_maximum_and_one_above() -> None:
    most = frame(DATA, 1, bytes(BODY_BYTES_MAX))
    assert len(most) == limits.FRAME_BYTES_MAX
    assert FrameReader().receive_data(most) == [Frame(DATA, 1, bytes(BODY_BYTES_MAX))]
    assert frames.split_record(most) == [Frame(DATA, 1, bytes(BODY_BYTES_MAX))]
    with pytest.raises(RemoteProtocolError):
        FrameReader().receive_data(frame(DATA, 1, bytes(BODY_BYTES_MAX + 1)))


def test_a_reader_keeps_at_most_one_unfinished_frame() -> None:
    reader = FrameReader()
    most = frame(DATA, 1, bytes(BODY_BYTES_MAX))
    assert reader.receive_data(most * 3 + most[:-1]) == [Frame(DATA, 1, bytes(BODY_BYTES_MAX))] * 3
    assert len(reader._rest) == limits.FRAME_BYTES_MAX - 1
    assert len(reader.receive_data(most[-1:])) == 1
    assert reader._rest == b""


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.binary(max_size=60))
def test_junk_is_frames_or_the_peers_fault(data: bytes) -> None:
    for read in (frames.split_record, FrameReader().receive_data, frames.split_call):
        try:
            read(data)
        except RemoteProtocolError:
            continue


@settings(derandomize=True, deadline=None)
@given(
    st.binary(max_size=limits.TARGET_BYTES_MAX),
    st.binary(max_size=40),
    st.integers(0, 2**32 - 1),
    st.sampled_from([b"", bytes(range(16))]),
    st.sampled_from([0, frames.FLAG_MORE]),
)
def test_a_call_comes_apart(
    target: bytes, args: bytes, timeout_ms: int, digest: bytes, flags: int
) -> None:
    body = frames.call_body(target, args, timeout_ms=timeout_ms, flags=flags, digest=digest)
    call = frames.split_call(body)
    assert call == (
        flags | (frames.FLAG_DIGEST if digest else 0),
        timeout_ms,
        target,
        digest,
        args,
    )
    for end in range(len(body) - len(args)):
        with pytest.raises(RemoteProtocolError):
            frames.split_call(body[:end])


def test_a_target_at_the_maximum_and_one_above() -> None:
    target = b"t" * limits.TARGET_BYTES_MAX
    assert frames.split_call(frames.call_body(target, b"a")).target == target
    with pytest.raises(Exception, match="255"):
        frames.call_body(target + b"t", b"a")
