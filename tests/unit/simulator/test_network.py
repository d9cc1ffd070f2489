"""simulator/network.py behaves as TCP and kernels do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from drupelet.simulator.network import CONNECT_S, End, Message, Network
from drupelet.simulator.scheduler import Scheduler

PORT = 4370


class Recorder:
    """A process that writes down what comes."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.messages: list[Message] = []
        self.ends: list[End] = []
        self.ended_count = 0

    def post(self, action: Callable[[], None]) -> None:
        action()

    def accepted(self, end: End) -> None:
        self.ends.append(end)

    def received(self, end: End, message: Message) -> None:
        self.messages.append(message)

    def ended(self, end: End) -> None:
        self.ended_count += 1


class Bed:
    """Alice and Bob on two hosts, and a connection."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.fired: Counter[str] = Counter()
        self.network = Network(self.scheduler, Random(17), self.fired)
        self.alice, self.bob = Recorder("a"), Recorder("b")
        for process in (self.alice, self.bob):
            self.network.plug(process.host, [f"alias-{process.host}"])
            self.network.listen(process, PORT)
        self.answers: list[tuple[End | None, str, float]] = []

    def dial(self, address: str = "b", port: int = PORT) -> None:
        self.network.dial(
            self.alice,
            address,
            port,
            lambda end, reason: self.answers.append((end, reason, self.scheduler.now)),
        )

    def connect(self) -> End:
        self.dial()
        self.pass_time(0.1)
        end = self.answers[-1][0]
        assert end is not None
        return end

    def pass_time(self, span_s: float) -> None:
        self.scheduler.run_until(self.scheduler.now + span_s)


@pytest.fixture
def bed() -> Bed:
    return Bed()


def test_ordered_and_complete(bed: Bed) -> None:
    end = bed.connect()
    for number in range(100):
        bed.network.send(end, (number,))
    bed.network.close(end)
    bed.pass_time(1.0)
    assert bed.bob.messages == [(number,) for number in range(100)]
    assert bed.bob.ended_count == 1


def test_a_cut_stalls_one_direction_and_loses_nothing(bed: Bed) -> None:
    end = bed.connect()
    bed.network.cut("a", "b")
    for number in range(3):
        bed.network.send(end, (number,))
    bed.network.send(bed.bob.ends[0], ("back",))
    bed.pass_time(10.0)
    assert bed.bob.messages == []
    assert bed.alice.messages == [("back",)]
    assert bed.fired["stalled"] > 0
    bed.network.heal("a", "b")
    bed.pass_time(1.0)
    assert bed.bob.messages == [(0,), (1,), (2,)]
    assert bed.network.disturbed("a", "b", 5.0)
    assert not bed.network.disturbed("a", "b", 10.2)


@pytest.mark.parametrize(("source", "target"), [("a", "b"), ("b", "a")])
def test_a_dial_over_a_cut_gets_no_answer(bed: Bed, source: str, target: str) -> None:
    bed.network.cut(source, target)
    bed.dial()
    bed.pass_time(5.0)
    assert [answer[1:] for answer in bed.answers] == [("no_route", CONNECT_S)]


def test_a_dial_to_nobody(bed: Bed) -> None:
    bed.dial("nowhere")
    bed.dial("alias-b", PORT + 1)
    bed.dial("alias-b")
    bed.pass_time(5.0)
    assert [answer[1] for answer in bed.answers] == ["port_closed", "", "no_route"]


def test_a_killed_process_ends_its_connections(bed: Bed) -> None:
    bed.connect()
    bed.network.process_gone(bed.bob, PORT, dark=False)
    bed.pass_time(0.1)
    assert bed.alice.ended_count == 1
    bed.dial()
    bed.pass_time(0.1)
    assert bed.answers[-1][1] == "port_closed"


def test_a_dark_host_says_nothing_until_it_is_back(bed: Bed) -> None:
    end = bed.connect()
    bed.network.process_gone(bed.bob, PORT, dark=True)
    bed.network.send(end, ("anybody?",))
    bed.pass_time(10.0)
    assert bed.alice.ended_count == 0
    bed.network.power("b")
    bed.pass_time(2.0)
    assert bed.alice.ended_count == 1
    assert bed.fired["reset"] == 1


def test_a_connection_broken_at_one_end_is_reset_by_the_next_message(bed: Bed) -> None:
    end = bed.connect()
    assert bed.network.break_one(Random(1), both=False)
    told, other = (bed.alice, bed.bob) if bed.alice.ended_count else (bed.bob, bed.alice)
    assert (told.ended_count, other.ended_count) == (1, 0)
    bed.network.send(end if other is bed.alice else bed.bob.ends[0], ("x",))
    bed.pass_time(1.0)
    assert other.ended_count == 1
    assert not bed.network.break_one(Random(1), both=True)


def test_datagrams_are_lost_doubled_and_overtaken(bed: Bed) -> None:
    came: list[int] = []
    for number in range(300):
        bed.network.datagram("a", bed.bob, lambda n=number: came.append(n))
    bed.pass_time(10.0)
    for kind in ("lost", "doubled", "overtaken"):
        assert bed.fired[f"datagram_{kind}"] > 0
    assert len(set(came)) == 300 - bed.fired["datagram_lost"]
    assert len(came) == len(set(came)) + bed.fired["datagram_doubled"]
    assert came != sorted(came)
