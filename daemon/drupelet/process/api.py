"""The functions of the process model, as a program uses them.

Decides names and arguments: OTP's where OTP has one. Each works on the process of the running task;
see `runtime.py` for how, and daemon/docs/PROCESSES.md for one example each.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import Any, Final, NoReturn, cast, overload

import trio
from trio.lowlevel import current_task

from drupelet.errors import (
    CallError,
    NameTaken,
    NoConnection,
    ProcessDown,
    ProcessExit,
)
from drupelet.process import computing
from drupelet.process.current import check_there, process_var, this_process, this_runtime
from drupelet.process.data import copy_data
from drupelet.process.kernel import NOPROC
from drupelet.process.nodes import check_names
from drupelet.process.runtime import SENDS_ONLY, Become, To, function_name
from drupelet.process.status import shown_state
from drupelet.process.table import DEFAULT_MAILBOX, Mailbox, Process
from drupelet.wire.ids import Pid, ProxyPid, Ref, check_plain_name
from drupelet.wire.notices import Down

Function = Callable[..., Any]
Caller = tuple[Pid, Ref]

ASK_TIMEOUT_S: Final = 5.0  # OTP's gen_server:call


class Scope:
    """Processes that end together: made by `open_scope`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery

    def cancel(self) -> None:
        """End every process of the scope."""
        self.nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_scope() -> AsyncIterator[Scope]:
    """A scope: leaving it waits for its processes; an exception in it ends them ("shutdown")."""
    async with trio.open_nursery() as nursery:
        yield Scope(nursery)


# -- spawn


async def spawn(
    function: Function | str,
    *args: object,
    node: str | None = None,
    scope: Scope | trio.Nursery | None = None,
    where: str = computing.INLINE,
    mailbox: Mailbox = DEFAULT_MAILBOX,
    name: str | None = None,
) -> Pid:
    """Start a process that runs ``function(*args)``; its pid.

    `function` may be its name, "module:function". `node`: on that node of the cluster, which must
    have the same module; the function's name travels, never its code. `scope`: ends when that
    ends. `where`: "thread" or "process" for a plain function that computes. `name`: registered
    from its first moment.

    Raises: `NotSendable`, `NameTaken`; with `node` also `CallError` (`CodeMismatch`...).
    """
    pid, _ = await _spawn(function, args, node, scope, where, mailbox, name)
    return pid


async def spawn_link(
    function: Function | str,
    *args: object,
    node: str | None = None,
    scope: Scope | trio.Nursery | None = None,
    where: str = computing.INLINE,
    mailbox: Mailbox = DEFAULT_MAILBOX,
    name: str | None = None,
) -> Pid:
    """As `spawn`, linked to this process from its first moment."""
    pid, _ = await _spawn(function, args, node, scope, where, mailbox, name, link=True)
    return pid


async def spawn_monitor(
    function: Function | str,
    *args: object,
    node: str | None = None,
    scope: Scope | trio.Nursery | None = None,
    where: str = computing.INLINE,
    mailbox: Mailbox = DEFAULT_MAILBOX,
    name: str | None = None,
) -> tuple[Pid, Ref]:
    """As `spawn`, watched by this process from its first moment; its pid and the monitor's ref."""
    pid, ref = await _spawn(function, args, node, scope, where, mailbox, name, monitor=True)
    assert ref is not None
    return pid, ref


