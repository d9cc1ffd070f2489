"""MODEL-4: servers, one feature of OTP's gen_server after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf
from typing import Any

import pytest
import trio
import trio.testing

from drupelet import cast
from drupelet.errors import (
    NameTaken,
    NotSendable,
    ProcessDown,
    RemoteError,
    Timeout,
)
from drupelet.process import (
    Down,
    Exit,
    Pid,
    ask,
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
    send_after,
    spawn,
    trap_exit,
    whereis,
)
from drupelet.process.behaviours import IGNORE
from drupelet.process.current import this_runtime
from drupelet.process.gen_server import NOREPLY, GenServer, Stop
from tests.unit.process.servers import Counter, Telling, virtual

call = GenServer.call


# -- starting


def test_start_waits_for_init_and_gives_the_pid() -> None:
    class Slow(Counter):
        async def init(self, first: int = 0) -> None:  # type: ignore[override]
            await trio.sleep(3)
            super().init(first)

    async def main() -> None:
        began = trio.current_time()
        pid = await Slow.start(7, name="slow")
        assert trio.current_time() - began == pytest.approx(3)
        assert await call(pid, "read") == 7
        assert await whereis("slow") == pid
        assert process_info(pid)["links"] == []
        assert process_info(pid)["function"].endswith("Slow")

    run(main, clock=virtual())


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (lambda: exit("boom"), "boom"),
        (lambda: 1 / 0, ("ZeroDivisionError", "division by zero")),
        (lambda: _raise(Stop("no_reason")), "no_reason"),
    ],
)
def test_an_init_that_fails_is_the_starters_reason(how: Callable[[], object], reason: Any) -> None:
    class Failing(GenServer):
        def init(self) -> None:
            how()

    async def main() -> None:
        with pytest.raises(ProcessDown) as caught:
            await Failing.start()
        assert caught.value.reason == reason
        with pytest.raises(ProcessDown):
            await Failing.start_monitor()
        assert await flush() == []  # no Down: there was never anything to watch
        trap_exit()
        with pytest.raises(ProcessDown) as caught:
            await Failing.start_link()
        assert caught.value.reason == reason
        (signal,) = await flush()
        assert isinstance(signal, Exit)
        assert signal.reason == reason

    run(main)


def _raise(error: Exception) -> None:
    raise error


def test_init_may_ignore() -> None:
    class Ignoring(GenServer):
        def init(self) -> object:
            return IGNORE

    async def main() -> None:
        assert await Ignoring.start() is None
        assert len(this_runtime().processes) == 1

    run(main)


def test_a_name_is_one_servers_and_free_again_at_its_end() -> None:
    async def main() -> None:
        first = await Counter.start(name="counter")
        with pytest.raises(NameTaken):
            await Counter.start_link(name="counter")  # and no exit signal comes of it
        await GenServer.stop("counter")
        assert not is_process_alive(first)
        second = await Counter.start(5, name="counter")
        assert await call("counter", "read") == 5
        assert second != first

    run(main)


def test_start_link_links_and_start_monitor_watches() -> None:
    async def main() -> None:
        trap_exit()
        linked = await Counter.start_link()
        exit(linked, "boom")
        assert await receive(Exit) == Exit(linked, "boom")
        watched, ref = await Counter.start_monitor()
        exit(watched, "bang")
        assert await receive(Down) == Down(ref, watched, "bang")

    run(main)


def test_a_start_that_takes_too_long_is_given_up() -> None:
    class Endless(GenServer):
        async def init(self) -> None:
            await trio.sleep_forever()

    async def main() -> None:
        with pytest.raises(Timeout):
            await Endless.start(timeout=2)
        await trio.sleep(1)
        assert len(this_runtime().processes) == 1

    run(main, clock=virtual())


# -- calls and casts


def test_a_verb_is_called_with_its_arguments_plain_or_async() -> None:
    async def main() -> None:
        pid = await Counter.start(10, name="counter")
        assert await call(pid, "add", 5) == 15
        assert await call("counter", "add", 2, 3) == 21
        assert await call(("counter", "nonode@nohost"), "add_slowly", 4) == 25
        assert await ask(pid, ("read",)) == 25  # what a call is made of
        assert await call(pid, "who") == self()

    run(main, clock=virtual())


def test_casts_are_not_waited_for_and_keep_their_order() -> None:
    async def main() -> None:
        pid = await Counter.start(10)
        await GenServer.cast(pid, "add", 1)
        await GenServer.cast(pid, "reset")
        await GenServer.cast(pid, "add", 3)
        assert await call(pid, "read") == 3
        assert await call(pid, "reset") is None  # taken: its value never comes
        assert await call(pid, "read") == 0

    run(main)


def test_a_cast_to_nobody_is_nothing() -> None:
    async def main() -> None:
        pid = await Counter.start()
        await GenServer.stop(pid)
        await GenServer.cast(pid, "reset")
        await GenServer.cast("nobody_has_this_name", "reset")
        with pytest.raises(NotSendable):
            await GenServer.cast(pid, "add", print)

    run(main)


def test_one_message_at_a_time() -> None:
    async def main() -> None:
        pid = await Counter.start()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(call, pid, "add_slowly", 1)
        assert trio.current_time() - began == pytest.approx(3)
        assert await call(pid, "read") == 3

    run(main, clock=virtual())


def test_values_are_copies() -> None:
    async def main() -> None:
        pid = await Counter.start()
        await send(pid, "hello")
        (await call(pid, "history")).append("changed")
        assert await call(pid, "history") == ["hello"]

    run(main)


def test_messages_that_are_no_requests_are_infos() -> None:
    async def main() -> None:
        pid = await Counter.start()
        await send(pid, "hello")
        await send(pid, ("$gen_other", 1))
        send_after(0, pid, {"a": 1})
        await trio.testing.wait_all_tasks_blocked()
        assert await call(pid, "history") == ["hello", ("$gen_other", 1), {"a": 1}]

    run(main)


def test_an_unexpected_message_is_logged_without_its_content(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Plain(GenServer):
        def read(self) -> int:
            return 1

    async def main() -> None:
        pid = await Plain.start()
        await send(pid, "sesame")
        await GenServer.cast(pid, "no_such_verb", "sesame")
        await GenServer.cast(pid, "read", "too", "many")
        assert await call(pid, "read") == 1

    with caplog.at_level(logging.WARNING):
        run(main)
    assert len(caplog.messages) == 3
    assert "type=str" in caplog.messages[0]
    assert "sesame" not in caplog.text


# -- refusals: the server lives on


def test_an_unknown_verb_is_answered() -> None:
    async def main() -> None:
        pid = await Counter.start(5)
        with pytest.raises(RemoteError, match=r"no verb 'raed'; did you mean 'read'\?") as caught:
            await call(pid, "raed")
        assert caught.value.kind == "undef"
        with pytest.raises(RemoteError, match="its verbs: add, add_slowly"):
            await call(pid, "zzz")
        for name in ("init", "terminate", "handle_info", "__class__", "stop", "_live", "count"):
            with pytest.raises(RemoteError, match="undef"):
                await call(pid, name)
        assert await ask(pid, "read") == ask_undefined
        assert await call(pid, "read") == 5

    ask_undefined = (
        "$gen_error",
        [
            1,
            "undef",
            "Counter answers nothing but its verbs: "
            "add, add_slowly, crash, finish, history, improper, leave, read, refuse, reset, who",
            "",
        ],
    )
    run(main)


@pytest.mark.parametrize("args", [(), (1, 2, 3)])
def test_arguments_that_do_not_fit_are_answered(args: tuple[int, ...]) -> None:
    async def main() -> None:
        pid = await Counter.start(5)
        with pytest.raises(RemoteError, match=r"Counter\.add\(number: 'int', times") as caught:
            await call(pid, "add", *args)
        assert caught.value.kind == "badarg"
        assert await call(pid, "read") == 5

    run(main)


def test_a_refusal_and_a_value_that_is_no_data_are_answers() -> None:
    async def main() -> None:
        pid = await Counter.start(5)
        with pytest.raises(RemoteError, match="the kettle is empty") as caught:
            await call(pid, "refuse")
        assert caught.value.kind == "no_water"
        with pytest.raises(RemoteError) as caught:
            await call(pid, "improper")
        assert caught.value.kind == "not_sendable"
        assert await call(pid, "read") == 6

    run(main)


# -- crashes


@pytest.mark.parametrize(
    ("verb", "args", "reason"),
    [
        ("crash", (), ("ValueError", "bad")),
        ("leave", ("boom",), "boom"),
        ("leave", ("normal",), "normal"),
        ("finish", ("boom", "raise"), "boom"),
    ],
)
def test_what_a_verb_raises_ends_the_server(verb: str, args: Any, reason: object) -> None:
    async def main() -> None:
        pid = await Telling.start(self())
        ref = monitor(pid)
        with pytest.raises(ProcessDown) as caught:
            await call(pid, verb, *args)
        assert caught.value.reason == reason
        assert await flush() == [("terminate", reason), Down(ref, pid, reason)]

    run(main)


def test_a_call_of_a_server_that_fails_is_a_crash_of_the_asking_one() -> None:
    class Asking(GenServer):
        async def ask_other(self, other: Pid) -> object:
            return await call(other, "crash")

    async def main() -> None:
        other = await Counter.start()
        pid = await Asking.start()
        with pytest.raises(ProcessDown) as caught:
            await call(pid, "ask_other", other)
        match caught.value.reason:
            case ("ProcessDown", text):
                assert "ValueError" in str(text)
            case reason:
                pytest.fail(repr(reason))

    run(main)


def test_calls_to_nobody() -> None:
    async def main() -> None:
        pid = await Counter.start()
        await GenServer.stop(pid)
        for to in (pid, "nobody_has_this_name"):
            with pytest.raises(ProcessDown) as caught:
                await call(to, "read")
            assert caught.value.reason == "noproc"

    run(main)


def test_a_server_that_is_killed_during_a_call() -> None:
    async def main() -> None:
        pid = await Telling.start(self(), True)
        async with trio.open_nursery() as nursery:

            async def kill() -> None:
                await trio.sleep(0.5)
                exit(pid, "kill")

            nursery.start_soon(kill)
            with pytest.raises(ProcessDown) as caught:
                await call(pid, "add_slowly", 1)
        assert caught.value.reason == "killed"
        assert await flush() == []  # and terminate was not called

    run(main, clock=virtual())


def test_a_call_has_a_timeout_and_its_late_answer_is_dropped() -> None:
    async def main() -> None:
        pid = await Counter.start()
        began = trio.current_time()
        with pytest.raises(Timeout) as caught:
            await call(pid, "add_slowly", 1, timeout=0.5)
        assert caught.value.maybe_ran
        assert trio.current_time() - began == pytest.approx(0.5)
        assert await call(pid, "add_slowly", 1, timeout=inf) == 2
        assert await flush() == []

    run(main, clock=virtual())


def test_a_server_cannot_call_itself() -> None:
    class Looking(GenServer):
        async def again(self) -> object:
            with pytest.raises(ProcessDown) as caught:
                await call(self.__dict__["me"], "again")
            return caught.value.reason

        def init(self) -> None:
            from drupelet.process import self as own_pid

            self.me = own_pid()

    async def main() -> object:
        return await call(await Looking.start(), "again")

    assert run(main) == "calling_self"


# -- answers that come later


class Waiting(GenServer):
    def init(self) -> None:
        self.waiting: list[Any] = []

    def wait(self) -> object:
        self.waiting.append(self.caller)
        return NOREPLY

    async def by_another(self) -> object:
        await spawn(reply, self.caller, "by another")
        return NOREPLY

    async def early(self) -> object:
        assert self.caller is not None
        await reply(self.caller, "early")
        return NOREPLY

    async def twice(self) -> object:
        assert self.caller is not None
        await reply(self.caller, "first")
        return "second"

    @cast
    async def go(self, value: object) -> None:
        assert self.caller is None
        for caller in self.waiting:
            await reply(caller, value)


def test_answers_later_and_by_another_process() -> None:
    async def main() -> None:
        pid = await Waiting.start()
        values = []

        async def wait() -> None:
            values.append(await call(pid, "wait"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await GenServer.cast(pid, "go", "later")
        assert values == ["later", "later"]
        assert await call(pid, "by_another") == "by another"
        assert await call(pid, "early") == "early"
        assert await call(pid, "twice") == "first"
        await GenServer.cast(pid, "go", "again")  # nobody waits any more
        assert await call(pid, "early") == "early"
        assert await flush() == []

    run(main)
