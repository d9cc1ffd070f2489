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
from tests.unit.worker.calls import Answers, call, cancel, cast, leased, leased_cast, settle


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

    async def closed(self, *idents: int) -> None:
        """Until nothing of these calls runs."""
        while not set(idents).issubset(self.answers.closed):
            data = await self.sock.receive_some(65_536)
            assert data
            self.answers.receive(data)


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


# -- whether all that was cancelled has ended


class Work:
    """Calls that are seen, and held up."""

    def __init__(self) -> None:
        self.order: list[object] = []
        self.doors = [threading.Event() for _ in range(10)]
        self.shielded = trio.Event()
        self.begun = trio.Event()

    async def tick(self, number: int) -> None:
        self.begun.set()
        while True:
            await trio.lowlevel.checkpoint()
            self.order.append(number)

    async def clean_up(self) -> None:
        try:
            self.begun.set()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await self.shielded.wait()
                self.order.append("cleaned up")

    def compute(self, number: int) -> None:
        self.order.append(f"begins {number}")
        trio.from_thread.run_sync(self.begun.set)
        assert self.doors[number].wait(20)
        self.order.append(f"ends {number}")

    def note(self, what: object) -> None:
        self.order.append(what)


async def test_200_calls_that_were_cancelled_run_no_more_when_it_is_answered() -> None:
    work = Work()
    async with open_tasks(tick=Target("tick", work.tick)) as daemon:
        idents = range(2, 402, 2)
        await daemon.sock.send_all(b"".join(call(n, "m/tick", n) for n in idents))
        await work.begun.wait()
        started = trio.current_time()
        answers = await daemon.ask(*map(cancel, idents), settle(500), count=1)
        print(f"settled after {(trio.current_time() - started) * 1000:.1f} ms")
        assert answers.values == {500: True}
        assert set(work.order) == set(idents)
        count = len(work.order)
        await daemon.ask(settle(502), count=2)  # any of them would have run meanwhile
        assert len(work.order) == count


async def test_a_call_that_is_cancelled_before_it_begins_never_does() -> None:
    work = Work()
    async with open_tasks(tick=Target("tick", work.tick)) as daemon:
        answers = await daemon.ask(call(2, "m/tick", 2), cancel(2), settle(4), count=1)
        assert answers.values == {4: True}
        assert not work.begun.is_set()


async def test_a_finally_that_waits_under_a_shield_is_waited_for() -> None:
    work = Work()
    targets = {
        "clean_up": Target("clean_up", work.clean_up), "note": Target("note", work.note),
    }  # fmt: skip
    async with open_tasks(**targets) as daemon:
        await daemon.sock.send_all(call(2, "m/clean_up"))
        await work.begun.wait()
        answers = await daemon.ask(cancel(2), settle(4), call(6, "m/note", "x"), count=1)
        assert answers.values == {6: None}
        await trio.testing.wait_all_tasks_blocked(0.01)
        work.shielded.set()
        answers = await daemon.ask(count=2)
        assert answers.values[4] is True
        assert work.order == ["x", "cleaned up"]


async def test_a_thread_is_waited_for_though_its_call_is_over() -> None:
    work = Work()
    targets = {
        "compute": Target("compute", work.compute, where="thread", owner=work),
        "note": Target("note", work.note),
    }
    async with open_tasks(**targets) as daemon:
        await daemon.sock.send_all(call(2, "m/compute", 0))
        await work.begun.wait()  # the next one waits for its turn
        await daemon.ask(call(4, "m/compute", 1), call(14, "m/note", "w"), count=1)
        sent = (cancel(2), cancel(4), settle(6), call(8, "m/note", "x"))
        await daemon.ask(*sent, count=2)
        answers = await daemon.ask(call(10, "m/note", "y"), count=3)
        assert 6 not in answers.values
        assert work.order == ["begins 0", "w", "x", "y"]
        work.doors[0].set()
        answers = await daemon.ask(count=4)
        assert answers.values[6] is True
        assert work.order[4:] == ["ends 0"]  # and the one that waited for its turn never begins
        work.doors[1].set()
        answers = await daemon.ask(call(12, "m/compute", 1), count=5)
        assert answers.values[12] is None  # the place of the other is free again


async def test_a_thread_can_ask_whether_anybody_waits() -> None:
    work = Work()

    def search() -> None:
        work.compute(0)
        while True:
            trio.from_thread.check_cancelled()

    work.doors[0].set()
    async with open_tasks(search=Target("search", search, where="thread")) as daemon:
        await daemon.sock.send_all(call(2, "m/search"))
        await work.begun.wait()
        assert (await daemon.ask(cancel(2), settle(4), count=1)).values == {4: True}