async def _spawn(
    function: Function | str,
    args: Sequence[object],
    node: str | None,
    scope: Scope | trio.Nursery | None,
    where: str,
    mailbox: Mailbox,
    name: str | None,
    *,
    link: bool = False,
    monitor: bool = False,
) -> tuple[Pid, Ref | None]:
    runtime = this_runtime()
    process = this_process() if link or monitor else process_var.get(None)
    if (
        not callable(function)
        or scope is not None
        or mailbox is not DEFAULT_MAILBOX
        or name is not None
    ):
        _check_spawn(function, scope, mailbox, name)
    await runtime.breathe(process)
    if isinstance(function, str) and node in (None, runtime.node):
        function = runtime.named_function(function)
    if where != computing.INLINE:
        if isinstance(function, str):
            raise ValueError("where is for processes of this node")
        function, args = computing.wrap(function, args, where)
    if node is not None and node != runtime.node:
        if scope or name or where != computing.INLINE or mailbox is not DEFAULT_MAILBOX:
            raise ValueError("scope, name, where and mailbox are for processes of this node")
        if runtime.transport is None:
            raise NoConnection("alone")
        number, ask = runtime.spawn_elsewhere(
            process or this_process(),
            current_task(),
            node,
            function,
            args,
            link=link,
            monitor=monitor,
        )
        answer = await runtime.wait_answer(number, ask, ASK_TIMEOUT_S)
        return cast("tuple[Pid, Ref | None]", answer)
    assert not isinstance(function, str)
    nursery = scope.nursery if isinstance(scope, Scope) else scope
    parent = process.pid if process is not None else None
    started = runtime.start(function, args, nursery=nursery, mailbox=mailbox, parent=parent)
    if process is not None and process.tracers is not None:
        runtime.trace(process, "spawn", function_name(function), started.pid)
    ref = None
    try:
        if link:
            assert process is not None
            runtime.link(process, started.pid)
        if monitor:
            assert process is not None
            ref = runtime.monitor(process, started.pid)
        if name is not None:
            await _register(name, started)
    except BaseException:  # the spawner hears of it here, and not by an exit signal
        if process is not None:
            runtime.unlink(process, started.pid)
            if ref is not None:
                runtime.demonitor(process, ref)
        runtime.exit_process(started, "killed")
        raise
    return started.pid, ref


def _check_spawn(function: object, scope: object, mailbox: object, name: object) -> None:
    if not callable(function) and not isinstance(function, str):
        if inspect.iscoroutine(function):
            function.close()
            called = function.__name__
            raise TypeError(f"write spawn(f, x) and not spawn(f(x)): {called} was called already")
        called = "; write spawn(f, x) and not spawn(f(x))" if function is None else ""
        raise TypeError(f"spawn takes a function, not {function!r:.100}{called}")
    if scope is not None and not isinstance(scope, (Scope, trio.Nursery)):
        raise TypeError(f"a scope is what open_scope() or open_nursery() gave, not {scope!r:.100}")
    if not isinstance(mailbox, Mailbox):
        raise TypeError(f"a mailbox is Mailbox(limit=..., policy=...), not {mailbox!r:.100}")
    if name is not None:
        _check_name(name)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a name is text, not {name!r:.100}")
    check_plain_name(name)


def become(function: Function, *args: object) -> NoReturn:
    """Leave this function for the newest version of `function`: Erlang's fully qualified call.

    The mailbox, pid, links and monitors stay. Does not return.
    """
    raise Become(function, args)


# -- who and where


def self() -> Pid:
    """The pid of this process."""
    return this_process().pid


def node() -> str:
    """The name of this node; "nonode@nohost" where `is_alive` is false."""
    return this_runtime().node


def nodes() -> list[str]:
    """The nodes that are connected to this one."""
    return sorted(this_runtime().nodes)


def is_alive() -> bool:
    """Whether this program is part of a node that others can reach."""
    return this_runtime().transport is not None


# -- messages


async def send(to: To, message: object) -> None:
    """Send to a pid, a proxy pid, a name of this node, or ``(name, node)``.

    Waits while the receiver's mailbox is full (policy "block"), wherever it is. To a process that
    has ended: nothing happens.

    Raises: `NotSendable` for what is not data; `ProcessDown` for a name that nobody here has;
    `MailboxFull` to one's own full mailbox.
    """
    process = process_var.get(None)
    await this_runtime().send(process, to, message)


def send_nowait(to: To, message: object) -> None:
    """As `send`. Raises: `MailboxFull` where `send` would wait."""
    this_runtime().send_or_raise(process_var.get(None), to, message)


async def receive(pattern: object = None, *, timeout: float = inf) -> Any:
    """The first message that fits `pattern` (see patterns.py); the others stay, in order.

    `timeout` in seconds; 0 looks and does not wait. Raises: `ReceiveTimeout`.
    """
    process = this_process()
    return await process.runtime.receive_message(process, pattern, timeout)  # type: ignore[attr-defined]


