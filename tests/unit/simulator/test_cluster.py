"""simulator/cluster.py: a quiet run, and checks that can fail. Whole seeds: tests/sim."""

from __future__ import annotations

import pytest

from drupelet.simulator.cluster import Simulation
from drupelet.simulator.ledger import InvariantError


def test_a_run_without_faults_is_whole_and_loses_nothing() -> None:
    for seed in (1, 2, 3):
        result = Simulation(seed, nodes=3, steps=0).run()
        assert (result.ups, result.downs, result.told) == (6, 0, 0)
        assert set(result.outcomes) <= {"value", "timeout"}  # some work longer than the deadline
        assert not {"kill", "stop", "partition"} & set(result.fired)


def test_a_failure_names_its_seed_and_the_end_of_the_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Simulation, "_mesh_fault", lambda self: "torn")
    with pytest.raises(InvariantError, match=r"seed 5 at [\d.]+ s: torn\n(.*\n)*.* NodeUp "):
        Simulation(5, nodes=2, steps=0).run()
