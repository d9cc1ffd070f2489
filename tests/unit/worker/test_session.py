from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drupelet.errors import RemoteError, RemoteProtocolError
from drupelet.lease import lease_var
from drupelet.wire import frames, limits
from drupelet.wire.bodies import Outgoing
from drupelet.wire.codec import dumps
from drupelet.worker import session as session_module
from drupelet.worker.arguments import compile_checks
from drupelet.worker.session import FLUSH_BYTES, Session
from drupelet.worker.targets import TASK, Target
from tests.unit.worker.calls import (
    Answers,
    call,
    cancel,
    cast,
    leased,
    leased_cast,
    raw_call,
    settle,
)


class Rig:
    """A session without a socket."""

    def __init__(self, *, spawn: bool = True, **functions: Callable[..., object]) -> None:
        self.answers = Answers()
        self.sends = 0
        self.spawned: list[tuple[int, Target, list[object]]] = []
        self.cancelled: list[int] = []
        table = {f"m/{name}".encode(): Target(name, f) for name, f in functions.items()}
        self.table = table
        self.session = Session(table, self.flush, self.spawn if spawn else None)

    def spawn(self, ident: int, target: Target, args: list[object]) -> None:
        if ident >= 0:
            self.session.running[ident] = lambda: self.cancelled.append(ident)
        self.spawned.append((ident, target, args))

    def flush(self) -> None:
        self.sends += 1
        data = b"".join(self.session.out)
        self.session.out.clear()
        self.session.out_bytes = 0
        self.answers.receive(data)

    def send(self, *frames_: bytes) -> Answers:
        self.session.receive(b"".join(frames_))
        if self.session.out:
            self.flush()
        return self.answers


def add(a: int, b: int = 1) -> int:
    return a + b


def test_arguments_that_do_not_fit_never_reach_the_function() -> None:
    ran: list[object] = []
    rig = Rig(inline=ran.append, tasked=ran.append, casts=ran.append)
    for target in rig.table.values():
        target.checks = compile_checks([("a", int)])
    rig.table[b"m/tasked"].how = TASK
    rig.table[b"m/casts"].is_cast = True
    answers = rig.send(*(call(n, f"m/{name}", "x") for n, name in enumerate(("inline", "tasked"))))
    assert answers.errors[0].kind == answers.errors[1].kind == "badarg"
    assert answers.errors[1].message == "tasked(a): 'x' is no int"
    many = call(2, "m/inline", [1], ["x"], [2], flags=frames.FLAG_MANY)
    error = ["badarg", "inline(a): 'x' is no int"]
    answer: Any = rig.send(many).values[2]
    assert (answer[0], answer[1][1][1:3], ran) == ([None] * 3, error, [1, 2])
    rig.send(cast("m/casts", "x"), cast("m/casts", 3))
    assert (ran, rig.spawned) == ([1, 2, 3], [])


def test_a_batch_of_calls_is_answered_in_one_send() -> None:
    rig = Rig(add=add)
    answers = rig.send(*(call(n, "m/add", n, n) for n in range(0, 400, 2)))
    assert answers.values == {n: 2 * n for n in range(0, 400, 2)}
    assert rig.sends == 1


def test_a_frame_in_pieces_of_one_byte() -> None:
    rig = Rig(add=add)
    for byte in call(2, "m/add", 1, 2):
        rig.send(bytes((byte,)))
    assert rig.answers.values == {2: 3}


def test_arguments_that_do_not_fit_are_refused_with_the_signature() -> None:
    rig = Rig(add=add)
    answers = rig.send(
        call(2, "m/add"),
        call(4, "m/add", 1, 2, 3),
        raw_call(6, "m/add", dumps({"a": 1})),
        raw_call(8, "m/add", b"\xff\xff"),
        raw_call(10, "m/add", b""),
        call(12, "m/add", 1),
    )
    assert answers.values == {12: 2}
    assert {error.kind for error in answers.errors.values()} == {"badarg"}
    assert answers.errors[2].message == "add(a: int, b: int = 1) -> int: 0 arguments given"


