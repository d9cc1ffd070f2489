"""The port mapper's protocol (EPMD): requests and responses as bytes, both ways.

Decides what is a well-formed request or response; knows nothing of sockets or of who may ask.

One connection carries one request, ``length:u16 tag:u8 fields``; big endian. Responses have no
length. The mapper closes after its response, except after a registration, which lives as long as
its connection.

| request           | tag | fields                                                              |
|-------------------|-----|---------------------------------------------------------------------|
| ALIVE2_REQ        | 120 | port:u16 type:u8 protocol:u8 highest:u16 lowest:u16 name extra,     |
|                   |     | the last two each with its length:u16 before it                     |
| PORT_PLEASE2_REQ  | 122 | name to the end                                                     |
| NAMES_REQ         | 110 | none                                                                |
| DUMP_REQ          | 100 | none                                                                |
| KILL_REQ          | 107 | none                                                                |
| STOP_REQ          | 115 | name to the end                                                     |

| response          | tag | fields                                                              |
|-------------------|-----|---------------------------------------------------------------------|
| ALIVE2_X_RESP     | 118 | result:u8 creation:u32, to nodes whose highest version is >= 6      |
| ALIVE2_RESP       | 121 | result:u8 creation:u16, to older ones                               |
| PORT2_RESP        | 119 | result:u8 and, when it is 0, the fields of ALIVE2_REQ               |
| NAMES_RESP        | -   | mapper's port:u32, then text lines                                  |

Rules kept here and not by Erlang's epmd: a name is printable UTF-8 without spaces (a line feed in a
name would forge lines of the NAMES text), port 0 and trailing bytes are malformed.

References: Erlang/OTP "Distribution Protocol", section "EPMD Protocol" (OTP 25). The responses were
compared with those of OTP 25's epmd byte for byte (tests/integration/test_portmap_erlang.py).

Ideas rejected: a protocol of our own (adr/0004); a byte machine class: there is one request per
connection, so a function that says "not whole yet" is all there is to it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from drupelet.errors import LocalProtocolError, RemoteProtocolError
from drupelet.wire import limits

ALIVE2_REQUEST: Final = 120
PORT_PLEASE2_REQUEST: Final = 122
NAMES_REQUEST: Final = 110
DUMP_REQUEST: Final = 100
KILL_REQUEST: Final = 107
STOP_REQUEST: Final = 115
ALIVE2_X_RESPONSE: Final = 118
PORT2_RESPONSE: Final = 119
ALIVE2_RESPONSE: Final = 121

NODE_TYPE_NORMAL: Final = 77  # an Erlang node
NODE_TYPE_HIDDEN: Final = 72  # everything else that registers: C nodes, and we
PROTOCOL_TCP: Final = 0
VERSION_WIDE_CREATION: Final = 6  # from this distribution version on the creation has 32 bits
EXTRA_PREFIX: Final = b"drupelet/"

KILL_REFUSED: Final = b"NO"  # what epmd says while nodes are alive; `epmd -kill` prints a reason
NOT_REGISTERED: Final = bytes((PORT2_RESPONSE, 1))

_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_NODE: Final = struct.Struct(">HBBHHH")  # port, type, protocol, highest, lowest, name length
_ALIVE2_FIXED_BYTES: Final = 1 + _NODE.size + _U16.size
_WIDE: Final = struct.Struct(">BBI")
_NARROW: Final = struct.Struct(">BBH")
_LENGTH_MAX: Final = limits.MAPPER_REQUEST_BYTES_MAX - _U16.size


@dataclass(frozen=True, slots=True, kw_only=True)
class MapperEntry:
    """One name in a port mapper. `name` is the part before the @; `port` 1..65535."""

    name: str
    port: int
    node_type: int = NODE_TYPE_HIDDEN
    protocol: int = PROTOCOL_TCP
    highest_version: int = 0
    lowest_version: int = 0
    extra: bytes = b""

    @property
    def drupelet_version(self) -> int | None:
        """The link protocol version when the node is a drupelet, else None."""
        text = self.extra.removeprefix(EXTRA_PREFIX)
        if text == self.extra or not text.isdigit() or len(text) > 5:
            return None
        return int(text)


@dataclass(frozen=True, slots=True)
class Register:
    """ALIVE2_REQ: hold this name as long as the connection stands."""

    entry: MapperEntry


@dataclass(frozen=True, slots=True)
class LookUp:
    """PORT_PLEASE2_REQ: what is known of this name? As bytes: it is only compared."""

    name: bytes


@dataclass(frozen=True, slots=True)
class ListNames:
    """NAMES_REQ."""


@dataclass(frozen=True, slots=True)
class Dump:
    """DUMP_REQ."""


@dataclass(frozen=True, slots=True)
class Kill:
    """KILL_REQ: end the mapper."""


@dataclass(frozen=True, slots=True)
class Stop:
    """STOP_REQ: forget this name."""

    name: bytes


Request = Register | LookUp | ListNames | Dump | Kill | Stop


@dataclass(frozen=True, slots=True)
class Registered:
    """A response to ALIVE2_REQ. `creation` is None when the mapper refused."""

    creation: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """A response to PORT_PLEASE2_REQ. `entry` is None when the name is not registered."""

    entry: MapperEntry | None


_LIST_NAMES: Final = ListNames()
_DUMP: Final = Dump()
_KILL: Final = Kill()


def extra_of(version: int) -> bytes:
    """The Extra field by which a drupelet is known: its link protocol version."""
    return b"%s%d" % (EXTRA_PREFIX, version)


# -- requests


def parse_request(data: bytes) -> Request | None:
    """The request in `data`, everything that came on one connection; None: not whole yet.

    Raises: `RemoteProtocolError` for anything else; the connection is then of no more use.
    """
    have = len(data)
    if have < 3:
        if have == 2 and data == b"\0\0":
            raise RemoteProtocolError("empty request")
        return None
    length = data[0] << 8 | data[1]
    if not 0 < length <= _LENGTH_MAX:
        raise RemoteProtocolError("request length out of range")
    if have < length + 2:
        return None
    if have > length + 2:
        raise RemoteProtocolError("bytes after the request")
    tag = data[2]
    if tag == PORT_PLEASE2_REQUEST:
        if not 1 < length <= limits.MAPPER_NAME_BYTES_MAX + 1:
            raise RemoteProtocolError("name length out of range")
        return LookUp(data[3:])
    if tag == ALIVE2_REQUEST:
        return Register(_parse_alive2(data))
    return _parse_rare(tag, data[3:])


def _parse_alive2(data: bytes) -> MapperEntry:
    if len(data) < 2 + _ALIVE2_FIXED_BYTES:
        raise RemoteProtocolError("short registration")
    entry, end = _parse_node(data, 3)
    if end != len(data):
        raise RemoteProtocolError("registration longer or shorter than its fields")
    return entry


def _parse_rare(tag: int, rest: bytes) -> Request:
    if tag == STOP_REQUEST:
        return Stop(rest[: limits.MAPPER_NAME_BYTES_MAX])
    if rest:
        raise RemoteProtocolError("bytes after the request")
    if tag == NAMES_REQUEST:
        return _LIST_NAMES
    if tag == DUMP_REQUEST:
        return _DUMP
    if tag == KILL_REQUEST:
        return _KILL
    raise RemoteProtocolError("unknown request")


def _parse_node(data: bytes, start: int) -> tuple[MapperEntry, int]:
    """The fields from `start` on, and where they end (beyond `data`: more must come)."""
    port, node_type, protocol, highest, lowest, name_length = _NODE.unpack_from(data, start)
    name_start = start + _NODE.size
    name_end = name_start + name_length
    if not 0 < name_length <= limits.MAPPER_NAME_BYTES_MAX:
        raise RemoteProtocolError("name length out of range")
    if len(data) < name_end + _U16.size:
        raise RemoteProtocolError("name beyond its message")
    (extra_length,) = _U16.unpack_from(data, name_end)
    if extra_length > limits.MAPPER_EXTRA_BYTES_MAX:
        raise RemoteProtocolError("extra field too long")
    extra_start = name_end + _U16.size
    if port == 0:
        raise RemoteProtocolError("port 0")
    entry = MapperEntry(
        name=_checked_name(data[name_start:name_end]),
        port=port,
        node_type=node_type,
        protocol=protocol,
        highest_version=highest,
        lowest_version=lowest,
        extra=data[extra_start : extra_start + extra_length],
    )
    return entry, extra_start + extra_length


def _checked_name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise RemoteProtocolError("name is not UTF-8") from None
    if not name.isprintable() or " " in name:
        raise RemoteProtocolError("name is not printable")
    return name


def register_request(entry: MapperEntry) -> bytes:
    """ALIVE2_REQ. Raises: `LocalProtocolError` when the entry breaks the rules above."""
    fields = bytes((ALIVE2_REQUEST,)) + _node_fields(entry)
    return _U16.pack(len(fields)) + fields


def look_up_request(name: str) -> bytes:
    """PORT_PLEASE2_REQ. Raises: `LocalProtocolError` for a name that no mapper can hold."""
    fields = bytes((PORT_PLEASE2_REQUEST,)) + _encoded_name(name)
    return _U16.pack(len(fields)) + fields


def plain_request(tag: int) -> bytes:
    """A request without fields: NAMES_REQUEST, DUMP_REQUEST or KILL_REQUEST."""
    return _U16.pack(1) + bytes((tag,))


def _encoded_name(name: str) -> bytes:
    raw = name.encode("utf-8", "surrogatepass")
    if not 0 < len(raw) <= limits.MAPPER_NAME_BYTES_MAX:
        raise LocalProtocolError(f"name of {len(raw)} bytes for a port mapper; 1..255 fit")
    if not name.isprintable() or " " in name:
        raise LocalProtocolError(f"name {name!r} is not printable, no port mapper can hold it")
    return raw


def _node_fields(entry: MapperEntry) -> bytes:
    name = _encoded_name(entry.name)
    if len(entry.extra) > limits.MAPPER_EXTRA_BYTES_MAX:
        raise LocalProtocolError("extra field too long for a port mapper")
    if not 0 < entry.port <= 65_535:
        raise LocalProtocolError(f"port {entry.port} for a port mapper; 1..65535 fit")
    head = _NODE.pack(
        entry.port,
        entry.node_type,
        entry.protocol,
        entry.highest_version,
        entry.lowest_version,
        len(name),
    )
    return head + name + _U16.pack(len(entry.extra)) + entry.extra


# -- responses


def register_response(creation: int | None, *, highest_version: int) -> bytes:
    """ALIVE2_X_RESP or ALIVE2_RESP; `creation` None refuses (epmd then says 99, so do we)."""
    result = 0 if creation is not None else 1
    value = creation if creation is not None else 99
    if highest_version >= VERSION_WIDE_CREATION:
        return _WIDE.pack(ALIVE2_X_RESPONSE, result, value)
    return _NARROW.pack(ALIVE2_RESPONSE, result, value)


def look_up_response(entry: MapperEntry) -> bytes:
    """PORT2_RESP for a registered name; `NOT_REGISTERED` is the other one."""
    return bytes((PORT2_RESPONSE, 0)) + _node_fields(entry)


def names_response(mapper_port: int, names: Iterable[tuple[str, int]]) -> bytes:
    """NAMES_RESP: the text that `epmd -names` prints."""
    text = "".join(f"name {name} at port {port}\n" for name, port in names)
    return _U32.pack(mapper_port) + text.encode("utf-8")


def dump_response(mapper_port: int, names: Iterable[tuple[str, int]]) -> bytes:
    """DUMP_RESP, in epmd's words; the descriptor is nobody's business and reads 0."""
    text = "".join(f"active name     <{name}> at port {port}, fd = 0\n\0" for name, port in names)
    return _U32.pack(mapper_port) + text.encode("utf-8")


def parse_register_response(data: bytes) -> Registered | None:
    """The response to `register_request`; None: not whole yet. Raises: `RemoteProtocolError`."""
    if not data:
        return None
    if data[0] == ALIVE2_X_RESPONSE:
        shape = _WIDE
    elif data[0] == ALIVE2_RESPONSE:
        shape = _NARROW
    else:
        raise RemoteProtocolError("not a response to a registration")
    if len(data) < shape.size:
        return None
    _, result, creation = shape.unpack_from(data)
    return Registered(creation if result == 0 else None)


def parse_look_up_response(data: bytes) -> Found | None:
    """The response to `look_up_request`; None: not whole yet. Raises: `RemoteProtocolError`."""
    if data and data[0] != PORT2_RESPONSE:
        raise RemoteProtocolError("not a response to a look-up")
    if len(data) < 2:
        return None
    if data[1] != 0:
        return Found(None)
    fixed_end = 2 + _NODE.size
    if len(data) < fixed_end:
        return None
    (name_length,) = _U16.unpack_from(data, fixed_end - _U16.size)
    if not 0 < name_length <= limits.MAPPER_NAME_BYTES_MAX:
        raise RemoteProtocolError("name length out of range")
    if len(data) < fixed_end + name_length + _U16.size:
        return None
    entry, end = _parse_node(data, 2)
    return Found(entry) if len(data) >= end else None


def parse_names_response(data: bytes) -> list[tuple[str, int]]:
    """(name, port) of a whole NAMES_RESP, in its order; at most MAPPER_NAMES_MAX.

    Lines that make no sense are left out: Erlang's epmd takes any name, a line feed included, and
    one odd name must not hide the others. Raises: `RemoteProtocolError` when the header is missing.
    """
    if len(data) < _U32.size:
        raise RemoteProtocolError("not a response to NAMES")
    names: list[tuple[str, int]] = []
    for line in data[_U32.size :].split(b"\n", limits.MAPPER_NAMES_MAX)[: limits.MAPPER_NAMES_MAX]:
        head, _, digits = line.rpartition(b" at port ")
        if not head.startswith(b"name ") or not digits.isdigit() or len(digits) > 5:
            continue
        try:
            name = _checked_name(head[5:])
        except RemoteProtocolError:
            continue
        if len(head) - 5 <= limits.MAPPER_NAME_BYTES_MAX:
            names.append((name, int(digits)))
    return names
