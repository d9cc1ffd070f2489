"""Starting and stopping what the behaviours are made of."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from drupelet.errors import NameTaken, ProcessDown, Timeout
from drupelet.process import (
    Exit,
    Pid,
    Request,
    exit,
    flush,
    is_process_alive,
    process_info,
    receive,
    run,
    self,
    send,
    spawn_monitor,
    trap_exit,
    whereis,
)
from drupelet.process.behaviours import (
    Started,
    call,
    cast_to,
    is_orderly,
    start_behaviour,
    stop,
)


async def _echo(started: Started) -> None:
    started()
    while True:
        match await receive():
            case Request(_, ("$gen_stop", reason)):
                exit(reason)
            case ("$gen_cast", (pid, word)):
                await send(pid, word)


def test_it_returns_when_init_is_over() -> None:
    order: list[str] = []

    async def body(started: Started) -> None:
        await receive("go", timeout=3)
        order.append("init")
        started()
        await receive("never")

    async def main() -> None:
        async def helper() -> None:
            while (pid := await whereis("it")) is None:
                await trio.lowlevel.checkpoint()
            await send(pid, "go")

        await spawn_monitor(helper)
        pid = await start_behaviour(body, body, link=True, name="it")
        order.append("started")
        assert is_process_alive(pid)
        info = process_info(pid)
        assert info["function"].endswith("body")
        assert info["parent"] == self()
        assert info["links"] == [self()]
        assert info["watchers"] == 0

    run(main)
    assert order == ["init", "started"]


def test_its_end_before_that_is_told_with_the_exit_signal_first() -> None:
    async def body(_: Started) -> None:
        raise ValueError("bad")

    async def main() -> object:
        trap_exit()
        with pytest.raises(ProcessDown) as caught:
            await start_behaviour(body, body, link=True)
        return caught.value.reason, await flush()

    reason, messages = run(main)
    assert reason == ("ValueError", "bad")
    assert [type(each) for each in messages] == [Exit]
    assert messages[0].reason == reason


def test_a_starter_that_does_not_trap_ends_with_it() -> None:
    async def body(_: Started) -> None:
        raise ValueError("bad")

    async def starter() -> None:
        await start_behaviour(body, body, link=True)

    async def main() -> object:
        await spawn_monitor(starter)
        return await receive()

    assert run(main).reason == ("ValueError", "bad")


def test_a_taken_name_is_refused_and_no_init_runs() -> None:
    async def main() -> None:
        first = await start_behaviour(_echo, _echo, link=True, name="it")
        with pytest.raises(NameTaken, match="it"):
            await start_behaviour(_echo, _echo, link=True, name="it")
        assert is_process_alive(first)
        with pytest.raises(ValueError, match="name"):
            await start_behaviour(_echo, _echo, link=True, name="no name")

    run(main)


def test_one_that_ignores_gives_none() -> None:
    async def body(started: Started) -> None:
        started(None)

    async def main() -> object:
        return await start_behaviour(body, body, link=True)

    assert run(main) is None


def test_a_start_that_takes_too_long_is_killed() -> None:
    ended: list[str] = []

    async def body(_: Started) -> None:
        try:
            await receive("never")
        finally:
            ended.append("finally")

    async def main() -> None:
        with pytest.raises(Timeout):
            await start_behaviour(body, body, link=True, timeout=3)
        assert trio.current_time() - began == pytest.approx(3)
        await trio.testing.wait_all_tasks_blocked()
        assert ended == ["finally"]
        assert await flush() == []

    clock = trio.testing.MockClock(autojump_threshold=0)
    began = clock.current_time()
    run(main, clock=clock)


def test_who_starts_and_is_cancelled_leaves_nothing_behind() -> None:
    pids: list[Pid] = []

    async def body(_: Started) -> None:
        pids.append(self())
        await receive("never")

    async def main() -> None:
        with trio.move_on_after(3):
            await start_behaviour(body, body, link=True)
        await trio.testing.wait_all_tasks_blocked()
        assert not is_process_alive(pids[0])

    run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_messages_that_wait_stay_in_order() -> None:
    async def main() -> object:
        await send(self(), 1)
        await start_behaviour(_echo, _echo, link=True)
        await send(self(), 2)
        return await flush()

    assert run(main) == [1, 2]


def test_stop_waits_for_the_end() -> None:
    async def main() -> None:
        pid = await start_behaviour(_echo, _echo, link=False)
        await stop(pid)
        assert not is_process_alive(pid)
        with pytest.raises(ProcessDown, match="noproc"):
            await stop(pid)
        pid = await start_behaviour(_echo, _echo, link=False)
        await stop(pid, ("shutdown", "word"))

    run(main)


def test_a_cast_reaches_it_and_nobody_is_no_error() -> None:
    async def main() -> object:
        pid = await start_behaviour(_echo, _echo, link=True)
        await cast_to(pid, (self(), "hello"))
        await cast_to("nobody", 1)
        with pytest.raises(Timeout):
            await call(pid, "unanswered", timeout=0.1)
        return await receive()

    assert run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == "hello"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("normal", True),
        ("shutdown", True),
        (("shutdown", "why"), True),
        (["shutdown", "why"], False),
        (("shutdown",), False),
        ("killed", False),
        (("ValueError", "normal"), False),
        (None, False),
    ],
)
def test_orderly_reasons(reason: object, expected: bool) -> None:
    assert is_orderly(reason) is expected
