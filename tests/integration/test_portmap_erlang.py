"""S001-7, MOON-1: real `epmd -names`, `net_adm:names()` and `erl` nodes live through our mapper.

Nodes are named ``@localhost``, so that nothing depends on this machine's host name and hosts file.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet.config import PortMapperConfig
from drupelet.net import epmd as client
from drupelet.net import ports
from drupelet.services.portmap import PortMapper
from drupelet.wire import epmd
from drupelet.wire.epmd import MapperEntry

pytestmark = [
    pytest.mark.erlang,
    pytest.mark.skipif(
        shutil.which("erl") is None or shutil.which("epmd") is None,
        reason="needs `erl` and `epmd` of Erlang/OTP (Debian: erlang-base)",
    ),
]

LINK_PORT = 4370
START_S = 20.0  # an Erlang node starts in 0.5 s here and in about 5 s on a busy Pi
GONE_S = 0.1  # S001-7: a halted node's name is gone within 100 ms


@pytest.fixture
def port() -> int:
    bound = ports.open_on_all(("127.0.0.1", "127.0.1.1", "::1"), 0)
    bound.close()
    return bound.port


@pytest.fixture
def environment(port: int, tmp_path: Path) -> dict[str, str]:
    """`erl` finds the mapper's port and keeps its cookie file to itself."""
    (tmp_path / ".erlang.cookie").write_text("PORTMAPTEST")
    (tmp_path / ".erlang.cookie").chmod(0o400)
    return os.environ | {"HOME": str(tmp_path), "ERL_EPMD_PORT": str(port)}


@dataclass
class Told:
    names: list[tuple[str, int]] = field(default_factory=list)
    changed: trio.Event = field(default_factory=trio.Event)

    def __call__(self, names: list[tuple[str, int]]) -> None:
        self.names = names
        self.changed.set()
        self.changed = trio.Event()

    async def until(self, condition: Callable[[set[str]], bool]) -> None:
        with trio.fail_after(START_S):
            while not condition({name for name, _ in self.names}):
                await self.changed.wait()


def service(port: int, told: Told, name: str = "gandalf") -> PortMapper:
    config = PortMapperConfig(listen=("127.0.0.1",), port=port)
    return PortMapper(config, name=name, port=LINK_PORT, on_names=told)


async def run(command: list[str], environment: dict[str, str]) -> str:
    """What a command prints, errors included; whatever its exit code."""
    with trio.fail_after(START_S):
        done = await trio.run_process(
            command,
            env=environment,
            check=False,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
        )
    return done.stdout.decode()


def erl(name: str, expression: str = "") -> list[str]:
    command = ["erl", "-noinput", "-start_epmd", "false", "-sname", f"{name}@localhost"]
    return [*command, "-eval", expression] if expression else command


@asynccontextmanager
async def erlang_node(name: str, environment: dict[str, str]) -> AsyncIterator[trio.Process]:
    """A node that runs until it is told otherwise; in its own session, ended as a group."""
    process = await trio.lowlevel.open_process(
        erl(name),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True), trio.move_on_after(5):
            await process.wait()


