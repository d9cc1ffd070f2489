from __future__ import annotations

from math import inf

import pytest

from drupelet.core.missions import (
    HEALTHY_S,
    RESTART_BASE_S,
    RESTART_CAP_S,
    START_S,
    KillWorker,
    MissionSpec,
    MissionWorker,
    PingWorker,
    Serve,
    StartWorker,
    State,
    Statistics,
    Withdraw,
    starting_error,
)
from drupelet.errors import RemoteError
from drupelet.wire.messages.workers import ExportEntry, Problem, WorkerFailure, WorkerHello

HELLO = WorkerHello({"kvs": (ExportEntry("store"),)}, bytes(16))
SPEC = MissionSpec(name="kvs", modules=("kvs",), exports=("store",))


def started(random: float = 1.0, spec: MissionSpec = SPEC) -> MissionWorker:
    machine = MissionWorker(spec, lambda: random)
    machine.start(0.0)
    assert machine.take_effects() == [StartWorker()]
    return machine


def ready(random: float = 1.0) -> MissionWorker:
    machine = started(random)
    machine.worker_hello(HELLO, 0.0)
    assert machine.take_effects() == [Serve(HELLO)]
    assert machine.state is State.READY
    return machine


def withdrawn(machine: MissionWorker) -> tuple[RemoteError, RemoteError]:
    effect = machine.take_effects()[0]
    assert isinstance(effect, Withdraw)
    assert isinstance(effect.open_error, RemoteError)
    assert isinstance(effect.later_error, RemoteError)
    return effect.open_error, effect.later_error


def test_a_crash_tells_callers_and_starts_again_after_the_wait() -> None:
    machine = ready()
    machine.worker_exit(-11, 1.0)
    now_error, later_error = withdrawn(machine)
    assert now_error.kind == "mission_crashed"
    assert later_error.kind == "mission_backoff"
    assert "SIGSEGV" in now_error.message
    assert "starts again 0.1 s after" in later_error.message
    due = machine.next_timer()
    assert due == 1.0 + RESTART_BASE_S
    machine.handle_timer(due - 1e-9)
    assert machine.take_effects() == []
    machine.handle_timer(due)
    assert machine.take_effects() == [StartWorker()]
    assert machine.state is State.STARTING


def test_the_wait_doubles_to_its_cap_and_a_healthy_minute_resets_it() -> None:
    machine = started()
    now, delays = 0.0, []
    for _ in range(12):
        machine.worker_exit(1, now)
        delays.append(machine.next_timer() - now)
        now = machine.next_timer()
        machine.handle_timer(now)
    assert delays[:3] == pytest.approx([0.1, 0.2, 0.4])
    assert delays[-1] == pytest.approx(RESTART_CAP_S)
    assert max(delays) <= RESTART_CAP_S + 1e-6
    machine.worker_hello(HELLO, now)
    machine.worker_exit(1, now + HEALTHY_S - 0.001)
    assert machine.next_timer() - (now + HEALTHY_S - 0.001) == pytest.approx(RESTART_CAP_S)
    now = machine.next_timer()
    machine.handle_timer(now)
    machine.worker_hello(HELLO, now)
    machine.worker_exit(1, now + HEALTHY_S)
    assert machine.next_timer() - (now + HEALTHY_S) == pytest.approx(RESTART_BASE_S)


def test_an_idle_worker_is_never_pinged() -> None:
    machine = ready()
    for _ in range(100):
        now = machine.next_timer()
        machine.report_calls(0)
        machine.handle_timer(now)
        assert machine.next_timer() > now
    assert machine.take_effects() == []


def test_a_busy_worker_that_answers_pings_lives() -> None:
    machine = ready()
    pings = 0
    for _ in range(100):
        now = machine.next_timer()
        machine.report_calls(1)
        machine.handle_timer(now)
        for effect in machine.take_effects():
            assert isinstance(effect, PingWorker)
            pings += 1
            machine.worker_pong(effect.token, now + 0.001)
    assert pings >= 99
    assert machine.state is State.READY


