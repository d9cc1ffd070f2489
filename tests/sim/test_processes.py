"""DESIGN 6's semantics of processes, in simulated clusters where things break.

Good machines pass every seed, each broken one is found out, and each fault really did something.
`process_seeds` runs thousands; here are as many as `make test` has time for.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim import stranger_seeds
from tests.sim.process_ledger import OTHERS, SEMANTICS, BrokenRule
from tests.sim.process_mutants import MUTANTS
from tests.sim.process_seeds import Totals, main
from tests.sim.process_world import EFFECTS, FAULTS, World

REPOSITORY = Path(__file__).parents[2]
SEEDS = range(1, 251)
MUTANT_SEEDS = 400  # each broken machine is to be found within so many


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Processes crash here on purpose, and are abandoned."""
    logger = logging.getLogger("drupelet.process")
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def totals() -> Totals:
    logging.getLogger("drupelet.process").setLevel(logging.ERROR)
    totals = Totals()
    for seed in SEEDS:
        totals.run(seed)
    return totals


def test_every_seed_keeps_every_rule(totals: Totals) -> None:
    assert totals.done == len(SEEDS)
    assert not totals.failed


@pytest.mark.parametrize("semantic", [*SEMANTICS, *OTHERS])
def test_every_semantic_was_really_checked(totals: Totals, semantic: str) -> None:
    assert totals.counts["checks"][semantic] >= 15
    assert totals.counts["runs"][semantic] >= 10


def test_every_fault_really_did_something(totals: Totals) -> None:
    for fault in FAULTS:
        assert totals.counts["faults"][fault] >= 10, fault
    for effect in EFFECTS:
        assert totals.counts["effects"][effect] >= 3, effect
    for outcome in ("NameTaken", "NoConnection", "ProcessDown", "Timeout", "RemoteError"):
        assert totals.counts["outcomes"][outcome] >= 3, outcome


def test_the_same_seed_is_the_same_run() -> None:
    hashes = {World(seed).run().trace_hash for seed in (17, 17, 18, 18, 19, 19)}
    assert len(hashes) == 3


def test_the_same_seed_is_the_same_run_in_another_program() -> None:
    """Where sets of names have another order. 22, 61, 63: those in which that once mattered."""
    program = (
        "import logging; logging.disable(); from tests.sim.process_world import World\n"
        "for seed in (22, 61, 63, 100, 101): print(World(seed).run().trace_hash)"
    )
    shown = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", program]
        run = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=50
        )
        assert run.returncode == 0, run.stderr
        shown.append(run.stdout.split())
    assert len(set(shown[0])) == 5
    assert shown[0] == shown[1]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_machine_is_found_out(name: str) -> None:
    mutant = MUTANTS[name]
    others: Counter[str] = Counter()
    for seed in range(1, MUTANT_SEEDS):
        try:
            World(seed, mutant.machines).run()
        except BrokenRule as error:
            semantic = str(error).split(": ")[1]
            if semantic in mutant.found_as:
                return
            others[semantic] += 1
        except ExceptionGroup:  # a machine noticed that its neighbour is broken
            others["raised"] += 1
    pytest.fail(f"{MUTANT_SEEDS} seeds found {dict(others)}")


def test_each_semantic_has_a_mutant() -> None:
    found_as = {semantic for mutant in MUTANTS.values() for semantic in mutant.found_as}
    assert found_as >= {*SEMANTICS, *OTHERS}


def test_the_command_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "totals"
    assert main(["--seed", "5", "--seeds", "3", "--save", str(file)]) == 0
    assert "3 seeds good, 0 failed" in capsys.readouterr().out
    assert main(["--seed", "5", "--seeds", "4", "--save", str(file)]) == 0
    assert "4 seeds good, 0 failed" in capsys.readouterr().out
    totals = Totals(file)
    assert totals.done == 4
    assert totals.counts["runs"]["pids"] == 4
    with pytest.raises(SystemExit, match="runs of tests.sim.process_seeds: name another file"):
        stranger_seeds.main(["--save", str(file)])


def test_the_command_tells_what_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: World) -> None:
        raise BrokenRule(f"seed {self.seed}: fifo: overtaken")

    monkeypatch.setattr(World, "run", broken)
    assert main(["--seed", "5", "--seeds", "2"]) == 1
    shown = capsys.readouterr().out
    assert "FAILED 5 BrokenRule seed 5: fifo: overtaken" in shown
    assert "0 seeds good, 2 failed: [5, 6]" in shown
    with pytest.raises(BrokenRule):
        main(["--seed", "5", "--stop"])
