"""Processes: which runtimes and nodes are there, and who is told when one comes or goes.

Decides that for one daemon; `core/signals.py`, whose other half this is, decides where each signal
goes. Runs no process: those are the runtimes' (workers, clients).

Rules
- A runtime has a serial, never given twice; ``number >> 40`` of a pid is its runtime's serial.
- A runtime's end: its names are free, then ``GONE [reason, names]`` goes to the other runtimes and
  the connected nodes, after everything that it sent. A node's end: ``GONE "noconnection"``.
- Who attaches is told UP of every runtime and node; a node that comes up, of our runtimes.
- A peer that had lost us is gone and up again, for our runtimes too.

References: Erlang/OTP, "Distribution Protocol"; `erts/emulator/beam/dist.c`.
Rejected: a task per destination; pids without the runtime in them (a table of all processes here,
and a message to the daemon for each that starts or ends).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from drupelet.core.lines import Line
from drupelet.core.signals import (
    FAILED_S,
    Answered,
    Connect,
    Ended,
    Peer,
    ProcessEffect,
    Runtime,
    Signals,
    ToNode,
    ToProxy,
    ToRuntime,
)
from drupelet.errors import NoConnection, RemoteError
from drupelet.wire.codec import dumps
from drupelet.wire.ids import Pid, in_order, make_pid
from drupelet.wire.limits import (
    PROCESS_NAME_BYTES_MAX,
    RUNTIME_MODULES_MAX,
    RUNTIMES_MAX,
)
from drupelet.wire.messages.processes import (
    ASK,
    DOWN,
    GONE,
    LINK,
    MONITOR,
    NOCONNECTION,
    PAUSE,
    RESUME,
    SEND,
    SERIAL_MAX,
    SERIAL_SHIFT,
    SPAWN,
    UP,
    Signal,
    SignalCutter,
    encode_signal,
)

__all__ = [
    "Answered",
    "Connect",
    "Ended",
    "ProcessEffect",
    "ProcessRouter",
    "ToNode",
    "ToProxy",
    "ToRuntime",
]

FAILED_MAX: Final = 1_024  # nodes that could not be reached, remembered
PEERS_MAX: Final = 1_024  # as many as membership remembers
ALIASES_MAX: Final = 1_024  # other names under which connected nodes were addressed
_TIES: Final = frozenset({LINK, MONITOR, ASK, SPAWN})  # the end of their sender is to be told
_NOCONNECTION_BODY: Final = dumps(NOCONNECTION)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatistics:
    """A snapshot of `ProcessRouter`."""

    runtime_count: int
    name_count: int
    node_count: int
    routed_count: int
    dropped_count: int
    forged_count: int
    answered_count: int


class ProcessRouter(Signals):
    """The router of one daemon's signals."""

    def __init__(self, node: str, incarnation: int) -> None:
        super().__init__(node, incarnation)
        self._last_serial = 0
        self._last_epoch = 0
        self._last_ref = 0
        self._timer = inf

    # -- runtimes

    def attach(self, label: str, modules: Mapping[str, object], now: float) -> int:
        """A runtime is there: its serial. `label` says what runs there, `modules` what it can
        spawn. Raises: `NoConnection` when there are too many, `RemoteError` ("badarg")."""
        self._now = now
        if len(self._runtimes) >= RUNTIMES_MAX or self._last_serial >= SERIAL_MAX:
            raise NoConnection("overloaded")
        checked = _check_modules(modules)
        self._last_serial += 1
        serial = self._last_serial
        pid = make_pid(self.node, self.incarnation, serial << SERIAL_SHIFT)
        new = Runtime(serial, pid, label, self._node_bytes, self.incarnation)
        for other in self._runtimes.values():
            self._tell(new, UP, other.pid, dumps(other.label))
        for peer in self._up_peers():
            self._tell(new, UP, peer.pid, b"")
            for number, body in peer.runtimes.items():
                there = make_pid(peer.name, peer.incarnation, number << SERIAL_SHIFT)
                self._tell(new, UP, there, body)
            if peer.told_pause:
                self._tell(new, PAUSE, peer.pid, b"")
        self._broadcast(UP, pid, dumps(label))
        self._runtimes[serial] = new
        self._set_modules(new, checked)
        return serial

    def update(self, serial: int, modules: Mapping[str, object]) -> None:
        """A runtime has other modules now. Raises: `RemoteError` ("badarg")."""
        self._set_modules(self._runtimes[serial], _check_modules(modules))

    def detach(self, serial: int, reason: str, now: float) -> None:
        """A runtime is gone."""
        self._now = now
        runtime = self._runtimes.pop(serial, None)
        if runtime is None:
            return
        self._dirty_runtimes.pop(serial, None)
        self._set_modules(runtime, ())
        for name in runtime.names:
            del self._names[name]
        for ref in [ref for ref, asked in self._asked.items() if asked == serial]:
            del self._asked[ref]
            self._effects.append(Answered(ref, None))
        self._forget_waiting(runtime)
        self._ended_with(self.node, serial)
        self._broadcast(GONE, runtime.pid, dumps([reason, sorted(runtime.names)]))

    def receive_runtime(self, serial: int, data: bytes, now: float) -> None:
        """A piece of a runtime's stream of signals. Raises: `RemoteProtocolError`."""
        self._now = now
        runtime = self._runtimes.get(serial)
        if runtime is None:
            self._dropped += 1
            return
        self._receive(runtime.cutter.receive_data(data), runtime)

    def congested(self, serial: int, on: bool) -> None:
        """A runtime does not read what it is sent, or does again."""
        runtime = self._runtimes.get(serial)
        if runtime is None or runtime.congested == on:
            return
        runtime.congested = on
        silenced, runtime.silenced = runtime.silenced, set()
        for sender in in_order(silenced):
            self._route(encode_signal(RESUME, sender, runtime.pid))

    def ask(self, serial: int, request: object) -> int:
        """Ask a runtime something; `Answered` comes with the ref that this returns, once."""
        self._last_ref += 1
        runtime = self._runtimes[serial]
        self._asked[self._last_ref] = serial
        body = dumps(request)
        self._put(runtime, encode_signal(ASK, runtime.pid, self.pid, self._last_ref, body))
        return self._last_ref

    def forget(self, ref: int) -> None:
        """Nobody waits for that answer any more."""
        self._asked.pop(ref, None)

    def runtimes(self) -> dict[int, str]:
        """Serials of the runtimes, with what runs there."""
        return {each.serial: each.label for each in self._runtimes.values()}

    def nodes(self) -> list[str]:
        """Names of the connected nodes."""
        return sorted(peer.name for peer in self._up_peers())

    def _set_modules(self, runtime: Runtime, modules: tuple[str, ...]) -> None:
        for module in runtime.modules:
            serials = self._modules[module]
            serials.remove(runtime.serial)
            if not serials:
                del self._modules[module]
        runtime.modules = modules
        for module in modules:
            self._modules.setdefault(module, []).append(runtime.serial)

    # -- nodes

    def node_up(self, node: str, incarnation: int, now: float) -> None:
        """A node is connected."""
        self._now = now
        key = node.encode()
        peer = self._peers.get(key)
        if peer is not None and peer.up:
            self.node_down(node, now)
        if peer is None or peer.incarnation != incarnation:
            self._forget_peers()
            peer = self._peers[key] = Peer(node, key, incarnation, Line(self._next_epoch()))
        peer.up = True
        peer.line.link_changed()
        self._failed.clear()  # an address of one may have been the way to another
        self._greet(peer)
        self._release(key, peer)

    def link_changed(self, node: str) -> None:
        """Another link of a connected node is used from now on."""
        peer = self._peers.get(node.encode())
        if peer is not None and peer.up:
            peer.line.link_changed()
            self._dirty_peers[peer.name] = peer

    def node_down(self, node: str, now: float) -> None:
        """A node is out of sight."""
        self._now = now
        peer = self._peers.get(node.encode())
        if peer is None or not peer.up:
            return
        peer.up = False
        peer.line.reset(self._next_epoch())
        self._dirty_peers.pop(peer.name, None)
        own = node.encode()
        for alias in [alias for alias, name in self._aliases.items() if name == own]:
            del self._aliases[alias]
        self._lose(peer)

    def connected(self, node: str, name: str, now: float) -> None:
        """What was asked for with `Connect` is there, and called `name`."""
        self._now = now
        key, own = node.encode(), name.encode()
        peer = self._peers.get(own)
        if peer is None or not peer.up:
            self.connect_failed(node, "closed", now)
            return
        if key != own:
            if len(self._aliases) >= ALIASES_MAX:
                self._aliases.clear()
            self._aliases[key] = own
        self._release(key, peer)

    def connect_failed(self, node: str, reason: str, now: float) -> None:
        """What was asked for with `Connect` cannot be reached."""
        self._now = now
        key = node.encode()
        if len(self._failed) >= FAILED_MAX:
            del self._failed[next(iter(self._failed))]
        self._failed[key] = (reason, now + FAILED_S)
        for signal, _ in self._take_waiting(key):
            self._unreachable(signal, reason)

    def receive_node(self, node: str, incarnation: int, segment: bytes, now: float) -> None:
        """A segment from a connected node. Raises: `RemoteProtocolError`."""
        self._now = now
        peer = self._peers.get(node.encode())
        if peer is None or not peer.up or peer.incarnation != incarnation:
            self._dropped += 1
            return
        line = peer.line
        arrived = line.receive(segment, self._last_epoch + 1, now)
        self._dirty_peers[peer.name] = peer
        if arrived.lost:
            self._next_epoch()
            self._lose(peer)
            self._greet(peer)
        if line.next_timer() < self._timer:
            self._timer = line.next_timer()
        if peer.told_pause and not line.paused:
            peer.told_pause = False
            self._tell_all(RESUME, peer.pid, b"")
        if arrived.data:
            self._receive(peer.cutter.receive_data(arrived.data), peer)

    def _greet(self, peer: Peer) -> None:
        """Its runtimes hear of our runtimes, ours of the node."""
        self._tell_all(UP, peer.pid, b"")
        for runtime in self._runtimes.values():
            peer.line.send(encode_signal(UP, peer.pid, runtime.pid, 0, dumps(runtime.label)))
        self._dirty_peers[peer.name] = peer

    def _lose(self, peer: Peer) -> None:
        """Everything between it and us is over."""
        peer.cutter = SignalCutter()
        peer.runtimes.clear()
        peer.told_pause = False
        self._tell_all(GONE, peer.pid, _NOCONNECTION_BODY)
        self._ended_with(peer.name)
        for runtime in self._runtimes.values():
            runtime.fenced.setdefault(peer.node_bytes, []).append(peer.incarnation)
            gone = {each for each in runtime.silenced if each.node == peer.name}
            runtime.silenced -= gone

    def _release(self, key: bytes, peer: Peer) -> None:
        for signal, own in self._take_waiting(key):
            self._to_peer(peer, signal, own)

    def _take_waiting(self, key: bytes) -> list[tuple[Signal, bytes]]:
        waiting = self._connecting.pop(key, [])
        self._connecting_bytes -= sum(len(own) for _, own in waiting)
        return waiting

    def _forget_waiting(self, runtime: Runtime) -> None:
        """Of a runtime that is gone: who was to be asked or watched would never hear of its end."""
        for key, waiting in self._connecting.items():
            kept = []
            for signal, own in waiting:
                if signal.sender.number >> SERIAL_SHIFT == runtime.serial and signal.kind in _TIES:
                    self._connecting_bytes -= len(own)
                    self._dropped += 1
                else:
                    kept.append((signal, own))
            self._connecting[key] = kept

    def _up_peers(self) -> list[Peer]:
        return [peer for peer in self._peers.values() if peer.up]

    def _forget_peers(self) -> None:
        if len(self._peers) >= PEERS_MAX:
            key = next((key for key, peer in self._peers.items() if not peer.up), None)
            if key is not None:
                del self._peers[key]

    def _next_epoch(self) -> int:
        self._last_epoch += 1
        return self._last_epoch

    # -- for processes of strangers (services/proxies.py)

    def deliver(self, pid: Pid, body: bytes, now: float) -> None:
        """A message for a process of the cluster, from us; dropped where its way is full."""
        self._now = now
        runtime = self._runtimes.get(pid.number >> SERIAL_SHIFT)
        peer = self._peers.get(pid.node.encode())
        if pid.node == self.node:
            is_full = runtime is not None and runtime.congested
        else:
            is_full = peer is not None and peer.line.paused
        if is_full:
            self._dropped += 1
        else:
            self._route(encode_signal(SEND, pid, self.pid, 0, body))

    def watch(self, pid: Pid, now: float) -> None:
        """`Ended` comes when the process ends; at once for one that is not there."""
        self._now = now
        if pid in self._watching:
            return
        self._last_ref += 1
        self._watching[pid] = self._last_ref
        peer = self._peers.get(pid.node.encode())
        if pid.node == self.node:
            runtime = self._runtimes.get(pid.number >> SERIAL_SHIFT)
            is_there = runtime is not None and pid.incarnation == self.incarnation
        else:
            is_there = peer is not None and peer.up and peer.incarnation == pid.incarnation
        if is_there:
            self._route(encode_signal(MONITOR, pid, self.pid, self._last_ref))
        else:
            self._ended(pid)

    def tell_down(self, watcher: Pid, ref: int, reason: str, now: float) -> None:
        """What a process of ours watched at a stranger's is over."""
        self._now = now
        self._route(encode_signal(DOWN, watcher, self.pid, ref, dumps(reason)))

    # -- time and effects

    def next_timer(self) -> float:
        """When `handle_timer` is to be called; inf: never."""
        return self._timer

    def handle_timer(self, now: float) -> None:
        """Lines acknowledge what no segment acknowledged."""
        self._now = now
        self._timer = inf
        for peer in self._peers.values():
            if peer.line.next_timer() <= now:
                peer.line.handle_timer(now)
                self._dirty_peers[peer.name] = peer
            self._timer = min(self._timer, peer.line.next_timer())

    def take_effects(self) -> list[ProcessEffect]:
        """What to do, each once; signals of one destination are joined."""
        effects, self._effects = self._effects, []
        if self._dirty_runtimes:
            for runtime in self._dirty_runtimes.values():
                effects.append(ToRuntime(runtime.serial, b"".join(runtime.out)))
                runtime.out.clear()
            self._dirty_runtimes.clear()
        if self._dirty_peers:
            for peer in self._dirty_peers.values():
                segments = peer.line.take_segments()
                if segments:
                    effects.append(ToNode(peer.name, segments))
            self._dirty_peers.clear()
        return effects

    def statistics(self) -> ProcessStatistics:
        """A snapshot of the counters."""
        return ProcessStatistics(
            runtime_count=len(self._runtimes),
            name_count=len(self._names),
            node_count=len(self._up_peers()),
            routed_count=self._routed,
            dropped_count=self._dropped,
            forged_count=self._forged,
            answered_count=self._answered,
        )


def _check_modules(modules: Mapping[str, object]) -> tuple[str, ...]:
    for name, digest in modules.items():
        if not isinstance(name, str) or not 0 < len(name.encode()) <= PROCESS_NAME_BYTES_MAX:
            raise RemoteError("badarg", f"a module's name has 1 to {PROCESS_NAME_BYTES_MAX} bytes")
        if not isinstance(digest, bytes):
            raise RemoteError("badarg", "modules are {name: digest}")
    if len(modules) > RUNTIME_MODULES_MAX:
        raise RemoteError("badarg", f"more than {RUNTIME_MODULES_MAX} modules")
    return tuple(modules)
