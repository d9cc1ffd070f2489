from __future__ import annotations

import pytest

from drupelet.process.outside import Outside
from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid, Ref
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import SERIAL_SHIFT, decode_signal, encode_signal
from drupelet.wire.notices import Down, Request

OLD = Pid("nonode@nohost", 0, 5)
LEFT = Pid("gandalf", 7, (2 << SERIAL_SHIFT) + 6)  # of a share in a node that is over
RUNTIME = Pid("gandalf", 9, 3 << SERIAL_SHIFT)
NEW = Pid("gandalf", 9, (3 << SERIAL_SHIFT) + 5)
NEW_LEFT = Pid("gandalf", 9, (3 << SERIAL_SHIFT) + 6)
FAR = Pid("bilbo", 1, 1)
REF = Ref("bilbo", 1, 2)


def nested(pid: Pid) -> object:
    return [(pid, FAR, {"a": [pid], 1: "x"}), Down(REF, pid, pid), Request((pid, REF), b"x")]


@pytest.fixture
def outside() -> Outside:
    return Outside([OLD, LEFT], RUNTIME)


@pytest.mark.parametrize(("here", "there"), [(OLD, NEW), (LEFT, NEW_LEFT), (FAR, FAR)])
def test_both_ways(outside: Outside, here: Pid, there: Pid) -> None:
    data = encode_signal(wire.SEND, FAR, here, 4, dumps(nested(here)), name="server")
    signal, _ = decode_signal(outside.outward(data))
    assert (signal.sender, signal.to_name, signal.to_node) == (there, "server", "bilbo")
    assert (signal.kind, signal.ref) == (wire.SEND, 4)
    assert loads(signal.body) == nested(there)

    back, _ = decode_signal(encode_signal(wire.REPLY, there, FAR, 4, dumps(nested(there))))
    came = outside.inward(back)
    assert (came.to_node, came.to_incarnation, came.to_number) == (
        here.node,
        here.incarnation,
        here.number,
    )
    assert (came.sender, came.ref, loads(came.body)) == (FAR, 4, nested(here))


def test_what_has_no_value_passes_as_it_is(outside: Outside) -> None:
    for body in (b"", b"\xff", dumps("x")[:-1]):
        data = encode_signal(wire.LINK, FAR, FAR, 1, body)
        assert outside.outward(data) == data
        signal, _ = decode_signal(data)
        assert outside.inward(signal) == signal
