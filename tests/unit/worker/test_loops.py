"""Both loops over real socket pairs: no virtual time."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from drupelet.errors import RemoteProtocolError
from drupelet.wire import frames
from drupelet.wire.frames import FrameReader
from drupelet.worker.loops import needs_tasks, run_plain, run_tasks
from drupelet.worker.targets import Target
from tests.unit.worker.calls import Answers, call, cast


def echo(value: object) -> object:
    return value


class Daemon:
    """The other end of the pair."""

    def __init__(self, sock: trio.SocketStream) -> None:
        self.sock = sock
        self.answers = Answers()

    async def ask(self, *sent: bytes, count: int) -> Answers:
        if sent:
            await self.sock.send_all(b"".join(sent))
        while len(self.answers.values) + len(self.answers.errors) < count:
            data = await self.sock.receive_some(65_536)
            assert data
            self.answers.receive(data)
        return self.answers


@asynccontextmanager
async def open_tasks(**targets: Target) -> AsyncIterator[Daemon]:
    ours, theirs = socket.socketpair()
    table = {f"m/{name}".encode(): target for name, target in targets.items()}
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    with trio.fail_after(10), theirs:
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(run_tasks, theirs, table, FrameReader())
            yield Daemon(stream)
            await stream.aclose()  # the loop must end by itself


def test_which_loop() -> None:
    async def wait() -> None: ...

    assert not needs_tasks({b"m/a": Target("a", echo)})
    assert needs_tasks({b"m/a": Target("a", echo), b"m/b": Target("b", wait)})
    assert needs_tasks({b"m/a": Target("a", echo, where="thread")})


def test_the_plain_loop_answers_and_ends_with_its_channel() -> None:
    ours, theirs = socket.socketpair()
    table = {b"m/echo": Target("echo", echo)}
    thread = threading.Thread(target=run_plain, args=(theirs, table, FrameReader()))
    thread.start()
    answers = Answers()
    with ours, theirs:
        # Far more than the sockets hold: the loop blocks in send and nothing is lost.
        sent = b"".join(call(n, "m/echo", bytes(1_000)) for n in range(0, 4_000, 2))
        sender = threading.Thread(target=ours.sendall, args=(sent,))
        sender.start()
        while len(answers.values) < 2_000:
            answers.receive(ours.recv(65_536))
        sender.join()
        ours.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        assert not thread.is_alive()


def test_the_plain_loop_ends_at_bad_frames_and_goodbye() -> None:
    for sent, raises in ((b"\xff" * 20, True), (frames.frame(frames.GOODBYE, 0), False)):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(sent)
            if raises:
                with pytest.raises(RemoteProtocolError):
                    run_plain(theirs, {}, FrameReader())
            else:
                run_plain(theirs, {}, FrameReader())


async def test_all_three_kinds_in_one_batch() -> None:
    async def later(value: object) -> object:
        await trio.lowlevel.checkpoint()
        return value

    targets = {
        "echo": Target("echo", echo),
        "later": Target("later", later),
        "thread": Target("thread", lambda: threading.current_thread().name, where="thread"),
    }
    async with open_tasks(**targets) as daemon:
        sent = [call(n, "m/later", n) for n in range(0, 200, 2)]
        answers = await daemon.ask(*sent, call(500, "m/echo", 1), call(502, "m/thread"), count=102)
        assert answers.values[198] == 198
        assert answers.values[500] == 1
        assert answers.values[502] != threading.current_thread().name


async def test_a_waiting_call_holds_up_nothing_and_can_be_cancelled() -> None:
    waiting, cancelled = trio.Event(), trio.Event()

    async def wait() -> None:
        waiting.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.set()
            raise

    async with open_tasks(wait=Target("wait", wait), echo=Target("echo", echo)) as daemon:
        answers = await daemon.ask(call(2, "m/wait"), call(4, "m/echo", 1), count=1)
        await waiting.wait()
        assert answers.values == {4: 1}
        answers = await daemon.ask(frames.frame(frames.CANCEL, 2), call(6, "m/echo", 2), count=2)
        await cancelled.wait()
        assert answers.values == {4: 1, 6: 2}
        assert not answers.errors


async def test_exceptions_of_tasks_and_threads() -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise KeyError("task")

    def fail_in_thread() -> None:
        raise KeyError("thread")

    async def group() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)

    targets = {
        "a": Target("a", fail),
        "b": Target("b", fail_in_thread, where="thread"),
        "c": Target("c", group),
    }
    async with open_tasks(**targets) as daemon:
        sent = (call(2, "m/a"), call(4, "m/b"), call(6, "m/c"), cast("m/a"))
        answers = await daemon.ask(*sent, count=3)
        assert [answers.errors[n].kind for n in (2, 4, 6)] == [
            "KeyError", "KeyError", "ExceptionGroup"
        ]  # fmt: skip
        assert "worker/loops.py" not in answers.errors[2].traceback_text


async def test_methods_of_one_class_take_turns_in_threads() -> None:
    class Counter:
        def __init__(self) -> None:
            self.inside = 0
            self.most = 0
            self.turn = threading.Lock()

        def work(self) -> int:
            with self.turn:
                self.inside += 1
                self.most = max(self.most, self.inside)
            sum(range(20_000))
            with self.turn:
                self.inside -= 1
            return self.most

    counter = Counter()
    target = Target("Counter.work", counter.work, where="thread", owner=counter)
    async with open_tasks(work=target) as daemon:
        await daemon.ask(*(call(n, "m/work") for n in range(0, 100, 2)), count=50)
    assert counter.most == 1


async def test_a_daemon_that_reads_late_loses_nothing() -> None:
    async with open_tasks(
        echo=Target("echo", echo), thread=Target("thread", echo, where="thread")
    ) as daemon:
        sent = [call(n, "m/echo", bytes(20_000)) for n in range(0, 400, 2)]
        sent.append(call(900, "m/thread", 1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.sock.send_all, b"".join(sent))
            await trio.testing.wait_all_tasks_blocked(0.05)
            answers = await daemon.ask(count=201)
    assert len(answers.values) == 201


async def test_new_code_that_needs_tasks_moves_to_the_other_loop() -> None:
    """Between two reads: no call is lost, and calls of the same read run there too."""
    ours, theirs = socket.socketpair()
    table = {b"m/echo": Target("echo", echo)}
    reader = FrameReader()
    ended: list[str] = []

    async def later(value: object) -> object:
        await trio.lowlevel.checkpoint()
        return ["later", value]

    async def never() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("never")

    def switch() -> None:
        table[b"m/later"] = Target("later", later)
        table[b"m/never"] = Target("never", never)
        table[b"m/echo"] = Target("echo", lambda value: ["new", value])

    table[b"m/switch"] = Target("switch", switch)
    sent = [call(2, "m/echo", 1), call(4, "m/switch"), call(6, "m/echo", 1), call(8, "m/later", 1)]
    sent += [call(10, "m/never"), call(12, "m/never"), frames.frame(frames.CANCEL, 10)]
    sent += [call(14, "m/later", 2), cast("m/never")[:9]]
    with trio.fail_after(10), theirs:
        ours.sendall(b"".join(sent))
        handover = await trio.to_thread.run_sync(run_plain, theirs, table, reader)
        assert handover is not None
        assert set(handover.calls) == {8, 12, 14}
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(run_tasks, theirs, table, reader, handover)
            daemon = Daemon(stream)
            answers = await daemon.ask(cast("m/never")[9:], count=5)
            assert answers.values == {
                2: 1, 4: None, 6: ["new", 1], 8: ["later", 1], 14: ["later", 2]
            }  # fmt: skip
            answers = await daemon.ask(
                frames.frame(frames.CANCEL, 12), call(16, "m/echo", 3), count=6
            )
            assert answers.values[16] == ["new", 3]
            await stream.aclose()
    assert ended == ["never", "never"]


def test_a_plain_worker_whose_only_new_call_was_cancelled_stays_plain() -> None:
    async def never() -> None: ...

    ours, theirs = socket.socketpair()
    table = {b"m/never": Target("never", never), b"m/echo": Target("echo", echo)}
    with ours, theirs:
        ours.sendall(call(2, "m/never") + frames.frame(frames.CANCEL, 2) + call(4, "m/echo", 1))
        ours.shutdown(socket.SHUT_WR)
        assert run_plain(theirs, table, FrameReader()) is None
        answers = Answers()
        answers.receive(ours.recv(65_536))
    assert answers.values == {4: 1}


def test_new_code_that_uses_processes_moves_to_the_other_loop() -> None:
    ours, theirs = socket.socketpair()
    used: list[bool] = []
    table = {b"m/use": Target("use", lambda: used.append(True)), b"m/echo": Target("echo", echo)}
    with ours, theirs:
        ours.sendall(call(2, "m/echo", 1) + call(4, "m/use") + call(6, "m/echo", 2))
        handover = run_plain(theirs, table, FrameReader(), lambda: bool(used))
        assert handover is not None and handover.calls == {}
        answers = Answers()
        answers.receive(ours.recv(65_536))
    assert answers.values == {2: 1, 4: None, 6: 2}
