"""Machines under test that tell the ledger what processes cannot: lives, flow, what went again.

Each run has classes of its own, with its `ledger`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import trio

from drupelet.core.processes import ProcessRouter
from drupelet.ladder.seen import SeenRuntime
from drupelet.process.table import BLOCK, Process
from drupelet.wire.codec import loads
from drupelet.wire.ids import Pid, make_pid
from drupelet.wire.messages.processes import PAUSE, RESUME, SEND, Signal, decode_signal
from tests.sim.process_ledger import Ledger, Place, runtime_of


class WatchedRouter(ProcessRouter):
    """A router that counts how often a new link takes over what the old one had not done."""

    ledger: ClassVar[Ledger]

    def link_changed(self, node: str) -> None:
        peer = self._peers.get(node.encode())
        if peer is not None and peer.line.waiting_bytes:
            self.ledger.effects["again"] += 1
        super().link_changed(node)


class Watched(SeenRuntime):
    """A runtime that tells of its processes."""

    ledger: ClassVar[Ledger]

    @property
    def _place(self) -> Place:
        return (self.node, self.incarnation, self.serial)

    # -- lives

    def new_process(self, *args: Any, **fields: Any) -> Process:
        process = super().new_process(*args, **fields)
        self.ledger.born(process.pid, trio.current_time())
        return process

    def start(self, function: Any, args: Any, **fields: Any) -> Process:
        if getattr(function, "__name__", "") == "child":
            self.ledger.spawns[args[0]].runs += 1
        return super().start(function, args, **fields)

    def exit_process(self, process: Process, reason: object) -> None:
        if process.pid.number in self.processes:
            self.ledger.told_to_end(process.pid, reason, trio.current_time())
        super().exit_process(process, reason)

    def end(self, process: Process, reason: object) -> None:
        if process.pid.number in self.processes and process.pid in self.ledger.lives:
            self.ledger.ended(process.pid, reason, trio.current_time())
        super().end(process, reason)

    def gone(self, pid: Pid, reason: object, names: list[str]) -> None:
        self.ledger.broke(self._place, pid, trio.current_time())
        super().gone(pid, reason, names)

    # -- flow

    def transmit(self, signal: bytes) -> None:
        if self._is_seen:
            decoded = decode_signal(signal)[0]
            to = make_pid(decoded.to_node, decoded.to_incarnation, decoded.to_number)
            if decoded.kind == PAUSE:
                self.ledger.told_pause.add((decoded.sender, runtime_of(to)))
            elif decoded.kind == RESUME:
                self.ledger.told_pause.discard((decoded.sender, runtime_of(to)))
            elif decoded.kind == SEND and not decoded.to_name:
                number = loads(decoded.body)[2]
                connected = to.node == self.node or self.nodes.get(to.node) == to.incarnation
                now = trio.current_time()
                self.ledger.left(decoded.sender, to, number, now, connected)
        super().transmit(signal)

    def receive_signal(self, signal: Signal) -> None:
        if signal.kind == PAUSE:
            self.ledger.holds_back(self._place, signal.sender)
        elif signal.kind == RESUME:
            self.ledger.held.discard((self._place, signal.sender))
        super().receive_signal(signal)

    def put(self, process: Process, message: object, sender: object = None) -> None:
        if isinstance(message, tuple) and message[:1] == ("m",) and process.policy == BLOCK:
            length = len(process.messages or ())
            if length >= process.limit and process.waiting is None:
                pid = sender.pid if isinstance(sender, Process) else message[1]
                is_local = runtime_of(pid) == runtime_of(process.pid)
                self.ledger.overfills(process.pid, pid, is_local, length)
            else:
                self.ledger.checks["pressure"] += process.limit < 100
        super().put(process, message, sender)
