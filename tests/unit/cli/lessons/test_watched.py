"""What one end of a cluster sees of it: two simulated nodes, of which one is watched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from drupelet.cli.lessons.watched import OneEnd, WatchedRuntime
from drupelet.ladder import Cluster, Conditions, Event, Message, draw, simulate
from drupelet.process import ask, exit, monitor, node, receive, reply, self, send, spawn

MODULE = __name__


def watch(
    main: Callable[[Cluster], Awaitable[None]],
) -> tuple[OneEnd, WatchedRuntime]:
    """Run ``main(cluster)``; what gandalf's runtime saw from then on."""

    async def first(cluster: Cluster) -> tuple[OneEnd, WatchedRuntime]:
        runtime = cluster._main["gandalf"].runtime
        assert isinstance(runtime, WatchedRuntime)
        trace = OneEnd()
        runtime.trace_to = trace
        await main(cluster)
        return trace, runtime

    found: tuple[OneEnd, WatchedRuntime] = simulate(
        first, conditions=Conditions(runtime=WatchedRuntime), modules=(MODULE,)
    )
    return found


def messages(trace: OneEnd, *kinds: str) -> list[tuple[str, Any]]:
    return [
        (each.kind, each.what)
        for each in trace.entries
        if isinstance(each, Message) and each.kind in kinds
    ]


async def echo() -> None:
    while True:
        request = await receive()
        if isinstance(request, tuple):
            await send(request[1], ("echo", request[0], node()))
        else:
            await reply(request.caller, request.request)


async def talk() -> None:
    pid = await spawn(echo, node="bilbo")
    await send(pid, ("hello", self()))
    await receive()
    await ask(pid, "question")


def test_what_goes_and_what_comes() -> None:
    async def main(cluster: Cluster) -> None:
        await cluster.on("gandalf", talk)

    trace, _ = watch(main)
    kinds = [kind for kind, _ in messages(trace, "spawn", "spawned", "send", "ask", "reply")]
    assert kinds == ["spawn", "spawned", "send", "send", "ask", "reply"]
    sent = [each for each in trace.entries if isinstance(each, Message) and each.kind == "send"]
    assert sent[1].what == ("echo", "hello", "bilbo")
    assert all(each.arrived_s is not None and each.taker is not None for each in sent)
    diagram = draw(trace)
    heads = diagram.splitlines()[:2]
    assert [head.split() for head in heads] == [["gandalf", "bilbo"], ["talk", "echo"]]
    assert "x" not in diagram.replace("echo", "")


async def local() -> None:
    pid = await spawn(echo)
    monitor(pid)
    exit(pid, "enough")
    await receive()
    monitor("nobody")
    await receive()


def test_what_is_local_is_seen_once() -> None:
    async def main(cluster: Cluster) -> None:
        await cluster.on("gandalf", local)

    trace, _ = watch(main)
    assert messages(trace, "down") == [("down", "enough"), ("down", "noproc")]


def test_nodes_that_go_and_come() -> None:
    async def main(cluster: Cluster) -> None:
        runtime = cluster._main["gandalf"].runtime
        assert isinstance(runtime, WatchedRuntime)
        changed = runtime.changed
        cluster.kill("bilbo")
        await changed.wait()
        assert runtime.lost_count == {"bilbo": 1}
        changed = runtime.changed
        await cluster.restart("bilbo")
        await changed.wait()

    trace, runtime = watch(main)
    told = [(each.kind, each.what) for each in trace.entries if isinstance(each, Event)]
    assert told == [("down", "bilbo"), ("up", "bilbo")]
    assert runtime.lost_count == {"bilbo": 1}
