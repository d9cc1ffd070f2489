"""Work that computes: threads that cannot be stopped, programs that can."""

from __future__ import annotations

import importlib.machinery
import logging
import os
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from drupelet import process as api
from drupelet.errors import NotSendable, ProcessExit, RemoteError
from drupelet.process import (
    Down,
    Exit,
    Mailbox,
    Pid,
    computing,
    exit,
    monitor,
    process_info,
    receive,
    run,
    self,
    spawn,
    spawn_link,
    spawn_monitor,
    trap_exit,
)
from drupelet.process.computing import Function, abandoned, compute
from drupelet.wire.limits import BODY_BYTES_MAX, COMPUTATIONS_MAX
from tests.unit.process import computations
from tests.unit.process.computations import (
    a_function,
    bad,
    die,
    end,
    give_back,
    leave,
    say,
    square,
    vanish,
    wait_in_thread,
    write_pid,
)

WAIT_S = 20.0  # for a program to start, on a machine that is busy
BOTH = pytest.mark.parametrize("where", ["thread", "process"])


@pytest.fixture(autouse=True)
def threads_go_on() -> Iterator[None]:
    computations.go.clear()
    computations.began.clear()
    try:
        yield
    finally:
        computations.go.set()


async def began() -> None:
    await trio.to_thread.run_sync(computations.began.wait)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_S):
        while not condition():  # noqa: ASYNC110  (threads and programs set no event of trio's)
            await trio.sleep(0.005)


# -- both places


@BOTH
def test_a_computation_is_a_process(where: str) -> None:
    async def main() -> None:
        pid, ref = await spawn_monitor(square, 12, where=where, name="squarer")
        assert process_info(pid)["function"] == "tests.unit.process.computations.square"
        assert await api.whereis("squarer") == pid
        assert await receive(timeout=WAIT_S) == Down(ref, pid, "normal")

    run(main)


@BOTH
def test_the_value_and_what_it_raises(where: str) -> None:
    async def main() -> None:
        assert await compute(square, 12, where=where) == 144
        kind: type[Exception] = ValueError if where == "thread" else ProcessExit
        with pytest.raises(kind, match="bad"):
            await compute(bad, where=where)

    run(main)


@BOTH
def test_a_crash_is_told_to_who_watches(where: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        trap_exit()
        cases: list[tuple[Function, tuple[object, ...], object]] = [
            (bad, (), ("ValueError", "bad")),
            (leave, (("shutdown", 7),), ("shutdown", 7)),
            (end, (3,), ("SystemExit", "3")),
        ]
        for function, args, reason in cases:
            pid = await spawn_link(function, *args, where=where)
            assert await receive(timeout=WAIT_S) == Exit(pid, reason)

    run(main)
    assert "computations.py" in caplog.text  # the author's place
    assert "computations.leave" not in caplog.text  # that was no crash


@BOTH
def test_what_cannot_be_started(where: str) -> None:
    async def waits() -> None: ...

    async def main() -> None:
        with pytest.raises(TypeError, match="is async"):
            await spawn(waits, where=where)
        with pytest.raises(TypeError, match="takes a function"):
            await spawn(5, where=where)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="nowhere"):
            await spawn(square, 1, where="nowhere")

    run(main)


@BOTH
def test_as_many_wait_as_may(where: str) -> None:
    async def main() -> None:
        limiter = computing._here().limiters[where]
        limiter.total_tokens = 1
        async with limiter, api.open_scope() as scope:
            for _ in range(COMPUTATIONS_MAX):
                await spawn(square, 2, where=where, scope=scope)
            await trio.testing.wait_all_tasks_blocked()
            assert limiter.statistics().tasks_waiting == COMPUTATIONS_MAX
            with pytest.raises(RemoteError, match="system_limit"):
                await spawn(square, 2, where=where)
            scope.cancel()
        async with limiter, api.open_scope() as scope:  # before the first of them waits
            for _ in range(COMPUTATIONS_MAX + 1):
                await spawn_monitor(square, 2, where=where, scope=scope)
            assert limiter.statistics().tasks_waiting < COMPUTATIONS_MAX
            await trio.testing.wait_all_tasks_blocked()
            [down] = await api.flush()
            assert down.reason[0] == "RemoteError"  # type: ignore[attr-defined]
            scope.cancel()

    run(main)


# -- in a thread


def test_a_thread_sends_as_its_process() -> None:
    def work(to: Pid) -> None:
        computing.send(to, ("from", computing.self()))

    async def main() -> None:
        pid = await spawn(work, self(), where="thread")
        assert await receive(timeout=WAIT_S) == ("from", pid)

    run(main)


