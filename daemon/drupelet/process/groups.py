"""Process groups: who is a member, here and elsewhere, and how every runtime comes to know it.

Decides what a runtime knows of all groups. Each runtime owns the membership of its own processes
and tells the others; nobody merges, so nothing can conflict (a two-valued fact with one writer).

The bodies of GROUP signals, from runtime to runtime
- ``["state", sequence, piece, last, [[scope, group, [pid, ...]], ...]]``: all that I own, in pieces
  of at most PIECE members; it replaces what was known. Sent when the other comes UP, or asks.
- ``["join" | "leave", sequence, scope, group, [pid, ...]]``: one change.
- ``["at", sequence]``: my last change, QUIET_S after it, and when the way there is free.
- ``["again"]``: send your state.

Rules
- Signals between two runtimes are FIFO and are not lost while neither is GONE; GONE drops what was
  known of the other, UP brings its state whole. So there is no clock and no periodic gossip.
- What makes sure anyway: every change has a number. A gap (a line that was full and refused) asks
  for the state again, until it comes; a lost last change shows by the "at" after it.
- Others are told only of processes that they can reach: a pid of this node, or one that is called
  so outside (outside.py).
- A member that ends is gone from its groups before its `Down` is sent.
- A pid may join twice, and is a member until it has left twice.
- The whole is bounded (wire/limits.py). Here a join above a maximum raises; from elsewhere it is
  not kept, and counted: every runtime has the same maxima, so that only a race can do it.

References: Erlang/OTP, `pg` (kernel/src/pg.erl: discover, sync, join, leave; overlay scopes).
Rejected: the daemon as owner (one more copy, and a round trip for each join); CRDT sets with
tombstones (for facts with many writers); a periodic exchange of digests (64 nodes talk all night).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import trio

from drupelet.errors import NotSendable, RemoteProtocolError
from drupelet.process.table import SLACK, Process
from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid, Ref, check_plain_name
from drupelet.wire.limits import (
    GROUP_MEMBERS_MAX,
    GROUP_MONITORS_MAX,
    GROUP_NAME_BYTES_MAX,
    GROUP_SCOPES_MAX,
    GROUPS_MAX,
)
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import Signal, encode_signal

if TYPE_CHECKING:
    from drupelet.process.runtime import Runtime

SCOPE: Final = "pg"  # OTP's default scope
PIECE: Final = 1_000  # members in one signal: 40 kB
QUIET_S: Final = 0.3
RETRY_S: Final = 0.6  # a state that was asked for and did not come; doubles up to ...
RETRY_MAX_S: Final = 5.0
UNKNOWN: Final = -1

Key = tuple[str, object]  # (scope, group)


class _Owner:
    """What one runtime told of its processes."""

    __slots__ = ("groups", "pending", "pending_count", "piece", "sequence", "timer")

    def __init__(self) -> None:
        self.groups: dict[Key, dict[Pid, int]] = {}  # how often each has joined
        self.sequence = UNKNOWN
        self.piece = 0  # the next of its state
        self.pending: dict[Key, Counter[Pid]] = {}
        self.pending_count = 0  # members in it
        self.timer: list[object] | None = None


class Groups:
    """The groups as one runtime knows them."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._own = _Owner()
        self._own.sequence = 0
        self._others: dict[Pid, _Owner] = {}
        self._by_key: dict[Key, list[_Owner]] = {}
        self._scopes: Counter[str] = Counter()  # groups in each
        self._member_count = 0
        self._joined: dict[int, list[Key]] = {}  # our processes, by the number of their pid
        self._monitors: dict[Ref, tuple[Process, str, object]] = {}
        self._monitoring: dict[int, set[Ref]] = {}
        self._watched: dict[Key, dict[Ref, Process]] = {}  # group ALL: the whole scope
        self._quiet: list[object] | None = None
        self.refused_count = 0

    # -- what programs ask for

    def join(self, scope: str, group: object, pids: list[Pid]) -> None:
        """Processes of this runtime join. Raises: `ValueError`, `NotSendable`."""
        key = self._key(scope, group)
        for pid in pids:
            process = self._runtime.find(pid)
            if process is None or process.exiting:
                raise ValueError(f"{pid} is no process of this program that runs")
        self._check_room(key, len(pids))
        for pid in pids:
            self._joined.setdefault(pid.number, []).append(key)
        self._add(self._own, key, Counter(pids))
        self._tell("join", key, pids)

    def leave(self, scope: str, group: object, pids: list[Pid]) -> bool:
        """They leave, each once; False when none of them was in it. Raises: `ValueError`."""
        key = self._key(scope, group)
        members = self._own.groups.get(key, {})
        leaving = +Counter({pid: min(n, members.get(pid, 0)) for pid, n in Counter(pids).items()})
        for pid in leaving.elements():
            self._forget_joined(pid.number, key)
        if leaving:
            self._remove(self._own, key, leaving)
            self._tell("leave", key, list(leaving.elements()))
        return bool(leaving)

    def members(self, scope: str, group: object) -> list[Pid]:
        """All members, those of this program first."""
        return [
            pid
            for owner in self._owners(scope, group)
            for pid, count in owner.groups[scope, group].items()
            for _ in range(count)
        ]

    def groups(self, scope: str, *, local: bool = False) -> list[object]:
        """The groups that have members."""
        found = self._own.groups if local else self._by_key
        return [group for each, group in found if each == scope]

    def monitor(self, process: Process, scope: str, group: object) -> Ref:
        """Tell `process` who joins and leaves. `group`: ALL for every one of the scope."""
        if group is not ALL:
            self._key(scope, group)
        if len(self._monitors) >= GROUP_MONITORS_MAX:
            raise ValueError(f"{GROUP_MONITORS_MAX:,} monitors of groups are enough")
        ref = self._runtime.ref(self._runtime.new_ref())
        self._monitors[ref] = (process, scope, group)
        self._monitoring.setdefault(process.pid.number, set()).add(ref)
        self._watched.setdefault((scope, group), {})[ref] = process
        return ref

    def demonitor(self, ref: Ref) -> bool:
        """No more; False when it was no monitor."""
        entry = self._monitors.pop(ref, None)
        if entry is None:
            return False
        process, scope, group = entry
        self._monitoring[process.pid.number].discard(ref)
        if not self._monitoring[process.pid.number]:
            del self._monitoring[process.pid.number]
        watched = self._watched[scope, group]
        del watched[ref]
        if not watched:
            del self._watched[scope, group]
        return True

    # -- what the runtime tells

    def process_ended(self, process: Process) -> None:
        """A process of this runtime has ended."""
        number = process.pid.number
        if number in self._joined:
            for key, count in Counter(self._joined.pop(number)).items():
                pids = [process.pid] * count
                self._remove(self._own, key, Counter(pids))
                self._tell("leave", key, pids)
        if number in self._monitoring:
            for ref in list(self._monitoring[number]):
                self.demonitor(ref)

    def runtime_up(self, pid: Pid) -> None:
        """Another runtime is there: it gets what we own."""
        owner = self._others.setdefault(pid, _Owner())
        self._send_state(pid)
        self._wait_state(pid, owner, RETRY_S)

    def runtime_gone(self, pid: Pid) -> None:
        """A runtime, or (number 0) a node with all of its runtimes, is gone."""
        gone = [pid] if pid.number else [each for each in self._others if each.node == pid.node]
        for each in gone:
            owner = self._others.pop(each, None)
            if owner is not None:
                if owner.timer is not None:
                    self._runtime.timers.cancel(owner.timer)
                self._replace(owner, {})

    def receive(self, signal: Signal) -> None:
        """A GROUP signal. Raises: `RemoteProtocolError`."""
        owner = self._others.get(signal.sender)
        if owner is None:  # gone meanwhile
            self.refused_count += 1
            return
        match loads(signal.body):
            case ["state", int(sequence), int(piece), bool(last), list(entries)]:
                whole = self._receive_state(signal.sender, owner, piece, entries)
                if last and whole:
                    state, owner.pending = owner.pending, {}
                    owner.sequence, owner.piece = sequence, 0
                    self._replace(owner, state)
            case ["join" | "leave" as verb, int(sequence), str(scope), group, list(pids)]:
                if self._in_order(signal.sender, owner, sequence):
                    key, members = _check(signal.sender, scope, group, pids)
                    if verb == "leave":
                        self._remove(owner, key, members)
                    elif self._has_room(key, len(pids)):
                        self._add(owner, key, members)
                    else:
                        self.refused_count += 1
            case ["at", int(sequence)]:
                if owner.sequence not in (sequence, UNKNOWN):
                    self._ask_again(signal.sender, owner)
            case ["again"]:
                self._send_state(signal.sender)
            case _:
                raise RemoteProtocolError("malformed group signal")

    # -- from elsewhere

    def _in_order(self, sender: Pid, owner: _Owner, sequence: int) -> bool:
        if owner.sequence == UNKNOWN:
            return False  # its state is under way
        if sequence == owner.sequence + 1:
            owner.sequence = sequence
            return True
        self._ask_again(sender, owner)
        return False

    def _ask_again(self, sender: Pid, owner: _Owner) -> None:
        owner.sequence = UNKNOWN
        self._send(sender, ["again"])
        if owner.timer is None:
            self._wait_state(sender, owner, RETRY_S)

    def _wait_state(self, pid: Pid, owner: _Owner, wait_s: float) -> None:
        def ask() -> None:
            owner.timer = None
            if owner.sequence == UNKNOWN:
                self._wait_state(pid, owner, min(wait_s * 2, RETRY_MAX_S))
                self._send(pid, ["again"])

        if owner.timer is None:
            owner.timer = self._runtime.timers.add(trio.current_time() + wait_s, ask)

    def _receive_state(self, sender: Pid, owner: _Owner, piece: int, entries: list[object]) -> bool:
        """Whether `piece` goes on from what is there; what is above the maxima is left out."""
        if piece == 0:
            owner.pending, owner.pending_count, owner.piece = {}, 0, 0
            owner.sequence = UNKNOWN  # until all of it is there
            self._wait_state(sender, owner, RETRY_S)
        if piece != owner.piece or owner.sequence != UNKNOWN:
            owner.pending, owner.pending_count, owner.piece = {}, 0, UNKNOWN
            return False  # one before it was lost; the state will be asked for again
        owner.piece += 1
        for entry in entries:
            match entry:
                case [str(scope), group, list(pids)]:
                    key, members = _check(sender, scope, group, pids)
                    if (
                        len(owner.pending) - (key in owner.pending) >= GROUPS_MAX
                        or owner.pending_count + len(pids) > GROUP_MEMBERS_MAX
                    ):
                        self.refused_count += 1
                        continue
                    owner.pending.setdefault(key, Counter()).update(members)
                    owner.pending_count += len(pids)
                case _:
                    raise RemoteProtocolError("malformed group state")
        return True

    def _replace(self, owner: _Owner, state: dict[Key, Counter[Pid]]) -> None:
        for key in list(owner.groups):
            left = Counter(owner.groups[key]) - state.get(key, Counter())
            if left:
                self._remove(owner, key, left)
        for key, members in state.items():
            joined = members - Counter(owner.groups.get(key, {}))
            if joined and self._has_room(key, joined.total()):
                self._add(owner, key, joined)
            elif joined:
                self.refused_count += 1

    # -- to elsewhere

    def _tell(self, verb: str, key: Key, pids: list[Pid]) -> None:
        pids = [pid for pid in pids if self._is_reachable(pid)]
        if not pids:
            return
        self._own.sequence += 1
        if not self._others:
            return
        scope, group = key
        for start in range(0, len(pids), PIECE):
            if start:
                self._own.sequence += 1
            piece = pids[start : start + PIECE]
            body = dumps([verb, self._own.sequence, scope, group, piece])
            for pid in self._others:
                self._transmit(pid, body)
        self._tell_sequence_later()

    def _tell_sequence_later(self) -> None:
        if self._quiet is None:
            at = trio.current_time() + QUIET_S
            self._quiet = self._runtime.timers.add(at, self._tell_sequence)

    def _tell_sequence(self) -> None:
        self._quiet = None
        for pid in self._others:
            if self._runtime.crowded(pid):  # where a change may just have been refused
                self._tell_sequence_later()
            else:
                self._send(pid, ["at", self._own.sequence])

    def _send_state(self, to: Pid) -> None:
        reachable = {
            key: {pid: count for pid, count in members.items() if self._is_reachable(pid)}
            for key, members in self._own.groups.items()
        }
        pieces = list(_pieces(reachable)) or [[]]
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            self._send(to, ["state", self._own.sequence, number, last, piece])

    def _send(self, to: Pid, body: list[object]) -> None:
        self._transmit(to, dumps(body))

    def _transmit(self, to: Pid, body: bytes) -> None:
        self._runtime.transmit(encode_signal(wire.GROUP, to, self._runtime.pid, 0, body))

    def _is_reachable(self, pid: Pid) -> bool:
        """Whether others reach that process of ours by its pid."""
        own, outside = self._runtime.pid, self._runtime.outside
        if outside is not None and pid in outside:
            return True  # the others are told its pid of this node
        return (pid.node, pid.incarnation, pid.number >> wire.SERIAL_SHIFT) == (
            own.node,
            own.incarnation,
            own.number >> wire.SERIAL_SHIFT,
        )

    # -- the tables

    def _owners(self, scope: str, group: object) -> list[_Owner]:
        try:
            return self._by_key.get((scope, group), [])
        except TypeError:
            raise _no_group(group) from None

    def _key(self, scope: str, group: object) -> Key:
        check_plain_name(scope)
        return (scope, _check_group(group))

    def _check_room(self, key: Key, count: int) -> None:
        if not self._has_room(key, count):
            raise ValueError(
                f"the groups of the cluster have at most {GROUP_SCOPES_MAX} scopes, "
                f"{GROUPS_MAX:,} groups and {GROUP_MEMBERS_MAX:,} members"
            )

    def _has_room(self, key: Key, count: int) -> bool:
        return (
            self._member_count + count <= GROUP_MEMBERS_MAX
            and (key in self._by_key or len(self._by_key) < GROUPS_MAX)
            and (key[0] in self._scopes or len(self._scopes) < GROUP_SCOPES_MAX)
        )

    def _add(self, owner: _Owner, key: Key, joined: Counter[Pid]) -> None:
        if not joined:
            return
        owners = self._by_key.get(key)
        if owners is None:
            owners = self._by_key[key] = []
            self._scopes[key[0]] += 1
        members = owner.groups.get(key)
        if members is None:
            members = owner.groups[key] = {}
            if owner is self._own:
                owners.insert(0, owner)
            else:
                owners.append(owner)
        for pid, count in joined.items():
            members[pid] = members.get(pid, 0) + count
        self._member_count += joined.total()
        self._notify("join", key, joined)

    def _remove(self, owner: _Owner, key: Key, leaving: Counter[Pid]) -> None:
        members = owner.groups.get(key)
        if members is None:
            return
        gone = Counter({pid: min(count, members.get(pid, 0)) for pid, count in leaving.items()})
        gone = +gone
        if not gone:
            return
        for pid, count in gone.items():
            members[pid] -= count
            if not members[pid]:
                del members[pid]
        self._member_count -= gone.total()
        if not members:
            del owner.groups[key]
            owners = self._by_key[key]
            owners.remove(owner)
            if not owners:
                del self._by_key[key]
                self._scopes[key[0]] -= 1
                if not self._scopes[key[0]]:
                    del self._scopes[key[0]]
        self._notify("leave", key, gone)

    def _forget_joined(self, number: int, key: Key) -> None:
        keys = self._joined[number]
        keys.remove(key)
        if not keys:
            del self._joined[number]

    def _notify(self, verb: str, key: Key, pids: Counter[Pid]) -> None:
        scope, group = key
        for watched in (key, (scope, ALL)):
            for ref, process in list(self._watched.get(watched, {}).items()):
                if len(process.messages or ()) >= process.limit + SLACK:
                    process.dropped_count += 1
                else:
                    self._runtime.put(process, (ref, verb, group, list(pids.elements())))


