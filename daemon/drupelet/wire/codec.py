"""Values as bytes: the CBOR profile (RFC 8949) of arguments, results and messages.

Decides what data is (`dumps` refuses the rest, naming the place) and what bytes are a value
(`loads` refuses the rest with `RemoteProtocolError`, and raises nothing else for any bytes).

| Python                                   | CBOR                                                |
|------------------------------------------|-----------------------------------------------------|
| None, bool, str, list, dict              | null, false/true, text, array, map                  |
| int, -2**63 .. 2**63-1                   | major types 0 and 1                                 |
| float, also NaN and infinities           | always 64 bits; NaN is 7ff8000000000000             |
| bytes, bytearray, memoryview             | byte string; comes back as bytes                    |
| tuple                                    | tag 88 round an array                               |
| Pid, Ref                                 | tags 89 and 90 round [node, incarnation, number]    |
| datetime, aware                          | tag 0 round RFC 3339 text                           |
| datetime with seconds in its offset      | tag 91 round ISO 8601 text (old local mean times)   |
| uuid.UUID                                | tag 37 round 16 bytes                               |
| Down, Exit, NodeUp, NodeDown, Request    | tag 92 round [index, field...] (notices.py)         |
| ProxyPid                                 | tag 93 round [node, 16 bytes]                       |

Tags 88-93 are ours, from the gap 88-95 that IANA left behind the typed arrays of RFC 8746.
`drupelet.cddl` says the same in CDDL.

Rules
- Types are exact. A subclass (IntEnum, StrEnum, namedtuple, OrderedDict, a str subclass) is
  refused with its mend: it would arrive as its base, silently another thing.
- A datetime keeps its instant, microseconds and offset; its tzinfo becomes a fixed offset.
- Keys of a dict are str or int, at most MAP_INT_KEYS_MAX of them int: integers hash to
  themselves, and a chosen set of them makes a dict quadratic.
- Deterministic (RFC 8949, 4.2.1): definite lengths, shortest heads, map keys sorted by their
  bytes; floats always 64 bits (4.2.2 leaves it to the protocol). Equal values of equal types,
  equal bytes.
- `loads` accepts longer heads, shorter floats and keys in any order; `loads_canonical`, for data
  that was signed, does not. Sign bytes, never a re-encoding.
- At most VALUE_DEPTH_MAX containers deep, VALUE_ITEMS_MAX items, BODY_BYTES_MAX bytes, both ways.

How `loads` is strict and quick: cbor2 stops after the first item and does not say where, so the
input is decoded between the head of a 2-array and a mark. The second element is the mark if and
only if the input was exactly one item: the mark does not occur in the input (looked up first) and
cannot overlap itself (its first byte occurs in it once). A value of n bytes has at most n items,
so only larger inputs are counted before they are decoded (`scan`). What is left, types of keys
and values, range and depth, is checked on the decoded value.

Tried; figures in us from one run for ``[{"id": 7, "kind": "temp", "data": 42 bytes}]``, in which
bare cbor2 6.2.1 took 1.15 to dump and 0.47 to load (tests/bench/bench_codec.py prints ours beside
it):
- cbor2 with canonical=True 2.3, with encoders={tuple: ...} 2.2, plain after a walk of our own
  1.5, and then tuples, order or subclasses are still open. So the encoder is our own Python.
- An encoder that joins per container 1.4 (and copies 1 MiB in a dict thrice: 0.77 ms, one flat
  list of parts 0.02); pairs (key, value) in one loop 1.6; leaves spelled out again in the loop
  over a dict 1.35. A plain recursion, 1.2, won: CPython 3.11 inlines it.
- Shortest floats: three packs and two comparisons, 0.3 a float against 0.07.
- Long lists of one leaf type handed to cbor2: 2x on those, 0.1 more on every other list.
- object_hook to check keys: 0.3 more, as much as the walk, which checks the rest too.
- A regex or translate() that proves "no tag, simple value or 8-byte integer here": 0.2 or 0.08,
  but keys must be looked at anyway, and then the walk's other checks are nearly free.
- functools.partial for cbor2's options: 0.9 against 0.69 with keywords spelled out.
- CBORDecoder on a BytesIO to learn where the item ended: more than 1.0, and it reads ahead.
"""

from __future__ import annotations

import datetime
import math
import re
import struct
import uuid
from collections.abc import Callable
from typing import Any, Final, NoReturn

import cbor2

