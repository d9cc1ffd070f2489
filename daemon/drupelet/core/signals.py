"""Signals: where each goes, and who answers for a receiver that is not there.

Decides the way of one signal through one daemon; `core/processes.py`, whose other half this is,
decides who is there at all. Bodies pass unopened, but for requests to the daemon itself (names).

Rules
- Signals of one sender to one receiver stay in order: one stream from each runtime, one line to
  each node, one stream to each runtime.
- `from` is checked: a runtime speaks for its own pids only, a node for its own. Everything else is
  dropped and counted. Nobody but a daemon says UP and GONE.
- LINK, MONITOR, ASK and SPAWN for somebody who is not here are answered ``noproc`` (a pid of
  another life of this node, a runtime that is gone, a name that nobody has), ``noconnection`` when
  their node cannot be reached. Other signals for nobody are counted and dropped, as in Erlang.
- A node that is not connected gets `Connect`; signals for it wait, CONNECTING_BYTES_MAX of all
  such nodes together. A failure is remembered for FAILED_S: a storm of messages is no storm of
  dials.
- What a runtime sent to a node before it read that node's GONE goes nowhere: its relations with it
  ended with that GONE, and "after Down nothing that was sent before" holds for the others. It
  answers GONE with GONE; until then it is *fenced*.
- Too much waits on a line: PAUSE from (node, 0) to our runtimes. Too much waits for a runtime
  that does not read (`congested`): PAUSE from its pid with count 0, and its names, to each
  runtime, here or elsewhere, that goes on sending to it. RESUME when it is over.

References: Erlang/OTP, "Distribution Protocol"; `erts/emulator/beam/dist.c`, where busy ports
suspend senders, as PAUSE does here.
Rejected: withholding acknowledgements from all of a node because one runtime does not read (it
would silence its neighbours); opening bodies to find pids (2 us and more).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from drupelet.core.lines import Line
from drupelet.errors import (
    CallError,
    NoConnection,
    RemoteError,
    RemoteProtocolError,
    error_to_fields,
)
from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid, make_pid
from drupelet.wire.limits import (
    CONNECTING_BYTES_MAX,
    PROCESS_NAME_BYTES_MAX,
    PROCESS_NAMES_MAX,
    RUNTIMES_MAX,
)
from drupelet.wire.messages.processes import (
    ASK,
    DEMONITOR,
    DOWN,
    EXIT,
    GONE,
    GROUP,
    HEADER,
    HEADER_BYTES,
    KIND_MAX,
    LINK,
    MONITOR,
    NOCONNECTION,
    NOPROC,
    PAUSE,
    PROXY_MARK,
    REPLY,
    SEND,
    SERIAL_SHIFT,
    SPAWN,
    SPAWNED,
    UP,
    Signal,
    SignalCutter,
    decode_signal,
    encode_signal,
)

FAILED_S: Final = 1.0  # as often as membership dials for a call that wants a node
_SHOWN_MAX: Final = 16  # modules in a refusal
_LABEL_BYTES_MAX: Final = 1_024  # of what runs in a runtime elsewhere: kept for those who attach

_TO_PROXIES: Final = (SEND, MONITOR, DEMONITOR)
_LAST: Final = (EXIT, DOWN)  # a node answers for pids of its former lives

_unpack = HEADER.unpack_from


@dataclass(frozen=True, slots=True)
class ToRuntime:
    """Send these signals to a runtime, in as many CAST frames as they need."""

    serial: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ToNode:
    """Send these segments on the present link of a node."""

    node: str
    segments: list[bytes]


@dataclass(frozen=True, slots=True)
class Connect:
    """Signals wait for that node: answer with `connected` or `connect_failed`."""

    node: str


@dataclass(frozen=True, slots=True)
class Answered:
    """What a runtime answered to `ask`; None: it is gone."""

    ref: int
    body: bytes | None


@dataclass(frozen=True, slots=True)
class ToProxy:
    """A process of ours sends to a stranger's, watches it, or does not any more."""

    signal: Signal


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that `watch` was called for has ended, or was not there."""

    pid: Pid


ProcessEffect: TypeAlias = ToRuntime | ToNode | Connect | Answered | ToProxy | Ended


@dataclass(slots=True)
class Runtime:
    """One runtime of this node."""

    serial: int
    pid: Pid
    label: str
    node_bytes: bytes
    incarnation: int
    cutter: SignalCutter = field(default_factory=SignalCutter)
    out: list[bytes] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    modules: tuple[str, ...] = ()
    congested: bool = False
    silenced: set[Pid] = field(default_factory=set)  # runtimes that were told to pause
    fenced: dict[bytes, list[int]] = field(default_factory=dict)  # GONEs not read: incarnations


@dataclass(slots=True)
class Peer:
    """One node that is or was connected."""

    name: str
    node_bytes: bytes
    incarnation: int
    line: Line
    serial: int = -1  # speaks for any serial of its own
    up: bool = False
    cutter: SignalCutter = field(default_factory=SignalCutter)
    runtimes: dict[int, bytes] = field(default_factory=dict)  # serial -> its UP's body
    told_pause: bool = False

    @property
    def pid(self) -> Pid:
        return make_pid(self.name, self.incarnation, 0)


class Signals:
    """The tables of one daemon, and the way of each signal through them."""

    def __init__(self, node: str, incarnation: int) -> None:
        self.node = node
        self.incarnation = incarnation
        self.pid = Pid(node, incarnation, 0)
        self._node_bytes = node.encode()
        self._runtimes: dict[int, Runtime] = {}
        self._names: dict[str, Pid] = {}
        self._modules: dict[str, list[int]] = {}  # module -> serials, in the order of their coming
        self._peers: dict[bytes, Peer] = {}
        self._aliases: dict[bytes, bytes] = {}
        self._connecting: dict[bytes, list[tuple[Signal, bytes]]] = {}
        self._connecting_bytes = 0
        self._failed: dict[bytes, tuple[str, float]] = {}  # why not, and until when
        self._asked: dict[int, int] = {}  # ref -> serial
        self._watching: dict[Pid, int] = {}  # what this daemon watches itself, with its ref
        self._dirty_runtimes: dict[int, Runtime] = {}
        self._dirty_peers: dict[str, Peer] = {}
        self._effects: list[ProcessEffect] = []
        self._now = 0.0
        self._routed = self._dropped = self._forged = self._answered = 0

    # -- in

    def _receive(self, data: bytes, origin: Runtime | Peer) -> None:
        """Whole signals from a runtime or a node. The hot path: headers only."""
        own_node, own_incarnation = self._node_bytes, self.incarnation
        from_node, from_incarnation = origin.node_bytes, origin.incarnation
        serial = origin.serial
        fenced = origin.fenced if isinstance(origin, Runtime) else None
        position = 0
        end = len(data)
        while position < end:
            (
                length,
                kind,
                to_node_length,
                to_name_length,
                from_node_length,
                to_incarnation,
                to_number,
                sender_incarnation,
                sender_number,
                ref,
            ) = _unpack(data, position)
            following = position + 4 + length
            to_name_start = position + HEADER_BYTES + to_node_length
            from_start = to_name_start + to_name_length
            body_start = from_start + from_node_length
            if body_start > following or not 0 < kind <= KIND_MAX:
                raise RemoteProtocolError("malformed signal")
            if (to_number | to_incarnation | sender_number | sender_incarnation | ref) >> 63:
                raise RemoteProtocolError("number of a signal out of range")
            if (
                data[from_start:body_start] != from_node
                or (sender_incarnation != from_incarnation and (serial >= 0 or kind not in _LAST))
                or (serial >= 0 and sender_number >> SERIAL_SHIFT != serial)
            ):
                self._forged += 1
            elif fenced and data[position + HEADER_BYTES : to_name_start] in fenced:
                self._fenced(decode_signal(data, position)[0], fenced)
            elif to_name_length or not to_number or kind >= PAUSE:
                signal, _ = decode_signal(data, position)
                self._rare(signal, data[position:following], origin)
            else:
                to_node = data[position + HEADER_BYTES : to_name_start]
                if to_node == own_node:
                    runtime = self._runtimes.get(to_number >> SERIAL_SHIFT)
                    if runtime is not None and to_incarnation == own_incarnation:
                        if runtime.congested:
                            self._silence(runtime, data, position)
                        self._put(runtime, data[position:following])
                    else:
                        self._absent(decode_signal(data, position)[0], NOPROC)
                elif serial < 0:
                    self._absent(decode_signal(data, position)[0], NOPROC)  # no node is a way
                else:
                    peer = self._peers.get(to_node)
                    if peer is not None and peer.up and to_incarnation == peer.incarnation:
                        if not peer.line.send(data[position:following]):
                            self._absent(decode_signal(data, position)[0], NOCONNECTION)
                        else:
                            self._routed += 1
                            self._dirty_peers[peer.name] = peer
                            if peer.line.paused and not peer.told_pause:
                                self._pause(peer)
                    else:
                        signal, _ = decode_signal(data, position)
                        self._elsewhere(signal, data[position:following])
            position = following

    def _fenced(self, signal: Signal, fenced: dict[bytes, list[int]]) -> None:
        """From a runtime that has not read the GONE of that node, unless this is its answer."""
        node = signal.to_node.encode()
        if signal.kind != GONE:
            if signal.to_incarnation in (0, *fenced[node]):
                self._dropped += 1  # the GONE tells its sender
            else:  # a pid of the node's next life, heard of from a third node: it does not
                self._absent(signal, NOCONNECTION)
            return
        del fenced[node][0]
        if not fenced[node]:
            del fenced[node]

    def _rare(self, signal: Signal, own: bytes, origin: Runtime | Peer) -> None:
        """To a name, to a daemon, or about flow, nodes and groups."""
        local = origin.serial >= 0
        if local and signal.to_node != self.node:
            if signal.kind in (UP, GONE):
                self._forged += 1
            else:
                self._elsewhere(signal, own)
        elif signal.to_number:
            runtime = self._runtimes.get(signal.to_number >> SERIAL_SHIFT)
            ours = signal.to_node == self.node and signal.to_incarnation == self.incarnation
            if signal.kind in (UP, GONE):
                self._forged += 1
            elif runtime is None or not ours:
                self._absent(signal, NOPROC)
            else:
                self._put(runtime, own)
        elif signal.kind == SPAWN:
            self._spawn(signal, own)
        elif signal.to_name[:1] == PROXY_MARK:
            if local and signal.kind in _TO_PROXIES:
                self._effects.append(ToProxy(signal))
            else:
                self._absent(signal, NOPROC)
        elif signal.to_name:
            pid = self._names.get(signal.to_name)
            if pid is None:
                self._absent(signal, NOPROC)
            else:
                runtime = self._runtimes[pid.number >> SERIAL_SHIFT]
                if runtime.congested:
                    self._silence_sender(runtime, signal)
                to = encode_signal(signal.kind, pid, signal.sender, signal.ref, signal.body)
                self._put(runtime, to)
        else:
            self._to_daemon(signal, own, origin)

    def _to_daemon(self, signal: Signal, own: bytes, origin: Runtime | Peer) -> None:
        if signal.to_incarnation not in (0, self.incarnation):
            self._absent(signal, NOPROC)
        elif signal.kind == ASK:
            self._asked_here(signal, origin)
        elif signal.kind == REPLY and signal.ref in self._asked:
            if origin.serial == self._asked[signal.ref]:
                del self._asked[signal.ref]
                self._effects.append(Answered(signal.ref, signal.body))
        elif signal.kind == DOWN and self._watching.get(signal.sender) == signal.ref:
            self._ended(signal.sender)
        elif signal.kind == GROUP:
            for runtime in self._runtimes.values():
                if runtime is not origin:
                    self._put(runtime, own)
        elif isinstance(origin, Peer) and signal.kind in (UP, GONE):
            self._runtime_elsewhere(signal, own, origin)
        else:
            self._absent(signal, NOPROC)

    def _runtime_elsewhere(self, signal: Signal, own: bytes, peer: Peer) -> None:
        """A node tells of one of its runtimes."""
        serial = signal.from_number >> SERIAL_SHIFT
        fits = len(peer.runtimes) < RUNTIMES_MAX and len(signal.body) <= _LABEL_BYTES_MAX
        if signal.kind == UP and serial and fits:
            peer.runtimes[serial] = signal.body
        elif signal.kind != GONE or peer.runtimes.pop(serial, None) is None:
            self._dropped += 1
            return
        for runtime in self._runtimes.values():
            self._put(runtime, own)
            runtime.silenced.discard(signal.sender)
        if signal.kind == GONE:
            self._ended_with(peer.name, serial)

    def _ended(self, pid: Pid) -> None:
        del self._watching[pid]
        self._effects.append(Ended(pid))

    def _ended_with(self, node: str, serial: int = 0) -> None:
        """A runtime is gone, or (0) a node."""
        for pid in [each for each in self._watching if each.node == node]:
            if not serial or pid.number >> SERIAL_SHIFT == serial:
                self._ended(pid)

    # -- out

    def _put(self, runtime: Runtime, own: bytes) -> None:
        runtime.out.append(own)
        self._routed += 1
        self._dirty_runtimes[runtime.serial] = runtime

    def _route(self, own: bytes) -> None:
        """A signal that this daemon makes itself."""
        signal, _ = decode_signal(own)
        if signal.to_node == self.node:
            runtime = self._runtimes.get(signal.to_number >> SERIAL_SHIFT)
            if runtime is not None and signal.to_incarnation == self.incarnation:
                self._put(runtime, own)
            return
        peer = self._peers.get(signal.to_node.encode())
        if peer is None or not peer.up or peer.incarnation != signal.to_incarnation:
            self._dropped += 1
        elif peer.line.send(own):
            self._dirty_peers[peer.name] = peer
        else:
            self._dropped += 1

    def _elsewhere(self, signal: Signal, own: bytes) -> None:
        """To another node, perhaps one that is not connected."""
        key = signal.to_node.encode()
        peer = self._peers.get(self._aliases.get(key, key))
        if peer is not None and peer.up:
            self._to_peer(peer, signal, own)
            return
        failed = self._failed.get(key)
        if failed is not None:
            if self._now < failed[1]:
                self._unreachable(signal, failed[0])
                return
            del self._failed[key]
        if self._connecting_bytes + len(own) > CONNECTING_BYTES_MAX:
            self._unreachable(signal, "overloaded")
            return
        if key not in self._connecting:
            self._connecting[key] = []
            self._effects.append(Connect(signal.to_node))
        self._connecting[key].append((signal, own))
        self._connecting_bytes += len(own)

    def _to_peer(self, peer: Peer, signal: Signal, own: bytes) -> None:
        """On a line."""
        whoever = signal.to_name or not signal.to_number
        if signal.to_incarnation != peer.incarnation and not (
            whoever and not signal.to_incarnation
        ):
            self._absent(signal, NOPROC)
        elif not peer.line.send(own):
            self._unreachable(signal, "overloaded")
        else:
            self._routed += 1
            self._dirty_peers[peer.name] = peer
            if peer.line.paused and not peer.told_pause:
                self._pause(peer)

    # -- flow

    def _pause(self, peer: Peer) -> None:
        peer.told_pause = True
        self._tell_all(PAUSE, peer.pid, b"")

    def _silence(self, runtime: Runtime, data: bytes, position: int) -> None:
        self._silence_sender(runtime, decode_signal(data, position)[0])

    def _silence_sender(self, runtime: Runtime, signal: Signal) -> None:
        base = signal.from_number >> SERIAL_SHIFT << SERIAL_SHIFT
        sender = make_pid(signal.from_node, signal.from_incarnation, base)
        if sender in runtime.silenced or sender == runtime.pid or not base:
            return
        if len(runtime.silenced) < RUNTIMES_MAX:
            runtime.silenced.add(sender)
            names = [[name, self.node] for name in sorted(runtime.names)]
            self._route(encode_signal(PAUSE, sender, runtime.pid, 0, dumps(names)))

    # -- news

    def _tell(self, runtime: Runtime, kind: int, sender: Pid, body: bytes) -> None:
        self._put(runtime, encode_signal(kind, runtime.pid, sender, 0, body))

    def _tell_all(self, kind: int, sender: Pid, body: bytes) -> None:
        for runtime in self._runtimes.values():
            self._tell(runtime, kind, sender, body)

    def _broadcast(self, kind: int, sender: Pid, body: bytes) -> None:
        """To our runtimes, and to the daemons of all connected nodes."""
        self._tell_all(kind, sender, body)
        for peer in self._peers.values():
            if peer.up:
                if not peer.line.send(encode_signal(kind, peer.pid, sender, 0, body)):
                    self._dropped += 1
                self._dirty_peers[peer.name] = peer

    # -- answers for those who are not there

    def _absent(self, signal: Signal, reason: str) -> None:
        node, incarnation = signal.to_node, signal.to_incarnation
        if signal.to_name and reason == NOPROC:
            node, incarnation = self.node, self.incarnation
        dead = make_pid(node, incarnation, signal.to_number)
        if signal.kind == LINK:
            answer = encode_signal(EXIT, signal.sender, dead, 0, dumps(reason))
        elif signal.kind in (MONITOR, ASK):
            answer = encode_signal(DOWN, signal.sender, dead, signal.ref, dumps(reason))
        elif signal.kind == SPAWN:
            error = RemoteError("undef", f"no such process on {node}")
            self._spawn_failed(signal, error)
            return
        else:
            self._dropped += 1
            return
        self._answered += 1
        self._route(answer)

    def _unreachable(self, signal: Signal, reason: str) -> None:
        if signal.kind == SPAWN:
            self._spawn_failed(signal, NoConnection(reason))
        else:
            self._absent(signal, NOCONNECTION)

    def _spawn_failed(self, signal: Signal, error: CallError) -> None:
        self._answered += 1
        body = dumps(error_to_fields(error))
        self._route(encode_signal(SPAWNED, signal.sender, self.pid, signal.ref, body))

    # -- spawning

    def _spawn(self, signal: Signal, own: bytes) -> None:
        serials = self._modules.get(signal.to_name)
        if serials:
            self._put(self._runtimes[serials[0]], own)
            return
        known = ", ".join(sorted(self._modules)[:_SHOWN_MAX]) or "none"
        what = f"no process on {self.node} can start code of {signal.to_name!r}; modules: {known}"
        what += "; `drupelet nl FILE.py` ships code to all nodes"
        self._spawn_failed(signal, RemoteError("undef", what))

    # -- names

    def _asked_here(self, signal: Signal, origin: Runtime | Peer) -> None:
        try:
            request = loads(signal.body)
        except RemoteProtocolError:
            request = None
        match request:
            case ["register", str(name), Pid() as pid] if isinstance(origin, Runtime):
                refused = self._register(name, pid, origin)
                value: object = ["error", refused] if refused else True
            case ["unregister", str(name)] if isinstance(origin, Runtime):
                value = name in origin.names
                if name in origin.names:
                    origin.names.discard(name)
                    del self._names[name]
            case ["whereis", str(name)]:
                value = self._names.get(name)
            case ["registered"]:
                value = [[name, self._names[name]] for name in sorted(self._names)]
            case _:
                value = ["error", "a daemon answers whereis and registered, and its own runtimes "
                         "register and unregister"]  # fmt: skip
        if signal.ref:
            self._answered += 1
            self._route(encode_signal(REPLY, signal.sender, self.pid, signal.ref, dumps(value)))

    def _register(self, name: str, pid: Pid, runtime: Runtime) -> str:
        """Why not; "" when it is registered."""
        holder = self._names.get(name)
        if holder is not None:
            return f"{name!r} is the name of {holder}"
        if not 0 < len(name.encode()) <= PROCESS_NAME_BYTES_MAX:
            return f"a name has 1 to {PROCESS_NAME_BYTES_MAX} bytes"
        if (pid.node, pid.incarnation, pid.number >> SERIAL_SHIFT) != (
            self.node,
            self.incarnation,
            runtime.serial,
        ):
            return f"{pid} does not run here"
        if len(self._names) >= PROCESS_NAMES_MAX:
            return f"{self.node} has {PROCESS_NAMES_MAX} names already"
        self._names[name] = pid
        runtime.names.add(name)
        return ""
