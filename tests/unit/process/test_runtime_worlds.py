"""Small worlds of processes that do anything at any moment: nothing breaks, nothing is left behind.

Each world is a seed: processes on two nodes send, ask, wait, link, watch, register, spawn and kill
each other, with cut scopes and full mailboxes. At the end all are killed; what is left is a leak.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from drupelet.errors import CallError, MailboxFull, NameTaken, ProcessExit, ReceiveTimeout
from drupelet.process import (
    ANY,
    Down,
    Exit,
    Mailbox,
    Pid,
    Ref,
    Request,
    ask,
    become,
    cancel_timer,
    demonitor,
    exit,
    flush,
    link,
    monitor,
    monitor_node,
    open_scope,
    receive,
    register,
    reply,
    self,
    send,
    send_after,
    send_nowait,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
    unlink,
    unregister,
    whereis,
)
from drupelet.process.current import this_process
from drupelet.process.runtime import Runtime
from tests.unit.process.wires import Wires, open_wires, settle, virtual

ACTS = 30
POPULATION = 12
NAMES = ("a", "b", "c")
EXPECTED = (CallError, MailboxFull, NameTaken, ReceiveTimeout, ProcessExit, trio.TooSlowError)


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        # A monitor by name of one of elsewhere who gives it away is not taken back (nodes.py):
        # either they watch by name, or they unregister.
        self.by_name = seed % 2 == 0
        self.pids: list[Pid] = []
        self.sent: dict[tuple[Pid, Pid], int] = {}
        self.got: dict[tuple[Pid, Pid], int] = {}
        self.downs: set[object] = set()
        self.ended: dict[Pid, set[Pid]] = {}  # of whom each has had a Down
        self.problems: list[str] = []
        self.acts = 0

    def pid(self) -> Pid:
        return self.random.choice(self.pids)

    def to(self) -> Pid | str | tuple[str, str]:
        return self.random.choice(
            [
                self.pid(),
                self.pid(),
                (self.random.choice(NAMES), self.random.choice(["alice", "bob"])),
            ]
        )

    def watched(self) -> Pid | str | tuple[str, str]:
        return self.to() if self.by_name else self.pid()

    def mailbox(self) -> Mailbox:
        policy = self.random.choice(["block", "block", "drop_old", "drop_new", "exit"])
        return Mailbox(limit=self.random.choice([1, 2, 5, 100]), policy=policy)

    def pattern(self) -> Any:
        return self.random.choice(
            [
                None,
                Request,
                Down,
                ("number", ANY, ANY),
                lambda m: isinstance(m, tuple),
                ("number", lambda pid: pid == self.pids[0], ANY),
                Down | Exit,
            ]
        )

    # -- what is true of everything that comes into a mailbox

    def arrived(self, me: Pid, kind: str, message: object, peer: object) -> None:
        match message if kind == "receive" else None:
            case ("number", Pid() as sender, int(number)):
                if number <= self.got.get((sender, me), -1):
                    self.problems.append(f"{number} of {sender} again, or out of order")
                if sender in self.ended.get(me, ()):
                    self.problems.append(f"{sender} after its Down")
                self.got[sender, me] = number
            case Down(ref, pid, reason):
                if (me, ref) in self.downs:  # refs of two programs alone may be equal
                    self.problems.append(f"Down of {pid} twice")
                self.downs.add((me, ref))
                if isinstance(pid, Pid) and reason != "noconnection":
                    self.ended.setdefault(me, set()).add(pid)


async def live(world: World, acts: int) -> None:
    process = this_process()
    process.runtime.set_tracer(process, world.arrived, True)
    world.pids.append(process.pid)
    for _ in range(acts):
        world.acts += 1
        try:
            with trio.move_on_after(world.random.choice([0, 0.5, 3, 100])):
                await act(world)
        except EXPECTED:
            pass
    if acts == ACTS:
        await receive("never")


async def act(world: World) -> None:
    me, pick = self(), world.random.random
    match world.random.randrange(22):
        case 0 | 1 | 2:
            pid = world.pid()
            number = world.sent[me, pid] = world.sent.get((me, pid), -1) + 1
            await send(pid, ("number", me, number))
        case 3:
            send_nowait(world.to(), ["list"])
        case 4 | 5 | 6:
            message = await receive(world.pattern(), timeout=world.random.choice([0, 1, 5]))
            if isinstance(message, Request) and pick() < 0.8:
                await reply(message.caller, message.request)
        case 7 | 8:
            assert (
                await ask(world.watched(), "asked", timeout=world.random.choice([0, 0.5, 5]))
                == "asked"
            )
        case 9:
            link(world.pid())
        case 10:
            unlink(world.pid())
        case 11:
            ref = monitor(world.watched())
            if pick() < 0.3:
                await trio.sleep(pick())
                demonitor(ref, flush=True)
        case 12:
            trap_exit(pick() < 0.7)
        case 13:
            if pick() < 0.3:
                exit(world.pid(), world.random.choice(["normal", "kill", ["why"], "over"]))
        case 14:
            with trio.CancelScope(shield=world.by_name):  # cut off, it gives the name away
                await register(world.random.choice(NAMES))
        case 15:
            if not world.by_name:
                await unregister(world.random.choice(NAMES))
        case 16:
            await whereis(world.random.choice(NAMES), world.random.choice(["alice", "bob"]))
        case 17:
            await flush()
        case 18:
            ref = send_after(pick() * 3, world.to(), "later")
            if pick() < 0.5:
                cancel_timer(ref)
        case 19:
            await monitor_node(world.random.choice(["alice", "bob", "carol"]), pick() < 0.7)
        case 20:
            await have_children(world)
        case 21:
            try:
                await trio.sleep(pick())
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(world.random.choice([0, 1, 7]))


async def have_children(world: World) -> None:
    if len(world.pids) > POPULATION * 3:
        return
    start = world.random.choice([spawn, spawn_link, spawn_monitor])
    match world.random.randrange(5):
        case 0:
            await start(live, world, 3, mailbox=world.mailbox())
        case 1:
            await start(live, world, 3, name=world.random.choice(NAMES))
        case 2:
            async with open_scope() as scope:
                await start(live, world, 3, scope=scope)
                if world.random.random() < 0.5:
                    scope.cancel()
        case 3:
            await start(child_elsewhere, self(), node=world.random.choice(["alice", "bob"]))
        case 4:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 1)
                if world.random.random() < 0.5:
                    become(live, world, 3)
                exit("left")


async def child_elsewhere(parent: Pid) -> None:
    await send(parent, ("number", self(), 0))
    trap_exit(True)
    await receive(Exit, timeout=2)


async def run_world(seed: int, trouble: str) -> World:
    world = World(seed)
    async with open_wires(seed) as wires:
        runtimes = [await wires.attach("alice"), await wires.attach("bob")]
        runtimes.append(await wires.attach("bob"))
        await settle()
        for number in range(POPULATION):
            runtime = runtimes[number % len(runtimes)]
            runtime.start(live, (world, ACTS), mailbox=world.mailbox())
        if trouble == "cuts":
            await be_cut(world, wires)
        elif trouble == "deaths":
            await lose_runtimes(world, wires)
        elif trouble == "alone":
            await be_alone(world, wires)
        await trio.sleep(60)
        await settle()
        look_for_one_sided(world, list(wires.runtimes.values()))
        for runtime in wires.runtimes.values():
            for process in list(runtime.processes.values()):
                runtime.exit_process(process, "killed")
        await trio.sleep(30)
        await settle()
        for runtime in wires.runtimes.values():
            look_for_leaks(world, runtime)
        if any(wires.names.values()):
            world.problems.append(f"names {wires.names}")
    return world


async def lose_runtimes(world: World, wires: Wires) -> None:
    """Workers die, and others come."""
    for _ in range(4):
        await trio.sleep(world.random.random() * 3)
        runtime = world.random.choice(list(wires.runtimes.values()))
        wires.kill(runtime, "crashed")
        fresh = await wires.attach(runtime.node)
        for _ in range(3):
            fresh.start(live, (world, ACTS), mailbox=world.mailbox())


async def be_alone(world: World, wires: Wires) -> None:
    """Programs leave their node, and come back (net_kernel)."""
    for _ in range(3):
        await trio.sleep(world.random.random() * 3)
        node, runtime = world.random.choice(
            [(end.node, runtime) for end, runtime in wires.runtimes.items()]
        )
        wires.leave(runtime)
        await trio.sleep(world.random.random() * 3)
        wires.join(runtime, node)


async def be_cut(world: World, wires: Wires) -> None:
    for _ in range(4):
        await trio.sleep(world.random.random() * 3)
        wires.cut("alice", "bob")
        await trio.sleep(world.random.random() * 3)
        wires.heal("alice", "bob")


def look_for_one_sided(world: World, runtimes: list[Runtime]) -> None:
    """When all is quiet: who is linked, watched or asked is so on both sides."""
    processes = {each.pid: each for runtime in runtimes for each in runtime.processes.values()}
    for runtime in runtimes:
        if runtime.outside is not None:  # what others call its older processes
            processes |= {
                there: processes[here]
                for there, here in runtime.outside._in.items()
                if here in processes
            }
    asks = {number for runtime in runtimes for number in runtime.asks}
    for process in set(processes.values()):
        for pid in process.links or ():
            other = processes.get(pid)
            if other is None or process not in map(processes.get, other.links or ()):
                world.problems.append(f"{process.pid} is linked to {pid}, and not the reverse")
        for ref, watcher in (process.watchers or {}).items():
            number = ref.number if isinstance(ref, Ref) else ref
            monitors = processes[watcher].monitors if watcher in processes else None
            if number not in asks and ref not in (monitors or ()):
                world.problems.append(f"{process.pid} is watched by {watcher}, who does not know")
        for ref, target in (process.monitors or {}).items():
            watched = processes.get(target) if isinstance(target, Pid) else None
            if isinstance(target, Pid) and ref not in ((watched and watched.watchers) or ()):
                world.problems.append(f"{process.pid} watches {target}, who does not know")


def look_for_leaks(world: World, runtime: Runtime) -> None:
    left: dict[str, object] = {
        "processes": runtime.processes,
        "names": runtime.names,
        "asks": runtime.asks,
        "by_name": runtime.by_name,
        "remote": runtime.remote,
        "paused": runtime.paused,
        "node_watchers": runtime.node_watchers,
        "sends_due": runtime.sends_due,
        "unwinding": runtime.unwinding,
        "timers": len(runtime.timers),
        "bad signals": runtime.stream_error_count,
    }
    world.problems += [f"{runtime.node}: {name} {what}" for name, what in left.items() if what]


@pytest.mark.parametrize("trouble", ["none", "cuts", "deaths", "alone"])
@pytest.mark.parametrize("seed", range(10))
def test_nothing_breaks_and_nothing_is_left_behind(seed: int, trouble: str) -> None:
    worlds: list[World] = []

    async def main() -> None:
        worlds.append(await run_world(seed, trouble))

    virtual(main)
    (world,) = worlds
    assert world.acts > POPULATION and not world.problems
