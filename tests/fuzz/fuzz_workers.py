"""Junk from a mission worker: frames in any pieces, and the first of them as HELLO or order."""

from __future__ import annotations

import contextlib

import harness

with harness.instrumented():
    from drupelet.errors import RemoteProtocolError, error_from_fields
    from drupelet.wire import frames
    from drupelet.wire.codec import loads, loads_control
    from drupelet.wire.frames import Frame, FrameReader
    from drupelet.wire.messages import workers


def one_input(data: bytes) -> None:
    for decode in (workers.decode_hello, workers.decode_order):
        with contextlib.suppress(RemoteProtocolError):
            decode(data)
    reader = FrameReader()
    try:
        for piece in harness.chunks(data[4:], data[:4]):
            for frame in reader.receive_data(piece):
                _read(frame)
    except RemoteProtocolError:
        pass


def _read(frame: Frame) -> None:
    """As the daemon reads a worker's frames."""
    body = frame.body
    match frame.kind:
        case frames.HELLO:
            hello = workers.decode_hello(body)
            assert workers.decode_hello(workers.encode_hello(hello)) == hello
        case frames.ERROR:
            error_from_fields(loads_control(body))
        case frames.CALL | frames.CAST:
            loads(frames.split_call(body).args)
        case frames.REPLY:
            loads(body[1:])


if __name__ == "__main__":
    harness.fuzz("workers", one_input)
