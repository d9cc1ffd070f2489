"""The service over real sockets: mapper, client, take-over, a taken name, and hostile callers."""

from __future__ import annotations

import resource
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from drupelet.config import PortMapperConfig
from drupelet.net import epmd as client
from drupelet.net import ports
from drupelet.services import portmap
from drupelet.services.portmap import PortMapper
from drupelet.wire import epmd, limits
from drupelet.wire.epmd import MapperEntry

Names = list[tuple[str, int]]


@pytest.fixture
def port() -> int:
    bound = ports.open_on_all(("127.0.0.1", "127.0.1.1", "::1"), 0)
    bound.close()
    return bound.port


@dataclass
class Told:
    """What `on_names` was told; `until` waits for something of it."""

    names: Names = field(default_factory=list)
    count: int = 0
    changed: trio.Event = field(default_factory=trio.Event)

    def __call__(self, names: Names) -> None:
        self.names = names
        self.count += 1
        self.changed.set()
        self.changed = trio.Event()

    async def until(self, condition: Callable[[Names], bool]) -> None:
        with trio.fail_after(5):
            while not condition(self.names):
                await self.changed.wait()


def mapper(name: str, link_port: int, port: int, told: Told | None = None) -> PortMapper:
    config = PortMapperConfig(port=port)
    return PortMapper(config, name=name, port=link_port, on_names=told or Told())


def ask(port: int, data: bytes, host: str = "127.0.0.1") -> bytes:
    """A blocking request from another thread's point of view; for `trio.to_thread`."""
    with socket.create_connection((host, port), timeout=5) as sock:
        sock.sendall(data)
        parts = []
        while part := sock.recv(65_536):
            parts.append(part)
        return b"".join(parts)


async def until_state(service: PortMapper, state: str) -> None:
    with trio.fail_after(5):
        while service.state() != state:
            await trio.testing.wait_all_tasks_blocked(0.005)


async def test_mapper_holds_its_own_name(nursery: trio.Nursery, port: int) -> None:
    told = Told()
    service = mapper("gandalf@shire", 4370, port, told)
    await nursery.start(service.run)
    assert service.state() == "mapper"
    assert service.names() == told.names == [("gandalf", 4370)]
    for host in ("127.0.0.1", "127.0.1.1", "::1"):
        entry = await client.lookup(host, "gandalf", port=port)
        assert entry is not None and entry.port == 4370
        assert entry.drupelet_version == portmap.LINK_VERSION
    assert await client.names("localhost", port=port) == [("gandalf", 4370)]
    statistics = service.statistics()
    assert statistics.table is not None and statistics.table.look_ups == 3
    assert statistics.detail == ""


async def test_disabled_does_nothing(port: int) -> None:
    config = PortMapperConfig(enabled=False, port=port)
    service = PortMapper(config, name="gandalf", port=4370, on_names=Told())
    await service.run()
    assert service.state() == "off"
    assert service.names() == []


async def test_registration_comes_and_goes(nursery: trio.Nursery, port: int) -> None:
    told = Told()
    await nursery.start(mapper("gandalf", 4370, port, told).run)
    bilbo = MapperEntry(name="bilbo", port=4371)
    registration = await client.register("127.0.0.1", bilbo, port=port)
    await told.until(lambda names: ("bilbo", 4371) in names)
    with pytest.raises(client.NameTaken):
        await client.register("127.0.0.1", bilbo, port=port)
    registration.close()
    await told.until(lambda names: names == [("gandalf", 4370)])
    assert await client.lookup("127.0.0.1", "bilbo", port=port) is None


async def test_second_daemon_is_a_client_and_takes_over(nursery: trio.Nursery, port: int) -> None:
    told = Told()
    first, second = mapper("gandalf", 4370, port), mapper("bilbo", 4371, port, told)
    async with trio.open_nursery() as inner:
        await inner.start(first.run)
        await nursery.start(second.run)
        assert second.state() == "client"
        assert told.names == second.names() == [("gandalf", 4370), ("bilbo", 4371)]
        assert ("bilbo", 4371) in first.names()
        inner.cancel_scope.cancel()
    await told.until(lambda names: names == [("bilbo", 4371)])
    assert second.state() == "mapper"
    entry = await client.lookup("127.0.0.1", "bilbo", port=port)
    assert entry is not None and entry.port == 4371


