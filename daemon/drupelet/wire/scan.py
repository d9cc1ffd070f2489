"""Counts the items of encoded CBOR before anything is built from them.

Decides nothing about what the items mean (`codec` does): it bounds what decoding can cost. One
MiB of empty maps decodes into 74 MiB in 0.3 s, and a map of chosen integer keys, which Python
hashes to themselves, takes time in the square of their number. `scan` goes over the heads, skips
the content of strings in one step, and takes about 0.1 us a head: at most 30 ms within
VALUE_ITEMS_MAX.

Measured: 60,000 chosen integer keys, 312 KB, took 1.7 s; 8,192 take 27 ms, and at most 16 such
maps fit into VALUE_ITEMS_MAX.

Rules: recursion only into maps of more than MAP_INT_KEYS_MAX entries, at most VALUE_DEPTH_MAX
deep; otherwise one loop and a count of the items still wanted (the trick of a CBOR sequence:
nesting needs no stack when all lengths are definite, RFC 8949 section 3).

Rejected: a regular expression over heads (256 alternatives for the lengths of strings); a bound
by the number of bytes alone (bulk travels as byte strings and would be refused).
"""

from __future__ import annotations

from typing import Final

from drupelet.errors import RemoteProtocolError
from drupelet.wire import limits


def _step(first: int) -> int:
    """Bytes that a whole item takes, by its initial byte; 0 where that needs a closer look."""
    major, argument = first >> 5, first & 31
    if major in (2, 3):
        return 1 + argument if argument < 24 else 0  # a string of up to 23 bytes
    if major in (4, 5, 6) or argument > 27:
        return 0
    return 1 if argument < 24 else 1 + (1 << (argument - 24))  # an integer, float, simple value


_STEPS: Final = [_step(first) for first in range(256)]


def scan(data: bytes, items_max: int) -> None:
    """Hold the heads in `data` against `items_max` and MAP_INT_KEYS_MAX. A key is an item.

    Raises: `RemoteProtocolError`, also when the items do not end with the data. What passes may
    yet be malformed; the point is that decoding it is now bounded.
    """
    try:
        position, _left = _skip(data, 0, 1, items_max - 1, limits.VALUE_DEPTH_MAX)
    except IndexError:
        raise RemoteProtocolError("malformed value") from None
    if position != len(data):
        raise RemoteProtocolError("malformed value, or bytes after it")


def _skip(data: bytes, position: int, wanted: int, left: int, depth: int) -> tuple[int, int]:
    """(the position after `wanted` items from `position` on, how many more items there may be).

    Raises: `IndexError` at the end of the data.
    """
    while wanted:
        first = data[position]
        wanted -= 1
        step = _STEPS[first]
        if step:
            position += step
            continue
        position += 1
        major = first >> 5
        argument = first & 31
        if argument >= 24:
            if argument > 27:
                raise RemoteProtocolError("malformed value or indefinite length")
            width = 1 << (argument - 24)
            argument = int.from_bytes(data[position : position + width], "big")
            position += width
        if major <= 3:
            position += argument
            continue
        if major == 6:
            wanted += 1  # a tag and its content are one item
            continue
        if major == 5:
            argument *= 2
        left -= argument
        if left < 0:
            raise RemoteProtocolError("too many items")
        if major == 5 and argument > 2 * limits.MAP_INT_KEYS_MAX:
            position, left = _skip_large_map(data, position, argument // 2, left, depth)
        else:
            wanted += argument
    return position, left


def _skip_large_map(
    data: bytes, position: int, count: int, left: int, depth: int
) -> tuple[int, int]:
    if not depth:
        raise RemoteProtocolError("value too deep")
    int_keys = 0
    for _ in range(count):
        if data[position] < 0x40:
            int_keys += 1
            if int_keys > limits.MAP_INT_KEYS_MAX:
                raise RemoteProtocolError("too many integer keys in a map")
        position, left = _skip(data, position, 2, left, depth - 1)
    return position, left
