"""Middle-men: what their owners see, and every way in which a chan ends."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.chan import middle
from drupelet.chan.link import Link
from drupelet.process import (
    Down,
    Mailbox,
    Pid,
    exit,
    flush,
    monitor,
    process_info,
    receive,
    self,
    send,
    send_nowait,
    spawn,
)
from drupelet.process.running import open_runtime
from drupelet.wire import limits
from drupelet.wire.chan import Closed, Value
from tests.unit.chan.links import link_and_raw, link_pair, reason_of


async def middle_man(link: Link, owner: Pid | None = None) -> Pid:
    return await spawn(middle.guest_side, link, owner or self(), trio.Event())


@asynccontextmanager
async def two_middle_men() -> AsyncIterator[tuple[Pid, Pid]]:
    """This process owns both; what one is told to send comes from the other."""
    async with open_runtime():
        one, two = link_pair()
        yield await middle_man(one), await middle_man(two)


async def next_is(*expected: object) -> None:
    assert await receive(timeout=5) == expected


async def nothing_more() -> None:
    await trio.testing.wait_all_tasks_blocked()
    assert await flush() == []


async def test_values_both_ways_in_order() -> None:
    async with two_middle_men() as (one, two):
        for number in range(200):
            await send(one, ("send", number))
        for number in range(200):
            await next_is("chan", two, number)
        await send(two, ("send", {"to": ["you", None, ("x", 1.5)]}))
        await next_is("chan", one, {"to": ["you", None, ("x", 1.5)]})


@pytest.mark.parametrize("word", ["close", ("close",)])
async def test_close_is_told_to_the_other_side_only(word: object) -> None:
    async with two_middle_men() as (one, two):
        await send(one, ("send", "last"))
        await send(one, word)
        await next_is("chan", two, "last")
        await next_is("chan_closed", two)
        assert await reason_of(one) in ("normal", "noproc")
        assert await reason_of(two) in ("normal", "noproc")
        await nothing_more()


@pytest.mark.parametrize("reason", ["normal", "boom", "kill"])
async def test_an_owner_that_ends_closes_its_chan(reason: str) -> None:
    async def owner(link: Link, pids: list[Pid]) -> None:
        pids.append(await middle_man(link))
        await receive("end")

    async with open_runtime():
        one, two = link_pair()
        pids: list[Pid] = []
        dying = await spawn(owner, one, pids)
        told = await middle_man(two)
        await trio.testing.wait_all_tasks_blocked()
        if reason == "normal":
            await send(dying, "end")
        else:
            exit(dying, reason)
        await next_is("chan_closed", told)
        assert await reason_of(pids[0]) in ("normal", "noproc")
        await nothing_more()


async def test_a_killed_middle_man_tells_both_sides() -> None:
    async with two_middle_men() as (one, two):
        await trio.testing.wait_all_tasks_blocked()
        exit(one, "kill")
        told = [await receive(timeout=5), await receive(timeout=5)]
        assert sorted(told, key=str) == sorted(
            [("chan_closed", one), ("chan_closed", two)], key=str
        )
        await nothing_more()


async def test_a_killed_middle_man_and_a_full_mailbox(caplog: pytest.LogCaptureFixture) -> None:
    async def owner() -> None:
        await receive("end")

    async with open_runtime():
        full = await spawn(owner, mailbox=Mailbox(limit=2, policy="block"))
        one, _ = link_pair()
        mm = await middle_man(one, full)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):
            send_nowait(full, "x")
        exit(mm, "kill")
        assert await reason_of(mm) == "killed"
    assert "misses its chan_closed" in caplog.text


async def test_a_connection_that_is_cut() -> None:
    async with open_runtime():
        link, raw, machine = link_and_raw()
        mm = await middle_man(link)
        await raw.send_all(machine.send_value(1) + machine.send_value(2)[:-1])
        await raw.aclose()
        await next_is("chan", mm, 1)
        await next_is("chan_closed", mm)
        await nothing_more()


async def test_bytes_that_cannot_be_close_the_chan() -> None:
    async with open_runtime():
        link, raw, _ = link_and_raw()
        mm = await middle_man(link)
        await raw.send_all(b"\0\0junk")
        await next_is("chan_closed", mm)


async def test_a_silent_side_is_dead(autojump_clock: trio.testing.MockClock) -> None:
    async with open_runtime():
        link, _, _ = link_and_raw()
        mm = await middle_man(link)
        assert await receive() == ("chan_closed", mm)
        assert trio.current_time() == pytest.approx(limits.CHAN_SILENCE_S)


async def test_an_idle_chan_lives(autojump_clock: trio.testing.MockClock) -> None:
    async with two_middle_men() as (one, two):
        await trio.sleep(3_600)
        await send(one, ("send", "still here"))
        await next_is("chan", two, "still here")


async def test_words_that_are_none_do_not_keep_it_silent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_middle_men() as (one, two):
        for _ in range(60):
            await trio.sleep(1)
            await send(one, ("what", "is this"))
        await nothing_more()
        await send(one, ("send", 1))
        await next_is("chan", two, 1)


async def test_who_takes_nothing_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    async with open_runtime():
        link, _, _ = link_and_raw(lockstep=True)
        mm = await middle_man(link)
        await send(mm, ("send", "never read"))
        assert await receive() == ("chan_closed", mm)
        assert trio.current_time() <= limits.CHAN_SILENCE_S


async def test_a_side_that_never_closes_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_runtime():
        link, raw, machine = link_and_raw()
        mm = await middle_man(link)
        await send(mm, "close")
        assert await reason_of(mm) in ("normal", "noproc")
        assert trio.current_time() <= middle.LINGER_S
        assert machine.receive_data(bytes(await raw.receive_some(1_000))) == [Closed()]


@pytest.mark.parametrize("what", ["pid", "function"])
async def test_what_is_not_for_guests_closes_the_chan(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with two_middle_men() as (one, two):
        value: Any = self() if what == "pid" else ["x" * limits.CHAN_VALUE_BYTES_MAX]
        await send(one, ("send", {"secret": value}))
        told = [await receive(timeout=5), await receive(timeout=5)]
        assert {pid for _, pid in told} == {one, two}
    warnings = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert [record.getMessage() for record in warnings] == [
        "a value that is no data for guests; closing the chan"
    ]


async def test_a_pid_from_a_guest_closes_the_chan() -> None:
    async with open_runtime():
        link, raw, machine = link_and_raw()
        mm = await middle_man(link)
        hostile = machine._sealer.seal(_data_frame(mm))
        await raw.send_all(hostile)
        await next_is("chan_closed", mm)


def _data_frame(pid: Pid) -> bytes:
    from drupelet.wire.codec import dumps
    from drupelet.wire.frames import DATA, frame

    return frame(DATA, 0, b"\0" + dumps(("send", pid)))


async def test_another_controller() -> None:
    async def heir(first: Pid) -> None:
        while True:
            await send(first, ("heir", await receive()))

    async with two_middle_men() as (one, two):
        pid = await spawn(heir, self())
        await send(two, ("setController", pid))
        await trio.testing.wait_all_tasks_blocked()
        await send(one, ("send", "hello"))
        await next_is("heir", ("chan", two, "hello"))
        exit(pid, "shutdown")
        await next_is("chan_closed", one)


async def test_a_full_mailbox_stops_the_reader() -> None:
    count = 400
    seen: list[object] = []

    go = trio.Event()

    async def slow() -> None:
        await go.wait()
        for _ in range(count):
            seen.append(await receive())

    async with open_runtime():
        link, raw, machine = link_and_raw()
        owner = await spawn(slow, mailbox=Mailbox(limit=10, policy="block"))
        mm = await middle_man(link, owner)
        sent = [machine.send_value(number) for number in range(count)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raw.send_all, b"".join(sent))
            await trio.testing.wait_all_tasks_blocked()
            assert seen == []
            assert process_info(owner)["messages"] == 10
            go.set()
            assert await reason_of(owner) in ("normal", "noproc")
        assert seen == [("chan", mm, number) for number in range(count)]


# -- the side of a service


async def service(mm: Pid, argument: object, extra: object) -> None:
    await send(mm, ("send", ("started with", argument, extra)))
    while True:
        match await receive():
            case ("chan", _, "end"):
                return
            case ("chan", _, value):
                await send(mm, ("send", ("echo", value)))
            case ("chan_closed", _):
                return


@asynccontextmanager
async def served(link: Link) -> AsyncIterator[tuple[Pid, Pid, list[str]]]:
    """A middle-man of `service`, its server, and a list of how often it said that it ended."""
    async with open_runtime():
        ends: list[str] = []
        server = await spawn(receive, "end")
        mm = await spawn(
            middle.service_side, link, service, "extra", server, lambda: ends.append("end")
        )
        yield mm, server, ends


async def test_a_service_starts_with_the_first_value() -> None:
    one, two = link_pair()
    async with served(two) as (mm, _, ends):
        await one.send_value("argument")
        await one.send_value(7)
        assert await one.receive() == [Value(("started with", "argument", "extra"))]
        assert await one.receive() == [Value(("echo", 7))]
        assert ends == []
        await one.send_value("end")
        assert await one.receive() == [Closed()]
        one.close()
        assert await reason_of(mm) in ("normal", "noproc")
        assert ends == ["end"]


async def test_values_that_came_with_the_argument() -> None:
    link, raw, machine = link_and_raw()
    async with served(link):
        await raw.send_all(b"".join(map(machine.send_value, ("argument", 1, 2))))
        values: list[object] = []
        while len(values) < 3:
            values += machine.receive_data(bytes(await raw.receive_some(1_000)))
        assert values[1:] == [Value(("echo", 1)), Value(("echo", 2))]


async def test_what_waits_for_a_service_at_the_maximum_and_one_above() -> None:
    busy: list[Pid] = []
    go = trio.Event()

    async def slow(mm: Pid, argument: object, extra: object) -> None:
        busy.append(self())
        await go.wait()
        while await receive() != ("chan", mm, "last"):
            pass

    link, raw, machine = link_and_raw()
    async with open_runtime():
        await spawn(middle.service_side, link, slow, None, self(), lambda: None)
        for value in ("argument", *range(limits.CHAN_WAITING_MAX)):
            await raw.send_all(machine.send_value(value))
        await trio.testing.wait_all_tasks_blocked()
        assert process_info(busy[0])["messages"] == limits.CHAN_WAITING_MAX
        await raw.send_all(machine.send_value("last"))
        await trio.testing.wait_all_tasks_blocked()
        assert process_info(busy[0])["messages"] == limits.CHAN_WAITING_MAX
        go.set()
        assert await reason_of(busy[0]) in ("normal", "noproc")
        await raw.aclose()


@pytest.mark.parametrize("leave", ["close", "cut"])
async def test_no_argument_no_service(leave: str) -> None:
    one, two = link_pair()
    async with served(two) as (mm, _, ends):
        if leave == "close":
            await one.send_close()
        else:
            one.close()
        assert await reason_of(mm) in ("normal", "noproc")
        assert ends == ["end"]


async def test_an_argument_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    link, raw, machine = link_and_raw()
    async with served(link) as (mm, _, ends):
        async with trio.open_nursery() as nursery:

            async def pings() -> None:
                while True:
                    await raw.send_all(machine.send_ping())
                    await trio.sleep(limits.CHAN_KEEPALIVE_S)

            nursery.start_soon(pings)
            assert await reason_of(mm) == "normal"
            nursery.cancel_scope.cancel()
        assert ends == ["end"]
        assert trio.current_time() == pytest.approx(limits.CHAN_SEND_S)


async def test_a_server_that_ends_closes_its_chans() -> None:
    one, two = link_pair()
    async with served(two) as (mm, server, ends):
        await one.send_value(None)
        await one.receive()
        exit(server, "shutdown")
        assert await one.receive() == [Closed()]
        one.close()
        assert await reason_of(mm) in ("normal", "noproc")
        assert ends == ["end"]


async def test_a_service_that_crashes_closes_its_chan() -> None:
    async def crash(mm: Pid, argument: object, extra: object) -> None:
        raise ValueError("on purpose")

    one, two = link_pair()
    async with open_runtime():
        ends: list[str] = []
        await spawn(middle.service_side, two, crash, None, self(), lambda: ends.append("end"))
        await one.send_value(None)
        assert await one.receive() == [Closed()]
        one.close()
        await trio.testing.wait_all_tasks_blocked()
        assert ends == ["end"]


async def test_the_end_of_something_else_is_no_end() -> None:
    async with two_middle_men() as (one, two):
        await send(one, Down(monitor(one), two, "normal"))
        await send(one, ("send", 1))
        await next_is("chan", two, 1)
