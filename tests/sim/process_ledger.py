"""Ledger of a simulated cluster of processes: what really happened, and the rules of DESIGN 6.

Decides whether a run is good. Nothing here is known to the runtimes and routers under test; it is
told by the processes of the run what they did and got, and by hooks when processes begin and end.

| semantic | rule, checked in each run |
|---|---|
| fifo | per sender and receiver: never doubled, never out of order; a gap only over a break |
| reconnect | what was under way when a link was replaced arrives, unless something broke |
| down | one Down per monitor, when and only when its target ended or is out of sight |
| after_down | after a Down nothing of that pid; after noconnection only what was sent later |
| kill | whom "kill" reached ends with "killed", and its code never sees it |
| finally | it runs; the end is told when it is done, or 5 s after it was to end |
| pids | every pid is new; a message reaches the process that it was addressed to, or nobody |
| pressure | who is told to hold back does; a full mailbox says so; nothing dropped; all go on |
| partition | noconnection is told once per monitor, link and node watch, on both sides |

Those are DESIGN 6's nine. Besides:

| names | who was told Down finds the name free |
| links | both sides agree at the end: linked and alive, or told |
| spawn | what was spawned elsewhere ran once, or not at all and its spawner got an error |
| asks | an answer is that of who was asked, to what was asked, in time |

A *break* between two runtimes: one of them was told GONE of the other, or of its node.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import inf

import trio

from drupelet.wire.ids import Pid, Ref
from drupelet.wire.messages.processes import NOCONNECTION, NOPROC, SERIAL_SHIFT

SEMANTICS = (  # DESIGN 6
    "fifo",
    "reconnect",
    "down",
    "after_down",
    "kill",
    "finally",
    "pids",
    "pressure",
    "partition",
)
OTHERS = ("names", "links", "spawn", "asks")
UNWIND_S = 5.0
NEAR_S = 1e-6


class BrokenRule(AssertionError):
    """A semantic does not hold; the run's seed replays it."""


@dataclass
class Life:
    """One process."""

    pid: Pid
    born_s: float
    told_s: float = inf  # to end
    ended_s: float = inf
    reason: object = None
    crashed: bool = False  # its runtime or node went
    unwinds_s: float | None = None  # what its finally takes, if it begins
    unwound_s: float = inf
    kill_reached: bool = False


@dataclass
class Watch:
    """One monitor."""

    watcher: Pid
    target: Pid | tuple[str, str]
    since_s: float
    over_s: float = inf  # demonitor
    downs: list[tuple[object, float]] = field(default_factory=list)


@dataclass
class Sending:
    """One message, numbered for its sender."""

    number: int
    to: Pid | tuple[str, str]
    sent_s: float = inf  # when it left, after waiting for room
    connected: bool = False
    arrived_s: float = inf


@dataclass(frozen=True)
class Killing:
    """One ``exit(target, "kill")``."""

    killer: Pid
    target: Pid
    at_s: float
    connected: bool


@dataclass
class Spawning:
    """One spawn elsewhere."""

    spawner: Pid
    node: str
    is_linked: bool
    runs: int = 0
    pid: Pid | None = None
    error: object = None
    said_not_run: bool = False


def runtime_of(pid: Pid) -> tuple[str, int, int]:
    """(node, incarnation, serial); the serial is 0 for a node itself."""
    return (pid.node, pid.incarnation, pid.number >> SERIAL_SHIFT)


Place = tuple[str, int, int]


def covers(lost: Place, place: Place) -> bool:
    """Whether what is gone, a node or a runtime, includes that runtime."""
    return lost[:2] == place[:2] and lost[2] in (0, place[2])


