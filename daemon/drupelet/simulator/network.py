"""Network: hosts, ordered connections and datagrams between simulated processes, with faults.

Decides when and whether what one process sends reaches another.

Rules, as TCP and kernels behave
- A connection is ordered and loses nothing while it lives. What a cut stops waits and arrives after
  the cut heals, a retransmission later; both directions are cut separately.
- A killed process's kernel ends its connections in order (FIN). A host without power ends nothing;
  who sends to it later, when it is back, gets a reset, as from any connection that is not known.
- A dial to a cut or dark host gets no answer (`no_route` after CONNECT_S); to a host where nothing
  listens `port_closed`. A stopped process's kernel accepts for it, nobody answers.
- A datagram (a hint of discovery) may be lost, doubled and overtaken.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from math import inf
from random import Random
from typing import Final, Protocol, TypeAlias

from drupelet.simulator.scheduler import Scheduler

CONNECT_S: Final = 1.9  # as the real dialer
LATENCY_S: Final = (0.0002, 0.004)  # a home network; faults stretch it
RETRANSMIT_S: Final = (0.01, 0.6)  # after a cut healed
RESET_RETRY_S: Final = 1.0  # a sender without an answer sends again and meets the reset then

Message: TypeAlias = tuple[object, ...]


class Process(Protocol):
    """What the network needs of a simulated process."""

    @property
    def host(self) -> str: ...

    def post(self, action: Callable[[], None]) -> None:
        """Run `action` in the process: now, after a stop, or never if it is gone."""

    def accepted(self, end: End) -> None: ...

    def received(self, end: End, message: Message) -> None: ...

    def ended(self, end: End) -> None: ...


class End:
    """One side of a connection. `process` is None once it is gone."""

    __slots__ = ("closed", "host", "last_arrival", "peer", "process", "queue", "stalled", "wire_id")

    def __init__(self, wire_id: int, process: Process) -> None:
        self.wire_id = wire_id
        self.process: Process | None = process
        self.host = process.host
        self.closed = False
        self.queue: deque[Message | None] = deque()  # on its way to the peer; None: the end
        self.stalled = False
        self.last_arrival = 0.0
        self.peer: End = self


class Network:
    """All hosts of one cluster and what is between them."""

    def __init__(self, scheduler: Scheduler, random: Random, fired: Counter[str]) -> None:
        self._scheduler = scheduler
        self._random = random
        self._fired = fired
        self._cuts: Counter[tuple[str, str]] = Counter()  # (from, to) -> how many faults cut it
        self._stretch: Counter[tuple[str, str]] = Counter()  # milliseconds added
        self._machine_of: dict[str, str] = {}  # address -> host
        self._listeners: dict[tuple[str, int], Process] = {}
        self._dark: dict[str, bool] = {}
        self._ends: dict[int, tuple[End, End]] = {}
        self._wires = 0
        self.disturbed_at: dict[str, float] = {}  # host -> when its paths last were not clean

    # -- hosts

    def plug(self, host: str, addresses: list[str]) -> None:
        """A host is there, under its own name and further addresses."""
        self._dark[host] = False
        for address in (host, *addresses):
            self._machine_of[address] = host

    def listen(self, process: Process, port: int) -> None:
        """`process` listens on a port of its host."""
        self._listeners[process.host, port] = process

    def process_gone(self, process: Process, port: int, *, dark: bool) -> None:
        """A process was killed, or (`dark`) its host lost power."""
        self._listeners.pop((process.host, port), None)
        self._dark[process.host] = dark
        for pair in list(self._ends.values()):
            for end in pair:
                if end.process is process:
                    if dark:
                        end.queue.clear()
                        end.closed = True
                    else:
                        self.close(end)
                    end.process = None

    def power(self, host: str) -> None:
        """A dark host has power again."""
        self._dark[host] = False

    # -- faults

    def cut(self, source: str, target: str) -> None:
        """Nothing more from `source` reaches `target`."""
        self._cuts[source, target] += 1
        self._disturb(source, target)

    def heal(self, source: str, target: str) -> None:
        """One `cut` less."""
        self._cuts[source, target] -= 1
        self._disturb(source, target)
        if not self._is_cut(source, target):
            for pair in list(self._ends.values()):
                for end in pair:
                    if end.stalled and (end.host, end.peer.host) == (source, target):
                        self._scheduler.after(self._draw(RETRANSMIT_S), partial(self._flush, end))

    def stretch(self, source: str, target: str, milliseconds: int) -> None:
        """Delay what goes from `source` to `target`; a negative number takes it back."""
        self._stretch[source, target] += milliseconds
        self._disturb(source, target)

    def break_one(self, random: Random, *, both: bool) -> bool:
        """Reset a connection at one end or both, as a middlebox does. False: there is none."""
        alive = [pair for pair in self._ends.values() if not (pair[0].closed or pair[1].closed)]
        if not alive:
            return False
        pair = random.choice(alive)
        self._disturb(pair[0].host, pair[1].host)  # half-open, it tells nothing of a kill
        for end in pair if both else (random.choice(pair),):
            self._end(end)
        return True

    # -- connections

    def dial(self, process: Process, address: str, port: int, answer: Answer) -> None:
        """Connect; `answer` gets the near end, or the reason why not, within the process."""
        start = self._scheduler.now

        def arrive() -> None:
            host = self._machine_of.get(address)
            cut = host is None or self._dark[host] or self._is_cut(process.host, host)
            if host is None or cut or self._is_cut(host, process.host):
                self._scheduler.at(start + CONNECT_S, lambda: fail("no_route"))
                return
            listener = self._listeners.get((host, port))
            back_s = self._latency_s(host, process.host)
            if listener is None:
                self._scheduler.after(back_s, lambda: fail("port_closed"))
                return
            near = self._connect(process, listener)
            self._scheduler.after(back_s, lambda: process.post(lambda: answer(near, "")))

        def fail(reason: str) -> None:
            process.post(lambda: answer(None, reason))

        host = self._machine_of.get(address, process.host)
        self._scheduler.after(self._latency_s(process.host, host), arrive)

    def send(self, end: End, message: Message) -> None:
        """Send in order; nothing happens on a closed end."""
        if not end.closed:
            self._transmit(end, message)

    def close(self, end: End) -> None:
        """Close in order: what was sent before still arrives."""
        if not end.closed:
            self._transmit(end, None)
            end.closed = True
            self._forget(end)

    def connected(self, end: End) -> bool:
        """Whether both ends still take this for a connection."""
        return not end.closed and not end.peer.closed

    # -- datagrams

    def datagram(self, source: str, process: Process, action: Callable[[], None]) -> None:
        """A multicast packet on its way to one receiver."""
        copies = 1
        if self._random.random() < 0.1:
            self._fired["datagram_lost"] += 1
            copies = 0
        elif self._random.random() < 0.1:
            self._fired["datagram_doubled"] += 1
            copies = 2
        for _ in range(copies):
            delay_s = self._latency_s(source, process.host)
            if self._random.random() < 0.2:
                self._fired["datagram_overtaken"] += 1
                delay_s += self._random.random() * 3.0

            def arrive() -> None:
                if not self._is_cut(source, process.host) and not self._dark[process.host]:
                    process.post(action)

            self._scheduler.after(delay_s, arrive)

    # -- inside

    def _connect(self, process: Process, listener: Process) -> End:
        self._wires += 1
        near, far = End(self._wires, process), End(self._wires, listener)
        near.peer, far.peer = far, near
        self._ends[self._wires] = (near, far)
        listener.post(lambda: listener.accepted(far))
        return near

    def _transmit(self, end: End, message: Message | None) -> None:
        latency_s = self._latency_s(end.host, end.peer.host)
        end.last_arrival = max(end.last_arrival, self._scheduler.now + latency_s)
        end.queue.append(message)
        self._scheduler.at(end.last_arrival, lambda: self._arrive(end))

    def _arrive(self, end: End) -> None:
        if end.stalled or not end.queue:
            return
        if self._is_cut(end.host, end.peer.host) or self._dark[end.peer.host]:
            end.stalled = True
            self._fired["stalled"] += 1
            if self._dark[end.peer.host]:
                self._scheduler.after(RESET_RETRY_S, lambda: self._flush(end))
            return
        self._hand_over(end, end.queue.popleft())

    def _flush(self, end: End) -> None:
        if not end.stalled:
            return
        end.stalled = False
        if self._is_cut(end.host, end.peer.host) or self._dark[end.peer.host]:
            self._arrive(end)
            return
        while end.queue:
            self._hand_over(end, end.queue.popleft())

    def _hand_over(self, end: End, message: Message | None) -> None:
        far = end.peer
        process = far.process
        if far.closed or process is None:
            if message is not None and not end.closed:
                self._reset(end)
        elif message is None:
            self._end(far)
        else:
            process.post(lambda: None if far.closed else process.received(far, message))
        self._forget(end)

    def _reset(self, end: End) -> None:
        """A reset from the far host comes back; it is sent anew with each retransmission."""

        def arrive() -> None:
            if end.closed:
                return
            if self._is_cut(end.peer.host, end.host) or self._is_cut(end.host, end.peer.host):
                self._scheduler.after(RESET_RETRY_S, arrive)
                return
            self._fired["reset"] += 1
            self._end(end)

        self._scheduler.after(self._latency_s(end.peer.host, end.host), arrive)

    def _end(self, end: End) -> None:
        """The process at this end learns that the connection is gone."""
        process = end.process
        if end.closed or process is None:
            return

        def tell() -> None:
            if not end.closed:
                end.closed = True
                self._forget(end)
                process.ended(end)

        process.post(tell)

    def _forget(self, end: End) -> None:
        if end.closed and end.peer.closed and not end.queue and not end.peer.queue:
            self._ends.pop(end.wire_id, None)

    def _is_cut(self, source: str, target: str) -> bool:
        return self._cuts[source, target] > 0

    def _disturb(self, source: str, target: str) -> None:
        self.disturbed_at[source] = self.disturbed_at[target] = self._scheduler.now

    def disturbed(self, source: str, target: str, since: float) -> bool:
        """Whether the path between two hosts was not clean at any time since then."""
        if max(self.disturbed_at.get(host, -inf) for host in (source, target)) >= since:
            return True
        return any(
            self._is_cut(*path) or self._stretch[path] > 0
            for path in ((source, target), (target, source))
        )

    def _latency_s(self, source: str, target: str) -> float:
        return self._draw(LATENCY_S) + self._stretch[source, target] / 1000

    def _draw(self, bounds: tuple[float, float]) -> float:
        return bounds[0] + self._random.random() * (bounds[1] - bounds[0])


Answer: TypeAlias = Callable[[End | None, str], None]
