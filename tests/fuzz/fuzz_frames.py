"""Junk as a record, as a stream of frames in any pieces, and as the bodies within."""

from __future__ import annotations

import contextlib

import harness

with harness.instrumented():
    from drupelet.errors import RemoteProtocolError, error_from_fields
    from drupelet.wire import frames
    from drupelet.wire.bodies import Incoming
    from drupelet.wire.codec import loads_control
    from drupelet.wire.frames import Frame, FrameReader
    from drupelet.wire.messages.discovery import decode
    from drupelet.wire.messages.links import decode_welcome
    from drupelet.wire.messages.membership import decode_gossip


def one_input(data: bytes) -> None:
    sizes, data = data[:8], data[8:]
    streamed: list[Frame] = []
    reader = FrameReader()
    try:
        for piece in harness.chunks(data, sizes):
            streamed += reader.receive_data(piece)
    except RemoteProtocolError:
        pass
    try:
        whole = frames.split_record(data)
    except RemoteProtocolError:
        pass
    else:
        assert whole == streamed
        assert b"".join(frames.frame(*part) for part in whole) == data
    incoming = Incoming(b"first", bytes_max=512)
    for part in streamed:
        for read in (_call, _error, _gossip, _welcome, decode):
            with contextlib.suppress(RemoteProtocolError):
                read(part)
        if part.kind == frames.DATA:
            with contextlib.suppress(RemoteProtocolError):
                incoming.receive(part.ident, part.body)
            assert incoming.size <= 5 + len(data)


def _call(part: Frame) -> None:
    call = frames.split_call(part.body)
    again = frames.call_body(
        call.target, call.args, timeout_ms=call.timeout_ms, flags=call.flags, digest=call.digest
    )
    assert again == part.body


def _error(part: Frame) -> None:
    error_from_fields(loads_control(part.body))


def _gossip(part: Frame) -> None:
    decode_gossip(part.body)


def _welcome(part: Frame) -> None:
    decode_welcome(part.body)


if __name__ == "__main__":
    harness.fuzz("frames", one_input)
