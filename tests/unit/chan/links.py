"""Two ends of a chan that have proved the password, in memory or with a raw end for Mallory."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from drupelet.chan.link import Link
from drupelet.process import Down, Pid, monitor, receive
from drupelet.wire.chan import ChanStream
from drupelet.wire.guests import Admitted
from drupelet.wire.noise import CipherState
from drupelet.wire.records import RecordOpener, RecordSealer

KEY = bytes(range(32))
Stream = trio.StapledStream[Any, Any]


def admitted() -> Admitted:
    """What both ends get from the same handshake (one key for both directions will do here)."""
    return Admitted(RecordSealer(CipherState(KEY)), RecordOpener(CipherState(KEY)))


def link_on(stream: Stream) -> Link:
    def close() -> None:
        stream.send_stream.close()
        stream.receive_stream.close()

    return Link(stream, admitted(), close)


def link_pair() -> tuple[Link, Link]:
    one, two = trio.testing.memory_stream_pair()
    return link_on(one), link_on(two)


def link_and_raw(*, lockstep: bool = False) -> tuple[Link, Stream, ChanStream]:
    """A link, and the other end's stream with a machine to speak through it."""
    one: Stream
    two: Stream
    if lockstep:
        one, two = trio.testing.lockstep_stream_pair()
    else:
        one, two = trio.testing.memory_stream_pair()
    return link_on(one), two, ChanStream(admitted())


async def reason_of(pid: Pid) -> object:
    """Wait until a process has ended; why."""
    ref = monitor(pid)
    down = await receive(lambda message: isinstance(message, Down) and message.ref == ref)
    return down.reason
