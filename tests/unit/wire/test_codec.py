"""The codec: what travels, what is refused, and that the bytes are always the same."""

from __future__ import annotations

import collections
import datetime
import enum
import json
import math
import random
import re
import struct
import uuid
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import NotSendable, RemoteProtocolError
from drupelet.wire import codec, limits
from drupelet.wire.codec import dumps, loads, loads_canonical, loads_control
from drupelet.wire.ids import Pid, ProxyPid, Ref
from drupelet.wire.notices import (
    CLASSES,
    Down,
    Exit,
    NodeDown,
    NodeUp,
    Request,
    notice_fields,
    notice_from_fields,
)

BAD: list[dict[str, str]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "bad-inputs.json").read_text()
)["cbor"]

# -- values

OFFSETS = st.timedeltas(
    min_value=datetime.timedelta(hours=-23, minutes=-59),
    max_value=datetime.timedelta(hours=23, minutes=59),
)
MINUTES = st.integers(-1439, 1439).map(lambda count: datetime.timedelta(minutes=count))
NODES = st.sampled_from(["gandalf", "bilbo@192.168.1.7", "a-b.c_d@host.example", "0"])
NUMBERS = st.integers(0, 2**63 - 1)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([-(2**63), 2**63 - 1, 23, 24, 255, 256, 65535, 65536, 2**32, -24, -25, -257]),
    st.floats(allow_nan=True),
    st.text(),
    st.binary(),
    st.datetimes(timezones=(OFFSETS | MINUTES).map(datetime.timezone)),
    st.uuids(),
    st.builds(Pid, NODES, NUMBERS, NUMBERS),
    st.builds(Ref, NODES, NUMBERS, NUMBERS),
    st.builds(ProxyPid, NODES, st.binary(min_size=16, max_size=16)),
)
KEYS = st.text() | st.integers(-(2**63), 2**63 - 1)
PIDS = st.builds(Pid, NODES, NUMBERS, NUMBERS)
REFS = st.builds(Ref, NODES, NUMBERS, NUMBERS)
PROXIES = st.builds(ProxyPid, NODES, st.binary(min_size=16, max_size=16))
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=5)
        | st.builds(Down, REFS, PIDS | PROXIES | st.tuples(st.text(), NODES), inner)
        | st.builds(Exit, PIDS, inner)
        | st.builds(NodeUp, NODES)
        | st.builds(NodeDown, NODES, st.text())
        | st.builds(Request, st.tuples(PIDS, REFS), inner)
    ),
    max_leaves=20,
)


