"""WatchedRuntime: this program's end of a real cluster, noted as the simulator notes all ends.

Decides what the diagram of a run on real nodes shows: what the learner's own processes sent and
got, here and to other nodes. What processes over there say to each other is not seen from here: a
lesson's `main` takes part in nearly everything. A message to another node is taken for delivered
when it is sent, since nobody can know more.
"""

from __future__ import annotations

import trio

from drupelet.ladder import Trace
from drupelet.ladder.seen import SHOWN, SeenRuntime
from drupelet.ladder.trace import Message
from drupelet.process.runtime import Runtime
from drupelet.process.transport import Transport
from drupelet.wire.codec import loads
from drupelet.wire.ids import Pid, make_pid
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import Signal, decode_signal

_WITHOUT_VALUE = frozenset({wire.SPAWN, wire.SPAWNED})


class OneEnd(Trace):
    """A trace that sees one end."""

    def under_way(self, key: object, message: Message) -> None:
        """It arrives; when, only the other end knows."""
        self.delivered(message, message.receiver if isinstance(message.receiver, Pid) else None)


class WatchedRuntime(SeenRuntime):
    """A runtime on a real node."""

    def __init__(self, nursery: trio.Nursery, transport: Transport | None = None) -> None:
        super().__init__(nursery, transport)
        self.trace_to = OneEnd()
        self.lost_count: dict[str, int] = {}  # how often each node went out of sight
        self.changed = trio.Event()  # a node came or went
        self._spawning: dict[int, str] = {}  # by ref: what is being started elsewhere

    def transmit(self, signal: bytes) -> None:
        decoded = decode_signal(signal)[0]
        if decoded.kind == wire.SPAWN:
            function = loads(decoded.body)
            if isinstance(function, list):
                self._spawning[decoded.ref] = str(function[0])
        super().transmit(signal)

    def receive_signal(self, signal: Signal) -> None:
        kind = SHOWN.get(signal.kind)
        told = signal.kind == wire.DOWN and signal.sender.node == self.node  # `down` notes it
        if kind is not None and not told:
            self._note_arrival(kind, signal)
        Runtime.receive_signal(self, signal)

    def _note_arrival(self, kind: str, signal: Signal) -> None:
        receiver = make_pid(signal.to_node, signal.to_incarnation, signal.to_number)
        process = self._receiver(signal)
        if signal.kind == wire.SPAWNED:
            name = self._spawning.pop(signal.ref, None)
            if name is not None:
                self.trace_to.event("start", signal.sender, name)
        what = loads(signal.body) if signal.body and signal.kind not in _WITHOUT_VALUE else None
        note = self.trace_to.message(kind, signal.sender, receiver, what)
        self.trace_to.delivered(note, None if process is None else process.pid)

    def node_up(self, pid: Pid) -> None:
        super().node_up(pid)
        if not pid.number:
            self.trace_to.event("up", self.node, pid.node)
            self._news()

    def node_gone(self, pid: Pid, reason: object) -> None:
        if not pid.number and self.nodes.get(pid.node) == pid.incarnation:
            self.trace_to.event("down", self.node, pid.node)
            self.lost_count[pid.node] = self.lost_count.get(pid.node, 0) + 1
            self._news()
        super().node_gone(pid, reason)

    def _news(self) -> None:
        self.changed.set()
        self.changed = trio.Event()
