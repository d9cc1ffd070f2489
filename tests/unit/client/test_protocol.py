from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.client.protocol import (
    Hello,
    NodeDown,
    NodeUp,
    Session,
    call_target,
    decode_event,
    decode_hello,
    encode_arguments,
    timeout_ms,
)
from drupelet.errors import (
    NoConnection,
    NotSendable,
    RemoteError,
    RemoteProtocolError,
    Timeout,
    error_to_fields,
)
from drupelet.wire import limits
from drupelet.wire.codec import dumps
from drupelet.wire.frames import (
    CALL,
    CLOSE,
    CREDIT,
    DATA,
    ERROR,
    GOODBYE,
    HELLO,
    KIND_MAX,
    OPEN,
    REPLY,
    U32,
    FrameReader,
    frame,
    split_call,
)

HELLO_FRAME = frame(HELLO, 0, dumps({"role": "daemon", "version": 1, "name": "gandalf"}))


def greeted() -> Session[str]:
    session: Session[str] = Session()
    session.receive_data(HELLO_FRAME)
    return session


def test_targets() -> None:
    assert call_target("", "kvs", "store") == b"/kvs/store"
    assert call_target("bilbo@host", "kitchen", "Oven.heat") == b"bilbo@host/kitchen/Oven.heat"
    length = limits.TARGET_BYTES_MAX - len("/m/")
    assert len(call_target("", "m", "f" * length)) == limits.TARGET_BYTES_MAX
    for bad in (("", "m", "f" * (length + 1)), ("", "", "f"), ("", "m", ""), ("a/b", "m", "f")):
        with pytest.raises(NotSendable):
            call_target(*bad)
    with pytest.raises(NotSendable):
        call_target("", "m", "\ud800")


@pytest.mark.parametrize(
    ("seconds", "wire"), [(math.inf, 0), (5.0, 5_000), (0.0001, 1), (1e12, 0xFFFF_FFFF)]
)
def test_timeouts(seconds: float, wire: int) -> None:
    assert timeout_ms(seconds) == wire


def test_timeouts_that_cannot_be() -> None:
    for seconds in (0.0, -1.0, -math.inf):
        with pytest.raises(Timeout):
            timeout_ms(seconds)
    with pytest.raises(ValueError, match="NaN"):
        timeout_ms(math.nan)


def test_what_is_not_sendable_names_its_place() -> None:
    with pytest.raises(NotSendable) as raised:
        encode_arguments([1, {"callback": print}])
    assert raised.value.path == 'args[1]["callback"]'


def test_hello() -> None:
    fields = {"role": "daemon", "version": 1, "name": "a", "key": "k", "software": "s"}
    assert decode_hello(dumps(fields)) == Hello(name="a", key="k", software="s")
    with pytest.raises(NoConnection, match="version"):
        decode_hello(dumps(fields | {"version": 2}))
    for bad in ({}, [], {"role": "client", "version": 1}):
        with pytest.raises(RemoteProtocolError):
            decode_hello(dumps(bad))


def test_events() -> None:
    item = {"name": "bilbo", "key": "k", "reason": "closed"}
    assert decode_event(dumps(item | {"event": "up"})) == NodeUp(name="bilbo", key="k")
    down = NodeDown(name="bilbo", key="k", reason="closed")
    assert decode_event(dumps(item | {"event": "down"})) == down
    with pytest.raises(RemoteProtocolError):
        decode_event(dumps({"event": "sideways"}))


def test_the_first_frame_must_be_hello() -> None:
    session: Session[str] = Session()
    with pytest.raises(RemoteProtocolError, match="HELLO"):
        session.receive_data(frame(CREDIT, 2, U32.pack(1)))


def test_a_call_is_settled_once() -> None:
    session = greeted()
    ident, data = session.call(b"/m/f", dumps([1]), 5_000, "sink")
    [sent] = FrameReader().receive_data(data)
    assert (sent.kind, sent.ident % 2, split_call(sent.body).timeout_ms) == (CALL, 0, 5_000)
    reply = frame(REPLY, ident, b"\0" + dumps(True))
    settled, answers = session.receive_data(reply + reply)
    assert [(one.sink, one.result) for one in settled] == [("sink", dumps(True))]
    assert answers == b""


