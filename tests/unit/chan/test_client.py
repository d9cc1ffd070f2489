"""A guest's side: what `connect` and `rpc` raise, and what stays as it was then."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio
import trio.testing

from drupelet import chan
from drupelet.chan import middle
from drupelet.errors import NoConnection, NotSendable, Timeout
from drupelet.process import Pid, exit, flush, process_info, processes, receive, self, send, spawn
from drupelet.process.running import open_runtime
from drupelet.wire import limits
from drupelet.wire.chan import Value
from tests.unit.chan.links import link_pair, reason_of
from tests.unit.chan.serving import serving


async def connect(port: int, **changes: Any) -> Pid:
    arguments = {"service": "nameServer", "password": "ABXy45", "argument": "", **changes}
    return await chan.connect("127.0.0.1", port, **arguments)


# -- connect


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    async with open_runtime():
        with pytest.raises(NoConnection, match="port_closed"):
            await connect(port)


async def test_who_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with open_runtime():
            with pytest.raises(Timeout) as caught:
                await connect(silent.getsockname()[1], timeout=0.1)
            assert not caught.value.maybe_ran


@pytest.mark.parametrize("value", ["pid", "function", "large"])
async def test_an_argument_that_cannot_go_is_refused_before_anything_does(value: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        async with open_runtime():
            things: dict[str, object] = {
                "pid": [self()],
                "function": print,
                "large": bytes(limits.CHAN_VALUE_BYTES_MAX),
            }
            with pytest.raises(NotSendable):
                await connect(listening.getsockname()[1], argument=things[value])
            with pytest.raises(BlockingIOError):
                listening.accept()


async def test_names_and_passwords_that_cannot_be() -> None:
    async with open_runtime():
        for changes in (
            {"service": ""},
            {"service": "s" * (limits.NAME_CHARS_MAX + 1)},
            {"service": "\ud800"},
            {"password": "\ud800"},
        ):
            with pytest.raises(ValueError):
                await connect(1, **changes)


async def test_any_wrong_password_is_an_auth_fail() -> None:
    async with serving() as (_, port):
        for password in ("", "x" * 10_000):
            with pytest.raises(chan.AuthFail):
                await connect(port, password=password)


async def test_a_name_in_another_form_is_the_same() -> None:
    text = (
        '{port,0}.{service,"B\u00e4r",password,"\u00e4\u00f6",mfa,mod_name_server,start_me_up,x}.'
    )
    async with serving(text=text) as (_, port):
        mm = await connect(port, service="Ba\u0308r", password="a\u0308o\u0308")
        assert await chan.rpc(mm, ("lookup", "x")) is None


async def test_the_middle_man_belongs_to_who_connected() -> None:
    async with serving() as (_, port):

        async def guest() -> None:
            mm = await connect(port)
            await chan.rpc(mm, ("lookup", "x"))

        pid = await spawn(guest)
        await reason_of(pid)
        with trio.fail_after(5):
            while any("guest_side" in str(one["function"]) for one in await processes()):
                await trio.lowlevel.checkpoint()


async def test_no_process_knows_the_password() -> None:
    async with serving() as (_, port):
        mm = await connect(port)
        assert "ABXy45" not in repr(process_info(mm)) + repr(await processes())


# -- rpc, cast, close, over a chan whose other end this test is


async def test_rpc_takes_the_next_value_of_its_own_chan() -> None:
    async with open_runtime():
        one, two = link_pair()
        mm = await spawn(middle.guest_side, one, self(), trio.Event())
        await send(self(), ("chan", self(), "another's"))
        await two.send_value("answer")
        assert await chan.rpc(mm, "question") == "answer"
        assert await two.receive() == [Value("question")]
        assert await flush() == [("chan", self(), "another's")]


async def test_rpc_without_an_answer() -> None:
    async with open_runtime():
        one, two = link_pair()
        mm = await spawn(middle.guest_side, one, self(), trio.Event())
        with pytest.raises(Timeout) as caught:
            await chan.rpc(mm, "question", timeout=0.01)
        assert caught.value.maybe_ran
        await two.send_value("late")
        assert await receive(timeout=5) == ("chan", mm, "late")


async def test_rpc_over_a_chan_that_closes() -> None:
    async with open_runtime():
        one, two = link_pair()
        mm = await spawn(middle.guest_side, one, self(), trio.Event())

        async def close_it() -> None:
            await two.receive()
            two.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(close_it)
            with pytest.raises(NoConnection, match="closed"):
                await chan.rpc(mm, "question")
        await trio.testing.wait_all_tasks_blocked()
        assert await flush() == []  # neither a Down nor a second chan_closed


async def test_rpc_to_a_middle_man_that_has_ended() -> None:
    async with open_runtime():
        one, two = link_pair()
        mm = await spawn(middle.guest_side, one, self(), trio.Event())
        two.close()
        assert await receive(timeout=5) == ("chan_closed", mm)
        await reason_of(mm)
        with pytest.raises(NoConnection) as caught:
            await chan.rpc(mm, "question")
        assert caught.value.maybe_ran
        assert await flush() == []


async def test_rpc_and_cast_refuse_a_pid_in_the_sender() -> None:
    async with open_runtime():
        one, two = link_pair()
        mm = await spawn(middle.guest_side, one, self(), trio.Event())
        for call in (chan.rpc, chan.cast):
            with pytest.raises(NotSendable, match=r"value\[1\]: a pid"):
                await call(mm, ("me", self()))
        await chan.cast(mm, "fine")
        assert await two.receive() == [Value("fine")]
        await chan.close(mm)
        two.close()
        assert await reason_of(mm) in ("normal", "noproc")


async def test_killing_the_middle_man_is_seen() -> None:
    async with serving() as (_, port):
        mm = await connect(port)
        exit(mm, "kill")
        assert await receive(timeout=5) == ("chan_closed", mm)
