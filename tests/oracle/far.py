"""What runs on the other nodes: the mission `far`, and functions that are spawned there.

Twins of the exported functions of erlang/oracle_nodes.erl.
"""

from __future__ import annotations

import os

import trio

from drupelet import (
    NOREPLY,
    GenServer,
    Pid,
    exit,
    link,
    mission,
    node,
    receive,
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
async def server(name: str) -> Pid:
    return await Plain.start(name=name)