def test_a_thread_waits_for_a_full_mailbox() -> None:
    sent: list[int] = []

    def work(to: Pid) -> None:
        for number in range(5):
            computing.send(to, number)
            sent.append(number)

    async def slow(done: Pid) -> None:
        await receive("go")
        await api.send(done, [await receive() for _ in range(5)])

    async def main() -> None:
        to = await spawn(slow, self(), mailbox=Mailbox(limit=2))
        pid = await spawn(work, to, where="thread")
        await until(lambda: process_info(to)["messages"] == 2)
        await until(lambda: sent == [0, 1])
        assert api.is_process_alive(pid)
        await api.send(to, "go")
        assert await receive(timeout=WAIT_S) == [0, 1, 2, 3, 4]

    run(main)


def test_what_a_thread_may_not_do() -> None:
    def work() -> str:
        with pytest.raises(RuntimeError, match="no process runs here"):
            self()
        return "done"

    async def main() -> None:
        assert await compute(work) == "done"
        with pytest.raises(RuntimeError, match="no process runs in this thread"):
            computing.self()

    run(main)


def test_a_killed_thread_is_abandoned_counted_and_cannot_speak(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[BaseException] = []

    def stubborn(to: Pid) -> None:
        wait_in_thread()
        for act in (computing.self, lambda: computing.send(to, "too late")):
            try:
                act()
            except ProcessExit as error:
                errors.append(error)

    async def main() -> None:
        pid, ref = await spawn_monitor(stubborn, self(), where="thread")
        await began()
        exit(pid, "kill")
        assert await receive(timeout=WAIT_S) == Down(ref, pid, "killed")  # without the thread
        assert abandoned() == 1
        computations.go.set()
        await until(lambda: abandoned() == 0)
        assert await api.flush() == []

    run(main)
    assert [str(each) for each in errors] == ["exit: 'killed'"] * 2
    assert "thread_abandoned" in caplog.text
    assert "count=1" in caplog.text


def test_an_abandoned_thread_keeps_its_place() -> None:
    async def main() -> None:
        limiter = computing._here().limiters["thread"]
        limiter.total_tokens = 1
        pid, _ = await spawn_monitor(wait_in_thread, where="thread")
        await until(computations.began.is_set)
        exit(pid, "kill")
        await receive(Down, timeout=WAIT_S)
        later, ref = await spawn_monitor(square, 3, where="thread")
        await trio.testing.wait_all_tasks_blocked()
        assert limiter.statistics().tasks_waiting == 1
        computations.go.set()
        assert await receive(timeout=WAIT_S) == Down(ref, later, "normal")

    run(main)


def test_one_that_has_not_begun_is_not_abandoned(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        limiter = computing._here().limiters["thread"]
        limiter.total_tokens = 1
        async with limiter:
            pid, ref = await spawn_monitor(square, 3, where="thread")
            await trio.testing.wait_all_tasks_blocked()
            exit(pid, "kill")
            assert await receive(timeout=WAIT_S) == Down(ref, pid, "killed")
            assert abandoned() == 0

    run(main)
    assert "thread_abandoned" not in caplog.text


def test_a_thread_that_waits_to_send_is_let_go_by_a_kill() -> None:
    raised: list[object] = []
    ended = threading.Event()

    def work(to: Pid) -> None:
        try:
            computing.send(to, 1)
            computing.send(to, 2)
        except ProcessExit as error:
            raised.append(error.reason)
        finally:
            ended.set()

    async def main() -> None:
        to = await spawn(trio.sleep_forever, mailbox=Mailbox(limit=1))
        pid = await spawn(work, to, where="thread")
        await until(lambda: process_info(to)["messages"] == 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        exit(pid, "kill")
        await trio.to_thread.run_sync(ended.wait)

    run(main)
    assert raised == ["killed"]


# -- in a program of its own


def test_arguments_and_value_are_data() -> None:
    values = (1, 2.5, "x", b"y", None, True, [1, (2, {"k": 3})], {"a": [1]})

    async def main() -> None:
        me = self()
        assert await compute(give_back, *values, me, where="process") == [*values, me]
        with pytest.raises(NotSendable):
            await spawn(give_back, object(), where="process")
        with pytest.raises(NotSendable):
            await spawn(give_back, bytes(BODY_BYTES_MAX), where="process")  # with the rest: above
        with pytest.raises(ProcessExit) as caught:
            await compute(a_function, where="process")
        assert caught.value.reason[0] == "NotSendable"  # type: ignore[index]
        with pytest.raises(ProcessExit) as caught:
            await compute(bytes, BODY_BYTES_MAX, where="process")
        assert caught.value.reason[0] == "NotSendable"  # type: ignore[index]

    run(main)


def test_a_program_that_dies_is_a_clear_reason() -> None:
    name = "tests.unit.process.computations"

    async def main() -> None:
        cases: list[tuple[Function, tuple[object, ...], str]] = [
            (die, (), f"{name}.die was ended by SIGKILL"),
            (die, (int(signal.SIGSEGV),), f"{name}.die was ended by SIGSEGV"),
            (vanish, (7,), f"{name}.vanish ended with exit code 7"),
            (vanish, (0,), f"{name}.vanish ended with exit code 0"),
        ]
        for function, args, what in cases:
            pid, ref = await spawn_monitor(function, *args, where="process")
            down = await receive(timeout=WAIT_S)
            assert down == Down(ref, pid, ("ProgramDied", what))

    run(main)


def test_a_killed_program_is_gone_at_once(tmp_path: Path) -> None:
    file = tmp_path / "pid"

    async def main() -> None:
        pid, ref = await spawn_monitor(write_pid, str(file), where="process")
        await until(lambda: file.exists() and file.read_text() != "")
        program = int(file.read_text())
        exit(pid, "kill")
        assert await receive(timeout=WAIT_S) == Down(ref, pid, "killed")
        with pytest.raises(ProcessLookupError):  # killed and reaped before that was told
            os.kill(program, 0)

    run(main)


def test_what_it_prints_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        assert await compute(say, "hello from there", where="process") != os.getpid()

    run(main)
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "hello from there\n")


def test_only_what_has_a_name_can_be_found_again() -> None:
    def inner() -> None: ...

    async def main() -> None:
        for function in (inner, lambda: None):
            with pytest.raises(NotSendable, match="no name"):
                await spawn(function, where="process")

    run(main)


class _Loader:
    """As the worker's for shipped code: nothing is in a file."""

    def __init__(self, source: str) -> None:
        self._source = source

    def get_source(self, name: str) -> str:
        return self._source


def in_memory(name: str, source: str) -> types.ModuleType:
    module = types.ModuleType(name)
    spec = importlib.machinery.ModuleSpec(name, _Loader(source), origin="shipped")  # type: ignore[arg-type]
    module.__spec__, module.__loader__ = spec, spec.loader
    module.__file__ = f"shipped/1f3a/{name}.py"
    sys.modules[name] = module
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    return module


def test_shipped_code_travels_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    in_memory("shipped_helper", "def twice(x):\n    return 2 * x\n")
    source = "import shipped_helper\ndef f(x):\n    return shipped_helper.twice(x)\n"
    kitchen = in_memory("shipped_kitchen", source)

    async def main() -> None:
        assert await compute(kitchen.f, 21, where="process") == 42

    run(main)


def test_code_without_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    module = types.ModuleType("of_nowhere")
    sys.modules["of_nowhere"] = module
    exec("def f(): pass", module.__dict__)

    async def main() -> None:
        with pytest.raises(NotSendable, match="has no file"):
            await spawn(module.f, where="process")

    run(main)


SCRIPT = """
from drupelet.process import run
from drupelet.process.computing import compute

def square(x):
    return x * x

async def main():
    print(await compute(square, 7, where="process"))

{guard}run(main)
"""


@pytest.mark.parametrize("guarded", [True, False])
def test_a_script_computes_with_its_own_functions(tmp_path: Path, guarded: bool) -> None:
    """And one without a guard starts no programs without end."""
    file = tmp_path / "script.py"
    guard = 'if __name__ == "__main__":\n    ' if guarded else ""
    file.write_text(SCRIPT.format(guard=guard))
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=40)
    if guarded:
        assert (done.stdout, done.returncode) == ("49\n", 0)
    else:
        assert done.returncode != 0
        assert 'if __name__ == "__main__":' in done.stderr


def test_a_garbled_answer_is_no_value() -> None:
    for answer in (b"\xff", b"\x82\x65value", b""):
        with pytest.raises(ProcessExit, match="ProgramDied"):
            computing._value(square, answer, 0)


def test_the_signal_of_a_program_has_a_name() -> None:
    assert computing._signal_name(9) == "SIGKILL"
    assert computing._signal_name(42) == "signal 42"


def test_a_program_crash_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        pid = await spawn(bad, where="process")
        monitor(pid)
        await receive(Down, timeout=WAIT_S)

    with caplog.at_level(logging.WARNING):
        run(main)
    assert "computation_crashed" in caplog.text
    assert 'raise ValueError("bad")' in caplog.text
    assert "child.py" not in caplog.text  # not a frame of ours
