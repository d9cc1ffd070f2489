"""Signals as bytes: both ways, cut anywhere, and junk."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import RemoteProtocolError
from drupelet.wire.ids import Pid
from drupelet.wire.limits import BODY_BYTES_MAX
from drupelet.wire.messages import processes
from drupelet.wire.messages.processes import (
    HEADER_BYTES,
    KIND_MAX,
    SEND,
    SIGNAL_BYTES_MAX,
    SignalCutter,
    decode_signal,
    encode_signal,
    split_signals,
)

NODES = st.sampled_from(["gandalf", "bilbo@192.168.1.7", "x" * 63])
PIDS = st.builds(Pid, NODES, st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
SIGNALS = st.builds(
    lambda kind, to, sender, ref, body, name: encode_signal(kind, to, sender, ref, body, name=name),
    st.integers(1, KIND_MAX),
    PIDS,
    PIDS,
    st.integers(0, 2**63 - 1),
    st.binary(max_size=100),
    st.sampled_from(["", "", "kvs", "\u00e9" * 127]),
)
ALICE = Pid("alice", 1, 1 << 40 | 7)
BOB = Pid("bob", 2, 3 << 40)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(PIDS, PIDS, st.integers(1, KIND_MAX), st.integers(0, 2**63 - 1), st.binary(max_size=64))
def test_a_signal_and_back(to: Pid, sender: Pid, kind: int, ref: int, body: bytes) -> None:
    data = encode_signal(kind, to, sender, ref, body)
    signal, end = decode_signal(data)
    assert end == len(data)
    assert signal.sender == sender
    assert Pid(signal.to_node, signal.to_incarnation, signal.to_number) == to
    assert (signal.kind, signal.ref, signal.body, signal.to_name) == (kind, ref, body, "")


def test_with_a_name_only_the_node_counts() -> None:
    signal, _ = decode_signal(encode_signal(SEND, BOB, ALICE, name="kvs"))
    assert (signal.to_node, signal.to_name) == ("bob", "kvs")
    assert (signal.to_incarnation, signal.to_number) == (0, 0)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(SIGNALS, max_size=8), st.lists(st.integers(1, 90), max_size=40))
def test_a_stream_cut_anywhere_gives_the_same_signals(
    signals: list[bytes], sizes: list[int]
) -> None:
    stream = b"".join(signals)
    cutter = SignalCutter()
    found: list[bytes] = []
    position = 0
    for size in [*sizes, len(stream) + 1]:
        whole = cutter.receive_data(stream[position : position + size])
        found += [own for _, own in split_signals(whole)]
        position += size
    assert found == signals


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(SIGNALS, min_size=1, max_size=3), st.data())
def test_bytes_changed_on_the_way_are_signals_or_the_peers_fault(
    signals: list[bytes], draw: Any
) -> None:
    changed = bytearray(b"".join(signals))
    changed[draw.draw(st.integers(0, len(changed) - 1))] = draw.draw(st.integers(0, 255))
    try:
        for signal, own in split_signals(SignalCutter().receive_data(bytes(changed))):
            assert decode_signal(own)[0] == signal
    except RemoteProtocolError:
        pass


def test_signals_before_a_malformed_one_are_given() -> None:
    good = encode_signal(SEND, BOB, ALICE, body=b"\x01")
    wrong = good[:4] + b"\xff" + good[5:]
    found = []
    with pytest.raises(RemoteProtocolError, match="malformed"):
        for signal, _ in split_signals(good + wrong):
            found.append(signal.body)
    assert found == [b"\x01"]
    for cut in (good[:-1], good[:20], wrong):
        with pytest.raises(RemoteProtocolError):
            decode_signal(cut)


@pytest.mark.parametrize("field", range(5))
def test_numbers_beyond_63_bits_are_refused(field: int) -> None:
    good = bytearray(encode_signal(SEND, BOB, ALICE))
    good[8 + 8 * field] |= 0x80
    with pytest.raises(RemoteProtocolError, match="out of range"):
        decode_signal(bytes(good))


def test_a_name_that_is_no_text_is_refused() -> None:
    data = bytearray(encode_signal(SEND, BOB, ALICE))
    data[HEADER_BYTES] = 0xFF
    with pytest.raises(RemoteProtocolError, match="UTF-8"):
        decode_signal(bytes(data))


def test_addresses_as_pids() -> None:
    signal, _ = decode_signal(encode_signal(SEND, BOB, ALICE))
    assert (signal.receiver, signal.sender) == (BOB, ALICE)
    with pytest.raises(RemoteProtocolError, match="address in a signal"):
        _ = signal._replace(from_node="\0").sender
    with pytest.raises(RemoteProtocolError, match="address in a signal"):
        _ = signal._replace(to_node="").receiver


def test_length_at_the_maximum_and_one_above() -> None:
    assert SIGNAL_BYTES_MAX == HEADER_BYTES + 3 * 255 + BODY_BYTES_MAX
    cutter = SignalCutter()
    assert cutter.receive_data((SIGNAL_BYTES_MAX - 4).to_bytes(4, "big")) == b""
    with pytest.raises(RemoteProtocolError, match="out of range"):
        SignalCutter().receive_data((SIGNAL_BYTES_MAX - 3).to_bytes(4, "big"))
    with pytest.raises(RemoteProtocolError, match="out of range"):
        SignalCutter().receive_data((HEADER_BYTES - 5).to_bytes(4, "big"))


def test_a_large_signal_in_small_pieces_is_put_together_once() -> None:
    body = bytes(1 << 20)
    data = encode_signal(SEND, BOB, ALICE, body=body)
    cutter = SignalCutter()
    pieces = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    for piece in pieces[:-1]:
        assert cutter.receive_data(piece) == b""
    assert cutter.receive_data(pieces[-1] + data[:9]) == data
    assert cutter.receive_data(data[9:]) == data


def test_every_kind_has_a_number_of_its_own() -> None:
    kinds = [
        value
        for name, value in vars(processes).items()
        if name.isupper() and isinstance(value, int) and "_" not in name.replace("EXIT_SENT", "")
    ]
    assert sorted(kinds) == list(range(1, KIND_MAX + 1))