async def test_of_several_clients_one_takes_over(nursery: trio.Nursery, port: int) -> None:
    services = [mapper(f"n{index}", 4371 + index, port) for index in range(6)]
    async with trio.open_nursery() as inner:
        await inner.start(mapper("gandalf", 4370, port).run)
        for service in services:
            await nursery.start(service.run)
        assert {service.state() for service in services} == {"client"}
        inner.cancel_scope.cancel()
    with trio.fail_after(5):
        while len(await names_or_nothing(port)) < len(services):
            await trio.testing.wait_all_tasks_blocked(0.01)
    states = sorted(service.state() for service in services)
    assert states == ["client"] * 5 + ["mapper"]


async def names_or_nothing(port: int) -> Names:
    try:
        return await client.names("127.0.0.1", port=port)
    except client.NoConnection:
        return []


async def test_client_asks_its_mapper_for_current_names(nursery: trio.Nursery, port: int) -> None:
    first, second = mapper("gandalf", 4370, port), mapper("bilbo", 4371, port)
    await nursery.start(first.run)
    await nursery.start(second.run)
    frodo = await client.register("127.0.0.1", MapperEntry(name="frodo", port=9), port=port)
    assert second.names() == [("gandalf", 4370), ("bilbo", 4371)]
    assert ("frodo", 9) in await second.current_names()
    frodo.close()


async def test_taken_name_is_told_and_tried_again(
    nursery: trio.Nursery, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portmap, "_RETRY_LAST_S", 0.06)
    await nursery.start(mapper("gandalf", 4370, port).run)
    holder = await client.register("127.0.0.1", MapperEntry(name="bilbo", port=9), port=port)
    service = mapper("bilbo", 4371, port)
    await nursery.start(service.run)
    assert service.state() == "taken"
    assert "'bilbo' is taken" in service.statistics().detail
    assert "port 9" in service.statistics().detail
    holder.close()
    await until_state(service, "client")
    assert service.statistics().detail == ""


async def test_something_else_on_the_port(
    nursery: trio.Nursery, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portmap, "_RETRY_LAST_S", 0.06)
    service = mapper("gandalf", 4370, port)
    with ports.open_listener("127.0.0.1", port) as listener:
        listener.listen(0)

        async def hang_up() -> None:
            while True:
                await trio.lowlevel.wait_readable(listener)
                listener.accept()[0].close()

        async with trio.open_nursery() as inner:
            inner.start_soon(hang_up)
            await nursery.start(service.run)
            assert service.state() == "failed"
            assert "no port mapper" in service.statistics().detail
            inner.cancel_scope.cancel()
    await until_state(service, "mapper")


async def test_address_that_is_not_ours_fails_and_says_so(nursery: trio.Nursery, port: int) -> None:
    config = PortMapperConfig(listen=("192.0.2.77",), port=port)
    service = PortMapper(config, name="gandalf", port=4370, on_names=Told())
    await nursery.start(service.run)
    assert service.state() == "failed"
    assert "192.0.2.77" in service.statistics().detail


async def test_kill_and_stop_change_nothing(nursery: trio.Nursery, port: int) -> None:
    service = mapper("gandalf", 4370, port)
    await nursery.start(service.run)
    assert await trio.to_thread.run_sync(ask, port, b"\0\1k") == b"NO"
    assert await trio.to_thread.run_sync(ask, port, b"\0\x08sgandalf") == b""
    assert service.names() == [("gandalf", 4370)]


