"""Frames as the daemon sends them to a worker, and what comes back in words."""

from __future__ import annotations

from drupelet.errors import RemoteError, error_from_fields
from drupelet.wire import frames
from drupelet.wire.bodies import Incoming
from drupelet.wire.codec import dumps, loads
from drupelet.wire.frames import FLAG_LEASE, FLAG_MORE, FrameReader


def call(ident: int, target: str, *args: object, flags: int = 0, digest: bytes = b"") -> bytes:
    return raw_call(ident, target, dumps(list(args)), flags=flags, digest=digest)


def raw_call(
    ident: int, target: str, encoded: bytes, *, flags: int = 0, digest: bytes = b""
) -> bytes:
    body = frames.call_body(target.encode(), encoded, flags=flags, digest=digest)
    return frames.frame(frames.CALL, ident, body)


def cast(target: str, *args: object) -> bytes:
    return frames.frame(frames.CAST, 0, frames.call_body(target.encode(), dumps(list(args))))


def leased(ident: int, target: str, *args: object) -> bytes:
    """A stranger's call: the daemon wants to know when nothing of it runs."""
    return call(ident, target, *args, flags=FLAG_LEASE)


def leased_cast(ident: int, target: str, *args: object) -> bytes:
    body = frames.call_body(target.encode(), dumps(list(args)), flags=FLAG_LEASE)
    return frames.frame(frames.CAST, ident, body)


class Answers:
    """Collects the frames that a worker sends."""

    def __init__(self) -> None:
        self.values: dict[int, object] = {}
        self.errors: dict[int, RemoteError] = {}
        self.control: list[tuple[int, bytes]] = []
        self.credits: list[bytes] = []
        self.closed: list[int] = []  # streams that were refused, calls of which nothing runs
        self._reader = FrameReader()
        self._bodies: dict[int, Incoming] = {}

    def receive(self, data: bytes) -> None:
        for kind, ident, body in self._reader.receive_data(data):
            if kind == frames.REPLY:
                if body[0] & FLAG_MORE:
                    self._bodies[ident] = Incoming(body[1:])
                else:
                    self.values[ident] = loads(body[1:])
            elif kind == frames.ERROR:
                error = error_from_fields(loads(body))
                assert isinstance(error, RemoteError)
                self.errors[ident] = error
            elif kind == frames.DATA:
                whole, credit = self._bodies[ident].receive(ident, body)
                if credit is not None:
                    self.credits.append(credit)
                if whole is not None:
                    self.values[ident] = loads(whole)
            else:
                self.control.append((kind, body))
                if kind == frames.CLOSE:
                    assert ident not in self.closed
                    self.closed.append(ident)


def cancel(ident: int) -> bytes:
    return frames.frame(frames.CANCEL, ident)


def settle(ident: int) -> bytes:
    """The daemon's question whether all that it cancelled has ended."""
    return call(ident, "/settle")
