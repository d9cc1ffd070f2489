"""N processes in a ring around M nodes, and a message that goes round: the classic benchmark.

drupelet call "" ring around '["gandalf", "bilbo", "frodo"]' 30 10
"""

from __future__ import annotations

import time

from drupelet import Pid, exit, mission, receive, self, send, spawn_link, unlink

PROCESSES_MAX = 20_000
HOPS_MAX = 10_000_000


async def link_of_ring(head: Pid, node_names: list[str], count: int) -> None:
    """Spawn the next one where the ring goes on, then pass on what comes; the last closes it."""
    following = head
    if count > 1:
        node = node_names[count % len(node_names)]
        following = await spawn_link(link_of_ring, head, node_names, count - 1, node=node)
    else:
        await send(head, "ready")
    while True:
        match await receive():
            case "stop":
                await send(following, "stop")
                return
            case message:
                await send(following, message)


@mission("ring")
async def around(nodes: list[str], processes: int, rounds: int) -> dict[str, object]:
    """Send a message `rounds` times around `processes` processes on `nodes`; the figures."""
    if not nodes or not 1 <= processes <= PROCESSES_MAX:
        raise ValueError(f"a ring has at least one node and 1 to {PROCESSES_MAX:,} processes")
    if not 1 <= rounds <= HOPS_MAX // processes:
        raise ValueError(f"at least one round, and at most {HOPS_MAX:,} hops")
    started = time.monotonic()
    first = await spawn_link(
        link_of_ring, self(), list(nodes), processes, node=nodes[processes % len(nodes)]
    )
    try:
        await receive("ready")
        made = time.monotonic()
        for index in range(rounds):
            await send(first, ("token", index))
            await receive(("token", index))
        seconds = time.monotonic() - made
        await send(first, "stop")
        await receive("stop")
    finally:
        unlink(first)
        exit(first, "shutdown")  # whoever called gave up: the links take it to the whole ring
    hops = processes * rounds
    return {
        "processes": processes,
        "nodes": len(nodes),
        "hops": hops,
        "start_ms": round((made - started) * 1e3, 3),
        "hop_us": round(seconds / hops * 1e6, 2),
    }
