"""One run: processes on simulated nodes do things at random, things break at random.

Decides what the processes do and what breaks, all drawn from one seed; `process_ledger` decides
whether that went well. A run is short (a fraction of a second of simulated time, or some seconds
where a partition is to be noticed), then everything is mended and left alone until it is quiet.

    python -m tests.sim.process_world --seed 1 --seeds 10000
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Any

import trio

from drupelet.errors import CallError, NameTaken, NoConnection
from drupelet.ladder.cluster import Cluster, Conditions, open_cluster, run_virtual
from drupelet.ladder.runtimes import Attachment
from drupelet.ladder.seen import SeenRuntime
from drupelet.process import (
    Down,
    Exit,
    Pid,
    ReceiveTimeout,
    Ref,
    demonitor,
    link,
    monitor,
    receive,
    register,
    self,
    send,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
    unlink,
    whereis,
)
from drupelet.process import exit as exit_
from drupelet.process.current import this_process
from drupelet.process.kernel import Kernel
from drupelet.process.table import Process
from drupelet.wire.messages.processes import SERIAL_SHIFT
from tests.sim.process_ledger import BrokenRule, Killing, Ledger, require

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
    "disconnect",
    "slow_path",
)
LONG = frozenset({"cut_long", "cut_one_way", "crash_dark"})

_world: World  # of the run: functions that are spawned by name find it here


class Watched(SeenRuntime):
    """A runtime that tells the ledger when processes begin and end."""

    @property
    def _place(self) -> tuple[str, int, int]:
        return (self.node, self.incarnation, self.serial)

    def new_process(self, *args: Any, **fields: Any) -> Process:
        process = super().new_process(*args, **fields)
        _world.ledger.born(process.pid, trio.current_time())
        return process

    def start(self, function: Any, args: Any, **fields: Any) -> Process:
        if function is child:
            _world.ledger.spawns[args[0]].runs += 1
        return super().start(function, args, **fields)

    def exit_process(self, process: Process, reason: object) -> None:
        if process.pid.number in self.processes:
            _world.ledger.told_to_end(process.pid, reason, trio.current_time())
        super().exit_process(process, reason)

    def end(self, process: Process, reason: object) -> None:
        if process.pid.number in self.processes and process.pid in _world.ledger.lives:
            _world.ledger.ended(process.pid, reason, trio.current_time())
        super().end(process, reason)

    def gone(self, pid: Pid, reason: object, names: list[str]) -> None:
        _world.ledger.broke(self._place, pid, trio.current_time())
        super().gone(pid, reason, names)


# -- what processes do


@dataclass
class Script:
    """What one process is to do: (pause before, operation, operand)."""

    steps: list[tuple[float, str, int]]
    traps: bool
    unwinds_s: float


async def actor(script: Script) -> None:
    """A process that does its steps, notes what it gets, and lives until it is ended."""
    await _unwinding(script.unwinds_s, _act, script)


async def child(token: int, script_seed: int) -> None:
    """A process that another node started."""
    random = Random(f"{script_seed} child")
    script = _world.script(random, random.randrange(3))
    await actor(script)


async def _unwinding(unwinds_s: float, body: Callable[..., Any], *args: object) -> None:
    life = _world.ledger.lives[self()]
    try:
        await body(*args)
    except Exception:
        unwinds_s = 0.0
        raise
    finally:
        if unwinds_s:
            life.unwinds_s = unwinds_s
            with trio.CancelScope(shield=True):
                await trio.sleep(unwinds_s)
            life.unwound_s = trio.current_time()


async def _act(script: Script) -> None:
    trap_exit(script.traps)
    for pause_s, operation, operand in script.steps:
        await _take_until(trio.current_time() + pause_s)
        try:
            await _OPERATIONS[operation](operand)
        except (CallError, NameTaken) as error:
            _world.outcomes[type(error).__name__] += 1
    await _take_until(inf)


async def _take_until(deadline: float) -> None:
    while True:
        try:
            message = await receive(timeout=deadline - trio.current_time())
        except ReceiveTimeout:
            return
        await _note(message)


async def _note(message: object) -> None:
    ledger, me, now = _world.ledger, self(), trio.current_time()
    match message:
        case ("m", Pid() as sender, int(number)):
            ledger.receives(me, sender, number, now)
        case Down(ref, target, reason):
            ledger.down(me, ref, target, reason, now)
            if isinstance(target, Pid):
                await _look_for_name(target)
        case Exit(pid, reason):
            ledger.check("kill", reason != "kill", f"{me} saw {message}")
            if (pid, me, reason) not in _world.exits_sent:
                ledger.exit_of(me, pid, reason, now)
        case ("end", reason):
            exit_(reason)
        case ("fail", text):
            raise ValueError(text)


async def _look_for_name(target: Pid) -> None:
    """After its Down a process has no name."""
    name = _world.name_of.get(target)
    if name is None or name[1] not in _world.cluster.daemons:
        return
    try:
        found = await whereis(*name)
    except CallError:
        return
    life = _world.ledger.lives[target]
    if life.ended_s < inf:
        _world.ledger.check("names", found != target, f"{name} is still {target} after its Down")


def _connected(pid: Pid) -> bool:
    runtime = this_process().runtime
    if pid.node == runtime.node:
        return True
    return runtime.nodes.get(pid.node) == pid.incarnation  # type: ignore[attr-defined,no-any-return]


async def _op_send(operand: int) -> None:
    to, me = _world.somebody(operand), self()
    for _ in range(1 + operand % 3):
        number = _world.ledger.sends(me, to, trio.current_time(), _connected(to))
        await send(to, ("m", me, number))


async def _op_send_name(operand: int) -> None:
    node = _world.names[operand % len(_world.names)]
    to, me = (f"name{operand % 2}", node), self()
    number = _world.ledger.sends(me, to, trio.current_time(), True)
    await send(to, ("m", me, number))


async def _op_monitor(operand: int) -> None:
    target, me = _world.somebody(operand), self()
    _world.ledger.acts(me, target, _connected(target))
    ref = monitor(target)
    _world.ledger.monitors(ref, me, target, trio.current_time())
    _world.refs.setdefault(me, []).append(ref)


async def _op_monitor_name(operand: int) -> None:
    target = (f"name{operand % 2}", _world.names[operand % len(_world.names)])
    me = self()
    _world.ledger.monitors(monitor(target), me, target, trio.current_time())


async def _op_demonitor(operand: int) -> None:
    refs = _world.refs.get(self(), [])
    if refs:
        ref = refs.pop(operand % len(refs))
        if demonitor(ref):
            _world.ledger.watches[ref].over_s = trio.current_time()


async def _op_link(operand: int) -> None:
    other, me = _world.somebody(operand), self()
    if other == me:
        return
    _world.ledger.acts(me, other, _connected(other))
    _world.ledger.links_to(me, other)
    link(other)


async def _op_unlink(operand: int) -> None:
    other, me = _world.somebody(operand), self()
    _world.ledger.unlinks(me, other)
    unlink(other)


async def _op_kill(operand: int) -> None:
    target, me = _world.somebody(operand), self()
    _world.ledger.kills.append(Killing(me, target, trio.current_time(), _connected(target)))
    exit_(target, "kill")


async def _op_exit(operand: int) -> None:
    to, me = _world.somebody(operand), self()
    reason = ("sent", operand)
    _world.exits_sent.add((me, to, reason))
    exit_(to, reason)


async def _op_end(operand: int) -> None:
    exit_(("done", operand))


async def _op_fail(operand: int) -> None:
    raise ValueError(f"failed {operand}")


async def _op_register(operand: int) -> None:
    name = f"name{operand % 2}"
    await register(name)
    _world.name_of[self()] = (name, self().node)


async def _op_spawn(operand: int) -> None:
    me, world = self(), _world
    node = world.names[operand % len(world.names)]
    if node == me.node:
        return
    world.tokens += 1
    token = world.tokens
    spawning = world.ledger.spawning(token, me, node)
    how: Callable[..., Any] = (spawn, spawn_link, spawn_monitor)[operand % 3]
    try:
        result = await how(child, token, operand, node=node)
    except CallError as error:
        spawning.error = error
        spawning.said_not_run = isinstance(error, NoConnection) and not error.maybe_ran
        raise
    pid, ref = result if isinstance(result, tuple) else (result, None)
    spawning.pid = pid
    world.pids.append(pid)
    world.ledger.acts(me, pid, _connected(pid))
    if ref is not None:
        world.ledger.monitors(ref, me, pid, trio.current_time())
    elif how is spawn_link:
        world.ledger.links_to(me, pid)


_OPERATIONS: dict[str, Callable[[int], Any]] = {
    "send": _op_send,
    "send_name": _op_send_name,
    "monitor": _op_monitor,
    "monitor_name": _op_monitor_name,
    "demonitor": _op_demonitor,
    "link": _op_link,
    "unlink": _op_unlink,
    "kill": _op_kill,
    "exit": _op_exit,
    "end": _op_end,
    "fail": _op_fail,
    "register": _op_register,
    "spawn": _op_spawn,
}
_WEIGHTS = {
    "send": 12,
    "send_name": 2,
    "monitor": 4,
    "monitor_name": 1,
    "demonitor": 1,
    "link": 3,
    "unlink": 1,
    "kill": 1,
    "exit": 1,
    "end": 1,
    "fail": 1,
    "register": 2,
    "spawn": 2,
}


# -- the run


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one good run was like."""

    seed: int
    trace_hash: str
    checks: Counter[str]
    fired: Counter[str]
    outcomes: Counter[str]
    virtual_s: float