async def test_junk_and_drips_close_just_themselves(
    nursery: trio.Nursery, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAPPER_REQUEST_S", 0.1)
    service = mapper("gandalf", 4370, port)
    await nursery.start(service.run)
    drip = await trio.open_tcp_stream("127.0.0.1", port)
    await drip.send_all(b"\0")
    for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\0\0", b"\xff" * 65_536):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        with trio.fail_after(5):
            try:
                await stream.send_all(junk)
                assert await stream.receive_some() == b""
            except trio.BrokenResourceError:
                pass  # a reset: there was more junk than we read
        await stream.aclose()
        assert await client.lookup("127.0.0.1", "gandalf", port=port) is not None
    with trio.fail_after(5):
        assert await drip.receive_some() == b""
    await drip.aclose()
    table = service.statistics().table
    assert table is not None and (table.malformed, table.timeouts) == (3, 1)


async def test_half_open_crowd_does_not_shut_anyone_out(nursery: trio.Nursery, port: int) -> None:
    service = mapper("gandalf", 4370, port)
    await nursery.start(service.run)
    crowd = []
    for _ in range(limits.MAPPER_PENDING_MAX + 50):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(b"\0")  # half a length
        crowd.append(stream)
    assert await client.lookup("127.0.0.1", "gandalf", port=port) is not None
    table = service.statistics().table
    assert table is not None
    assert table.pending <= limits.MAPPER_PENDING_MAX
    for stream in crowd:
        await stream.aclose()


async def test_on_names_is_told_in_batches(nursery: trio.Nursery, port: int) -> None:
    told = Told()
    await nursery.start(mapper("gandalf", 4370, port, told).run)
    count = 200
    held = [
        await client.register("127.0.0.1", MapperEntry(name=f"n{index}", port=9), port=port)
        for index in range(count)
    ]
    await told.until(lambda names: len(names) == count + 1)
    assert told.count < count / 2
    for registration in held:
        registration.close()
    await told.until(lambda names: len(names) == 1)


def hold(port: int, count: int) -> list[socket.socket]:
    """`count` names, one connection each; blocking, for a thread."""
    held = []
    for index in range(count):
        sock = socket.create_connection(("127.0.0.1", port), timeout=5)
        sock.sendall(epmd.register_request(MapperEntry(name=f"n{index}", port=9)))
        assert sock.recv(16)[1] == 0
        held.append(sock)
    return held


async def test_more_names_than_erlangs_epmd_can_hold(nursery: trio.Nursery, port: int) -> None:
    count = 1_500  # both ends of each are in this process; 10,000 in tests/bench
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2 * count + 2_048:
        pytest.skip("the hard limit of descriptors is too low")
    service = mapper("gandalf", 4370, port)
    await nursery.start(service.run)
    held = await trio.to_thread.run_sync(hold, port, count)
    assert len(service.names()) == count + 1
    assert len(await client.names("127.0.0.1", port=port)) == count + 1
    for sock in held:
        # gone without a goodbye, as a killed process
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    with trio.fail_after(5):
        while len(service.names()) > 1:
            await trio.testing.wait_all_tasks_blocked(0.005)


@pytest.mark.parametrize(
    ("soft", "hard", "names_max"),
    [
        (1_024, 1_048_576, limits.MAPPER_NAMES_MAX),
        (1_024, 20_000, limits.MAPPER_NAMES_MAX),
        (1_024, 12_000, 10_976),
        (1_024, 1_024, 512),
        (65_536, resource.RLIM_INFINITY, limits.MAPPER_NAMES_MAX),
    ],
)
def test_descriptors_left_for_others(
    soft: int, hard: int, names_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: raised.append(pair))
    assert portmap._descriptors_to_spare() == names_max
    assert all(pair[0] > soft and pair[1] == hard for pair in raised)


def test_listens_where_a_debian_host_looks_for_its_own_name() -> None:
    with_it = ("127.0.0.1", "::1", "127.0.1.1")
    assert portmap._with_host_name_address(("127.0.0.1", "::1")) == with_it
    for listen in (("0.0.0.0",), ("127.0.0.1", "0.0.0.0"), ("::1",), ("192.0.2.1",)):
        assert portmap._with_host_name_address(listen) == listen
