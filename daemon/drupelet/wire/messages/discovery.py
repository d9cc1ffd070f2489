"""What the daemon and the discovery process say to each other, over one Unix socket.

Decides the messages and what a valid one is; `services/discovery.py` and `discovery/main.py` are
the two ends. Neither end trusts the other: the process hears the whole LAN, so the daemon takes
nothing from it but addresses, names and counts, each checked here.

| frame  | from    | body                                                                       |
|--------|---------|----------------------------------------------------------------------------|
| HELLO  | process | CBOR ``{"role": "discovery", "version": 1}``: first, as on every channel    |
| HELLO  | daemon  | CBOR map of `Start`, with role and version: what to advertise and where     |
| GOSSIP | process | CBOR ``["found", key_prefix, name, host, port]``                            |
| GOSSIP | process | CBOR ``["report", [interface...], packets, dropped, refused, rebuilt]``     |
| PING   | daemon  | token: the process answers with a report and PONG, or it is stuck           |
| PONG   | process | the token                                                                  |

Addresses that lead to this machine itself or to nobody (loopback, unspecified, multicast, reserved)
and ports below 1024 are refused: a forged service must not make the daemon knock at local servers.

Rejected: the addresses of a service in one message (one bad address would refuse them all).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.wire import codec, frames, limits

VERSION: Final = 1
KEY_PREFIX_CHARS: Final = 16  # 80 bits: nobody makes a second key with the same prefix by chance
PORT_MIN: Final = 1024  # a node runs without privileges
PORT_MAX: Final = 65_535
COUNT_MAX: Final = 2**63 - 1  # the codec's integers

_KEY_PREFIX: Final = re.compile(r"[a-z2-7]{16}")
_NAME: Final = re.compile(r"[A-Za-z0-9._@:-]{0,127}")  # name@host, as long as a target allows
_SCOPE: Final = re.compile(r"[A-Za-z0-9._-]{1,15}")  # an interface's index or name (IFNAMSIZ)


@dataclass(frozen=True, slots=True)
class Hello:
    """The process is there and speaks `version`."""

    version: int = VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What to advertise and where.

    `addresses`: what the daemon listens on; "0.0.0.0" and "::" mean every address of that family.
    `interfaces`: names to speak on; empty means all.
    """

    key_prefix: str
    name: str
    port: int
    addresses: tuple[str, ...] = ("0.0.0.0", "::")
    interfaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Somebody advertises a node at this address."""

    key_prefix: str
    name: str
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How the process does: interfaces in use and counts since its start."""

    interfaces: tuple[str, ...] = ()
    packet_count: int = 0
    dropped_count: int = 0
    refused_count: int = 0
    rebuilt_count: int = 0


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you stuck? `token` is 8 bytes."""

    token: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """No."""

    token: bytes


Message = Hello | Start | Found | Report | Ping | Pong


def encode(message: Message) -> bytes:
    """The message as one frame."""
    match message:
        case Hello():
            body = codec.dumps({"role": "discovery", "version": message.version})
            return frames.frame(frames.HELLO, 0, body)
        case Start():
            return frames.frame(frames.HELLO, 0, codec.dumps(_start_to_map(message)))
        case Found():
            fields = ["found", message.key_prefix, message.name, message.host, message.port]
            return frames.frame(frames.GOSSIP, 0, codec.dumps(fields))
        case Report():
            counts = [message.packet_count, message.dropped_count]
            counts += [message.refused_count, message.rebuilt_count]
            body = codec.dumps(["report", list(message.interfaces), *counts])
            return frames.frame(frames.GOSSIP, 0, body)
        case Ping():
            return frames.frame(frames.PING, 0, message.token)
        case Pong():
            return frames.frame(frames.PONG, 0, message.token)


def decode(frame: frames.Frame) -> Message:
    """The message of one frame. Raises: `RemoteProtocolError` for anything that is not one."""
    match frame:
        case (frames.HELLO, 0, body):
            return _decode_hello(codec.loads_control(body))
        case (frames.GOSSIP, 0, body):
            return _decode_gossip(codec.loads_control(body))
        case (frames.PING, 0, body) if len(body) == frames.U64.size:
            return Ping(body)
        case (frames.PONG, 0, body) if len(body) == frames.U64.size:
            return Pong(body)
    raise RemoteProtocolError("not a frame of the discovery channel")


def checked_host(text: str) -> str:
    """The address in its shortest form. Raises: `RemoteProtocolError` unless it can be a peer's."""
    if len(text) > limits.HOST_CHARS_MAX:
        raise RemoteProtocolError("address too long")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise RemoteProtocolError("not an address") from None
    if (
        address.is_loopback
        or address.is_unspecified
        or address.is_multicast
        or (address.version == 4 and address.is_reserved)  # 240.0.0.0/4 with the broadcast
    ):
        raise RemoteProtocolError("not an address of a peer")
    if isinstance(address, ipaddress.IPv6Address):
        _check_scope(address)
    return str(address)


