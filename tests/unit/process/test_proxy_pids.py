"""Proxy pids in a runtime: send and monitor by way of the daemon, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from drupelet import process as api
from drupelet.errors import NotSendable
from drupelet.process import (
    Down,
    ProxyPid,
    ask,
    demonitor,
    exit,
    is_process_alive,
    link,
    monitor,
    process_info,
    receive,
    register,
    self,
    send,
    send_nowait,
    unlink,
)
from drupelet.process.runtime import Runtime
from drupelet.wire.limits import PROXY_MESSAGE_BYTES_MAX
from drupelet.wire.messages import processes as wire
from drupelet.wire.messages.processes import PROXY_MARK, proxy_name, proxy_secret
from tests.unit.process.wires import Wires, on, open_wires, serve, settle, start, virtual

PROXY = ProxyPid("alice", bytes(range(16)))


def held(main: Any) -> None:
    """Run ``main(runtime, wires)`` where the daemon holds PROXY for a process that serves."""

    async def run() -> None:
        async with open_wires() as wires:
            runtime, other = await wires.attach("bob"), await wires.attach("bob")
            wires.names["bob"][proxy_name(PROXY)] = await start(other, serve)
            wires.routed.clear()
            await main(runtime, wires)

    virtual(run)


def test_the_name_on_the_way_to_the_daemon() -> None:
    assert proxy_secret(proxy_name(PROXY)) == PROXY.secret
    assert proxy_name(PROXY).startswith(PROXY_MARK)
    for name in ("\0", "\0xyz", "\0é"):
        assert proxy_secret(name) == b""


def test_messages_go_by_way_of_the_daemon_in_order() -> None:
    async def main(runtime: Runtime, wires: Wires) -> None:
        async def program() -> None:
            await send(PROXY, (self(), 1))
            send_nowait(PROXY, (self(), 2))
            api.send_after(1, PROXY, (self(), 3))
            assert [(await receive())[1] for _ in range(3)] == [1, 2, 3]

        await on(runtime, program)

    held(main)


def test_its_end_is_told_once_and_can_be_forgone() -> None:
    async def main(runtime: Runtime, wires: Wires) -> None:
        async def program() -> None:
            ref, undone = monitor(PROXY), monitor(PROXY)
            await settle()
            assert demonitor(undone)
            await send(PROXY, ("end", "bye"))
            assert await receive() == Down(ref, PROXY, "bye")
            await settle()
            assert await api.flush() == []
            gone = ProxyPid("alice", b"g" * 16)
            ref = monitor(gone)
            assert await receive() == Down(ref, gone, "noproc")

        await on(runtime, program)

    held(main)


def test_without_its_daemon_it_is_over() -> None:
    async def main(runtime: Runtime, wires: Wires) -> None:
        async def program() -> None:
            ref = monitor(PROXY)
            await settle()
            wires.leave(runtime)
            assert await receive() == Down(ref, PROXY, "noconnection")
            await send(PROXY, "nobody")  # as to any process that is gone

        await on(runtime, program)

    held(main)


def test_nothing_else() -> None:
    async def main(runtime: Runtime, wires: Wires) -> None:
        async def program() -> None:
            proxy: Any = PROXY
            for attempt in (
                lambda: link(proxy),
                lambda: unlink(proxy),
                lambda: exit(proxy, "kill"),
                lambda: is_process_alive(proxy),
                lambda: process_info(proxy),
            ):
                with pytest.raises(TypeError, match="takes send and monitor, nothing else"):
                    attempt()
            for wait in (lambda: ask(proxy, 1), lambda: register("it", proxy)):
                with pytest.raises(TypeError, match="takes send and monitor, nothing else"):
                    await wait()

        await on(runtime, program)
        await settle()
        assert set(wires.routed) <= {wire.ASK}  # of the runtime with its daemon

    held(main)


def test_a_message_at_the_maximum_and_one_above() -> None:
    async def main(runtime: Runtime, wires: Wires) -> None:
        async def program() -> None:
            overhead = 3
            await send(PROXY, b"x" * (PROXY_MESSAGE_BYTES_MAX - overhead))
            with pytest.raises(NotSendable, match="a proxy pid takes 16,384"):
                await send(PROXY, b"x" * (PROXY_MESSAGE_BYTES_MAX - overhead + 1))

        await on(runtime, program)
        await settle()
        assert wires.routed.count(wire.SEND) == 1

    held(main)
