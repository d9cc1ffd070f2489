"""Several routers in one process, joined by queues: for the tests of processes and signals."""

from __future__ import annotations

from collections import deque

from drupelet.core.processes import (
    Answered,
    Connect,
    Ended,
    ProcessRouter,
    ToNode,
    ToProxy,
    ToRuntime,
)
from drupelet.wire.ids import Pid
from drupelet.wire.messages.processes import (
    GONE,
    SERIAL_SHIFT,
    Signal,
    SignalCutter,
    encode_signal,
    split_signals,
)


class OneRuntime:
    """A runtime as a test sees it: what came."""

    def __init__(self, node: str, incarnation: int, serial: int) -> None:
        self.node = node
        self.serial = serial
        self.pid = Pid(node, incarnation, serial << SERIAL_SHIFT)
        self.inbox: list[Signal] = []
        self.attached = True
        self._cutter = SignalCutter()

    def process(self, count: int) -> Pid:
        return Pid(self.node, self.pid.incarnation, self.pid.number + count)

    def receive(self, data: bytes) -> bytes:
        """What it answers at once: that it has read that a node is gone."""
        answers = []
        for signal, _ in split_signals(self._cutter.receive_data(data)):
            self.inbox.append(signal)
            if signal.kind == GONE and not signal.from_number:
                answers.append(encode_signal(GONE, signal.sender, self.pid))
        return b"".join(answers)

    def kinds(self) -> list[int]:
        return [signal.kind for signal in self.inbox]

    def clear(self) -> None:
        self.inbox.clear()


class World:
    """Routers by name, all of incarnation 7 and up."""

    def __init__(self, *names: str) -> None:
        self.routers = {name: ProcessRouter(name, 7 + place) for place, name in enumerate(names)}
        self.runtimes: dict[tuple[str, int], OneRuntime] = {}
        self.queues: dict[tuple[str, str], deque[bytes]] = {}
        self.seen_up: set[tuple[str, str]] = set()  # (who, sees whom)
        self.connects: list[tuple[str, str]] = []
        self.answers: list[Answered] = []
        self.to_proxies: list[tuple[str, Signal]] = []
        self.ended: list[tuple[str, Pid]] = []
        self.casts = 0
        self.answers_gone = True
        self.now = 0.0

    def incarnation(self, name: str) -> int:
        return self.routers[name].incarnation

    def attach(self, name: str, label: str = "m", *modules: str) -> OneRuntime:
        serial = self.routers[name].attach(label, dict.fromkeys(modules, b"d"), self.now)
        runtime = OneRuntime(name, self.incarnation(name), serial)
        self.runtimes[name, serial] = runtime
        self.perform(name)
        return runtime

    def detach(self, runtime: OneRuntime, reason: str = "crashed") -> None:
        runtime.attached = False
        self.routers[runtime.node].detach(runtime.serial, reason, self.now)
        self.perform(runtime.node)

    def send(self, runtime: OneRuntime, *signals: bytes) -> None:
        router = self.routers[runtime.node]
        router.receive_runtime(runtime.serial, b"".join(signals), self.now)
        self.perform(runtime.node)

    def tell(
        self,
        runtime: OneRuntime,
        kind: int,
        to: Pid,
        body: bytes = b"",
        *,
        ref: int = 0,
        name: str = "",
        count: int = 1,
    ) -> None:
        self.send(runtime, encode_signal(kind, to, runtime.process(count), ref, body, name=name))

    def perform(self, name: str) -> None:
        for effect in self.routers[name].take_effects():
            match effect:
                case ToRuntime(serial, data):
                    self.casts += 1
                    runtime = self.runtimes.get((name, serial))
                    if runtime is not None and runtime.attached:
                        answer = runtime.receive(data)
                        if answer and self.answers_gone:
                            self.routers[name].receive_runtime(serial, answer, self.now)
                case ToNode(node, segments):
                    self.casts += len(segments)
                    if (name, node) in self.queues:
                        self.queues[name, node].extend(segments)
                case Connect(node):
                    self.connects.append((name, node))
                case Answered():
                    self.answers.append(effect)
                case ToProxy(signal):
                    self.to_proxies.append((name, signal))
                case Ended(pid):
                    self.ended.append((name, pid))

    def see(self, who: str, whom: str) -> None:
        """`who` is told that `whom` is up, on a new link."""
        self.queues.setdefault((who, whom), deque())
        if (who, whom) in self.seen_up:
            self.routers[who].link_changed(whom)
        else:
            self.seen_up.add((who, whom))
            self.routers[who].node_up(whom, self.incarnation(whom), self.now)
        self.perform(who)

    def lose(self, who: str, whom: str) -> None:
        """`who` is told that `whom` is down; what was under way to it never comes."""
        if (who, whom) not in self.seen_up:
            return
        self.seen_up.discard((who, whom))
        self.queues[whom, who].clear()
        self.routers[who].node_down(whom, self.now)
        self.perform(who)

    def join(self, one: str, other: str) -> None:
        self.see(one, other)
        self.see(other, one)
        self.settle()

    def part(self, one: str, other: str) -> None:
        self.lose(one, other)
        self.lose(other, one)

    def deliver(self, sender: str, to: str) -> bool:
        queue = self.queues.get((sender, to))
        if not queue:
            return False
        segment = queue.popleft()
        self.routers[to].receive_node(sender, self.incarnation(sender), segment, self.now)
        self.perform(to)
        return True

    def settle(self) -> None:
        """Deliver until nothing is under way, and let the lines acknowledge."""
        while any([self.deliver(*pair) for pair in list(self.queues)]):
            pass

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for name, router in self.routers.items():
            if router.next_timer() <= self.now:
                router.handle_timer(self.now)
                self.perform(name)
        self.settle()
