"""Names, spawns elsewhere, nodes and runtimes that come and go, over a wire that cuts anywhere."""

from __future__ import annotations

import pytest
import trio

from drupelet import process as api
from drupelet.errors import (
    NoConnection,
    ProcessDown,
    RemoteError,
)
from drupelet.process import (
    Down,
    Exit,
    NodeDown,
    NodeUp,
    Pid,
    ReceiveTimeout,
    ask,
    demonitor,
    link,
    monitor,
    monitor_node,
    monitor_nodes,
    receive,
    register,
    self,
    send,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
    whereis,
)
from tests.unit.process.wires import on, open_wires, serve_trapping, settle, start, virtual


async def far_away(to: Pid) -> None:
    await send(to, ("hello from", self()))
    await receive()


async def crash() -> None:
    raise ValueError("far")


def test_spawn_elsewhere() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")

            async def client() -> None:
                pid = await spawn(far_away, self(), node="bob")
                assert pid.node == "bob"
                assert await receive(timeout=1) == ("hello from", pid)
                pid, ref = await spawn_monitor(crash, node="bob")
                assert await receive(timeout=1) == Down(ref, pid, ("ValueError", "far"))
                trap_exit(True)
                pid = await spawn_link(crash, node="bob")
                assert await receive(timeout=1) == Exit(pid, ("ValueError", "far"))
                with pytest.raises(NoConnection):
                    await spawn(far_away, self(), node="carol")
                with pytest.raises(TypeError, match="code does not travel"):
                    await spawn(lambda: None, node="bob")

            await on(alice, client)
            assert not alice.asks
            assert len(bob.processes) == 1

    virtual(main)


@pytest.mark.parametrize("linked", [True, False])
def test_a_spawner_that_dies_meanwhile(linked: bool) -> None:
    """A linked child of the dead ends; another one lives."""

    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")

            async def client() -> None:
                start_one = spawn_link if linked else spawn
                await start_one(far_away, self(), node="bob")

            process = alice.start(client, ())
            while not alice.asks:
                await trio.lowlevel.checkpoint()
            alice.exit_process(process, "killed")
            await settle()
            assert not alice.processes and not alice.asks
            assert len(bob.processes) == (0 if linked else 1)

    virtual(main)


def test_a_runtime_that_goes_ends_every_relation_with_it() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            other = await wires.attach("bob")  # another worker of the same node
            server, survivor = await start(bob), await start(other)

            async def naming() -> None:
                await register("oven")
                await receive("never")

            named = await start(bob, naming)

            async def client() -> None:
                trap_exit(True)
                link(server)
                link(survivor)
                refs = {monitor(server), monitor(named), monitor(("oven", "bob"))}
                kept = monitor(survivor)
                assert await whereis("oven", "bob") == named
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(asker)
                    await settle()
                    wires.kill(bob, "crashed")
                exits = [await receive(Exit, timeout=1)]
                downs = [await receive(Down, timeout=1) for _ in refs]
                assert exits == [Exit(server, "crashed")]
                assert {each.ref for each in downs} == refs
                assert {each.reason for each in downs} == {"crashed"}
                with pytest.raises(ReceiveTimeout):
                    await receive(timeout=10)
                assert demonitor(kept)
                assert await ask(survivor, 1) == 1

            async def asker() -> None:
                with pytest.raises(ProcessDown) as caught:
                    await ask(named, "never answered")
                assert caught.value.reason == "crashed"

            await on(alice, client)
            assert not alice.asks

    virtual(main)


def test_a_partition_gives_noconnection_once_and_heals() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            server = await start(bob, serve_trapping)

            async def client() -> None:
                trap_exit(True)
                await monitor_node("bob")
                await monitor_node("bob")
                link(server)
                ref = monitor(server)
                await ask(server, 1)
                wires.cut("alice", "bob")
                messages = [await receive(timeout=1) for _ in range(4)]
                assert Down(ref, server, "noconnection") in messages
                assert Exit(server, "noconnection") in messages
                assert messages.count(NodeDown("bob", "noconnection")) == 2
                monitor(server)
                assert (await receive(timeout=1)).reason == "noconnection"
                await monitor_node("bob")
                assert isinstance(await receive(timeout=1), NodeDown)
                wires.heal("alice", "bob")
                await settle()
                assert await ask(server, 2) == 2
                with pytest.raises(ReceiveTimeout):
                    await receive(timeout=10)

            await on(alice, client)
            await settle()
            assert all(not each.watchers and not each.links for each in bob.processes.values())
            assert not alice.node_watchers and not alice.remote

    virtual(main)


def test_every_node_that_comes_and_goes_is_told_to_who_wants_it() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice = await wires.attach("alice")
            await wires.attach("bob")
            await settle()

            async def watcher() -> None:
                monitor_nodes()
                monitor_nodes()  # as once
                wires.cut("alice", "bob")
                assert await receive(timeout=1) == NodeDown("bob", "noconnection")
                wires.heal("alice", "bob")
                assert await receive(timeout=1) == NodeUp("bob")
                monitor_nodes(False)
                wires.cut("alice", "bob")
                with pytest.raises(ReceiveTimeout):
                    await receive(timeout=10)
                monitor_nodes()

            await on(alice, watcher)
            await settle()
            assert not alice.nodes_watchers

    virtual(main)


def test_a_daemon_that_goes_leaves_neighbours_alone() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")
            far = await start(bob)
            near = await start(alice)

            async def naming() -> None:
                await register("oven")
                await receive()

            await start(alice, naming)

            async def client() -> None:
                trap_exit(True)
                link(near)
                link(far)
                monitor(near)
                by_name = monitor("oven")
                ref = monitor(far)
                carol = monitor(("x", "carol"))
                await receive(Down)  # carol is not there
                late = monitor(("y", "bob"))
                await receive(Down)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(waiting, far, NoConnection)
                    nursery.start_soon(answered)
                    await settle()
                    alice.detached()
                assert {await receive(timeout=1), await receive(timeout=1)} == {
                    Down(ref, far, "noconnection"),
                    Exit(far, "noconnection"),
                }
                with pytest.raises(ReceiveTimeout):
                    await receive(timeout=10)
                assert len({by_name, carol, late}) == 3
                assert await ask(near, 1) == 1
                assert not api.is_alive()
                assert api.node() == "nonode@nohost"

            async def waiting(pid: Pid, error: type[Exception]) -> None:
                with pytest.raises(error):
                    await ask(silent, 1)

            async def answered() -> None:
                assert await ask(near, 5) == 5

            silent = await start(bob, trio.sleep_forever)
            await on(alice, client)

    virtual(main)


def test_remote_errors_of_a_spawn_are_the_spawner_s() -> None:
    async def main() -> None:
        async with open_wires() as wires:
            alice, bob = await wires.attach("alice"), await wires.attach("bob")

            def refuse(module: str, name: str, digest: bytes) -> object:
                raise RemoteError("undef", f"{module}.{name}")

            bob.resolve = refuse  # type: ignore[assignment]

            async def client() -> None:
                with pytest.raises(RemoteError, match="crash"):
                    await spawn(crash, node="bob")

            await on(alice, client)
            assert not alice.asks and not bob.processes

    virtual(main)
