"""Membership messages: the GOSSIP frame, which other members a node has links to, and where.

Decides the shape only: a CBOR array of ``[name, key, host, port]``, at most GOSSIP_NODES_MAX. Every
entry is a hint; nothing in it is believed before a handshake with that address.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.wire import codec, limits

KEY_BYTES: Final = 32  # an Ed25519 public key
_PORT_MAX: Final = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipNode:
    """One member that the sender has a link to.

    `host` is a literal address, or "" for the machine that the sender itself runs on (the receiver
    knows an address of it); `port` 1 to 65,535.
    """

    name: str
    key: bytes
    host: str
    port: int


# What a list of so many items begins with.
_LIST_HEADS: Final = tuple(
    codec.dumps([None] * count)[: -count or None] for count in range(limits.GOSSIP_NODES_MAX + 1)
)


@dataclass(frozen=True, slots=True)
class Gossip:
    """All members that the sender has links to and can name an address of."""

    nodes: tuple[GossipNode, ...]


def encode_gossip(message: Gossip) -> bytes:
    """The body of a GOSSIP frame. The caller keeps it within GOSSIP_NODES_MAX."""
    count = len(message.nodes)
    assert count <= limits.GOSSIP_NODES_MAX
    return _LIST_HEADS[count] + b"".join(map(_encode_node, message.nodes))


# The same nodes are told to every link: 64 of them take 250 us to encode and 50 us to join.
@functools.lru_cache(maxsize=2 * limits.GOSSIP_NODES_MAX)
def _encode_node(node: GossipNode) -> bytes:
    return codec.dumps([node.name, node.key, node.host, node.port])


def decode_gossip(body: bytes) -> Gossip:
    """The reverse of `encode_gossip`. Raises: `RemoteProtocolError` for anything else."""
    if len(body) > limits.CONTROL_BYTES_MAX:
        raise RemoteProtocolError("gossip too long")
    value = codec.loads(body)
    if not isinstance(value, list) or len(value) > limits.GOSSIP_NODES_MAX:
        raise RemoteProtocolError("gossip is not a list of at most 64 nodes")
    return Gossip(tuple(_decode_node(entry) for entry in value))


def _decode_node(entry: object) -> GossipNode:
    match entry:
        case [str(name), bytes(key), str(host), int(port)]:
            pass
        case _:
            raise RemoteProtocolError("malformed node in gossip")
    if not 0 < len(name) <= limits.NAME_CHARS_MAX or not name.isprintable():
        raise RemoteProtocolError("bad name in gossip")
    if len(key) != KEY_BYTES:
        raise RemoteProtocolError("bad key in gossip")
    if len(host) > limits.HOST_CHARS_MAX or not host.isprintable():
        raise RemoteProtocolError("bad host in gossip")
    if isinstance(port, bool) or not 0 < port <= _PORT_MAX:
        raise RemoteProtocolError("bad port in gossip")
    return GossipNode(name=name, key=key, host=host, port=port)