async def test_many_calls_in_one_thread_end_after_the_one_that_is_under_way() -> None:
    work = Work()
    many = [[number] for number in range(10)]
    target = Target("compute", work.compute, where="thread")
    async with open_tasks(compute=target) as daemon:
        encoded = call(2, "m/compute", *many, flags=frames.FLAG_MANY)
        await daemon.sock.send_all(encoded)
        await work.begun.wait()
        await daemon.ask(cancel(2), settle(4), settle(6), cancel(6), call(8, "m/none"), count=1)
        for door in work.doors:
            door.set()
        answers = await daemon.ask(count=2)
        assert answers.values == {4: True}
        assert work.order == ["begins 0", "ends 0"]


def test_the_plain_loop_has_nothing_that_could_run_on() -> None:
    ours, theirs = socket.socketpair()
    ran: list[object] = []
    with ours, theirs:
        ours.sendall(call(2, "m/note", 1) + cancel(2) + settle(4) + call(6, "m/note", 2))
        ours.shutdown(socket.SHUT_WR)
        assert run_plain(theirs, {b"m/note": Target("note", ran.append)}, FrameReader()) is None
        answers = Answers()
        answers.receive(ours.recv(65_536))
    assert list(answers.values.items()) == [(2, None), (4, True), (6, None)]


async def test_the_question_after_the_move_to_the_other_loop() -> None:
    work = Work()
    ours, theirs = socket.socketpair()
    table = {b"m/tick": Target("tick", work.tick)}
    reader = FrameReader()
    with trio.fail_after(10), theirs:
        ours.sendall(call(2, "m/tick", 2))
        handover = run_plain(theirs, table, reader)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(run_tasks, theirs, table, reader, handover)
            await work.begun.wait()
            answers = await Daemon(stream).ask(cancel(2), settle(4), count=1)
            assert answers.values == {4: True}
            await stream.aclose()


# -- strangers' calls: told when nothing of them runs


async def test_each_kind_of_call_is_over_behind_its_answer() -> None:
    async def later() -> str:
        await trio.lowlevel.checkpoint()
        return "later"

    async def crash() -> None:
        raise ValueError

    targets = {
        "later": Target("later", later), "crash": Target("crash", crash),
        "thread": Target("thread", lambda: "thread", where="thread"),
    }  # fmt: skip
    async with open_tasks(**targets) as daemon:
        await daemon.sock.send_all(
            leased(2, "m/later") + leased(4, "m/crash") + leased(6, "m/thread")
            + leased_cast(8, "m/later") + leased_cast(10, "m/thread") + leased_cast(12, "m/crash")
        )  # fmt: skip
        await daemon.closed(2, 4, 6, 8, 10, 12)
        assert daemon.answers.values == {2: "later", 6: "thread"}
        assert list(daemon.answers.errors) == [4]


async def test_a_stranger_s_cast_is_cancelled_like_a_call() -> None:
    work = Work()
    targets = {"tick": Target("tick", work.tick), "clean_up": Target("clean_up", work.clean_up)}
    async with open_tasks(**targets) as daemon:
        await daemon.sock.send_all(leased_cast(2, "m/tick", 1) + leased_cast(4, "m/clean_up"))
        await work.begun.wait()
        await daemon.ask(cancel(2), cancel(4), call(8, "/settle", [2]), count=1)
        await daemon.closed(2)
        count = len(work.order)
        assert daemon.answers.closed == [2]
        work.shielded.set()
        await daemon.closed(4)
        assert work.order[count:] == ["cleaned up"]


async def test_a_thread_goes_on_by_the_right_of_a_call_that_was_given_up() -> None:
    work = Work()
    targets = {
        "compute": Target("compute", work.compute, where="thread"),
        "note": Target("note", work.note),
    }
    async with open_tasks(**targets) as daemon:
        await daemon.sock.send_all(leased(2, "m/compute", 0))
        await work.begun.wait()
        await daemon.ask(cancel(2), call(4, "m/note", "x"), count=1)
        assert daemon.answers.closed == []
        await daemon.sock.send_all(cancel(2))  # the right is taken back, too
        work.doors[0].set()
        await daemon.closed(2)
        assert work.order[-1] == "ends 0"


async def test_leases_move_to_the_other_loop() -> None:
    work = Work()
    ours, theirs = socket.socketpair()
    table = {b"m/tick": Target("tick", work.tick), b"m/note": Target("note", work.note)}
    reader = FrameReader()
    with trio.fail_after(10), theirs:
        ours.sendall(leased(2, "m/note", 2) + leased(4, "m/tick", 4) + leased(6, "m/tick", 6))
        ours.sendall(cancel(4) + leased_cast(8, "m/tick", 8))
        handover = run_plain(theirs, table, reader)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(run_tasks, theirs, table, reader, handover)
            await work.begun.wait()
            daemon = Daemon(stream)
            await daemon.closed(2, 4)
            assert daemon.answers.closed == [2, 4]
            await daemon.sock.send_all(cancel(6) + cancel(8))
            await daemon.closed(6, 8)
            assert set(work.order) - {2} <= {6, 8}
            await stream.aclose()