def ping(machine: MissionWorker) -> tuple[float, int]:
    now = machine.next_timer()
    machine.report_calls(1)
    machine.handle_timer(now)
    (effect,) = machine.take_effects()
    assert isinstance(effect, PingWorker)
    return now, effect.token


def test_a_stuck_worker_is_killed_and_its_callers_told() -> None:
    machine = ready()
    pinged_at, token = ping(machine)
    machine.worker_pong(token + 1, pinged_at)  # not ours
    while machine.state is State.READY:
        now = machine.next_timer()
        assert now <= pinged_at + SPEC.stuck_s
        machine.handle_timer(now)
    assert now == pinged_at + SPEC.stuck_s
    withdraw, kill = machine.take_effects()
    assert isinstance(withdraw, Withdraw)
    assert isinstance(withdraw.open_error, RemoteError)
    assert withdraw.open_error.kind == "mission_stuck"
    assert 'where="thread"' in withdraw.open_error.message
    assert kill == KillWorker()
    assert machine.next_timer() == inf
    machine.worker_exit(-9, now)
    assert withdrawn(machine)[0].kind == "mission_stuck"
    assert machine.state is State.BACKOFF
    assert machine.statistics() == Statistics(start_count=1, crash_count=0, stuck_count=1)
    machine.handle_timer(machine.next_timer())
    machine.worker_exit(1, 99.0)
    machine.take_effects()
    assert machine.statistics().crash_count == 1  # the next end is a crash again


def test_a_sign_of_life_in_a_long_batch_gives_more_time_but_not_for_ever() -> None:
    machine = ready()
    pinged_at, token = ping(machine)
    machine.worker_pong(0, pinged_at + 9.0)
    machine.handle_timer(pinged_at + SPEC.stuck_s)
    assert machine.state is State.READY
    machine.worker_pong(token, pinged_at + 18.0)
    machine.handle_timer(pinged_at + 19.0 + SPEC.stuck_s)
    assert machine.state is State.READY


def test_a_worker_that_does_not_finish_loading_is_killed() -> None:
    machine = started()
    assert machine.next_timer() == START_S
    machine.handle_timer(START_S)
    assert machine.take_effects()[-1] == KillWorker()
    machine.worker_hello(HELLO, START_S)  # crossed the kill
    assert machine.take_effects() == []
    assert machine.state is State.KILLING


def test_a_mission_that_does_not_load_is_not_tried_again() -> None:
    machine = started()
    problem = Problem(kind="file_wont_compile", file="a.py", line=3, message="no")
    machine.worker_hello(WorkerFailure((problem,)), 0.1)
    now_error, later_error = withdrawn(machine)
    assert later_error.kind == "file_wont_compile"
    assert "a.py:3" in later_error.message
    assert now_error is later_error
    machine.worker_exit(78, 0.2)
    assert machine.take_effects() == []
    assert machine.state is State.REFUSED
    assert machine.next_timer() == inf


def test_stop_kills_once_and_forgets() -> None:
    machine = ready()
    machine.stop()
    assert machine.take_effects() == [KillWorker()]
    machine.worker_exit(-9, 1.0)
    assert machine.take_effects() == []
    assert machine.next_timer() == inf


def test_labels_and_the_starting_error() -> None:
    assert MissionSpec(name="", modules=("/a/kitchen.py",)).label == "kitchen"
    assert SPEC.label == "kvs"
    assert starting_error("kvs").kind == "mission_backoff"


def test_how_long_a_worker_owes_an_answer() -> None:
    machine = ready()
    assert machine.silent_s(5.0) == 0.0
    pinged_at, token = ping(machine)
    assert machine.silent_s(pinged_at + 3.0) == 3.0
    machine.worker_pong(token, pinged_at + 4.0)
    assert machine.silent_s(pinged_at + 5.0) == 0.0
