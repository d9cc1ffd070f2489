"""One run: processes on simulated nodes do things at random, things break at random.

Decides what breaks, and who is there: all drawn from one seed. `process_people` is what the
processes do, `process_ledger` decides whether that went well. A run is short (a fraction of a
second of simulated time, or some seconds where a partition is to be noticed), then everything is
mended and left alone until it is quiet. `process_seeds` runs many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

import trio

from drupelet.ladder.cluster import Conditions, open_cluster, run_virtual
from drupelet.ladder.runtimes import Attachment
from drupelet.ladder.trace import Event
from drupelet.process.kernel import Kernel
from drupelet.process.table import Mailbox, Process
from drupelet.wire.ids import Pid, Ref
from drupelet.wire.messages.processes import COUNT_MASK
from tests.sim.process_ledger import BrokenRule, Ledger
from tests.sim.process_people import SINK_LIMIT, Stage, actor, child, enter
from tests.sim.process_watched import Watched, WatchedRouter

NODES = ("gandalf", "bilbo", "frodo")
DEAD_TIME_S = 0.5
QUIET_S = 12.0  # after the last fault was mended: a finally of 5 s, an ask of 5 s, and some
WHOLE_S = 60.0  # back-off of a dial is at most 30 s
FAULTS = (
    "drop_both",
    "drop_one",
    "second_link",
    "cut_short",
    "cut_long",
    "cut_one_way",
    "crash_node",
    "crash_dark",
    "crash_runtime",
    "stall_runtime",
    "stall_over_break",
    "disconnect",
    "slow_path",
)
LONG = frozenset({"cut_long", "cut_one_way", "crash_dark"})
# what faults did, not that they were made: each has to be seen in many runs
EFFECTS = ("lost", "cut_short", "stalled", "again", "relinked", "paused", "abandoned", "parted")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one good run was like."""

    seed: int
    trace_hash: str
    checks: Counter[str]
    fired: Counter[str]
    effects: Counter[str]
    outcomes: Counter[str]
    virtual_s: float


@dataclass
class Machines:
    """What is under test; others, to see broken ones found out."""

    router: type[WatchedRouter] = WatchedRouter
    runtime: type[Watched] = Watched