ALL: Final = object()  # in the place of a group: every group of the scope


def _check_group(group: object) -> object:
    try:
        hash(group)
        if len(dumps(group)) <= GROUP_NAME_BYTES_MAX:
            return group
    except (TypeError, NotSendable):
        pass
    raise _no_group(group)


def _no_group(group: object) -> ValueError:
    return ValueError(
        f"a group is named by a text, a number or a tuple of such, of at most "
        f"{GROUP_NAME_BYTES_MAX} bytes, not by {group!r:.80}"
    )


def _check(
    sender: Pid, scope: str, group: object, pids: Iterable[object]
) -> tuple[Key, Counter[Pid]]:
    """What another runtime says of its own processes, and of nobody else's."""
    serial = sender.number >> wire.SERIAL_SHIFT
    members: Counter[Pid] = Counter()
    try:
        check_plain_name(scope)
        _check_group(group)
    except ValueError:
        raise RemoteProtocolError("malformed group") from None
    for pid in pids:
        if (
            not isinstance(pid, Pid)
            or (pid.node, pid.incarnation) != (sender.node, sender.incarnation)
            or pid.number >> wire.SERIAL_SHIFT != serial
        ):
            raise RemoteProtocolError("a member of another runtime")
        members[pid] += 1
    return (scope, group), members


def _pieces(groups: dict[Key, dict[Pid, int]]) -> Iterator[list[object]]:
    piece: list[object] = []
    count = 0
    for (scope, group), members in groups.items():
        pids = list(Counter(members).elements())
        for start in range(0, len(pids), PIECE):
            part = pids[start : start + PIECE]
            if count + len(part) > PIECE and piece:
                yield piece
                piece, count = [], 0
            piece.append([scope, group, part])
            count += len(part)
    if piece:
        yield piece
