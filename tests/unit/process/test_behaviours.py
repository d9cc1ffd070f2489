"""Starting and stopping what the behaviours are made of."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from drupelet.errors import (
    NameTaken,
    ProcessDown,
    ProcessExit,
    Refused,
    RemoteError,
    Timeout,
)
from drupelet.process import (
    Down,
    Exit,
    Pid,
    Request,
    exit,
    flush,
    is_process_alive,
    process_info,
    receive,
    reply,
    run,
    self,
    send,
    spawn_monitor,
    trap_exit,
    whereis,
)
from drupelet.process.behaviours import (
    NO_REASON,
    TERMINATE_S,
    Started,
    answer,
    ask_verb,
    call,
    cast_to,
    error_value,
    is_orderly,
    reason_of_end,
    refuse,
    reply_value,
    run_callback,
    run_terminate,
    shown_as,
    shown_of,
    start_behaviour,
    start_watched,
    stop,
    stop_reason,
    value_of,
)
from drupelet.process.current import this_process
from drupelet.process.runtime import Runtime


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


def test_a_watched_start() -> None:
    async def ends(started: Started) -> None:
        started()
        exit("boom")

    async def ignores(started: Started) -> None:
        started(None)

    async def main() -> None:
        pid, ref = await start_watched(ends, ends)
        assert await receive() == Down(ref, pid, "boom")
        ignored: object = await start_watched(ignores, ignores)
        assert ignored == (None, None)
        await trio.testing.wait_all_tasks_blocked()
        assert await flush() == []  # there was nothing to watch

    run(main)


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


# -- verbs and their answers


async def _answers() -> None:
    while True:
        match await receive():
            case Request(caller, ("double", int(number))):
                answer(this_process(), caller, number * 2)
            case Request(caller, ("object",)):
                answer(this_process(), caller, object())
            case Request(caller, ("refuse", "object")):
                refuse(this_process(), caller, object())
            case Request(caller, ("refuse", reason)):
                refuse(this_process(), caller, reason)
            case Request(caller, _):
                await reply(caller, "what?")


@pytest.mark.parametrize(
    ("request_", "kind", "reason"),
    [
        (("refuse", "not_found"), "not_found", "not_found"),
        (("refuse", ("already_started", 5)), "already_started", ("already_started", 5)),
        (("refuse", 5), "refused", 5),
        (("other",), "bad_answer", "bad_answer"),
    ],
)
def test_a_verb_that_is_refused(request_: tuple[object, ...], kind: str, reason: object) -> None:
    async def main() -> None:
        pid, _ = await spawn_monitor(_answers)
        assert await ask_verb(pid, "double", 4) == 8
        with pytest.raises(Refused) as caught:
            await ask_verb(pid, *request_)
        assert (caught.value.kind, caught.value.reason) == (kind, reason)

    run(main)


@pytest.mark.parametrize("request_", [("object",), ("refuse", "object")])
def test_an_answer_that_is_no_data(request_: tuple[object, ...]) -> None:
    async def main() -> None:
        pid, _ = await spawn_monitor(_answers)
        with pytest.raises(Refused, match="NotSendable"):
            await ask_verb(pid, *request_)
        assert is_process_alive(pid)

    run(main)


def test_a_value_and_an_error_are_answers_to_a_call() -> None:
    async def answering(started: Started) -> None:
        started()
        process = this_process()
        while True:
            match await receive(Request):
                case Request(caller, request):
                    value = object() if request == "improper" else request
                    reply_value(process.runtime, process, caller, value)  # type: ignore[arg-type]

    async def main() -> None:
        pid = await start_behaviour(answering, answering, link=False)
        assert value_of(await call(pid, ("word", 1))) == ("word", 1)
        error = error_value(RemoteError("no_water", "the kettle is empty"))
        for request, kind in (("improper", "not_sendable"), (error, "no_water")):
            with pytest.raises(RemoteError) as caught:
                value_of(await call(pid, request))
            assert caught.value.kind == kind

    run(main)


def test_the_reason_of_a_stop() -> None:
    assert stop_reason(("$gen_stop", None)) is None
    for other in (("$gen_stop",), ["$gen_stop", 1], ("stop", 1), "$gen_stop", None):
        assert stop_reason(other) is NO_REASON


# -- callbacks


def test_callbacks_are_plain_or_async() -> None:
    async def main() -> None:
        async def later(value: int) -> int:
            return value

        assert await run_callback(abs, -1) == 1
        assert await run_callback(later, 2) == 2

    run(main)


def test_for_which_ends_terminate_runs() -> None:
    async def main() -> None:
        process = this_process()
        assert reason_of_end(process, ValueError("bad")) == ("ValueError", "bad")
        assert reason_of_end(process, ProcessExit("why")) == "why"
        group = ExceptionGroup("", [ExceptionGroup("", [ProcessExit("why")])])
        assert reason_of_end(process, group) == "why"
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:
                assert reason_of_end(process, cancelled) is NO_REASON
                trap_exit()
                assert reason_of_end(process, cancelled) == "shutdown"
                raise

    run(main)


@pytest.mark.parametrize(("seconds", "whole"), [(TERMINATE_S - 1, True), (TERMINATE_S + 1, False)])
def test_terminate_has_its_time(seconds: float, whole: bool) -> None:
    done: list[str] = []

    async def terminate(word: str) -> None:
        await trio.sleep(seconds)
        done.append(word)

    async def main() -> None:
        await run_terminate(this_process(), terminate, "done")

    run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert bool(done) is whole


def test_the_killed_have_no_last_words() -> None:
    async def victim() -> None:
        try:
            await receive()
        finally:
            await run_terminate(this_process(), said.append, "last words")

    async def main() -> None:
        pid, _ = await spawn_monitor(victim)
        await trio.testing.wait_all_tasks_blocked()
        exit(pid, "kill")
        await receive()

    said: list[str] = []
    run(main)
    assert said == []


def test_what_is_shown_is_the_class() -> None:
    shown = shown_as(Started, start_behaviour)
    assert (shown.__module__, shown.__qualname__) == (Started.__module__, "Started")


def test_what_starts_is_known_by_its_class_before_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(
        self: Runtime, function: object, args: tuple[object, ...], **fields: object
    ) -> object:
        shown.append(shown_of(function, args))
        return real(self, function, args, **fields)  # type: ignore[arg-type]

    async def body(started: Started) -> None:
        started()

    async def main() -> None:
        await start_behaviour(Started, body, link=False)
        await spawn_monitor(is_orderly, "normal")

    real, shown = Runtime.start, list[object]()
    monkeypatch.setattr(Runtime, "start", start)
    run(main)
    assert shown[1:] == [Started, is_orderly]