from drupelet.errors import RemoteProtocolError
from drupelet.wire import limits
from drupelet.wire.ids import PROXY_SECRET_BYTES, Pid, ProxyPid, Ref
from drupelet.wire.notices import (
    CLASSES,
    Down,
    Exit,
    Notice,
    Request,
    notice_fields,
    notice_from_fields,
)
from drupelet.wire.refusals import INT_MAX, INT_MIN, explain, int_keys, too_many_items
from drupelet.wire.scan import scan

TAG_DATETIME: Final = 0
TAG_UUID: Final = 37
TAG_TUPLE: Final = 88
TAG_PID: Final = 89
TAG_REF: Final = 90
TAG_DATETIME_SECONDS: Final = 91
TAG_NOTICE: Final = 92
TAG_PROXY: Final = 93


# -- heads


def _head(major: int, argument: int) -> bytes:
    """The initial byte and argument of an item, in the shortest form."""
    first = major << 5
    if argument < 24:
        return bytes((first | argument,))
    if argument < 0x100:
        return bytes((first | 24, argument))
    if argument < 0x1_0000:
        return _PACK_16(first | 25, argument)
    if argument < 0x1_0000_0000:
        return _PACK_32(first | 26, argument)
    return _PACK_64(first | 27, argument)


_PACK_16: Final = struct.Struct(">BH").pack
_PACK_32: Final = struct.Struct(">BI").pack
_PACK_64: Final = struct.Struct(">BQ").pack
_PACK_FLOAT: Final = struct.Struct(">Bd").pack
_NAN: Final = bytes.fromhex("fb7ff8000000000000")

# Tables for the common sizes: a look-up is 0.03 us, `_head` 0.15.
_BYTES_HEADS: Final = [_head(2, size) for size in range(256)]
_TEXT_HEADS: Final = [_head(3, size) for size in range(256)]
_ARRAY_HEADS: Final = [_head(4, size) for size in range(256)]
_MAP_HEADS: Final = [_head(5, size) for size in range(256)]
_INTS: Final = {n: _head(0, n) if n >= 0 else _head(1, -1 - n) for n in range(-256, 1024)}
_TUPLE: Final = _head(6, TAG_TUPLE)
_NOTICE: Final = _head(6, TAG_NOTICE)
_NOTICES: Final = frozenset(CLASSES)
_KEYS_CACHED_MAX: Final = 512  # field names of a program's messages; full, it starts anew
_KEY_CACHED_CHARS_MAX: Final = 64  # so that the cache stays below 100 KB
_PARTS_MAX: Final = 2 * limits.VALUE_ITEMS_MAX  # an item makes at most two parts: head, content
_PARTS_FREE: Final = limits.VALUE_ITEMS_MAX // 4  # a part is at most four items (a Pid): no count
_PARTS_SUMMED_MIN: Final = 1_024  # fewer parts are not worth adding up before they are joined


class _Keys(dict[str, bytes]):
    """Encoded text keys by key."""

    def __missing__(self, key: str) -> bytes:
        data = key.encode()
        encoded = _head(3, len(data)) + data
        if len(key) <= _KEY_CACHED_CHARS_MAX:
            if len(self) >= _KEYS_CACHED_MAX:
                self.clear()
            self[key] = encoded
        return encoded


_keys: Final = _Keys()


# -- encoding


class _Unsendable(Exception):
    """Inside `dumps`: something is not data; `explain` then finds what and where."""


def dumps(value: Any) -> bytes:
    """`value` as CBOR, always the same bytes for the same value.

    Raises: `NotSendable`, with the place in `path`, for anything that is not data or too large.
    """
    parts: list[bytes] = []
    try:
        _encode(value, limits.VALUE_DEPTH_MAX, parts, parts.append)
        if len(parts) > _PARTS_SUMMED_MIN and sum(map(len, parts)) > limits.BODY_BYTES_MAX:
            raise _Unsendable
    except (_Unsendable, UnicodeEncodeError):
        raise explain(value) from None
    data = b"".join(parts)
    if len(data) > limits.BODY_BYTES_MAX:
        raise explain(value)
    if len(parts) > _PARTS_FREE and len(data) > limits.VALUE_ITEMS_MAX:
        try:
            scan(data, limits.VALUE_ITEMS_MAX)
        except RemoteProtocolError:
            raise too_many_items() from None
    return data


