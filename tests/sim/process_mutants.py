"""Broken machines: each breaks one rule of processes, and the ledger has to find it out.

Each mutant is a router, a line or a runtime with one thing taken away or done wrong. `MUTANTS`
says which of the semantics has to notice it; others often do too, and sooner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drupelet.core.lines import HEADER, Arrived, Line
from drupelet.core.signals import Peer, Runtime
from drupelet.process.kernel import Target
from drupelet.process.table import Process
from drupelet.wire.ids import Pid, Ref
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import (
    Signal,
    encode_signal,
    split_signals,
)
from drupelet.wire.notices import Down, Exit
from tests.sim.process_watched import Watched, WatchedRouter
from tests.sim.process_world import Machines

# -- lines


class ForgetsWhatWasSent(Line):
    __slots__ = ()

    def link_changed(self) -> None:
        super().link_changed()
        self._sent = self._acked + len(self._out)


class TakesTwice(Line):
    __slots__ = ()

    def _take(self, segment: bytes, offset: int, now: float) -> bytes:
        super()._take(segment, offset, now)
        return segment[HEADER.size :]


class KeepsAcrossNodeDown(Line):
    __slots__ = ()

    def reset(self, epoch: int) -> None:
        out = self._out
        super().reset(epoch)
        self._out = out


class NeverSaysThatItWasLost(Line):
    __slots__ = ()

    def receive(self, segment: bytes, epoch: int, now: float) -> Arrived:
        return super().receive(segment, epoch, now)._replace(lost=False)


def with_line(line: type[Line]) -> type[WatchedRouter]:
    """A router with other lines."""

    class WithLine(WatchedRouter):
        def node_up(self, node: str, incarnation: int, now: float) -> None:
            super().node_up(node, incarnation, now)
            self._peers[node.encode()].line.__class__ = line  # the same slots

    return WithLine


# -- routers


class DropsAMessageInFifty(WatchedRouter):
    def receive_runtime(self, serial: int, data: bytes, now: float) -> None:
        runtime = self._runtimes[serial]
        whole = runtime.cutter.receive_data(data)
        kept = b""
        for signal, own in split_signals(whole):
            kept += b"" if signal.kind == wire.SEND and sum(own) % 50 == 0 else own
        self._now = now
        self._receive(kept, runtime)


class TellsNobodyOfANodeDown(WatchedRouter):
    def _lose(self, peer: Peer) -> None:
        peer.runtimes.clear()


class TellsNobodyOfARuntime(WatchedRouter):
    def _broadcast(self, kind: int, sender: Pid, body: bytes) -> None:
        if kind != wire.GONE:
            super()._broadcast(kind, sender, body)


class TakesTooEarly(WatchedRouter):
    """Signals for a node from runtimes that have not read that it was down."""

    def _lose(self, peer: Peer) -> None:
        super()._lose(peer)
        for runtime in self._runtimes.values():
            runtime.fenced.clear()


class ForgetsIncarnations(WatchedRouter):
    """What is for a process of a former life goes to who has its number now."""

    def _receive(self, data: bytes, origin: Runtime | Peer) -> None:
        changed = b""
        for signal, own in split_signals(data):
            peer = self._peers.get(signal.to_node.encode())
            now = self.incarnation if signal.to_node == self.node else None
            if peer is not None:
                now = peer.incarnation
            if signal.kind == wire.SEND and not signal.to_name and now is not None:
                to = Pid(signal.to_node, now, signal.to_number)
                own = encode_signal(signal.kind, to, signal.sender, signal.ref, signal.body)
            changed += own
        super()._receive(changed, origin)


class NeverGoesOn(WatchedRouter):
    """A runtime reads again, and nobody is told."""

    def congested(self, serial: int, on: bool) -> None:
        if not on and serial in self._runtimes:
            self._runtimes[serial].silenced.clear()
        super().congested(serial, on)


# -- runtimes


class Overtakes(Watched):
    """Two messages that come after another in one piece change places."""

    def receive(self, data: bytes) -> None:
        signals = list(split_signals(self._cutter.receive_data(data)))
        for index in range(len(signals) - 1):
            one, other = signals[index][0], signals[index + 1][0]
            if one.kind == other.kind == wire.SEND and one[1:9] == other[1:9]:
                signals[index], signals[index + 1] = signals[index + 1], signals[index]
        for signal, _ in signals:
            self.receive_signal(signal)


class DownTwice(Watched):
    def down(self, process: Process, ref: Ref, target: Target, reason: object) -> None:
        super().down(process, ref, target, reason)
        self.put(process, Down(ref, target, reason))


class NoDownForOthers(Watched):
    """Who ends tells the watchers of its own runtime only."""

    def _tell_down(self, pid: Pid, ref: object, watcher: Pid, reason: object) -> None:
        if not isinstance(ref, Ref) or self.is_local(watcher):
            super()._tell_down(pid, ref, watcher, reason)


class TellsBeforeItEnds(Watched):
    """Down when it is told to end; its finally still has something to say."""

    def cancel(self, process: Process) -> None:
        watchers, process.watchers = process.watchers, None
        for ref, watcher in (watchers or {}).items():
            self._tell_down(process.pid, ref, watcher, process.exit_reason)
        super().cancel(process)


class KillIsTrapped(Watched):
    def exit_sent(self, process: Process, sender: Pid, reason: object) -> None:
        if reason == "kill" and process.trap_exit:
            self.put(process, Exit(sender, reason))
        else:
            super().exit_sent(process, sender, reason)


class KillComesTooLate(Watched):
    """Who is ending for another reason keeps that reason."""

    def exit_process(self, process: Process, reason: object) -> None:
        before = process.exit_reason if process.exiting else reason
        super().exit_process(process, reason)
        process.exit_reason = before


class EndsAtOnce(Watched):
    """The end is told while the finally runs."""

    def cancel(self, process: Process) -> None:
        self.end(process, process.exit_reason)
        super().cancel(process)


class NeverAbandons(Watched):
    def _abandon(self, process: Process) -> None:
        return


class SameIncarnation(Watched):
    """A node that was restarted gives its old pids again."""

    def attach(self, node: str, incarnation: int, serial: int) -> None:
        super().attach(node, 1, serial)


class NeverHoldsOthersBack(Watched):
    def _silence(self, process: Process, sender_runtime: Pid) -> None:
        return


class NeverLetsOthersGoOn(Watched):
    def _unsilence(self, process: Process) -> None:
        process.silenced = None


class DoesNotHoldBack(Watched):
    def _held_back(self, place: Pid | tuple[str, str]) -> Any:
        return None


class TakesWhatComes(Watched):
    """Its own processes may fill any mailbox."""

    def full(self, process: Process, *args: Any) -> bool:
        return False


class KeepsMonitorsOverPartitions(Watched):
    def _lose(self, process: Process, hit: Any, reason: object) -> None:
        monitors, process.monitors = process.monitors, None
        super()._lose(process, hit, reason)
        process.monitors = monitors


class NodeDownTwice(Watched):
    def node_gone(self, pid: Pid, reason: object) -> None:
        watchers = dict(self.node_watchers.get(pid.node, {}))
        super().node_gone(pid, reason)
        if not pid.number and watchers:
            self.node_watchers[pid.node] = watchers
            super().node_gone(pid, reason)


class KeepsNames(Watched):
    def on_name_freed(self, name: str, pid: Pid) -> None:
        return


class LinksOneSide(Watched):
    def _on_link(self, signal: Signal) -> None:
        return

    def receive_signal(self, signal: Signal) -> None:
        if signal.kind != wire.LINK:
            super().receive_signal(signal)


class SpawnsTwice(Watched):
    def spawn_request(self, signal: Signal) -> None:
        super().spawn_request(signal)
        super().spawn_request(signal)


class AnswersAnybody(Watched):
    """An answer wakes who asked last."""

    def answered(self, number: int, replier: Pid, value: object) -> None:
        if isinstance(value, tuple):
            number = max(self.asks, default=number)
        super().answered(number, replier, value)


@dataclass(frozen=True)
class Mutant:
    """`found_as`: the semantics of which one has to find it."""

    machines: Machines
    found_as: frozenset[str]


def _router(router: type[WatchedRouter], *found_as: str) -> Mutant:
    return Mutant(Machines(router=router), frozenset(found_as))


def _runtime(runtime: type[Watched], *found_as: str) -> Mutant:
    return Mutant(Machines(runtime=runtime), frozenset(found_as))


MUTANTS: dict[str, Mutant] = {
    "forgets_what_was_sent": _router(with_line(ForgetsWhatWasSent), "reconnect"),
    "takes_twice": _router(with_line(TakesTwice), "fifo"),
    "keeps_across_node_down": _router(with_line(KeepsAcrossNodeDown), "after_down"),
    "never_says_that_it_was_lost": _router(with_line(NeverSaysThatItWasLost), "down"),
    "drops_a_message_in_fifty": _router(DropsAMessageInFifty, "fifo"),
    "tells_nobody_of_a_node_down": _router(TellsNobodyOfANodeDown, "partition", "down"),
    "tells_nobody_of_a_runtime": _router(TellsNobodyOfARuntime, "down"),
    "takes_too_early": _router(TakesTooEarly, "down", "links"),
    "forgets_incarnations": _router(ForgetsIncarnations, "pids"),
    "never_goes_on": _router(NeverGoesOn, "pressure"),
    "overtakes": _runtime(Overtakes, "fifo"),
    "down_twice": _runtime(DownTwice, "down"),
    "no_down_for_others": _runtime(NoDownForOthers, "down"),
    "tells_before_it_ends": _runtime(TellsBeforeItEnds, "down"),
    "kill_is_trapped": _runtime(KillIsTrapped, "kill"),
    "kill_comes_too_late": _runtime(KillComesTooLate, "kill"),
    "ends_at_once": _runtime(EndsAtOnce, "finally"),
    "never_abandons": _runtime(NeverAbandons, "finally"),
    "same_incarnation": _runtime(SameIncarnation, "pids"),
    "never_holds_others_back": _runtime(NeverHoldsOthersBack, "pressure"),
    "never_lets_others_go_on": _runtime(NeverLetsOthersGoOn, "pressure"),
    "does_not_hold_back": _runtime(DoesNotHoldBack, "pressure"),
    "takes_what_comes": _runtime(TakesWhatComes, "pressure"),
    "keeps_monitors_over_partitions": _runtime(KeepsMonitorsOverPartitions, "down"),
    "node_down_twice": _runtime(NodeDownTwice, "partition"),
    "keeps_names": _runtime(KeepsNames, "names"),
    "links_one_side": _runtime(LinksOneSide, "links"),
    "spawns_twice": _runtime(SpawnsTwice, "spawn"),
    "answers_anybody": _runtime(AnswersAnybody, "asks"),
}
