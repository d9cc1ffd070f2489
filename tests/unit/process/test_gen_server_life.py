"""MODEL-4, the second half: what comes between messages, how a server ends, its class."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.lowlevel
import trio.testing

from drupelet import cast
from drupelet.errors import ProcessDown, RemoteError
from drupelet.process import (
    ANY,
    Down,
    Exit,
    Pid,
    ask,
    exit,
    flush,
    link,
    monitor,
    process_info,
    receive,
    reply,
    run,
    self,
    send,
    spawn,
    spawn_monitor,
    trap_exit,
)
from drupelet.process.current import this_runtime
from drupelet.process.gen_server import NOREPLY, GenServer, Stop, verbs_of
from tests.unit.process.servers import Counter, Telling, virtual

call = GenServer.call


# -- requests that are no verb


def test_handle_call_and_handle_cast_get_what_is_no_verb() -> None:
    class Generic(GenServer):
        def init(self) -> None:
            self.seen: list[object] = []

        def read(self) -> list[object]:
            return self.seen

        async def handle_call(self, request: Any, caller: Any) -> object:
            match request:
                case ("put", value):
                    return ("put", value, caller[0])
                case "later":
                    await reply(caller, "later")
                    return NOREPLY
            return super().handle_call(request, caller)

        def handle_cast(self, request: Any) -> None:
            self.seen.append(request)

    async def main() -> None:
        pid = await Generic.start()
        assert await call(pid, "put", 1) == ("put", 1, self())
        assert await ask(pid, "later") == "later"
        with pytest.raises(RemoteError, match="undef"):
            await call(pid, "get")
        await GenServer.cast(pid, "put", 1)
        assert await call(pid, "read") == [("put", 1)]

    run(main)


# -- continue, timeouts


class Putting(GenServer):
    async def init(self) -> None:
        self.log: list[object] = []
        await send(self_pid(), "first message")
        self.continue_with("of init")

    def go(self) -> str:
        self.continue_with("of go")
        return "going"

    def read(self) -> list[object]:
        return self.log

    def twice(self) -> None:
        self.continue_with(1)
        self.continue_with(2)

    def handle_continue(self, argument: Any) -> None:
        self.log.append(argument)
        if argument == "of go":
            self.continue_with("once more")

    def handle_info(self, message: Any) -> None:
        self.log.append(message)


self_pid = self


def test_continue_comes_before_any_message() -> None:
    async def main() -> None:
        pid = await Putting.start()
        assert await call(pid, "read") == ["of init", "first message"]
        assert await call(pid, "go") == "going"
        assert (await call(pid, "read"))[2:] == ["of go", "once more"]
        with pytest.raises(ProcessDown, match="called already"):
            await call(pid, "twice")

    run(main)


class Idle(GenServer):
    def init(self, listener: Pid) -> None:
        self.listener = listener
        self.timeout_after(10)

    @cast
    def poke(self) -> None:
        pass

    @cast
    def again(self) -> None:
        self.timeout_after(3)

    async def handle_info(self, message: Any) -> None:
        await send(self.listener, (message, trio.current_time()))


def test_a_timeout_comes_once_and_is_given_up_at_a_message() -> None:
    async def main() -> None:
        start = trio.current_time()
        pid = await Idle.start(self())
        assert await receive(ANY) == ("timeout", start + 10)
        await trio.sleep(100)
        assert await flush() == []  # once
        await GenServer.cast(pid, "again")
        await trio.sleep(1)
        await GenServer.cast(pid, "poke")
        await trio.sleep(100)
        assert await flush() == []  # given up
        await GenServer.cast(pid, "again")
        assert await receive(ANY) == ("timeout", start + 214)

    run(main, clock=virtual())


# -- ends


@pytest.mark.parametrize("how", ["self.stop", "raise with a reply"])
def test_stop_with_an_answer_terminates_first(how: str) -> None:
    async def main() -> None:
        pid = await Telling.start(self())
        ref = monitor(pid)
        assert await call(pid, "finish", "enough", how) == "bye"
        assert await flush() == [("terminate", "enough"), Down(ref, pid, "enough")]

    run(main)


def test_stop_from_a_cast_an_info_and_a_continue() -> None:
    class Stopping(GenServer):
        def init(self, when: str) -> None:
            self.when = when
            if when == "init":
                self.stop("init")

        def handle_cast(self, request: Any) -> None:
            self.stop(("shutdown", "cast"))

        def handle_info(self, message: Any) -> None:
            if message == "continue":
                self.continue_with("x")
            else:
                raise Stop("info")

        def handle_continue(self, argument: Any) -> None:
            self.stop("continue")

    async def end(when: str, do: Callable[[Pid], Awaitable[None]]) -> object:
        pid, _ = await Stopping.start_monitor(when)
        await do(pid)
        return (await receive(Down)).reason

    async def nothing(pid: Pid) -> None:
        pass

    async def main() -> None:
        assert await end("cast", lambda pid: GenServer.cast(pid, "x")) == ("shutdown", "cast")
        assert await end("info", lambda pid: send(pid, "x")) == "info"
        assert await end("continue", lambda pid: send(pid, "continue")) == "continue"
        assert await end("init", nothing) == "init"

    run(main)


def test_stop_by_another_process() -> None:
    async def main() -> None:
        pid, ref = await Telling.start_monitor(self())
        await GenServer.stop(pid)
        assert await flush() == [("terminate", "normal"), Down(ref, pid, "normal")]
        pid, ref = await Telling.start_monitor(self())
        await GenServer.stop(pid, "because", timeout=1)
        assert await flush() == [("terminate", "because"), Down(ref, pid, "because")]
        with pytest.raises(ProcessDown) as caught:
            await GenServer.stop(pid)
        assert caught.value.reason == "noproc"

    run(main)


def test_no_terminate_after_a_signal_unless_exits_are_trapped() -> None:
    async def main() -> None:
        pid, ref = await Telling.start_monitor(self())
        exit(pid, "boom")
        await receive(Down)
        assert await flush() == []
        pid, ref = await Telling.start_monitor(self(), True)
        exit(pid, "boom")  # not the parent's: a message like others
        assert await call(pid, "history") == [Exit(self(), "boom")]
        exit(pid, "kill")
        assert await receive() == Down(ref, pid, "killed")

    run(main)


@pytest.mark.parametrize("trapping", [True, False])
def test_the_parents_end_is_the_servers(trapping: bool) -> None:
    async def main() -> None:
        me = self()

        async def parent() -> None:
            pid = await Telling.start_link(me, trapping)
            await send(me, pid)
            await receive("go")
            exit("boom")

        parent_pid = await spawn(parent)
        pid = await receive(Pid)
        ref = monitor(pid)
        await send(parent_pid, "go")
        first = [("terminate", "boom")] if trapping else []
        await trio.testing.wait_all_tasks_blocked()
        assert await flush() == [*first, Down(ref, pid, "boom")]

    run(main)


def test_a_parent_may_send_the_signal_itself_as_supervisors_do() -> None:
    async def main() -> None:
        trap_exit()
        pid = await Telling.start_link(self(), True)
        exit(pid, "shutdown")
        assert await receive() == ("terminate", "shutdown")
        assert await receive() == Exit(pid, "shutdown")
        other = await Telling.start(self(), True)  # not linked: no parent
        link(other)
        exit(other, "shutdown")
        assert await call(other, "history") == [Exit(self(), "shutdown")]

    run(main)


def test_the_end_of_the_program_terminates_who_traps_exits() -> None:
    ended = []

    class Ending(GenServer):
        def init(self, trapping: bool) -> None:
            trap_exit(trapping)

        async def terminate(self, reason: Any) -> None:
            await trio.lowlevel.checkpoint()
            ended.append((reason, self))

    async def main() -> None:
        await Ending.start(True)
        await Ending.start(False)

    run(main)
    assert [reason for reason, _ in ended] == ["shutdown"]


def test_what_terminate_raises_is_the_reason() -> None:
    class Worse(GenServer):
        def finish(self) -> str:
            self.stop()
            return "bye"

        def terminate(self, reason: Any) -> None:
            exit("worse")

    async def main() -> None:
        pid, _ = await Worse.start_monitor()
        assert await call(pid, "finish") == "bye"
        assert (await receive(Down)).reason == "worse"

    run(main)


def test_terminate_is_abandoned_after_five_seconds(caplog: pytest.LogCaptureFixture) -> None:
    class Endless(GenServer):
        def finish(self) -> None:
            self.stop("enough")

        async def terminate(self, reason: Any) -> None:
            await trio.sleep_forever()

    async def main() -> None:
        pid, _ = await Endless.start_monitor()
        began = trio.current_time()
        await call(pid, "finish", timeout=6)
        assert (await receive(Down)).reason == "enough"
        assert trio.current_time() - began == pytest.approx(5)

    run(main, clock=virtual())
    assert "terminate_abandoned" in caplog.text


# -- classes


@pytest.mark.parametrize("name", ["call", "cast", "start", "start_link", "stop", "caller"])
def test_names_of_its_own_are_refused_as_verbs(name: str) -> None:
    with pytest.raises(TypeError, match=f"Wrong.{name}: every GenServer has '{name}' already"):
        type("Wrong", (GenServer,), {name: lambda self: None})


def test_verbs_are_the_public_methods_with_what_is_inherited() -> None:
    class Mixin:
        def mixed(self) -> str:
            return "mixed"

        def _private(self) -> None: ...

    class More(Mixin, Counter):
        field = 3

        @staticmethod
        def double(number: int) -> int:
            return 2 * number

        @classmethod
        def named(cls) -> str:
            return cls.__name__

        @property
        def shown(self) -> int:
            return self.count

    async def main() -> None:
        pid = await More.start(1)
        assert await call(pid, "mixed") == "mixed"
        assert await call(pid, "double", 4) == 8
        assert await call(pid, "named") == "More"
        assert await call(pid, "add", 1) == 2
        for name in ("field", "shown", "_private"):
            with pytest.raises(RemoteError, match="undef"):
                await call(pid, name)

    assert verbs_of(More)["reset"].is_cast
    run(main)


def test_a_server_can_be_used_without_a_process() -> None:
    counter = Counter()
    counter.init(5)
    assert counter.add(2) == 7


# -- new code


def test_a_server_goes_over_to_the_newest_class_at_its_next_message() -> None:
    class Newer(Counter):
        def read(self) -> Any:
            return ("new", self.count)

        def code_change(self, former: type) -> None:
            self.log.append(former.__name__)

        def extra(self) -> str:
            return "extra"

    class Odd(GenServer):
        __slots__ = ("field",)

    async def main() -> None:
        pid = await Counter.start(3)
        assert await call(pid, "read") == 3
        runtime = this_runtime()
        runtime.newest = lambda thing: Newer if thing is Counter else thing
        assert await call(pid, "read") == ("new", 3)
        assert await call(pid, "extra") == "extra"
        assert await call(pid, "history") == ["Counter"]
        runtime.newest = lambda thing: Counter if thing is Newer else thing
        assert await call(pid, "read") == 3
        runtime.newest = lambda thing: Odd
        assert await call(pid, "read") == 3  # it cannot be: the old goes on

    run(main)


# -- information


def test_process_info_shows_the_state_without_secrets() -> None:
    class Door(GenServer):
        def init(self) -> None:
            self.opened = 0
            self.password = "sesame"
            self.settings = {"api_key": "sesame", "colour": "green"}

    class Own(Door):
        def format_status(self) -> dict[str, Any]:
            return {"opened": "often"}

    class Broken(Door):
        def format_status(self) -> dict[str, Any]:
            raise ValueError("sesame")

    async def main() -> None:
        info = process_info(await Door.start())
        assert info["state"] == {
            "opened": 0,
            "password": "(hidden)",
            "settings": {"api_key": "(hidden)", "colour": "green"},
        }
        assert process_info(await Own.start())["state"] == {"opened": "often"}
        broken = process_info(await Broken.start())["state"]
        assert broken == "(format_status raised ValueError)"
        assert process_info()["state"] is None

    run(main)


# -- properties


@hypothesis.given(st.lists(st.tuples(st.sampled_from(["add", "cast", "set"]), st.integers(-9, 9))))
def test_a_server_does_what_its_object_would(steps: list[tuple[str, int]]) -> None:
    class Number(GenServer):
        def init(self) -> None:
            self.value = 0

        def add(self, number: int) -> int:
            self.value += number
            return self.value

        def set(self, number: int) -> int:
            self.value, former = number, self.value
            return former

    async def main() -> list[object]:
        pid = await Number.start()
        answers: list[object] = []
        for what, number in steps:
            if what == "cast":
                await GenServer.cast(pid, "add", number)
            else:
                answers.append(await call(pid, what, number))
        return answers

    number = Number()
    number.init()
    expected = []
    for what, value in steps:
        answer = number.set(value) if what == "set" else number.add(value)
        if what != "cast":
            expected.append(answer)
    assert run(main) == expected


@hypothesis.given(st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=4))
def test_what_each_sender_sends_keeps_its_order(senders: list[list[int]]) -> None:
    class Log(GenServer):
        def init(self) -> None:
            self.log: list[Any] = []

        @cast
        def tell(self, sender: int, number: int) -> None:
            self.log.append((sender, number))

        def read(self) -> list[Any]:
            return self.log

    async def main() -> list[Any]:
        pid = await Log.start()

        async def tell(sender: int, numbers: list[int]) -> None:
            for number in numbers:
                await GenServer.cast(pid, "tell", sender, number)
                await trio.lowlevel.checkpoint()

        refs = [
            (await spawn_monitor(tell, sender, numbers))[1]
            for sender, numbers in enumerate(senders)
        ]
        for _ in refs:
            await receive(Down)
        value: list[Any] = await call(pid, "read")
        return value

    log = run(main)
    for index, numbers in enumerate(senders):
        assert [number for sender, number in log if sender == index] == numbers


def test_a_crash_is_logged_with_the_authors_frames_only(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with pytest.raises(ProcessDown):
            await call(await Counter.start(), "crash")

    run(main)
    assert "ValueError: bad" in caplog.text
    assert "servers.py" in caplog.text
    assert "gen_server.py" not in caplog.text
    assert "runtime.py" not in caplog.text.partition("Traceback")[2]