def _encode(value: Any, depth: int, parts: list[bytes], append: Callable[[bytes], None]) -> None:
    """Append the encoding of `value`. The order of the tests is that of how often types occur."""
    kind = type(value)
    if kind is str:
        data = value.encode()
        size = len(data)
        append(_TEXT_HEADS[size] if size < 256 else _head(3, size))
        append(data)
    elif kind is int:
        append(_INTS[value] if value in _INTS else _encode_int(value))
    elif kind is bytes:
        size = len(value)
        append(_BYTES_HEADS[size] if size < 256 else _head(2, size))
        append(value)
    elif kind is dict:
        size = len(value)
        append(_MAP_HEADS[size] if size < 256 else _large_map_head(value))
        if not depth or len(parts) > _PARTS_MAX:
            raise _Unsendable
        depth -= 1
        order = {_keys[key] if type(key) is str else _encode_key(key): key for key in value}
        for encoded in sorted(order) if size > 1 else order:
            append(encoded)
            _encode(value[order[encoded]], depth, parts, append)
    elif kind is list or kind is tuple:
        size = len(value)
        if not depth or size > limits.VALUE_ITEMS_MAX or len(parts) > _PARTS_MAX:
            raise _Unsendable
        if kind is tuple:
            append(_TUPLE)
        append(_ARRAY_HEADS[size] if size < 256 else _head(4, size))
        depth -= 1
        for item in value:
            _encode(item, depth, parts, append)
    elif value is None:
        append(b"\xf6")
    elif value is True:
        append(b"\xf5")
    elif value is False:
        append(b"\xf4")
    elif kind is float:
        append(_PACK_FLOAT(0xFB, value) if value == value else _NAN)
    elif kind in _ENCODERS:
        append(_ENCODERS[kind](value))
    elif kind in _NOTICES:
        _encode_notice(value, depth, parts, append)
    else:
        raise _Unsendable


def _encode_notice(
    notice: Notice, depth: int, parts: list[bytes], append: Callable[[bytes], None]
) -> None:
    """A container like a tuple: one level, and its reason may be any data."""
    try:
        fields = notice_fields(notice)
    except ValueError:
        raise _Unsendable from None
    append(_NOTICE)
    _encode(fields, depth, parts, append)


def _encode_int(value: int) -> bytes:
    if 0 <= value <= INT_MAX:
        return _head(0, value)
    if INT_MIN <= value < 0:
        return _head(1, -1 - value)
    raise _Unsendable


def _encode_key(key: Any) -> bytes:
    if type(key) is not int:
        raise _Unsendable
    return _INTS[key] if key in _INTS else _encode_int(key)


def _large_map_head(value: dict[Any, Any]) -> bytes:
    size = len(value)
    if size > limits.MAP_INT_KEYS_MAX and (
        size > limits.VALUE_ITEMS_MAX or int_keys(value) > limits.MAP_INT_KEYS_MAX
    ):
        raise _Unsendable
    return _head(5, size)


def _encode_text(text: str) -> bytes:
    data = text.encode()
    return _head(3, len(data)) + data


def _encode_datetime(value: datetime.datetime) -> bytes:
    offset = value.utcoffset()
    if offset is None:
        raise _Unsendable
    broken = offset % datetime.timedelta(minutes=1)
    tag = TAG_DATETIME_SECONDS if broken else TAG_DATETIME
    return _head(6, tag) + _encode_text(value.isoformat())


def _encode_bytes_like(value: bytearray | memoryview) -> bytes:
    data = bytes(value)
    return _head(2, len(data)) + data


def _encode_id(value: Pid | Ref) -> bytes:
    return b"".join(
        (
            _head(6, TAG_PID if type(value) is Pid else TAG_REF),
            _ARRAY_HEADS[3],
            _encode_text(value.node),
            _encode_int(value.incarnation),
            _encode_int(value.number),
        )
    )


def _encode_proxy(value: ProxyPid) -> bytes:
    secret = _BYTES_HEADS[PROXY_SECRET_BYTES] + value.secret
    return b"".join((_head(6, TAG_PROXY), _ARRAY_HEADS[2], _encode_text(value.node), secret))


_ENCODERS: Final[dict[type, Callable[[Any], bytes]]] = {
    Pid: _encode_id,
    Ref: _encode_id,
    ProxyPid: _encode_proxy,
    datetime.datetime: _encode_datetime,
    uuid.UUID: lambda value: _head(6, TAG_UUID) + _BYTES_HEADS[16] + value.bytes,
    bytearray: _encode_bytes_like,
    memoryview: _encode_bytes_like,
}


# -- decoding

