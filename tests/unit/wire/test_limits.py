"""The maxima fit into each other."""

from __future__ import annotations

from drupelet.wire import frames, limits


def test_a_frame_fits_a_record() -> None:
    assert limits.FRAME_BYTES_MAX + limits.RECORD_TAG_BYTES == limits.RECORD_BYTES_MAX
    assert limits.RECORD_BYTES_MAX <= 65_535  # Noise, revision 34, section 3


def test_a_fragment_fits_a_frame_whatever_stands_before_it() -> None:
    call = (
        frames.HEADER_BYTES
        + frames.CALL_HEADER_BYTES
        + limits.TARGET_BYTES_MAX
        + frames.DIGEST_BYTES
    )
    assert call + limits.FRAGMENT_BYTES_MAX <= limits.FRAME_BYTES_MAX
    assert frames.HEADER_BYTES + 1 + limits.FRAGMENT_BYTES_MAX <= limits.FRAME_BYTES_MAX


def test_two_data_frames_almost_fill_a_record() -> None:
    data = frames.HEADER_BYTES + 1 + limits.FRAGMENT_BYTES_MAX
    assert 2 * data > limits.FRAME_BYTES_MAX >= data + limits.FRAGMENT_BYTES_MAX // 2


def test_credit_is_whole_fragments() -> None:
    assert limits.STREAM_CREDIT_BYTES % limits.FRAGMENT_BYTES_MAX == 0
    assert limits.STREAM_CREDIT_BYTES // 2 >= limits.FRAGMENT_BYTES_MAX
    assert limits.STREAM_CREDIT_BYTES < limits.OUT_BYTES_MAX


def test_bodies_fit_what_puts_them_together() -> None:
    assert limits.BODY_BYTES_MAX <= limits.REASSEMBLY_BYTES_MAX
    assert limits.CONTROL_BYTES_MAX <= limits.BODY_BYTES_MAX


def test_values_narrow_toward_control() -> None:
    assert limits.CONTROL_ITEMS_MAX < limits.CONTROL_BYTES_MAX
    assert limits.CONTROL_ITEMS_MAX < limits.VALUE_ITEMS_MAX < limits.BODY_BYTES_MAX
    assert 2 * limits.MAP_INT_KEYS_MAX < limits.VALUE_ITEMS_MAX
    assert limits.VALUE_DEPTH_MAX * 6 < 900  # walks recurse: well below Python's 1,000 frames


def test_a_target_holds_its_three_names() -> None:
    node = limits.NAME_CHARS_MAX
    assert node + 1 + limits.NAME_CHARS_MAX + 1 + limits.NAME_CHARS_MAX <= limits.TARGET_BYTES_MAX
    assert limits.TARGET_BYTES_MAX <= 255  # its length is one byte


def test_a_first_handshake_message_is_smaller_than_the_others() -> None:
    assert limits.HANDSHAKE_FIRST_BYTES_MAX < limits.HANDSHAKE_BYTES_MAX
    assert limits.HANDSHAKE_BYTES_MAX < limits.RECORD_BYTES_MAX
    assert limits.UNAUTHENTICATED_PER_ADDRESS_MAX <= limits.UNAUTHENTICATED_MAX


def test_silence_is_noticed_within_five_seconds() -> None:
    assert limits.KEEPALIVE_S * (limits.KEEPALIVE_MISSED_MAX + 1) <= 5.0
    assert limits.HANDSHAKE_S <= 5.0


def test_candidates_of_a_window_fit() -> None:
    assert limits.CANDIDATES_PER_WINDOW_MAX <= limits.CANDIDATES_MAX
    assert limits.GOSSIP_NODES_MAX <= limits.CANDIDATES_MAX


def test_every_maximum_is_positive() -> None:
    for name, value in vars(limits).items():
        if name.isupper():
            assert value > 0, name
