"""What the processes of a run do, and what they tell the ledger of it.

An *actor* does the steps of its `Script` and reads what comes in between; a *sink* has a small
mailbox and reads now and then; who floods one has to wait, here or on another node.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Any

import trio

from drupelet.errors import (
    CallError,
    MailboxFull,
    NameTaken,
    NoConnection,
    ProcessDown,
    ProcessExit,
)
from drupelet.ladder.cluster import Cluster
from drupelet.process import (
    Down,
    Exit,
    NodeDown,
    Pid,
    ReceiveTimeout,
    Ref,
    Request,
    ask,
    demonitor,
    link,
    monitor,
    monitor_node,
    receive,
    register,
    reply,
    self,
    send,
    send_nowait,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
    unlink,
    whereis,
)
from drupelet.process import exit as exit_
from drupelet.process.current import this_process
from tests.sim.process_ledger import Killing, Ledger

SINK_LIMIT = 5  # messages in a sink's mailbox
FLOOD = 24  # messages
LARGE = bytes(60_000)  # so many of them fill a line to the brim
ASK_S = 2.0

WEIGHTS = {
    "send": 12,
    "send_name": 2,
    "flood": 2,
    "ask": 3,
    "monitor": 4,
    "monitor_name": 1,
    "monitor_node": 1,
    "demonitor": 1,
    "link": 3,
    "unlink": 1,
    "kill": 1,
    "exit": 1,
    "end": 1,
    "fail": 1,
    "register": 3,
    "spawn": 2,
}


class Failed(Exception):
    """What an actor raises when it is to fail."""


@dataclass
class Stage:
    """What the processes of one run share; nothing of it is known to what is under test."""

    names: tuple[str, ...]
    span_s: float
    ledger: Ledger = field(default_factory=Ledger)
    outcomes: Counter[str] = field(default_factory=Counter)
    pids: list[Pid] = field(default_factory=list)
    sinks: list[Pid] = field(default_factory=list)
    refs: dict[Pid, list[Ref]] = field(default_factory=dict)
    exits_sent: set[tuple[Pid, Pid, object]] = field(default_factory=set)
    name_of: dict[Pid, tuple[str, str]] = field(default_factory=dict)
    tokens: int = 0
    questions: int = 0

    def __post_init__(self) -> None:
        self.cluster: Cluster

    def somebody(self, operand: int) -> Pid:
        """A process of this run, alive or not."""
        return self.pids[operand % len(self.pids)]

    def script(self, random: Random, steps: int) -> Script:
        """What an actor is to do."""
        kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
        pause_s = self.span_s / max(steps, 1)
        return Script(
            steps=[
                (pause_s * random.random() * 1.5, kind, random.randrange(1 << 30))
                for kind in random.choices(kinds, weights, k=steps)
            ],
            traps=random.random() < 0.7,
            unwinds_s=random.choice((0.0, 0.0, 0.0, 0.0, 0.5, 3.0, 7.0)),
        )

    def sink_script(self, random: Random) -> Script:
        """What a sink is to do."""
        pause_s = self.span_s / 4
        return Script(
            steps=[(pause_s * random.random(), "rest", random.randrange(1 << 30))] * 3,
            traps=True,
            unwinds_s=random.choice((0.0, 0.0, 0.5)),
        )


_stage: Stage  # of the run: functions that are spawned by name find it here


def enter(stage: Stage) -> None:
    """The run that begins has this stage."""
    global _stage
    _stage = stage


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
    spawning = _stage.ledger.spawns[token]
    if spawning.is_linked:
        _stage.ledger.links_to(spawning.spawner, self())
    await actor(_stage.script(random, random.randrange(3)))


async def _unwinding(unwinds_s: float, body: Callable[..., Any], *args: object) -> None:
    life = _stage.ledger.lives[self()]
    life.unwinds_s = unwinds_s or None
    try:
        await body(*args)
    except Exception as error:
        unwinds_s, life.unwinds_s = 0.0, None
        if not isinstance(error, (ProcessExit, Failed)):
            _stage.ledger.fail(error)
        raise
    finally:
        if unwinds_s:
            with trio.CancelScope(shield=True):
                await trio.sleep(unwinds_s)
                _last_words()
            life.unwound_s = trio.current_time()


def _last_words() -> None:
    """Sent in a finally; one that was abandoned has nothing to say any more."""
    with contextlib.suppress(ProcessExit, MailboxFull):
        me = self()
        to = _stage.somebody(me.number)
        sending = _stage.ledger.sends(me, to)
        send_nowait(to, ("m", me, sending.number, b""))
        if sending.sent_s == inf:
            sending.sent_s, sending.connected = trio.current_time(), True


async def _act(script: Script) -> None:
    trap_exit(script.traps)
    for pause_s, operation, operand in script.steps:
        await _take_until(trio.current_time() + pause_s)
        try:
            await _OPERATIONS[operation](operand)
        except (CallError, NameTaken) as error:
            _stage.outcomes[type(error).__name__] += 1
    await _take_until(inf)


async def _take_until(deadline: float) -> None:
    while True:
        try:
            message = await receive(timeout=deadline - trio.current_time())
        except ReceiveTimeout:
            return
        await _note(message)


async def _note(message: object) -> None:
    ledger, me, now = _stage.ledger, self(), trio.current_time()
    match message:
        case ("m", Pid() as sender, int(number), bytes()):
            ledger.receives(me, sender, number, now)
        case Down(ref, target, reason):
            ledger.down(me, ref, target, reason, now)
            if isinstance(target, Pid):
                await _look_for_name(target)
        case Exit(pid, reason):
            ledger.check("kill", reason != "kill", f"{me} saw {message}")
            if (pid, me, reason) not in _stage.exits_sent:
                ledger.exit_of(me, pid, reason, now)
        case NodeDown(node):
            ledger.node_down(me, node)
        case Request(caller, ("q", int(question))):
            await reply(caller, ("a", me, question))
        case _:
            raise AssertionError(f"unknown: {message!r:.200}")


async def _look_for_name(target: Pid) -> None:
    """After its Down a process has no name."""
    name = _stage.name_of.get(target)
    if name is None or name[1] not in _stage.cluster.daemons:
        return
    has_ended = _stage.ledger.lives[target].ended_s < inf  # not only out of sight
    try:
        found = await whereis(*name)
    except CallError:
        return
    if has_ended:
        _stage.ledger.check("names", found != target, f"{name} is still {target} after its Down")


def _connected(pid: Pid) -> bool:
    runtime = this_process().runtime
    if pid.node == runtime.node:
        return True
    return runtime.nodes.get(pid.node) == pid.incarnation  # type: ignore[attr-defined,no-any-return]


async def _send(to: Pid | tuple[str, str], body: bytes = b"") -> None:
    me = self()
    sending = _stage.ledger.sends(me, to)
    await send(to, ("m", me, sending.number, body))
    if sending.sent_s == inf:  # to a process of this runtime, or to a name
        sending.sent_s, sending.connected = trio.current_time(), True


async def _op_send(operand: int) -> None:
    to = _stage.somebody(operand)
    for _ in range(1 + operand % 3):
        await _send(to)


async def _op_flood(operand: int) -> None:
    if not _stage.sinks:
        return
    to, me, ledger = _stage.sinks[operand % len(_stage.sinks)], self(), _stage.ledger
    ledger.flooding[me] += 1
    for _ in range(FLOOD):
        await _send(to, LARGE if operand % 5 == 0 else b"")
    ledger.flooding[me] -= 1


async def _op_rest(operand: int) -> None:
    await trio.sleep(_stage.span_s / 3 * (operand % 100) / 100)


async def _op_send_name(operand: int) -> None:
    node = _stage.names[operand % len(_stage.names)]
    await _send((f"name{operand % 2}", node))


async def _op_ask(operand: int) -> None:
    to, stage, begun_s = _stage.somebody(operand), _stage, trio.current_time()
    stage.questions += 1
    question, connected = stage.questions, _connected(to)
    try:
        answer = await ask(to, ("q", question), timeout=ASK_S)
    except ProcessDown as down:
        life = stage.ledger.lives.get(to)
        over = life is None or min(life.ended_s, life.told_s) < inf
        over = over or not connected or down.reason == "calling_self"
        stage.ledger.check("asks", over, f"{self()} asked {to}, heard {down!r}, and it lives")
        raise
    else:
        what = f"{self()} asked {to} {question} and got {answer!r:.200}"
        stage.ledger.check("asks", answer == ("a", to, question), what)
    finally:
        took_s = trio.current_time() - begun_s
        stage.ledger.check("asks", took_s <= ASK_S + 0.001, f"{self()} waited {took_s} s")


async def _op_monitor(operand: int) -> None:
    target, me = _stage.somebody(operand), self()
    _stage.ledger.acts(me, target, _connected(target))
    ref = monitor(target)
    _stage.ledger.monitors(ref, me, target, trio.current_time())
    _stage.refs.setdefault(me, []).append(ref)


async def _op_monitor_name(operand: int) -> None:
    target = (f"name{operand % 2}", _stage.names[operand % len(_stage.names)])
    me = self()
    _stage.ledger.monitors(monitor(target), me, target, trio.current_time())


async def _op_monitor_node(operand: int) -> None:
    node, me = _stage.names[operand % len(_stage.names)], self()
    if node != me.node:
        _stage.ledger.node_watches[me, node] += 1
        await monitor_node(node, True)


async def _op_demonitor(operand: int) -> None:
    refs = _stage.refs.get(self(), [])
    if refs:
        ref = refs.pop(operand % len(refs))
        if demonitor(ref):
            _stage.ledger.watches[ref].over_s = trio.current_time()


async def _op_link(operand: int) -> None:
    other, me = _stage.somebody(operand), self()
    if other == me:
        return
    _stage.ledger.acts(me, other, _connected(other))
    _stage.ledger.links_to(me, other)
    link(other)


async def _op_unlink(operand: int) -> None:
    other, me = _stage.somebody(operand), self()
    if other in (this_process().links or ()):  # one that is still on its way comes all the same
        _stage.ledger.unlinks(me, other)
    unlink(other)


async def _op_kill(operand: int) -> None:
    target, me = _stage.somebody(operand), self()
    _stage.ledger.kills.append(Killing(me, target, trio.current_time(), _connected(target)))
    if operand % 2:  # it may be ending for another reason when it is killed
        _stage.exits_sent.add((me, target, ("sent", operand)))
        exit_(target, ("sent", operand))
    exit_(target, "kill")


async def _op_exit(operand: int) -> None:
    to, me = _stage.somebody(operand), self()
    reason = ("sent", operand)
    _stage.exits_sent.add((me, to, reason))
    exit_(to, reason)


async def _op_end(operand: int) -> None:
    exit_(("done", operand))


async def _op_fail(operand: int) -> None:
    raise Failed(operand)


async def _op_register(operand: int) -> None:
    name = f"name{operand % 2}"
    await register(name)
    _stage.name_of[self()] = (name, self().node)


async def _op_spawn(operand: int) -> None:
    me, stage = self(), _stage
    node = stage.names[operand % len(stage.names)]
    if node == me.node:
        return
    stage.tokens += 1
    token = stage.tokens
    how: Callable[..., Any] = (spawn, spawn_link, spawn_monitor)[operand % 3]
    spawning = stage.ledger.spawning(token, me, node, is_linked=how is spawn_link)
    try:
        result = await how(child, token, operand, node=node)
    except CallError as error:
        spawning.error = error
        spawning.said_not_run = isinstance(error, NoConnection) and not error.maybe_ran
        raise
    pid, ref = result if isinstance(result, tuple) else (result, None)
    spawning.pid = pid
    stage.pids.append(pid)
    stage.ledger.acts(me, pid, _connected(pid))
    if ref is not None:
        stage.ledger.monitors(ref, me, pid, trio.current_time())


_OPERATIONS: dict[str, Callable[[int], Any]] = {
    "send": _op_send,
    "send_name": _op_send_name,
    "flood": _op_flood,
    "rest": _op_rest,
    "ask": _op_ask,
    "monitor": _op_monitor,
    "monitor_name": _op_monitor_name,
    "monitor_node": _op_monitor_node,
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