def same(left: Any, right: Any) -> bool:
    """Equal with equal types at every depth; NaN equals NaN, -0.0 differs from 0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack(">d", left) == struct.pack(">d", right) or (
            math.isnan(left) and math.isnan(right)
        )
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        types_left = {(type(key), key) for key in left}
        return types_left == {(type(key), key) for key in right} and all(
            same(left[key], right[key]) for key in left
        )
    if isinstance(left, datetime.datetime):
        return left == right and left.utcoffset() == right.utcoffset()
    if isinstance(left, CLASSES):
        return same(notice_fields(left), notice_fields(right))
    return bool(left == right)


def shuffled(value: Any, source: random.Random) -> Any:
    """The same value with every dict filled in another order."""
    if isinstance(value, (list, tuple)):
        return type(value)(shuffled(item, source) for item in value)
    if isinstance(value, dict):
        items = list(value.items())
        source.shuffle(items)
        return {key: shuffled(item, source) for key, item in items}
    if isinstance(value, CLASSES):
        return notice_from_fields([shuffled(item, source) for item in notice_fields(value)])
    return value


@settings(derandomize=True, deadline=None, max_examples=500)
@given(VALUES)
def test_what_goes_in_comes_out(value: Any) -> None:
    data = dumps(value)
    assert same(loads(data), value)
    assert same(loads_canonical(data), value)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(VALUES, st.integers(0, 1000))
def test_order_of_insertion_does_not_matter(value: Any, seed: int) -> None:
    assert dumps(shuffled(value, random.Random(seed))) == dumps(value)


@settings(derandomize=True, deadline=None, max_examples=500)
@given(st.binary(max_size=64))
def test_junk_is_a_value_or_the_peers_fault(data: bytes) -> None:
    try:
        value = loads(data)
    except RemoteProtocolError:
        return
    assert same(loads(dumps(value)), value)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(VALUES, st.data())
def test_bytes_changed_on_the_way_are_a_value_or_the_peers_fault(value: Any, draw: Any) -> None:
    data = bytearray(dumps(value))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        changed = loads(bytes(data))
    except RemoteProtocolError:
        return
    assert same(loads(dumps(changed)), changed)


@pytest.mark.parametrize(
    "value",
    [
        True,
        [1, (2, [3, (4,)]), ()],
        {"a": (1, 2), 1: [None], -1: {}},
        -0.0,
        math.inf,
        -math.inf,
        5e-324,
        datetime.datetime(1, 1, 1, tzinfo=datetime.UTC),
        datetime.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=datetime.UTC),
        datetime.datetime(
            2026, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=5, minutes=45))
        ),
        "\U0001f347 \x00 é",
        "x" * 300,
        b"x" * 70_000,
        list(range(2000)),
        [0.5] * 300,
        {str(n): n for n in range(300)},
        {n: n for n in range(300)},
    ],
    ids=lambda value: repr(value)[:30],
)
def test_examples_come_back(value: Any) -> None:
    assert same(loads(dumps(value)), value)


def test_a_local_mean_time_keeps_its_seconds() -> None:
    old = datetime.datetime(1900, 1, 1, 12, tzinfo=ZoneInfo("Europe/Amsterdam"))
    assert same(loads(dumps(old)).utcoffset(), old.utcoffset())
    assert loads(dumps(old)) == old
    for micros in (1, -1, 60_000_001):
        zone = datetime.timezone(datetime.timedelta(microseconds=micros))
        value = datetime.datetime(2000, 1, 1, tzinfo=zone)
        assert same(loads(dumps(value)), value)


def test_nan_is_one_nan() -> None:
    other = struct.unpack(">d", bytes.fromhex("fff8000000000001"))[0]
    assert dumps(other) == dumps(math.nan) == bytes.fromhex("fb7ff8000000000000")


def test_a_value_without_extensions_is_plain_canonical_cbor() -> None:
    value = [{"id": 7, "kind": "temp", "data": bytes(range(42)), "bb": [], 10: None}]
    assert cbor2.loads(dumps(value)) == value
    assert dumps({"b": 0, "aa": 0, 10: 0, -1: 0, "": 0}).hex() == "a50a002000600061620062616100"


def test_bytes_like_arrives_as_bytes() -> None:
    assert same(loads(dumps([bytearray(b"ab"), memoryview(b"abcd")[::2]])), [b"ab", b"ac"])


# -- what does not travel


class Colour(enum.IntEnum):
    RED = 1


class Word(enum.StrEnum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


class Text(str):
    pass


def a_function() -> None:
    pass


@pytest.mark.parametrize(
    "value",
    [
        Colour.RED,
        Word.RED,
        Point(1, 2),
        Text("red"),
        collections.OrderedDict(a=1),
        collections.defaultdict(list),
        a_function,
        lambda: None,
        print,
        int,
        object(),
        {1, 2},
        frozenset(),
        1j,
        range(3),
        datetime.date(2026, 1, 1),
        datetime.timedelta(1),
        datetime.datetime(2026, 1, 1),
        re.compile("a"),
        cbor2.undefined,
        cbor2.CBORTag(1, 1),
        cbor2.CBORSimpleValue(99),
        2**63,
        -(2**63) - 1,
        10**5000,
        "\ud800",
        ValueError("x"),
        iter([]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_data_travels(value: Any) -> None:
    for place, wrapped in (("", value), ("[0]", [value]), ('["k"][1]', {"k": (0, value)})):
        with pytest.raises(NotSendable) as caught:
            dumps(wrapped)
        assert caught.value.path == place


@pytest.mark.parametrize(
    "key",
    [True, None, 1.0, b"k", (1,), Text("k"), Colour.RED, Word.RED, 2**63, "\ud800", 10**5000],
    ids=lambda key: type(key).__name__,
)
def test_keys_are_text_or_integers(key: Any) -> None:
    dumps({"k": 0, 1: 0, "red": 0})  # the cache of keys must not vouch for their look-alikes
    with pytest.raises(NotSendable) as caught:
        dumps([{key: 0}])
    assert caught.value.path.startswith("[0] key ")


def test_cycles_are_named() -> None:
    around: list[Any] = [1]
    around.append({"back": around})
    with pytest.raises(NotSendable, match=r'\[1\]\["back"\]: this list contains itself'):
        dumps(around)


def test_a_value_that_doubles_at_every_level_is_refused_soon() -> None:
    value: list[Any] = ["x"]
    for _ in range(14):
        value = [value] * 10
    with pytest.raises(NotSendable, match="more than 262144 items"):
        dumps(value)
    large = b"x" * 1_000_000
    with pytest.raises(NotSendable, match="bytes altogether"):
        dumps([large] * 100_000)


def nested(depth: int, wrap: Any) -> Any:
    value: Any = Pid("n", 1, 2)
    for _ in range(depth):
        value = wrap(value)
    return value


WRAPS = [
    lambda v: [v],
    lambda v: (v,),
    lambda v: {"k": v},
    lambda v: Exit(Pid("n", 1, 2), v),
    lambda v: {7: (v,)},
]


@pytest.mark.parametrize("wrap", WRAPS[:4], ids=["list", "tuple", "dict", "notice"])
def test_depth_at_the_maximum_and_one_above(wrap: Any) -> None:
    deepest = nested(limits.VALUE_DEPTH_MAX, wrap)
    data = dumps(deepest)
    assert same(loads(data), deepest)
    with pytest.raises(NotSendable, match="containers deep"):
        dumps(wrap(deepest))
    head = dumps(wrap(0))[:-1]
    with pytest.raises(RemoteProtocolError):
        loads(head + data)


def test_the_name_in_a_notice_counts_as_a_level() -> None:
    down: Any = Down(Ref("n", 1, 2), ("name", "node"), "normal")
    deepest = nested(limits.VALUE_DEPTH_MAX - 2, lambda v: [down if isinstance(v, Pid) else v])
    assert same(loads(dumps(deepest)), deepest)
    with pytest.raises(NotSendable, match="containers deep"):
        dumps([deepest])
    with pytest.raises(RemoteProtocolError, match="too deep"):
        loads(dumps([0])[:-1] + dumps(deepest))


@pytest.mark.parametrize(
    "body",
    ["00", "80", "8118", "820261", "83026161f6", "820200", "8200f6", "8105", "8120", "8301f6f6"],
)
def test_what_is_no_notice_is_refused(body: str) -> None:
    with pytest.raises(RemoteProtocolError):
        loads(bytes.fromhex("d85c" + body))


def test_a_notice_is_no_key_and_its_reason_is_looked_at() -> None:
    with pytest.raises(RemoteProtocolError):
        loads(b"\xa1" + dumps(NodeUp("n")) + b"\x00")
    good = dumps(Exit(Pid("n", 1, 2), None))
    assert good.endswith(b"\xf6")
    for reason in (b"\xf7", dumps(2**63 - 1).replace(b"\x7f", b"\xff"), b"\xa1\xf4\x00"):
        with pytest.raises(RemoteProtocolError):
            loads(good[:-1] + reason)
    with pytest.raises(RemoteProtocolError, match="NaN"):
        loads_control(dumps(Exit(Pid("n", 1, 2), [math.nan])))


@pytest.mark.parametrize("count", [10**3, 10**6])
def test_nesting_without_end_is_refused(count: int) -> None:
    for head in (b"\x81", b"\xa1\x00", b"\xd8\x58\x81", b"\xc0", b"\xb9\xff\xff\x00", b"\xd8\x58"):
        with pytest.raises(RemoteProtocolError):
            loads(head * count)


# -- maxima of size


def array_of(count: int, item: bytes) -> bytes:
    return b"\x9a" + count.to_bytes(4, "big") + item * count


def test_items_at_the_maximum_and_one_above() -> None:
    most = limits.VALUE_ITEMS_MAX - 1  # and the array itself
    assert len(loads(array_of(most, b"\x61a"))) == most
    with pytest.raises(RemoteProtocolError, match="too many items"):
        loads(array_of(most + 1, b"\x61a"))
    assert len(dumps(["a"] * most)) > most
    with pytest.raises(NotSendable, match="items"):
        dumps(["a"] * (most + 1))
    with pytest.raises(NotSendable, match="items"):
        dumps([Pid("n", 0, 0)] * (most // 4 + 1))


def test_control_items_at_the_maximum_and_one_above() -> None:
    most = limits.CONTROL_ITEMS_MAX - 1
    assert len(loads_control(array_of(most, b"\x61a"))) == most
    with pytest.raises(RemoteProtocolError, match="too many items"):
        loads_control(array_of(most + 1, b"\x61a"))


def test_control_bytes_at_the_maximum_and_one_above() -> None:
    data = dumps(bytes(limits.CONTROL_BYTES_MAX - 3))
    assert len(data) == limits.CONTROL_BYTES_MAX
    assert len(loads_control(data)) == limits.CONTROL_BYTES_MAX - 3
    with pytest.raises(RemoteProtocolError, match="too large"):
        loads_control(dumps(bytes(limits.CONTROL_BYTES_MAX - 2)))


def test_body_bytes_at_the_maximum_and_one_above() -> None:
    data = dumps(bytes(limits.BODY_BYTES_MAX - 5))
    assert len(data) == limits.BODY_BYTES_MAX
    assert len(loads(data)) == limits.BODY_BYTES_MAX - 5
    with pytest.raises(NotSendable, match="bytes"):
        dumps(bytes(limits.BODY_BYTES_MAX - 4))
    with pytest.raises(RemoteProtocolError, match="too large"):
        loads(data + b"\x00")


def test_integer_keys_at_the_maximum_and_one_above() -> None:
    most = {n: None for n in range(limits.MAP_INT_KEYS_MAX)}
    assert loads(dumps([most])) == [most]
    words = {str(n): None for n in range(2 * limits.MAP_INT_KEYS_MAX)}
    assert loads(dumps(words | most)) == words | most
    above = most | {-1: None}
    with pytest.raises(NotSendable, match=r"^\[0\]: more than 8192 integer keys"):
        dumps([above])
    raw = b"\xb9" + len(above).to_bytes(2, "big")
    raw += b"".join(dumps(key) + b"\xf6" for key in above)
    with pytest.raises(RemoteProtocolError, match="integer keys"):
        loads(b"\x81" + raw)


# -- what is not a value of ours


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad['why']} {bad['hex'][:20]}")
def test_bad_inputs_are_refused(bad: dict[str, str]) -> None:
    data = bytes.fromhex(bad["hex"])
    if "signed data only" not in bad["why"]:
        with pytest.raises(RemoteProtocolError):
            loads(data)
        with pytest.raises(RemoteProtocolError):
            loads(b"\x81" + data)
        with pytest.raises(RemoteProtocolError):
            loads_control(data)
    with pytest.raises(RemoteProtocolError):
        loads_canonical(data)


def text(value: str) -> str:
    return (bytes((0x78, len(value))) + value.encode()).hex()


@pytest.mark.parametrize(
    "data",
    [
        "",
        "c0" + text("junk"),
        "c0" + text("2026-01-01"),
        "c0" + text("2026-01-01T00:00:00"),
        "c0" + text("2026-13-01T00:00:00Z"),
        "c0" + text("2026-01-01T00:00:60Z"),
        "c0" + text("2026-01-01T00:00:00+24:00"),
        "c0" + text("2026-01-01T00:00:00+01:00:01"),
        "c0" + text("٢٠٢٦-01-01T00:00:00Z"),
        "c0" + text("2026-01-01T00:00:00Z\n"),
        "c000",
        "c040",
        "c1" + "00",
        "d85b" + text("2026-01-01T00:00:00+01:00"),
        "d85b00",
        "d825" + "4f" + "00" * 15,
        "d825" + "51" + "00" * 17,
        "d825" + "70" + "61" * 16,
        "d82500",
        "d858a0",
        "d858a1616101",
        "d85800",
        "d858d85880",
        "d85840",
        "d859820001",
        "d85983616e00",
        "d85983616e0000" + "00",
        "d8598400616e0000",
        "d85983616e0020",
        "d8598300" + "0000",
        "d85983616e00f5",
        "d85983616ef500",
        "d85983616e001b8000000000000000",
        "d85983602000",
        "d85983632f2e2e0000",
        "d859d85883616e0000",
        "d85aa0",
        "d85a80",
        "a1d8588001",
        "a1c074" + "00" * 20 + "01",
        "a1d8255000000000000000000000000000000000" + "01",
        "a1f401",
        "a1f97e0001",
        "a1416101",
        "a2616101616102",
        "a201011801" + "02",
        "a11bffffffffffffffff01",
        "1b8000000000000000",
        "3b8000000000000000",
        "811b8000000000000000",
        "a161613b8000000000000000",
        "9011" + "11" * 15 + "00",
        "90" + "00" * 15 + "f7",
        "f7",
        "81f7",
        "a16161f7",
        "81f820",
        "e0",
        "d8",
    ],
)
def test_crafted_inputs_are_refused(data: str) -> None:
    with pytest.raises(RemoteProtocolError):
        loads(bytes.fromhex(data))


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("1801", 1),
        ("190001", 1),
        ("1b0000000000000001", 1),
        ("580161", b"a"),
        ("f93e00", 1.5),
        ("fa3fc00000", 1.5),
        ("a2616201616100", {"b": 1, "a": 0}),
        ("c0" + text("2026-01-01T00:00:00Z"), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)),
        ("d90025" + "50" + "00" * 16, uuid.UUID(int=0)),
    ],
)
def test_longer_than_need_be_is_refused_in_signed_data_only(data: str, value: Any) -> None:
    assert same(loads(bytes.fromhex(data)), value)
    with pytest.raises(RemoteProtocolError):
        loads_canonical(bytes.fromhex(data))


def test_nan_and_infinities_are_refused_in_control_frames() -> None:
    for value in (math.nan, [math.inf], {"a": ({"b": -math.inf},)}):
        loads(dumps(value))
        with pytest.raises(RemoteProtocolError):
            loads_control(dumps(value))
    assert loads_control(dumps([1.5, {"a": (2.5,)}])) == [1.5, {"a": (2.5,)}]


def test_every_prefix_and_every_suffix_is_refused() -> None:
    data = dumps([{"id": 7, "when": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)}, (1.5,)])
    for end in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            loads(data[:end])
    for byte in range(256):
        with pytest.raises(RemoteProtocolError):
            loads(data + bytes((byte,)))


def test_the_mark_within_the_data_deceives_nobody() -> None:
    mark = codec._MARK
    assert loads(dumps([mark, 1])) == [mark, 1]
    assert loads(dumps({"k": mark * 3})) == {"k": mark * 3}
    for data in (
        mark,
        b"\x00" + mark,
        b"\x81" + mark,
        b"\x82\x00" + mark,
        b"\x00" + mark + b"\x00",
    ):
        with pytest.raises(RemoteProtocolError):
            loads(data)
    for size in range(1, len(mark)):  # an item that reaches into the mark behind the data
        for data in (b"\x00" + mark[:size], b"\x00" + bytes((0x40 + size,)), mark[:size]):
            with pytest.raises(RemoteProtocolError):
                loads(data)


def test_the_cache_of_keys_stays_bounded() -> None:
    for start in range(0, 3 * codec._KEYS_CACHED_MAX, 100):
        value = {f"key {n}": n for n in range(start, start + 100)}
        assert loads(dumps(value)) == value
    dumps({"x" * 10_000: 0})
    assert len(codec._keys) <= codec._KEYS_CACHED_MAX
    assert max(map(len, codec._keys)) <= codec._KEY_CACHED_CHARS_MAX


def test_a_bomb_of_empty_maps_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def decode(*args: object, **kwargs: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(codec, "_cbor2_loads", decode)
    with pytest.raises(RemoteProtocolError, match="too many items"):
        loads(array_of(1 << 20, b"\xa0"))
    with pytest.raises(RemoteProtocolError, match="too many items"):
        loads_control(array_of(60_000, b"\xa0"))