@dataclass
class Machines:
    """What is under test; others, to see broken ones found out."""

    conditions: Callable[..., Conditions] = Conditions
    runtime: type[SeenRuntime] = Watched


class World:
    """One run."""

    def __init__(self, seed: int, machines: Machines | None = None) -> None:
        self.seed = seed
        self.machines = machines or Machines()
        self.random = Random(f"{seed} world")
        self.ledger = Ledger()
        self.fired: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.names = NODES[: 2 + (self.random.random() < 0.3)]
        self.pids: list[Pid] = []
        self.refs: dict[Pid, list[Ref]] = {}
        self.exits_sent: set[tuple[Pid, Pid, object]] = set()
        self.name_of: dict[Pid, tuple[str, str]] = {}
        self.tokens = 0
        self.cluster: Cluster
        self.is_long = self.random.random() < 0.3
        self.span_s = 9.0 if self.is_long else 0.06
        self._slow = self.random.random() < 0.2

    def run(self) -> Result:
        """The whole run. Raises: `BrokenRule`."""
        global _world
        _world = self
        try:
            return run_virtual(self._main, self.seed)  # type: ignore[no-any-return]
        except BaseException as error:
            broken = _find(error)
            if broken is None:
                raise
            raise BrokenRule(f"seed {self.seed}: {broken}") from error

    async def _main(self) -> Result:
        random = self.random
        conditions = self.machines.conditions(
            latency_s=random.choice((0.0002, 0.001, 0.01)),
            jitter_s=random.choice((0.0, 0.0005, 0.005)),
            local_s=0.002 if self._slow else 0.00005,
            runtime=self.machines.runtime,
        )
        with trio.fail_after(300.0):
            async with open_cluster(
                self.names, seed=self.seed, conditions=conditions, modules=(child.__module__,)
            ) as cluster:
                self.cluster = cluster
                async with trio.open_nursery() as nursery:
                    if random.random() < 0.3:
                        await cluster.add_runtime(random.choice(self.names))
                    self._people()
                    self._plan(nursery)
                    await trio.sleep(self.span_s)
                await self._settle()
                self._check_tables()
                self.ledger.close()
                return Result(
                    seed=self.seed,
                    trace_hash=cluster.trace.hash(),
                    checks=self.ledger.checks,
                    fired=self.fired,
                    outcomes=self.outcomes,
                    virtual_s=trio.current_time(),
                )

    def script(self, random: Random, steps: int) -> Script:
        """What a process is to do."""
        kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
        pause_s = self.span_s / max(steps, 1)
        return Script(
            steps=[
                (pause_s * random.random() * 1.5, kind, random.randrange(1 << 30))
                for kind in random.choices(kinds, weights, k=steps)
            ],
            traps=random.random() < 0.8,
            unwinds_s=random.choice((0.0, 0.0, 0.0, 0.0, 0.5, 3.0, 7.0)),
        )

    def somebody(self, operand: int) -> Pid:
        """A process of this run, alive or not."""
        return self.pids[operand % len(self.pids)]

    def _people(self) -> None:
        for daemon in self.cluster.daemons.values():
            for attachment in daemon.attachments.values():
                self._settlers(attachment)

    def _settlers(self, attachment: Attachment) -> None:
        for _ in range(2):
            script = self.script(self.random, self.random.randrange(3, 9))
            self.pids.append(attachment.runtime.start(actor, (script,)).pid)

    # -- faults

    def _plan(self, nursery: trio.Nursery) -> None:
        for _ in range(self.random.choice((0, 1, 1, 2, 3))):
            kinds = [each for each in FAULTS if self.is_long or each not in LONG]
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
                self._crashed([attachment])
                attachment.crash()
            case "stall_runtime":
                if not cluster.daemons[one].attachments:
                    return
                attachment = random.choice(list(cluster.daemons[one].attachments.values()))
                attachment.stall()
                await trio.sleep(random.random() * self.span_s / 4)
                attachment.go_on()
            case "disconnect":
                if not cluster.daemons[one].disconnect(other):
                    return
            case "slow_path":
                cluster.stretch(one, other, 0.05)
        self.fired[kind] += 1

    def _crashed(self, attachments: Any) -> None:
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

    # -- the tables at the end

    def _check_tables(self) -> None:
        alive: dict[Pid, Process] = {}
        for daemon in self.cluster.daemons.values():
            for attachment in daemon.attachments.values():
                kernel: Kernel = attachment.runtime
                alive |= {each.pid: each for each in kernel.processes.values()}
                what = f"{kernel.pid} has asks {list(kernel.asks)} that nobody answers"
                require(not kernel.asks, "down", what)
                self.ledger.check("pressure", not kernel.paused, f"{kernel.pid} is still paused")
        for process in alive.values():
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
            for ref, watcher in (process.watchers or {}).items():
                there = alive.get(watcher)
                if isinstance(ref, Ref) and watcher.number & ((1 << SERIAL_SHIFT) - 1):
                    mutual = there is not None and ref in (there.monitors or {})
                    what = f"{process.pid} is watched by {watcher}, which does not know of it"
                    self.ledger.check("down", mutual, what)


