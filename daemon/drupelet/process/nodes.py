"""The other nodes, as a runtime sees them: names, spawns elsewhere, nodes that come and go.

Decides what a runtime asks of its daemon and of other runtimes, and what it answers them.

Rules
- A name is free or taken on a whole node: the daemon has the table, the runtime its own part.
- Only the name of a function travels, with the digest of the code that the spawner has; another
  digest there is `CodeMismatch` here. Links and monitors of a spawn hold from its first moment.
- `monitor_node` gives one `NodeDown` for each time that it was asked for, and is over then.
- What is taken back of a monitor by name of elsewhere (also that of an `ask` that is given up) goes
  to the name. Where its holder gave the name away meanwhile, he keeps a mark of 100 bytes until his
  end; nobody is told anything wrong by it.

References: `erlang:spawn_request`, `erlang:monitor_node`, `erlang:register`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Final, cast

from drupelet.errors import (
    CallError,
    NoConnection,
    NotSendable,
    ProcessDown,
    RemoteError,
    RemoteProtocolError,
    error_from_fields,
    error_to_fields,
)
from drupelet.process.incoming import Incoming
from drupelet.process.kernel import NONODE, Ask
from drupelet.process.outside import Outside
from drupelet.process.table import DEFAULT_MAILBOX, Process
from drupelet.process.transport import Transport
from drupelet.wire.codec import dumps, loads
from drupelet.wire.ids import Pid, Ref, make_pid
from drupelet.wire.limits import PROCESS_NAME_BYTES_MAX, PROCESS_NAMES_MAX
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import (
    NOCONNECTION,
    NOPROC,
    Signal,
    SignalCutter,
    decode_signal,
    encode_signal,
)
from drupelet.wire.notices import NodeDown, NodeUp

SHOWN_MAX: Final = 10_000  # processes in one listing
NODE_WATCHES_MAX: Final = 1_000  # NodeDown of one node that one process asked for
PROMPT: Final = "__console__"  # the module of what is typed in `drupelet shell`
_BUNDLED: Final = "drupelet.bundled."  # as a program imports bundled missions

Function = Callable[..., object]
Resolve = Callable[[str, str, bytes], Function]


class SpawnAsk(Ask):
    """A spawn elsewhere under way."""

    __slots__ = ("link", "monitor", "process")
    is_spawn = True

    def __init__(
        self, node: str, module: str, task: object, process: Process, *, link: bool, monitor: bool
    ) -> None:
        super().__init__((module, node), task)
        self.process = process
        self.link = link
        self.monitor = monitor


class Nodes(Incoming):
    """A runtime's share in its node, and what it knows of the others."""

    transport: Transport | None
    start: Callable[..., Process]

    def __init__(self) -> None:
        super().__init__()
        self.nodes: dict[str, int] = {}  # connected nodes, with their incarnation
        self.runtimes: set[Pid] = set()  # of all nodes, this one's included, without ourselves
        self.node_watchers: dict[str, dict[Process, int]] = {}  # how often each asked
        self.nodes_watchers: set[Process] = set()  # of every node
        self.resolve: Resolve = resolve_loaded
        self.digest_of: Callable[[str], bytes] = lambda module: b""
        self.stream_error_count = 0
        self.outside: Outside | None = (
            None  # what processes that are older than our node are called
        )
        self._cutter = SignalCutter()
        self.nobody = Process(self, Pid(self.node, 0, 0), None, DEFAULT_MAILBOX)
        self.nobody.exiting = True

    # -- the stream of signals

    def receive(self, data: bytes) -> None:
        """A piece of the stream of signals, cut anywhere.

        Raises: `RemoteProtocolError` for what is no signal; a body that is no value only costs
        its own signal.
        """
        data = self._cutter.receive_data(data)
        position = 0
        while position < len(data):
            signal, position = decode_signal(data, position)
            if self.outside is not None:
                signal = self.outside.inward(signal)
            try:
                self.receive_signal(signal)
            except RemoteProtocolError:
                self.stream_error_count += 1

    def attached(self, node: str, incarnation: int, serial: int, nodes: Sequence[str] = ()) -> None:
        """This runtime is part of a node now; UP signals tell of the others."""
        self.attach(node, incarnation, serial)
        if self.processes:
            older = [process.pid for process in self.processes.values()]
            self.outside = Outside(older, self.pid)

    def detached(self, reason: str = NOCONNECTION) -> None:
        """The daemon is gone: so are all nodes and runtimes but this one."""
        self.transport = None
        self.outside = None
        self._cutter = SignalCutter()
        gone = {(self.node, self.incarnation), *self.nodes.items(), *self.remote}
        for name, incarnation in sorted(gone):
            self.gone(make_pid(name, incarnation, 0), reason, [])
        for key in list(self.paused):
            self._resume(key)
        for number, ask in list(self.asks.items()):  # nodes that were still being connected
            if not isinstance(ask.target, Pid) or not self.is_local(ask.target):
                self.ask_down(number, reason)
        self.runtimes.clear()
        self.attach(NONODE, 0, 0)

    # -- names

    async def register(self, name: str, process: Process) -> str:
        """Register on the whole node; "" or why not."""
        if name in self.names:
            return f"{name!r} is the name of {self.names[name].pid}"
        if len(self.names) >= PROCESS_NAMES_MAX:
            return f"{self.node} has {PROCESS_NAMES_MAX} names already"
        self.names[name] = process
        if process.names is None:
            process.names = []
        process.names.append(name)
        if self.transport is not None:
            try:
                refused = await self._ask_daemon(["register", name, process.pid], self.node)
            except BaseException:  # whether or not it was heard
                if self.names.get(name) is process:  # it may have ended, and another has the name
                    self.unregister(name)
                raise
            match refused:
                case ["error", str(text)]:
                    self.forget_name(name, process)
                    return text
        if not process.alive:
            if self.names.get(name) is process:  # it unwinds
                self.unregister(name)
            return f"{process.pid} is not alive"
        self.named(process)
        return ""

    def unregister(self, name: str) -> bool:
        """Free a name of this runtime."""
        process = self.names.get(name)
        if process is None:
            return False
        self.forget_name(name, process)
        self.on_name_freed(name, process.pid)
        return True

    def forget_name(self, name: str, process: Process) -> None:
        """It is not called that any more; nobody is told."""
        if self.names.get(name) is process:
            del self.names[name]
        if process.names is not None and name in process.names:
            process.names.remove(name)

    def on_name_freed(self, name: str, pid: Pid) -> None:
        if self.transport is not None:
            to = make_pid(self.node, self.incarnation, 0)
            body = dumps(["unregister", name])
            self.transmit(encode_signal(wire.ASK, to, self.pid, 0, body))

    async def whereis(self, name: str, node: str) -> Pid | None:
        """Who is registered on a node."""
        if node == self.node:
            process = self.names.get(name)
            if process is not None or self.transport is None:
                return process.pid if process is not None else None
        value = await self._ask_daemon(["whereis", name], node)
        return value if isinstance(value, Pid) else None

    async def registered(self) -> list[str]:
        """All names of this node."""
        if self.transport is None:
            return sorted(self.names)
        value = await self._ask_daemon(["registered"], self.node)
        entries = value if isinstance(value, list) else []
        return sorted(str(entry[0]) for entry in entries if isinstance(entry, list) and entry)

    async def _ask_daemon(self, request: object, node: str) -> object:
        incarnation = self.incarnation if node == self.node else self.nodes.get(node)
        if incarnation is None:
            await self.connect(node)
            incarnation = self.nodes.get(node)
            if incarnation is None:
                raise NoConnection("down")
        return await self.ask_pid(make_pid(node, incarnation, 0), request)

    async def ask_pid(self, pid: Pid, request: object) -> object:
        """`ask`, for the system itself."""
        raise NotImplementedError

    async def connect(self, node: str) -> None:
        """Connect to a node. Raises: `CallError`."""
        if self.transport is None:
            raise NoConnection("alone")
        await self.transport.call(node, "node", "ping", (), 5.0)

    # -- spawns elsewhere

    def named_function(self, text: str) -> Function:
        """The function ``module:function`` of this program. Raises: `RemoteError` ("undef")."""
        module, name = function_address(text)
        try:
            return self.resolve(module, name, b"")
        except RemoteError:  # a worker's missions are not all that it can import
            return resolve_loaded(module, name, b"")

    def spawn_elsewhere(
        self,
        process: Process,
        task: object,
        node: str,
        function: Function | str,
        args: Sequence[object],
        *,
        link: bool,
        monitor: bool,
    ) -> tuple[int, SpawnAsk]:
        """Send the order; the answer wakes `task` with (pid, ref or None), or an error."""
        module, name = function_address(function)
        module = module.removeprefix(_BUNDLED)
        check_names(node, module)
        digest = self.digest_of(module)
        options = {"link": link, "monitor": monitor}
        body = dumps([name, list(args), digest, options])
        number = self.new_ref()
        ask = SpawnAsk(node, module, task, process, link=link, monitor=monitor)
        self.asks[number] = ask
        self.relate(process, make_pid(node, 0, 0))
        to = make_pid(node, 0, 0)
        self.transmit(encode_signal(wire.SPAWN, to, process.pid, number, body, name=module))
        return number, ask

    def spawn_answer(self, signal: Signal) -> None:
        problem = loads(signal.body)
        error = None if problem is None else error_from_fields(problem)
        ask = self.asks.get(signal.ref)
        if not isinstance(ask, SpawnAsk):
            if error is None:  # nobody waits for it any more: if it is linked, it ends
                to = signal.receiver
                self.transmit(encode_signal(wire.EXIT, signal.sender, to, 0, dumps(NOPROC)))
                self.transmit(encode_signal(wire.DEMONITOR, signal.sender, to, signal.ref))
            return
        del self.asks[signal.ref]
        if error is not None:
            self.wake_error(ask.task, error)
            return
        pid, process = signal.sender, ask.process
        ref = self.ref(signal.ref) if ask.monitor else None
        if process.pid.number not in self.processes:  # it was abandoned meanwhile
            body = self._dumps(process.exit_reason)
            self.transmit(encode_signal(wire.EXIT, pid, process.pid, 0, body))
            self.transmit(encode_signal(wire.DEMONITOR, pid, process.pid, signal.ref))
            self.wake(ask.task, (pid, ref))
            return
        if ref is not None:
            process.monitors = process.monitors or {}
            process.monitors[ref] = pid
        if ask.link:
            process.links = process.links or set()
            process.links.add(pid)
        self.relate(process, pid)
        self.wake(ask.task, (pid, ref))

    def spawn_request(self, signal: Signal) -> None:
        to, sender = signal.sender, self.pid
        try:
            match loads(signal.body):
                case [str(name), list(args), bytes(digest), dict(options)]:
                    function = self.resolve(signal.to_name, name, digest)
                case _:
                    raise RemoteProtocolError("malformed spawn")
            process = self.start(function, args, parent=to, first=self._announce(to, signal.ref))
        except CallError as error:
            body = dumps(error_to_fields(error))
            self.transmit(encode_signal(wire.SPAWNED, to, sender, signal.ref, body))
            return
        if options.get("link"):
            process.links = {to}
        if options.get("monitor"):
            process.watchers = {Ref(to.node, to.incarnation, signal.ref): to}
        self.relate(process, to)

    def _announce(self, to: Pid, ref: int) -> Callable[[Process], None]:
        """SPAWNED, in the process's first step: one that ends in it sends its end along."""

        def announce(process: Process) -> None:
            self.transmit(encode_signal(wire.SPAWNED, to, process.pid, ref, b"\xf6"))

        return announce

    # -- nodes and runtimes

    def node_up(self, pid: Pid) -> None:
        if not pid.number:
            if self.nodes.get(pid.node) != pid.incarnation:
                for process in self.nodes_watchers:
                    self.put(process, NodeUp(pid.node))
            self.nodes[pid.node] = pid.incarnation
        elif pid != self.pid:
            self.runtimes.add(pid)
            if self.groups is not None:
                self.groups.runtime_up(pid)

    def node_gone(self, pid: Pid, reason: object) -> None:
        if pid.number:
            self.runtimes.discard(pid)
        else:
            if self.nodes.get(pid.node) == pid.incarnation:
                del self.nodes[pid.node]
                for process in self.nodes_watchers:
                    self.put(process, NodeDown(pid.node, str(reason)))
            self.runtimes = {each for each in self.runtimes if each.node != pid.node}
            for process, count in self.node_watchers.pop(pid.node, {}).items():
                for _ in range(count):
                    self.put(process, NodeDown(pid.node, str(reason)))
        if self.groups is not None:
            self.groups.runtime_gone(pid)

    async def monitor_node(self, process: Process, node: str, on: bool) -> None:
        """One `NodeDown` when the node goes, or now when it cannot be reached; or no more."""
        if not on:
            self._unwatch_node(node, process)
            return
        self.check_relations(process)
        watchers = self.node_watchers.setdefault(node, {})
        if watchers.get(process, 0) >= NODE_WATCHES_MAX:
            raise ValueError(f"{NODE_WATCHES_MAX:,} NodeDown of {node} to one process are enough")
        watchers[process] = watchers.get(process, 0) + 1
        if node in self.nodes or node == self.node:
            return
        try:
            await self.connect(node)
        except CallError as error:
            if self._unwatch_node(node, process):
                self.put(process, NodeDown(node, str(error)))

    def monitor_nodes(self, process: Process, on: bool) -> None:
        """A `NodeUp` for each node that comes and a `NodeDown` for each that goes; or no more."""
        if on:
            self.nodes_watchers.add(process)
        else:
            self.nodes_watchers.discard(process)

    def _unwatch_node(self, node: str, process: Process) -> bool:
        """Once less; False when it did not."""
        watchers = self.node_watchers.get(node, {})
        count = watchers.pop(process, 0)
        if count > 1:
            watchers[process] = count - 1
        if not watchers:
            self.node_watchers.pop(node, None)
        return count > 0

    def _release(self, process: Process) -> None:
        super()._release(process)
        self.nodes_watchers.discard(process)
        for node in [node for node, each in self.node_watchers.items() if process in each]:
            del self.node_watchers[node][process]
            if not self.node_watchers[node]:
                del self.node_watchers[node]

    def group_signal(self, signal: Signal) -> None:
        if self.groups is not None:
            self.groups.receive(signal)

    # -- requests to this runtime

    def system_request(self, signal: Signal) -> None:
        match loads(signal.body):
            case ["processes"]:
                shown = [self.describe(each) for each in list(self.processes.values())[:SHOWN_MAX]]
                value: object = shown
            case _:
                value = None
        self.transmit(encode_signal(wire.REPLY, signal.sender, self.pid, signal.ref, dumps(value)))

    def describe(self, process: Process) -> dict[str, object]:
        """What `process_info` and `drupelet ps` show of one process."""
        raise NotImplementedError


