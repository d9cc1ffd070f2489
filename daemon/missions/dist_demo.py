"""Run any function of another node of one's own cluster, from a process that waits there.

    pid = await start("bilbo")
    await rpc(pid, "os", "getpid", [])

As in Armstrong's book ("Programming Erlang", dist_demo.erl); new: `rpc` does not wait for the dead.
Spawning elsewhere is a member's right. `demo` is for the operator's own trials: who may call it may
run anything there, so grant it to nobody.
"""

from __future__ import annotations

import importlib

from drupelet import (
    Down,
    Pid,
    ProcessDown,
    ProcessExit,
    demonitor,
    exit,
    mission,
    monitor,
    receive,
    self,
    send,
    spawn,
)


async def start(node: str) -> Pid:
    """Start `loop` on a node; its pid."""
    return await spawn(loop, node=node)


async def rpc(pid: Pid, module: str, function: str, args: list[object]) -> object:
    """``module.function(*args)`` where `pid` runs: its value, or ("EXIT", reason).

    Raises: `ProcessDown` when `pid` ends instead.
    """
    ref = monitor(pid)
    await send(pid, ("rpc", self(), module, function, args))

    def answer(message: object) -> bool:
        match message:
            case (Pid() as sender, _):
                return sender == pid
        return isinstance(message, Down) and message.ref == ref

    message = await receive(answer)
    if isinstance(message, Down):
        raise ProcessDown(message.reason)
    demonitor(ref, flush=True)
    return message[1]


async def loop() -> None:
    """Answer ("rpc", pid, module, function, args) with (self, value), for ever."""
    while True:
        match await receive():
            case ("rpc", pid, str(module), str(function), list(args)):
                try:
                    value = getattr(importlib.import_module(module), function)(*args)
                    await send(pid, (self(), value))
                except ProcessExit as ended:  # exit("bang") in there is its affair, as catch has it
                    await send(pid, (self(), ("EXIT", ended.reason)))
                except Exception as error:
                    await send(pid, (self(), ("EXIT", (type(error).__name__, str(error)))))


@mission("dist_demo")
async def demo(node: str, module: str, function: str, args: list[object]) -> object:
    """Start a process on `node`, let it call the function there, and tell what it answered."""
    pid = await start(node)
    try:
        return await rpc(pid, module, function, args)
    finally:
        exit(pid, "kill")