def test_an_exception_is_an_answer_without_our_own_frames() -> None:
    def divide(a: int) -> float:
        return a / 0

    error = Rig(divide=divide).send(call(2, "m/divide", 1)).errors[2]
    assert (error.kind, error.message) == ("ZeroDivisionError", "division by zero")
    assert "return a / 0" in error.traceback_text
    assert "worker/session.py" not in error.traceback_text


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (RemoteError("no_water", "the kettle is empty"), "no_water", "the kettle is empty"),
        (MemoryError(), "MemoryError", "memory limit"),
        (SystemExit(3), "SystemExit", "3"),
        (Unprintable(), "Unprintable", "no text"),
        (ValueError("x" * 10_000), "ValueError", "x" * 2_000),
        (RecursionError("deep"), "RecursionError", "deep"),
        (ValueError("\ud800"), "MemoryError", ""),  # text that no one can send
    ],
)
def test_every_kind_of_exception(raised: BaseException, kind: str, message: str) -> None:
    def fail() -> None:
        raise raised

    error = Rig(fail=fail).send(call(2, "m/fail")).errors[2]
    if kind != "MemoryError" or isinstance(raised, MemoryError):
        assert error.kind == kind
        assert message in error.message


def test_a_value_that_cannot_be_sent() -> None:
    error = Rig(give=lambda: print).send(call(2, "m/give")).errors[2]
    assert error.kind == "not_sendable"


def test_an_unknown_function_gets_a_hint() -> None:
    error = Rig(add=add).send(call(2, "m/ad")).errors[2]
    assert error.kind == "undef"
    assert "did you mean m/add?" in error.message


def test_casts_run_and_answer_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def note(n: int) -> None:
        seen.append(n)
        if n == 2:
            raise ValueError("two")

    answers = Rig(note=note).send(
        cast("m/note", 1), cast("m/note", 2), cast("m/note"), cast("m/none", 1), cast("m/note", 3)
    )
    assert seen == [1, 2, 3]
    assert not answers.values and not answers.errors and not answers.control
    logged = capsys.readouterr().err
    assert "cast note: ValueError: two" in logged
    assert "badarg" in logged


def test_a_call_of_a_cast_is_answered_before_it_runs() -> None:
    order: list[str] = []
    rig = Rig()
    rig.table[b"m/cool"] = Target("cool", lambda: order.append("ran"), is_cast=True)
    assert rig.send(call(2, "m/cool")).values == {2: None}
    assert order == ["ran"]


def test_a_digest_is_skipped() -> None:
    rig = Rig(add=add)
    sent = call(2, "m/add", 1, digest=bytes(16))
    assert rig.send(sent).values == {2: 2}


def test_ping_is_answered_in_order() -> None:
    rig = Rig(add=add)
    answers = rig.send(call(2, "m/add", 1), frames.frame(frames.PING, 0, b"\0" * 7 + b"\x07"))
    assert answers.control == [(frames.PONG, b"\0" * 7 + b"\x07")]


# -- slow and large


def test_a_slow_batch_is_sent_piece_by_piece_and_says_that_it_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(session_module, "monotonic", lambda: float(next(clock)))
    rig = Rig(add=add)
    answers = rig.send(*(call(n, "m/add", 1) for n in range(0, 20, 2)))
    assert len(answers.values) == 10
    assert rig.sends >= 5
    assert (frames.PONG, bytes(8)) in answers.control


def test_replies_are_sent_before_they_pile_up() -> None:
    rig = Rig(give=lambda: bytes(30_000))
    rig.send(*(call(n, "m/give") for n in range(0, 200, 2)))
    assert len(rig.answers.values) == 100
    assert rig.sends >= 100 * 30_000 // (FLUSH_BYTES + 30_000)


