"""Run any function of another node of one's own cluster, from a process that waits there.

    pid = await start("bilbo")
    await rpc(pid, "os", "getpid", [])

As in Armstrong's book ("Programming Erlang", dist_demo.erl). Only members can start it: spawning
elsewhere is a member's right, and nothing here is a mission's export.
"""

from __future__ import annotations

import importlib

from drupelet import ANY, Pid, mission, receive, self, send, spawn


async def start(node: str) -> Pid:
    """Start `loop` on a node; its pid."""
    return await spawn(loop, node=node)


async def rpc(pid: Pid, module: str, function: str, args: list[object]) -> object:
    """``module.function(*args)`` where `pid` runs: its value, or ("EXIT", reason)."""
    await send(pid, ("rpc", self(), module, function, args))
    _, value = await receive((pid, ANY))
    return value


async def loop() -> None:
    """Answer ("rpc", pid, module, function, args) with (self, value), for ever."""
    while True:
        match await receive():
            case ("rpc", pid, str(module), str(function), list(args)):
                try:
                    value = getattr(importlib.import_module(module), function)(*args)
                    await send(pid, (self(), value))
                except Exception as error:
                    await send(pid, (self(), ("EXIT", (type(error).__name__, str(error)))))


@mission("dist_demo")
async def demo(node: str, module: str, function: str, args: list[object]) -> object:
    """Start a process on `node`, let it call the function there, and tell what it answered."""
    return await rpc(await start(node), module, function, args)
