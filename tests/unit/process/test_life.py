"""How a runtime ends: its processes have their timeouts, and no more than five seconds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from drupelet.errors import ProcessExit, ReceiveTimeout, Timeout
from drupelet.process import Pid, ask, open_scope, receive, run, self, send_after, spawn, trap_exit
from drupelet.process.current import retire, this_process
from drupelet.process.life import CLOSE_S
from drupelet.process.running import open_runtime
from drupelet.process.runtime import Runtime
from drupelet.process.table import Process
from tests.unit.process.wires import settle


async def sleep(seconds: float) -> None:
    await trio.sleep(seconds)


def seconds(main: Callable[[Runtime], Awaitable[None]]) -> float:
    """How long it takes to leave a runtime in which `main` ran."""

    async def whole() -> float:
        async with open_runtime() as runtime:
            await main(runtime)
            await settle()
            started = trio.current_time()
        retire()
        assert not runtime.processes and not runtime.task_count and not runtime.unwinding
        assert len(runtime.timers) == 0
        return trio.current_time() - started

    return trio.run(whole, clock=MockClock(autojump_threshold=0))


def stubborn(
    last_words: Callable[[], Awaitable[object]], log: list[object]
) -> Callable[[], object]:
    async def body() -> None:
        log.append(this_process())
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                try:
                    log.append(await last_words())
                except (ReceiveTimeout, Timeout, ProcessExit) as error:
                    log.append(type(error))

    return body


def test_processes_end_at_once_with_shutdown() -> None:
    reasons: list[Process] = []

    async def main(runtime: Runtime) -> None:
        async def trapping() -> None:
            trap_exit(True)
            await receive()

        for function in (trio.sleep_forever, trapping, receive):
            reasons.append(runtime.start(function, ()))

    assert seconds(main) == 0
    assert [process.exit_reason for process in reasons] == ["shutdown"] * 3


@pytest.mark.parametrize(
    ("words", "heard", "after"),
    [
        (lambda _: sleep(2), None, 2),
        (lambda _: receive(timeout=2), ReceiveTimeout, 2),
        (lambda _: receive(), ProcessExit, CLOSE_S),
        (lambda silent: ask(silent, 1, timeout=2), Timeout, 2),
        (lambda silent: ask(silent, 1, timeout=1_000), ProcessExit, CLOSE_S),
        (lambda _: sleep(CLOSE_S + 2), None, CLOSE_S + 2),
    ],
)
def test_what_a_finally_waits_for_has_its_timeout(
    words: Callable[[Pid], Awaitable[object]], heard: object, after: float
) -> None:
    log: list[object] = []

    async def main(runtime: Runtime) -> None:
        silent = self()  # the task that leaves: told nothing, as one on another node
        await spawn(stubborn(lambda: words(silent), log))

    assert seconds(main) == after
    process, *words_heard = log
    assert words_heard == [heard]
    assert isinstance(process, Process) and process.exit_reason == "shutdown"


def test_one_that_is_abandoned_is_reported_and_its_words_raise(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log: list[object] = []

    async def words() -> object:
        await trio.sleep(CLOSE_S + 1)
        assert "process_abandoned" in caplog.text
        return await ask("anybody", 1, timeout=1_000)

    async def main(runtime: Runtime) -> None:
        await spawn(stubborn(words, log))

    assert seconds(main) == CLOSE_S + 1
    assert log[1:] == [ProcessExit]


def test_the_end_of_a_program() -> None:
    log: list[object] = []

    async def main() -> str:
        await spawn(stubborn(lambda: sleep(1), log))
        async with open_scope() as scope:
            await spawn(stubborn(lambda: sleep(2), log), scope=scope)
            await settle()
            send_after(1_000, self(), "never")
            scope.cancel()
        return "value"

    assert run(main, clock=MockClock(autojump_threshold=0)) == "value"
    assert [each for each in log if not isinstance(each, Process)] == [None, None]


def test_a_process_in_an_outer_scope_is_not_waited_for() -> None:
    async def whole() -> None:
        ended: list[Process] = []
        async with trio.open_nursery() as outer:
            async with open_runtime() as runtime:
                pid = await spawn(trio.sleep, 3, scope=outer)
                await settle()
                ended += [each for each in runtime.processes.values() if each.pid == pid]
            assert trio.current_time() == 0 and ended[0].alive
        assert not runtime.processes and ended[0].exit_reason == "normal"

    trio.run(whole, clock=MockClock(autojump_threshold=0))
