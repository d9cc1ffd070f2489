"""What runs on the other nodes: the mission `far`, and functions that are spawned there.

Twins of the exported functions of erlang/oracle_nodes.erl.
"""

from __future__ import annotations

import os

import trio

from drupelet import (
    NOREPLY,
    Down,
    Exit,
    GenEvent,
    GenServer,
    GenStatem,
    Pid,
    Ref,
    Request,
    Supervisor,
    exit,
    flush,
    link,
    mission,
    monitor,
    node,
    receive,
    reply,
    self,
    send,
    spawn,
    trap_exit,
    whereis,
)
from drupelet.process import pg


async def answers() -> None:
    """Answers questions by the same, but "node" by this node's name."""
    while True:
        match await receive():
            case ("ask", sender, "node"):
                await send(sender, ("answer", "node", node()))
            case ("ask", sender, question):
                await send(sender, ("answer", question))
            case ("join", group):
                pg.join(group)
            case ("leave", group):
                pg.leave(group)
            case ("exit", reason):
                exit(reason)


async def traps(to: Pid) -> None:
    """Traps exits and sends what it gets to `to`."""
    trap_exit(True)
    await send(to, ("ready", self()))
    while True:
        await send(to, await receive())


async def tells(to: Pid, messages: list[object]) -> None:
    for message in messages:
        await send(to, message)


async def obeys() -> None:
    while True:
        match await receive():
            case ("link", pid, to):
                link(pid)
                await send(to, "linked")
            case ("exit", reason):
                exit(reason)


def ends() -> None:
    pass


def fails_there() -> None:
    exit("boom")


class Plain(GenServer):
    """As in cases/gen_server.py."""

    def init(self) -> None:
        self.state: list[object] = []

    def get(self) -> object:
        return self.state

    def put(self, value: list[object]) -> object:
        former, self.state = self.state, value
        return ("was", former)

    def end(self, reason: object) -> None:
        exit(reason)

    def never(self) -> object:
        return NOREPLY

    def handle_cast(self, request: tuple[object, ...]) -> None:
        self.state = [request[0], *self.state]


async def serves() -> None:
    """Answers requests by the same."""
    while True:
        match await receive(Request):
            case Request(_, ("exit", reason)):
                exit(reason)
            case Request(caller, request):
                await reply(caller, request)


async def hands(to: Pid) -> None:
    """Gives its requests to `to`, who does with them what it likes."""
    while True:
        match await receive(Request):
            case Request(caller, request):
                await send(to, ("asked", caller, request))


async def replies(caller: tuple[Pid, Ref], value: object) -> None:
    await reply(caller, value)


async def keeps(to: Pid) -> None:
    """Watches and is linked to `to`; keeps what it is told until it is asked for it."""
    trap_exit(True)
    monitor(to)
    link(to)
    await send(to, ("ready", self()))
    kept: list[tuple[str, object]] = []
    while len(kept) < 2:
        match await receive(lambda m: isinstance(m, (Down, Exit))):
            case Down(reason=reason):
                kept.append(("down", reason))
            case Exit(reason=reason):
                kept.append(("exit", reason))
    _, sender = await receive(("told", Pid))
    await send(sender, ("told", sorted(kept), await flush()))


async def large(to: Pid, sizes: list[int]) -> None:
    for size in sizes:
        await send(to, b"x" * size)


class Machine(GenStatem):
    """Is switched by "push"."""

    def init(self) -> str:
        return "off"

    def off(self, kind: object, content: object) -> object:
        return self._event(content, "on")

    def on(self, kind: object, content: object) -> object:
        return self._event(content, "off")

    def _event(self, content: object, other: str) -> object:
        match content:
            case "push":
                self.reply(other)
                return other
            case "never":
                self.kept = self.caller
            case "stop":
                self.stop(("shutdown", "done"))
        return None


class Teller(GenEvent):
    """Tells `to` of events and of its end."""

    def init(self, to: Pid) -> None:
        self.to = to

    async def handle_event(self, event: object) -> None:
        await send(self.to, ("a", event, node()))

    async def terminate(self, reason: object) -> None:
        await send(self.to, ("gone", reason))


async def started(to: Pid) -> None:
    """A child that tells that it started, and ends as it is told."""
    await send(to, ("started", "a", self()))
    _, reason = await receive(("stop", object))
    exit(reason)


async def supervises(name: str, to: Pid) -> None:
    """Who starts a supervisor has to stay."""
    await send(to, await Supervisor.start_link([], name=name))
    await receive("never")


def exits(to: Pid, reason: object) -> None:
    """Sends an exit signal from there."""
    exit(to, reason)


async def member(group: str) -> None:
    """An `answers` that is a member of a group."""
    pg.join(group)
    await answers()


# -- called


@mission("far")
def here() -> str:
    return node()


@mission("far")
def fails(how: str) -> None:
    if how == "exit":
        exit("boom")
    raise ValueError("bad")


@mission("far")
async def later(seconds: float) -> str:
    await trio.sleep(seconds)
    return "late"


@mission("far")
async def tell(to: Pid, messages: list[object]) -> None:
    await tells(to, messages)


@mission("far")
def getpid() -> int:
    return os.getpid()


@mission("far")
async def named(name: str) -> Pid:
    """An `answers` with a name."""
    return await spawn(answers, name=name)


@mission("far")
async def where(name: str) -> Pid | None:
    return await whereis(name)


@mission("far")
def members(group: str, local: bool = False) -> list[Pid]:
    return pg.get_local_members(group) if local else pg.get_members(group)


@mission("far")
async def machine(name: str) -> Pid:
    return await Machine.start(name=name)


@mission("far")
async def manager(name: str) -> Pid:
    return await GenEvent.start(name=name)


@mission("far")
async def server(name: str) -> Pid:
    return await Plain.start(name=name)