@pytest.mark.parametrize("size", [32_760, 32_768, 32_769, 300_000, 3_000_000])
def test_large_bodies_both_ways(size: int) -> None:
    rig = Rig(echo=lambda value: value)
    encoded = dumps([bytes(size)])
    flags, first = (1, encoded[:32_768]) if len(encoded) > 32_768 else (0, encoded)
    rig.send(raw_call(2, "m/echo", first, flags=flags))
    outgoing = Outgoing(2, encoded)
    for _ in range(200):
        rig.send(*outgoing.take())
        for kind, body in rig.answers.control:
            assert kind == frames.CREDIT
            outgoing.add_credit(int.from_bytes(body))
        rig.answers.control.clear()
        given, rig.answers.credits = rig.answers.credits, []
        rig.send(*given)
        if rig.answers.values:
            break
    assert rig.answers.values == {2: bytes(size)}
    assert rig.session._incoming_bytes == rig.session._outgoing_bytes == 0
    assert not rig.session._incoming and not rig.session._outgoing


def test_a_value_larger_than_a_body_may_be() -> None:
    rig = Rig(give=lambda n: bytes(n))
    error = rig.send(call(2, "m/give", limits.BODY_BYTES_MAX)).errors[2]
    assert error.kind in ("too_large", "not_sendable")


