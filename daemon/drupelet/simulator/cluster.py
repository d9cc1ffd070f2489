"""Cluster: one run of a whole cluster under faults drawn from one seed.

Decides which fault comes when, how nodes hear of each other and what they call; `ledger` decides
whether that went well. A run: nodes start at different times; for `steps` faults (one a second on
average) things break while every node calls others; then all is mended, and within CONVERGE_S the
cluster must be whole.

Faults: see `FAULTS`; datagrams of discovery are lost, doubled and overtaken besides, and forged
hints are strewn in. Every start begins with a clock near 0, and no wall clock exists: 1970 is the
normal case here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final

from drupelet.core.addresses import key_prefix_of
from drupelet.core.candidates import Candidate
from drupelet.core.connection import GOODBYE_S, State
from drupelet.core.membership import LINKS_MAX, MEMBERS_MAX
from drupelet.simulator.ledger import CLOSE_S, SILENCE_S, InvariantError, Ledger, require
from drupelet.simulator.network import LATENCY_S, Network
from drupelet.simulator.process import CALLS_MAX, Identity, Machines, Process
from drupelet.simulator.scheduler import Scheduler
from drupelet.wire import limits

NODES_DEFAULT: Final = 5
STEPS_DEFAULT: Final = 40
CONVERGE_S: Final = 40.0  # 30 s of back-off, 5 s until a silent link is given up, dials and rivals
CHECK_GAP_S: Final = 0.25
CALL_GAP_S: Final = 0.08  # on average, over the whole cluster
ANNOUNCE_S: Final = 7.0
FLUSHED_S: Final = 2.0  # after this a mended path carries nothing old any more
RESUMED_S: Final = 6.5  # a resumed process may take so long to see what it missed
PORT: Final = 4370
FAULTS: Final = (
    "kill",
    "power",
    "stop",
    "cut_one_way",
    "partition",
    "stretch",
    "break_both",
    "break_one",
    "forged_hints",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one good run was like."""

    seed: int
    trace_hash: str
    event_count: int
    virtual_s: float
    converged_s: float  # after the last fault was mended
    ups: int
    downs: int
    told: int
    calls: int
    outcomes: dict[str, int]
    fired: dict[str, int]


