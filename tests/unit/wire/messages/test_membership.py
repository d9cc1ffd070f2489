"""wire/messages/membership.py: strict and bounded."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import RemoteProtocolError
from drupelet.wire import codec, limits
from drupelet.wire.messages.membership import Gossip, GossipNode, decode_gossip, encode_gossip

BILBO = GossipNode(name="bilbo", key=b"b" * 32, host="192.0.2.1", port=4370)


def entries(count: int) -> tuple[GossipNode, ...]:
    return tuple(
        GossipNode(name=f"n{number}", key=bytes([number % 256]) * 32, host="::1", port=65_535)
        for number in range(count)
    )


def test_round_trip() -> None:
    for message in (Gossip(()), Gossip((BILBO,)), Gossip(entries(limits.GOSSIP_NODES_MAX))):
        assert decode_gossip(encode_gossip(message)) == message


def test_the_largest_fits_a_control_frame() -> None:
    node = GossipNode(name="n" * 63, key=b"k" * 32, host="h" * 253, port=65_535)
    body = encode_gossip(Gossip((node,) * limits.GOSSIP_NODES_MAX))
    assert len(body) <= limits.CONTROL_BYTES_MAX
    assert decode_gossip(body).nodes[-1] == node


def test_one_node_above_the_maximum_is_refused() -> None:
    nodes = [[n.name, n.key, n.host, n.port] for n in entries(limits.GOSSIP_NODES_MAX + 1)]
    with pytest.raises(RemoteProtocolError):
        decode_gossip(codec.dumps(nodes))
    with pytest.raises(AssertionError):
        encode_gossip(Gossip(entries(limits.GOSSIP_NODES_MAX + 1)))


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        "text",
        [[]],
        [["bilbo", b"b" * 32, "h"]],
        [["bilbo", b"b" * 31, "h", 1]],
        [["bilbo", b"b" * 33, "h", 1]],
        [["bilbo", "b" * 32, "h", 1]],
        [["", b"b" * 32, "h", 1]],
        [["n" * 64, b"b" * 32, "h", 1]],
        [["a\nb", b"b" * 32, "h", 1]],
        [["bilbo", b"b" * 32, None, 1]],
        [["bilbo", b"b" * 32, "h" * 254, 1]],
        [["bilbo", b"b" * 32, "h\x00", 1]],
        [["bilbo", b"b" * 32, "h", 0]],
        [["bilbo", b"b" * 32, "h", 65_536]],
        [["bilbo", b"b" * 32, "h", True]],
        [["bilbo", b"b" * 32, "h", 1.0]],
        [["bilbo", b"b" * 32, "h", 1, 2]],
    ],
)
def test_refuses_every_other_shape(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_gossip(codec.dumps(value))


def test_refuses_too_many_bytes_before_decoding() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_gossip(b"\x00" * (limits.CONTROL_BYTES_MAX + 1))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_junk_raises_nothing_else(body: bytes) -> None:
    with suppress(RemoteProtocolError):
        decode_gossip(body)


def test_gossip_is_the_codec_s_encoding_of_its_list() -> None:
    for count in (0, 1, 23, 24, limits.GOSSIP_NODES_MAX):
        nodes = tuple(entries(count))
        plain = [[node.name, node.key, node.host, node.port] for node in nodes]
        assert encode_gossip(Gossip(nodes)) == codec.dumps(plain)
