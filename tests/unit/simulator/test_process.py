"""simulator/process.py drives the real machines: two of them meet, talk, stop and part."""

from __future__ import annotations

from collections import Counter
from random import Random

from drupelet.core.candidates import Candidate
from drupelet.simulator.ledger import Ledger
from drupelet.simulator.network import Network
from drupelet.simulator.process import CALL_S, CALLS_MAX, Identity, Machines, Process
from drupelet.simulator.scheduler import Scheduler

PORT = 4370


class Bed:
    """Alice, who knows Bob's address, and Bob."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.ledger = Ledger()
        self.network = Network(self.scheduler, Random(17), Counter())
        self.alice = self.start("alice", b"a" * 32, 1)
        self.bob = self.start("bob", b"b" * 32, 2)
        candidate = Candidate(source="static", host="bob", port=PORT, name="bob", key_prefix="")
        self.alice.post(lambda: self.alice.hint(candidate))
        self.pass_time(1.0)

    def start(self, name: str, key: bytes, incarnation: int) -> Process:
        process = Process(
            Identity(name=name, key=key),
            name,
            PORT,
            incarnation,
            scheduler=self.scheduler,
            network=self.network,
            ledger=self.ledger,
            random=Random(incarnation),
            machines=Machines(),
        )
        self.network.plug(name, [])
        self.network.listen(process, PORT)
        return process

    def pass_time(self, span_s: float) -> None:
        self.scheduler.run_until(self.scheduler.now + span_s)

    def linked(self) -> tuple[int, int]:
        return len(self.alice.links), len(self.bob.links)


def test_they_meet_and_call_both_ways() -> None:
    bed = Bed()
    assert bed.linked() == (1, 1)
    bed.alice.call(1, "bob", 0.0)
    bed.bob.call(2, "alice", 0.0)
    bed.pass_time(1.0)
    assert [record.outcomes for record in bed.ledger.calls.values()] == [["value"]] * 2


def test_a_call_without_an_answer_times_out_and_may_have_run() -> None:
    bed = Bed()
    bed.alice.call(1, "bob", CALL_S + 1.0)
    bed.pass_time(CALL_S + 2.0)
    record = bed.ledger.calls[1]
    assert (record.outcomes, record.runs) == (["timeout"], 1)


def test_calls_at_the_maximum_and_one_above() -> None:
    bed = Bed()
    for token in range(CALLS_MAX + 1):
        bed.alice.call(token, "bob", 0.0)
    assert bed.ledger.calls[CALLS_MAX].outcomes == ["overloaded"]
    assert bed.ledger.calls[CALLS_MAX - 1].outcomes == []


def test_a_stopped_process_is_declared_dead_and_told_when_it_goes_on() -> None:
    bed = Bed()
    bed.bob.stop()
    bed.pass_time(6.0)
    assert bed.linked() == (0, 1)
    bed.bob.resume()
    bed.pass_time(5.0)
    assert bed.linked() == (1, 1)
    assert bed.ledger.told == 1
    assert bed.ledger.untold == {}


def test_a_short_stop_costs_nothing() -> None:
    bed = Bed()
    bed.bob.stop()
    bed.pass_time(3.0)
    bed.bob.resume()
    bed.pass_time(5.0)
    assert bed.linked() == (1, 1)
    assert bed.ledger.downs == 0


def test_each_start_has_its_own_clock() -> None:
    bed = Bed()
    assert abs(bed.alice.now - bed.bob.now) > 0.1
    assert bed.alice.now < 60.0
