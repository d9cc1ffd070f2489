"""The mission that bench_processes.py runs on two nodes: processes that answer each other."""

from __future__ import annotations

import time

from drupelet import ANY, Down, Pid, mission, receive, self, send, spawn, spawn_monitor


async def echo() -> None:
    """Answer for ever."""
    while True:
        sender, value = await receive()
        await send(sender, (self(), value))


async def nothing() -> None:
    """End at once."""


async def round_trip(pid: Pid) -> None:
    """One request and its reply."""
    await send(pid, (self(), 1))
    await receive((pid, ANY))


@mission("bench")
async def remote(node: str, count: int) -> dict[str, float]:
    """Microseconds of a request and its reply, and of spawn + monitor + Down, on `node`."""
    pid = await spawn(echo, node=node)
    await round_trip(pid)
    started = time.perf_counter()
    for _ in range(count):
        await round_trip(pid)
    request_s = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(count):
        _, ref = await spawn_monitor(nothing, node=node)
        down = await receive(Down)
        assert down.ref == ref and down.reason == "normal", down
    spawn_s = time.perf_counter() - started
    return {
        "remote_request_us": request_s / count * 1e6,
        "remote_spawn_us": spawn_s / count * 1e6,
    }