class Simulation:
    """One run. `machines` are the real ones unless a test wants to see broken ones found out."""

    def __init__(
        self,
        seed: int,
        nodes: int = NODES_DEFAULT,
        steps: int = STEPS_DEFAULT,
        machines: Machines | None = None,
    ) -> None:
        self.seed = seed
        self.scheduler = Scheduler()
        self.ledger = Ledger()
        self.fired: Counter[str] = Counter()
        self._random = Random(seed)
        self._network = Network(self.scheduler, Random(seed + 1), self.fired)
        self._machines = machines if machines is not None else Machines()
        self._steps = steps
        self._identities = [
            Identity(name=f"node{number}", key=self._random.randbytes(32))
            for number in range(nodes)
        ]
        self._processes: list[Process | None] = [None] * nodes
        self._multicast = self._random.random() < 0.5  # else one static peer and gossip only
        self._named = self._random.random() < 0.5  # whether the static peer's name is given
        self._token = 0
        self._mended_at = 0.0
        self._calling = True

    def run(self) -> Result:
        """The whole run. Raises: `InvariantError`, with the seed and the end of the trace."""
        try:
            return self._run()
        except InvariantError as error:
            tail = "\n  ".join(self.scheduler.tail)
            raise InvariantError(
                f"seed {self.seed} at {self.scheduler.now:.3f} s: {error}\n  {tail}"
            ) from error

    def _run(self) -> Result:
        for number in range(len(self._identities)):
            host = _host(number)
            self._network.plug(host, [_alias(number)])
            self.scheduler.after(self._random.random() * 2.0, partial(self._start, number))
        self.scheduler.after(CHECK_GAP_S, self._check)
        self.scheduler.after(2.5, self._call_somebody)
        self._plan_faults(3.0)
        self.scheduler.run_until(self._mended_at)
        mended_at = self.scheduler.now
        converged_at = mended_at
        while self.scheduler.now < mended_at + CONVERGE_S:
            if self._mesh_fault():
                converged_at = self.scheduler.now + CHECK_GAP_S
            self.scheduler.run_until(self.scheduler.now + CHECK_GAP_S)
        require(not self._mesh_fault(), self._mesh_fault())
        self._calling = False
        self.scheduler.run_until(self.scheduler.now + 20.0)
        self._final_calls()
        self._check_told()
        self.ledger.close()
        return self._result(converged_at - mended_at)

    def _result(self, converged_s: float) -> Result:
        records = self.ledger.calls.values()
        outcomes = Counter(kind for record in records for kind in record.outcomes)
        return Result(
            seed=self.seed,
            trace_hash=self.scheduler.trace_hash(),
            event_count=self.scheduler.event_count,
            virtual_s=self.scheduler.now,
            converged_s=converged_s,
            ups=self.ledger.ups,
            downs=self.ledger.downs,
            told=self.ledger.told,
            calls=len(records),
            outcomes=dict(sorted(outcomes.items())),
            fired=dict(sorted(self.fired.items())),
        )

    # -- nodes

    def _start(self, number: int) -> None:
        if self._processes[number] is not None:
            return
        moved = self._multicast and self._random.random() < 0.3
        process = Process(
            self._identities[number],
            _host(number),
            PORT + self._random.randrange(1, 30) if moved else PORT,
            self._random.getrandbits(62) + 1,
            scheduler=self.scheduler,
            network=self._network,
            ledger=self.ledger,
            random=Random(self._random.getrandbits(64)),
            machines=self._machines,
        )
        self._processes[number] = process
        self.fired["start"] += 1
        self.scheduler.trace(f"{process.label} start port={process.port}")
        self._network.power(process.host)
        self._network.listen(process, process.port)
        if self._multicast:
            self._announce(number, process)
        elif number != 0:
            name = self._identities[0].name if self._named else ""
            peer = Candidate(source="static", host=_host(0), port=PORT, name=name, key_prefix="")
            process.post(partial(process.hint, peer))

    def _gone(self, number: int, *, dark: bool, back_s: float) -> None:
        process = self._processes[number]
        if process is None:
            return
        self._processes[number] = None
        self.scheduler.trace(f"{process.label} {'dark' if dark else 'killed'}")
        observers = [
            other
            for other in self._alive()
            if any(link.peer.incarnation == process.incarnation for link in other.links.values())
        ]
        process.end()
        self._network.process_gone(process, process.port, dark=dark)
        if not dark:
            killed_at = self.scheduler.now
            self.scheduler.after(
                CLOSE_S + LATENCY_S[1], lambda: self._check_close(observers, process, killed_at)
            )
        self._later(back_s, lambda: self._start(number))

    def _announce(self, number: int, process: Process) -> None:
        if self._processes[number] is not process:
            return
        for host in (_host(number), _alias(number)):
            candidate = Candidate(
                source="mdns",
                host=host,
                port=process.port,
                name=process.identity.name,
                key_prefix=key_prefix_of(process.identity.key),
            )
            for other in self._alive():
                self._network.datagram(process.host, other, partial(other.hint, candidate))
        gap_s = ANNOUNCE_S * (0.5 + self._random.random())
        self.scheduler.after(gap_s, lambda: self._announce(number, process))

    def _alive(self) -> list[Process]:
        return [process for process in self._processes if process is not None]

    # -- calls

    def _call_somebody(self) -> None:
        if not self._calling:
            return
        awake = [process for process in self._alive() if not process.stopped]
        if awake:
            caller = self._random.choice(awake)
            callee = self._random.choice(self._identities)
            work_s = self._random.choice((0.0, 0.0, 0.0, 0.3, 7.0))
            if callee is not caller.identity:
                self._call(caller, callee.name, work_s)
        self.scheduler.after(self._random.expovariate(1 / CALL_GAP_S), self._call_somebody)

    def _call(self, caller: Process, callee: str, work_s: float) -> int:
        self._token += 1
        caller.call(self._token, callee, work_s)
        return self._token

    def _final_calls(self) -> None:
        tokens = [
            self._call(caller, callee.name, 0.0)
            for caller in self._alive()
            for callee in self._identities
            if callee is not caller.identity
        ]
        self.scheduler.run_until(self.scheduler.now + 1.0)
        for token in tokens:
            record = self.ledger.calls[token]
            require(
                record.outcomes == ["value"],
                f"healed, {record.caller} called {record.callee}: {record.outcomes}",
            )

    # -- faults

    def _later(self, span_s: float, mend: Callable[[], None]) -> None:
        self._mended_at = max(self._mended_at, self.scheduler.now + span_s)
        self.scheduler.after(span_s, mend)

    def _plan_faults(self, start: float) -> None:
        instant = start
        for _ in range(self._steps):
            instant += self._random.expovariate(1.0)
            self.scheduler.at(instant, self._fault)
        # Every fault mends itself at most 15 s after it came, and flushes in FLUSHED_S.
        self._mended_at = instant + 15.0 + FLUSHED_S
        self.scheduler.at(start, self._check_quiet)

    def _fault(self) -> None:
        random = self._random
        kind = random.choice(FAULTS)
        self.scheduler.trace(f"fault {kind}")
        number = random.randrange(len(self._identities))
        match kind:
            case "kill":
                self._gone(number, dark=False, back_s=0.2 + random.random() * 8.0)
            case "power":
                self._gone(number, dark=True, back_s=1.0 + random.random() * 12.0)
            case "stop":
                self._stop(number, 0.1 + random.random() ** 2 * 14.0)
            case "cut_one_way":
                source, target = random.sample(range(len(self._identities)), 2)
                self._cut([(source, target)], 0.3 + random.random() * 12.0)
            case "partition":
                self._partition(0.3 + random.random() * 12.0)
            case "stretch":
                source, target = random.sample(range(len(self._identities)), 2)
                self._stretch(source, target, 20 + random.randrange(900), random.random() * 8.0)
            case "break_both" | "break_one":
                if not self._network.break_one(random, both=kind == "break_both"):
                    return
            case _:
                self._forge()
        self.fired[kind] += 1

    def _stop(self, number: int, span_s: float) -> None:
        process = self._processes[number]
        if process is not None and not process.stopped:
            process.stop()
            self._later(span_s, process.resume)

    def _cut(self, paths: list[tuple[int, int]], span_s: float) -> None:
        for source, target in paths:
            self._network.cut(_host(source), _host(target))
            self._later(span_s, partial(self._network.heal, _host(source), _host(target)))

    def _partition(self, span_s: float) -> None:
        side = [self._random.random() < 0.5 for _ in self._identities]
        count = len(side)
        paths = [(a, b) for a in range(count) for b in range(count) if side[a] != side[b]]
        self._cut(paths, span_s)

    def _stretch(self, source: int, target: int, milliseconds: int, span_s: float) -> None:
        path = (_host(source), _host(target))
        self._network.stretch(*path, milliseconds)
        self._later(span_s, lambda: self._network.stretch(*path, -milliseconds))

    def _forge(self) -> None:
        """Hints that lead nowhere, to the wrong node, to the receiver itself, or by the hundred."""
        random = self._random
        for process in self._alive():
            for _ in range(random.choice((1, 5, 300))):
                host = random.choice(
                    (
                        f"172.16.0.{random.randrange(256)}",
                        _host(random.randrange(len(self._identities))),
                    )
                )
                key = random.choice(self._identities).key if random.random() < 0.5 else b"?" * 32
                name = random.choice(("", "node0", "nobody"))
                candidate = Candidate(
                    source="mdns",
                    host=host,
                    port=PORT + random.randrange(3),
                    name=name,
                    key_prefix=key_prefix_of(key) if random.random() < 0.7 else "",
                )
                process.post(partial(process.hint, candidate))

    # -- checks

    def _check(self) -> None:
        now = self.scheduler.now
        for process in self._alive():
            statistics = process.membership.statistics()
            require(statistics.addresses <= limits.CANDIDATES_MAX, "too many addresses")
            require(statistics.members <= MEMBERS_MAX, "too many members")
            require(statistics.links <= LINKS_MAX, "too many links")
            if not process.stopped and now > process.resumed_at + CHECK_GAP_S:
                self.ledger.check_deadlines(process.label, now)
            for link in process.links.values():
                require(len(link.table) <= CALLS_MAX, "too many calls")
                if not process.stopped and now > process.resumed_at + RESUMED_S:
                    closing = link.connection.state is State.CLOSING
                    silent_s = now - link.heard_at - (GOODBYE_S if closing else 0.0)
                    require(
                        silent_s <= SILENCE_S,
                        f"{process.label}: {link.peer.name} silent for {silent_s:.3f} s, link kept",
                    )
        self.scheduler.after(CHECK_GAP_S, self._check)

    def _check_quiet(self) -> None:
        require(self.ledger.downs == 0, "a node went down before anything broke")

    def _check_close(self, observers: list[Process], gone: Process, killed_at: float) -> None:
        for observer in observers:
            if observer not in self._alive() or observer.stopped:
                continue
            if observer.resumed_at >= killed_at:
                continue
            if self._network.disturbed(observer.host, gone.host, killed_at - FLUSHED_S):
                continue
            self.fired["close_checked"] += 1
            require(
                all(link.peer.incarnation != gone.incarnation for link in observer.links.values()),
                f"{observer.label} did not notice in {CLOSE_S} s that {gone.label} was killed",
            )

    def _mesh_fault(self) -> str:
        """What is wrong with the mesh; "" when every pair has exactly one and the same link."""
        alive = self._alive()
        if len(alive) < len(self._identities):
            return "a node was not started again"
        for process in alive:
            for other in alive:
                if other is process:
                    continue
                mine = [
                    each for each in process.links.values() if each.peer.key == other.identity.key
                ]
                yours = [
                    each for each in other.links.values() if each.peer.key == process.identity.key
                ]
                pair = f"{process.label} and {other.label}"
                if len(mine) != 1 or len(yours) != 1:
                    return f"{pair} have {len(mine)} and {len(yours)} links"
                if mine[0].end.wire_id != yours[0].end.wire_id:
                    return f"{pair} keep different links"
                if process.membership.link_of(other.identity.name) != mine[0].link_id:
                    return f"{pair}: calls do not use the link"
                if mine[0].peer.incarnation != other.incarnation:
                    return f"{pair}: a link to a former start"
        return ""

    def _check_told(self) -> None:
        starts = {process.incarnation: process for process in self._alive()}
        for observer, key, incarnation in self.ledger.untold:
            peer = starts.get(incarnation)
            if observer in starts and peer is not None and peer.identity.key == key:
                raise InvariantError(
                    f"{peer.label} was never told that {starts[observer].label} declared it dead"
                )


def _host(number: int) -> str:
    return f"10.0.0.{number + 1}"


def _alias(number: int) -> str:
    """Another address of the same host: duplicates come from dialling both."""
    return f"192.168.7.{number + 1}"
