"""Junk from a runtime and from a node: the router of signals, its lines, and a runtime they reach.

The first byte says what the rest is: a stream of signals from a runtime, bare segments of a node,
the stream inside good segments, or signals for a runtime. Addresses in the seeds are the router's.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

import harness
import trio

with harness.instrumented():
    from drupelet.core.lines import DATA_BYTES_MAX, HEADER, SEGMENT_BYTES_MAX, Line
    from drupelet.core.processes import ProcessRouter, ToNode, ToRuntime
    from drupelet.errors import NoConnection, RemoteProtocolError
    from drupelet.process.running import open_runtime
    from drupelet.process.runtime import Runtime
    from drupelet.wire.messages.processes import SERIAL_SHIFT, split_signals

OWN, OWN_LIFE = "gandalf", 7
PEER, PEER_LIFE = "bilbo", 9


def one_input(data: bytes) -> None:
    if not data:
        return
    what, rest = data[0] % 4, data[1:]
    if what == 3:
        try:
            trio.run(_to_runtime, rest)
        except ExceptionGroup as group:  # of the runtime's nursery
            raise group.exceptions[0] from None
        return
    router = ProcessRouter(OWN, OWN_LIFE)
    serials = [router.attach(label, {label: b"digest"}, 0.0) for label in ("kvs", "ring")]
    router.node_up(PEER, PEER_LIFE, 0.0)
    _check(router)
    try:
        if what == 0:
            for piece in harness.chunks(rest[4:], rest[:4]):
                router.receive_runtime(serials[0], piece, 1.0)
                _check(router)
        elif what == 1:
            for piece in harness.chunks(rest[4:], rest[:4]):
                router.receive_node(PEER, PEER_LIFE, piece, 1.0)
                _check(router)
        else:
            line = Line(1)
            line.link_changed()
            line.receive(HEADER.pack(1, 0, 0, 0), 2, 1.0)  # the router's first: its epoch is 1
            line.send(rest[:DATA_BYTES_MAX])
            for segment in line.take_segments():
                router.receive_node(PEER, PEER_LIFE, segment, 1.0)
            _check(router)
    except RemoteProtocolError:
        _check(router)
    router.node_down(PEER, 2.0)
    for serial in serials:
        router.detach(serial, "crashed", 3.0)
        _check(router)
    statistics = router.statistics()
    assert (statistics.runtime_count, statistics.name_count, statistics.node_count) == (0, 0, 0)


def _check(router: ProcessRouter) -> None:
    """What leaves the router is well formed, and only for whom it is."""
    for effect in router.take_effects():
        if isinstance(effect, ToRuntime):
            for signal, _ in split_signals(effect.data):
                assert signal.to_node == OWN or not signal.to_number, (
                    signal
                )  # news: by any name of ours
                assert signal.to_number >> SERIAL_SHIFT in (0, effect.serial), (
                    signal
                )  # 0: SPAWN, news
        elif isinstance(effect, ToNode):
            assert effect.node == PEER
            assert all(len(segment) <= SEGMENT_BYTES_MAX for segment in effect.segments)


class _Wire:
    """A transport that answers nobody."""

    congested = False

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, signal: bytes) -> None:
        self.sent.append(signal)

    async def wait_sendable(self) -> None:
        await trio.lowlevel.checkpoint()

    async def call(
        self, node: str, mission: str, function: str, args: Sequence[object], timeout: float
    ) -> object:
        raise NoConnection("closed")

    async def cast(self, node: str, mission: str, function: str, args: Sequence[object]) -> None:
        raise NoConnection("closed")


async def _to_runtime(data: bytes) -> None:
    wire = _Wire()
    async with open_runtime(wire) as runtime:
        runtime.attached(OWN, OWN_LIFE, 1, [PEER])
        with contextlib.suppress(RemoteProtocolError):
            runtime.receive(data)
        await trio.lowlevel.checkpoint()
        _well_formed(runtime, wire)


def _well_formed(runtime: Runtime, wire: _Wire) -> None:
    for sent in wire.sent:  # its daemon checks who they are from
        assert len(list(split_signals(sent))) == 1
    assert len(runtime.processes) <= 1


if __name__ == "__main__":
    logging.disable()
    harness.fuzz("signals", one_input)
