"""Runtimes of simulated nodes: attached, stalled, full, crashed."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from drupelet import (
    Down,
    MailboxFull,
    Pid,
    ask,
    is_alive,
    monitor,
    receive,
    reply,
    rpc,
    send,
    send_nowait,
    spawn,
)
from drupelet.errors import CallError, NoConnection
from drupelet.ladder import Cluster, Conditions, simulate
from drupelet.ladder.runtimes import CONGESTED_BYTES, STALLED_BYTES, Attachment


async def serve() -> None:
    while True:
        message = await receive()
        if hasattr(message, "caller"):
            await reply(message.caller, "answer")


async def start_server() -> Pid:
    return await spawn(serve)


def test_two_runtimes_of_one_node_reach_each_other() -> None:
    async def main(cluster: Cluster) -> None:
        client = await cluster.add_runtime("a", "client")
        pid = client.runtime.start(serve, ()).pid
        assert await cluster.on("a", ask, pid, 1) == "answer"
        assert cluster.daemon("a").router.runtimes() == {1: "main", 2: "client"}
        assert client.runtime.pid in cluster.daemon("a").attachments[1].runtime.runtimes

    simulate(main, nodes=("a",))


def test_one_that_crashes_is_told_as_crashed_and_reaches_nobody() -> None:
    async def watch(pid: Pid) -> object:
        monitor(pid)
        return (await receive(Down)).reason

    async def main(cluster: Cluster) -> None:
        for node in ("a", "b"):
            client = await cluster.add_runtime("b")
            pid = client.runtime.start(serve, ()).pid
            reasons: list[object] = []

            async def watching(node: str, pid: Pid, reasons: list[object]) -> None:
                reasons.append(await cluster.on(node, watch, pid))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(watching, node, pid, reasons)
                await trio.sleep(0.1)
                client.crash()
                client.crash()  # it has
            assert reasons == ["crashed"]
            await client.ended.wait()
            with pytest.raises(NoConnection):
                await client.call("a", "node", "ping", (), 1.0)
            with pytest.raises(NoConnection):
                await client.cast("a", "node", "ping", ())
            client.send(b"not a signal")  # nobody hears it

    simulate(main, nodes=("a", "b"))


def test_what_was_under_way_at_a_crash_arrives_in_part() -> None:
    """Never more than was sent, in order, and in some runs a signal is cut in two."""
    arrived: set[int] = set()
    cuts = 0

    async def main(cluster: Cluster) -> int:
        client = await cluster.add_runtime("a")
        got: list[object] = []

        async def collect() -> None:
            while True:
                got.append(await receive())

        pid = cluster.daemon("a").attachments[1].runtime.start(collect, ()).pid
        await trio.sleep(1)
        for number in range(3):
            await client.runtime.send(None, pid, number)
        assert client.under_way == 3
        client.crash()
        await trio.sleep(1)
        assert got == list(range(len(got)))
        arrived.add(len(got))
        return cluster.network.effects["cut_short"]

    for seed in range(30):
        cuts += simulate(main, nodes=("a",), seed=seed)
    assert arrived == {0, 1, 2, 3}
    assert cuts > 0


@pytest.mark.parametrize("node", ["a", "b"])
def test_a_stalled_one_holds_its_senders_back_and_they_go_on(node: str) -> None:
    count = 5 * STALLED_BYTES // 100

    async def flood(pid: Pid) -> float:
        for _ in range(count):
            await send(pid, b"x" * 100)
            await trio.sleep(0.001)
        return trio.current_time()

    async def main(cluster: Cluster) -> None:
        slow = await cluster.add_runtime("b")
        pid = slow.runtime.start(serve, ()).pid
        slow.stall()
        resumed_s = trio.current_time() + 50
        done: list[float] = []

        async def flooding() -> None:
            done.append(await cluster.on(node, flood, pid))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flooding)
            await trio.sleep(50)
            sender = cluster.daemon(node).attachments[1].runtime
            assert list(sender.paused) == [slow.runtime.pid]
            slow.go_on()
        assert done[0] > resumed_s
        await trio.sleep(1)
        assert slow.runtime.processes[pid.number].received_count == count

    simulate(main, nodes=("a", "b"))


def test_too_much_under_way_to_its_daemon_makes_it_wait() -> None:
    large = bytes(100_000)

    async def flood(attachment: Attachment, pid: Pid) -> None:
        while not attachment.congested:
            send_nowait(pid, large)
        with pytest.raises(MailboxFull):
            send_nowait(pid, large)
        begun_s = trio.current_time()
        await send(pid, large)
        assert trio.current_time() > begun_s

    async def main(cluster: Cluster) -> None:
        pid = await cluster.on("b", start_server)
        mine = cluster.daemon("a").attachments[1]
        await cluster.on("a", flood, mine, pid)
        assert not mine.congested

    assert len(large) < CONGESTED_BYTES
    simulate(main, nodes=("a", "b"), conditions=Conditions(local_s=0.01))


def test_calls_and_casts_through_its_daemon() -> None:
    async def program() -> tuple[bool, str]:
        with pytest.raises(CallError):
            await rpc.call("a", "missing", "function")
        return is_alive(), await rpc.call("a", "node", "ping")

    async def main(cluster: Cluster) -> Any:
        return await cluster.on("a", program)

    assert simulate(main, nodes=("a",)) == (True, "pong")
