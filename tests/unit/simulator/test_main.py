"""The simulator's command line: what it prints, and its exit code when an invariant breaks."""

from __future__ import annotations

import pytest

from drupelet.simulator import main as simulator_main
from drupelet.simulator.ledger import InvariantError


def test_one_seed_prints_a_line_with_its_hash(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulator_main.main(["--seed", "17", "--nodes", "2", "--steps", "2"]) == 0
    first = capsys.readouterr().out
    assert "17" in first
    assert simulator_main.main(["--seed", "17", "--nodes", "2", "--steps", "2"]) == 0
    second = capsys.readouterr().out
    hashes = [[word for word in text.split() if "hash" in word] for text in (first, second)]
    assert hashes[0] == hashes[1] != []


def test_a_broken_invariant_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> object:
        raise InvariantError("two links to one node")

    monkeypatch.setattr(simulator_main.Simulation, "run", broken)
    assert simulator_main.main(["--seed", "3", "--nodes", "2", "--steps", "2"]) == 1
    assert "two links to one node" in "".join(capsys.readouterr())


def test_wrong_numbers_are_a_usage_error() -> None:
    with pytest.raises(SystemExit) as caught:
        simulator_main.main(["--nodes", "1"])
    assert caught.value.code == 2