class Ledger:
    """Everything that was observed in one run."""

    def __init__(self) -> None:
        self.lives: dict[Pid, Life] = {}
        self.watches: dict[Ref, Watch] = {}
        self.sent: dict[Pid, list[Sending]] = defaultdict(list)
        self.got: dict[tuple[Pid, Pid], list[int]] = defaultdict(list)
        # (runtime, node it lost or runtime it lost) -> when
        self.breaks: dict[tuple[Place, Place], list[float]] = defaultdict(list)
        self.relinks: dict[frozenset[str], list[float]] = defaultdict(list)  # nodes -> when
        self.told_pause: set[tuple[Pid, Place]] = set()  # (who is full, whom it told)
        self.held: set[tuple[Place, Pid]] = set()  # (who was told, by whom)
        self.flooding: Counter[Pid] = Counter()  # floods begun and not done
        self.node_watches: Counter[tuple[Pid, str]] = Counter()  # asked for and not told
        self.kills: list[Killing] = []
        self.spawns: dict[int, Spawning] = {}
        self.over: dict[tuple[Pid, Pid], tuple[object, float]] = {}  # (who was told, of whom)
        self.links: dict[tuple[Pid, Pid], bool] = {}
        self.exits: Counter[tuple[Pid, Pid]] = Counter()
        self.linkings: Counter[tuple[Pid, Pid]] = Counter()
        self.checks: Counter[str] = Counter()
        self.effects: Counter[str] = Counter()  # what faults did to processes
        self.broken: Exception | None = None
        self.over_scope = trio.CancelScope()  # around the run
        self.crashed_runtimes: dict[Place, float] = {}
        self.is_closed = False  # what ends now ends with the run
        self.apart: set[tuple[Pid, Pid]] = set()  # not connected when one acted on the other

    def check(self, semantic: str, holds: object, what: str) -> None:
        """Count the check; what does not hold is kept, and ends the run.

        Not raised: many checks are made in processes, where an exception ends one of them.
        """
        self.checks[semantic] += 1
        if not holds:
            self.fail(BrokenRule(f"{semantic}: {what}"))

    def fail(self, error: Exception) -> None:
        """The run is over. The first error counts."""
        if self.broken is None:
            self.broken = error
            self.over_scope.cancel()

    # -- told by hooks

    def born(self, pid: Pid, now: float) -> None:
        self.check("pids", pid not in self.lives, f"{pid} was given twice")
        self.lives[pid] = Life(pid, now)

    def told_to_end(self, pid: Pid, reason: object, now: float) -> None:
        life = self.lives[pid]
        if self.is_closed or life.crashed:
            return
        life.told_s = min(life.told_s, now)
        if reason == "killed":
            life.kill_reached = True

    def ended(self, pid: Pid, reason: object, now: float) -> None:
        life = self.lives[pid]
        if self.is_closed or life.crashed or life.ended_s < inf:
            return
        life.ended_s, life.reason = now, reason
        if life.kill_reached:
            self.check("kill", reason == "killed", f"{pid} was killed and ended with {reason!r}")
        if life.told_s < inf and life.unwinds_s is not None:
            took_s = now - life.told_s
            if life.unwinds_s <= UNWIND_S:
                on_time = life.unwound_s <= now + NEAR_S
                what = f"{pid}'s end was told before its finally was done"
                self.check("finally", on_time, what)
            what = f"{pid} ended {took_s:.6f} s after it was to, its finally takes {life.unwinds_s}"
            expected = min(life.unwinds_s, UNWIND_S)
            self.effects["abandoned"] += life.unwinds_s > UNWIND_S
            self.check("finally", abs(took_s - expected) < 0.001, what)

    def runtime_crashed(self, node: str, incarnation: int, serial: int, now: float) -> None:
        self.crashed_runtimes[node, incarnation, serial] = now
        for life in self.lives.values():
            if runtime_of(life.pid) == (node, incarnation, serial) and life.ended_s == inf:
                life.crashed = True
                life.ended_s = now

    def broke(self, runtime: Place, lost: Pid, now: float) -> None:
        """A runtime was told GONE."""
        gone = runtime_of(lost)
        self.effects["parted"] += not gone[2]
        self.breaks[runtime, gone].append(now)
        self.told_pause = {
            each
            for each in self.told_pause
            if runtime_of(each[0]) != runtime or not covers(gone, each[1])
        }
        self.held = {
            each
            for each in self.held
            if each[0] != runtime or not covers(gone, runtime_of(each[1]))
        }

    def left(self, sender: Pid, to: Pid, number: int, now: float, connected: bool) -> None:
        """A message leaves its runtime for another one."""
        sending = self.sent[sender][number]
        what = f"{sender} sent {number} to {to} twice"
        self.check("fifo", sending.sent_s == inf, what)
        sending.sent_s, sending.connected = now, connected
        here, there = runtime_of(sender), runtime_of(to)
        base = there[2] << SERIAL_SHIFT
        holders = (to, Pid(to.node, to.incarnation, base), Pid(to.node, to.incarnation, 0))
        holder = next((each for each in holders if (here, each) in self.held), None)
        what = f"{sender} sent {number} to {to} though {holder} had told it to hold back"
        self.check("pressure", holder is None, what)

    def holds_back(self, runtime: Place, holder: Pid) -> None:
        """A runtime was told to."""
        self.held.add((runtime, holder))
        self.effects["paused"] += 1

    def overfills(self, receiver: Pid, sender: Pid, is_local: bool, length: int) -> None:
        """A message is put into a mailbox that is full already."""
        what = f"{receiver} has {length} messages, and takes one more of {sender}"
        told = not is_local and (receiver, runtime_of(sender)) in self.told_pause
        self.check("pressure", told, what)

    # -- told by the processes

    def sends(self, sender: Pid, to: Pid | tuple[str, str]) -> Sending:
        sending = Sending(len(self.sent[sender]), to)
        self.sent[sender].append(sending)
        return sending

    def receives(self, receiver: Pid, sender: Pid, number: int, now: float) -> None:
        sending = self.sent[sender][number]
        numbers = self.got[sender, receiver]
        for_me = sending.to == receiver or not isinstance(sending.to, Pid)
        what = f"{receiver} got what {sender} sent to {sending.to}"
        self.check("pids", for_me, what)
        what = f"{receiver} got {number} of {sender} after {numbers[-1:]}"
        self.check("fifo", not numbers or number > numbers[-1], what)
        numbers.append(number)
        sending.arrived_s = now
        over = self.over.get((receiver, sender))
        if over is not None:
            reason, told_s = over
            what = f"{receiver} got {number} of {sender} after Down {reason!r} at {told_s}"
            later = reason == NOCONNECTION and (
                sending.sent_s > told_s
                or not sending.connected  # it waited for the next connection
                or self._anew(receiver, sender, sending.sent_s, told_s)
            )
            self.check("after_down", later, f"{what}, sent at {sending.sent_s}")

    def _anew(self, receiver: Pid, sender: Pid, sent_s: float, told_s: float) -> bool:
        """Whether it was sent after its node had noticed the break that `receiver` was told of."""
        here, there = runtime_of(receiver), runtime_of(sender)
        breaks = self.breaks.get((here, (*there[:2], 0)), ())
        mine = sorted({at for at in breaks if at <= told_s})  # who was stalled reads all at once
        since_s = mine[-2] if len(mine) > 1 else -inf  # the one before
        theirs = self.breaks.get((there, (*here[:2], 0)), ())
        return any(since_s < at <= sent_s for at in theirs)

    def monitors(self, ref: Ref, watcher: Pid, target: Pid | tuple[str, str], now: float) -> None:
        self.watches[ref] = Watch(watcher, target, now)

    def down(self, watcher: Pid, ref: Ref, target: object, reason: object, now: float) -> None:
        watch = self.watches.get(ref)
        what = f"{watcher} got a Down of {ref} that it did not ask for"
        self.check("down", watch is not None, what)
        if watch is None:
            return
        watch.downs.append((reason, now))
        semantic = "partition" if reason == NOCONNECTION else "down"
        what = f"{watcher} got {len(watch.downs)} Downs for one monitor of {watch.target}"
        self.check(semantic, len(watch.downs) == 1, f"{what}: {watch.downs}")
        self.check("down", watch.over_s == inf, f"{watcher} got a Down after demonitor")
        self.check("down", target == watch.target, f"Down of {target}, not of {watch.target}")
        if isinstance(watch.target, Pid):
            self._gone(watcher, watch.target, reason, now, semantic)

    def exit_of(self, watcher: Pid, sender: Pid, reason: object, now: float) -> None:
        """The exit signal of a link, as a message."""
        self.exits[watcher, sender] += 1
        semantic = "partition" if reason == NOCONNECTION else "links"
        what = f"{watcher} got an exit signal of {sender}, from whom it had unlinked"
        self.check(semantic, self.links.get((watcher, sender), True), what)
        count = self.linkings[watcher, sender] + self.linkings[sender, watcher]
        what = f"{self.exits[watcher, sender]} exit signals of {sender} at {watcher}"
        self.check(semantic, self.exits[watcher, sender] <= count, f"{what}, {count} links")
        self._gone(watcher, sender, reason, now, semantic)

    def _gone(self, watcher: Pid, target: Pid, reason: object, now: float, semantic: str) -> None:
        life = self.lives.get(target)
        apart = (watcher, target) in self.apart or (target, watcher) in self.apart
        if reason == NOCONNECTION:
            here = runtime_of(watcher)
            told = any(
                (here, lost) in self.breaks
                for lost in (runtime_of(target), (target.node, target.incarnation, 0))
            )
            missing = life is None or life.ended_s <= now
            what = f"{watcher} was told noconnection of {target}, and nothing broke"
            self.check(semantic, told or missing or apart, what)
        elif reason == NOPROC and (apart or (life is not None and life.told_s <= now)):
            # A node knows one incarnation of another: a pid of the next one is nobody, until it
            # is connected. And who is told to end while it spawns, its child may outlive.
            return
        else:
            what = f"{watcher} was told of the end of {target} ({reason!r}), which lives"
            self.check(semantic, life is not None and life.ended_s <= now + NEAR_S, what)
            if life is not None and not life.crashed and reason != NOPROC:
                what = (
                    f"{watcher} was told {reason!r} of {target}, which ended with {life.reason!r}"
                )
                # "crashed": its end was told, and what told it was lost with its runtime
                cut_off = reason == "crashed" and runtime_of(target) in self.crashed_runtimes
                self.check(semantic, reason == life.reason or cut_off, what)
        self.over[watcher, target] = (reason, now)

    def acts(self, process: Pid, other: Pid, connected: bool) -> None:
        """It monitors, links or spawns: where nothing is connected, that may fail without GONE."""
        if not connected:
            self.apart.add((process, other))

    def links_to(self, process: Pid, other: Pid) -> None:
        self.linkings[process, other] += 1
        self.links[process, other] = self.links[other, process] = True

    def spawning(self, token: int, spawner: Pid, node: str, *, is_linked: bool) -> Spawning:
        self.spawns[token] = Spawning(spawner, node, is_linked)
        return self.spawns[token]

    def node_down(self, watcher: Pid, node: str) -> None:
        """A NodeDown came."""
        self.node_watches[watcher, node] -= 1
        what = f"{watcher} was told NodeDown of {node} more often than it asked"
        self.check("partition", self.node_watches[watcher, node] >= 0, what)

    def unlinks(self, process: Pid, other: Pid) -> None:
        self.links[process, other] = False

    # -- the end

    def close(self) -> None:
        """Everything is mended and quiet."""
        for sender, sendings in self.sent.items():
            self._check_gaps(sender, sendings)
        for watch in self.watches.values():
            self._check_watch(watch)
        for token, spawning in self.spawns.items():
            self._check_spawn(token, spawning)
        for kill in self.kills:
            self._check_kill(kill)
        for process, count in self.flooding.items():
            life = self.lives[process]
            over = not count or min(life.ended_s, life.told_s) < inf
            self.check("pressure", over, f"{process} is still not done with {count} floods")
        self.checks["after_down"] += len(self.over)  # of each of these pairs, all along
        self.is_closed = True

    def _check_gaps(self, sender: Pid, sendings: list[Sending]) -> None:
        by_receiver: dict[Pid, list[Sending]] = defaultdict(list)
        for sending in sendings:
            if isinstance(sending.to, Pid) and sending.sent_s < inf:
                by_receiver[sending.to].append(sending)
        for receiver, those in by_receiver.items():
            later_s = inf  # when the next one that arrived was received
            for sending in reversed(those):
                semantic = "reconnect" if self._crossed(sender, sending) else "fifo"
                if sending.arrived_s < inf:
                    later_s = sending.arrived_s
                    self.checks[semantic] += 1
                    continue
                what = (
                    f"{receiver} never got {sending.number} of {sender}, sent at {sending.sent_s}"
                )
                excused = not sending.connected or self._broken(
                    sender, receiver, sending.sent_s, later_s
                )
                if runtime_of(sender) == runtime_of(receiver):
                    excused = False
                if later_s == inf:
                    life = self.lives.get(receiver)
                    gone = life is None or min(life.ended_s, life.told_s) < inf
                    excused = excused or gone or runtime_of(sender) in self.crashed_runtimes
                self.check(semantic, excused, what)

    def _crossed(self, sender: Pid, sending: Sending) -> bool:
        """Whether the link was replaced while it was under way."""
        if not isinstance(sending.to, Pid) or sending.to.node == sender.node:
            return False
        times = self.relinks.get(frozenset((sender.node, sending.to.node)), ())
        return any(sending.sent_s <= at <= sending.arrived_s for at in times)

    def _broken(self, one: Pid, other: Pid, since_s: float, until_s: float) -> bool:
        for here, there in ((one, other), (other, one)):
            for lost in (runtime_of(there), (there.node, there.incarnation, 0)):
                if any(
                    since_s <= at <= until_s + NEAR_S
                    for at in self.breaks.get((runtime_of(here), lost), ())
                ):
                    return True
        return False

    def _check_watch(self, watch: Watch) -> None:
        if watch.downs or watch.over_s < inf or not isinstance(watch.target, Pid):
            return
        watcher = self.lives[watch.watcher]
        target = self.lives.get(watch.target)
        if min(watcher.ended_s, watcher.told_s) < inf:
            return
        what = f"{watch.watcher} was never told Down of {watch.target}"
        self.check("down", target is not None and target.ended_s == inf, what)

    def _check_kill(self, kill: Killing) -> None:
        life = self.lives[kill.target]
        lost = runtime_of(kill.killer) in self.crashed_runtimes or not kill.connected
        if not lost and not self._broken(kill.killer, kill.target, kill.at_s, inf):
            what = f"{kill.killer} killed {kill.target} at {kill.at_s}, and it lives"
            self.check("kill", min(life.ended_s, life.told_s) < inf, what)

    def _check_spawn(self, token: int, spawning: Spawning) -> None:
        what = f"spawn {token} on {spawning.node}"
        self.check("spawn", spawning.runs <= 1, f"{what} ran {spawning.runs} times")
        if spawning.pid is not None:
            self.check("spawn", spawning.runs == 1, f"{what} gave {spawning.pid} and never ran")
        if spawning.said_not_run:
            self.check("spawn", not spawning.runs, f"{what} ran; {spawning.error!r} was raised")
        life = self.lives[spawning.spawner]
        if spawning.pid is None and spawning.error is None:
            what += " gave neither a pid nor an error"
            self.check("spawn", min(life.ended_s, life.told_s) < inf, what)
