"""Records: every chunking, every damage, both bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.wire.limits import FRAME_BYTES_MAX, RECORD_BYTES_MAX
from drupelet.wire.noise import CipherState
from drupelet.wire.records import RecordOpener, RecordSealer

KEY = bytes(range(32))
PLAINTEXTS = [b"1", b"two", b"x" * 300, b"four"]


def _pair() -> tuple[RecordSealer, RecordOpener]:
    return RecordSealer(CipherState(KEY)), RecordOpener(CipherState(KEY))


def _records(plaintexts: list[bytes]) -> bytes:
    sealer, _ = _pair()
    return b"".join(map(sealer.seal, plaintexts))


def test_a_record_is_its_length_and_a_noise_message() -> None:
    sealer, _ = _pair()
    record = sealer.seal(b"plaintext")
    assert record == b"\x00\x19" + CipherState(KEY).encrypt(b"plaintext")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 18, 19, 20, 100, 10_000])
def test_every_chunking(size: int) -> None:
    data = _records(PLAINTEXTS)
    _, opener = _pair()
    found: list[bytes] = []
    for start in range(0, len(data), size):
        found += opener.receive_data(data[start : start + size])
    assert found == PLAINTEXTS


def test_every_cut_in_two() -> None:
    data = _records(PLAINTEXTS)
    for cut in range(len(data) + 1):
        _, opener = _pair()
        assert opener.receive_data(data[:cut]) + opener.receive_data(data[cut:]) == PLAINTEXTS


def test_records_come_out_as_soon_as_they_are_whole() -> None:
    sealer, opener = _pair()
    first, second = sealer.seal(b"first"), sealer.seal(b"second")
    assert opener.receive_data(first + second[:-1]) == [b"first"]
    assert opener.receive_data(b"") == []
    assert opener.receive_data(second[-1:]) == [b"second"]


def test_the_largest_record_passes_and_one_more_does_not() -> None:
    sealer, opener = _pair()
    largest = bytes(FRAME_BYTES_MAX)
    record = sealer.seal(largest)
    assert len(record) == 2 + RECORD_BYTES_MAX
    assert opener.receive_data(record) == [largest]
    for wrong in (b"", largest + b"1"):
        with pytest.raises(LocalProtocolError):
            sealer.seal(wrong)
    assert opener.receive_data(sealer.seal(b"nothing was lost")) == [b"nothing was lost"]


def test_every_flipped_bit_is_refused() -> None:
    data = _records([b"abc", b"d"])
    for place in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            _, opener = _pair()
            length_grew = place in (0, 1, 21, 22)
            try:
                found = opener.receive_data(bytes(damaged))
            except RemoteProtocolError:
                with pytest.raises(RemoteProtocolError, match="before"):
                    opener.receive_data(b"")
            else:
                assert length_grew, "only a longer length may wait for more"
                assert found in ([], [b"abc"])
                with pytest.raises(RemoteProtocolError):
                    opener.receive_data(bytes(70_000))


@pytest.mark.parametrize("length", range(17))
def test_empty_records_are_refused_at_their_length(length: int) -> None:
    _, opener = _pair()
    with pytest.raises(RemoteProtocolError, match="empty"):
        opener.receive_data(length.to_bytes(2, "big"))


def test_lost_repeated_and_reordered_records_are_refused() -> None:
    sealer, _ = _pair()
    first, second, third = map(sealer.seal, (b"1", b"2", b"3"))
    for sequence in (second, first + third, first + first, first + second + first):
        _, opener = _pair()
        with pytest.raises(RemoteProtocolError):
            opener.receive_data(sequence)


def test_a_slow_drip_holds_one_record_at_most() -> None:
    data = _records([bytes(FRAME_BYTES_MAX)])
    _, opener = _pair()
    for place in range(len(data) - 1):
        assert opener.receive_data(data[place : place + 1]) == []
    assert opener._rest is not None
    assert len(opener._rest) == len(data) - 1
    assert opener.receive_data(data[-1:]) == [bytes(FRAME_BYTES_MAX)]
    assert opener._rest is None


def test_nonces_run_out_on_both_sides() -> None:
    sealer, opener = _pair()
    sealer._counter = opener._counter = 2**64 - 2
    last = sealer.seal(b"last")
    with pytest.raises(LocalProtocolError):
        sealer.seal(b"one more")
    assert opener.receive_data(last) == [b"last"]
    with pytest.raises(RemoteProtocolError):
        opener.receive_data(last)


def test_the_cipher_state_is_taken_over_with_its_nonce() -> None:
    out, into = CipherState(KEY), CipherState(KEY)
    into.decrypt(out.encrypt(b"earlier"))
    sealer, opener = RecordSealer(out), RecordOpener(into)
    assert opener.receive_data(sealer.seal(b"later")) == [b"later"]
    with pytest.raises(LocalProtocolError):
        out.encrypt(b"a nonce would be used twice")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.binary(max_size=200), max_size=8))
def test_junk_raises_nothing_but_remote_protocol_error(pieces: list[bytes]) -> None:
    _, opener = _pair()
    try:
        for piece in pieces:
            assert opener.receive_data(piece) == []
    except RemoteProtocolError:
        pass