# An integer beyond 2**63, so never a value of ours; 1b, its first byte, occurs in it once.
_MARK: Final = bytes.fromhex("1b9ed3a741c86d52f0")
_MARK_VALUE: Final = int.from_bytes(_MARK[1:], "big")
_BETWEEN: Final = b"\x82%b" + _MARK  # the mark holds no per cent sign
_cbor2_loads: Final = cbor2.loads
_LEAVES: Final = frozenset({str, bytes, float, bool, type(None)})
_TAGGED: Final = frozenset({datetime.datetime, uuid.UUID, Pid, Ref, ProxyPid})
# A level of ours is up to two of cbor2's (a tag and its array); a Pid within, and the 2-array.
_CBOR2_DEPTH_MAX: Final = 2 * limits.VALUE_DEPTH_MAX + 2 + 1
_ALIKE_MIN: Final = 16  # from here on, one set of types is quicker than a look at each item
# Below this, no map can have more than MAP_INT_KEYS_MAX integer keys (two bytes an entry).
_MAPS_FREE_BYTES: Final = 2 * limits.MAP_INT_KEYS_MAX


def loads(data: bytes) -> Any:
    """The value that `data` is, exactly. Raises: `RemoteProtocolError` for any other bytes."""
    if (len(data) > _MAPS_FREE_BYTES and _may_cost_much(data)) or data.find(_MARK) >= 0:
        return _loads_scanned(data)
    try:
        value, after = _cbor2_loads(
            _BETWEEN % data,
            max_depth=_CBOR2_DEPTH_MAX,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            semantic_decoders=_DECODERS,
        )
    except Exception as error:  # cbor2 raises its own, UnicodeDecodeError, MemoryError ...
        raise RemoteProtocolError("malformed value") from error
    if after != _MARK_VALUE:
        raise RemoteProtocolError("bytes after the value")
    if type(value) not in _LEAVES:
        _check(value, limits.VALUE_DEPTH_MAX)
    return value


def loads_control(data: bytes) -> Any:
    """As `loads`, within the narrower maxima of a control frame; no NaN, no infinities."""
    if len(data) > limits.CONTROL_ITEMS_MAX:
        if len(data) > limits.CONTROL_BYTES_MAX:
            raise RemoteProtocolError("control value too large")
        scan(data, limits.CONTROL_ITEMS_MAX)
    value = loads(data)
    _check_finite(value)
    return value


def loads_canonical(data: bytes) -> Any:
    """As `loads`, and `data` must be what `dumps` gives for that value. For signed data."""
    value = loads(data)
    if dumps(value) != data:
        raise RemoteProtocolError("value not in deterministic form")
    return value


def _may_cost_much(data: bytes) -> bool:
    """Whether decoding needs a bound before it begins: too many items, or a map of many keys."""
    # Only these heads announce a map that large, and a byte that is nowhere is nowhere a head.
    return (
        len(data) > limits.VALUE_ITEMS_MAX or b"\xb9" in data or b"\xba" in data or b"\xbb" in data
    )


def _loads_scanned(data: bytes) -> Any:
    """`loads` by way of `scan`, which also finds the end: no mark, and no copy of a large input.

    Also for data that holds the mark: by design of somebody, or once in 2**72.
    """
    if len(data) > limits.BODY_BYTES_MAX:
        raise RemoteProtocolError("value too large")
    scan(data, limits.VALUE_ITEMS_MAX)
    try:
        value = _cbor2_loads(
            data,
            max_depth=_CBOR2_DEPTH_MAX,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            semantic_decoders=_DECODERS,
        )
    except Exception as error:
        raise RemoteProtocolError("malformed value") from error
    _check(value, limits.VALUE_DEPTH_MAX)
    return value


def _check(value: Any, depth: int) -> None:
    """Refuse what cbor2 lets through: other simple values, keys, large integers, depth."""
    kind = type(value)
    if kind is dict:
        if not depth:
            raise RemoteProtocolError("value too deep")
        for key, item in value.items():
            if type(key) is not str and (type(key) is not int or not INT_MIN <= key <= INT_MAX):
                raise RemoteProtocolError("map key neither text nor 64-bit integer")
            if type(item) is int:
                if not INT_MIN <= item <= INT_MAX:
                    raise RemoteProtocolError("integer beyond 64 bits")
            elif type(item) not in _LEAVES:
                _check(item, depth - 1)
    elif kind is list or kind is tuple:
        if not depth:
            raise RemoteProtocolError("value too deep")
        if len(value) >= _ALIKE_MIN and _LEAVES.issuperset(map(type, value)):
            return
        for item in value:
            if type(item) is int:
                if not INT_MIN <= item <= INT_MAX:
                    raise RemoteProtocolError("integer beyond 64 bits")
            elif type(item) not in _LEAVES:
                _check(item, depth - 1)
    elif kind is int:
        if not INT_MIN <= value <= INT_MAX:
            raise RemoteProtocolError("integer beyond 64 bits")
    elif kind in _NOTICES:
        if not depth:
            raise RemoteProtocolError("value too deep")
        if kind is Down or kind is Exit:
            _check(value.reason, depth - 1)
            if kind is Down and type(value.pid) is tuple:
                _check(value.pid, depth - 1)
        elif kind is Request:
            _check(value.caller, depth - 1)
            _check(value.request, depth - 1)
    elif kind not in _LEAVES and kind not in _TAGGED:
        raise RemoteProtocolError("undefined or unassigned simple value")


