"""What the trace shows of a runtime's processes, here and between nodes."""

from __future__ import annotations

import pytest
import trio

from drupelet import (
    MailboxFull,
    Pid,
    ask,
    demonitor,
    exit,
    link,
    monitor,
    receive,
    register,
    reply,
    self,
    send,
    send_after,
    send_nowait,
    spawn,
    trap_exit,
    unlink,
)
from drupelet.ladder import Cluster, Event, Message, simulate

Shown = list[tuple[str, object]]


async def server() -> None:
    await register("server")
    trap_exit(True)
    while True:
        match await receive():
            case "end":
                exit("done")
            case message if hasattr(message, "caller"):
                await reply(message.caller, "answer")


async def start_server() -> Pid:
    return await spawn(server)


async def client(pid: Pid) -> None:
    trap_exit(True)
    await send(pid, 1)
    send_nowait(pid, 2)
    await ask(pid, "question")
    ref = monitor(pid)
    demonitor(ref)
    monitor(pid)
    link(pid)
    unlink(pid)
    link(pid)
    exit(pid, "please")
    await send(("server", pid.node), "end")
    await receive()
    await receive()


def shown(trace_of: Cluster, *pids: Pid) -> Shown:
    return [
        (each.kind, each.what)
        for each in trace_of.trace.entries
        if isinstance(each, Message) and each.taker in pids and each.sender in pids
    ]


@pytest.mark.parametrize("node", ["a", "b"])
def test_every_kind_is_shown_alike_here_and_elsewhere(node: str) -> None:
    async def main(cluster: Cluster) -> Shown:
        pid = await cluster.on("b", start_server)
        await cluster.on(node, client, pid)
        clients = [
            each.where
            for each in cluster.trace.entries
            if isinstance(each, Event)
            and each.kind == "start"
            and str(each.what).endswith("client")
        ]
        assert isinstance(clients[0], Pid)
        return shown(cluster, pid, clients[0])

    found = simulate(main, nodes=("a", "b"))
    expected = [
        ("send", 1),
        ("send", 2),
        ("ask", "question"),
        ("reply", "answer"),
        ("monitor", None),
        ("monitor", None),
        ("link", None),
        ("link", None),
        ("exit", "please"),
        ("send", "end"),
        ("exit", "done"),
        ("down", "done"),
    ]
    assert [each for each in found if each[0] not in ("demonitor", "unlink")] == expected
    if node == "a":  # between nodes those are signals too
        assert [each[0] for each in found].count("demonitor") == 1
        assert [each[0] for each in found].count("unlink") == 1


def test_lives_and_spawns() -> None:
    async def parent() -> None:
        await spawn(child)
        send_after(0.5, self(), "tick")
        await receive()

    async def child() -> None:
        exit("why")

    async def main(cluster: Cluster) -> list[str]:
        await cluster.on("a", parent)
        return [
            f"{each.kind} {str(each.what).rsplit('.', 1)[-1]}"
            for each in cluster.trace.entries
            if isinstance(each, Message) or isinstance(each.where, Pid)
        ]

    assert simulate(main, nodes=("a",)) == [
        "start parent",
        "start child",
        "spawn None",
        "end why",
        "timer tick",
        "end normal",
    ]


def test_what_was_not_sent_is_not_shown() -> None:
    async def full() -> None:
        pid = await spawn(trio.sleep_forever)
        from drupelet.process.current import this_runtime

        process = this_runtime().find(pid)
        assert process is not None
        process.limit = 1
        send_nowait(pid, 1)
        with pytest.raises(MailboxFull):
            send_nowait(pid, 2)

    async def main(cluster: Cluster) -> list[object]:
        await cluster.on("a", full)
        return [each.what for each in cluster.trace.entries
                if isinstance(each, Message) and each.kind == "send"]  # fmt: skip

    assert simulate(main, nodes=("a",)) == [1]


def test_nothing_of_a_runtime_that_crashed() -> None:
    async def last_words(pid: Pid) -> None:
        try:
            await trio.sleep_forever()
        finally:
            send_nowait(pid, "last")

    async def main(cluster: Cluster) -> list[tuple[str, object]]:
        pid = await cluster.on("b", start_server)
        cluster.daemon("a").attachments[1].runtime.start(last_words, (pid,))
        await trio.sleep(0.1)
        cluster.kill("a")
        await trio.sleep(1)
        return [(each.kind, each.what) for each in cluster.trace.entries]

    found = simulate(main, nodes=("a", "b"))
    assert ("kill", None) in found
    assert ("send", "last") not in found
    assert ("end", "shutdown") not in found
    assert ("down", "a") in found