def _find(error: BaseException) -> BrokenRule | None:
    if isinstance(error, BrokenRule):
        return error
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            found = _find(each)
            if found is not None:
                return found
    return None


def main(arguments: list[str] | None = None) -> int:
    """Run seeds; print what was checked and what fired."""
    logging.getLogger("drupelet").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(prog="python -m tests.sim.process_world")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--stop", action="store_true", help="at the first failure, with traceback")
    options = parser.parse_args(arguments)
    checks: Counter[str] = Counter()
    runs: Counter[str] = Counter()
    fired: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    failed = []
    begun = time.perf_counter()
    for seed in range(options.seed, options.seed + options.seeds):
        world = World(seed)
        try:
            result = world.run()
        except Exception as error:
            if options.stop:
                raise
            failed.append(seed)
            sys.stdout.write(f"FAILED {type(error).__name__} {error}\n"[:600] + "\n")
            continue
        checks += result.checks
        runs.update(list(result.checks))
        fired += result.fired
        outcomes += result.outcomes
        if options.seeds == 1:
            sys.stdout.write(f"seed {seed} hash {result.trace_hash}\n")
    took_s = time.perf_counter() - begun
    sys.stdout.write(
        f"{options.seeds - len(failed)} seeds good, {len(failed)} failed {failed[:20]}\n"
        f"{took_s:.1f} s, {took_s / options.seeds * 1000:.2f} ms a seed\n"
        f"checks {dict(checks)}\nruns that checked it {dict(runs)}\n"
        f"faults {dict(fired)}\noutcomes {dict(outcomes)}\n"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