def _check_finite(value: Any) -> None:
    kind = type(value)
    if kind is float:
        if not math.isfinite(value):
            raise RemoteProtocolError("NaN or infinity in a control frame")
    elif kind is dict:
        for item in value.values():
            _check_finite(item)
    elif kind is list or kind is tuple:
        for item in value:
            _check_finite(item)
    elif kind is Down or kind is Exit:
        _check_finite(value.reason)
    elif kind is Request:
        _check_finite(value.request)


# -- tags


class _Decoders(dict[int, Callable[[Any, bool], Any]]):
    """What to do with each tag; for all but ours: refuse. Also those that cbor2 knows."""

    def __missing__(self, tag: int) -> NoReturn:
        raise RemoteProtocolError("unknown tag")


_RFC_3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?"
    r"(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_WITH_SECONDS: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?)"
    r"([+-])([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{6}))?"
)


def _decode_tuple(content: Any, immutable: bool) -> tuple[Any, ...]:
    # A key (immutable) is never a tuple; a tuple here was tagged twice.
    if immutable or type(content) is not list:
        raise RemoteProtocolError("tuple tag without its array")
    return tuple(content)


def _decode_datetime(content: Any, immutable: bool) -> datetime.datetime:
    if type(content) is not str or not _RFC_3339.fullmatch(content):
        raise RemoteProtocolError("date without its form")
    return datetime.datetime.fromisoformat(content)


def _decode_datetime_seconds(content: Any, immutable: bool) -> datetime.datetime:
    match = _WITH_SECONDS.fullmatch(content) if type(content) is str else None
    if match is None:
        raise RemoteProtocolError("date without its form")
    # Not fromisoformat: CPython 3.11 takes an offset of microseconds alone for UTC.
    local, sign, hours, minutes, seconds, micros = match.groups("0")
    offset = datetime.timedelta(
        hours=int(hours), minutes=int(minutes), seconds=int(seconds), microseconds=int(micros)
    )
    zone = datetime.timezone(-offset if sign == "-" else offset)  # ValueError from 24 h on
    return datetime.datetime.fromisoformat(local).replace(tzinfo=zone)


def _decode_uuid(content: Any, immutable: bool) -> uuid.UUID:
    if type(content) is not bytes:
        raise RemoteProtocolError("uuid without its bytes")
    return uuid.UUID(bytes=content)  # ValueError unless 16


def _decode_id(cls: type[Pid] | type[Ref]) -> Callable[[Any, bool], Pid | Ref]:
    def decode(content: Any, immutable: bool) -> Pid | Ref:
        if immutable or type(content) is not list or len(content) != 3:
            raise RemoteProtocolError("pid or ref without its three fields")
        return cls(*content)  # ValueError unless they are right

    return decode


def _decode_proxy(content: Any, immutable: bool) -> ProxyPid:
    if immutable or type(content) is not list or len(content) != 2:
        raise RemoteProtocolError("proxy pid without its two fields")
    return ProxyPid(*content)  # ValueError unless they are right


def _decode_notice(content: Any, immutable: bool) -> Notice:
    if immutable or type(content) is not list:
        raise RemoteProtocolError("notice tag without its array")
    return notice_from_fields(content)  # ValueError unless they are right


_DECODERS: Final = _Decoders(
    {
        TAG_DATETIME: _decode_datetime,
        TAG_UUID: _decode_uuid,
        TAG_TUPLE: _decode_tuple,
        TAG_PID: _decode_id(Pid),
        TAG_REF: _decode_id(Ref),
        TAG_DATETIME_SECONDS: _decode_datetime_seconds,
        TAG_NOTICE: _decode_notice,
        TAG_PROXY: _decode_proxy,
    }
)
