"""Values over a chan: every shape there and back, and what guests do not get."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drupelet.errors import NotSendable, RemoteProtocolError
from drupelet.wire import chan, frames, limits
from drupelet.wire.chan import ChanStream, Closed, Value
from drupelet.wire.codec import dumps
from drupelet.wire.guests import Admitted
from drupelet.wire.ids import Pid, Ref
from drupelet.wire.noise import CipherState
from drupelet.wire.notices import Down, Exit, NodeDown, NodeUp
from drupelet.wire.records import RecordOpener, RecordSealer

KEY = bytes(range(32))
PID, REF = Pid("gandalf", 5, 42), Ref("gandalf", 5, 43)
NOTICES = (Down(REF, PID, "normal"), Exit(PID, "boom"), NodeUp("bilbo"), NodeDown("bilbo"))

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.uuids(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=12,
)


def pair() -> tuple[ChanStream, ChanStream]:
    one, two = (
        ChanStream(Admitted(RecordSealer(CipherState(KEY)), RecordOpener(CipherState(KEY))))
        for _ in range(2)
    )
    return one, two


def frame(one: ChanStream, kind: int, body: bytes = b"", ident: int = 0) -> bytes:
    return one._sealer.seal(frames.frame(kind, ident, body))


@settings(max_examples=200, deadline=None)
@given(st.lists(plain, max_size=5), st.integers(1, 200))
def test_values_there_and_back(values: list[Any], size: int) -> None:
    one, two = pair()
    data = b"".join(map(one.send_value, values)) + one.send_ping() + one.send_close()
    events = []
    for start in range(0, len(data), size):
        events += two.receive_data(data[start : start + size])
    assert events == [*map(Value, values), Closed()]
    for event, value in zip(events, values, strict=False):
        assert isinstance(event, Value)
        assert type(event.value) is type(value)


def test_other_data() -> None:
    now = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
    for value, came in (
        (now, now),
        (uuid.UUID(int=5), uuid.UUID(int=5)),
        (bytearray(b"a"), b"a"),
        ([memoryview(b"a")], [b"a"]),
    ):
        one, two = pair()
        assert two.receive_data(one.send_value(value)) == [Value(came)]


@pytest.mark.parametrize("thing", [PID, REF, *NOTICES], ids=lambda thing: type(thing).__name__)
def test_references_go_neither_way(thing: object) -> None:
    deepest: object = thing
    for _ in range(limits.VALUE_DEPTH_MAX - 2):  # a notice is two levels by itself
        deepest = [deepest]
    for value in (thing, [1, thing], ("a", {"b": thing}), {"k": [(thing,)]}, deepest):
        with pytest.raises(NotSendable, match="pid"):
            chan.dump(value)
        with pytest.raises(RemoteProtocolError, match="from a guest"):
            chan.load(dumps(value))


def test_the_place_of_a_reference_is_named() -> None:
    with pytest.raises(NotSendable, match=r"value\['who'\]\[1\]: a pid"):
        chan.dump({"what": 1, "who": ["me", PID]})
    with pytest.raises(NotSendable):
        chan.dump(print)


def test_a_pid_at_the_deepest_level() -> None:
    value: object = PID
    for _ in range(limits.VALUE_DEPTH_MAX):
        value = [value]
    with pytest.raises(NotSendable, match="pid"):
        chan.dump(value)
    with pytest.raises(RemoteProtocolError, match="from a guest"):
        chan.load(dumps(value))


def test_the_largest_value_passes_and_one_more_does_not() -> None:
    one, two = pair()
    head = 5  # of a byte string of that length
    largest = bytes(limits.CHAN_VALUE_BYTES_MAX - head)
    assert two.receive_data(one.send_value(largest)) == [Value(largest)]
    with pytest.raises(NotSendable, match="at most"):
        one.send_value(largest + b"1")
    too_much = dumps(largest + b"1")
    step = limits.FRAGMENT_BYTES_MAX
    with pytest.raises(RemoteProtocolError, match="too large"):
        for start in range(0, len(too_much), step):
            two.receive_data(frame(one, frames.DATA, b"\1" + too_much[start : start + step]))
    assert two._parts_bytes <= limits.CHAN_VALUE_BYTES_MAX + step
    with pytest.raises(RemoteProtocolError, match="before"):
        two.receive_data(b"")


@pytest.mark.parametrize(
    ("kind", "body", "ident"),
    [
        (frames.DATA, b"", 0),
        (frames.DATA, b"\1", 0),
        (frames.DATA, b"\2\0", 0),
        (frames.DATA, b"\0\xff", 0),
        (frames.DATA, b"\0" + dumps(1), 2),
        (frames.DATA, b"\0" + dumps(1) + b"1", 0),
        (frames.CLOSE, b"1", 0),
        (frames.PING, b"1", 0),
        (frames.CALL, b"\0\0\0\0\0\4a/b/c\x80", 0),
        (frames.HELLO, b"\x80", 0),
    ],
)
def test_frames_that_chan_does_not_have(kind: int, body: bytes, ident: int) -> None:
    one, two = pair()
    with pytest.raises(RemoteProtocolError):
        two.receive_data(frame(one, kind, body, ident))


def test_nothing_after_the_end_and_no_end_within_a_value() -> None:
    one, two = pair()
    two.receive_data(one.send_close())
    with pytest.raises(RemoteProtocolError):
        two.receive_data(one.send_value(1))
    one, two = pair()
    two.receive_data(frame(one, frames.DATA, b"\1a"))
    with pytest.raises(RemoteProtocolError):
        two.receive_data(one.send_close())


def test_a_value_that_cannot_be_sent_uses_nothing_up() -> None:
    one, two = pair()
    with pytest.raises(NotSendable):
        one.send_value(PID)
    assert two.receive_data(one.send_value("next")) == [Value("next")]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 15), st.binary(max_size=30)), max_size=6))
def test_junk_raises_nothing_but_remote_protocol_error(bodies: list[tuple[int, bytes]]) -> None:
    one, two = pair()
    try:
        for kind, body in bodies:
            for event in two.receive_data(frame(one, kind, body)):
                assert isinstance(event, Closed) or not chan._reference(event.value, "")
    except RemoteProtocolError:
        pass
