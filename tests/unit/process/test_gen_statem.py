"""MODEL-6: state machines: states, enter calls, what comes next. Time is virtual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from drupelet.errors import NotSendable, ProcessDown, RemoteError, Timeout
from drupelet.process import (
    Down,
    Mailbox,
    Pid,
    exit,
    flush,
    is_process_alive,
    monitor,
    process_info,
    receive,
    reply,
    run,
    self,
    send,
)
from drupelet.process.current import this_runtime
from drupelet.process.gen_statem import KEEP_STATE, REPEAT_STATE, GenStatem
from tests.unit.process.machines import Door, Entering, Machine, call, do, play

settled = trio.testing.wait_all_tasks_blocked


# -- states and calls


def test_the_state_decides_what_a_call_means() -> None:
    async def main() -> None:
        door = await Door.start("99")
        assert await call(door, ("enter", "1")) == "wrong"
        assert process_info(door)["state"] == {
            "state": "locked",
            "data": {"code": "99", "tries": 1},
            "postponed": 0,
        }
        assert await call(door, ("enter", "99")) == "welcome"
        assert process_info(door)["state"]["state"] == "open"
        assert process_info(door)["function"].endswith("Door")
        await trio.sleep(10.1)
        assert process_info(door)["state"]["state"] == "locked"

    play(main)


def test_what_no_case_takes_is_refused_and_it_lives_on() -> None:
    async def main() -> None:
        door = await Door.start()
        with pytest.raises(RemoteError, match="Door takes no such call in state 'locked'") as error:
            await call(door, "dance")
        assert error.value.kind == "undef"
        await GenStatem.cast(door, "dance")
        await send(door, "dance")
        assert await call(door, ("enter", "1234")) == "welcome"

    play(main)


def test_a_call_is_answered_later_and_by_another_process() -> None:
    class Bell(GenStatem):
        def init(self) -> str:
            self.waiting: Any = None
            return "quiet"

        def quiet(self, kind: Any, content: Any) -> Any:
            match kind, content:
                case "call", "wait":
                    self.waiting = self.caller  # seen: it is not refused
                case "call", "wait by another":
                    return KEEP_STATE if self.hand_on() else None
                case "cast", word:
                    self.reply(word, self.waiting)
            return None

        def hand_on(self) -> bool:
            caller = self.caller

            async def other() -> None:
                await reply(caller, "by another")

            this_runtime().start(other, ())
            return True

    async def main() -> None:
        bell = await Bell.start()

        async def ring() -> None:
            await GenStatem.cast(bell, "rung")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ring)
            assert await call(bell, "wait") == "rung"
        assert await call(bell, "wait by another") == "by another"

    play(main)


def test_a_call_that_is_refused_has_no_other_consequence() -> None:
    class Machine(GenStatem):
        def init(self) -> str:
            return "on"

        def on(self, kind: Any, content: Any) -> str:
            self.state_timeout(1)
            self.next_event("internal", "never")
            if kind == "call":
                raise RemoteError("no_water", "the kettle is empty")
            assert kind == "cast"
            return "on"

    async def main() -> None:
        pid = await Machine.start()
        with pytest.raises(RemoteError, match="the kettle is empty"):
            await call(pid, "boil")
        await trio.sleep(5)
        assert is_process_alive(pid)

    play(main)


def test_answers_are_data() -> None:
    class Machine(GenStatem):
        def init(self) -> str:
            return "on"

        def on(self, kind: Any, content: Any) -> None:
            self.reply(object())

    async def main() -> None:
        pid = await Machine.start()
        with pytest.raises(RemoteError) as caught:
            await call(pid, 1)
        assert caught.value.kind == "not_sendable"
        with pytest.raises(NotSendable):
            await call(pid, object())
        with pytest.raises(NotSendable):
            await GenStatem.cast(pid, object())

    play(main)


def test_a_call_that_is_not_answered_in_time_or_by_nobody() -> None:
    class Deaf(GenStatem):
        def init(self) -> str:
            return "on"

        def on(self, kind: Any, content: Any) -> object:
            return KEEP_STATE

    async def main() -> None:
        deaf = await Deaf.start()
        with pytest.raises(Timeout):
            await call(deaf, 1, timeout=3)
        await GenStatem.stop(deaf)
        with pytest.raises(ProcessDown) as caught:
            await call(deaf, 1)
        assert caught.value.reason == "noproc"
        await GenStatem.cast(deaf, 1)

    play(main)


def test_a_state_that_is_none_ends_it_with_a_hint() -> None:
    class Machine(GenStatem):
        def init(self, first: str) -> str:
            return first

        def locked(self, kind: Any, content: Any) -> Any:
            return content

    async def main() -> None:
        with pytest.raises(ProcessDown, match="no state 'lockd'; did you mean 'locked'"):
            await Machine.start("lockd")
        pid = await Machine.start("locked")
        ref = monitor(pid)
        await GenStatem.cast(pid, "open")
        assert (await receive(Down)).reason[0] == "ValueError"
        assert ref

    play(main)


@pytest.mark.parametrize("name", ["call", "stop", "start", "state", "postpone", "caller"])
def test_a_state_cannot_have_the_name_of_a_function(name: str) -> None:
    with pytest.raises(TypeError, match=f"every GenStatem has {name!r} already"):
        type("Wrong", (GenStatem,), {name: lambda self, kind, content: None})


def test_one_function_for_all_events_and_states_of_any_data() -> None:
    class Counter(GenStatem):
        def init(self) -> Any:
            return ("at", 0)

        def handle_event(self, kind: Any, content: Any, state: Any) -> Any:
            match state, kind, content:
                case ("at", 2), "cast", "up":
                    self.stop("top")
                case ("at", number), "cast", "up":
                    return ("at", number + 1)
                case (_, number), "call", "read":
                    self.reply(number)
            return None

    async def main() -> None:
        pid = await Counter.start()
        monitor(pid)
        await GenStatem.cast(pid, "up")
        await GenStatem.cast(pid, "up")
        assert await call(pid, "read") == 2
        await GenStatem.cast(pid, "up")
        assert (await receive(Down)).reason == "top"

    play(main)


# -- entering


def test_states_are_entered() -> None:
    async def main() -> None:
        machine = await Entering.start(self())
        await settled()
        assert await flush() == [("enter", "off", "off")]
        assert await do(machine, ["go", "on"]) == ["cast", ("enter", "off")]
        assert await do(machine, ["go", "on"]) == ["cast"]  # it is that already
        assert await do(machine, ["go", "repeat"]) == ["cast", ("enter", "on")]
        assert await do(machine, ["go", "keep"]) == ["cast"]

    play(main)


def test_repeating_without_enter_calls_is_nothing() -> None:
    async def main() -> None:
        machine = await Machine.start(self())
        assert await do(machine, ["go", "repeat"]) == ["cast"]

    play(main)


class Enters(GenStatem):
    """Does `what` when `on` is entered."""

    state_enter = True

    def init(self, what: Callable[[Any], Any], listener: Pid) -> str:
        self.what, self.listener = what, listener
        return "off"

    def off(self, kind: Any, content: Any) -> Any:
        return content if kind == "call" else None

    async def on(self, kind: Any, content: Any) -> Any:
        await send(self.listener, (kind, content))
        return self.what(self) if kind == "enter" else None


def test_an_enter_call_may_answer_time_and_enter_again() -> None:
    async def main() -> None:
        times = []

        def what(machine: Enters) -> object:
            times.append(1)
            machine.state_timeout(1, "soon")
            if len(times) == 1:
                return REPEAT_STATE
            machine.reply("entered")
            return None

        machine = await Enters.start(what, self())
        assert await call(machine, "on") == "entered"
        await trio.sleep(2)
        assert await flush() == [("enter", "off"), ("enter", "on"), ("state_timeout", "soon")]

    play(main)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda machine: "off", "cannot change the state"),
        (lambda machine: machine.postpone(), "postpone is for an event"),
        (lambda machine: machine.next_event("internal", 1), "next_event is for an event"),
    ],
)
def test_what_an_enter_call_may_not(what: Callable[[Any], Any], words: str) -> None:
    async def main() -> None:
        machine = await Enters.start(what, self())
        with pytest.raises(ProcessDown, match=words):
            await call(machine, "on")

    play(main)


# -- what comes next


def test_inserted_events_come_first_and_in_order() -> None:
    async def main() -> None:
        machine = await Machine.start(self())
        await GenStatem.cast(
            machine,
            ["do", ["next_event", "internal", 1], ["next_event", "cast", 2], ["go", "on"]],
        )
        await GenStatem.cast(machine, 3)
        await settled()
        told = await flush()
        assert [each[1:] for each in told[1:]] == [(1, "on"), (2, "on"), (3, "on")]  # type: ignore[index]
        assert [each[0] for each in told] == ["cast", "internal", "cast", "cast"]  # type: ignore[index]

    play(main)


@pytest.mark.parametrize("kind", ["call", "enter", "word", ("timeout",), ("other", 1), 7])
def test_kinds_that_cannot_be_inserted(kind: Any) -> None:
    async def main() -> None:
        machine = await Machine.start(self())
        monitor(machine)
        await GenStatem.cast(machine, ["do", ["next_event", kind, 1]])
        assert (await receive(Down)).reason[0] == "ValueError"

    play(main)


def test_a_call_is_handed_on_as_an_event() -> None:
    class Machine(GenStatem):
        def init(self) -> str:
            return "off"

        def off(self, kind: Any, content: Any) -> str:
            self.next_event("call", ("again", content), self.caller)
            return "on"

        def on(self, kind: Any, content: Any) -> None:
            self.reply((kind, content))

    async def main() -> None:
        assert await call(await Machine.start(), "hello") == ("call", ("again", "hello"))

    play(main)


def test_a_machine_that_keeps_itself_busy_lets_others_run() -> None:
    class Busy(GenStatem):
        def init(self) -> str:
            return "on"

        def on(self, kind: Any, content: Any) -> None:
            self.next_event("internal", 1)

    async def main() -> None:
        busy = await Busy.start()
        monitor(busy)
        await GenStatem.cast(busy, 1)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        exit(busy, "kill")
        assert (await receive(Down)).reason == "killed"

    run(main)


def test_postponed_events_come_again_in_order_when_the_state_changes() -> None:
    async def main() -> None:
        door = await Door.start()
        for _ in range(3):
            await GenStatem.cast(door, ("push", self()))
        assert await call(door, ("enter", "0")) == "wrong"
        assert await flush() == []
        assert process_info(door)["state"]["postponed"] == 3
        assert await call(door, ("enter", "1234")) == "welcome"
        await settled()
        assert await flush() == ["pushed"] * 3

    play(main)


def test_a_postponed_call_is_answered_later() -> None:
    class Gate(GenStatem):
        def init(self) -> str:
            return "shut"

        def shut(self, kind: Any, content: Any) -> Any:
            if kind == "cast":
                return content
            self.postpone()
            return None

        def open(self, kind: Any, content: Any) -> None:
            self.reply(("passed", content))

    async def main() -> None:
        gate = await Gate.start()
        answers: list[Any] = []

        async def pass_through(number: int) -> None:
            answers.append(await call(gate, number))

        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(pass_through, number)
                await settled()
            await GenStatem.cast(gate, "shut")  # no change
            await settled()
            assert answers == []
            await GenStatem.cast(gate, "open")
        assert sorted(answers) == [("passed", 0), ("passed", 1)]

    play(main)


def test_postponed_events_at_the_maximum_and_one_above(caplog: pytest.LogCaptureFixture) -> None:
    class Waiting(GenStatem):
        def init(self) -> str:
            self.done: list[object] = []
            return "shut"

        def shut(self, kind: Any, content: Any) -> Any:
            if content == "open":
                return "open"
            self.postpone()
            return None

        def open(self, kind: Any, content: Any) -> None:
            self.done.append(content)
            if kind == "call":
                self.reply(self.done)

    async def fill(policy: str) -> Any:
        machine = await Waiting.start(mailbox=Mailbox(limit=2, policy=policy))
        monitor(machine)
        for number in range(2):
            await GenStatem.cast(machine, number)
            await settled()
        assert process_info(machine)["dropped"] == 0
        await GenStatem.cast(machine, 2)
        await settled()
        if not is_process_alive(machine):
            return (await receive(Down)).reason
        if policy != "drop_old":
            with pytest.raises(RemoteError) as caught:
                await call(machine, "fourth")
            assert caught.value.kind == "overloaded"
        await GenStatem.cast(machine, "open")
        return await call(machine, "done"), process_info(machine)["dropped"]

    assert play(fill, "block") == ([0, 1, "done"], 2)
    assert "postponed_full" in caplog.text
    assert play(fill, "drop_new") == ([0, 1, "done"], 2)
    assert play(fill, "drop_old") == ([1, 2, "done"], 1)
    assert play(fill, "exit") == "mailbox_full"