@asynccontextmanager
async def real_epmd(port: int) -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process(
        ["epmd", "-port", str(port), "-address", "127.0.0.1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        with trio.fail_after(5):
            while True:
                try:
                    await client.names("127.0.0.1", port=port)
                    break
                except client.NoConnection:
                    await trio.testing.wait_all_tasks_blocked(0.005)
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True), trio.move_on_after(5):
            await process.wait()


async def test_epmd_names_lists_us(
    nursery: trio.Nursery, port: int, environment: dict[str, str]
) -> None:
    await nursery.start(service(port, Told()).run)
    printed = await run(["epmd", "-port", str(port), "-names"], environment)
    assert f"up and running on port {port} with data" in printed
    assert f"name gandalf at port {LINK_PORT}\n" in printed


async def test_epmd_cannot_kill_or_stop(
    nursery: trio.Nursery, port: int, environment: dict[str, str]
) -> None:
    mapper = service(port, Told())
    await nursery.start(mapper.run)
    assert "not allowed" in await run(["epmd", "-port", str(port), "-kill"], environment)
    await run(["epmd", "-port", str(port), "-stop", "gandalf"], environment)
    assert mapper.names() == [("gandalf", LINK_PORT)]
    table = mapper.statistics().table
    assert table is not None and table.refusals == 2


async def test_net_adm_names_and_look_up(
    nursery: trio.Nursery, port: int, environment: dict[str, str]
) -> None:
    await nursery.start(service(port, Told()).run)
    printed = await run(
        erl(
            "bilbo",
            'io:format("~p~n~p~n~p~n", [net_adm:names(localhost), '
            'erl_epmd:port_please("gandalf", localhost), '
            'erl_epmd:port_please("nobody", localhost)]), halt().',
        ),
        environment,
    )
    names, ours, nobody = printed.split("\n")[:3]
    assert f'{{"gandalf",{LINK_PORT}}}' in names
    assert '{"bilbo",' in names
    assert ours.startswith(f"{{port,{LINK_PORT},")
    assert nobody == "noport"


async def test_two_erlang_nodes_meet_and_one_halts(
    nursery: trio.Nursery, port: int, environment: dict[str, str]
) -> None:
    told = Told()
    mapper = service(port, told)
    await nursery.start(mapper.run)
    async with erlang_node("bilbo", environment) as bilbo:
        await told.until(lambda names: "bilbo" in names)
        ping = 'io:format("~p", [net_adm:ping(bilbo@localhost)]), '
        assert "pong" in await run(erl("frodo", ping + "halt()."), environment)
        await told.until(lambda names: names == {"gandalf", "bilbo"})
        entry = await client.lookup("127.0.0.1", "bilbo", port=port)
        assert entry is not None
        assert (entry.node_type, entry.drupelet_version) == (epmd.NODE_TYPE_NORMAL, None)
        halt = "rpc:cast(bilbo@localhost, erlang, halt, []), timer:sleep(100), halt()."
        async with trio.open_nursery() as inner:
            inner.start_soon(run, erl("sam", ping + halt), environment)
            with trio.fail_after(START_S):
                await bilbo.wait()
            ended = trio.current_time()
            while any(name == "bilbo" for name, _ in mapper.names()):
                assert trio.current_time() - ended <= GONE_S
                await trio.testing.wait_all_tasks_blocked(0.001)
    assert await client.lookup("127.0.0.1", "bilbo", port=port) is None


async def test_erlang_node_is_told_that_its_name_is_taken(
    nursery: trio.Nursery, port: int, environment: dict[str, str]
) -> None:
    mapper = service(port, Told())
    await nursery.start(mapper.run)
    printed = await run(erl("gandalf", "halt()."), environment)
    assert "gandalf@localhost" in printed and "in use" in printed
    assert mapper.names() == [("gandalf", LINK_PORT)]


async def test_ping_of_a_drupelet_from_erlang_ends_well(
    nursery: trio.Nursery, port: int, environment: dict[str, str]
) -> None:
    """Nothing listens on our link port here; the asker gets pang, and at once."""
    await nursery.start(service(port, Told()).run)
    asked = 'io:format("~p", [net_adm:ping(gandalf@localhost)]), halt().'
    assert "pang" in await run(erl("bilbo", asked), environment)


async def test_client_of_a_real_epmd_takes_over(
    nursery: trio.Nursery, port: int, environment: dict[str, str]
) -> None:
    told = Told()
    mapper = service(port, told)
    async with real_epmd(port) as process:
        await nursery.start(mapper.run)
        assert mapper.state() == "client"
        assert told.names == [("gandalf", LINK_PORT)]
        printed = await run(["epmd", "-port", str(port), "-names"], environment)
        assert f"name gandalf at port {LINK_PORT}\n" in printed
        entry = await client.lookup("127.0.0.1", "gandalf", port=port)
        assert entry is not None and entry.drupelet_version == 1
        process.kill()
        with trio.fail_after(5):
            while mapper.state() != "mapper":
                await trio.testing.wait_all_tasks_blocked(0.005)
    assert await client.names("127.0.0.1", port=port) == [("gandalf", LINK_PORT)]


def exchange(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(data)
        parts = []
        while part := sock.recv(65_536):
            parts.append(part)
        return b"".join(parts)


@pytest.fixture
def second_port() -> Iterator[int]:
    bound = ports.open_on_all(("127.0.0.1",), 0)
    bound.close()
    yield bound.port


async def test_answers_equal_those_of_epmd_byte_for_byte(
    nursery: trio.Nursery, port: int, second_port: int
) -> None:
    await nursery.start(service(port, Told()).run)
    ours = MapperEntry(name="gandalf", port=LINK_PORT, extra=epmd.extra_of(1))
    theirs = MapperEntry(name="bilbo", port=999, node_type=77, highest_version=6, lowest_version=5)
    async with real_epmd(second_port):
        held = [await client.register("127.0.0.1", ours, port=second_port)]
        for where in (port, second_port):
            held.append(await client.register("127.0.0.1", theirs, port=where))
        for request in (
            epmd.look_up_request("gandalf"),
            epmd.look_up_request("bilbo"),
            epmd.look_up_request("nobody"),
            epmd.plain_request(epmd.KILL_REQUEST),
            b"\0\6sbilbo",
            b"\0\1\x01",
        ):
            answers = [
                await trio.to_thread.run_sync(exchange, where, request)
                for where in (port, second_port)
            ]
            assert answers[0] == answers[1], request
        listed = [
            await trio.to_thread.run_sync(exchange, where, epmd.plain_request(epmd.NAMES_REQUEST))
            for where in (port, second_port)
        ]
        assert listed[0][:4] == struct.pack(">I", port)
        assert sorted(listed[0][4:].splitlines()) == sorted(listed[1][4:].splitlines())
        for registration in held:
            registration.close()