def test_a_late_answer_of_a_cancelled_call_is_dropped() -> None:
    session = greeted()
    ident, _ = session.call(b"/m/f", dumps([]), 0, "sink")
    session.cancel(ident)
    error = frame(ERROR, ident, dumps(error_to_fields(RemoteError("x", ""))))
    late = frame(REPLY, ident, b"\1" + b"part") + frame(DATA, ident, b"\0rest") + error
    assert session.receive_data(late) == ([], b"")


def test_ids_start_again_and_skip_those_that_are_open() -> None:
    session = greeted()
    first, _ = session.call(b"/m/f", b"", 0, "first")
    session._last_ident = 0xFFFF_FFFC
    idents = [session.call(b"/m/f", b"", 0, "more")[0] for _ in range(3)]
    assert (first, idents) == (2, [0xFFFF_FFFE, 4, 6])


def test_the_most_calls_and_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CALLS_PER_LINK_MAX", 2)
    monkeypatch.setattr(limits, "STREAMS_PER_LINK_MAX", 2)
    session = greeted()
    for _ in range(2):
        session.call(b"/m/f", b"", 0, "sink")
        session.open_stream(b"node/events", "sink")
    with pytest.raises(NoConnection, match="overloaded"):
        session.call(b"/m/f", b"", 0, "sink")
    with pytest.raises(NoConnection, match="overloaded"):
        session.open_stream(b"node/events", "sink")


def test_a_large_body_waits_for_credit() -> None:
    session = greeted()
    ident, data = session.call(b"/m/f", b"x" * 1_000_000, 0, "sink")
    assert len(data) < limits.FRAGMENT_BYTES_MAX + limits.STREAM_CREDIT_BYTES + 1_000
    sent = len(data)
    while sent < 1_000_000:
        _, more = session.receive_data(frame(CREDIT, ident, U32.pack(200_000)))
        assert more
        sent += len(more)
    assert session.receive_data(frame(CREDIT, ident, U32.pack(200_000))) == ([], b"")


def test_a_stream_grants_credit_as_it_goes_and_ends_on_both_sides() -> None:
    session = greeted()
    ident, data = session.open_stream(b"node/events", "sink")
    assert FrameReader().receive_data(data)[0][:2] == (OPEN, ident)
    item = frame(DATA, ident, b"\1" + b"x" * 30_000)
    settled, answers = session.receive_data(item * 5)
    assert [one.result for one in settled] == [b"x" * 30_000] * 5
    [credit] = FrameReader().receive_data(answers)
    assert (credit.kind, U32.unpack(credit.body)[0]) == (CREDIT, 150_000)
    settled, answers = session.receive_data(frame(CLOSE, ident))
    assert [(one.sink, one.result) for one in settled] == [("sink", None)]
    assert answers == frame(CLOSE, ident)
    assert session.receive_data(item) == ([], b"")


def test_the_end_settles_all_that_waits() -> None:
    session = greeted()
    session.call(b"/m/f", b"", 0, "call")
    session.open_stream(b"node/events", "stream")
    session.receive_data(frame(GOODBYE, 0, dumps("stopping")))
    ended = session.end()
    assert [one.sink for one in ended] == ["call", "stream"]
    assert all(isinstance(one.result, NoConnection) for one in ended)
    assert {getattr(one.result, "reason", "") for one in ended} == {"stopping"}
    assert session.end() == []


frames_of_any_kind = st.builds(
    frame, st.integers(1, KIND_MAX), st.sampled_from([0, 2, 3, 4, 6]), st.binary(max_size=40)
)


@given(st.lists(frames_of_any_kind | st.binary(max_size=20), max_size=8))
def test_nothing_but_a_protocol_error_comes_of_any_bytes(parts: list[bytes]) -> None:
    session = greeted()
    session.call(b"/m/f", b"x" * 40_000, 0, "call")
    session.open_stream(b"node/events", "stream")
    try:
        for part in parts:
            session.receive_data(part)
    except RemoteProtocolError:
        session.end()