def test_a_body_above_the_maximum_ends_its_own_call_only() -> None:
    rig = Rig(add=add)
    data = frames.frame(frames.DATA, 2, b"\1" + bytes(32_768))
    rig.send(raw_call(2, "m/add", bytes(32_768), flags=1))
    for _ in range(limits.BODY_BYTES_MAX // 32_768 - 1):
        rig.send(data)
    assert not rig.answers.errors
    rig.send(data, data)  # one above, and one of a call that is over
    answers = rig.send(call(4, "m/add", 1))
    assert answers.errors[2].kind == "too_large"
    assert answers.values == {4: 2}
    assert rig.session._incoming_bytes == 0


def test_unfinished_bodies_have_a_maximum() -> None:
    rig = Rig(add=add)
    starts = [
        raw_call(n * 2, "m/add", b"x", flags=1) for n in range(limits.STREAMS_PER_LINK_MAX + 1)
    ]
    answers = rig.send(*starts[:-1])
    assert not answers.errors
    assert rig.send(starts[-1]).errors[limits.STREAMS_PER_LINK_MAX * 2].kind == "overloaded"


def test_replies_that_nobody_reads_have_a_maximum() -> None:
    rig = Rig(give=lambda: bytes(8 * 1024 * 1024 - 100))
    answers = rig.send(*(call(n, "m/give") for n in range(0, 18, 2)))
    assert [e.kind for e in answers.errors.values()] == ["overloaded"]
    rig.send(frames.frame(frames.CANCEL, 0))
    assert not rig.send(call(20, "m/give")).errors.get(20)
    rig.send(*(frames.frame(frames.CREDIT, n, b"bad") for n in range(0, 22, 2)))
    assert rig.session._outgoing_bytes == 0


# -- spawned calls


async def later(value: object) -> object:
    return value


def test_async_functions_are_spawned_and_finish_later() -> None:
    rig = Rig(later=later)
    rig.send(call(2, "m/later", 7), call(4, "m/later", 8), cast("m/later", 9))
    (two, target, args), (four, _, _), (minus, _, _) = rig.spawned
    assert (two, args, four, minus) == (2, [7], 4, -1)
    rig.session.finish(4, target, 8)
    rig.session.fail(2, target, KeyError("k"))
    rig.session.fail(-1, target, KeyError("k"))
    rig.flush()
    assert rig.answers.values == {4: 8}
    assert rig.answers.errors[2].kind == "KeyError"
    assert rig.session.running == {}


def test_cancel_drops_the_answer() -> None:
    rig = Rig(later=later)
    rig.send(call(2, "m/later", 7), frames.frame(frames.CANCEL, 2), frames.frame(frames.CANCEL, 6))
    assert rig.cancelled == [2]
    rig.session.finish(2, rig.spawned[0][1], 7)
    assert rig.session.out == []


def test_spawned_calls_have_a_maximum() -> None:
    rig = Rig(later=later)
    count = limits.WORKER_CALLS_MAX
    rig.send(*(call(n * 2, "m/later", 1) for n in range(count)))
    assert not rig.answers.errors
    assert rig.send(call(count * 2, "m/later", 1)).errors[count * 2].kind == "overloaded"
    rig.send(*(cast("m/later", 1) for _ in range(count + 1)))
    assert len(rig.spawned) == 2 * count


# -- what the daemon must not send


@pytest.mark.parametrize(
    "bad",
    [
        frames.frame(frames.REPLY, 2, b"\0\xf6"),
        frames.frame(frames.HELLO, 0, b"\xa0"),
        frames.frame(frames.GOSSIP, 0, b"\xa0"),
        frames.frame(frames.CALL, 2, b"\0"),
        frames.frame(frames.CAST, 0, b"\0"),
        b"\xff" * 9,
        b"\0\0\0\5\x63\0\0\0\0",
    ],
)
def test_frames_that_a_worker_must_not_get(bad: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Rig(add=add).session.receive(bad)


def test_streams_are_refused_and_goodbye_ends() -> None:
    rig = Rig(add=add)
    rig.send(frames.frame(frames.OPEN, 2, b"x"), frames.frame(frames.CLOSE, 2))
    assert rig.answers.control[0][0] == frames.CLOSE
    rig.send(frames.frame(frames.GOODBYE, 0, dumps("stopping")))
    assert rig.session.finished


@given(
    st.lists(st.tuples(st.integers(1, 14), st.integers(0, 6), st.binary(max_size=40)), max_size=20)
)
def test_noise_in_frames_raises_nothing_else(noise: list[tuple[int, int, bytes]]) -> None:
    rig = Rig(add=add, later=later)
    try:
        for kind, ident, body in noise:
            rig.send(frames.frame(kind, ident, body))
    except RemoteProtocolError:
        pass
    sys.stderr.flush()


# -- whether all that was cancelled has ended


def test_plain_functions_are_over_when_the_question_is_read() -> None:
    ran: list[int] = []
    rig = Rig(spawn=False, work=ran.append)
    sent = [call(n, "m/work", n) for n in range(2, 20, 2)]
    sent += [cancel(n) for n in range(2, 20, 2)]
    assert rig.send(*sent, settle(30)).values[30] is True
    assert ran == list(range(2, 20, 2))


def test_the_question_waits_for_what_was_cancelled() -> None:
    woken: list[bool] = []
    rig = Rig(later=later)
    rig.session.wake = lambda: woken.append(True)
    rig.send(call(2, "m/later", 0), call(4, "m/later", 0), cancel(2))
    rig.session.endings.cancelled("call 2")  # as the loop does it
    assert rig.send(settle(6), settle(8), cancel(8)).values == {}
    rig.session.endings.ended("call 2")
    assert woken == [True]
    assert rig.send(call(10, "m/later")).values == {6: True}


def test_questions_at_the_maximum_and_one_above() -> None:
    rig = Rig()
    rig.session.endings.cancelled("call 2")
    last = 2 * limits.SETTLES_MAX
    answers = rig.send(*(settle(n) for n in range(0, last, 2)))
    assert (answers.values, answers.errors) == ({}, {})
    assert rig.send(settle(last)).errors[last].kind == "overloaded"


def test_calls_that_end_count_as_calls() -> None:
    rig = Rig(later=later)
    for number in range(limits.WORKER_CALLS_MAX - 1):
        rig.session.endings.cancelled(number)
    answers = rig.send(call(2, "m/later", 0), call(4, "m/later", 0))
    assert len(rig.spawned) == 1
    assert answers.errors[4].kind == "overloaded"


def test_a_call_that_is_cancelled_while_calls_are_held_never_begins() -> None:
    ran: list[int] = []
    rig = Rig(work=ran.append, later=later)
    rig.send(call(2, "m/later", 0))
    rig.session.hold()
    answers = rig.send(
        call(4, "m/work", 4), call(6, "m/work", 6), cast("m/work", 0), call(8, "m/later", 0),
        cancel(2), cancel(4), cancel(8), settle(10), call(12, "m/work", 12),
    )  # fmt: skip
    assert rig.cancelled == [2]  # it ran already
    assert (ran, answers.values) == ([], {10: True})
    rig.session.release()
    assert ran == [6, 0, 12]
    assert [ident for ident, _, _ in rig.spawned] == [2]
    assert set(rig.send(settle(14)).values) == {6, 10, 12, 14}


# -- strangers' calls: told when nothing of them runs


def test_a_plain_function_is_over_behind_its_answer() -> None:
    seen: list[int] = []
    rig = Rig(work=lambda number: seen.append(number), crash=lambda: 1 / 0)
    answers = rig.send(leased(2, "m/work", 1), leased(4, "m/crash"), call(6, "m/work", 2))
    assert (answers.values, answers.closed) == ({2: None, 6: None}, [2, 4])
    assert answers.errors[4].kind == "ZeroDivisionError"
    rig.send(leased_cast(8, "m/work", 3), leased_cast(10, "m/no_such"), leased(12, "m/no_such"))
    assert (seen, answers.closed) == ([1, 2, 3], [2, 4, 8, 10, 12])
    assert answers.errors[12].kind == "undef"
    rig.send(leased(14, "m/work", 1, 2), cancel(14), cancel(2))
    assert (answers.errors[14].kind, answers.closed[-1]) == ("badarg", 14)


def test_its_value_is_sent_before_it_is_over() -> None:
    rig = Rig(large=lambda: bytes(400_000))
    answers = rig.send(leased(2, "m/large"), leased(4, "m/large"))
    assert answers.closed == []
    rig.send(frames.frame(frames.CREDIT, 2, frames.U32.pack(1_000_000)))
    assert (answers.values[2], answers.closed) == (bytes(400_000), [2])
    rig.send(cancel(4))  # it is revoked: the rest never leaves
    assert answers.closed == [2, 4]
    rig.send(frames.frame(frames.CREDIT, 4, frames.U32.pack(1_000_000)))
    assert 4 not in answers.values


def test_its_arguments_may_come_in_pieces_or_not_at_all() -> None:
    rig = Rig(size=len)
    pieces = Outgoing(2, dumps([bytes(100_000)]))
    first = dumps([bytes(100_000)])[: limits.FRAGMENT_BYTES_MAX]
    flags = frames.FLAG_LEASE | frames.FLAG_MORE
    answers = rig.send(
        raw_call(2, "m/size", first, flags=flags), raw_call(4, "m/size", first, flags=flags)
    )
    assert answers.closed == []
    rig.send(cancel(4), *pieces.take())
    assert (answers.values, answers.closed) == ({2: 100_000}, [4, 2])


def test_one_that_is_cancelled_while_calls_are_held_is_over_when_they_are_released() -> None:
    seen: list[int] = []
    rig = Rig(work=seen.append)
    rig.session.hold()
    rig.send(leased(2, "m/work", 1), leased_cast(4, "m/work", 2), leased(6, "m/work", 3))
    answers = rig.send(cancel(2), cancel(4))
    rig.session.release()
    rig.flush()
    assert (seen, sorted(answers.closed)) == ([3], [2, 4, 6])


def test_leases_at_the_maximum_and_one_above() -> None:
    rig = Rig(later=later)

    def spawn(ident: int, target: Target, args: list[object]) -> None:
        lease = lease_var.get()
        assert lease is not None
        lease.add(ident, lambda: None)

    rig.session.take_over(rig.flush, spawn)
    count = limits.LEASES_MAX
    answers = rig.send(*(leased_cast(2 * n + 2, "m/later", 0) for n in range(count)))
    assert answers.closed == []
    rig.send(leased(100_000, "m/later", 0))
    assert answers.errors[100_000].kind == "overloaded"
    assert answers.closed == [100_000]


def test_the_question_about_some_calls_does_not_wait_for_others() -> None:
    rig = Rig()
    rig.session.endings.cancelled("a member's thread", 2)
    rig.session.endings.cancelled("a stranger's thread", 4)
    answers = rig.send(call(10, "/settle", [4, 6]), call(12, "/settle", [6]))
    assert list(answers.values) == [12]
    rig.session.endings.ended("a stranger's thread")
    rig.flush()
    assert answers.values == {12: True, 10: True}