async def flush() -> list[object]:
    """All messages that are waiting, in order; never waits for one."""
    process = this_process()
    await trio.lowlevel.checkpoint()
    messages: list[object] = []
    while process.messages:
        messages.append(process.runtime.take(process, None))
    return messages


async def ask(to: To, request: object, *, timeout: float = ASK_TIMEOUT_S) -> Any:
    """Send a `Request` and wait for its `reply`: what `GenServer.call` is made of.

    Raises: `Timeout`, `ProcessDown`, `NoConnection`. A late answer is dropped.
    """
    return await this_runtime().ask(process_var.get(None), to, request, timeout)


async def reply(caller: Caller, value: object) -> None:
    """Answer a `Request`: later, or from another process than the one that got it."""
    runtime = this_runtime()
    process = process_var.get(None)
    await runtime.breathe(process)
    try:
        pid, ref = caller
    except (TypeError, ValueError):
        pid = ref = None  # type: ignore[assignment]
    if pid.__class__ is not Pid or ref.__class__ is not Ref:
        raise TypeError(f"reply to the `caller` of a Request, not to {caller!r:.100}")
    replier = runtime.pid if process is None else process.pid
    if process is not None and process.tracers is not None:
        runtime.trace(process, "reply", value, pid)
    runtime.reply(replier, pid, ref, copy_data(value))


# -- links, monitors, exits


def link(pid: Pid) -> None:
    """Link this process and another: when one ends, the other gets its exit signal."""
    process = this_process()
    process.runtime.link(process, _pid(pid))


def unlink(pid: Pid) -> None:
    """Undo `link`; no exit signal of that process has an effect any more."""
    process = this_process()
    process.runtime.unlink(process, _pid(pid))


def monitor(target: To) -> Ref:
    """Watch a process: exactly one `Down(ref, pid, reason)` comes when it ends, or is not there."""
    process = this_process()
    if not isinstance(target, Pid | ProxyPid):
        target = this_runtime().address(target)
        check_names(*target)
    return process.runtime.monitor(process, target)


def demonitor(ref: Ref, *, flush: bool = False) -> bool:
    """Undo `monitor`; `flush` also takes its `Down` out of the mailbox. False: it was over."""
    process = this_process()
    undone = process.runtime.demonitor(process, _ref(ref))
    if flush and not undone:
        process.runtime.take(process, lambda m: isinstance(m, Down) and m.ref == ref)
    return undone


def trap_exit(on: bool = True) -> bool:
    """Whether exit signals come as `Exit` messages instead of ending this process; the former."""
    process = this_process()
    former, process.trap_exit = process.trap_exit, bool(on)
    return former


@overload
def exit(reason: object, /) -> NoReturn: ...
@overload
def exit(pid: Pid, reason: object, /) -> None: ...


def exit(*args: object) -> None:
    """``exit(reason)`` ends this process; ``exit(pid, reason)`` sends an exit signal.

    "kill" cannot be trapped and shows as "killed"; "normal" from another process is ignored.
    """
    match args:
        case [reason]:
            raise ProcessExit(copy_data(reason))
        case [Pid() as pid, reason]:
            runtime = this_runtime()
            process = process_var.get(None)
            check_there(process)
            sender = runtime.pid if process is None else process.pid
            runtime.send_exit(sender, pid, copy_data(reason))
        case [ProxyPid(), _]:
            raise TypeError(SENDS_ONLY)
        case _:
            raise TypeError("write exit(reason), or exit(pid, reason)")


# -- names


async def register(name: str, pid: Pid | None = None) -> None:
    """Give a process of this program (None: this one) a name on this node.

    Raises: `NameTaken`, `ValueError` for what is no name, `ProcessDown`.
    """
    runtime = this_runtime()
    process = this_process() if pid is None else runtime.find(_pid(pid))
    if process is None or not process.alive:
        raise ProcessDown(NOPROC)
    await _register(name, process)


async def _register(name: str, process: Process) -> None:
    _check_name(name)
    refused = await this_runtime().register(name, process)
    if refused:
        raise NameTaken(refused)


async def unregister(name: str) -> None:
    """Free a name. Raises: `ProcessDown` when no process of this program has it."""
    check_names(name)
    await trio.lowlevel.checkpoint()
    if not this_runtime().unregister(name):
        raise ProcessDown(NOPROC)


