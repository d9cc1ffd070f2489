"""Listening sockets: the lowest free port of a pool, on all addresses or none."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from drupelet.errors import ConfigError
from drupelet.net import ports

LOOPBACK = ("127.0.0.1", "::1")


def has_ipv6() -> bool:
    try:
        ports.open_listener("::1", 0).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


@pytest.fixture
def three_free() -> Iterator[int]:
    """The first of three free ports in a row."""
    for first in range(20_000, 30_000, 3):
        try:
            for port in range(first, first + 3):
                ports.open_on_all(LOOPBACK, port).close()
        except OSError:
            continue
        yield first
        return
    pytest.fail("no three free ports in a row")


def test_listener_is_ready_and_does_not_block() -> None:
    listener = ports.open_listener("127.0.0.1", 0)
    try:
        assert not listener.getblocking()
        assert not listener.get_inheritable()
        with pytest.raises(BlockingIOError):
            listener.accept()
        socket.create_connection(listener.getsockname(), timeout=5).close()
    finally:
        listener.close()


@pytest.mark.parametrize("address", ["localhost", "::x", "10.0.0.0/8", "256.1.1.1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="not an IPv4 or IPv6 address"):
        ports.open_listener(address, 0)


@needs_ipv6
def test_one_port_for_both_families() -> None:
    bound = ports.open_from_pool(LOOPBACK, 0, 0)
    try:
        assert [sock.family for sock in bound.sockets] == [socket.AF_INET, socket.AF_INET6]
        assert {sock.getsockname()[1] for sock in bound.sockets} == {bound.port}
    finally:
        bound.close()


@needs_ipv6
def test_both_wildcards_side_by_side() -> None:
    bound = ports.open_from_pool(("0.0.0.0", "::"), 0, 0)
    assert len(bound.sockets) == 2
    bound.close()


def test_pool_gives_the_lowest_then_the_next_then_names_its_range(three_free: int) -> None:
    opened = []
    try:
        for offset in range(2):
            opened.append(ports.open_from_pool(LOOPBACK, three_free, three_free + 1))
            assert opened[-1].port == three_free + offset
        with pytest.raises(ConfigError) as caught:
            ports.open_from_pool(LOOPBACK, three_free, three_free + 1)
        assert f"{three_free}-{three_free + 1} are taken" in str(caught.value)
        assert "port_min..port_max" in caught.value.mend
        opened[0].close()
        opened.append(ports.open_from_pool(LOOPBACK, three_free, three_free + 1))
        assert opened[-1].port == three_free
    finally:
        for bound in opened:
            bound.close()


@needs_ipv6
def test_port_taken_on_one_address_is_taken(three_free: int) -> None:
    with ports.open_listener("::1", three_free):
        bound = ports.open_from_pool(LOOPBACK, three_free, three_free + 2)
        assert bound.port == three_free + 1
        bound.close()
        # nothing of the first try is left on the other address
        ports.open_listener("127.0.0.1", three_free).close()


def test_address_of_another_machine() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.77"):
        ports.open_from_pool(("192.0.2.77",), 0, 0)  # TEST-NET-1 of RFC 5737
    with pytest.raises(ConfigError):
        ports.open_from_pool(("192.0.2.77",), 20_000, 20_001)
    bound = ports.open_from_pool(("192.0.2.77", "127.0.0.1"), 0, 0)
    assert len(bound.sockets) == 1
    bound.close()


def test_taken_port_names_its_address() -> None:
    with ports.open_listener("127.0.0.1", 0) as first:
        with pytest.raises(OSError) as caught:
            ports.open_on_all(("127.0.0.1",), first.getsockname()[1])
        assert caught.value.errno == errno.EADDRINUSE
        assert caught.value.filename == "127.0.0.1"


def test_port_is_free_again_after_its_connections(three_free: int) -> None:
    bound = ports.open_on_all(("127.0.0.1",), three_free)
    client = socket.create_connection(("127.0.0.1", three_free), timeout=5)
    bound.sockets[0].setblocking(True)
    accepted, _ = bound.sockets[0].accept()
    accepted.close()  # the server's side goes to TIME_WAIT
    client.recv(1)
    client.close()
    bound.close()
    ports.open_on_all(("127.0.0.1",), three_free).close()
