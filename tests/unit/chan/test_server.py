"""A chan server: who comes in, who is refused with which word, and who has to wait."""

from __future__ import annotations

import contextlib
import logging
import socket
import traceback
from pathlib import Path

import pytest
import trio
import trio.testing

from drupelet import chan
from drupelet.chan import server as server_module
from drupelet.chan.link import fresh_secrets
from drupelet.core.guests import Guests
from drupelet.errors import AuthFail, BadService, ConfigError, NoConnection
from drupelet.process import Pid, exit, process_info, receive, send, whereis
from drupelet.process.running import open_runtime
from drupelet.wire import guests, limits
from drupelet.wire.guests import GuestClient
from tests.unit.chan.links import reason_of
from tests.unit.chan.serving import CONF, Clock, serving

PASSWORD = "ABXy45"


async def name_server(port: int, password: str = PASSWORD, service: str = "nameServer") -> Pid:
    return await chan.connect("127.0.0.1", port, service, password, "")


async def wrong(port: int, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(AuthFail):
            await name_server(port, "a guess")


async def when_there_is_room(port: int) -> Pid:
    with trio.fail_after(5):
        while True:
            with contextlib.suppress(NoConnection):
                return await name_server(port)
    raise AssertionError


async def test_lib_chans_own_session() -> None:
    async with serving() as (_, port):
        mm = await chan.connect("localhost", port, "nameServer", PASSWORD, "")
        await chan.cast(mm, ("store", "joe", "writing a book"))
        assert await chan.rpc(mm, ("lookup", "joe")) == ("ok", "writing a book")
        assert await chan.rpc(mm, ("lookup", "jim")) is None


async def test_guests_share_the_service_and_have_a_process_each() -> None:
    async with serving() as (_, port):
        one, two = await name_server(port), await name_server(port)
        await chan.cast(one, ("store", "joe", [1, {"a": None}]))
        await chan.rpc(one, ("lookup", "joe"))
        assert await chan.rpc(two, ("lookup", "joe")) == ("ok", [1, {"a": None}])
        await chan.close(one)
        assert await reason_of(one) in ("normal", "noproc")
        assert await chan.rpc(two, ("lookup", "jim")) is None
        assert await whereis("mod_name_server") is not None


async def test_argument_and_extra_reach_the_service() -> None:
    async with serving() as (_, port):
        mm = await chan.connect("127.0.0.1", port, "echo", "echo's own", {"a": [1]})
        assert await receive(timeout=5) == ("chan", mm, ({"a": [1]}, ("extra", 1)))


async def test_wrong_password_and_unknown_service() -> None:
    async with serving() as (_, port):
        with pytest.raises(AuthFail, match="^authFail: "):
            await name_server(port, "abxy45")
        with pytest.raises(BadService, match="^badService: "):
            await name_server(port, service="noServer")
        with pytest.raises(AuthFail, match="^authFail: wrong password, or"):
            await name_server(port, "abxy45", "noServer")
        mm = await name_server(port)  # only two of the three were wrong passwords
        assert await chan.rpc(mm, ("lookup", "x")) is None


async def test_the_password_of_another_service_is_a_wrong_one() -> None:
    async with serving() as (_, port):
        with pytest.raises(AuthFail):
            await name_server(port, "echo's own")
        with pytest.raises(AuthFail):
            await name_server(port, PASSWORD, "echo")


async def test_three_wrong_tries_make_the_address_wait() -> None:
    clock = Clock()
    async with serving(clock=clock) as (_, port):
        await wrong(port, limits.CHAN_TRIES_MAX)
        with pytest.raises(AuthFail, match="too many") as caught:
            await name_server(port)  # the right one
        assert caught.value.retry_after_s == limits.CHAN_BACKOFF_S
        clock.now += limits.CHAN_BACKOFF_S - 0.5
        with pytest.raises(AuthFail) as caught:
            await name_server(port)
        assert caught.value.retry_after_s == 1
        clock.now += 0.5
        assert await chan.rpc(await name_server(port), ("lookup", "x")) is None


async def test_guests_that_are_inside_stay_while_their_address_waits() -> None:
    async with serving() as (_, port):
        mm = await name_server(port)
        await wrong(port, limits.CHAN_TRIES_MAX)
        assert await chan.rpc(mm, ("lookup", "x")) is None


async def test_many_at_once_have_three_guesses_together(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All of them shake hands before the first wrong password is counted."""
    async with serving() as (_, port):
        waits: list[float] = []
        together = trio.Event()
        shaking = limits.UNAUTHENTICATED_PER_ADDRESS_MAX

        async def guess() -> None:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with stream:
                machine = GuestClient("nameServer", b"a guess", fresh_secrets())
                await stream.send_all(machine.start())
                data = bytes(await stream.receive_some(1_000))
                nonlocal shaking
                shaking -= 1
                if not shaking:
                    together.set()
                await together.wait()
                with pytest.raises(AuthFail) as caught:
                    while True:
                        await stream.send_all(machine.receive_data(data))
                        data = bytes(await stream.receive_some(1_000))
                waits.append(caught.value.retry_after_s)

        async with trio.open_nursery() as nursery:
            for _ in range(limits.UNAUTHENTICATED_PER_ADDRESS_MAX):
                nursery.start_soon(guess)
    judged = [record for record in caplog.records if "wrong password" in record.getMessage()]
    assert len(judged) == limits.CHAN_TRIES_MAX
    assert len([wait for wait in waits if wait > 0]) == len(waits) - limits.CHAN_TRIES_MAX + 1


async def test_who_has_to_wait_learns_nothing_from_a_right_guess() -> None:
    """A right password of one who waits and a wrong one get the same bytes."""
    answers = []
    for password in (PASSWORD.encode(), b"a guess"):
        machine = guests.GuestServer({"nameServer": PASSWORD.encode()}, b"", fresh_secrets())
        client = GuestClient("nameServer", password, fresh_secrets())
        data = machine.receive_data(client.receive_data(machine.receive_data(client.start())))
        machine.receive_data(client.receive_data(data))
        counted = Guests()
        counted.knock("192.0.2.1", 0.0)
        for _ in range(limits.CHAN_TRIES_MAX):
            counted.wrong("192.0.2.1", 0.0)
        server = object.__new__(server_module._Server)
        server._clock, server._guests = lambda: 0.0, counted
        answer = server._judge(machine, server_module._Visit(counted, "192.0.2.1"))
        with pytest.raises(AuthFail) as caught:
            client.receive_data(answer)
        answers.append((len(answer), str(caught.value), counted.statistics().wrong_count))
    assert answers[0] == answers[1]


async def test_connections_per_address_at_the_maximum_and_one_above(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CHAN_CONNECTIONS_PER_ADDRESS_MAX", 3)
    async with serving() as (_, port):
        inside = [await name_server(port) for _ in range(3)]
        with pytest.raises(NoConnection, match="overloaded"):
            await name_server(port)
        await chan.close(inside[0])
        assert await chan.rpc(await when_there_is_room(port), ("lookup", "x")) is None


async def test_guests_without_a_password_at_the_maximum_and_one_above(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "UNAUTHENTICATED_PER_ADDRESS_MAX", 2)
    async with serving() as (_, port):
        idle = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked(0.05)
        with pytest.raises(NoConnection, match="overloaded"):
            await name_server(port)
        await idle[0].aclose()
        assert await chan.rpc(await when_there_is_room(port), ("lookup", "x")) is None
        await idle[1].aclose()


async def test_a_slow_guest_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_S", 0.05)
    async with serving() as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(5):
            assert await stream.receive_some(1_000) == b""


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", bytes(200), b"\0\x21" + bytes(33)])
async def test_a_stranger_who_speaks_something_else_gets_a_close(junk: bytes) -> None:
    async with serving() as (_, port):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(junk)
            with trio.fail_after(5):
                with contextlib.suppress(trio.BrokenResourceError):  # unread bytes: a reset
                    assert await stream.receive_some(1_000) == b""
        assert await chan.rpc(await name_server(port), ("lookup", "x")) is None


async def test_the_server_closes_and_the_client_sees_it() -> None:
    async with serving() as (_, port):
        mm = await chan.connect("127.0.0.1", port, "echo", "echo's own", 1)
        await receive(timeout=5)
        await chan.cast(mm, "close")
        assert await receive(timeout=5) == ("chan_closed", mm)


async def test_a_service_that_crashes_takes_only_its_own_chan_along() -> None:
    async with serving() as (_, port):
        mm = await chan.connect("127.0.0.1", port, "echo", "echo's own", 1)
        other = await chan.connect("127.0.0.1", port, "echo", "echo's own", 2)
        for _ in range(2):
            await receive(timeout=5)
        await chan.cast(mm, "crash")
        assert await receive(timeout=5) == ("chan_closed", mm)
        assert await chan.rpc(other, "still here") == "still here"


async def test_stopping_closes_every_chan_and_the_port() -> None:
    async with serving() as (server, port):
        pids = [await name_server(port) for _ in range(3)]
        await chan.stop_server(server)
        closed = [await receive(("chan_closed", Pid), timeout=5) for _ in pids]
        assert {pid for _, pid in closed} == set(pids)
        with pytest.raises(NoConnection, match="port_closed"):
            await name_server(port)


async def test_a_killed_server_does_too() -> None:
    async with serving() as (server, port):
        mm = await name_server(port)
        exit(server, "kill")
        assert await receive(timeout=5) == ("chan_closed", mm)
        assert await reason_of(server) in ("killed", "noproc")
        with pytest.raises(NoConnection, match="port_closed"):
            await name_server(port)


async def test_messages_that_are_none_of_its_own() -> None:
    async with serving() as (server, port):
        await send(server, ("close", "yourself"))
        assert await chan.port(server) == port
        assert process_info(server)["messages"] == 0


async def test_a_taken_port_and_an_address_that_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        async with open_runtime():
            with pytest.raises(ConfigError, match=f"port {taken} of 127.0.0.1.*stop what"):
                await chan.start_server(chan.parse_conf(CONF.replace("0", str(taken), 1)))
            for listen in ("192.0.2.1", "everywhere"):
                with pytest.raises(ConfigError, match="address"):
                    await chan.start_server(chan.parse_conf(f'{CONF}{{listen, "{listen}"}}.'))


async def test_a_conf_file(tmp_path: Path) -> None:
    file = tmp_path / "chan.conf"
    file.write_text(CONF)
    async with open_runtime():
        file.chmod(0o644)
        with pytest.raises(ConfigError, match="chmod 600"):
            await chan.start_server(file)
        file.chmod(0o600)
        server = await chan.start_server(str(file))
        mm = await name_server(await chan.port(server))
        assert await chan.rpc(mm, ("lookup", "x")) is None
        file.write_text(CONF.replace("echo, {", "eco, {"))
        with pytest.raises(ConfigError, match=r"chan.conf:3: .* no function eco"):
            await chan.start_server(file)


async def test_the_password_is_in_no_log_and_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    texts = []
    async with serving() as (server, port):
        await name_server(port)
        for service, password in (("nameServer", "guess#1"), ("no", PASSWORD), (PASSWORD, "x")):
            try:
                await name_server(port, password, service)
            except (AuthFail, BadService) as error:
                texts += traceback.format_exception(error)
        texts.append(repr(process_info(server)))
    assert len(texts) > 3
    everything = "".join((*texts, caplog.text))
    for secret in ("guess#1", "echo's own"):
        assert secret not in everything
    assert everything.count(PASSWORD) == 0