async def whereis(name: str, node: str | None = None) -> Pid | None:
    """Who has that name on a node (None: this one)."""
    runtime = this_runtime()
    node = node or runtime.node
    check_names(name, node)
    await trio.lowlevel.checkpoint()
    return await runtime.whereis(name, node)


async def registered() -> list[str]:
    """All names of this node."""
    await trio.lowlevel.checkpoint()
    return await this_runtime().registered()


# -- timers


def send_after(seconds: float, to: To, message: object) -> Ref:
    """Send `message` after so many seconds; the ref is for `cancel_timer` and `read_timer`."""
    return this_runtime().send_after(seconds, to, message)


def cancel_timer(ref: Ref) -> float | None:
    """Do not send it; the seconds that were left, None when it was sent already."""
    return this_runtime().cancel_timer(_ref(ref))


def read_timer(ref: Ref) -> float | None:
    """The seconds that are left, None when it was sent or cancelled."""
    return this_runtime().timer_left(_ref(ref))


# -- information


def is_process_alive(pid: Pid) -> bool:
    """Whether a process of this program runs and was not told to end.

    Raises: `ValueError` for one of elsewhere, of which nobody here knows: watch it with `monitor`.
    """
    process = _own(pid)
    return process is not None and process.alive


def process_info(pid: Pid | None = None) -> dict[str, Any]:
    """What is known of a process of this program (None: this one).

    Raises: `ProcessDown`; `ValueError` for one of elsewhere.
    """
    process = this_process() if pid is None else _own(pid)
    if process is None:
        raise ProcessDown(NOPROC)
    return this_runtime().describe(process) | {"state": shown_state(process.state)}


async def processes(node: str | None = None) -> list[dict[str, Any]]:
    """As `process_info`, of all processes of a node (None: this one). Raises: `CallError`."""
    runtime = this_runtime()
    if runtime.transport is None:
        return [runtime.describe(each) for each in runtime.processes.values()]
    value = await runtime.transport.call(node or runtime.node, "process", "list", (), ASK_TIMEOUT_S)
    return cast("list[dict[str, Any]]", value)


# -- nodes


async def monitor_node(node: str, on: bool = True) -> None:
    """One `NodeDown(node)` when that node is out of sight; False undoes it."""
    process = this_process()
    check_names(node)
    await trio.lowlevel.checkpoint()
    await this_runtime().monitor_node(process, node, on)


def monitor_nodes(on: bool = True) -> None:
    """From now on a `NodeUp(node)` for each node that is connected, and a `NodeDown` for each that
    goes, whoever it is; False ends that. OTP's ``net_kernel:monitor_nodes/1``."""
    this_runtime().monitor_nodes(this_process(), on)


async def disconnect_node(node: str) -> bool:
    """Close the link to a node; False when there was none. Raises: `CallError`."""
    runtime = this_runtime()
    check_names(node)
    if runtime.transport is None:
        return False
    answer = await runtime.transport.call("", "process", "disconnect", (node,), ASK_TIMEOUT_S)
    return bool(answer)


async def ping(node: str) -> str:
    """Connect to a node if need be: "pong", or "pang" when it cannot be reached."""
    runtime = this_runtime()
    check_names(node)
    if node == runtime.node:
        await trio.lowlevel.checkpoint()  # a loop of pings lets others run
        return "pong"
    try:
        await runtime.connect(node)
    except CallError:
        return "pang"
    return "pong"


def _pid(pid: object) -> Pid:
    if isinstance(pid, ProxyPid):
        raise TypeError(SENDS_ONLY)
    if not isinstance(pid, Pid):
        raise TypeError(f"that takes a Pid, not {pid!r:.100}")
    return pid


def _ref(ref: object) -> Ref:
    if not isinstance(ref, Ref):
        raise TypeError(f"that takes a Ref, not {ref!r:.100}")
    return ref


def _own(pid: object) -> Process | None:
    runtime = this_runtime()
    process = runtime.find(_pid(pid))
    if process is None and not runtime.is_local(cast(Pid, pid)):
        raise ValueError(f"{pid} is a process of elsewhere; this program knows only its own")
    return process
