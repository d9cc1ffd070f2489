"""How a process runs and ends: reasons, finally, exit signals, scopes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
import trio

from drupelet.errors import (
    ProcessDown,
    ProcessExit,
    ReceiveTimeout,
)
from drupelet.process import (
    Down,
    Exit,
    Pid,
    Request,
    ask,
    exit,
    flush,
    is_process_alive,
    link,
    monitor,
    open_scope,
    receive,
    register,
    reply,
    self,
    send,
    send_nowait,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
)
from drupelet.process.current import this_process, this_runtime
from drupelet.process.runtime import UNWIND_S
from tests.unit.process.values import alone
from tests.unit.process.wires import settle

Main = Callable[[], Awaitable[None]]


async def end_of(function: Callable[..., object], *args: object) -> object:
    """The reason with which a process ends that runs it."""
    pid, ref = await spawn_monitor(function, *args)
    down = await receive(lambda m: isinstance(m, Down) and m.ref == ref, timeout=1_000)
    assert isinstance(down, Down) and down.pid == pid
    return down.reason


# -- how it ends


class Groups:
    """What a nursery in a process makes of an error in it."""

    @staticmethod
    async def one() -> None:
        async with trio.open_nursery() as nursery, trio.open_nursery() as inner:
            inner.start_soon(nothing)
            nursery.start_soon(nothing)
            raise ValueError("deep")

    @staticmethod
    async def an_exit() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            async with trio.open_nursery():
                exit(("why", 5))

    @staticmethod
    async def a_child_s_exit() -> None:
        async with trio.open_nursery() as nursery:

            async def child() -> None:
                exit("child")

            nursery.start_soon(child)
            await trio.sleep_forever()

    @staticmethod
    async def two() -> None:
        raise ExceptionGroup("both", [ValueError("one"), KeyError("two")])

    @staticmethod
    async def a_single_in_a_double() -> None:
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [ProcessExit("found")])])

    @staticmethod
    async def leaves() -> None:
        async with trio.open_nursery():
            sys.exit(3)


async def nothing() -> None:
    pass


async def generator() -> Any:
    yield 1


def plain_generator() -> Generator[int]:
    yield 1


class Waits:
    def __await__(self) -> Generator[Any, Any, None]:
        return nothing().__await__()


async def fails(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("function", "args", "reason"),
    [
        (nothing, (), "normal"),
        (lambda: None, (), "normal"),
        (lambda: 5, (), "normal"),
        (Waits, (), "normal"),
        (fails, (ValueError("bad"),), ("ValueError", "bad")),
        (fails, (KeyError("k"),), ("KeyError", "'k'")),
        (fails, (ProcessExit("over"),), "over"),
        (fails, (ProcessExit(["data"]),), ["data"]),
        (fails, (ProcessExit({1}),), "{1}"),
        (fails, (SystemExit(2),), ("SystemExit", "2")),
        (lambda: exit("plain"), (), "plain"),
        (exit, ("normal",), "normal"),
        (exit, ("kill",), "kill"),  # a reason like others; only the signal cannot be trapped
        (Groups.one, (), ("ValueError", "deep")),
        (Groups.an_exit, (), ("why", 5)),
        (Groups.a_child_s_exit, (), "child"),
        (Groups.two, (), ("ExceptionGroup", "both (2 sub-exceptions)")),
        (Groups.a_single_in_a_double, (), "found"),
        (Groups.leaves, (), ("SystemExit", "3")),
        (nothing, ("too", "many"), None),
        (generator, (), None),
        (plain_generator, (), None),
    ],
)
def test_the_reason_of_an_end(
    function: Callable[..., object], args: tuple[object, ...], reason: object
) -> None:
    async def main() -> None:
        told = await end_of(function, *args)
        if reason is None:
            assert isinstance(told, tuple) and told[0] == "TypeError"
        else:
            assert told == reason

    alone(main)


@pytest.mark.parametrize("function", [generator, plain_generator])
def test_a_function_with_yield_is_told_what_is_wrong(function: Callable[..., object]) -> None:
    async def main() -> None:
        _, text = await end_of(function)  # type: ignore[misc]
        assert "no yield" in text

    alone(main)


def test_a_crash_is_logged_once_and_an_exit_is_not(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        pid, _ = await spawn_monitor(fails, ValueError("bad"))
        await receive()
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert f"process_crashed pid={pid} function={__name__}.fails" in record.getMessage()
        assert record.exc_info is not None and record.exc_info[2] is not None
        assert record.exc_info[2].tb_frame.f_code.co_name == "fails"  # the author's first line
        await end_of(fails, ProcessExit("over"))
        await end_of(Groups.an_exit)
        assert len(caplog.records) == 1

    alone(main)


def test_a_crash_is_not_raised_into_the_scope() -> None:
    async def main() -> None:
        async with open_scope() as scope:
            pid = await spawn(fails, ValueError("bad"), scope=scope)
            ref = monitor(pid)
            assert await receive(timeout=1) == Down(ref, pid, ("ValueError", "bad"))
            assert await end_of(nothing) == "normal"

    alone(main)


def test_one_that_is_told_to_end_before_it_began_never_runs() -> None:
    async def main() -> None:
        ran: list[int] = []
        pid = await spawn(ran.append, 1)
        ref = monitor(pid)
        exit(pid, "at once")
        assert await receive() == Down(ref, pid, "at once")
        assert not ran

    alone(main)


# -- told to end


async def cleaning(log: list[object], seconds: float, wait: float = 1_000) -> None:
    try:
        await trio.sleep(wait)
        log.append("slept")
    finally:
        log.append("finally")
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
        log.append("clean")


def test_a_finally_runs_with_a_shield_and_without() -> None:
    async def unshielded(log: list[object]) -> None:
        try:
            await receive()
        finally:
            log.append("finally")
            await trio.sleep(1)
            log.append("not this")

    async def main() -> None:
        for reason in ("kill", "other"):
            log: list[object] = []
            pid, ref = await spawn_monitor(cleaning, log, 1)
            await settle()
            exit(pid, reason)
            assert not is_process_alive(pid)
            told = "killed" if reason == "kill" else reason
            assert await receive() == Down(ref, pid, told)
            assert log == ["finally", "clean"]
            log.clear()
            pid, ref = await spawn_monitor(unshielded, log)
            await settle()
            exit(pid, reason)
            assert await receive() == Down(ref, pid, told)
            assert log == ["finally"]

    alone(main)


@pytest.mark.parametrize(("seconds", "abandoned"), [(UNWIND_S - 0.01, False), (UNWIND_S + 1, True)])
def test_it_has_five_seconds_to_end_and_is_then_abandoned(
    seconds: float, abandoned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        log: list[object] = []
        started = trio.current_time()
        async with open_scope() as scope:
            pid = await spawn(cleaning, log, seconds, scope=scope)
            ref = monitor(pid)
            await settle()
            exit(pid, "kill")
            await trio.sleep(3)
            exit(pid, "kill")  # again changes nothing
            exit(pid, "other")
            assert await receive() == Down(ref, pid, "killed")
            taken = trio.current_time() - started
            assert taken == pytest.approx(UNWIND_S if abandoned else seconds)
            assert log == (["finally"] if abandoned else ["finally", "clean"])
            assert (f"process_abandoned pid={pid} " in caplog.text) == abandoned
        assert log == ["finally", "clean"]  # its scope waits for it all the same
        with pytest.raises(ReceiveTimeout):
            await receive(timeout=10)

    alone(main)


def test_nothing_comes_from_one_that_was_abandoned() -> None:
    async def main() -> None:
        me = self()
        caught: list[str] = []

        async def stubborn() -> None:
            dead = this_process()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(UNWIND_S + 1)
                    caller = (me, this_runtime().ref(5))
                    for number, act in enumerate(
                        (
                            lambda: send(me, "late"),
                            lambda: ask(me, "late", timeout=1),
                            lambda: receive(timeout=1),
                            lambda: spawn(nothing),
                            lambda: spawn_link(nothing),
                            lambda: reply(caller, 1),
                            lambda: register("late"),
                            flush,
                        )
                    ):
                        try:
                            await act()  # type: ignore[operator]
                        except ProcessExit as error:
                            assert error.reason == "killed"
                            caught.append(f"{number}")
                    for now in (
                        lambda: send_nowait(me, "late"),
                        lambda: exit(me, "late"),
                        lambda: link(me),
                        lambda: monitor(me),
                        lambda: trap_exit(True),
                        self,
                    ):
                        with pytest.raises(ProcessExit):
                            now()
                    assert dead.exit_reason == "killed"
                    done.append(True)

        done: list[bool] = []
        trap_exit(True)
        async with open_scope() as scope:
            pid = await spawn(stubborn, scope=scope)
            ref = monitor(pid)
            await settle()
            exit(pid, "kill")
        assert done == [True] and len(caught) == 8
        assert await flush() == [Down(ref, pid, "killed")]

    alone(main)


def test_one_that_is_abandoned_in_receive_hears_of_it() -> None:
    async def main() -> None:
        heard: list[object] = []

        async def stubborn() -> None:
            with trio.CancelScope(shield=True):
                try:
                    await receive()
                except ProcessExit as error:
                    heard.append(error.reason)

        pid, ref = await spawn_monitor(stubborn)
        await settle()
        exit(pid, "kill")
        assert await receive() == Down(ref, pid, "killed")
        await settle()
        assert heard == ["killed"]

    alone(main)


def test_what_comes_to_one_that_unwinds() -> None:
    """No message; an ask is told; a monitor waits for the end."""

    async def main() -> None:
        left: list[object] = []

        async def unwinding() -> None:
            me = this_process()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)
                    left.append(list(me.messages or ()))
                    with pytest.raises(ReceiveTimeout, match="told to end: nothing comes"):
                        await receive(timeout=100)
                    assert await ask(server, 1) == 1  # it may ask others

        async def serving() -> None:
            while True:
                request = await receive(Request)
                await reply(request.caller, request.request)

        server = await spawn(serving)
        pid = await spawn(unwinding)
        await settle()
        exit(pid, "over")
        ref = monitor(pid)
        await send(pid, "late")
        send_nowait(pid, "late")
        with pytest.raises(ProcessDown) as caught:
            await ask(pid, "late")
        assert caught.value.reason == "over"
        assert await receive() == Down(ref, pid, "over")
        assert left == [[]]

    alone(main)


def test_an_exit_to_oneself() -> None:
    async def trapping() -> None:
        trap_exit(True)
        me = self()
        exit(me, "x")
        assert await receive() == Exit(me, "x")
        exit(me, "kill")
        await trio.sleep_forever()

    async def normal() -> None:
        exit(self(), "normal")
        await trio.sleep_forever()

    async def without_waiting() -> None:
        exit(self(), "x")  # it ends when it waits, or returns

    async def main() -> None:
        assert await end_of(trapping) == "killed"
        assert await end_of(normal) == "normal"
        assert await end_of(without_waiting) == "x"
        pid, ref = await spawn_monitor(trio.sleep_forever)
        exit(pid, "normal")  # from another process: nothing
        await settle()
        assert is_process_alive(pid)
        exit(pid, "kill")
        assert await receive() == Down(ref, pid, "killed")

    alone(main)


def test_a_link_passes_the_end_on_but_not_a_normal_one() -> None:
    async def linked_to(pid: Pid) -> None:
        link(pid)
        await trio.sleep_forever()

    async def main() -> None:
        for reason, passed in (("normal", False), ("over", True), (("V", "x"), True)):
            pid = await spawn(receive)
            other, ref = await spawn_monitor(linked_to, pid)
            await settle()
            exit(pid, reason)
            await settle()
            if reason == "normal":
                await send(pid, "end")
                await settle()
            assert is_process_alive(other) != passed
            assert await flush() == ([Down(ref, other, reason)] if passed else [])
            exit(other, "kill")
            await flush()
            await settle()
            await flush()

    alone(main)


def test_a_link_to_the_dead_is_an_exit_signal() -> None:
    async def linking(pid: Pid) -> None:
        link(pid)
        await trio.sleep_forever()

    async def main() -> None:
        dead = await spawn(nothing)
        await settle()
        assert await end_of(linking, dead) == "noproc"
        trap_exit(True)
        link(dead)
        assert await receive(timeout=0) == Exit(dead, "noproc")
        refs = [monitor(dead), monitor(dead)]
        assert [await receive(), await receive()] == [Down(ref, dead, "noproc") for ref in refs]

    alone(main)


# -- scopes


@pytest.mark.parametrize("as_nursery", [False, True])
def test_a_scope_ends_its_processes_and_waits_for_them(as_nursery: bool) -> None:
    async def main() -> None:
        log: list[object] = []
        opened = trio.open_nursery() if as_nursery else open_scope()
        async with opened as scope:
            pid = await spawn(cleaning, log, 2, scope=scope)
            ref = monitor(pid)
            await settle()
            (scope.cancel_scope if as_nursery else scope).cancel()
        assert log == ["finally", "clean"]
        assert await receive() == Down(ref, pid, "shutdown")
        async with trio.open_nursery() as scope:
            await spawn(cleaning, log, 2, 3, scope=scope)
        assert log[2:] == ["slept", "finally", "clean"]

    alone(main)


def test_an_error_in_a_scope_ends_its_processes() -> None:
    async def main() -> None:
        seen = []
        try:
            async with open_scope() as scope:
                pid = await spawn(trio.sleep_forever, scope=scope)
                ref = monitor(pid)
                await settle()
                raise ValueError("mine")
        except* ValueError as group:
            seen.append(group)
        assert seen and await receive() == Down(ref, pid, "shutdown")

    alone(main)


def test_a_closed_scope_takes_no_process() -> None:
    async def main() -> None:
        async with open_scope() as scope:
            pass
        count = len(this_runtime().processes)
        for start in (spawn, spawn_link, spawn_monitor):
            with pytest.raises(RuntimeError, match="closed"):
                await start(nothing, scope=scope)
        assert len(this_runtime().processes) == count
        async with open_scope() as scope:
            scope.cancel()
            pid, ref = await spawn_monitor(trio.sleep_forever, scope=scope)
        assert await receive() == Down(ref, pid, "shutdown")

    alone(main)