class World:
    """One run."""

    def __init__(self, seed: int, machines: Machines | None = None) -> None:
        self.seed = seed
        self.machines = machines or Machines()
        self.random = Random(f"{seed} world")
        self.fired: Counter[str] = Counter()
        self.names = NODES[: 2 + (self.random.random() < 0.3)]
        self.is_long = self.random.random() < 0.3
        self.span_s = 9.0 if self.is_long else 0.06
        self._slow = self.random.random() < 0.2
        self.stage = Stage(self.names, self.span_s)

    @property
    def ledger(self) -> Ledger:
        """What happened."""
        return self.stage.ledger

    def run(self) -> Result:
        """The whole run. Raises: `BrokenRule`."""
        enter(self.stage)
        result = run_virtual(self._until_broken, self.seed)
        if self.ledger.broken is not None:
            text = f"seed {self.seed}: {self.ledger.broken}"
            raise BrokenRule(text) from self.ledger.broken
        assert isinstance(result, Result)
        return result

    async def _until_broken(self) -> Result | None:
        with self.ledger.over_scope:
            return await self._main()
        return None

    async def _main(self) -> Result:
        random = self.random
        conditions = Conditions(
            latency_s=random.choice((0.0002, 0.001, 0.01)),
            jitter_s=random.choice((0.0, 0.0005, 0.005)),
            local_s=0.002 if self._slow else 0.00005,
            router=type("Router", (self.machines.router,), {"ledger": self.ledger}),
            runtime=type("Runtime", (self.machines.runtime,), {"ledger": self.ledger}),
        )
        with trio.fail_after(300.0):
            async with open_cluster(
                self.names, seed=self.seed, conditions=conditions, modules=(child.__module__,)
            ) as cluster:
                self.cluster = self.stage.cluster = cluster
                async with trio.open_nursery() as nursery:
                    if random.random() < 0.3:
                        await cluster.add_runtime(random.choice(self.names))
                    self._people()
                    self._plan(nursery)
                    await trio.sleep(self.span_s)
                await self._settle()
                self._relinks()
                self._check_tables()
                self.ledger.close()
                return Result(
                    seed=self.seed,
                    trace_hash=cluster.trace.hash(),
                    checks=self.ledger.checks,
                    fired=self.fired,
                    effects=self._effects(),
                    outcomes=self.stage.outcomes,
                    virtual_s=trio.current_time(),
                )

    def _people(self) -> None:
        for daemon in self.cluster.daemons.values():
            for attachment in daemon.attachments.values():
                self._settlers(attachment)

    def _settlers(self, attachment: Attachment) -> None:
        stage, runtime = self.stage, attachment.runtime
        for _ in range(2):
            script = stage.script(self.random, self.random.randrange(3, 9))
            stage.pids.append(runtime.start(actor, (script,)).pid)
        if self.random.random() < 0.5:
            script = stage.sink_script(self.random)
            sink = runtime.start(actor, (script,), mailbox=Mailbox(limit=SINK_LIMIT))
            stage.sinks.append(sink.pid)
            stage.pids.append(sink.pid)

    # -- faults

    def _plan(self, nursery: trio.Nursery) -> None:
        for _ in range(self.random.choice((0, 1, 1, 2, 3))):
            kinds = [each for each in FAULTS if each not in LONG]
            if self.is_long and self.random.random() < 0.6:
                kinds = sorted(LONG)
            at_s = self.random.random() * self.span_s * (0.4 if self.is_long else 1.0)
            nursery.start_soon(self._fault, at_s, self.random.choice(kinds))

    async def _fault(self, at_s: float, kind: str) -> None:
        await trio.sleep(at_s)
        cluster, random = self.cluster, self.random
        one, other = random.sample(self.names, 2)
        if one not in cluster.daemons or other not in cluster.daemons:
            return
        match kind:
            case "drop_both" | "drop_one":
                if not cluster.drop_links(one, other, one_end=kind == "drop_one"):
                    return
            case "second_link":
                cluster.dial_again(one, other)
            case "cut_short" | "cut_long" | "cut_one_way":
                cluster.cut(one, other, one_way=kind == "cut_one_way")
                await trio.sleep(random.random() * 0.05 if kind == "cut_short" else 5.0)
                cluster.path(one, other).heal()
                cluster.path(other, one).heal()
            case "crash_node" | "crash_dark":
                self._crashed(cluster.daemons[one].attachments.values())
                cluster.kill(one, dark=kind == "crash_dark")
                await trio.sleep(random.random() * self.span_s / 2)
                await cluster.restart(one)
                self._settlers(next(iter(cluster.daemons[one].attachments.values())))
            case "crash_runtime":
                if not cluster.daemons[one].attachments:
                    return
                attachment = random.choice(list(cluster.daemons[one].attachments.values()))
                for _ in range(20):  # the best moment is when it has just said something
                    if attachment.under_way:
                        break
                    await trio.sleep(self.span_s / 200)
                if not attachment.is_alive:
                    return
                self._crashed([attachment])
                attachment.crash()
            case "stall_runtime" | "stall_over_break":
                if not cluster.daemons[one].attachments:
                    return
                attachment = random.choice(list(cluster.daemons[one].attachments.values()))
                attachment.stall()
                await trio.sleep(random.random() * self.span_s / 4)
                if kind == "stall_over_break":  # it reads of the end after the new beginning
                    if one not in cluster.daemons or not cluster.daemons[one].disconnect(other):
                        attachment.go_on()
                        return
                    await trio.sleep(random.random() * 0.1)
                attachment.go_on()
            case "disconnect":
                if not cluster.daemons[one].disconnect(other):
                    return
            case "slow_path":
                cluster.stretch(one, other, 0.05)
        self.fired[kind] += 1

    def _crashed(self, attachments: Iterable[Attachment]) -> None:
        for attachment in attachments:
            runtime = attachment.runtime
            self.ledger.runtime_crashed(
                runtime.node, runtime.incarnation, runtime.serial, trio.current_time()
            )

    async def _settle(self) -> None:
        self.cluster.heal()
        await trio.sleep(DEAD_TIME_S)
        with trio.fail_after(WHOLE_S):
            await self.cluster.wait_connected()
        await trio.sleep(QUIET_S)

    # -- what it was like

    def _relinks(self) -> None:
        for entry in self.cluster.trace.entries:
            if isinstance(entry, Event) and entry.kind == "link":
                self.ledger.relinks[frozenset((str(entry.where), str(entry.what)))].append(
                    entry.at_s
                )

    def _effects(self) -> Counter[str]:
        effects = self.cluster.network.effects + self.ledger.effects
        effects["relinked"] = sum(len(each) for each in self.ledger.relinks.values())
        return effects

    # -- the tables at the end

    def _check_tables(self) -> None:
        alive: dict[Pid, Process] = {}
        for daemon in self.cluster.daemons.values():
            for attachment in daemon.attachments.values():
                kernel: Kernel = attachment.runtime
                alive |= {each.pid: each for each in kernel.processes.values()}
                what = f"{kernel.pid} has asks {list(kernel.asks)} that nobody answers"
                self.ledger.check("down", not kernel.asks, what)
                self.ledger.check("pressure", not kernel.paused, f"{kernel.pid} is still paused")
                self._check_node_watches(kernel)
        for process in alive.values():
            what = f"of {process.pid}'s messages {process.dropped_count} were dropped"
            self.ledger.check("pressure", not process.dropped_count, what)
            what = f"somebody still waits to send to {process.pid}"
            self.ledger.check("pressure", not process.senders, what)
            for other in process.links or ():
                there = alive.get(other)
                mutual = there is not None and process.pid in (there.links or ())
                state = "is gone" if there is None else "does not know of it"
                what = f"{process.pid} is linked to {other}, which {state}"
                self.ledger.check("links", mutual, what)
            for ref, target in (process.monitors or {}).items():
                if isinstance(target, Pid):
                    there = alive.get(target)
                    mutual = there is not None and ref in (there.watchers or {})
                    state = "is gone" if there is None else "does not know of it"
                    what = f"{process.pid} monitors {target}, which {state}"
                    self.ledger.check("down", mutual, what)
            for key, watcher in (process.watchers or {}).items():
                there = alive.get(watcher)
                if isinstance(key, Ref) and watcher.number & COUNT_MASK:
                    mutual = there is not None and key in (there.monitors or {})
                    what = f"{process.pid} is watched by {watcher}, which does not know of it"
                    self.ledger.check("down", mutual, what)

    def _check_node_watches(self, kernel: Kernel) -> None:
        for (watcher, node), count in self.ledger.node_watches.items():
            process = kernel.find(watcher)
            if count and process is not None and process.alive:
                connected = node in kernel.nodes  # type: ignore[attr-defined]
                what = f"{watcher} was never told NodeDown of {node}"
                self.ledger.check("partition", connected, what)