def is_key_prefix(text: str) -> bool:
    """Whether `text` can start a key: 16 characters of lowercase base32."""
    return _KEY_PREFIX.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether `text` can be a node's name, or is empty."""
    return _NAME.fullmatch(text) is not None


def _check_scope(address: ipaddress.IPv6Address) -> None:
    if address.ipv4_mapped is not None:
        raise RemoteProtocolError("an IPv4 address in IPv6 clothes")
    if not address.is_link_local:
        if address.scope_id is not None:
            raise RemoteProtocolError("a scope on an address that has none")
    elif address.scope_id is None or not _SCOPE.fullmatch(address.scope_id):
        raise RemoteProtocolError("a link-local address without its interface")


def _start_to_map(message: Start) -> dict[str, object]:
    return {
        "role": "daemon",
        "version": VERSION,
        "key_prefix": message.key_prefix,
        "name": message.name,
        "port": message.port,
        "addresses": list(message.addresses),
        "interfaces": list(message.interfaces),
    }


def _decode_hello(value: object) -> Hello | Start:
    match value:
        case {"role": str(role), "version": int(version), **rest} if type(version) is int:
            if version != VERSION:
                raise RemoteProtocolError(f"discovery speaks version {version}, not {VERSION}")
            if role == "discovery" and not rest:
                return Hello(version)
            if role == "daemon":
                return _decode_start(rest)
    raise RemoteProtocolError("malformed hello")


def _decode_start(value: dict[object, object]) -> Start:
    match value:
        case {
            "key_prefix": str(key_prefix),
            "name": str(name),
            "port": int(port),
            "addresses": list(addresses),
            "interfaces": list(interfaces),
            **rest,
        } if not rest:
            _check_identity(key_prefix, name, port)
            return Start(
                key_prefix=key_prefix,
                name=name,
                port=port,
                addresses=_texts(addresses, limits.DISCOVERY_INTERFACES_MAX),
                interfaces=_texts(interfaces, limits.DISCOVERY_INTERFACES_MAX),
            )
    raise RemoteProtocolError("malformed start")


def _decode_gossip(value: object) -> Found | Report:
    match value:
        case ["found", str(key_prefix), str(name), str(host), int(port)]:
            _check_identity(key_prefix, name, port)
            return Found(key_prefix=key_prefix, name=name, host=checked_host(host), port=port)
        case ["report", list(interfaces), packets, dropped, refused, rebuilt]:
            return Report(
                interfaces=_texts(interfaces, limits.DISCOVERY_INTERFACES_MAX),
                packet_count=_count(packets),
                dropped_count=_count(dropped),
                refused_count=_count(refused),
                rebuilt_count=_count(rebuilt),
            )
    raise RemoteProtocolError("malformed gossip of discovery")


def _check_identity(key_prefix: str, name: str, port: int) -> None:
    if not is_key_prefix(key_prefix):
        raise RemoteProtocolError("malformed key prefix")
    if not is_name(name):
        raise RemoteProtocolError("malformed name")
    if type(port) is not int or not PORT_MIN <= port <= PORT_MAX:
        raise RemoteProtocolError("port out of range")


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= COUNT_MAX:
        raise RemoteProtocolError("malformed count")
    return value


def _texts(values: list[object], count_max: int) -> tuple[str, ...]:
    if len(values) > count_max:
        raise RemoteProtocolError("too many texts")
    texts = tuple(value for value in values if isinstance(value, str) and len(value) <= 64)
    if len(texts) != len(values):
        raise RemoteProtocolError("malformed text")
    return texts
