"""Many runs of `process_world`: what was checked, what fired, which seeds failed.

    make sim SEED=1 ARGS='--seeds 10000'
    python -m tests.sim.process_seeds --seed 7 --stop             one seed, with its traceback
    python -m tests.sim.process_seeds --seeds 10000 --save FILE   goes on where it was interrupted

Exit code 0: all were good, each of DESIGN 6's semantics was checked, and each fault really fired
(of the last two only from ENOUGH seeds on).
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.sim import seeds
from tests.sim.process_ledger import OTHERS, SEMANTICS
from tests.sim.process_world import EFFECTS, FAULTS, Result, World

WANTED = {"checks": (*SEMANTICS, *OTHERS), "faults": FAULTS, "effects": EFFECTS}


def play(seed: int) -> Result:
    """One run."""
    return World(seed).run()


class Totals(seeds.Totals):
    """Sums over runs."""

    def __init__(self, saved: Path | None = None) -> None:
        super().__init__(play, WANTED, saved)


def main(arguments: list[str] | None = None) -> int:
    """Run seeds; print what was checked and what fired."""
    return seeds.main("python -m tests.sim.process_seeds", Totals, arguments)


if __name__ == "__main__":
    sys.exit(main())
