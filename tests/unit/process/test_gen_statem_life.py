"""MODEL-6: state machines: timeouts, starting and ending, gen_fsm. Time is virtual."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.errors import NameTaken, ProcessDown
from drupelet.process import (
    Down,
    Exit,
    Pid,
    exit,
    flush,
    monitor,
    process_info,
    receive,
    self,
    send,
    spawn,
    trap_exit,
    whereis,
)
from drupelet.process.behaviours import IGNORE
from drupelet.process.current import this_runtime
from drupelet.process.gen_server import Stop
from drupelet.process.gen_statem import GenStatem
from tests.unit.process.machines import Door, Machine, call, do, play

settled = trio.testing.wait_all_tasks_blocked


# -- timeouts


def test_a_state_timeout_is_the_next_states_and_ends_with_it() -> None:
    async def main() -> None:
        machine = await Machine.start(self())
        assert await do(machine, ["state_timeout", 5, "ring"], ["go", "on"]) == ["cast"]
        await trio.sleep(4)
        assert await do(machine, ["go", "keep"]) == ["cast"]  # an event changes nothing
        await trio.sleep(2)
        assert await flush() == [("state_timeout", "ring", "on")]
        await do(machine, ["state_timeout", 5, "ring"])
        await do(machine, ["go", "off"])
        await trio.sleep(10)
        assert await flush() == []

    play(main)


def test_an_event_timeout_ends_with_any_event() -> None:
    async def main() -> None:
        machine = await Machine.start(self())
        await do(machine, ["event_timeout", 5, "idle"])
        await trio.sleep(6)
        assert await flush() == [("timeout", "idle", "off")]
        await do(machine, ["event_timeout", 5, "idle"])
        await send(machine, "hello")
        await trio.sleep(10)
        assert await flush() == [("info", "hello", "off")]

    play(main)


def test_generic_timeouts_have_names_and_outlive_states() -> None:
    async def main() -> None:
        machine = await Machine.start(self())
        await do(machine, ["generic_timeout", "slow", 6, 1], ["generic_timeout", ("q", 1), 3, 2])
        await do(machine, ["go", "on"])
        await do(machine, ["generic_timeout", "slow", 9, 3])  # starts anew
        await trio.sleep(7)
        assert await flush() == [(("timeout", ("q", 1)), 2, "on")]
        await trio.sleep(3)
        assert await flush() == [(("timeout", "slow"), 3, "on")]

    play(main)


@pytest.mark.parametrize(
    ("set_it", "kind"),
    [
        (["state_timeout", 5, 1], "state_timeout"),
        (["generic_timeout", "egg", 5, 1], ("timeout", "egg")),
    ],
)
def test_timeouts_are_updated_and_cancelled(set_it: list[Any], kind: Any) -> None:
    async def main() -> None:
        machine = await Machine.start(self())
        await do(machine, set_it)
        await do(machine, ["update_timeout", kind, 2])
        await trio.sleep(6)
        assert await flush() == [(kind, 2, "off")]
        await do(machine, set_it)
        await do(machine, ["cancel_timeout", kind])
        await trio.sleep(6)
        assert await flush() == []
        assert await do(machine, ["update_timeout", kind, 3]) == ["cast", (kind, 3)]
        await do(machine, set_it)
        await do(machine, [*set_it[:-2], float("inf")])
        await trio.sleep(6)
        assert await flush() == []

    play(main)


def test_timeouts_of_init() -> None:
    class Egg(GenStatem):
        def init(self, listener: Pid) -> str:
            self.listener = listener
            self.generic_timeout("egg", 3, "boiled")
            return "raw"

        async def raw(self, kind: Any, content: Any) -> None:
            await send(self.listener, (kind, content))

    async def main() -> object:
        await Egg.start(self())
        return await receive()

    assert play(main) == (("timeout", "egg"), "boiled")


@pytest.mark.parametrize(
    "action",
    [
        ["state_timeout", "5", 1],
        ["event_timeout", float("nan"), 1],
        ["generic_timeout", "x", True, 1],
        ["generic_timeout", ["x"], 1, 1],
        ["cancel_timeout", "egg"],
        ["update_timeout", ("x", 1), 1],
    ],
)
def test_timeouts_that_cannot_be(action: list[Any]) -> None:
    async def main() -> Any:
        machine = await Machine.start(self())
        monitor(machine)
        await GenStatem.cast(machine, ["do", action])
        return (await receive(Down)).reason[0]

    assert play(main) in ("ValueError", "TypeError")


# -- starting and ending


def test_start_link_monitor_and_names() -> None:
    async def main() -> None:
        pid = await Door.start_link(name="door")
        assert await whereis("door") == pid
        assert await call("door", ("enter", "1234")) == "welcome"
        with pytest.raises(NameTaken):
            await Door.start(name="door")
        watched, ref = await Door.start_monitor()
        await GenStatem.stop(watched, "shutdown")
        assert await receive(Down) == Down(ref, watched, "shutdown")
        assert process_info(pid)["links"] == [self()]

    play(main)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (lambda: exit("boom"), "boom"),
        (lambda: 1 / 0, ("ZeroDivisionError", "division by zero")),
        (lambda: _raise(Stop("no_reason")), "no_reason"),
    ],
)
def test_an_init_that_fails(what: Callable[[], Any], reason: object) -> None:
    class Failing(GenStatem):
        def init(self) -> str:
            what()
            return "on"

    async def main() -> None:
        with pytest.raises(ProcessDown) as caught:
            await Failing.start()
        assert caught.value.reason == reason

    play(main)


def _raise(error: Exception) -> None:
    raise error


def test_init_may_ignore() -> None:
    class Off(GenStatem):
        def init(self) -> object:
            return IGNORE

    assert play(Off.start) is None


def test_a_stop_from_outside_and_from_inside() -> None:
    async def main() -> None:
        machine = await Machine.start(self())
        await GenStatem.stop(machine, "enough")
        assert await flush() == [("terminate", "enough", "off")]
        machine = await Machine.start(self())
        assert await do(machine, ["stop", "done"]) == ["cast", ("terminate", "done")]

    play(main)


@pytest.mark.parametrize("how", ["raise", "call"])
def test_a_stop_with_an_answer(how: str) -> None:
    class Machine(GenStatem):
        def init(self) -> str:
            return "on"

        def on(self, kind: Any, content: Any) -> None:
            if how == "raise":
                raise Stop("done", "bye")
            self.reply("bye")
            self.stop("done")

    async def main() -> None:
        machine = await Machine.start()
        monitor(machine)
        assert await call(machine, 1) == "bye"
        assert (await receive(Down)).reason == "done"

    play(main)


def test_a_crash_is_the_callers_and_terminate_runs_first() -> None:
    class Bad(Machine):
        def off(self, kind: Any, content: Any) -> None:  # type: ignore[override]
            raise ValueError("bad")

    async def main() -> None:
        machine = await Bad.start(self())
        with pytest.raises(ProcessDown) as caught:
            await call(machine, 1)
        reason = ("ValueError", "bad")
        assert caught.value.reason == reason
        assert await flush() == [("terminate", reason, "off")]

    play(main)


@pytest.mark.parametrize("trapping", [False, True])
def test_its_parents_end(trapping: bool) -> None:
    class Child(Machine):
        def init(self, listener: Pid, first: Any = "off") -> Any:
            trap_exit(trapping)
            return super().init(listener, first)

    async def main() -> list[object]:
        test = self()

        async def parent() -> None:
            await send(test, await Child.start_link(test))
            exit("over")

        await spawn(parent)
        machine = await receive(Pid)
        monitor(machine)
        assert (await receive(Down)).reason in ("over", "noproc")
        return await flush()

    assert play(main) == ([("terminate", "over", "off")] if trapping else [])


def test_an_exit_signal_of_another_is_an_event() -> None:
    class Trapping(Machine):
        def init(self, listener: Pid, first: Any = "off") -> Any:
            trap_exit()
            return super().init(listener, first)

    async def main() -> None:
        machine = await Trapping.start(self())
        exit(machine, "boo")
        assert await receive() == ("info", Exit(self(), "boo"), "off")

    play(main)


def test_the_timeouts_of_one_that_ended_are_gone() -> None:
    async def main() -> None:
        machine = await Machine.start(self())
        before = len(this_runtime().timers)
        await do(machine, ["generic_timeout", "egg", 50, 1], ["state_timeout", 60, 1])
        assert len(this_runtime().timers) == before + 2
        exit(machine, "kill")
        await settled()
        assert len(this_runtime().timers) == before

    play(main)


def test_outside_of_a_call_nobody_is_to_be_answered() -> None:
    async def main() -> Any:
        machine = await Machine.start(self())
        monitor(machine)
        await GenStatem.cast(machine, ["do", ["reply", 1]])
        return (await receive(Down)).reason

    assert play(main) == ("RuntimeError", "nobody asked: this event is no call")


def test_it_goes_over_to_newer_code() -> None:
    class Old(GenStatem):
        def init(self) -> str:
            return "on"

        def on(self, kind: Any, content: Any) -> None:
            self.reply("old")

    class New(Old):
        def on(self, kind: Any, content: Any) -> None:
            self.reply(("new", self.former))

        def code_change(self, former: type) -> None:
            self.former = former.__name__

    async def main() -> None:
        machine = await Old.start()
        assert await call(machine, 1) == "old"
        this_runtime().newest = lambda thing: New if thing is Old else thing
        assert await call(machine, 1) == ("new", "Old")
        this_runtime().newest = lambda thing: int
        assert await call(machine, 1) == ("new", "Old")

    play(main)


def test_secrets_are_not_shown() -> None:
    class Safe(GenStatem):
        def init(self) -> str:
            self.password = "swordfish"
            return "shut"

        def shut(self, kind: Any, content: Any) -> None: ...

    async def main() -> object:
        return process_info(await Safe.start())["state"]

    assert play(main)["data"] == {"password": "(hidden)"}


# -- gen_fsm


def test_gen_fsm_is_its_former_name() -> None:
    import drupelet
    from drupelet.process import gen_statem

    with pytest.warns(DeprecationWarning, match="gen_fsm became gen_statem in OTP 19"):
        assert gen_statem.GenFsm is GenStatem
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert drupelet.GenFsm is GenStatem
    assert [each.filename for each in caught] == [__file__]
    with pytest.raises(AttributeError):
        gen_statem.GenFms  # noqa: B018


def test_the_code_change_that_is_impossible_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        door = await Door.start()
        this_runtime().newest = lambda thing: int
        with caplog.at_level(logging.WARNING):
            await call(door, ("enter", "1"))
            await call(door, ("enter", "2"))

    play(main)
    assert caplog.text.count("code_not_changed class=Door") == 1