def check_names(*texts: str) -> None:
    """Raises: `TypeError` for what can be no name of a process or node in a signal."""
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"a name is text, not {text!r:.80}")
        try:
            size = len(text.encode())
        except UnicodeEncodeError:  # lone surrogates
            size = 0
        if not 0 < size <= PROCESS_NAME_BYTES_MAX:
            raise TypeError(f"a name has 1 to {PROCESS_NAME_BYTES_MAX} bytes, not {text!r:.80}")


def function_address(function: Function | str) -> tuple[str, str]:
    """(module, qualified name) of what can be started elsewhere.

    A text is ``module:function`` already. Raises: `NotSendable`, `ValueError` for another text.
    """
    if isinstance(function, str):
        named, _, function_name = function.partition(":")
        if not named or not function_name:
            raise ValueError(f'{function!r:.100} is no function; write "module:function"')
        return named, function_name
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", "")
    if not isinstance(module, str) or not name or "<" in name:
        raise NotSendable(
            f"{function!r:.100} has no name on other nodes; code does not travel: use a function "
            "at the top of a module that the other node has too"
        )
    if module == PROMPT:
        raise NotSendable(
            f"{name} was typed at a prompt, and code does not travel: write it into a file, "
            f"`drupelet nl FILE.py`, then spawn FILE.{name}"
        )
    return module.removeprefix("mission_"), name


def resolve_loaded(module: str, name: str, digest: bytes) -> Function:
    """The function of a module that this process has. Raises: `RemoteError` ("undef")."""
    loaded = sys.modules.get(module)
    if loaded is None:
        try:
            loaded = importlib.import_module(module)
        except Exception as error:  # not there, or its own code raises
            raise RemoteError("undef", f"no module {module!r} here: {error!r:.200}") from None
    found: object = loaded
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise RemoteError("undef", f"module {module} has no function {name}")
    return cast(Function, found)


__all__ = ["Nodes", "ProcessDown", "Resolve", "SpawnAsk", "function_address", "resolve_loaded"]
