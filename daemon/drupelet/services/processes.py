"""Processes: the driver of the router of signals; the `process` mission.

Decides nothing that `core/processes.py` can decide: takes signals from workers, clients and peers,
sends what the router gives back, connects nodes that signals wait for, and tells when a runtime
reads too slowly.

| target | how | for |
|---|---|---|
| `process/attach` | call ``(modules)``: ``{node, incarnation, serial, nodes}`` | worker, client |
| `process/signals` | cast, raw: a piece of the stream of signals, both ways | worker, client |
| `process/segment` | cast, raw: one segment of a line | member |
| `process/list` | call: every process of this node | operator, member |
| `process/disconnect` | call ``(node)``: close the link to it | worker, client |

Rules
- A runtime is attached as long as its channel is open; attaching again changes its modules only.
- One CAST to each destination for each CAST that came (more only beyond 32 KiB): what was sent
  together travels together.
- The reader never waits. A runtime that lets OUT_BYTES_MAX wait for it has its senders paused
  (core/signals.py); one that lets HELD_BYTES_MAX wait is cut off, as every channel is.

Owns: one task for each node that is being connected, and for each runtime that does not read.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol, assert_never

import trio

from drupelet.core.processes import (
    Answered,
    Connect,
    Ended,
    ProcessRouter,
    ProcessStatistics,
    ToNode,
    ToProxy,
    ToRuntime,
)
from drupelet.errors import NoConnection, NotPermitted, RemoteError, RemoteProtocolError
from drupelet.services.deadlines import Deadlines
from drupelet.services.endpoint import Endpoint
from drupelet.services.keepalive import Link
from drupelet.services.links import Links, NodeEvent
from drupelet.services.missions import Missions
from drupelet.wire import frames
from drupelet.wire.codec import loads
from drupelet.wire.frames import CAST, frame
from drupelet.wire.ids import Pid
from drupelet.wire.limits import FRAGMENT_BYTES_MAX, OUT_BYTES_MAX
from drupelet.wire.messages.processes import Signal

_log = logging.getLogger("drupelet.processes")

MEMBERS: Final = frozenset({"operator", "member"})
RUNTIMES: Final = frozenset({"operator", "worker"})
LIST_S: Final = 2.0  # what a runtime does not answer in that time is shown as silent
PIECE_BYTES_MAX: Final = FRAGMENT_BYTES_MAX - 64  # of a stream of signals in one CAST
_SIGNALS_PREFIX: Final = frames.call_body(b"process/signals", b"")
_SEGMENT_PREFIX: Final = frames.call_body(b"process/segment", b"")


class ProxyDoor(Protocol):
    """Who knows the processes of strangers (services/proxies.py)."""

    def from_process(self, signal: Signal) -> None:
        """One of ours sends to one of theirs, or watches it."""
        ...

    def process_ended(self, pid: Pid) -> None:
        """One that was watched."""
        ...


class Processes:
    """The signals of one node."""

    def __init__(
        self, name: str, incarnation: int, links: Links, deadlines: Deadlines, nursery: trio.Nursery
    ) -> None:
        self.router = ProcessRouter(name, incarnation)
        self._links = links
        self._deadlines = deadlines
        self._nursery = nursery
        self._serials: dict[Endpoint, int] = {}
        self._endpoints: dict[int, Endpoint] = {}
        self._up: dict[str, int] = {}  # connected nodes, with their incarnation
        self._watched: set[int] = set()  # runtimes that do not read
        self._answers: dict[int, tuple[trio.Event, list[bytes | None]]] = {}
        self.proxies: ProxyDoor | None = None

    def register(self, missions: Missions) -> None:
        """Put the mission into the whitelist, and hear of nodes."""
        missions.add_system("process", {"list": self.list}, MEMBERS)
        missions.add_system("process", {"attach": self.attach}, RUNTIMES, with_endpoint=True)
        missions.add_system("process", {"disconnect": self.disconnect}, RUNTIMES)
        missions.add_raw("process", "signals", self._on_signals, RUNTIMES)
        missions.add_raw("process", "segment", self._on_segment, frozenset({"member"}))
        self._links.on_use = self._on_use
        self._links.listen(self._on_node)
        self._deadlines.add(self)

    def statistics(self) -> ProcessStatistics:
        """The router's counters."""
        return self.router.statistics()

    # -- runtimes

    def attach(self, endpoint: Endpoint, modules: object) -> dict[str, object]:
        """The caller runs processes; `modules` are those whose functions it can start, with their
        digests. Again: other modules."""
        if not isinstance(modules, dict):
            raise RemoteError("badarg", "attach({module: digest})")
        serial = self._serials.get(endpoint)
        if serial is not None:
            self.router.update(serial, modules)
        elif endpoint.closed:
            raise NotPermitted("closed")
        else:
            label = endpoint.name or "client"
            serial = self.router.attach(label, modules, trio.current_time())
            self._serials[endpoint] = serial
            self._endpoints[serial] = endpoint
            endpoint.on_closed = lambda: self._detach(endpoint)
            self._perform()
        return {
            "node": self.router.node,
            "incarnation": self.router.incarnation,
            "serial": serial,
            "nodes": self.router.nodes(),
        }

    def _detach(self, endpoint: Endpoint) -> None:
        serial = self._serials.pop(endpoint, None)
        if serial is None:
            return
        del self._endpoints[serial]
        reason = "crashed" if endpoint.ring == "worker" else "noconnection"
        self.router.detach(serial, reason, trio.current_time())
        self._perform()

    def _on_signals(self, endpoint: Endpoint, data: bytes) -> None:
        serial = self._serials.get(endpoint)
        if serial is None:
            raise RemoteProtocolError("signals of a runtime that is not attached")
        try:
            self.router.receive_runtime(serial, data, trio.current_time())
        finally:
            self._perform()

    # -- nodes

    def _on_segment(self, endpoint: Endpoint, data: bytes) -> None:
        now = trio.current_time()
        try:
            self.router.receive_node(endpoint.name, endpoint.incarnation, data, now)
        finally:
            self._perform()
            self._arm()

    def _on_use(self, link: Link) -> None:
        """A node came up, or another link of it is used."""
        name, incarnation = link.peer.name, link.peer.incarnation
        if self._up.get(name) == incarnation:
            self.router.link_changed(name)
        else:
            self._up[name] = incarnation
            self.router.node_up(name, incarnation, trio.current_time())
        self._perform()

    def _on_node(self, event: NodeEvent) -> None:
        if event.kind == "down" and self._up.pop(event.name, None) is not None:
            self.router.node_down(event.name, trio.current_time())
            self._perform()

    def disconnect(self, node: object) -> bool:
        """Close the link to a node, False when there is none; it is dialled again when wanted."""
        endpoint = self._links.endpoint(node) if isinstance(node, str) else None
        if endpoint is None:
            return False
        endpoint.close(NoConnection("closed", maybe_ran=True))
        return True

    async def _connect(self, node: str) -> None:
        """Signals wait for it."""
        try:
            endpoint = await self._links.connect(node)
        except NoConnection as error:
            self.router.connect_failed(node, error.reason, trio.current_time())
        else:
            self.router.connected(node, endpoint.name, trio.current_time())
        self._perform()

    # -- the router's timer and effects

    def next_timer(self) -> float:
        """When a line wants to acknowledge."""
        return self.router.next_timer()

    def handle_timer(self, now: float) -> None:
        """Lines acknowledge."""
        self.router.handle_timer(now)
        self._perform()

    def _arm(self) -> None:
        soonest = self.router.next_timer()
        if soonest < self._deadlines.wakes_at:
            self._deadlines.arm(soonest)

    # -- for processes of strangers (services/proxies.py)

    def deliver(self, pid: Pid, body: bytes) -> None:
        """A stranger's message for a process."""
        self.router.deliver(pid, body, trio.current_time())
        self._perform()

    def watch(self, pid: Pid) -> None:
        """Say when that process ends: `ProxyDoor.process_ended`."""
        self.router.watch(pid, trio.current_time())
        self._perform()

    def tell_down(self, watcher: Pid, ref: int, reason: str) -> None:
        """A stranger's process, which a process watches, is over."""
        self.router.tell_down(watcher, ref, reason, trio.current_time())
        self._perform()

    def _perform(self) -> None:
        others: list[ToProxy | Ended] = []
        for effect in self.router.take_effects():
            match effect:
                case ToRuntime(serial, data):
                    self._to_runtime(serial, data)
                case ToNode(node, segments):
                    endpoint = self._links.endpoint(node)
                    if endpoint is not None:  # else they are sent again on its next link
                        for segment in segments:
                            endpoint.channel.queue(frame(CAST, 0, _SEGMENT_PREFIX + segment))
                case Connect(node):
                    self._nursery.start_soon(self._connect, node)
                case Answered(ref, body):
                    waiting = self._answers.pop(ref, None)
                    if waiting is not None:
                        waiting[1].append(body)
                        waiting[0].set()
                case ToProxy() | Ended():
                    others.append(effect)
                case _:
                    assert_never(effect)
        if others and self.proxies is not None:
            for other in others:  # they make effects of their own
                if isinstance(other, Ended):
                    self.proxies.process_ended(other.pid)
                else:
                    self.proxies.from_process(other.signal)

    def _to_runtime(self, serial: int, data: bytes) -> None:
        endpoint = self._endpoints.get(serial)
        if endpoint is None:
            return
        channel = endpoint.channel
        if len(data) <= PIECE_BYTES_MAX:
            channel.queue(frame(CAST, 0, _SIGNALS_PREFIX + data))
        else:
            for start in range(0, len(data), PIECE_BYTES_MAX):
                piece = data[start : start + PIECE_BYTES_MAX]
                channel.queue(frame(CAST, 0, _SIGNALS_PREFIX + piece))
        if channel.queued_bytes > OUT_BYTES_MAX and serial not in self._watched:
            self._watched.add(serial)
            self.router.congested(serial, True)
            self._nursery.start_soon(self._watch, serial, endpoint)

    async def _watch(self, serial: int, endpoint: Endpoint) -> None:
        """Until a runtime reads again: its senders are paused."""
        _log.info("runtime_slow name=%s, pausing who sends to it", endpoint.name or "client")
        while not endpoint.closed and endpoint.channel.queued_bytes > OUT_BYTES_MAX // 2:
            await endpoint.channel.wait_sendable()
        self._watched.discard(serial)
        self.router.congested(serial, False)
        self._perform()

    # -- listing

    async def list(self) -> list[dict[str, object]]:
        """Every process of this node. A runtime that does not answer in time is one line."""
        asked: list[tuple[str, int, trio.Event, list[bytes | None]]] = []
        for serial, label in self.router.runtimes().items():
            ref = self.router.ask(serial, ["processes"])
            event, answer = trio.Event(), list[bytes | None]()
            self._answers[ref] = (event, answer)
            asked.append((label, ref, event, answer))
        self._perform()
        with trio.move_on_after(LIST_S):
            for _, _, event, _ in asked:
                await event.wait()
        shown: list[dict[str, object]] = []
        for label, ref, _, answer in asked:
            self._answers.pop(ref, None)
            self.router.forget(ref)
            if not answer:
                shown.append({"runtime": label, "state": "silent"})
            elif answer[0] is not None:
                shown.extend(_processes(label, answer[0]))
        return shown


def _processes(label: str, body: bytes) -> list[dict[str, object]]:
    """What a runtime says of its processes: a stranger's word."""
    try:
        value = loads(body)
    except RemoteProtocolError:
        value = None
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        return [{"runtime": label, "state": "malformed"}]
    return [{**each, "runtime": label} for each in value]


__all__ = ["LIST_S", "PIECE_BYTES_MAX", "Processes"]
